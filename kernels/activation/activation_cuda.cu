/* A thread takes 8 neighbouring values of a row (1 where alignment forbids 16-byte accesses): it
 * reads all its inputs, then writes, so that outputs may lie on inputs. In bf16 exponentials and
 * reciprocals are the approximations of the special function unit, as in swiglu_cuda.cu: with the
 * exact ones arithmetic takes longer than memory. */
#include "kernels/activation/activation.h"

#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float near_exp2(float v)
{
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v));
    return e;
}

__device__ __forceinline__ float near_reciprocal(float v)
{
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

/* f = sigmoid(v) and rest = 1 - f. f32: both without cancellation, and the exponential cannot
 * overflow; bf16: f within 2^-16 of itself, rest within 2^-22 of 1. */
template <class T>
__device__ __forceinline__ void sigmoid(float v, float *f, float *rest)
{
    if constexpr (sizeof(T) == sizeof(float)) {
        const float e = expf(-fabsf(v)), large = 1.0f / (1.0f + e), small = e * large;
        *f = v < 0.0f ? small : large;
        *rest = v < 0.0f ? large : small;
    } else {
        *f = near_reciprocal(1.0f + near_exp2(v * -1.44269504f));
        *rest = 1.0f - *f;
    }
}

/* The normal distribution and its density. bf16: formula 7.1.26 of Abramowitz and Stegun, within
 * 2e-7, whose exponential is that of the density. */
template <class T>
__device__ __forceinline__ void normal(float v, float *cdf, float *density)
{
    if constexpr (sizeof(T) == sizeof(float)) {
        *cdf = 0.5f * erfcf(v * -0.707106781f);
        *density = 0.398942280f * expf(-0.5f * v * v);
    } else {
        const float e = near_exp2(v * v * -0.721347520f);
        const float t = near_reciprocal(1.0f + 0.231641888f * fabsf(v)); /* 0.3275911 / sqrt(2) */
        const float p =
            t * (0.127414796f +
                 t * (-0.142248368f + t * (0.710706871f + t * (-0.726576014f + t * 0.530702714f))));
        const float tail = p * e;
        *cdf = v < 0.0f ? tail : 1.0f - tail;
        *density = 0.398942280f * e;
    }
}

/* y = f(v), d = f'(v). */
template <int kKind, class T>
__device__ __forceinline__ void evaluate(float v, float *y, float *d)
{
    if constexpr (kKind == HN_ACT_RELU) {
        *y = v <= 0.0f ? 0.0f : v;
        *d = v <= 0.0f ? 0.0f : 1.0f;
    } else if constexpr (kKind == HN_ACT_ELU) {
        *y = v > 0.0f ? v : expm1f(v);
        *d = v > 0.0f ? 1.0f : expf(v);
    } else if constexpr (kKind == HN_ACT_GELU) {
        float p, density;
        normal<T>(v, &p, &density);
        *y = v * p;
        *d = p + v * density;
    } else {
        float g = v, dg = 1.0f, s, rest;
        if constexpr (kKind == HN_ACT_QUICK_GELU) {
            g = 1.702f * v;
            dg = 1.702f;
        }
        if constexpr (kKind == HN_ACT_GELU_TANH) { /* beyond 32 sigmoid is 0 or 1 */
            const float c = v < -32.0f ? -32.0f : v > 32.0f ? 32.0f : v;
            g = 1.59576912f * c * fmaf(0.044715f * c, c, 1.0f); /* fmaf: as in forward */
            dg = 1.59576912f * fmaf(0.134145f * c, c, 1.0f);
        }
        sigmoid<T>(g, &s, &rest);
        *y = v * s;
        *d = s + *y * rest * dg;
    }
}

template <class T>
struct Forward {
    const T *x;
    T *y;
    int64_t cols, ld_x, ld_y;
    hn_spans spans;
};

template <int kKind, class T, int kWidth, bool kWhole>
__device__ __forceinline__ void fwd_span(const Forward<T> &a, int64_t row, int64_t col)
{
    const int64_t n = a.cols - col;
    float v[kWidth];
    hn_load_part<kWidth, kWhole>(a.x + row * a.ld_x + col, n, v);
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        float y, d;
        evaluate<kKind, T>(v[k], &y, &d);
        v[k] = y;
    }
    hn_store_part<kWidth, kWhole>(a.y + row * a.ld_y + col, n, v);
}

template <class T>
struct Backward {
    const T *x, *dy;
    T *dx, *y;
    int64_t cols, ld_x, ld_dy, ld_dx, ld_y;
    hn_spans spans;
};

