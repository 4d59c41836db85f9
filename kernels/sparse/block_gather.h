/* block_gather.h - chosen blocks of a dense gradient, added into the pool.
 *
 *   grad[block b](i, j) += alpha * dw[row of b + i, column of b + j]
 *
 * for the blocks in the span of the matrix (kernels/sparse/sparse_pool.h): block_dw where the
 * dense gradient is there anyhow (convolutions).
 *
 * Shapes     dw [out, in], rows ld_dw elements apart; span, block and grad as sparse_pool.h says.
 * Precision  f32; one multiply-add a value.
 * Limits     out, in 1 to 2^31 - 1; any width and alignment; no replicas.
 * Aliasing   none.
 * Repeats    bit for bit; no sums.
 * CUDA       as block_dw.h.
 * Errors     HN_ERR_ARG (CPU: also a span or an id out of range), HN_ERR_SHAPE, before the first
 *            write.
 */
#ifndef HN_BLOCK_GATHER_H
#define HN_BLOCK_GATHER_H

#include <stdint.h>

#include "kernels/sparse/sparse_pool.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *dw;            /* in     [out, in] */
    const hn_sparse_span *span; /* in     of this matrix */
    const int32_t *block;       /* in     [blocks] ids, the pool's */
    float *grad;                /* in/out [values] the pool's */
    int64_t out, in, ld_dw;
    hn_block_shape shape;
    int64_t capacity;       /* blocks that the span may have, at least 1 */
    int64_t blocks, values; /* of the pool */
    float alpha;            /* 0: not given, 1 */
} hn_block_gather_args;

HN_NODISCARD hn_status hn_block_gather_check(const hn_block_gather_args *a);
HN_NODISCARD hn_status hn_block_gather_cpu(const hn_block_gather_args *a);
HN_NODISCARD hn_status hn_block_gather_fast(const hn_block_gather_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_block_gather_cuda(const hn_block_gather_args *a,
                                                             hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
