/* window_add.h - gathers whole-batch gradients of candidates over a window of steps.
 *
 *   s = g[i] * step->grad_scale        sum[i] += s        square[i] += s^2
 *
 * and g[i] = 0 afterwards where `zero` is set. g is a sum over rows; grad_norm (grad_norm.h), which
 * comes before, has made of it the mean gradient that the update of this step sees, clipped as that
 * is. With grad_scale 0 (gradient not finite, or no trained token) sums stay as they are; g is
 * zeroed all the same.
 *
 * Shapes     g, sum, square f32 [n]; one step block.
 * Precision  fp32 (the twin in double, rounded once). The step block is device memory for CUDA.
 * Limits     n >= 1; any alignment; no replicas.
 * Aliasing   none.
 * Repeats    bit for bit: element by element.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_WINDOW_ADD_H
#define HN_WINDOW_ADD_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/step_block.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float *g;                  /* i/o [n] sums over rows */
    const hn_step_block *step; /* in  [1] */
    float *sum;                /* i/o [n] */
    float *square;             /* i/o [n]; NULL: none */
    int64_t n;
    bool zero; /* g = 0 afterwards */
} hn_window_add_args;

HN_NODISCARD hn_status hn_window_add_check(const hn_window_add_args *a);
HN_NODISCARD hn_status hn_window_add_cpu(const hn_window_add_args *a);
HN_NODISCARD hn_status hn_window_add_fast(const hn_window_add_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_window_add_cuda(const hn_window_add_args *a,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
