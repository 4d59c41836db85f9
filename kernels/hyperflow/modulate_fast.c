/* Forward: rows go to the threads. Backward: groups do, and a group's gradients of scale and shift
 * gather over its rows, block by block of the columns. A row is walked in blocks that stay in the
 * first-level cache. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/hyperflow/modulate.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

HN_MULTIVERSION static void add_span(const float *x, const float *res, float *sum, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] = x[j] + res[j];
}

HN_MULTIVERSION static float sum_span(const float *x, int64_t n)
{
    float s = 0.0f;
#pragma omp simd reduction(+ : s)
    for (int64_t j = 0; j < n; j++) s += x[j];
    return s;
}

/* Sums of x - mean and of its square. */
HN_MULTIVERSION static void deviation_span(const float *x, float mean, float *sum, float *square,
                                           int64_t n)
{
    float s = 0.0f, q = 0.0f;
#pragma omp simd reduction(+ : s, q)
    for (int64_t j = 0; j < n; j++) {
        const float d = x[j] - mean;
        s += d;
        q += d * d;
    }
    *sum += s;
    *square += q;
}

HN_MULTIVERSION static void scale_span(const float *s, float mean, float rstd, const float *scale,
                                       const float *shift, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = (s[j] - mean) * rstd * (1.0f + scale[j]) + shift[j];
}

/* Without a normalisation mean 0 and rstd 1, which change no bit. */
typedef struct {
    float mean, rstd;
} row_moments;

static row_moments moments_of(const hn_modulate_args *a, const void *s, int64_t at, float total)
{
    if (a->eps == 0.0f) return (row_moments){0.0f, 1.0f};
    const float near = total / (float)a->cols; /* the mean but for the rounding of a large sum */
    float b[HN_BLOCK], sum = 0.0f, square = 0.0f;
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        deviation_span(hn_load_f32(s, a->dtype, at + j, n, b), near, &sum, &square, n);
    }
    const float off = sum / (float)a->cols, var = square / (float)a->cols - off * off;
    return (row_moments){near + off, 1.0f / sqrtf(fmaxf(var, 0.0f) + a->eps)};
}

static void run_row(const hn_modulate_args *a, int64_t row, int64_t e)
{
    const hn_dtype t = a->dtype;
    const void *const s = a->res ? a->sum : a->x;
    const int64_t s_at = row * (a->res ? a->ld_sum : a->ld_x);
    float b[3][HN_BLOCK], out[HN_BLOCK], total = 0.0f;
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        if (a->res != NULL) {
            float *const to = hn_target_f32(a->sum, t, s_at + j, out);
            add_span(hn_load_f32(a->x, t, row * a->ld_x + j, n, b[0]),
                     hn_load_f32(a->res, t, row * a->ld_res + j, n, b[1]), to, n);
            hn_store_f32(to, n, a->sum, t, s_at + j);
        }
        if (a->eps > 0.0f) total += sum_span(hn_load_f32(s, t, s_at + j, n, b[0]), n);
    }
    const row_moments m = moments_of(a, s, s_at, total);
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols), at = row * a->ld_y + j;
        float *const y = hn_target_f32(a->y, t, at, out);
        scale_span(hn_load_f32(s, t, s_at + j, n, b[0]), m.mean, m.rstd,
                   hn_load_f32(a->scale, t, e * a->ld_scale + j, n, b[1]),
                   hn_load_f32(a->shift, t, e * a->ld_shift + j, n, b[2]), y, n);
        hn_store_f32(y, n, a->y, t, at);
    }
    if (a->mean) a->mean[row] = m.mean, a->rstd[row] = m.rstd;
}

hn_status hn_modulate_fwd_fast(const hn_modulate_args *a)
{
    HN_TRY(hn_modulate_check(a));
    const int64_t group = a->rows / a->groups;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t row = 0; row < a->rows; row++) run_row(a, row, row / group);
    return HN_OK;
}

/* Sums of h = dy (1 + scale) and of h z. */
HN_MULTIVERSION static void dot_span(const float *dy, const float *scale, const float *s,
                                     row_moments m, float *sum, float *dot, int64_t n)
{
    float v = 0.0f, d = 0.0f;
#pragma omp simd reduction(+ : v, d)
    for (int64_t j = 0; j < n; j++) {
        const float h = dy[j] * (1.0f + scale[j]);
        v += h;
        d += h * ((s[j] - m.mean) * m.rstd);
    }
    *sum += v;
    *dot += d;
}

