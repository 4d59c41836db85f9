/* Groups go to the threads; what each gives is summed in order. */
#include <stdbool.h>
#include <string.h>

#include "kernels/hyperflow/regression.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* Sum of (y - target)^2; dy = factor (y - target). */
HN_MULTIVERSION static float error_span(const float *y, const float *target, float factor,
                                        float *dy, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        const float d = y[j] - target[j];
        sum += d * d;
        dy[j] = factor * d;
    }
    return sum;
}

/* Columns j .. j + n of a row. */
static double run_span(const hn_regression_args *a, int64_t row, int64_t j, int64_t n, float factor)
{
    float b[2][HN_BLOCK], out[HN_BLOCK];
    const int64_t to = row * a->ld_dy + j;
    const float *const y = hn_load_f32(a->y, a->dtype, row * a->ld_y + j, n, b[0]);
    const float *const target =
        hn_load_f32(a->target, a->target_dtype, row * a->ld_target + j, n, b[1]);
    float *const dy = a->dy ? hn_target_f32(a->dy, a->dtype, to, out) : out;
    const float sum = error_span(y, target, factor, dy, n);
    if (a->dy) hn_store_f32(dy, n, a->dy, a->dtype, to);
    return (double)sum;
}

static void run_group(const hn_regression_args *a, int64_t e, double *loss)
{
    const int64_t group = a->rows / a->groups;
    const double share = 1.0 / ((double)group * (double)a->cols);
    const bool trained = a->labels == NULL || a->labels[e] != HN_LABEL_IGNORED;
    const size_t size = hn_dtype_size(a->dtype);
    double sum = 0.0;
    for (int64_t i = e * group; i < (e + 1) * group; i++) {
        if (!trained && a->dy) /* zeros are the same bytes in both types */
            memset((char *)a->dy + (size_t)(i * a->ld_dy) * size, 0, (size_t)a->cols * size);
        for (int64_t j = 0; trained && j < a->cols; j += HN_BLOCK)
            sum += run_span(a, i, j, hn_block_len(j, a->cols), (float)(2.0 * share));
    }
    *loss = sum * share;
    if (a->group_loss) a->group_loss[e] = (float)*loss;
}

size_t hn_regression_scratch(const hn_regression_args *a)
{
    return (size_t)a->groups * sizeof(double);
}

hn_status hn_regression_fast(const hn_regression_args *a, void *scratch)
{
    HN_TRY(hn_regression_check(a));
    HN_TRY(hn_check_pointer("regression", "scratch", scratch));
    double *const of_group = scratch;
    double loss = 0.0;
    int64_t count = 0;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t e = 0; e < a->groups; e++) run_group(a, e, of_group + e);
    for (int64_t e = 0; e < a->groups; e++) {
        loss += of_group[e];
        count += a->labels == NULL || a->labels[e] != HN_LABEL_IGNORED;
    }
    *a->loss_sum = (float)((double)*a->loss_sum + loss);
    *a->count += (float)count;
    return HN_OK;
}
