#include "kernels/norm/group_norm.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/check.h"

static const char fwd[] = "group_norm", bwd[] = "group_norm_bwd";

/* Rows of all images; -1 when there is no such number. */
static int64_t rows_of(int64_t images, int64_t pixels)
{
    if (images < 1 || pixels < 1 || images > INT32_MAX || pixels > INT32_MAX) return -1;
    return images * pixels;
}

static hn_status check_groups(const char *op, int64_t images, int64_t cols, int64_t groups,
                              int64_t replicas)
{
    if (groups < 1 || cols % groups != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " columns do not split into %" PRId64 " groups",
                       op, cols, groups);
    return hn_check_replicas(op, images, replicas);
}

hn_status hn_group_norm_check(const hn_group_norm_args *a)
{
    HN_TRY(hn_check_pointer(fwd, "args", a));
    const int64_t rows = rows_of(a->images, a->pixels);
    HN_TRY(hn_check_float(fwd, "dtype", a->dtype));
    HN_TRY(hn_check_float(fwd, "gain_dtype", a->gain_dtype));
    HN_TRY(hn_check_float(fwd, "bias_dtype", a->bias_dtype));
    HN_TRY(hn_check_matrix(fwd, "x", a->x, rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix(fwd, "y", a->y, rows, a->cols, a->ld_y));
    HN_TRY(hn_check_pointer(fwd, "gain", a->gain));
    HN_TRY(hn_check_pointer(fwd, "bias", a->bias));
    HN_TRY(hn_check_pointer(fwd, "mean", a->mean));
    HN_TRY(hn_check_pointer(fwd, "rstd", a->rstd));
    HN_TRY(check_groups(fwd, a->images, a->cols, a->groups, a->replicas));
    HN_TRY(hn_check_read_stride(fwd, "gain", a->replicas, a->gain_stride, a->cols));
    HN_TRY(hn_check_read_stride(fwd, "bias", a->replicas, a->bias_stride, a->cols));
    if (a->pixels * (a->cols / a->groups) < 2)
        return HN_FAIL(HN_ERR_SHAPE, "%s: expected more than 1 value per group, got 1", fwd);
    if (!(a->eps > 0.0f) || !isfinite(a->eps))
        return HN_FAIL(HN_ERR_ARG, "%s: eps %g must be positive", fwd, (double)a->eps);
    return hn_check_in_place(fwd, a->x, a->ld_x, a->y, a->ld_y);
}

hn_status hn_group_norm_bwd_check(const hn_group_norm_bwd_args *a)
{
    HN_TRY(hn_check_pointer(bwd, "args", a));
    const int64_t rows = rows_of(a->images, a->pixels);
    HN_TRY(hn_check_float(bwd, "dtype", a->dtype));
    HN_TRY(hn_check_float(bwd, "gain_dtype", a->gain_dtype));
    HN_TRY(hn_check_matrix(bwd, "x", a->x, rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix(bwd, "dy", a->dy, rows, a->cols, a->ld_dy));
    if (a->dx) HN_TRY(hn_check_matrix(bwd, "dx", a->dx, rows, a->cols, a->ld_dx));
    HN_TRY(hn_check_pointer(bwd, "gain", a->gain));
    HN_TRY(hn_check_pointer(bwd, "mean", a->mean));
    HN_TRY(hn_check_pointer(bwd, "rstd", a->rstd));
    HN_TRY(check_groups(bwd, a->images, a->cols, a->groups, a->replicas));
    HN_TRY(hn_check_read_stride(bwd, "gain", a->replicas, a->gain_stride, a->cols));
    if (a->dx == NULL && a->dgain == NULL && a->dbias == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: none of dx, dgain and dbias is wanted", bwd);
    HN_TRY(hn_check_in_place(bwd, a->dy, a->ld_dy, a->dx, a->ld_dx));
    HN_TRY(hn_check_in_place(bwd, a->x, a->ld_x, a->dx, a->ld_dx));
    if (a->dgain) HN_TRY(hn_check_stride(bwd, "dgain", a->replicas, a->dgain_stride, a->cols));
    if (a->dbias) HN_TRY(hn_check_stride(bwd, "dbias", a->replicas, a->dbias_stride, a->cols));
    return HN_OK;
}

/* The element of a group of an image: pixel e / width, channel e % width of the group. */
typedef struct {
    int64_t row, col;
} place;

static place place_of(int64_t image, int64_t group, int64_t pixels, int64_t width, int64_t e)
{
    return (place){image * pixels + e / width, group * width + e % width};
}

hn_status hn_group_norm_fwd_cpu(const hn_group_norm_args *a)
{
    HN_TRY(hn_group_norm_check(a));
    const hn_dtype t = a->dtype;
    const int64_t width = a->cols / a->groups, n = a->pixels * width;
    const int64_t share = a->images / hn_replica_count(a->replicas);
    for (int64_t u = 0; u < a->images * a->groups; u++) {
        const int64_t image = u / a->groups, group = u % a->groups, r = image / share;
        double mean = 0.0, var = 0.0;
        for (int64_t e = 0; e < n; e++) {
            const place p = place_of(image, group, a->pixels, width, e);
            mean += (double)hn_get_f32(a->x, t, p.row * a->ld_x + p.col);
        }
        mean /= (double)n;
        for (int64_t e = 0; e < n; e++) {
            const place p = place_of(image, group, a->pixels, width, e);
            const double d = (double)hn_get_f32(a->x, t, p.row * a->ld_x + p.col) - mean;
            var += d * d;
        }
        a->mean[u] = (float)mean;
        a->rstd[u] = (float)(1.0 / sqrt(var / (double)n + (double)a->eps));
        for (int64_t e = 0; e < n; e++) {
            const place p = place_of(image, group, a->pixels, width, e);
            const double z =
                ((double)hn_get_f32(a->x, t, p.row * a->ld_x + p.col) - (double)a->mean[u]) *
                (double)a->rstd[u];
            const float gain = hn_get_f32(a->gain, a->gain_dtype, r * a->gain_stride + p.col);
            const float bias = hn_get_f32(a->bias, a->bias_dtype, r * a->bias_stride + p.col);
            hn_set_f32(a->y, t, p.row * a->ld_y + p.col, (float)(z * (double)gain + (double)bias));
        }
    }
    return HN_OK;
}

static double z_at(const hn_group_norm_bwd_args *a, int64_t u, place p)
{
    return ((double)hn_get_f32(a->x, a->dtype, p.row * a->ld_x + p.col) - (double)a->mean[u]) *
           (double)a->rstd[u];
}

static double dy_at(const hn_group_norm_bwd_args *a, place p)
{
    return (double)hn_get_f32(a->dy, a->dtype, p.row * a->ld_dy + p.col);
}

/* dgain and dbias of column j of replica r. */
static void add_column(const hn_group_norm_bwd_args *a, int64_t r, int64_t j)
{
    const int64_t rows = a->images * a->pixels / hn_replica_count(a->replicas);
    const int64_t group = j / (a->cols / a->groups);
    double sum = 0.0, dot = 0.0;
    for (int64_t i = r * rows; i < (r + 1) * rows; i++) {
        const place p = {i, j};
        sum += dy_at(a, p);
        dot += dy_at(a, p) * z_at(a, i / a->pixels * a->groups + group, p);
    }
    float *const dgain = a->dgain ? a->dgain + r * a->dgain_stride + j : NULL;
    float *const dbias = a->dbias ? a->dbias + r * a->dbias_stride + j : NULL;
    if (dgain) *dgain = (float)((double)*dgain + dot);
    if (dbias) *dbias = (float)((double)*dbias + sum);
}

hn_status hn_group_norm_bwd_cpu(const hn_group_norm_bwd_args *a)
{
    HN_TRY(hn_group_norm_bwd_check(a));
    const int64_t width = a->cols / a->groups, n = a->pixels * width;
    const int64_t replicas = hn_replica_count(a->replicas), share = a->images / replicas;
    for (int64_t k = 0; k < replicas * a->cols; k++) add_column(a, k / a->cols, k % a->cols);
    for (int64_t u = 0; a->dx != NULL && u < a->images * a->groups; u++) {
        const int64_t image = u / a->groups, group = u % a->groups;
        const int64_t gain_at = image / share * a->gain_stride;
        double sum = 0.0, dot = 0.0;
        for (int64_t e = 0; e < n; e++) {
            const place p = place_of(image, group, a->pixels, width, e);
            const double h =
                dy_at(a, p) * (double)hn_get_f32(a->gain, a->gain_dtype, gain_at + p.col);
            sum += h;
            dot += h * z_at(a, u, p);
        }
        sum /= (double)n;
        dot /= (double)n;
        for (int64_t e = 0; e < n; e++) {
            const place p = place_of(image, group, a->pixels, width, e);
            const double h =
                dy_at(a, p) * (double)hn_get_f32(a->gain, a->gain_dtype, gain_at + p.col);
            hn_set_f32(a->dx, a->dtype, p.row * a->ld_dx + p.col,
                       (float)((double)a->rstd[u] * (h - sum - z_at(a, u, p) * dot)));
        }
    }
    return HN_OK;
}