/* What a row's dx needs besides its operands: sum and dot are means, 0 without a normalisation. */
typedef struct {
    row_moments m;
    float sum, dot;
} row_state;

HN_MULTIVERSION static void dx_span(const float *dy, const float *scale, const float *s,
                                    const float *dsum, row_state r, float *dx, int64_t n)
{
    if (dsum == NULL) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            dx[j] = r.m.rstd *
                    (dy[j] * (1.0f + scale[j]) - r.sum - (s[j] - r.m.mean) * r.m.rstd * r.dot);
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        dx[j] =
            r.m.rstd * (dy[j] * (1.0f + scale[j]) - r.sum - (s[j] - r.m.mean) * r.m.rstd * r.dot) +
            dsum[j];
}

HN_MULTIVERSION static void params_span(const float *dy, const float *s, row_moments m,
                                        float *dscale, float *dshift, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        dscale[j] += dy[j] * ((s[j] - m.mean) * m.rstd);
        dshift[j] += dy[j];
    }
}

static row_moments kept(const hn_modulate_bwd_args *a, int64_t row)
{
    if (a->mean == NULL) return (row_moments){0.0f, 1.0f};
    return (row_moments){a->mean[row], a->rstd[row]};
}

static void set_params(const hn_modulate_bwd_args *a, int64_t e, int64_t group)
{
    const hn_dtype t = a->dtype;
    float b[2][HN_BLOCK], dscale[HN_BLOCK], dshift[HN_BLOCK];
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        memset(dscale, 0, sizeof dscale);
        memset(dshift, 0, sizeof dshift);
        for (int64_t row = e * group; row < (e + 1) * group; row++)
            params_span(hn_load_f32(a->dy, t, row * a->ld_dy + j, n, b[0]),
                        hn_load_f32(a->sum, t, row * a->ld_sum + j, n, b[1]), kept(a, row), dscale,
                        dshift, n);
        for (int64_t c = 0; c < n; c++) {
            hn_set_f32(a->dscale, t, e * a->ld_dscale + j + c, dscale[c]);
            hn_set_f32(a->dshift, t, e * a->ld_dshift + j + c, dshift[c]);
        }
    }
}

static void set_dx(const hn_modulate_bwd_args *a, int64_t row, int64_t e)
{
    const hn_dtype t = a->dtype;
    const int64_t s_at = row * a->ld_sum, dy_at = row * a->ld_dy, scale_at = e * a->ld_scale;
    row_state r = {kept(a, row), 0.0f, 0.0f};
    float b[4][HN_BLOCK], out[HN_BLOCK];
    for (int64_t j = 0; a->mean != NULL && j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        dot_span(hn_load_f32(a->dy, t, dy_at + j, n, b[0]),
                 hn_load_f32(a->scale, t, scale_at + j, n, b[1]),
                 hn_load_f32(a->sum, t, s_at + j, n, b[2]), r.m, &r.sum, &r.dot, n);
    }
    r.sum /= (float)a->cols;
    r.dot /= (float)a->cols;
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols), at = row * a->ld_dx + j;
        const float *dsum = NULL;
        if (a->dsum) dsum = hn_load_f32(a->dsum, t, row * a->ld_dsum + j, n, b[3]);
        float *const dx = hn_target_f32(a->dx, t, at, out);
        dx_span(hn_load_f32(a->dy, t, dy_at + j, n, b[0]),
                hn_load_f32(a->scale, t, scale_at + j, n, b[1]),
                hn_load_f32(a->sum, t, s_at + j, n, b[2]), dsum, r, dx, n);
        hn_store_f32(dx, n, a->dx, t, at);
    }
}

hn_status hn_modulate_bwd_fast(const hn_modulate_bwd_args *a)
{
    HN_TRY(hn_modulate_bwd_check(a));
    const int64_t group = a->rows / a->groups;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t e = 0; e < a->groups; e++) {
        if (a->dscale) set_params(a, e, group); /* first: dx may lie on what it reads */
        for (int64_t row = e * group; a->dx != NULL && row < (e + 1) * group; row++)
            set_dx(a, row, e);
    }
    return HN_OK;
}
