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
 *            blocks counts as one of `capacity`. The way is chosen by the capacity, where it must
 *            be by the count: a matrix whose capacity is few blocks has kernels for few blocks
 *            alone; one where even a quarter of the capacity is many, the whole gradient alone.
 *            Between, both are enqueued: in a captured graph the count chooses when it runs;
 *            outside of one the whole gradient is computed too, and not used if the blocks are few.
 * Errors     HN_ERR_ARG (CPU: also a span or an id out of range), HN_ERR_SHAPE,
 *            HN_ERR_UNSUPPORTED (dtype), before the first write.
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
