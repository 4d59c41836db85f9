/* topk.h - the k largest of n scores.
 *
 *   index = the k positions with the largest x, ascending        value[j] = x[index[j]]
 *
 * Of equal scores the lower position is taken first (0 and -0 are equal); NaN is smaller than
 * everything else, -Inf too.
 *
 * Shapes     x [n] f32; index [k] int32, value [k] f32.
 * Limits     1 <= n < 2^31, 0 <= k <= n; any alignment.
 * Aliasing   none.
 * Repeats    the result is unique: the same for any number of threads, on CPU and GPU.
 * Cost       CPU, fast: five reads of x. CUDA: radix selection by 14, 14 and 4 bits. Two reads of x
 *            and a little: the first counts by the upper 14 bits of order-preserving keys, the
 *            second sets aside, in order, what lies in the bin of the k-th or above; the rest works
 *            on that. Where the list has no room (more than n / 16 of x share the bin of the k-th,
 *            or k is above 7/16 of n): four reads. Scratch: 28 MB, half of x's bytes, 8 k bytes.
 *            Grids depend on n alone, nothing waits for the host.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_TOPK_H
#define HN_TOPK_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *x; /* in  [n] */
    int32_t *index; /* out [k] */
    float *value;   /* out [k]; NULL: not wanted */
    int64_t n, k;
} hn_topk_args;

HN_NODISCARD hn_status hn_topk_check(const hn_topk_args *a);
HN_NODISCARD hn_status hn_topk_cpu(const hn_topk_args *a);
HN_NODISCARD hn_status hn_topk_fast(const hn_topk_args *a); /* no scratch */
/* scratch: that many bytes, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_topk_cuda_scratch(const hn_topk_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_topk_cuda(const hn_topk_args *a, void *scratch,
                                                     hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
