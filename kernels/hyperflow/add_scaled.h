/* add_scaled.h - a step of an integration, and the way from z back to parameters.
 *
 *   y[i,j] = a[i mod period, j] + w[i] * b[i,j]       w[i] = alpha * s[i mod period]  (no s: alpha)
 *   rounded[i,j] = round(y[i,j])                      (where it is wanted)
 *
 * Step        z' = z + h slope: period = rows, no s; the next slope is computed from `rounded`.
 * Parameters  theta = theta_0 + sigma z, token by token: a = theta_0 [tokens, width], s = sigma,
 *             period = tokens, rows = episodes times tokens.
 *
 * Shapes     a [period, cols], b, y, rounded [rows, cols], rows ld_* elements apart; s [period];
 *            rows is a multiple of period.
 * Precision  a, s, y f32; b f32 or bf16; rounded bf16. fp32: w is rounded, then product and sum, at
 *            once or one by one. Where b is 0, y is a, bit for bit.
 *
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment; alpha finite.
 *
 * Aliasing   y may be a where period is rows, and b where that is f32, with the same leading
 *            dimension; no other overlap.
 *
 * Repeats    bit for bit, for any number of threads.
 *
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write.
 */
#ifndef HN_ADD_SCALED_H
#define HN_ADD_SCALED_H
#include <stdint.h>

#include "runtime/base/bf16.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *a;   /* in  [period, cols] */
    const void *b;    /* in  [rows, cols] */
    const float *s;   /* in  [period]; NULL: 1 */
    float *y;         /* out [rows, cols] */
    hn_bf16 *rounded; /* out [rows, cols]; NULL: not wanted */
    int64_t rows, cols, period;
    int64_t ld_a, ld_b, ld_y, ld_rounded;
    hn_dtype b_dtype;
    float alpha;
} hn_add_scaled_args;

HN_NODISCARD hn_status hn_add_scaled_check(const hn_add_scaled_args *a);
HN_NODISCARD hn_status hn_add_scaled_cpu(const hn_add_scaled_args *a);
HN_NODISCARD hn_status hn_add_scaled_fast(const hn_add_scaled_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_add_scaled_cuda(const hn_add_scaled_args *a,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
