#include "kernels/norm/layer_norm.h"

#include <math.h>

#include "runtime/base/check.h"

static const char fwd[] = "layer_norm", bwd[] = "layer_norm_bwd";

hn_status hn_layer_norm_check(const hn_layer_norm_args *a)
{
    HN_TRY(hn_check_pointer(fwd, "args", a));
    HN_TRY(hn_check_float(fwd, "dtype", a->dtype));
    HN_TRY(hn_check_float(fwd, "gain_dtype", a->gain_dtype));
    if (a->bias) HN_TRY(hn_check_float(fwd, "bias_dtype", a->bias_dtype));
    HN_TRY(hn_check_matrix(fwd, "x", a->x, a->rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix(fwd, "y", a->y, a->rows, a->cols, a->ld_y));
    HN_TRY(hn_check_pointer(fwd, "gain", a->gain));
    HN_TRY(hn_check_replicas(fwd, a->rows, a->replicas));
    HN_TRY(hn_check_read_stride(fwd, "gain", a->replicas, a->gain_stride, a->cols));
    HN_TRY(hn_check_read_stride(fwd, "bias", a->replicas, a->bias_stride, a->cols));
    if (!(a->eps > 0.0f) || !isfinite(a->eps))
        return HN_FAIL(HN_ERR_ARG, "%s: eps %g must be positive", fwd, (double)a->eps);
    if ((a->mean == NULL) != (a->rstd == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: mean and rstd go together, one of them is NULL", fwd);
    if ((a->res == NULL) != (a->sum == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: res and sum go together, one of them is NULL", fwd);
    if (a->res == NULL) return hn_check_in_place(fwd, a->x, a->ld_x, a->y, a->ld_y);
    HN_TRY(hn_check_matrix(fwd, "res", a->res, a->rows, a->cols, a->ld_res));
    HN_TRY(hn_check_matrix(fwd, "sum", a->sum, a->rows, a->cols, a->ld_sum));
    HN_TRY(hn_check_in_place(fwd, a->x, a->ld_x, a->sum, a->ld_sum));
    return hn_check_in_place(fwd, a->res, a->ld_res, a->sum, a->ld_sum);
}

hn_status hn_layer_norm_bwd_check(const hn_layer_norm_bwd_args *a)
{
    HN_TRY(hn_check_pointer(bwd, "args", a));
    HN_TRY(hn_check_float(bwd, "dtype", a->dtype));
    HN_TRY(hn_check_float(bwd, "gain_dtype", a->gain_dtype));
    HN_TRY(hn_check_matrix(bwd, "sum", a->sum, a->rows, a->cols, a->ld_sum));
    HN_TRY(hn_check_matrix(bwd, "dy", a->dy, a->rows, a->cols, a->ld_dy));
    HN_TRY(hn_check_pointer(bwd, "gain", a->gain));
    HN_TRY(hn_check_pointer(bwd, "mean", a->mean));
    HN_TRY(hn_check_pointer(bwd, "rstd", a->rstd));
    HN_TRY(hn_check_replicas(bwd, a->rows, a->replicas));
    HN_TRY(hn_check_read_stride(bwd, "gain", a->replicas, a->gain_stride, a->cols));
    if (a->dx == NULL && a->dgain == NULL && a->dbias == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: none of dx, dgain and dbias is wanted", bwd);
    if (a->dsum) HN_TRY(hn_check_matrix(bwd, "dsum", a->dsum, a->rows, a->cols, a->ld_dsum));
    if (a->dx) HN_TRY(hn_check_matrix(bwd, "dx", a->dx, a->rows, a->cols, a->ld_dx));
    HN_TRY(hn_check_in_place(bwd, a->dy, a->ld_dy, a->dx, a->ld_dx));
    HN_TRY(hn_check_in_place(bwd, a->dsum, a->ld_dsum, a->dx, a->ld_dx));
    HN_TRY(hn_check_in_place(bwd, a->sum, a->ld_sum, a->dx, a->ld_dx));
    if (a->dgain) HN_TRY(hn_check_stride(bwd, "dgain", a->replicas, a->dgain_stride, a->cols));
    if (a->dbias) HN_TRY(hn_check_stride(bwd, "dbias", a->replicas, a->dbias_stride, a->cols));
    return HN_OK;
}

/* Mean and 1 / deviation of row i of s. */
static void find_row(const hn_layer_norm_args *a, const void *s, int64_t at, float *mean_out,
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

hn_status hn_layer_norm_fwd_cpu(const hn_layer_norm_args *a)
{
    HN_TRY(hn_layer_norm_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    const hn_dtype t = a->dtype;
    const void *const s = a->res ? a->sum : a->x;
    const int64_t ld_s = a->res ? a->ld_sum : a->ld_x;
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t gain_at = i / group * a->gain_stride, bias_at = i / group * a->bias_stride;
        float mean, rstd;
        for (int64_t j = 0; a->res != NULL && j < a->cols; j++)
            hn_set_f32(a->sum, t, i * a->ld_sum + j,
                       hn_get_f32(a->x, t, i * a->ld_x + j) +
                           hn_get_f32(a->res, t, i * a->ld_res + j));
        find_row(a, s, i * ld_s, &mean, &rstd);
        for (int64_t j = 0; j < a->cols; j++) {
            const double z = ((double)hn_get_f32(s, t, i * ld_s + j) - (double)mean) * (double)rstd;
            double y = z * (double)hn_get_f32(a->gain, a->gain_dtype, gain_at + j);
            if (a->bias) y += (double)hn_get_f32(a->bias, a->bias_dtype, bias_at + j);
            hn_set_f32(a->y, t, i * a->ld_y + j, (float)y);
        }
        if (a->mean) a->mean[i] = mean, a->rstd[i] = rstd;
    }
    return HN_OK;
}

static double z_at(const hn_layer_norm_bwd_args *a, int64_t i, int64_t j)
{
    return ((double)hn_get_f32(a->sum, a->dtype, i * a->ld_sum + j) - (double)a->mean[i]) *
           (double)a->rstd[i];
}

static double dy_at(const hn_layer_norm_bwd_args *a, int64_t i, int64_t j)
{
    return (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + j);
}

/* dgain and dbias of column j of replica g. */
static void add_column(const hn_layer_norm_bwd_args *a, int64_t g, int64_t j)
{
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    double sum = 0.0, dot = 0.0;
    for (int64_t i = g * group; i < (g + 1) * group; i++) {
        sum += dy_at(a, i, j);
        dot += dy_at(a, i, j) * z_at(a, i, j);
    }
    float *const dgain = a->dgain ? a->dgain + g * a->dgain_stride + j : NULL;
    float *const dbias = a->dbias ? a->dbias + g * a->dbias_stride + j : NULL;
    if (dgain) *dgain = (float)((double)*dgain + dot);
    if (dbias) *dbias = (float)((double)*dbias + sum);
}

hn_status hn_layer_norm_bwd_cpu(const hn_layer_norm_bwd_args *a)
{
    HN_TRY(hn_layer_norm_bwd_check(a));
    const int64_t replicas = hn_replica_count(a->replicas), group = a->rows / replicas;
    for (int64_t k = 0; k < replicas * a->cols; k++) add_column(a, k / a->cols, k % a->cols);
    for (int64_t i = 0; a->dx != NULL && i < a->rows; i++) {
        const int64_t gain_at = i / group * a->gain_stride;
        double sum = 0.0, dot = 0.0;
        for (int64_t j = 0; j < a->cols; j++) {
            const double h =
                dy_at(a, i, j) * (double)hn_get_f32(a->gain, a->gain_dtype, gain_at + j);
            sum += h;
            dot += h * z_at(a, i, j);
        }
        sum /= (double)a->cols;
        dot /= (double)a->cols;
        for (int64_t j = 0; j < a->cols; j++) {
            const double h =
                dy_at(a, i, j) * (double)hn_get_f32(a->gain, a->gain_dtype, gain_at + j);
            double dx = (double)a->rstd[i] * (h - sum - z_at(a, i, j) * dot);
            if (a->dsum) dx += (double)hn_get_f32(a->dsum, a->dtype, i * a->ld_dsum + j);
            hn_set_f32(a->dx, a->dtype, i * a->ld_dx + j, (float)dx);
        }
    }
    return HN_OK;
}
