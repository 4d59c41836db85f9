#include "kernels/activation/activation.h"

#include <math.h>

#include "runtime/base/check.h"

const char *hn_activation_name(int kind)
{
    static const char *const names[] = {"relu", "gelu", "gelu_tanh", "silu", "quick_gelu", "elu"};
    return kind >= 0 && kind < HN_ACT_COUNT ? names[kind] : "?";
}

static hn_status check_kind(const char *op, int kind)
{
    if (kind >= 0 && kind < HN_ACT_COUNT) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: there is no kind %d", op, kind);
}

hn_status hn_activation_check(const hn_activation_args *a)
{
    static const char op[] = "activation";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(check_kind(op, a->kind));
    HN_TRY(hn_check_matrix(op, "x", a->x, a->rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix(op, "y", a->y, a->rows, a->cols, a->ld_y));
    return hn_check_in_place(op, a->x, a->ld_x, a->y, a->ld_y);
}

hn_status hn_activation_bwd_check(const hn_activation_bwd_args *a)
{
    static const char op[] = "activation_bwd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(check_kind(op, a->kind));
    HN_TRY(hn_check_matrix(op, "x", a->x, a->rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix(op, "dy", a->dy, a->rows, a->cols, a->ld_dy));
    HN_TRY(hn_check_matrix(op, "dx", a->dx, a->rows, a->cols, a->ld_dx));
    if (a->y) HN_TRY(hn_check_matrix(op, "y", a->y, a->rows, a->cols, a->ld_y));
    if (a->y == a->dx) return HN_FAIL(HN_ERR_ARG, "%s: y lies on dx", op);
    HN_TRY(hn_check_in_place(op, a->x, a->ld_x, a->dx, a->ld_dx));
    HN_TRY(hn_check_in_place(op, a->dy, a->ld_dy, a->dx, a->ld_dx));
    HN_TRY(hn_check_in_place(op, a->x, a->ld_x, a->y, a->ld_y));
    return hn_check_in_place(op, a->dy, a->ld_dy, a->y, a->ld_y);
}

static double sigmoid(double v) { return 1.0 / (1.0 + exp(-v)); }

/* v sigmoid(g(v)) with s = sigmoid(g(v)) and g' = dg. */
static void gated(double v, double s, double dg, double *y, double *d)
{
    *y = v * s;
    *d = s * (1.0 + v * (1.0 - s) * dg);
}

/* y = f(v), d = f'(v). */
static void evaluate(int kind, double v, double *y, double *d)
{
    static const double pi = 3.14159265358979323846, cubic = 0.044715, quick = 1.702;
    const double two_u = 2.0 * sqrt(2.0 / pi); /* factor of 2 u */
    switch (kind) {
    case HN_ACT_RELU:
        *y = v <= 0.0 ? 0.0 : v;
        *d = v <= 0.0 ? 0.0 : 1.0;
        return;
    case HN_ACT_GELU:
        *y = v * 0.5 * erfc(-v / sqrt(2.0));
        *d = 0.5 * erfc(-v / sqrt(2.0)) + v * exp(-0.5 * v * v) / sqrt(2.0 * pi);
        return;
    case HN_ACT_GELU_TANH:
        gated(v, sigmoid(two_u * (v + cubic * v * v * v)), two_u * (1.0 + 3.0 * cubic * v * v), y,
              d);
        return;
    case HN_ACT_SILU: gated(v, sigmoid(v), 1.0, y, d); return;
    case HN_ACT_ELU:
        *y = v > 0.0 ? v : expm1(v);
        *d = v > 0.0 ? 1.0 : exp(v);
        return;
    default: gated(v, sigmoid(quick * v), quick, y, d); return;
    }
}

hn_status hn_activation_fwd_cpu(const hn_activation_args *a)
{
    HN_TRY(hn_activation_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            double y, d;
            evaluate(a->kind, (double)hn_get_f32(a->x, a->dtype, i * a->ld_x + j), &y, &d);
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j, (float)y);
        }
    return HN_OK;
}

hn_status hn_activation_bwd_cpu(const hn_activation_bwd_args *a)
{
    HN_TRY(hn_activation_bwd_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            const double dy = (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + j);
            double y, d;
            evaluate(a->kind, (double)hn_get_f32(a->x, a->dtype, i * a->ld_x + j), &y, &d);
            hn_set_f32(a->dx, a->dtype, i * a->ld_dx + j, (float)(dy * d));
            if (a->y) hn_set_f32(a->y, a->dtype, i * a->ld_y + j, (float)y);
        }
    return HN_OK;
}
