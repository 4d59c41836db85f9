/* block_store.h - the chosen blocks of a matrix: written from the pool, kept in it, restored.
 *
 *   store     w[block b](i, j) = round(frozen[b](i, j) + delta[b](i, j))
 *   keep      frozen[b](i, j) = w[block b](i, j)
 *   restore   w[block b](i, j) = frozen[b](i, j)
 *
 * for the blocks in the span of the matrix (kernels/sparse/sparse_pool.h). The rest of w is left
 * alone: keep, any number of updates with store, and restore give w back bit for bit.
 *
 * Shapes     w [out, in], rows ld_w elements apart; span, block, delta and frozen as sparse_pool.h
 *            says.
 * Precision  w and frozen of one dtype, f32 or bf16; the sum in fp32, one rounding at the store.
 *            Which NaN a sum with a NaN gives differs between CPU and CUDA; keep and restore copy.
 * Limits     out, in 1 to 2^31 - 1; a block of at most 2^30 values; any alignment; no replicas.
 * Aliasing   none.
 * Repeats    bit for bit; no sums.
 * Cost       an element of a sparse block costs a sector of 32 bytes read and one written.
 * CUDA       span and ids are not checked: a promise of whoever makes selections. Any number of
 *            matrices at a time, HN_BLOCK_STORE_MANY of them a launch.
 * Errors     HN_ERR_ARG (CPU: also a span or an id out of range), HN_ERR_SHAPE,
 *            HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_BLOCK_STORE_H
#define HN_BLOCK_STORE_H

#include <stdint.h>

#include "kernels/sparse/sparse_pool.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    void *w;                    /* i/o [out, in] */
    const hn_sparse_span *span; /* in  of this matrix */
    const int32_t *block;       /* in  [blocks] ids, the pool's */
    const float *delta;         /* in  [values] the pool's; NULL for keep and restore */
    void *frozen;               /* in  [values] the pool's; out of keep */
    int64_t out, in, ld_w;
    hn_block_shape shape;
    int64_t capacity;       /* blocks that the span may have, at least 1 */
    int64_t blocks, values; /* of the pool */
    hn_dtype dtype;         /* of w and frozen */
} hn_block_store_args;

/* Without delta, as for keep and restore, which need none. */
HN_NODISCARD hn_status hn_block_store_check(const hn_block_store_args *a);

HN_NODISCARD hn_status hn_block_store_cpu(const hn_block_store_args *a);
HN_NODISCARD hn_status hn_block_store_fast(const hn_block_store_args *a);
HN_NODISCARD hn_status hn_block_keep_cpu(const hn_block_store_args *a);
HN_NODISCARD hn_status hn_block_restore_cpu(const hn_block_store_args *a);

/* n matrices, each with its own args; those of one pool and dtype whose spans follow each other
 * share launches. */
enum { HN_BLOCK_STORE_MANY = 256 };
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_block_store_cuda(const hn_block_store_args *a, int64_t n,
                                                            hn_stream stream);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_block_keep_cuda(const hn_block_store_args *a, int64_t n,
                                                           hn_stream stream);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_block_restore_cuda(const hn_block_store_args *a,
                                                              int64_t n, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
