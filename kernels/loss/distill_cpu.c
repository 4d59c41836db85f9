#include "kernels/loss/distill.h"

#include <math.h>
#include <stdbool.h>

#include "kernels/loss/class_rows.h"
#include "runtime/base/check.h"

hn_status hn_distill_check(const hn_distill_args *a)
{
    static const char op[] = "distill";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(op, "student", a->student, a->rows, a->classes, a->ld_student));
    HN_TRY(hn_check_matrix(op, "teacher", a->teacher, a->rows, a->teacher_classes, a->ld_teacher));
    if (a->dstudent)
        HN_TRY(hn_check_matrix(op, "dstudent", a->dstudent, a->rows, a->classes, a->ld_dstudent));
    HN_TRY(hn_class_check_range_(op, "the student", a->classes, a->first_class, a->n_classes));
    HN_TRY(hn_class_check_range_(op, "the teacher", a->teacher_classes, a->first_class,
                                 hn_class_count_(a->classes, a->first_class, a->n_classes)));
    if (!(a->temperature >= 0.0f) || !isfinite(a->temperature))
        return HN_FAIL(HN_ERR_ARG, "%s: temperature %g must be positive", op,
                       (double)a->temperature);
    if (!isfinite(a->weight))
        return HN_FAIL(HN_ERR_ARG, "%s: weight %g must be finite", op, (double)a->weight);
    return HN_OK;
}

/* log softmax(z / T) of a row's range is z[c] / T - this. */
static double log_sum(const void *z, hn_dtype t, int64_t at, int64_t n, double temperature)
{
    double most = -INFINITY, sum = 0.0;
    for (int64_t c = 0; c < n; c++) {
        const double v = (double)hn_get_f32(z, t, at + c) / temperature;
        if (!(v <= most)) most = v; /* a NaN stays */
    }
    for (int64_t c = 0; c < n; c++)
        sum += exp((double)hn_get_f32(z, t, at + c) / temperature - most);
    return most + log(sum);
}

/* Loss of a row without the weight; its gradient where it is wanted. */
static double run_row(const hn_distill_args *a, int64_t row, int64_t n, double temperature)
{
    const int64_t s = row * a->ld_student + a->first_class;
    const int64_t t = row * a->ld_teacher + a->first_class;
    const double sum_s = log_sum(a->student, a->dtype, s, n, temperature);
    const double sum_t = log_sum(a->teacher, a->dtype, t, n, temperature);
    double loss = 0.0;
    for (int64_t c = 0; c < n; c++) {
        const double log_p = (double)hn_get_f32(a->student, a->dtype, s + c) / temperature - sum_s;
        const double log_q = (double)hn_get_f32(a->teacher, a->dtype, t + c) / temperature - sum_t;
        const double q = exp(log_q);
        if (!(q == 0.0)) loss += q * (log_q - log_p);
        if (a->dstudent)
            hn_set_f32(a->dstudent, a->dtype, row * a->ld_dstudent + a->first_class + c,
                       (float)((double)a->weight * temperature * (exp(log_p) - q)));
    }
    return loss;
}

hn_status hn_distill_cpu(const hn_distill_args *a)
{
    HN_TRY(hn_distill_check(a));
    const int64_t n = hn_class_count_(a->classes, a->first_class, a->n_classes);
    const double temperature = a->temperature != 0.0f ? (double)a->temperature : 1.0;
    double loss_sum = 0.0;
    for (int64_t i = 0; i < a->rows; i++) {
        const bool counts = a->labels == NULL || a->labels[i] != HN_LABEL_IGNORED;
        for (int64_t k = 0; a->dstudent && k < a->classes; k++)
            hn_set_f32(a->dstudent, a->dtype, i * a->ld_dstudent + k, 0.0f);
        double loss = 0.0;
        if (counts)
            loss = (double)a->weight * temperature * temperature * run_row(a, i, n, temperature);
        if (a->row_loss) a->row_loss[i] = (float)loss;
        loss_sum += loss;
    }
    if (a->loss_sum) *a->loss_sum = (float)((double)*a->loss_sum + loss_sum);
    return HN_OK;
}
