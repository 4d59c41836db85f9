/* block_dw.h - the weight gradient of a linear layer, of chosen blocks only.
 *
 *   grad[block b](i, j) += alpha * sum_t dy[t, row of b + i] x[t, column of b + j]
 *
 * for the blocks in the span of the matrix (kernels/sparse/sparse_pool.h): what linear_dw adds to
 * these elements, and nothing else is computed that would have to be kept.
 *
 * Shapes     dy [rows, out]; x [rows, in]; rows lie ld_* elements apart. span, block, tile_first
 *            and grad as sparse_pool.h says; grad is the pool's, of `values` values.
 * Precision  dy and x both f32 or both bf16; grad f32; fp32 arithmetic and sums.
 * Limits     rows, out, in 1 to 2^31 - 1; any width and alignment; no replicas.
 * Aliasing   none.
 * Repeats    bit for bit on one machine: the sums run in a fixed order, no atomics; fast: also
 *            for any number of threads. The bits of a block may depend on which other blocks are
 *            chosen: a tile with many blocks is one product.
 * CUDA       span, block and tile_first are read when the kernels run and are not checked: ids of
 *            the matrix in the order of the span are a promise. A span of more than `capacity`
 *            blocks counts as one of `capacity`. Squares of 1 and 4 in bf16, out, in, ld_dy and
 *            ld_x multiples of 8: chosen tile by tile on the device. Tiles with more than 328
 *            blocks (61 of 4 x 4) are a product each, which only the chosen values leave; blocks of
 *            the others are multiplied one by one; nothing is done for empty tiles. The whole
 *            gradient is taken where all that would take longer. Widths of multiples of 4: without
 *            products of tiles. Larger squares: by the count. Where the whole gradient may be
 *            needed it is enqueued as well: in a captured graph the choice is made when it runs;
 *            outside of one the whole gradient is computed too, and not used if it is not needed. A
 *            matrix whose capacity is few blocks has no whole gradient; one where even a quarter of
 *            the capacity is too many, the whole gradient alone.
 * Errors     HN_ERR_ARG (CPU: also a span or an id out of range), HN_ERR_SHAPE,
 *            HN_ERR_UNSUPPORTED (dtype; CUDA: a way that does not take these arguments), before
 *            the first write.
 */
#ifndef HN_BLOCK_DW_H
#define HN_BLOCK_DW_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/linear/gemm_cuda.h"
#include "kernels/sparse/sparse_pool.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How CUDA finds squares of 1 and 4. All but BEST are for measuring and testing: BLOCKS and TILES
 * take bf16 as above alone. */
typedef enum {
    HN_BLOCK_DW_BEST,   /* by the counts */
    HN_BLOCK_DW_BLOCKS, /* every block by itself */
    HN_BLOCK_DW_TILES,  /* every tile that has a block as a product */
    HN_BLOCK_DW_WHOLE,  /* the whole gradient, of any shape */
} hn_block_dw_way;

typedef struct {
    const void *dy;             /* in     [rows, out] */
    const void *x;              /* in     [rows, in] */
    const hn_sparse_span *span; /* in     of this matrix */
    const int32_t *block;       /* in     [blocks] ids, the pool's */
    const int32_t *tile_first;  /* in     [hn_sparse_tiles + 1] for tiled shapes; else NULL */
    float *grad;                /* in/out [values] the pool's */
    int64_t rows, in, out;
    int64_t ld_dy, ld_x;
    hn_block_shape shape;
    int64_t capacity;       /* blocks that the span may have, at least 1 */
    int64_t blocks, values; /* of the pool */
    hn_dtype dtype;         /* of dy and x */
    float alpha;            /* 0: not given, 1 */
    hn_block_dw_way way;    /* the CPU's is the best */
} hn_block_dw_args;

HN_NODISCARD hn_status hn_block_dw_check(const hn_block_dw_args *a);
HN_NODISCARD hn_status hn_block_dw_cpu(const hn_block_dw_args *a);
/* scratch: hn_block_dw_fast_scratch bytes, 64-byte aligned; may be NULL when that is 0. */
size_t hn_block_dw_fast_scratch(const hn_block_dw_args *a);
HN_NODISCARD hn_status hn_block_dw_fast(const hn_block_dw_args *a, void *scratch);
/* scratch: that many bytes, 64-byte aligned; it depends on shapes and capacity alone. */
HN_CUDA_FUNCTION size_t hn_block_dw_cuda_scratch(const hn_block_dw_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_block_dw_cuda(const hn_block_dw_args *a,
                                                         hn_gemm_cuda *gemm, void *scratch,
                                                         hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
