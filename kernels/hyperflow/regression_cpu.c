#include "kernels/hyperflow/regression.h"

#include <inttypes.h>
#include <stdbool.h>

#include "runtime/base/check.h"

hn_status hn_regression_check(const hn_regression_args *a)
{
    static const char op[] = "regression";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    if (a->target_dtype != a->dtype && a->target_dtype != HN_F32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: target %s of y %s", op,
                       hn_dtype_name(a->target_dtype), hn_dtype_name(a->dtype));
    HN_TRY(hn_check_matrix(op, "y", a->y, a->rows, a->cols, a->ld_y));
    HN_TRY(hn_check_matrix(op, "target", a->target, a->rows, a->cols, a->ld_target));
    HN_TRY(hn_check_pointer(op, "loss_sum", a->loss_sum));
    HN_TRY(hn_check_pointer(op, "count", a->count));
    if (a->groups < 1 || a->rows % a->groups != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " rows are no %" PRId64 " equal groups", op,
                       a->rows, a->groups);
    if (a->dy == NULL) return HN_OK;
    HN_TRY(hn_check_matrix(op, "dy", a->dy, a->rows, a->cols, a->ld_dy));
    return hn_check_in_place(op, a->y, a->ld_y, a->dy, a->ld_dy);
}

hn_status hn_regression_cpu(const hn_regression_args *a)
{
    HN_TRY(hn_regression_check(a));
    const int64_t group = a->rows / a->groups;
    const double share = 1.0 / ((double)group * (double)a->cols);
    double loss = 0.0;
    int64_t count = 0;
    for (int64_t e = 0; e < a->groups; e++) {
        const bool trained = a->labels == NULL || a->labels[e] != HN_LABEL_IGNORED;
        double sum = 0.0;
        for (int64_t i = e * group; i < (e + 1) * group; i++)
            for (int64_t j = 0; j < a->cols; j++) {
                const float y = hn_get_f32(a->y, a->dtype, i * a->ld_y + j);
                const float target = hn_get_f32(a->target, a->target_dtype, i * a->ld_target + j);
                const double d = trained ? (double)(y - target) : 0.0;
                sum += d * d;
                if (a->dy) hn_set_f32(a->dy, a->dtype, i * a->ld_dy + j, (float)(2.0 * share * d));
            }
        if (a->group_loss) a->group_loss[e] = (float)(sum * share);
        loss += sum * share;
        count += trained;
    }
    *a->loss_sum = (float)((double)*a->loss_sum + loss);
    *a->count += (float)count;
    return HN_OK;
}
