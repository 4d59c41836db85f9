/* In strips of columns, a thread each: no two threads add to one sum. */
#include "kernels/lora/magnitude.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* Sums over runs of RUN rows first, so that a long column loses no more than a short one. */
enum { RUN = 64, WIDTH = 64 };

static void factors(const float *m, const float *norm, int64_t n, float *f)
{
    for (int64_t j = 0; j < n; j++) f[j] = norm[j] != 0 ? m[j] / norm[j] : 0;
}

HN_MULTIVERSION static void scale_row(const float *z, const float *f, const float *bias, int64_t n,
                                      float *y)
{
    for (int64_t j = 0; j < n; j++) y[j] = f[j] * z[j] + bias[j];
}

hn_status hn_magnitude_fwd_fast(const hn_magnitude_args *a)
{
    HN_TRY(hn_magnitude_check(a));
    const int64_t strips = (a->cols + WIDTH - 1) / WIDTH;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t s = 0; s < strips; s++) {
        const int64_t o = s * WIDTH, n = a->cols - o < WIDTH ? a->cols - o : WIDTH;
        float f[WIDTH], bias[WIDTH] = {0}, from[HN_BLOCK], to[HN_BLOCK];
        factors(a->m + o, a->norm + o, n, f);
        if (a->bias) hn_to_f32(a->bias, a->bias_dtype, o, n, bias);
        for (int64_t i = 0; i < a->rows; i++) {
            const float *z = hn_load_f32(a->z, a->dtype, i * a->ld_z + o, n, from);
            float *y = hn_target_f32(a->y, a->dtype, i * a->ld_y + o, to);
            scale_row(z, f, bias, n, y);
            hn_store_f32(y, n, a->y, a->dtype, i * a->ld_y + o);
        }
    }
    return HN_OK;
}

HN_MULTIVERSION static void add_products(const float *dy, const float *z, int64_t n, float *sum)
{
    for (int64_t j = 0; j < n; j++) sum[j] += dy[j] * z[j];
}

HN_MULTIVERSION static void scale_only(const float *dy, const float *f, int64_t n, float *dz)
{
    for (int64_t j = 0; j < n; j++) dz[j] = f[j] * dy[j];
}

static void strip_bwd(const hn_magnitude_bwd_args *a, int64_t o, int64_t n)
{
    float f[WIDTH], total[WIDTH] = {0}, dy_f32[HN_BLOCK], z_f32[HN_BLOCK], to[HN_BLOCK];
    factors(a->m + o, a->norm + o, n, f);
    for (int64_t start = 0; start < a->rows; start += RUN) {
        float part[WIDTH] = {0};
        for (int64_t i = start; i < a->rows && i < start + RUN; i++) {
            const float *dy = hn_load_f32(a->dy, a->dtype, i * a->ld_dy + o, n, dy_f32);
            float *dz = hn_target_f32(a->dz, a->dtype, i * a->ld_dz + o, to);
            if (a->dm) /* before dz, which may lie on either */
                add_products(dy, hn_load_f32(a->z, a->dtype, i * a->ld_z + o, n, z_f32), n, part);
            scale_only(dy, f, n, dz);
            hn_store_f32(dz, n, a->dz, a->dtype, i * a->ld_dz + o);
        }
        for (int64_t j = 0; j < n; j++) total[j] += part[j];
    }
    for (int64_t j = 0; a->dm && j < n; j++)
        if (a->norm[o + j] != 0) a->dm[o + j] += total[j] / a->norm[o + j];
}

hn_status hn_magnitude_bwd_fast(const hn_magnitude_bwd_args *a)
{
    HN_TRY(hn_magnitude_bwd_check(a));
    const int64_t strips = (a->cols + WIDTH - 1) / WIDTH;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t s = 0; s < strips; s++)
        strip_bwd(a, s * WIDTH, a->cols - s * WIDTH < WIDTH ? a->cols - s * WIDTH : WIDTH);
    return HN_OK;
}
