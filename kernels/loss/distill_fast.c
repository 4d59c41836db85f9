/* Row by row in fp32, three walks over blocks of both rows; losses of rows are summed in order. */
#include <math.h>
#include <stdbool.h>

#include "kernels/loss/class_rows.h"
#include "kernels/loss/distill.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

/* softmax(z / T) = exp((z - most) / T) / sum, of one row's range. */
typedef struct {
    float most;
    double sum;
} softmax;

HN_MULTIVERSION static float largest(const float *restrict z, int64_t n, float most)
{
    for (int64_t c = 0; c < n; c++) most = z[c] <= most ? most : z[c]; /* a NaN stays */
    return most;
}

HN_MULTIVERSION static float powers(const float *restrict z, int64_t n, float most, float inverse)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) sum += hn_expf((z[c] - most) * inverse);
    return sum;
}

/* What the last walk multiplies with. */
typedef struct {
    float most_s, most_t, scale_s, scale_t; /* scale: 1 / sum */
    float shift;                            /* log sum_s - log sum_t */
    float inverse, factor;                  /* 1 / T, weight * T */
} factors;

/* sum_c q (log q - log p) of a block; d[c] = factor * (p - q). */
HN_MULTIVERSION static float compare(const float *restrict s, const float *restrict t, int64_t n,
                                     factors f, float *restrict d)
{
    float loss = 0.0f;
#pragma omp simd reduction(+ : loss)
    for (int64_t c = 0; c < n; c++) {
        const float u = (s[c] - f.most_s) * f.inverse, v = (t[c] - f.most_t) * f.inverse;
        const float p = hn_expf(u) * f.scale_s, q = hn_expf(v) * f.scale_t;
        loss += q == 0.0f ? 0.0f : q * (v - u + f.shift);
        d[c] = f.factor * (p - q);
    }
    return loss;
}

static softmax softmax_of(const void *z, hn_dtype dtype, int64_t at, int64_t n, float inverse)
{
    float in[HN_BLOCK];
    softmax f = {.most = -INFINITY};
    for (int64_t c = 0; c < n; c += HN_BLOCK) {
        const int64_t len = hn_block_len(c, n);
        f.most = largest(hn_load_f32(z, dtype, at + c, len, in), len, f.most);
    }
    for (int64_t c = 0; c < n; c += HN_BLOCK) {
        const int64_t len = hn_block_len(c, n);
        f.sum += (double)powers(hn_load_f32(z, dtype, at + c, len, in), len, f.most, inverse);
    }
    return f;
}

/* Loss of a row, with weight. */
static double run_row(const hn_distill_args *a, int64_t row, int64_t n)
{
    const float temperature = a->temperature != 0.0f ? a->temperature : 1.0f;
    const int64_t at_s = row * a->ld_student + a->first_class;
    const int64_t at_t = row * a->ld_teacher + a->first_class;
    const int64_t at_d = row * a->ld_dstudent + a->first_class;
    const float inverse = 1.0f / temperature;
    const softmax s = softmax_of(a->student, a->dtype, at_s, n, inverse);
    const softmax t = softmax_of(a->teacher, a->dtype, at_t, n, inverse);
    const factors f = {.most_s = s.most,
                       .most_t = t.most,
                       .scale_s = (float)(1.0 / s.sum),
                       .scale_t = (float)(1.0 / t.sum),
                       .shift = (float)(log(s.sum) - log(t.sum)),
                       .inverse = inverse,
                       .factor = a->weight * temperature};
    double loss = 0.0;
    for (int64_t c = 0; c < n; c += HN_BLOCK) {
        float in_s[HN_BLOCK], in_t[HN_BLOCK], out[HN_BLOCK];
        const int64_t len = hn_block_len(c, n);
        float *const d = a->dstudent ? hn_target_f32(a->dstudent, a->dtype, at_d + c, out) : out;
        loss += (double)compare(hn_load_f32(a->student, a->dtype, at_s + c, len, in_s),
                                hn_load_f32(a->teacher, a->dtype, at_t + c, len, in_t), len, f, d);
        if (a->dstudent) hn_store_f32(d, len, a->dstudent, a->dtype, at_d + c);
    }
    return (double)a->weight * (double)temperature * (double)temperature * loss;
}

/* Columns k .. end of a row of dstudent become 0. */
static void clear(const hn_distill_args *a, int64_t row, int64_t k, int64_t end)
{
    for (; k < end; k++) hn_set_f32(a->dstudent, a->dtype, row * a->ld_dstudent + k, 0.0f);
}

size_t hn_distill_fast_scratch(const hn_distill_args *a)
{
    return hn_class_rows_of_(a->rows, NULL).n_bytes;
}

hn_status hn_distill_fast(const hn_distill_args *a, void *scratch)
{
    HN_TRY(hn_distill_check(a));
    HN_TRY(hn_check_pointer("distill", "scratch", scratch));
    const hn_class_rows w = hn_class_rows_of_(a->rows, scratch);
    const int64_t n = hn_class_count_(a->classes, a->first_class, a->n_classes);
#pragma omp parallel for schedule(static) if (a->rows * a->classes > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        const bool counts = a->labels == NULL || a->labels[i] != HN_LABEL_IGNORED;
        if (a->dstudent) {
            clear(a, i, 0, counts ? a->first_class : a->classes);
            clear(a, i, a->first_class + n, counts ? a->classes : 0);
        }
        w.loss[i] = counts ? run_row(a, i, n) : 0.0;
        if (a->row_loss) a->row_loss[i] = (float)w.loss[i];
    }
    double loss = 0.0;
    for (int64_t i = 0; i < a->rows; i++) loss += w.loss[i];
    if (a->loss_sum) *a->loss_sum = (float)((double)*a->loss_sum + loss);
    return HN_OK;
}
