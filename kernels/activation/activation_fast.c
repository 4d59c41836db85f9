#include "kernels/activation/activation.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

/* An element is worth as much as so many simple operations. */
enum { COST = 8 };

HN_INLINE float magnitude(float v) { return hn_f32_from_bits_(hn_bits_from_f32_(v) & 0x7fffffffu); }

/* The normal distribution, within 1e-7, of which the formulas are 3e-8: for |z| = |v| / sqrt(2)
 * above 0.9277 half of erfc(|z|) = exp(-polynomial), else 1/2 + z times a polynomial / 2 (minimax
 * fits of erf in fp32 after N. Juffa). For large |v| the first exponent goes to -infinity. */
HN_INLINE float normal_cdf(float v)
{
    const float z = v * 0.707106781f, t = magnitude(z), s = z * z;
    float r = -1.72853470e-5f * t + 3.83197126e-4f;
    r = r * s + (-3.88396438e-3f * t + 2.42546219e-2f);
    r = r * t - 1.06777877e-1f;
    r = r * t - 6.34846687e-1f;
    r = r * t - 1.28717512e-1f;
    const float tail = 0.5f * hn_expf(r * t - t);
    float p = -5.96761703e-4f;
    p = p * s + 4.99119423e-3f;
    p = p * s - 2.67681349e-2f;
    p = p * s + 1.12819925e-1f;
    p = p * s - 3.76125336e-1f;
    p = p * s + 1.28379166e-1f;
    const float middle = 0.5f + 0.5f * (p * z + z), outer = v < 0.0f ? tail : 1.0f - tail;
    return t > 0.927734375f ? outer : middle; /* NaN: middle */
}

/* y = f(v), d = f'(v); forward spans leave d to the compiler to drop. */
HN_INLINE void relu_at(float v, float *y, float *d)
{
    *y = v <= 0.0f ? 0.0f : v;
    *d = v <= 0.0f ? 0.0f : 1.0f;
}

HN_INLINE void gelu_at(float v, float *y, float *d)
{
    const float p = normal_cdf(v);
    *y = v * p;
    *d = p + v * (0.398942280f * hn_expf(-0.5f * v * v));
}

HN_INLINE void gated_at(float v, float g, float dg, float *y, float *d)
{
    const float s = hn_sigmoidf(g);
    *y = v * s;
    *d = s + *y * (1.0f - s) * dg;
}

/* Beyond 32 the sigmoid is 0 or 1, and the cube must not overflow. w * c is no operand of two sums:
 * it is fused into the one, in forward as in backward, and the bits are the same. */
HN_INLINE void gelu_tanh_at(float v, float *y, float *d)
{
    float c = v < -32.0f ? -32.0f : v;
    c = c > 32.0f ? 32.0f : c;
    const float k = 1.59576912f, w = 0.044715f * c, w3 = 0.134145f * c;
    gated_at(v, k * c * (w * c + 1.0f), k * (w3 * c + 1.0f), y, d);
}

HN_INLINE void silu_at(float v, float *y, float *d) { gated_at(v, v, 1.0f, y, d); }
HN_INLINE void quick_gelu_at(float v, float *y, float *d) { gated_at(v, 1.702f * v, 1.702f, y, d); }

/* exp(v) - 1 near 0 by its series, which leaves out 2e-8 of it at -1/4: no cancellation. */
HN_INLINE void elu_at(float v, float *y, float *d)
{
    const float e = hn_expf(v < 0.0f ? v : 0.0f);
    float s = 1.0f + v * (1.0f / 7.0f);
    s = 1.0f + v * (1.0f / 6.0f) * s;
    s = 1.0f + v * (1.0f / 5.0f) * s;
    s = 1.0f + v * (1.0f / 4.0f) * s;
    s = 1.0f + v * (1.0f / 3.0f) * s;
    s = v + v * v * 0.5f * s;
    const float below = v > -0.25f ? s : e - 1.0f;
    *y = v > 0.0f ? v : v <= 0.0f ? below : v; /* NaN stays */
    *d = v > 0.0f ? 1.0f : v <= 0.0f ? e : v;
}

