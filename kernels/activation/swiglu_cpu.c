#include "kernels/activation/swiglu.h"

#include <math.h>

#include "runtime/base/check.h"

hn_status hn_swiglu_check(const hn_swiglu_args *a)
{
    HN_TRY(hn_check_pointer("swiglu", "args", a));
    HN_TRY(hn_check_float("swiglu", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("swiglu", "gate", a->gate, a->rows, a->cols, a->ld_gate));
    HN_TRY(hn_check_matrix("swiglu", "up", a->up, a->rows, a->cols, a->ld_up));
    HN_TRY(hn_check_matrix("swiglu", "y", a->y, a->rows, a->cols, a->ld_y));
    HN_TRY(hn_check_in_place("swiglu", a->gate, a->ld_gate, a->y, a->ld_y));
    return hn_check_in_place("swiglu", a->up, a->ld_up, a->y, a->ld_y);
}

hn_status hn_swiglu_bwd_check(const hn_swiglu_bwd_args *a)
{
    static const char op[] = "swiglu_bwd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(op, "gate", a->gate, a->rows, a->cols, a->ld_gate));
    HN_TRY(hn_check_matrix(op, "up", a->up, a->rows, a->cols, a->ld_up));
    HN_TRY(hn_check_matrix(op, "dy", a->dy, a->rows, a->cols, a->ld_dy));
    HN_TRY(hn_check_matrix(op, "dgate", a->dgate, a->rows, a->cols, a->ld_dgate));
    HN_TRY(hn_check_matrix(op, "dup", a->dup, a->rows, a->cols, a->ld_dup));
    if (a->h) HN_TRY(hn_check_matrix(op, "h", a->h, a->rows, a->cols, a->ld_h));
    if (a->dgate == a->dup) return HN_FAIL(HN_ERR_ARG, "%s: dgate and dup are the same", op);
    if (a->h == a->dgate || a->h == a->dup)
        return HN_FAIL(HN_ERR_ARG, "%s: h lies on dgate or dup", op);
    const void *const in[] = {a->gate, a->up, a->dy};
    const int64_t ld[] = {a->ld_gate, a->ld_up, a->ld_dy};
    for (int k = 0; k < 3; k++) {
        HN_TRY(hn_check_in_place(op, in[k], ld[k], a->dgate, a->ld_dgate));
        HN_TRY(hn_check_in_place(op, in[k], ld[k], a->dup, a->ld_dup));
        HN_TRY(hn_check_in_place(op, in[k], ld[k], a->h, a->ld_h));
    }
    return HN_OK;
}

static double sigmoid(double v) { return 1.0 / (1.0 + exp(-v)); }

hn_status hn_swiglu_fwd_cpu(const hn_swiglu_args *a)
{
    HN_TRY(hn_swiglu_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            const double v = (double)hn_get_f32(a->gate, a->dtype, i * a->ld_gate + j);
            const double up = (double)hn_get_f32(a->up, a->dtype, i * a->ld_up + j);
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j, (float)(v * sigmoid(v) * up));
        }
    return HN_OK;
}

hn_status hn_swiglu_bwd_cpu(const hn_swiglu_bwd_args *a)
{
    HN_TRY(hn_swiglu_bwd_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            const double v = (double)hn_get_f32(a->gate, a->dtype, i * a->ld_gate + j);
            const double up = (double)hn_get_f32(a->up, a->dtype, i * a->ld_up + j);
            const double dy = (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + j);
            const double f = sigmoid(v), silu = v * f;
            hn_set_f32(a->dgate, a->dtype, i * a->ld_dgate + j,
                       (float)(dy * up * (f + silu * (1.0 - f))));
            hn_set_f32(a->dup, a->dtype, i * a->ld_dup + j, (float)(dy * silu));
            if (a->h) hn_set_f32(a->h, a->dtype, i * a->ld_h + j, (float)(silu * up));
        }
    return HN_OK;
}
