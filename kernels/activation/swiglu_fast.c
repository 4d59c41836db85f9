#include "kernels/activation/swiglu.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

/* One exponential and one division an element are worth as much as eight simple operations. */
enum { COST = 8 };

HN_MULTIVERSION static void fwd_span(const float *gate, const float *up, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = gate[j] * hn_sigmoidf(gate[j]) * up[j];
}

HN_MULTIVERSION static void bwd_span(const float *gate, const float *up, const float *dy,
                                     float *dgate, float *dup, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float f = hn_sigmoidf(gate[j]), silu = gate[j] * f, g = dy[j], u = up[j];
        dgate[j] = g * u * (f + silu * (1.0f - f));
        dup[j] = g * silu;
    }
}

HN_MULTIVERSION static void bwd_h_span(const float *gate, const float *up, const float *dy,
                                       float *dgate, float *dup, float *h, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float f = hn_sigmoidf(gate[j]), silu = gate[j] * f, g = dy[j], u = up[j];
        dgate[j] = g * u * (f + silu * (1.0f - f));
        dup[j] = g * silu;
        h[j] = silu * u;
    }
}

hn_status hn_swiglu_fwd_fast(const hn_swiglu_args *a)
{
    HN_TRY(hn_swiglu_check(a));
    const hn_dtype t = a->dtype;
#pragma omp parallel for schedule(static) if (COST * a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float gate[HN_BLOCK], up[HN_BLOCK], out[HN_BLOCK];
        for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, a->cols), at = i * a->ld_y + j;
            float *const y = hn_target_f32(a->y, t, at, out);
            fwd_span(hn_load_f32(a->gate, t, i * a->ld_gate + j, n, gate),
                     hn_load_f32(a->up, t, i * a->ld_up + j, n, up), y, n);
            hn_store_f32(y, n, a->y, t, at);
        }
    }
    return HN_OK;
}

hn_status hn_swiglu_bwd_fast(const hn_swiglu_bwd_args *a)
{
    HN_TRY(hn_swiglu_bwd_check(a));
    const hn_dtype t = a->dtype;
#pragma omp parallel for schedule(static) if (COST * a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float b[6][HN_BLOCK];
        for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, a->cols);
            const int64_t gate_at = i * a->ld_dgate + j, up_at = i * a->ld_dup + j;
            float *const dgate = hn_target_f32(a->dgate, t, gate_at, b[3]);
            float *const dup = hn_target_f32(a->dup, t, up_at, b[4]);
            const float *const gate = hn_load_f32(a->gate, t, i * a->ld_gate + j, n, b[0]);
            const float *const up = hn_load_f32(a->up, t, i * a->ld_up + j, n, b[1]);
            const float *const dy = hn_load_f32(a->dy, t, i * a->ld_dy + j, n, b[2]);
            if (a->h == NULL) {
                bwd_span(gate, up, dy, dgate, dup, n);
            } else {
                const int64_t h_at = i * a->ld_h + j;
                float *const h = hn_target_f32(a->h, t, h_at, b[5]);
                bwd_h_span(gate, up, dy, dgate, dup, h, n);
                hn_store_f32(h, n, a->h, t, h_at);
            }
            hn_store_f32(dgate, n, a->dgate, t, gate_at);
            hn_store_f32(dup, n, a->dup, t, up_at);
        }
    }
    return HN_OK;
}
