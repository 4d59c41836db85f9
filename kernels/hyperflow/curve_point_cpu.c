#include "kernels/hyperflow/curve_point.h"

#include <inttypes.h>
#include <math.h>

#include "kernels/hyperflow/curve_noise.h"
#include "runtime/base/check.h"

static const char op[] = "curve_point";

hn_status hn_curve_point_check(const hn_curve_point_args *a)
{
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_pointer(op, "unit", a->unit));
    HN_TRY(hn_check_pointer(op, "index", a->index));
    HN_TRY(hn_check_pointer(op, "inv_sigma", a->inv_sigma));
    if (a->knots < 2 || a->knots > HN_CURVE_POINT_KNOTS)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %" PRId64 " knots: 2 to %d", op, a->knots,
                       HN_CURVE_POINT_KNOTS);
    if (a->n < 1 || a->n > INT32_MAX || a->tokens < 1 || a->width < 1 || a->rows < 1 ||
        a->tokens > INT32_MAX / a->width || a->rows > INT32_MAX / a->tokens)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " trajectories, %" PRId64 " tokens of %" PRId64 ", %" PRId64
                       " rows",
                       op, a->n, a->tokens, a->width, a->rows);
    HN_TRY(hn_check_matrix(op, "knots", a->knot, a->knots, a->tokens * a->width, a->ld_knots));
    HN_TRY(hn_check_matrix(op, "weights", a->weights, a->rows, 2 * a->knots, a->ld_weights));
    HN_TRY(hn_check_matrix(op, "z", a->z, a->rows * a->tokens, a->width, a->ld_z));
    if (a->dz) HN_TRY(hn_check_matrix(op, "dz", a->dz, a->rows * a->tokens, a->width, a->ld_dz));
    if (!(a->noise >= 0.0f) || !isfinite(a->noise))
        return HN_FAIL(HN_ERR_ARG, "%s: noise %g is negative", op, (double)a->noise);
    if (a->noise > 0.0f && a->state == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: noise %g without random state", op, (double)a->noise);
    return HN_OK;
}

hn_status hn_curve_point_check_index(const hn_curve_point_args *a)
{
    for (int64_t r = 0; r < a->rows; r++)
        if (a->index[r] >= a->n)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: row %" PRId64 " is of trajectory %" PRId32 " of %" PRId64, op, r,
                           a->index[r], a->n);
    return HN_OK;
}

/* Number d of row r. */
static void set_number(const hn_curve_point_args *a, const hn_curve_noise *noise, int64_t r,
                       int64_t d)
{
    const int64_t token = d / a->width, row = r * a->tokens + token, col = d % a->width;
    const float *const w = a->weights + r * a->ld_weights, *const dw = w + a->knots;
    const int64_t curve = a->index[r];
    double point = 0.0, tangent = 0.0;
    if (curve >= 0) {
        const double unit = (double)a->unit[curve] * (double)a->inv_sigma[token];
        for (int64_t k = 0; k < a->knots; k++) {
            const hn_f16 knot = a->knot[(curve * a->knots + k) * a->ld_knots + d];
            if (w[k] == 0.0f && dw[k] == 0.0f) continue;
            point += (double)w[k] * (double)hn_f16_to_f32(knot);
            tangent += (double)dw[k] * (double)hn_f16_to_f32(knot);
        }
        point *= unit;
        tangent *= unit;
        if (a->noise > 0.0f) {
            float normal;
            hn_curve_normals_(noise, r, d, 1, &normal);
            point += (double)a->noise * (double)normal;
        }
    }
    hn_set_f32(a->z, a->dtype, row * a->ld_z + col, (float)point);
    if (a->dz) a->dz[row * a->ld_dz + col] = (float)tangent;
}

hn_status hn_curve_point_cpu(const hn_curve_point_args *a)
{
    HN_TRY(hn_curve_point_check(a));
    HN_TRY(hn_curve_point_check_index(a));
    const hn_curve_noise noise = hn_curve_noise_read_(a);
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t d = 0; d < a->tokens * a->width; d++) set_number(a, &noise, r, d);
    return HN_OK;
}
