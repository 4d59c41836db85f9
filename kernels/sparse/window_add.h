/* window_add.h - gathers whole-batch gradients of candidates over a window of steps.
 *
 *   s = g[i] / count        sum[i] += s        square[i] += s^2
 *
 * and g[i] = 0 afterwards where `zero` is set. g is a sum over count rows; with count 0 s is 0.
 *
 * Shapes     g, sum, square f32 [n]; count [1].
 * Precision  fp32 (the twin in double, rounded once).
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
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float *g;           /* i/o [n] sums over rows */
    const float *count; /* in  [1] rows; NULL: 1 */
    float *sum;         /* i/o [n] */
    float *square;      /* i/o [n]; NULL: none */
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
