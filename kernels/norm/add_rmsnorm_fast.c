/* Rows go to the threads; a row is walked in blocks that stay in the first-level cache. */
#include <math.h>
#include <string.h>

#include "kernels/norm/add_rmsnorm.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

static int64_t head_count(int64_t heads) { return heads > 1 ? heads : 1; }

HN_MULTIVERSION static void add_span(const float *x, const float *res, float *sum, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] = x[j] + res[j];
}

HN_MULTIVERSION static float square_span(const float *x, int64_t n)
{
    float s = 0.0f;
#pragma omp simd reduction(+ : s)
    for (int64_t j = 0; j < n; j++) s += x[j] * x[j];
    return s;
}

HN_MULTIVERSION static void scale_span(const float *s, const float *gain, float offset, float rstd,
                                       float *y, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = s[j] * rstd * (offset + gain[j]);
}

/* The vector that starts at column `col` of a row. */
static void normalise(const hn_add_rmsnorm_args *a, int64_t row, int64_t col, const void *gain,
                      int64_t gain_at, float *rstd_out)
{
    const hn_dtype t = a->dtype;
    const void *const s = a->res ? a->sum : a->x;
    const int64_t s_at = col + row * (a->res ? a->ld_sum : a->ld_x);
    float one[HN_BLOCK], two[HN_BLOCK], three[HN_BLOCK], square = 0.0f;
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols), at = col + j;
        if (a->res != NULL) {
            float *const sum = hn_target_f32(a->sum, t, s_at + j, three);
            add_span(hn_load_f32(a->x, t, row * a->ld_x + at, n, one),
                     hn_load_f32(a->res, t, row * a->ld_res + at, n, two), sum, n);
            hn_store_f32(sum, n, a->sum, t, s_at + j);
        }
        square += square_span(hn_load_f32(s, t, s_at + j, n, one), n);
    }
    const float rstd = 1.0f / sqrtf(square / (float)a->cols + a->eps);
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols), at = row * a->ld_y + col + j;
        float *const y = hn_target_f32(a->y, t, at, three);
        scale_span(hn_load_f32(s, t, s_at + j, n, one),
                   hn_load_f32(gain, a->gain_dtype, gain_at + j, n, two), a->gain_offset, rstd, y,
                   n);
        hn_store_f32(y, n, a->y, t, at);
    }
    if (rstd_out) *rstd_out = rstd;
}

hn_status hn_add_rmsnorm_fwd_fast(const hn_add_rmsnorm_args *a)
{
    HN_TRY(hn_add_rmsnorm_check(a));
    const int64_t heads = head_count(a->heads), group = a->rows / hn_replica_count(a->replicas);
#pragma omp parallel for schedule(static) if (a->rows * heads * a->cols > HN_OMP_MIN)
    for (int64_t row = 0; row < a->rows; row++)
        for (int64_t h = 0; h < heads; h++)
            normalise(a, row, h * a->cols, a->gain, row / group * a->gain_stride,
                      a->rstd ? a->rstd + row * heads + h : NULL);
    return HN_OK;
}

/* sum_j dy gain s */
HN_MULTIVERSION static float dot_span(const float *dy, const float *gain, float offset,
                                      const float *s, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) sum += dy[j] * (offset + gain[j]) * s[j];
    return sum;
}

/* dx = rstd dy gain - c s (+ dsum) with c = rstd^3 mean(dy gain s) */
HN_MULTIVERSION static void dx_span(const float *dy, const float *gain, float offset,
                                    const float *s, const float *dsum, float rstd, float c,
                                    float *dx, int64_t n)
{
    if (dsum == NULL) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) dx[j] = rstd * (dy[j] * (offset + gain[j])) - c * s[j];
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        dx[j] = rstd * (dy[j] * (offset + gain[j])) - c * s[j] + dsum[j];
}

HN_MULTIVERSION static void dgain_span(const float *dy, const float *s, float rstd, float *dgain,
                                       int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) dgain[j] += dy[j] * s[j] * rstd;
}

/* One vector; partial [cols] gathers dgain, NULL when it is not wanted. dgain comes first in
 * each block, because dx may lie on dy. */
