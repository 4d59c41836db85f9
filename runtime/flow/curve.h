/* curve.h - a smooth path through the knots of a trajectory.
 *
 * Knots theta_0 .. theta_K lie at the times k / K. Every curve here is linear in them:
 *
 *   theta(t) = sum_k w_k(t) theta_k        theta'(t) = sum_k w'_k(t) theta_k
 *
 * so a curve is its weights, which depend on t alone:
 *   L   w_0 = 1 - t, w_K = t
 *   PL  between t_k and t_{k+1}: w_k = k + 1 - t K, w_{k+1} = t K - k; at a knot the piece that
 *       begins there (at t = 1 the last one)
 *   C   natural cubic spline: second derivatives M_0 = M_K = 0 and, with h = 1 / K,
 *       M_{k-1} + 4 M_k + M_{k+1} = 6 / h^2 (theta_{k-1} - 2 theta_k + theta_{k+1}); the matrix is
 *       factored once, for the unit vectors (Stoer, Bulirsch, Numerical Mathematics, 2.4)
 * For all of them sum w = 1 and sum w' = 0. Double arithmetic.
 */
#ifndef HN_CURVE_H
#define HN_CURVE_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_CURVE_LINEAR, HN_CURVE_PIECEWISE, HN_CURVE_SPLINE, HN_CURVE_COUNT } hn_curve_kind;

const char *hn_curve_name(hn_curve_kind kind); /* "L", "PL", "C" */

typedef struct hn_curve hn_curve;

/* knots    K + 1, 2 to 1024
 * Errors   HN_ERR_ARG, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_curve_make(hn_curve_kind kind, int64_t knots, hn_curve **out);
void hn_curve_free(hn_curve *c); /* accepts NULL */
int64_t hn_curve_knots(const hn_curve *c);

/* Weights at time t: w and dw [knots]. HN_ERR_ARG unless t is in [0, 1]. */
HN_NODISCARD hn_status hn_curve_weights(const hn_curve *c, double t, double *w, double *dw);

/* The same rounded, as a row of kernels/hyperflow/curve_point.h: [w, w'], 2 knots numbers. */
HN_NODISCARD hn_status hn_curve_row(const hn_curve *c, double t, float *row);

#ifdef __cplusplus
}
#endif
#endif
