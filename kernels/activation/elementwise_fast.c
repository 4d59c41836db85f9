#include "kernels/activation/elementwise.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

HN_MULTIVERSION static void add_span(const float *a, const float *b, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = a[j] + b[j];
}

HN_MULTIVERSION static void mul_span(const float *a, const float *b, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = a[j] * b[j];
}

HN_MULTIVERSION static void scale_span(const float *a, float factor, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = factor * a[j];
}

typedef void (*binary_span)(const float *a, const float *b, float *y, int64_t n);

static void each_block(const hn_binary_args *a, binary_span span)
{
    const hn_dtype t = a->dtype;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float one[HN_BLOCK], two[HN_BLOCK], out[HN_BLOCK];
        for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, a->cols), at = i * a->ld_y + j;
            float *const y = hn_target_f32(a->y, t, at, out);
            span(hn_load_f32(a->a, t, i * a->ld_a + j, n, one),
                 hn_load_f32(a->b, t, i * a->ld_b + j, n, two), y, n);
            hn_store_f32(y, n, a->y, t, at);
        }
    }
}

hn_status hn_add_fast(const hn_binary_args *a)
{
    HN_TRY(hn_binary_check(a));
    each_block(a, add_span);
    return HN_OK;
}

hn_status hn_mul_fast(const hn_binary_args *a)
{
    HN_TRY(hn_binary_check(a));
    each_block(a, mul_span);
    return HN_OK;
}

hn_status hn_scale_fast(const hn_scale_args *a)
{
    HN_TRY(hn_scale_check(a));
    const hn_dtype t = a->dtype;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float in[HN_BLOCK], out[HN_BLOCK];
        for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, a->cols), at = i * a->ld_y + j;
            float *const y = hn_target_f32(a->y, t, at, out);
            scale_span(hn_load_f32(a->a, t, i * a->ld_a + j, n, in), a->factor, y, n);
            hn_store_f32(y, n, a->y, t, at);
        }
    }
    return HN_OK;
}

hn_status hn_cast_fast(const hn_cast_args *a)
{
    HN_TRY(hn_cast_check(a));
    if (a->a == a->y) return HN_OK;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float in[HN_BLOCK];
        for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, a->cols);
            hn_from_f32(hn_load_f32(a->a, a->dtype, i * a->ld_a + j, n, in), n, a->y, a->y_dtype,
                        i * a->ld_y + j);
        }
    }
    return HN_OK;
}
