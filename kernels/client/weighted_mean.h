/* weighted_mean.h - the weighted sum of many clients' values, the same bits everywhere.
 *
 *   out[i] = round(sum_g weight[g] x[g,i])                without base
 *   out[i] = round(base[i] + sum_g weight[g] (x[g,i] - base[i]))
 *
 * g ascending from 0, every product, difference and sum rounded to double once, then to fp32. The
 * weights are the caller's: n_k / n for the mean of McMahan et al. (2017).
 *
 * Shapes     x [clients][n], clients `stride` elements apart; base, out [n]; weight [clients].
 * Precision  x, base, out fp32, weights and sums double.
 * Limits     clients, n >= 1; any alignment.
 * Aliasing   out may be base.
 * Repeats    bit for bit everywhere: twin, fast, CUDA, any number of threads, any cut of the n.
 * Cost       one read of x.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_WEIGHTED_MEAN_H
#define HN_WEIGHTED_MEAN_H
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *x;       /* in  [clients][n] */
    const double *weight; /* in  [clients] */
    const float *base;    /* in  [n]; NULL: without */
    float *out;           /* out [n] */
    int64_t clients, n;
    int64_t stride; /* at least n */
} hn_weighted_mean_args;

HN_NODISCARD hn_status hn_weighted_mean_check(const hn_weighted_mean_args *a);
HN_NODISCARD hn_status hn_weighted_mean_cpu(const hn_weighted_mean_args *a);
HN_NODISCARD hn_status hn_weighted_mean_fast(const hn_weighted_mean_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_weighted_mean_cuda(const hn_weighted_mean_args *a,
                                                              hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
