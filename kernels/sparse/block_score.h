/* block_score.h - how important the blocks of a matrix are, from one dense gradient.
 *
 *   HN_SCORE_SQUARE   f[b] = mean over block b of (dw / count)^2     (+ f[b])
 *   HN_SCORE_ABS      f[b] = mean over block b of |dw / count|       (+ f[b])
 *
 * where dw is a sum over count rows: squares of a whole batch's gradient are an estimate of the
 * diagonal of the Fisher information. Blocks as kernels/sparse/sparse_pool.h numbers them; with
 * accumulate the values are added to what f holds, else they replace it. With count 0 the mean
 * counts as 0.
 *
 * Shapes     dw f32 [out, in], rows ld_dw elements apart; f f32 [blocks of the matrix]; count [1].
 * Precision  fp32; sums of blocks in a fixed order (the twin in double, rounded once).
 * Limits     out, in 1 to 2^31 - 1; any alignment; no replicas.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads.
 * Cost       one read of dw.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_BLOCK_SCORE_H
#define HN_BLOCK_SCORE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/sparse/sparse_pool.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_SCORE_SQUARE, HN_SCORE_ABS, HN_SCORE_COUNT } hn_score_kind;

typedef struct {
    const float *dw;    /* in  [out, in] */
    const float *count; /* in  [1] rows that dw is a sum over; NULL: 1 */
    float *f;           /* i/o [hn_block_total] */
    int64_t out, in, ld_dw;
    hn_block_shape shape;
    hn_score_kind kind;
    bool accumulate;
} hn_block_score_args;

HN_NODISCARD hn_status hn_block_score_check(const hn_block_score_args *a);
HN_NODISCARD hn_status hn_block_score_cpu(const hn_block_score_args *a);
HN_NODISCARD hn_status hn_block_score_fast(const hn_block_score_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_block_score_cuda(const hn_block_score_args *a,
                                                            hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
