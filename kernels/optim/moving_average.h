/* moving_average.h - an exponential moving average of trained values, one step of it.
 *
 *   s = step->step (from 1)      d = min(decay, (s - 1) / (s + 8))
 *   a[i] += (1 - d) (p[i] - a[i])
 *
 * a starts at 0, and the first step makes it equal to p. Until (s - 1) / (s + 8) is above `decay`
 * (s about 9 / (1 - decay)) the average reaches back over a tenth or so of the run, as in
 * TensorFlow's ExponentialMovingAverage with num_updates. Where the step's update was left out
 * (step->skipped or step->frozen not 0), a stays as it is. If that befalls the first steps, the
 * first done step is no s = 1 and the 0 that a started at has a share: (s - 1) / (s + 8) behind
 * that step s, which falls with the ninth power of the steps (s = 11: 0.53, at step 40 3e-5).
 * The step block is read when the operation runs.
 *
 * Shapes     a, p f32 [replicas][n], replicas `stride` elements apart in both. One step block, or
 *            one a replica.
 * Precision  fp32 (the twin in double, rounded once). The step block is device memory for CUDA.
 * Limits     n >= 1; any alignment; 0 <= decay < 1.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads: element by element.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_MOVING_AVERAGE_H
#define HN_MOVING_AVERAGE_H
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/step_block.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float *a;                  /* i/o [replicas][n] */
    const float *p;            /* in  [replicas][n] */
    const hn_step_block *step; /* in  [1] or [replicas] */
    int64_t n;
    int64_t replicas; /* 0: 1 */
    int64_t stride;
    int64_t step_stride; /* 1: a step block a replica; 0: one for all */
    float decay;
} hn_moving_average_args;

HN_NODISCARD hn_status hn_moving_average_check(const hn_moving_average_args *a);
HN_NODISCARD hn_status hn_moving_average_cpu(const hn_moving_average_args *a);
HN_NODISCARD hn_status hn_moving_average_fast(const hn_moving_average_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_moving_average_cuda(const hn_moving_average_args *a,
                                                               hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
