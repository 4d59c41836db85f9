#include <inttypes.h>

#include "kernels/vision/upsample.h"
#include "runtime/base/check.h"

static hn_status check_volume(const char *op, const char *name, int64_t n, int64_t d, int64_t h,
                              int64_t w)
{
    if (n >= 1 && d >= 1 && h >= 1 && w >= 1 && n <= INT32_MAX / d && n * d <= INT32_MAX / h &&
        n * d * h <= INT32_MAX / w)
        return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE,
                   "%s: %s has %" PRId64 " x %" PRId64 " x %" PRId64 " x %" PRId64
                   " voxels, must be 1 to 2^31 - 1",
                   op, name, n, d, h, w);
}

hn_status hn_upsample_check_shape(const char *op, const hn_upsample_shape *s)
{
    HN_TRY(check_volume(op, "x", s->n, s->d, s->h, s->w));
    HN_TRY(check_volume(op, "y", s->n, s->out_d, s->out_h, s->out_w));
    if (s->d <= s->out_d && s->h <= s->out_h && s->w <= s->out_w) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE,
                   "%s: volumes of %" PRId64 " x %" PRId64 " x %" PRId64
                   " cannot become smaller ones of %" PRId64 " x %" PRId64 " x %" PRId64,
                   op, s->d, s->h, s->w, s->out_d, s->out_h, s->out_w);
}

hn_status hn_upsample_check(const hn_upsample_args *a)
{
    static const char op[] = "upsample";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_upsample_check_shape(op, &a->s));
    const int64_t rows = hn_upsample_rows_out(&a->s);
    HN_TRY(hn_check_matrix(op, "x", a->x, hn_upsample_rows_in(&a->s), a->s.c, a->ld_x));
    if (a->skip)
        HN_TRY(hn_check_matrix(op, "skip", a->skip, rows, a->c_skip, a->ld_skip));
    else if (a->c_skip != 0)
        return HN_FAIL(HN_ERR_ARG, "%s: skip is NULL and has %" PRId64 " channels", op, a->c_skip);
    return hn_check_matrix(op, "y", a->y, rows, a->c_skip + a->s.c, a->ld_y);
}

hn_status hn_upsample_bwd_check(const hn_upsample_bwd_args *a)
{
    static const char op[] = "upsample_bwd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_upsample_check_shape(op, &a->s));
    HN_TRY(hn_check_matrix(op, "dy", a->dy, hn_upsample_rows_out(&a->s), a->s.c, a->ld_dy));
    return hn_check_matrix(op, "dx", a->dx, hn_upsample_rows_in(&a->s), a->s.c, a->ld_dx);
}

hn_status hn_upsample_fwd_cpu(const hn_upsample_args *a)
{
    HN_TRY(hn_upsample_check(a));
    const hn_upsample_shape *const s = &a->s;
    for (int64_t row = 0; row < hn_upsample_rows_out(s); row++) {
        const int64_t v = row % s->out_w, q = row / s->out_w % s->out_h;
        const int64_t p = row / s->out_w / s->out_h % s->out_d;
        const int64_t n = row / s->out_w / s->out_h / s->out_d;
        const int64_t i = p * s->d / s->out_d, j = q * s->h / s->out_h, k = v * s->w / s->out_w;
        const int64_t x = (((n * s->d + i) * s->h + j) * s->w + k) * a->ld_x;
        for (int64_t c = 0; c < a->c_skip + s->c; c++)
            hn_set_f32(a->y, a->dtype, row * a->ld_y + c,
                       c < a->c_skip ? hn_get_f32(a->skip, a->dtype, row * a->ld_skip + c)
                                     : hn_get_f32(a->x, a->dtype, x + c - a->c_skip));
    }
    return HN_OK;
}

/* Asks every voxel of the volume. */
static double dx_element(const hn_upsample_bwd_args *a, int64_t n, int64_t i, int64_t j, int64_t k,
                         int64_t c)
{
    const hn_upsample_shape *const s = &a->s;
    double sum = 0.0;
    for (int64_t p = 0; p < s->out_d; p++)
        for (int64_t q = 0; q < s->out_h; q++)
            for (int64_t v = 0; v < s->out_w; v++)
                if (p * s->d / s->out_d == i && q * s->h / s->out_h == j &&
                    v * s->w / s->out_w == k) {
                    const int64_t row = ((n * s->out_d + p) * s->out_h + q) * s->out_w + v;
                    sum += (double)hn_get_f32(a->dy, a->dtype, row * a->ld_dy + c);
                }
    return sum;
}

hn_status hn_upsample_bwd_cpu(const hn_upsample_bwd_args *a)
{
    HN_TRY(hn_upsample_bwd_check(a));
    const hn_upsample_shape *const s = &a->s;
    for (int64_t row = 0; row < hn_upsample_rows_in(s); row++)
        for (int64_t c = 0; c < s->c; c++)
            hn_set_f32(a->dx, a->dtype, row * a->ld_dx + c,
                       (float)dx_element(a, row / s->w / s->h / s->d, row / s->w / s->h % s->d,
                                         row / s->w % s->h, row % s->w, c));
    return HN_OK;
}
