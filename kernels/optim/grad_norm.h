/* grad_norm.h - norm of the accumulated gradient, and the factor by which an update multiplies it.
 *
 *   norm = ||grad||_2 / count            count: trained tokens of the whole optimizer step
 *   clip = max_norm > 0 ? min(1, max_norm / (norm + 1e-6)) : 1
 *
 *   step->grad_norm = norm     step->grad_scale = clip / count     step->skipped = HN_STEP_DONE
 *   step->count = count, which an update clears with the gradient
 *
 * grad holds sums over tokens: dividing by count makes it the gradient of the mean loss, and
 * clip is that of torch.nn.utils.clip_grad_norm_ applied to it. When norm or count is not finite,
 * or count is negative, grad_scale = 0 and skipped = HN_STEP_NONFINITE; when count is 0,
 * grad_norm = 0, grad_scale = 0 and skipped = HN_STEP_EMPTY: the optimizers then change nothing.
 *
 * Shapes     grad [replicas][n] f32, replicas grad_stride elements apart; count [replicas], also
 *            count_stride apart (the count usually lies behind the gradient, in one range);
 *            step [replicas].
 * Precision  sums of squares and all factors in double, results rounded once.
 * Limits     n >= 1.
 * Aliasing   none. max_norm is read from the step block.
 * Repeats    bit for bit, for any number of threads (kernels/reduce/sum_squares.h); CUDA adds in
 *            another order, fixed as well.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write. A gradient that is not finite is not
 *            an error here: whoever runs the step reads step->skipped.
 */
#ifndef HN_GRAD_NORM_H
#define HN_GRAD_NORM_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/step_block.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *grad;   /* in  [replicas][n] */
    const float *count;  /* in  [replicas] */
    hn_step_block *step; /* i/o [replicas] */
    int64_t n;
    int64_t replicas; /* 0: 1 */
    int64_t grad_stride, count_stride;
} hn_grad_norm_args;

HN_NODISCARD hn_status hn_grad_norm_check(const hn_grad_norm_args *a);
HN_NODISCARD hn_status hn_grad_norm_cpu(const hn_grad_norm_args *a);
/* scratch: that many bytes, aligned for doubles. */
size_t hn_grad_norm_fast_scratch(const hn_grad_norm_args *a);
HN_NODISCARD hn_status hn_grad_norm_fast(const hn_grad_norm_args *a, void *scratch);
/* scratch: that many bytes, aligned for doubles. The step blocks are device memory. */
HN_CUDA_FUNCTION size_t hn_grad_norm_cuda_scratch(const hn_grad_norm_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_grad_norm_cuda(const hn_grad_norm_args *a, void *scratch,
                                                          hn_stream stream);

/* ---- in two parts, where every rank has a share of the gradient ---- */

/* sum[b] = sum of grad[i]^2 over block b of HN_SUM_BLOCK elements (kernels/reduce/sum_squares.h),
 * in double. grad [n], sum [hn_sum_squares_blocks(n)]; n >= 1. Errors as above. */
typedef struct {
    const float *grad; /* in  [n] */
    double *sum;       /* out [blocks] */
    int64_t n;
} hn_grad_sums_args;

HN_NODISCARD hn_status hn_grad_sums_check(const hn_grad_sums_args *a);
HN_NODISCARD hn_status hn_grad_sums_cpu(const hn_grad_sums_args *a);
HN_NODISCARD hn_status hn_grad_sums_fast(const hn_grad_sums_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_grad_sums_cuda(const hn_grad_sums_args *a,
                                                          hn_stream stream);

/* Norm, factor and all else that hn_grad_norm_... writes, from the sums of all shares in their
 * order. Where every share but the last is a multiple of HN_SUM_BLOCK elements, the bits are those
 * of hn_grad_norm_... on the whole: blocks of zeros behind it change none. No replicas. */
typedef struct {
    double *sum;         /* in  [blocks]; what it holds afterwards is not specified */
    const float *count;  /* in  [1] */
    hn_step_block *step; /* i/o [1] */
    int64_t blocks;      /* >= 1 */
} hn_grad_scale_args;

HN_NODISCARD hn_status hn_grad_scale_check(const hn_grad_scale_args *a);
HN_NODISCARD hn_status hn_grad_scale_cpu(const hn_grad_scale_args *a);
HN_NODISCARD hn_status hn_grad_scale_fast(const hn_grad_scale_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_grad_scale_cuda(const hn_grad_scale_args *a,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