static void differentiate(const hn_add_rmsnorm_bwd_args *a, int64_t row, int64_t col,
                          int64_t gain_at, float rstd, float *partial)
{
    const hn_dtype t = a->dtype, tg = a->gain_dtype;
    const int64_t s_at = row * a->ld_sum + col, dy_at = row * a->ld_dy + col;
    float b[4][HN_BLOCK], out[HN_BLOCK], again[HN_BLOCK], dot = 0.0f;
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        const float *const dy = hn_load_f32(a->dy, t, dy_at + j, n, b[0]);
        const float *const s = hn_load_f32(a->sum, t, s_at + j, n, b[1]);
        if (partial) dgain_span(dy, s, rstd, partial + j, n);
        if (a->dx)
            dot +=
                dot_span(dy, hn_load_f32(a->gain, tg, gain_at + j, n, b[2]), a->gain_offset, s, n);
    }
    const float c = rstd * rstd * rstd * dot / (float)a->cols;
    for (int64_t j = 0; a->dx != NULL && j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols), at = row * a->ld_dx + col + j;
        const float *dsum = NULL;
        if (a->dsum) dsum = hn_load_f32(a->dsum, t, row * a->ld_dsum + col + j, n, b[3]);
        const float *const gain = hn_load_f32(a->gain, tg, gain_at + j, n, b[2]);
        const float *const s = hn_load_f32(a->sum, t, s_at + j, n, b[1]);
        if (a->y) scale_span(s, gain, a->gain_offset, rstd, again, n);
        float *const dx = hn_target_f32(a->dx, t, at, out);
        dx_span(hn_load_f32(a->dy, t, dy_at + j, n, b[0]), gain, a->gain_offset, s, dsum, rstd, c,
                dx, n);
        hn_store_f32(dx, n, a->dx, t, at);
        if (a->y) hn_from_f32(again, n, a->y, t, row * a->ld_y + col + j);
    }
}

/* The rows of a replica fall into at most PARTS runs, cut by their number alone; each gathers
 * its own partial dgain, and the partials are added in order. */
enum { PARTS = 64, RUN_MIN = 32 };

static int64_t run_length(int64_t group)
{
    const int64_t n = (group + PARTS - 1) / PARTS;
    return n > RUN_MIN ? n : RUN_MIN;
}

static int64_t run_count(int64_t group)
{
    return (group + run_length(group) - 1) / run_length(group);
}

size_t hn_add_rmsnorm_bwd_fast_scratch(const hn_add_rmsnorm_bwd_args *a)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    return (size_t)(replicas * run_count(a->rows / replicas) * a->cols) * sizeof(float);
}

static void add_partials(const hn_add_rmsnorm_bwd_args *a, const float *partials, int64_t runs)
{
    for (int64_t g = 0; g < hn_replica_count(a->replicas); g++)
        for (int64_t j = 0; j < a->cols; j++) {
            float sum = 0.0f;
            for (int64_t r = 0; r < runs; r++) sum += partials[(g * runs + r) * a->cols + j];
            a->dgain[g * a->dgain_stride + j] += sum;
        }
}

hn_status hn_add_rmsnorm_bwd_fast(const hn_add_rmsnorm_bwd_args *a, void *scratch)
{
    HN_TRY(hn_add_rmsnorm_bwd_check(a));
    if (a->dgain) HN_TRY(hn_check_pointer("add_rmsnorm_bwd", "scratch", scratch));
    const int64_t heads = head_count(a->heads), replicas = hn_replica_count(a->replicas);
    const int64_t group = a->rows / replicas, length = run_length(group), runs = run_count(group);
    float *const partials = a->dgain ? scratch : NULL;
#pragma omp parallel for schedule(static) if (a->rows * heads * a->cols > HN_OMP_MIN)
    for (int64_t run = 0; run < replicas * runs; run++) {
        const int64_t g = run / runs, first = g * group + run % runs * length;
        const int64_t end = (g + 1) * group, last = first + length < end ? first + length : end;
        float *const partial = partials ? partials + run * a->cols : NULL;
        if (partial) memset(partial, 0, (size_t)a->cols * sizeof *partial);
        for (int64_t row = first; row < last; row++)
            for (int64_t h = 0; h < heads; h++)
                differentiate(a, row, h * a->cols, g * a->gain_stride, a->rstd[row * heads + h],
                              partial);
    }
    if (partials) add_partials(a, partials, runs);
    return HN_OK;
}
