/* square_accumulate.h - gathers squares of gradients: the diagonal of the empirical Fisher.
 *
 *   f[i] = keep * f[i] + scale / count * grad[i]^2
 *
 * grad holds a sum over count rows: grad^2 / count is count times the square of the mean gradient,
 * the importance of a batch in Avalanche's EWC; scale is 1 / (rows of the data set) and keep the
 * decay of online EWC (Schwarz et al., 2018), 1 within a task. Without count: count = 1. With
 * count 0 or keep only, nothing is added. count is read when the operation runs.
 *
 * Shapes     f, grad f32 [replicas][n], replicas stride and grad_stride elements apart; count
 *            [replicas], count_stride apart, or one for all (0).
 * Precision  fp32 (the twin in double, rounded once).
 * Limits     n >= 1; any alignment.
 * Aliasing   none.
 * Repeats    bit for bit: element by element.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_SQUARE_ACCUMULATE_H
#define HN_SQUARE_ACCUMULATE_H
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float *f;           /* i/o [replicas][n] */
    const float *grad;  /* in  [replicas][n] sums over rows */
    const float *count; /* in  [replicas], or [1] for all: rows; NULL: 1 */
    int64_t n;
    int64_t replicas; /* 0: 1 */
    int64_t stride, grad_stride, count_stride;
    float keep, scale;
} hn_square_accumulate_args;

HN_NODISCARD hn_status hn_square_accumulate_check(const hn_square_accumulate_args *a);
HN_NODISCARD hn_status hn_square_accumulate_cpu(const hn_square_accumulate_args *a);
HN_NODISCARD hn_status hn_square_accumulate_fast(const hn_square_accumulate_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status
hn_square_accumulate_cuda(const hn_square_accumulate_args *a, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
