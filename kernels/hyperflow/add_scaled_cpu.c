#include "kernels/hyperflow/add_scaled.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/check.h"

hn_status hn_add_scaled_check(const hn_add_scaled_args *a)
{
    static const char op[] = "add_scaled";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "b", a->b_dtype));
    HN_TRY(hn_check_matrix(op, "b", a->b, a->rows, a->cols, a->ld_b));
    HN_TRY(hn_check_matrix(op, "a", a->a, a->period, a->cols, a->ld_a));
    HN_TRY(hn_check_matrix(op, "y", a->y, a->rows, a->cols, a->ld_y));
    if (a->rounded)
        HN_TRY(hn_check_matrix(op, "rounded", a->rounded, a->rows, a->cols, a->ld_rounded));
    if (a->rows % a->period != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " rows are no multiple of the period %" PRId64,
                       op, a->rows, a->period);
    if (!isfinite(a->alpha))
        return HN_FAIL(HN_ERR_ARG, "%s: alpha %g must be finite", op, (double)a->alpha);
    if (a->y == a->a && a->period != a->rows)
        return HN_FAIL(HN_ERR_ARG, "%s: y on a, whose rows are read again", op);
    if ((const void *)a->y == a->b && a->b_dtype != HN_F32)
        return HN_FAIL(HN_ERR_ARG, "%s: y on b, which is not f32", op);
    HN_TRY(hn_check_in_place(op, a->a, a->ld_a, a->y, a->ld_y));
    return hn_check_in_place(op, a->b, a->ld_b, a->y, a->ld_y);
}

hn_status hn_add_scaled_cpu(const hn_add_scaled_args *a)
{
    HN_TRY(hn_add_scaled_check(a));
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t p = i % a->period;
        const float w = a->s ? a->alpha * a->s[p] : a->alpha;
        for (int64_t j = 0; j < a->cols; j++) {
            const float step = w * hn_get_f32(a->b, a->b_dtype, i * a->ld_b + j);
            const float y = a->a[p * a->ld_a + j] + step;
            a->y[i * a->ld_y + j] = y;
            if (a->rounded) a->rounded[i * a->ld_rounded + j] = hn_bf16_from_f32(y);
        }
    }
    return HN_OK;
}