template <int kKind, class T, int kWidth, bool kWhole>
__device__ __forceinline__ void bwd_span(const Backward<T> &a, int64_t row, int64_t col)
{
    const int64_t n = a.cols - col;
    float v[kWidth], g[kWidth]; /* become y, dx */
    hn_load_part<kWidth, kWhole>(a.x + row * a.ld_x + col, n, v);
    hn_load_part<kWidth, kWhole>(a.dy + row * a.ld_dy + col, n, g);
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        float y, d;
        evaluate<kKind, T>(v[k], &y, &d);
        v[k] = y;
        g[k] *= d;
    }
    hn_store_part<kWidth, kWhole>(a.dx + row * a.ld_dx + col, n, g);
    if (a.y != nullptr) hn_store_part<kWidth, kWhole>(a.y + row * a.ld_y + col, n, v);
}

template <int kKind, class T, int kWidth>
__global__ void __launch_bounds__(kThreads) activation_fwd_kernel(const Forward<T> a)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.spans.n) return;
    const hn_span_at at = hn_span_place(a.spans, i);
    const int64_t col = (int64_t)at.span * kWidth;
    if (a.cols - col >= kWidth)
        fwd_span<kKind, T, kWidth, true>(a, at.row, col);
    else
        fwd_span<kKind, T, kWidth, false>(a, at.row, col);
}

template <int kKind, class T, int kWidth>
__global__ void __launch_bounds__(kThreads) activation_bwd_kernel(const Backward<T> a)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.spans.n) return;
    const hn_span_at at = hn_span_place(a.spans, i);
    const int64_t col = (int64_t)at.span * kWidth;
    if (a.cols - col >= kWidth)
        bwd_span<kKind, T, kWidth, true>(a, at.row, col);
    else
        bwd_span<kKind, T, kWidth, false>(a, at.row, col);
}

unsigned blocks(const hn_spans &s) { return hn_grid(s.n, kThreads, INT32_MAX); }

template <int kKind, class T, int kWidth>
void launch(const hn_activation_args *a, cudaStream_t stream)
{
    const int64_t spans = (a->cols + kWidth - 1) / kWidth;
    for (int64_t row = 0; row < a->rows; row += hn_band_rows(spans)) {
        const Forward<T> f = {
            (const T *)a->x + row * a->ld_x,  (T *)a->y + row * a->ld_y, a->cols, a->ld_x, a->ld_y,
            hn_spans_of(a->rows - row, spans)};
        activation_fwd_kernel<kKind, T, kWidth><<<blocks(f.spans), kThreads, 0, stream>>>(f);
    }
}

template <int kKind, class T, int kWidth>
void launch(const hn_activation_bwd_args *a, cudaStream_t stream)
{
    const int64_t spans = (a->cols + kWidth - 1) / kWidth;
    for (int64_t row = 0; row < a->rows; row += hn_band_rows(spans)) {
        const Backward<T> b = {(const T *)a->x + row * a->ld_x,
                               (const T *)a->dy + row * a->ld_dy,
                               (T *)a->dx + row * a->ld_dx,
                               a->y ? (T *)a->y + row * a->ld_y : nullptr,
                               a->cols,
                               a->ld_x,
                               a->ld_dy,
                               a->ld_dx,
                               a->ld_y,
                               hn_spans_of(a->rows - row, spans)};
        activation_bwd_kernel<kKind, T, kWidth><<<blocks(b.spans), kThreads, 0, stream>>>(b);
    }
}

template <class T, int kWidth, class Args>
void launch_kind(const Args *a, cudaStream_t stream)
{
    switch (a->kind) {
    case HN_ACT_RELU: launch<HN_ACT_RELU, T, kWidth>(a, stream); return;
    case HN_ACT_GELU: launch<HN_ACT_GELU, T, kWidth>(a, stream); return;
    case HN_ACT_GELU_TANH: launch<HN_ACT_GELU_TANH, T, kWidth>(a, stream); return;
    case HN_ACT_SILU: launch<HN_ACT_SILU, T, kWidth>(a, stream); return;
    case HN_ACT_ELU: launch<HN_ACT_ELU, T, kWidth>(a, stream); return;
    default: launch<HN_ACT_QUICK_GELU, T, kWidth>(a, stream); return;
    }
}

template <class Args>
void launch_all(const Args *a, bool wide, cudaStream_t stream)
{
    if (wide)
        HN_CUDA_REAL(a->dtype, T, launch_kind<T, HN_VEC>(a, stream));
    else
        HN_CUDA_REAL(a->dtype, T, launch_kind<T, 1>(a, stream));
}

} // namespace

hn_status hn_activation_fwd_cuda(const hn_activation_args *a, hn_stream stream)
{
    HN_TRY(hn_activation_check(a));
    launch_all(a,
               hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype),
               stream);
    return HN_CUDA_LAUNCHED("activation");
}

hn_status hn_activation_bwd_cuda(const hn_activation_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_activation_bwd_check(a));
    launch_all(
        a,
        hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->dy, a->ld_dy, a->dtype) &&
            hn_vectors_fit(a->dx, a->ld_dx, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype),
        stream);
    return HN_CUDA_LAUNCHED("activation_bwd");
}
