/* compress.h - which differences a client sends, and what it keeps for later.
 *
 *   meant    = (theta - base) + residual         fp32, two roundings
 *   sent     = the k elements of meant of largest magnitude, or meant rounded to bf16
 *   residual = meant - sent
 *
 * sent + residual is meant bit for bit: top-k because each element is in one of the two, bf16
 * because what rounding to 8 bits leaves of 24 fits in fp32. Among equal magnitudes the lower
 * index is sent. Only elements of role VALUE take part, counted through all such tensors
 * (hn_fed_tensor.value).
 *
 * Source  error feedback: Seide et al. 2014; Stich, Cordonnier and Jaggi 2018 (Sparsified SGD with
 *         memory); top-k: Aji and Heafield 2017
 */
#ifndef HN_FED_COMPRESS_H
#define HN_FED_COMPRESS_H
#include "runtime/fed/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* theta, base   in [n of the layout]
 * residual      NULL (zero), or in [values]
 * meant         out [values] */
void hn_fed_meant(const hn_fed_layout *l, const float *theta, const float *base,
                  const float *residual, float *meant);

/* The k elements of largest magnitude of x [n], finite, 1 <= k <= n < 2^31, in O(n).
 * id      out [k], ascending
 * value   out [k] */
void hn_fed_topk(const float *x, int64_t n, int64_t k, int32_t *id, float *value);

/* x [n] becomes x - sent: zero at the ids. */
void hn_fed_topk_residual(float *x, const int32_t *id, int64_t k);

/* x [n] -> bits [n], to nearest even, and residual [n] = x - that (may be x; NULL: not wanted). */
void hn_fed_round_bf16(const float *x, int64_t n, uint16_t *bits, float *residual);

#ifdef __cplusplus
}
#endif
#endif
