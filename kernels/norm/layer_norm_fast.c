/* Rows go to the threads; a row is walked in blocks that stay in the first-level cache. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/norm/layer_norm.h"
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

HN_MULTIVERSION static void scale_span(const float *s, float mean, float rstd, const float *gain,
                                       const float *bias, float *y, int64_t n)
{
    if (bias == NULL) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) y[j] = (s[j] - mean) * rstd * gain[j];
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = (s[j] - mean) * rstd * gain[j] + bias[j];
}

static void normalise(const hn_layer_norm_args *a, int64_t row, int64_t replica)
{
    const hn_dtype t = a->dtype;
    const void *const s = a->res ? a->sum : a->x;
    const int64_t s_at = row * (a->res ? a->ld_sum : a->ld_x);
    float b[3][HN_BLOCK], out[HN_BLOCK], total = 0.0f, sum = 0.0f, square = 0.0f;
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        if (a->res != NULL) {
            float *const to = hn_target_f32(a->sum, t, s_at + j, out);
            add_span(hn_load_f32(a->x, t, row * a->ld_x + j, n, b[0]),
                     hn_load_f32(a->res, t, row * a->ld_res + j, n, b[1]), to, n);
            hn_store_f32(to, n, a->sum, t, s_at + j);
        }
        total += sum_span(hn_load_f32(s, t, s_at + j, n, b[0]), n);
    }
    const float near = total / (float)a->cols; /* the mean but for the rounding of a large sum */
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        deviation_span(hn_load_f32(s, t, s_at + j, n, b[0]), near, &sum, &square, n);
    }
    const float off = sum / (float)a->cols, mean = near + off;
    const float rstd = 1.0f / sqrtf(fmaxf(square / (float)a->cols - off * off, 0.0f) + a->eps);
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols), at = row * a->ld_y + j;
        const float *bias = NULL;
        if (a->bias)
            bias = hn_load_f32(a->bias, a->bias_dtype, replica * a->bias_stride + j, n, b[2]);
        float *const y = hn_target_f32(a->y, t, at, out);
        scale_span(hn_load_f32(s, t, s_at + j, n, b[0]), mean, rstd,
                   hn_load_f32(a->gain, a->gain_dtype, replica * a->gain_stride + j, n, b[1]), bias,
                   y, n);
        hn_store_f32(y, n, a->y, t, at);
    }
    if (a->mean) a->mean[row] = mean, a->rstd[row] = rstd;
}

hn_status hn_layer_norm_fwd_fast(const hn_layer_norm_args *a)
{
    HN_TRY(hn_layer_norm_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t row = 0; row < a->rows; row++) normalise(a, row, row / group);
    return HN_OK;
}

/* Sums of h = dy gain and of h z. */
HN_MULTIVERSION static void dot_span(const float *dy, const float *gain, const float *s, float mean,
                                     float rstd, float *sum, float *dot, int64_t n)
{
    float v = 0.0f, d = 0.0f;
#pragma omp simd reduction(+ : v, d)
    for (int64_t j = 0; j < n; j++) {
        const float h = dy[j] * gain[j];
        v += h;
        d += h * ((s[j] - mean) * rstd);
    }
    *sum += v;
    *dot += d;
}

/* What a row's dx needs besides its operands: sum and dot are means. */
typedef struct {
    float mean, rstd, sum, dot;
} row_state;

HN_MULTIVERSION static void dx_span(const float *dy, const float *gain, const float *s,
                                    const float *dsum, row_state r, float *dx, int64_t n)
{
    if (dsum == NULL) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            dx[j] = r.rstd * (dy[j] * gain[j] - r.sum - (s[j] - r.mean) * r.rstd * r.dot);
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        dx[j] = r.rstd * (dy[j] * gain[j] - r.sum - (s[j] - r.mean) * r.rstd * r.dot) + dsum[j];
}

HN_MULTIVERSION static void params_span(const float *dy, const float *s, float mean, float rstd,
                                        float *dgain, float *dbias, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        dgain[j] += dy[j] * ((s[j] - mean) * rstd);
        dbias[j] += dy[j];
    }
}

