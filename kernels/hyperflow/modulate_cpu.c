#include <math.h>
#include <stdbool.h>

#include "kernels/hyperflow/modulate.h"
#include "runtime/base/check.h"

static const char fwd[] = "modulate", bwd[] = "modulate_bwd";

static hn_status check_groups(const char *op, int64_t rows, int64_t groups)
{
    if (groups < 1 || rows % groups != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %lld rows are no %lld equal groups", op, (long long)rows,
                       (long long)groups);
    return HN_OK;
}

hn_status hn_modulate_check(const hn_modulate_args *a)
{
    HN_TRY(hn_check_pointer(fwd, "args", a));
    HN_TRY(hn_check_float(fwd, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(fwd, "x", a->x, a->rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix(fwd, "y", a->y, a->rows, a->cols, a->ld_y));
    HN_TRY(check_groups(fwd, a->rows, a->groups));
    HN_TRY(hn_check_matrix(fwd, "scale", a->scale, a->groups, a->cols, a->ld_scale));
    HN_TRY(hn_check_matrix(fwd, "shift", a->shift, a->groups, a->cols, a->ld_shift));
    if (!(a->eps >= 0.0f) || !isfinite(a->eps))
        return HN_FAIL(HN_ERR_ARG, "%s: eps %g is negative", fwd, (double)a->eps);
    if ((a->mean == NULL) != (a->rstd == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: mean and rstd go together, one of them is NULL", fwd);
    if (a->mean != NULL && a->eps == 0.0f)
        return HN_FAIL(HN_ERR_ARG, "%s: mean and rstd are wanted with eps 0", fwd);
    if ((a->res == NULL) != (a->sum == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: res and sum go together, one of them is NULL", fwd);
    if (a->res == NULL) return hn_check_in_place(fwd, a->x, a->ld_x, a->y, a->ld_y);
    HN_TRY(hn_check_matrix(fwd, "res", a->res, a->rows, a->cols, a->ld_res));
    HN_TRY(hn_check_matrix(fwd, "sum", a->sum, a->rows, a->cols, a->ld_sum));
    HN_TRY(hn_check_in_place(fwd, a->x, a->ld_x, a->sum, a->ld_sum));
    return hn_check_in_place(fwd, a->res, a->ld_res, a->sum, a->ld_sum);
}

hn_status hn_modulate_bwd_check(const hn_modulate_bwd_args *a)
{
    HN_TRY(hn_check_pointer(bwd, "args", a));
    HN_TRY(hn_check_float(bwd, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(bwd, "sum", a->sum, a->rows, a->cols, a->ld_sum));
    HN_TRY(hn_check_matrix(bwd, "dy", a->dy, a->rows, a->cols, a->ld_dy));
    HN_TRY(check_groups(bwd, a->rows, a->groups));
    HN_TRY(hn_check_matrix(bwd, "scale", a->scale, a->groups, a->cols, a->ld_scale));
    if ((a->mean == NULL) != (a->rstd == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: mean and rstd go together, one of them is NULL", bwd);
    if ((a->dscale == NULL) != (a->dshift == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: dscale and dshift go together, one of them is NULL", bwd);
    if (a->dx == NULL && a->dscale == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: none of dx, dscale and dshift is wanted", bwd);
    if (a->dsum) HN_TRY(hn_check_matrix(bwd, "dsum", a->dsum, a->rows, a->cols, a->ld_dsum));
    if (a->dx) HN_TRY(hn_check_matrix(bwd, "dx", a->dx, a->rows, a->cols, a->ld_dx));
    HN_TRY(hn_check_in_place(bwd, a->dy, a->ld_dy, a->dx, a->ld_dx));
    HN_TRY(hn_check_in_place(bwd, a->dsum, a->ld_dsum, a->dx, a->ld_dx));
    HN_TRY(hn_check_in_place(bwd, a->sum, a->ld_sum, a->dx, a->ld_dx));
    if (a->dscale == NULL) return HN_OK;
    HN_TRY(hn_check_matrix(bwd, "dscale", a->dscale, a->groups, a->cols, a->ld_dscale));
    return hn_check_matrix(bwd, "dshift", a->dshift, a->groups, a->cols, a->ld_dshift);
}

/* Mean and 1 / deviation of a row of s. */
static void find_row(const hn_modulate_args *a, const void *s, int64_t at, float *mean_out,
                     float *rstd_out)
{
    double mean = 0.0, var = 0.0;
    for (int64_t j = 0; j < a->cols; j++) mean += (double)hn_get_f32(s, a->dtype, at + j);
    mean /= (double)a->cols;
    for (int64_t j = 0; j < a->cols; j++) {
        const double d = (double)hn_get_f32(s, a->dtype, at + j) - mean;
        var += d * d;
    }
    *mean_out = (float)mean;
    *rstd_out = (float)(1.0 / sqrt(var / (double)a->cols + (double)a->eps));
}

hn_status hn_modulate_fwd_cpu(const hn_modulate_args *a)
{
    HN_TRY(hn_modulate_check(a));
    const int64_t group = a->rows / a->groups;
    const hn_dtype t = a->dtype;
    const void *const s = a->res ? a->sum : a->x;
    const int64_t ld_s = a->res ? a->ld_sum : a->ld_x;
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t e = i / group;
        float mean = 0.0f, rstd = 1.0f;
        for (int64_t j = 0; a->res != NULL && j < a->cols; j++)
            hn_set_f32(a->sum, t, i * a->ld_sum + j,
                       hn_get_f32(a->x, t, i * a->ld_x + j) +
                           hn_get_f32(a->res, t, i * a->ld_res + j));
        if (a->eps > 0.0f) find_row(a, s, i * ld_s, &mean, &rstd);
        for (int64_t j = 0; j < a->cols; j++) {
            const double z = ((double)hn_get_f32(s, t, i * ld_s + j) - (double)mean) * (double)rstd;
            const double scale = (double)hn_get_f32(a->scale, t, e * a->ld_scale + j);
            const double shift = (double)hn_get_f32(a->shift, t, e * a->ld_shift + j);
            hn_set_f32(a->y, t, i * a->ld_y + j, (float)(z * (1.0 + scale) + shift));
        }
        if (a->mean) a->mean[i] = mean, a->rstd[i] = rstd;
    }
    return HN_OK;
}

static double dy_at(const hn_modulate_bwd_args *a, int64_t i, int64_t j)
{
    return (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + j);
}

static double z_at(const hn_modulate_bwd_args *a, int64_t i, int64_t j)
{
    const double s = (double)hn_get_f32(a->sum, a->dtype, i * a->ld_sum + j);
    return a->mean ? (s - (double)a->mean[i]) * (double)a->rstd[i] : s;
}

static double h_at(const hn_modulate_bwd_args *a, int64_t i, int64_t j)
{
    const int64_t e = i / (a->rows / a->groups);
    return dy_at(a, i, j) * (1.0 + (double)hn_get_f32(a->scale, a->dtype, e * a->ld_scale + j));
}

/* dscale and dshift of column j of group e. */
static void set_column(const hn_modulate_bwd_args *a, int64_t e, int64_t j)
{
    const int64_t group = a->rows / a->groups;
    double sum = 0.0, dot = 0.0;
    for (int64_t i = e * group; i < (e + 1) * group; i++) {
        sum += dy_at(a, i, j);
        dot += dy_at(a, i, j) * z_at(a, i, j);
    }
    hn_set_f32(a->dscale, a->dtype, e * a->ld_dscale + j, (float)dot);
    hn_set_f32(a->dshift, a->dtype, e * a->ld_dshift + j, (float)sum);
}

hn_status hn_modulate_bwd_cpu(const hn_modulate_bwd_args *a)
{
    HN_TRY(hn_modulate_bwd_check(a));
    const bool normed = a->mean != NULL;
    for (int64_t k = 0; a->dscale != NULL && k < a->groups * a->cols; k++)
        set_column(a, k / a->cols, k % a->cols);
    for (int64_t i = 0; a->dx != NULL && i < a->rows; i++) {
        const double rstd = normed ? (double)a->rstd[i] : 1.0;
        double sum = 0.0, dot = 0.0;
        for (int64_t j = 0; normed && j < a->cols; j++) {
            sum += h_at(a, i, j);
            dot += h_at(a, i, j) * z_at(a, i, j);
        }
        sum /= (double)a->cols;
        dot /= (double)a->cols;
        for (int64_t j = 0; j < a->cols; j++) {
            double dx = rstd * (h_at(a, i, j) - sum - z_at(a, i, j) * dot);
            if (a->dsum) dx += (double)hn_get_f32(a->dsum, a->dtype, i * a->ld_dsum + j);
            hn_set_f32(a->dx, a->dtype, i * a->ld_dx + j, (float)dx);
        }
    }
    return HN_OK;
}
