/* score_merge.h - running scores of the best blocks of a matrix: new scores join old candidates.
 *
 *   f[ids[i]] += acc[i]              for every i with ids[i] >= 0
 *   ids, acc = the cap blocks with the largest f, ids ascending, and their f
 *
 * f holds the scores of one batch on entry; ids and acc the candidates so far (-1 and 0 where there
 * is none yet). With cap = blocks nothing is ever dropped and acc is the exact sum; with fewer a
 * block that drops out loses what it had gathered. Which blocks are the best, ties and NaN:
 * kernels/reduce/topk.h.
 *
 * Shapes     f [blocks] f32; ids [cap] int32, each block at most once; acc [cap] f32.
 * Precision  one fp32 addition a candidate.
 * Limits     1 <= cap <= blocks < 2^31.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads.
 * CUDA       ids are not checked against blocks: a promise.
 * Errors     HN_ERR_ARG (CPU: also an id of `blocks` or more), HN_ERR_SHAPE, before the first
 *            write.
 */
#ifndef HN_SCORE_MERGE_H
#define HN_SCORE_MERGE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float *f;     /* i/o [blocks] scores of one batch, then with what candidates had gathered */
    int32_t *ids; /* i/o [cap] candidates; -1: none */
    float *acc;   /* i/o [cap] what they have gathered */
    int64_t blocks, cap;
} hn_score_merge_args;

HN_NODISCARD hn_status hn_score_merge_check(const hn_score_merge_args *a);
HN_NODISCARD hn_status hn_score_merge_cpu(const hn_score_merge_args *a);
HN_NODISCARD hn_status hn_score_merge_fast(const hn_score_merge_args *a);
/* scratch: that many bytes, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_score_merge_cuda_scratch(const hn_score_merge_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_score_merge_cuda(const hn_score_merge_args *a,
                                                            void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
