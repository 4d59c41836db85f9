#include "kernels/norm/batch_norm.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/check.h"

static const char fwd[] = "batch_norm", bwd[] = "batch_norm_bwd";

static hn_status check_running(const hn_batch_norm_args *a)
{
    if ((a->running_mean == NULL) != (a->running_var == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: running_mean and running_var go together", fwd);
    if (a->frozen && a->running_mean == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: frozen, but there are no running values", fwd);
    if (!a->frozen && a->rows < 2)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: expected more than 1 value per channel when training, got %" PRId64
                       " row of %" PRId64 " channels",
                       fwd, a->rows, a->cols);
    if (!(a->eps > 0.0f) || !isfinite(a->eps) || !(a->momentum >= 0.0f && a->momentum <= 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: eps %g must be positive, momentum %g from 0 to 1", fwd,
                       (double)a->eps, (double)a->momentum);
    return HN_OK;
}

hn_status hn_batch_norm_check(const hn_batch_norm_args *a)
{
    HN_TRY(hn_check_pointer(fwd, "args", a));
    HN_TRY(hn_check_float(fwd, "dtype", a->dtype));
    HN_TRY(hn_check_float(fwd, "gain_dtype", a->gain_dtype));
    HN_TRY(hn_check_float(fwd, "bias_dtype", a->bias_dtype));
    HN_TRY(hn_check_matrix(fwd, "x", a->x, a->rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix(fwd, "y", a->y, a->rows, a->cols, a->ld_y));
    if (a->res) HN_TRY(hn_check_matrix(fwd, "res", a->res, a->rows, a->cols, a->ld_res));
    HN_TRY(hn_check_pointer(fwd, "gain", a->gain));
    HN_TRY(hn_check_pointer(fwd, "bias", a->bias));
    HN_TRY(hn_check_pointer(fwd, "mean", a->mean));
    HN_TRY(hn_check_pointer(fwd, "rstd", a->rstd));
    HN_TRY(check_running(a));
    HN_TRY(hn_check_in_place(fwd, a->x, a->ld_x, a->y, a->ld_y));
    return hn_check_in_place(fwd, a->res, a->ld_res, a->y, a->ld_y);
}

hn_status hn_batch_norm_bwd_check(const hn_batch_norm_bwd_args *a)
{
    HN_TRY(hn_check_pointer(bwd, "args", a));
    HN_TRY(hn_check_float(bwd, "dtype", a->dtype));
    HN_TRY(hn_check_float(bwd, "gain_dtype", a->gain_dtype));
    HN_TRY(hn_check_matrix(bwd, "x", a->x, a->rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix(bwd, "dy", a->dy, a->rows, a->cols, a->ld_dy));
    if (a->y) HN_TRY(hn_check_matrix(bwd, "y", a->y, a->rows, a->cols, a->ld_y));
    if (a->dx) HN_TRY(hn_check_matrix(bwd, "dx", a->dx, a->rows, a->cols, a->ld_dx));
    if (a->dres) HN_TRY(hn_check_matrix(bwd, "dres", a->dres, a->rows, a->cols, a->ld_dres));
    HN_TRY(hn_check_pointer(bwd, "gain", a->gain));
    HN_TRY(hn_check_pointer(bwd, "mean", a->mean));
    HN_TRY(hn_check_pointer(bwd, "rstd", a->rstd));
    if (a->dx == NULL && a->dres == NULL && a->dgain == NULL && a->dbias == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: none of dx, dres, dgain and dbias is wanted", bwd);
    if (a->bias != NULL) {
        HN_TRY(hn_check_float(bwd, "bias_dtype", a->bias_dtype));
        if (a->y != NULL || a->dres != NULL)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: bias says what relu let through without y and without a residual; "
                           "%s is there, too",
                           bwd, a->y != NULL ? "y" : "dres");
    }
    if (a->dres != NULL && (a->dres == a->dx || a->dres == a->x))
        return HN_FAIL(HN_ERR_ARG, "%s: dres may not lie on dx or x", bwd);
    const void *const in[] = {a->dy, a->y, a->x};
    const int64_t ld[] = {a->ld_dy, a->ld_y, a->ld_x};
    for (int k = 0; k < 3; k++) {
        HN_TRY(hn_check_in_place(bwd, in[k], ld[k], a->dx, a->ld_dx));
        HN_TRY(hn_check_in_place(bwd, in[k], ld[k], a->dres, a->ld_dres));
    }
    return HN_OK;
}

/* Mean and 1 / deviation of one column; a batch moves the running values. */
static void find_column(const hn_batch_norm_args *a, int64_t j)
{
    double mean = 0.0, var = 0.0;
    if (a->frozen) {
        a->mean[j] = a->running_mean[j];
        a->rstd[j] = (float)(1.0 / sqrt((double)a->running_var[j] + (double)a->eps));
        return;
    }
    const double n = (double)a->rows, m = (double)a->momentum;
    for (int64_t i = 0; i < a->rows; i++)
        mean += (double)hn_get_f32(a->x, a->dtype, i * a->ld_x + j);
    mean /= n;
    for (int64_t i = 0; i < a->rows; i++) {
        const double d = (double)hn_get_f32(a->x, a->dtype, i * a->ld_x + j) - mean;
        var += d * d;
    }
    var /= n;
    a->mean[j] = (float)mean;
    a->rstd[j] = (float)(1.0 / sqrt(var + (double)a->eps));
    if (a->running_mean == NULL) return;
    a->running_mean[j] = (float)((1.0 - m) * (double)a->running_mean[j] + m * mean);
    a->running_var[j] = (float)((1.0 - m) * (double)a->running_var[j] + m * var * n / (n - 1.0));
}

hn_status hn_batch_norm_fwd_cpu(const hn_batch_norm_args *a)
{
    HN_TRY(hn_batch_norm_check(a));
    const hn_dtype t = a->dtype;
    for (int64_t j = 0; j < a->cols; j++) {
        find_column(a, j);
        const double mean = (double)a->mean[j], rstd = (double)a->rstd[j];
        const double gain = (double)hn_get_f32(a->gain, a->gain_dtype, j);
        const double bias = (double)hn_get_f32(a->bias, a->bias_dtype, j);
        for (int64_t i = 0; i < a->rows; i++) {
            double v = ((double)hn_get_f32(a->x, t, i * a->ld_x + j) - mean) * rstd * gain + bias;
            if (a->res) v += (double)hn_get_f32(a->res, t, i * a->ld_res + j);
            if (a->relu && v < 0.0) v = 0.0;
            hn_set_f32(a->y, t, i * a->ld_y + j, (float)v);
        }
    }
    return HN_OK;
}

/* dy where relu let y through. */
static double masked(const hn_batch_norm_bwd_args *a, int64_t i, int64_t j)
{
    if (a->y != NULL && hn_get_f32(a->y, a->dtype, i * a->ld_y + j) <= 0.0f) return 0.0;
    if (a->bias != NULL) {
        const double z =
            ((double)hn_get_f32(a->x, a->dtype, i * a->ld_x + j) - (double)a->mean[j]) *
            (double)a->rstd[j];
        const double y = z * (double)hn_get_f32(a->gain, a->gain_dtype, j) +
                         (double)hn_get_f32(a->bias, a->bias_dtype, j);
        if (y <= 0.0) return 0.0;
    }
    return (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + j);
}

hn_status hn_batch_norm_bwd_cpu(const hn_batch_norm_bwd_args *a)
{
    HN_TRY(hn_batch_norm_bwd_check(a));
    const hn_dtype t = a->dtype;
    for (int64_t j = 0; j < a->cols; j++) {
        const double mean = (double)a->mean[j], rstd = (double)a->rstd[j], n = (double)a->rows;
        const double gain = (double)hn_get_f32(a->gain, a->gain_dtype, j);
        double sum = 0.0, dot = 0.0; /* of g, of g z */
        for (int64_t i = 0; i < a->rows; i++) {
            const double g = masked(a, i, j);
            sum += g;
            dot += g * ((double)hn_get_f32(a->x, t, i * a->ld_x + j) - mean) * rstd;
        }
        if (a->dgain) a->dgain[j] = (float)((double)a->dgain[j] + dot);
        if (a->dbias) a->dbias[j] = (float)((double)a->dbias[j] + sum);
        for (int64_t i = 0; i < a->rows; i++) {
            const double g = masked(a, i, j);
            const double z = ((double)hn_get_f32(a->x, t, i * a->ld_x + j) - mean) * rstd;
            const double rest = a->frozen ? 0.0 : sum / n + z * (dot / n);
            if (a->dres) hn_set_f32(a->dres, t, i * a->ld_dres + j, (float)g);
            if (a->dx) hn_set_f32(a->dx, t, i * a->ld_dx + j, (float)(rstd * gain * (g - rest)));
        }
    }
    return HN_OK;
}
