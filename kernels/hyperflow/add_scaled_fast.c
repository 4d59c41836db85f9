#include "kernels/hyperflow/add_scaled.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* a may be y, or b may be. */
HN_MULTIVERSION static void span(const float *a, const float *b, float w, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float step = w * b[j];
        y[j] = a[j] + step;
    }
}

static void row(const hn_add_scaled_args *a, int64_t i)
{
    const int64_t p = i % a->period;
    const float w = a->s ? a->alpha * a->s[p] : a->alpha;
    float buffer[HN_BLOCK];
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        float *const y = a->y + i * a->ld_y + j;
        const float *const b = hn_load_f32(a->b, a->b_dtype, i * a->ld_b + j, n, buffer);
        span(a->a + p * a->ld_a + j, b, w, y, n);
        if (a->rounded) hn_from_f32(y, n, a->rounded, HN_BF16, i * a->ld_rounded + j);
    }
}

hn_status hn_add_scaled_fast(const hn_add_scaled_args *a)
{
    HN_TRY(hn_add_scaled_check(a));
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) row(a, i);
    return HN_OK;
}