/* One row; partial [2][cols] gathers dgain and dbias, NULL when neither is wanted. It comes first
 * in each block, because dx may lie on dy. */
static void differentiate(const hn_layer_norm_bwd_args *a, int64_t row, int64_t gain_at,
                          float *partial)
{
    const hn_dtype t = a->dtype, tg = a->gain_dtype;
    const int64_t s_at = row * a->ld_sum, dy_at = row * a->ld_dy;
    row_state r = {a->mean[row], a->rstd[row], 0.0f, 0.0f};
    float b[4][HN_BLOCK], out[HN_BLOCK];
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        const float *const dy = hn_load_f32(a->dy, t, dy_at + j, n, b[0]);
        const float *const s = hn_load_f32(a->sum, t, s_at + j, n, b[1]);
        if (partial) params_span(dy, s, r.mean, r.rstd, partial + j, partial + a->cols + j, n);
        if (a->dx)
            dot_span(dy, hn_load_f32(a->gain, tg, gain_at + j, n, b[2]), s, r.mean, r.rstd, &r.sum,
                     &r.dot, n);
    }
    r.sum /= (float)a->cols;
    r.dot /= (float)a->cols;
    for (int64_t j = 0; a->dx != NULL && j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols), at = row * a->ld_dx + j;
        const float *dsum = NULL;
        if (a->dsum) dsum = hn_load_f32(a->dsum, t, row * a->ld_dsum + j, n, b[3]);
        float *const dx = hn_target_f32(a->dx, t, at, out);
        dx_span(hn_load_f32(a->dy, t, dy_at + j, n, b[0]),
                hn_load_f32(a->gain, tg, gain_at + j, n, b[2]),
                hn_load_f32(a->sum, t, s_at + j, n, b[1]), dsum, r, dx, n);
        hn_store_f32(dx, n, a->dx, t, at);
    }
}

/* The rows of a replica fall into at most PARTS runs, cut by their number alone; each gathers
 * its own partial sums, which are added in order. */
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

size_t hn_layer_norm_bwd_fast_scratch(const hn_layer_norm_bwd_args *a)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    if (a->dgain == NULL && a->dbias == NULL) return 0;
    return (size_t)(replicas * run_count(a->rows / replicas) * 2 * a->cols) * sizeof(float);
}

static void add_partials(const hn_layer_norm_bwd_args *a, const float *partials, int64_t runs)
{
    for (int64_t g = 0; g < hn_replica_count(a->replicas); g++)
        for (int64_t j = 0; j < a->cols; j++) {
            float gain = 0.0f, bias = 0.0f;
            for (int64_t r = g * runs; r < (g + 1) * runs; r++) {
                gain += partials[2 * r * a->cols + j];
                bias += partials[(2 * r + 1) * a->cols + j];
            }
            if (a->dgain) a->dgain[g * a->dgain_stride + j] += gain;
            if (a->dbias) a->dbias[g * a->dbias_stride + j] += bias;
        }
}

hn_status hn_layer_norm_bwd_fast(const hn_layer_norm_bwd_args *a, void *scratch)
{
    HN_TRY(hn_layer_norm_bwd_check(a));
    const bool params = a->dgain != NULL || a->dbias != NULL;
    if (params) HN_TRY(hn_check_pointer("layer_norm_bwd", "scratch", scratch));
    const int64_t replicas = hn_replica_count(a->replicas);
    const int64_t group = a->rows / replicas, length = run_length(group), runs = run_count(group);
    float *const partials = params ? scratch : NULL;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t run = 0; run < replicas * runs; run++) {
        const int64_t g = run / runs, first = g * group + run % runs * length;
        const int64_t end = (g + 1) * group, last = first + length < end ? first + length : end;
        float *const partial = partials ? partials + 2 * run * a->cols : NULL;
        if (partial) memset(partial, 0, 2 * (size_t)a->cols * sizeof *partial);
        for (int64_t row = first; row < last; row++)
            differentiate(a, row, g * a->gain_stride, partial);
    }
    if (partials) add_partials(a, partials, runs);
    return HN_OK;
}