/* clang-format off */
#define SPANS(kind)                                                                             \
    HN_MULTIVERSION static void kind##_fwd(const float *x, float *y, int64_t n)                 \
    {                                                                                           \
        _Pragma("omp simd")                                                                     \
        for (int64_t j = 0; j < n; j++) {                                                       \
            float v, d;                                                                         \
            kind##_at(x[j], &v, &d);                                                            \
            y[j] = v;                                                                           \
        }                                                                                       \
    }                                                                                           \
    HN_MULTIVERSION static void kind##_bwd(const float *x, const float *dy, float *dx, float *y,\
                                           int64_t n)                                           \
    {                                                                                           \
        _Pragma("omp simd")                                                                     \
        for (int64_t j = 0; j < n; j++) {                                                       \
            float v, d;                                                                         \
            kind##_at(x[j], &v, &d);                                                            \
            dx[j] = dy[j] * d;                                                                  \
            y[j] = v;                                                                           \
        }                                                                                       \
    }
/* clang-format on */
SPANS(relu)
SPANS(gelu)
SPANS(gelu_tanh)
SPANS(silu)
SPANS(quick_gelu)
SPANS(elu)

static void fwd_span(int kind, const float *x, float *y, int64_t n)
{
    switch (kind) {
    case HN_ACT_RELU: relu_fwd(x, y, n); return;
    case HN_ACT_GELU: gelu_fwd(x, y, n); return;
    case HN_ACT_GELU_TANH: gelu_tanh_fwd(x, y, n); return;
    case HN_ACT_SILU: silu_fwd(x, y, n); return;
    case HN_ACT_ELU: elu_fwd(x, y, n); return;
    default: quick_gelu_fwd(x, y, n); return;
    }
}

static void bwd_span(int kind, const float *x, const float *dy, float *dx, float *y, int64_t n)
{
    switch (kind) {
    case HN_ACT_RELU: relu_bwd(x, dy, dx, y, n); return;
    case HN_ACT_GELU: gelu_bwd(x, dy, dx, y, n); return;
    case HN_ACT_GELU_TANH: gelu_tanh_bwd(x, dy, dx, y, n); return;
    case HN_ACT_SILU: silu_bwd(x, dy, dx, y, n); return;
    case HN_ACT_ELU: elu_bwd(x, dy, dx, y, n); return;
    default: quick_gelu_bwd(x, dy, dx, y, n); return;
    }
}

hn_status hn_activation_fwd_fast(const hn_activation_args *a)
{
    HN_TRY(hn_activation_check(a));
    const hn_dtype t = a->dtype;
#pragma omp parallel for schedule(static) if (COST * a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float in[HN_BLOCK], out[HN_BLOCK];
        for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, a->cols), at = i * a->ld_y + j;
            float *const y = hn_target_f32(a->y, t, at, out);
            fwd_span(a->kind, hn_load_f32(a->x, t, i * a->ld_x + j, n, in), y, n);
            hn_store_f32(y, n, a->y, t, at);
        }
    }
    return HN_OK;
}

hn_status hn_activation_bwd_fast(const hn_activation_bwd_args *a)
{
    HN_TRY(hn_activation_bwd_check(a));
    const hn_dtype t = a->dtype;
#pragma omp parallel for schedule(static) if (COST * a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float b[4][HN_BLOCK];
        for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, a->cols);
            const int64_t dx_at = i * a->ld_dx + j, y_at = i * a->ld_y + j;
            float *const dx = hn_target_f32(a->dx, t, dx_at, b[2]);
            float *const y = a->y ? hn_target_f32(a->y, t, y_at, b[3]) : b[3];
            bwd_span(a->kind, hn_load_f32(a->x, t, i * a->ld_x + j, n, b[0]),
                     hn_load_f32(a->dy, t, i * a->ld_dy + j, n, b[1]), dx, y, n);
            hn_store_f32(dx, n, a->dx, t, dx_at);
            if (a->y) hn_store_f32(y, n, a->y, t, y_at);
        }
    }
    return HN_OK;
}
