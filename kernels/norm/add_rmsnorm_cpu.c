#include "kernels/norm/add_rmsnorm.h"

#include <math.h>

#include "runtime/base/check.h"

static const char fwd[] = "add_rmsnorm", bwd[] = "add_rmsnorm_bwd";

static int64_t head_count(int64_t heads) { return heads > 1 ? heads : 1; }

/* The width of a row in memory, or -1 when heads and cols make none. */
static int64_t width_of(int64_t heads, int64_t cols)
{
    if (heads < 0 || heads > INT32_MAX || cols < 1 || cols > INT32_MAX) return -1;
    return head_count(heads) * cols;
}

hn_status hn_add_rmsnorm_check(const hn_add_rmsnorm_args *a)
{
    HN_TRY(hn_check_pointer(fwd, "args", a));
    const int64_t width = width_of(a->heads, a->cols);
    HN_TRY(hn_check_float(fwd, "dtype", a->dtype));
    HN_TRY(hn_check_float(fwd, "gain_dtype", a->gain_dtype));
    HN_TRY(hn_check_matrix(fwd, "x", a->x, a->rows, width, a->ld_x));
    HN_TRY(hn_check_matrix(fwd, "y", a->y, a->rows, width, a->ld_y));
    HN_TRY(hn_check_pointer(fwd, "gain", a->gain));
    HN_TRY(hn_check_replicas(fwd, a->rows, a->replicas));
    HN_TRY(hn_check_read_stride(fwd, "gain", a->replicas, a->gain_stride, a->cols));
    if (!(a->eps > 0.0f) || !isfinite(a->eps) || !isfinite(a->gain_offset))
        return HN_FAIL(HN_ERR_ARG, "%s: eps %g must be positive, gain_offset %g finite", fwd,
                       (double)a->eps, (double)a->gain_offset);
    if ((a->res == NULL) != (a->sum == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: res and sum go together, one of them is NULL", fwd);
    if (a->res == NULL) return HN_OK;
    HN_TRY(hn_check_matrix(fwd, "res", a->res, a->rows, width, a->ld_res));
    HN_TRY(hn_check_matrix(fwd, "sum", a->sum, a->rows, width, a->ld_sum));
    HN_TRY(hn_check_in_place(fwd, a->x, a->ld_x, a->sum, a->ld_sum));
    return hn_check_in_place(fwd, a->res, a->ld_res, a->sum, a->ld_sum);
}

hn_status hn_add_rmsnorm_bwd_check(const hn_add_rmsnorm_bwd_args *a)
{
    HN_TRY(hn_check_pointer(bwd, "args", a));
    const int64_t width = width_of(a->heads, a->cols);
    HN_TRY(hn_check_float(bwd, "dtype", a->dtype));
    HN_TRY(hn_check_float(bwd, "gain_dtype", a->gain_dtype));
    HN_TRY(hn_check_matrix(bwd, "sum", a->sum, a->rows, width, a->ld_sum));
    HN_TRY(hn_check_matrix(bwd, "dy", a->dy, a->rows, width, a->ld_dy));
    HN_TRY(hn_check_pointer(bwd, "gain", a->gain));
    HN_TRY(hn_check_pointer(bwd, "rstd", a->rstd));
    HN_TRY(hn_check_replicas(bwd, a->rows, a->replicas));
    HN_TRY(hn_check_read_stride(bwd, "gain", a->replicas, a->gain_stride, a->cols));
    if (!isfinite(a->gain_offset))
        return HN_FAIL(HN_ERR_ARG, "%s: gain_offset must be finite", bwd);
    if (a->dx == NULL && a->dgain == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: neither dx nor dgain is wanted", bwd);
    if (a->dsum) HN_TRY(hn_check_matrix(bwd, "dsum", a->dsum, a->rows, width, a->ld_dsum));
    if (a->dx) HN_TRY(hn_check_matrix(bwd, "dx", a->dx, a->rows, width, a->ld_dx));
    if (a->y) HN_TRY(hn_check_matrix(bwd, "y", a->y, a->rows, width, a->ld_y));
    if (a->y != NULL && (a->dx == NULL || a->dx == a->y))
        return HN_FAIL(HN_ERR_ARG, "%s: y needs a dx, at another place", bwd);
    const void *const in[] = {a->dy, a->dsum, a->sum};
    const int64_t ld[] = {a->ld_dy, a->ld_dsum, a->ld_sum};
    for (int k = 0; k < 3; k++) {
        HN_TRY(hn_check_in_place(bwd, in[k], ld[k], a->dx, a->ld_dx));
        HN_TRY(hn_check_in_place(bwd, in[k], ld[k], a->y, a->ld_y));
    }
    if (a->dgain == NULL) return HN_OK;
    return hn_check_stride(bwd, "dgain", a->replicas, a->dgain_stride, a->cols);
}

static double gain_at(const void *gain, hn_dtype t, float offset, int64_t i)
{
    return (double)(offset + hn_get_f32(gain, t, i));
}

hn_status hn_add_rmsnorm_fwd_cpu(const hn_add_rmsnorm_args *a)
{
    HN_TRY(hn_add_rmsnorm_check(a));
    const int64_t heads = head_count(a->heads), group = a->rows / hn_replica_count(a->replicas);
    const hn_dtype t = a->dtype;
    const void *const s = a->res ? a->sum : a->x;
    const int64_t ld_s = a->res ? a->ld_sum : a->ld_x;
    for (int64_t i = 0; i < a->rows * heads; i++) {
        const int64_t row = i / heads, col = i % heads * a->cols, g = row / group;
        double square = 0.0;
        for (int64_t j = col; j < col + a->cols; j++) {
            if (a->res)
                hn_set_f32(a->sum, t, row * a->ld_sum + j,
                           hn_get_f32(a->x, t, row * a->ld_x + j) +
                               hn_get_f32(a->res, t, row * a->ld_res + j));
            const double v = (double)hn_get_f32(s, t, row * ld_s + j);
            square += v * v;
        }
        const float rstd = (float)(1.0 / sqrt(square / (double)a->cols + (double)a->eps));
        for (int64_t j = 0; j < a->cols; j++) {
            const double v = (double)hn_get_f32(s, t, row * ld_s + col + j);
            const double gain =
                gain_at(a->gain, a->gain_dtype, a->gain_offset, g * a->gain_stride + j);
            hn_set_f32(a->y, t, row * a->ld_y + col + j, (float)(v * (double)rstd * gain));
        }
        if (a->rstd) a->rstd[i] = rstd;
    }
    return HN_OK;
}

/* dgain of one replica. */
static void add_dgain(const hn_add_rmsnorm_bwd_args *a, int64_t g)
{
    const int64_t heads = head_count(a->heads), group = a->rows / hn_replica_count(a->replicas);
    for (int64_t j = 0; j < a->cols; j++) {
        double sum = 0.0;
        for (int64_t i = g * group * heads; i < (g + 1) * group * heads; i++) {
            const int64_t row = i / heads, col = i % heads * a->cols + j;
            sum += (double)hn_get_f32(a->dy, a->dtype, row * a->ld_dy + col) *
                   (double)hn_get_f32(a->sum, a->dtype, row * a->ld_sum + col) * (double)a->rstd[i];
        }
        float *const dgain = a->dgain + g * a->dgain_stride + j;
        *dgain = (float)((double)*dgain + sum);
    }
}

hn_status hn_add_rmsnorm_bwd_cpu(const hn_add_rmsnorm_bwd_args *a)
{
    HN_TRY(hn_add_rmsnorm_bwd_check(a));
    const int64_t heads = head_count(a->heads), replicas = hn_replica_count(a->replicas);
    const int64_t group = a->rows / replicas;
    const hn_dtype t = a->dtype;
    for (int64_t g = 0; a->dgain != NULL && g < replicas; g++) add_dgain(a, g);
    for (int64_t i = 0; a->dx != NULL && i < a->rows * heads; i++) {
        const int64_t row = i / heads, col = i % heads * a->cols, g = row / group;
        const double rstd = (double)a->rstd[i];
        double mean = 0.0;
        for (int64_t j = 0; j < a->cols; j++)
            mean += (double)hn_get_f32(a->dy, t, row * a->ld_dy + col + j) *
                    gain_at(a->gain, a->gain_dtype, a->gain_offset, g * a->gain_stride + j) *
                    (double)hn_get_f32(a->sum, t, row * a->ld_sum + col + j) * rstd;
        mean /= (double)a->cols;
        for (int64_t j = 0; j < a->cols; j++) {
            const double gain =
                gain_at(a->gain, a->gain_dtype, a->gain_offset, g * a->gain_stride + j);
            const double h = (double)hn_get_f32(a->dy, t, row * a->ld_dy + col + j) * gain;
            const double z = (double)hn_get_f32(a->sum, t, row * a->ld_sum + col + j) * rstd;
            double dx = rstd * (h - z * mean);
            if (a->dsum) dx += (double)hn_get_f32(a->dsum, t, row * a->ld_dsum + col + j);
            hn_set_f32(a->dx, t, row * a->ld_dx + col + j, (float)dx);
            if (a->y) hn_set_f32(a->y, t, row * a->ld_y + col + j, (float)(z * gain));
        }
    }
    return HN_OK;
}
