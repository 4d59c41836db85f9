#include "runtime/flow/curve.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"

enum { MOST_KNOTS = 1024 };

struct hn_curve {
    hn_curve_kind kind;
    int64_t knots;
    double
        *bend; /* C: [knots][knots], row k: second derivative at knot k, as weights of the knots */
};

const char *hn_curve_name(hn_curve_kind kind)
{
    static const char *const name[] = {"L", "PL", "C"};
    return (unsigned)kind < HN_CURVE_COUNT ? name[kind] : "?";
}

int64_t hn_curve_knots(const hn_curve *c) { return c->knots; }

void hn_curve_free(hn_curve *c)
{
    if (c == NULL) return;
    hn_free(c->bend);
    hn_free(c);
}

/* Rows 1 .. K - 1 of bend solve M_{k-1} + 4 M_k + M_{k+1} = d_k for all knots at once; elimination
 * (Thomas) leaves M_k + up_k M_{k+1} = d_k. Rows 0 and K stay 0. */
static void solve_bend(double *bend, int64_t knots)
{
    const int64_t last = knots - 1;
    const double scale = 6.0 * (double)last * (double)last; /* 6 / h^2 */
    double up[MOST_KNOTS] = {0};
    for (int64_t k = 1; k < last; k++) {
        double *const row = bend + k * knots;
        const double *const before = row - knots;
        const double pivot = 4.0 - up[k - 1];
        row[k - 1] += scale;
        row[k] -= 2.0 * scale;
        row[k + 1] += scale;
        for (int64_t j = 0; j < knots; j++) row[j] = (row[j] - before[j]) / pivot;
        up[k] = 1.0 / pivot;
    }
    for (int64_t k = last - 2; k >= 1; k--)
        for (int64_t j = 0; j < knots; j++)
            bend[k * knots + j] -= up[k] * bend[(k + 1) * knots + j];
}

hn_status hn_curve_make(hn_curve_kind kind, int64_t knots, hn_curve **out)
{
    if ((unsigned)kind >= HN_CURVE_COUNT)
        return HN_FAIL(HN_ERR_ARG, "curve %d is none of L, PL, C", (int)kind);
    if (knots < 2 || knots > MOST_KNOTS)
        return HN_FAIL(HN_ERR_ARG, "a curve of %" PRId64 " knots: 2 to %d", knots, MOST_KNOTS);
    hn_curve *c = hn_calloc(1, sizeof *c);
    if (c == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a curve");
    c->kind = kind;
    c->knots = knots;
    if (kind == HN_CURVE_SPLINE) {
        c->bend = hn_calloc((size_t)(knots * knots), sizeof *c->bend);
        if (c->bend == NULL) {
            hn_curve_free(c);
            return HN_FAIL(HN_ERR_MEMORY, "no memory for a spline of %" PRId64 " knots", knots);
        }
        solve_bend(c->bend, knots);
    }
    *out = c;
    return HN_OK;
}

/* With b = t K - k of the piece, a = 1 - b, h = 1 / K:
 *   theta  = a theta_k + b theta_{k+1} + h^2/6 ((a^3 - a) M_k + (b^3 - b) M_{k+1})
 *   theta' = (theta_{k+1} - theta_k) / h + h/6 ((1 - 3 a^2) M_k + (3 b^2 - 1) M_{k+1}) */
static void add_bend(const hn_curve *c, int64_t k, double b, double *w, double *dw)
{
    const double a = 1.0 - b, h = 1.0 / (double)(c->knots - 1);
    const double *const m0 = c->bend + k * c->knots, *const m1 = m0 + c->knots;
    for (int64_t j = 0; j < c->knots; j++) {
        w[j] += h * h / 6.0 * ((a * a * a - a) * m0[j] + (b * b * b - b) * m1[j]);
        dw[j] += h / 6.0 * ((1.0 - 3.0 * a * a) * m0[j] + (3.0 * b * b - 1.0) * m1[j]);
    }
}

/* The piece that begins at t; a time that is a knot but for its rounding (m / K as a product of
 * 1 / K, say) is that knot. */
static int64_t piece_of(double t, int64_t pieces, double *within)
{
    const double at = t * (double)pieces, near = round(at);
    const double u = fabs(at - near) < 1e-12 * (double)pieces ? near : at;
    int64_t k = (int64_t)floor(u);
    if (k > pieces - 1) k = pieces - 1;
    *within = u - (double)k;
    return k;
}

hn_status hn_curve_weights(const hn_curve *c, double t, double *w, double *dw)
{
    if (!(t >= 0.0 && t <= 1.0)) return HN_FAIL(HN_ERR_ARG, "time %g is not in [0, 1]", t);
    const int64_t last = c->knots - 1;
    memset(w, 0, (size_t)c->knots * sizeof *w);
    memset(dw, 0, (size_t)c->knots * sizeof *dw);
    if (c->kind == HN_CURVE_LINEAR) {
        w[0] = 1.0 - t;
        w[last] = t;
        dw[0] = -1.0;
        dw[last] = 1.0;
        return HN_OK;
    }
    double b;
    const int64_t k = piece_of(t, last, &b);
    w[k] = 1.0 - b;
    w[k + 1] = b;
    dw[k] = -(double)last;
    dw[k + 1] = (double)last;
    if (c->kind == HN_CURVE_SPLINE) add_bend(c, k, b, w, dw);
    return HN_OK;
}

hn_status hn_curve_row(const hn_curve *c, double t, float *row)
{
    double w[MOST_KNOTS], dw[MOST_KNOTS];
    HN_TRY(hn_curve_weights(c, t, w, dw));
    for (int64_t k = 0; k < c->knots; k++) {
        row[k] = (float)w[k];
        row[c->knots + k] = (float)dw[k];
    }
    return HN_OK;
}
