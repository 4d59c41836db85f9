/* regression.h - mean squared error of groups of rows; the gradient is made in forward.
 *
 * The rows fall into `groups` equal runs of n = rows / groups (the tokens of one point of one
 * trajectory). For the trained groups (labels[e] is not HN_LABEL_IGNORED):
 *
 *   loss[e] = 1 / (n cols) * sum over the rows i of e and the columns j of (y[i,j] - target[i,j])^2
 *   dy[i,j] = 2 / (n cols) * (y[i,j] - target[i,j])
 *
 *   loss_sum += sum_e loss[e]     count += number of trained groups
 *
 * loss[e] is torch.nn.functional.mse_loss(y[e], target[e]). Groups that are ignored have dy 0.
 * Gradients are those of the sum: the division by the trained groups of the whole optimizer step
 * happens in clipping and update.
 *
 * Shapes     y, target, dy [rows, cols], rows ld_... elements apart; labels, group_loss [groups];
 *            loss_sum, count [1].
 * Precision  y and dy f32 or bf16; target f32 or the dtype of y; differences fp32, squares summed
 *            in fp32 within a piece of a row (the twin in double), pieces and groups in double;
 *            loss_sum gets one rounding. count is exact up to 2^24.
 * CUDA       the same, sums in another order.
 * Limits     rows, cols below 2^31; any width and alignment.
 * Aliasing   dy may be y with the same leading dimension; no other overlap.
 * Repeats    bit for bit, for any number of threads.
 * Cost       one read of y and target, one write of dy.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write.
 */
#ifndef HN_REGRESSION_H
#define HN_REGRESSION_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/label.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *y;         /* in  [rows, cols] */
    const void *target;    /* in  [rows, cols] */
    const int32_t *labels; /* in  [groups] only HN_LABEL_IGNORED matters; NULL: all count */
    float *loss_sum;       /* i/o [1] */
    float *count;          /* i/o [1] */
    void *dy;              /* out [rows, cols]; NULL: not wanted */
    float *group_loss;     /* out [groups], 0 where ignored; NULL: not wanted */
    int64_t rows, cols, groups;
    int64_t ld_y, ld_target, ld_dy;
    hn_dtype dtype, target_dtype; /* of y and dy; of target */
} hn_regression_args;

HN_NODISCARD hn_status hn_regression_check(const hn_regression_args *a);
HN_NODISCARD hn_status hn_regression_cpu(const hn_regression_args *a);

/* scratch: that many bytes, 64-byte aligned; the count reads shapes only. */
size_t hn_regression_scratch(const hn_regression_args *a);
HN_NODISCARD hn_status hn_regression_fast(const hn_regression_args *a, void *scratch);
/* Device pointers; as much scratch. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_regression_cuda(const hn_regression_args *a,
                                                           void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
