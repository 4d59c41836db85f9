/* The twin: plain loops, sums in double. */
#include "kernels/lora/magnitude.h"
#include "runtime/base/check.h"

static const char fwd[] = "magnitude", bwd[] = "magnitude_bwd";

hn_status hn_magnitude_check(const hn_magnitude_args *a)
{
    HN_TRY(hn_check_pointer(fwd, "args", a));
    HN_TRY(hn_check_float(fwd, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(fwd, "z", a->z, a->rows, a->cols, a->ld_z));
    HN_TRY(hn_check_matrix(fwd, "y", a->y, a->rows, a->cols, a->ld_y));
    HN_TRY(hn_check_pointer(fwd, "m", a->m));
    HN_TRY(hn_check_pointer(fwd, "norm", a->norm));
    if (a->bias) HN_TRY(hn_check_float(fwd, "bias_dtype", a->bias_dtype));
    return hn_check_in_place(fwd, a->z, a->ld_z, a->y, a->ld_y);
}

hn_status hn_magnitude_bwd_check(const hn_magnitude_bwd_args *a)
{
    HN_TRY(hn_check_pointer(bwd, "args", a));
    HN_TRY(hn_check_float(bwd, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(bwd, "dy", a->dy, a->rows, a->cols, a->ld_dy));
    HN_TRY(hn_check_matrix(bwd, "z", a->z, a->rows, a->cols, a->ld_z));
    HN_TRY(hn_check_matrix(bwd, "dz", a->dz, a->rows, a->cols, a->ld_dz));
    HN_TRY(hn_check_pointer(bwd, "m", a->m));
    HN_TRY(hn_check_pointer(bwd, "norm", a->norm));
    HN_TRY(hn_check_in_place(bwd, a->dy, a->ld_dy, a->dz, a->ld_dz));
    return hn_check_in_place(bwd, a->z, a->ld_z, a->dz, a->ld_dz);
}

static double at(const void *p, hn_dtype t, int64_t i) { return (double)hn_get_f32(p, t, i); }

hn_status hn_magnitude_fwd_cpu(const hn_magnitude_args *a)
{
    HN_TRY(hn_magnitude_check(a));
    for (int64_t o = 0; o < a->cols; o++) {
        const double f = a->norm[o] != 0 ? (double)(a->m[o] / a->norm[o]) : 0;
        const double bias = a->bias ? at(a->bias, a->bias_dtype, o) : 0;
        for (int64_t i = 0; i < a->rows; i++)
            hn_set_f32(a->y, a->dtype, i * a->ld_y + o,
                       (float)(f * at(a->z, a->dtype, i * a->ld_z + o) + bias));
    }
    return HN_OK;
}

hn_status hn_magnitude_bwd_cpu(const hn_magnitude_bwd_args *a)
{
    HN_TRY(hn_magnitude_bwd_check(a));
    for (int64_t o = 0; o < a->cols; o++) {
        const double f = a->norm[o] != 0 ? (double)(a->m[o] / a->norm[o]) : 0;
        double sum = 0;
        for (int64_t i = 0; i < a->rows; i++) {
            const double dy = at(a->dy, a->dtype, i * a->ld_dy + o);
            if (a->dm) sum += dy * at(a->z, a->dtype, i * a->ld_z + o);
            hn_set_f32(a->dz, a->dtype, i * a->ld_dz + o, (float)(f * dy));
        }
        if (a->dm && a->norm[o] != 0) a->dm[o] += (float)(sum / (double)a->norm[o]);
    }
    return HN_OK;
}
