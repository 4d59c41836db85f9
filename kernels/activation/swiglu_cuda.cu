/* A thread takes 8 neighbouring values of a row (1 where alignment forbids 16-byte accesses): it
 * reads all its inputs, then writes, so that outputs may lie on inputs. In bf16 the exponential and
 * the reciprocal are the approximations of the special function unit: with the exact ones the
 * arithmetic took longer than the memory (77 % of a copy). */
#include "kernels/activation/swiglu.h"

#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;

/* f = sigmoid(v) and rest = 1 - f, both without cancellation; the exponential cannot overflow. */
__device__ __forceinline__ void sigmoid(float v, float *f, float *rest)
{
    const float e = expf(-fabsf(v)), large = 1.0f / (1.0f + e), small = e * large;
    *f = v < 0.0f ? small : large;
    *rest = v < 0.0f ? large : small;
}

/* The same where the result is rounded to bf16: f within 2^-16 of itself, rest within 2^-22 of 1.
 * Where the exponential overflows (v < -88), f is 0. */
__device__ __forceinline__ void sigmoid_near(float v, float *f, float *rest)
{
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v * -1.44269504f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.0f + e));
    *f = r;
    *rest = 1.0f - r;
}

template <class T>
__device__ __forceinline__ void sigmoid_for(float v, float *f, float *rest)
{
    if constexpr (sizeof(T) == sizeof(float))
        sigmoid(v, f, rest);
    else
        sigmoid_near(v, f, rest);
}

template <class T>
struct Forward {
    const T *gate, *up;
    T *y;
    int64_t cols, ld_gate, ld_up, ld_y;
    hn_spans spans;
};

template <class T, int kWidth, bool kWhole>
__device__ __forceinline__ void fwd_span(const Forward<T> &a, int64_t row, int64_t col)
{
    const int64_t n = a.cols - col;
    float v[kWidth], u[kWidth];
    hn_load_part<kWidth, kWhole>(a.gate + row * a.ld_gate + col, n, v);
    hn_load_part<kWidth, kWhole>(a.up + row * a.ld_up + col, n, u);
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        float f, rest;
        sigmoid_for<T>(v[k], &f, &rest);
        const float silu = v[k] * f;
        u[k] = silu * u[k];
    }
    hn_store_part<kWidth, kWhole>(a.y + row * a.ld_y + col, n, u);
}

template <class T>
struct Backward {
    const T *gate, *up, *dy;
    T *dgate, *dup, *h;
    int64_t cols, ld_gate, ld_up, ld_dy, ld_dgate, ld_dup, ld_h;
    hn_spans spans;
};

template <class T, int kWidth, bool kWhole>
__device__ __forceinline__ void bwd_span(const Backward<T> &a, int64_t row, int64_t col)
{
    const int64_t n = a.cols - col;
    float v[kWidth], u[kWidth], d[kWidth]; /* become dup, dgate, h */
    hn_load_part<kWidth, kWhole>(a.gate + row * a.ld_gate + col, n, v);
    hn_load_part<kWidth, kWhole>(a.up + row * a.ld_up + col, n, u);
    hn_load_part<kWidth, kWhole>(a.dy + row * a.ld_dy + col, n, d);
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        float f, rest;
        sigmoid_for<T>(v[k], &f, &rest);
        const float silu = v[k] * f, h = silu * u[k];
        u[k] = d[k] * u[k] * (f + silu * rest);
        v[k] = d[k] * silu;
        d[k] = h;
    }
    hn_store_part<kWidth, kWhole>(a.dgate + row * a.ld_dgate + col, n, u);
    hn_store_part<kWidth, kWhole>(a.dup + row * a.ld_dup + col, n, v);
    if (a.h != nullptr) hn_store_part<kWidth, kWhole>(a.h + row * a.ld_h + col, n, d);
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) swiglu_fwd_kernel(const Forward<T> a)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.spans.n) return;
    const hn_span_at at = hn_span_place(a.spans, i);
    const int64_t col = (int64_t)at.span * kWidth;
    if (a.cols - col >= kWidth)
        fwd_span<T, kWidth, true>(a, at.row, col);
    else
        fwd_span<T, kWidth, false>(a, at.row, col);
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) swiglu_bwd_kernel(const Backward<T> a)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.spans.n) return;
    const hn_span_at at = hn_span_place(a.spans, i);
    const int64_t col = (int64_t)at.span * kWidth;
    if (a.cols - col >= kWidth)
        bwd_span<T, kWidth, true>(a, at.row, col);
    else
        bwd_span<T, kWidth, false>(a, at.row, col);
}

template <class T>
T *row_of(T *p, int64_t row, int64_t ld)
{
    return p ? p + row * ld : nullptr;
}

unsigned blocks(const hn_spans &s) { return hn_grid(s.n, kThreads, INT32_MAX); }

template <class T, int kWidth>
void launch(const hn_swiglu_args *a, cudaStream_t stream)
{
    const int64_t spans = (a->cols + kWidth - 1) / kWidth;
    for (int64_t row = 0; row < a->rows; row += hn_band_rows(spans)) {
        const Forward<T> f = {(const T *)a->gate + row * a->ld_gate,
                              (const T *)a->up + row * a->ld_up,
                              (T *)a->y + row * a->ld_y,
                              a->cols,
                              a->ld_gate,
                              a->ld_up,
                              a->ld_y,
                              hn_spans_of(a->rows - row, spans)};
        swiglu_fwd_kernel<T, kWidth><<<blocks(f.spans), kThreads, 0, stream>>>(f);
    }
}

template <class T, int kWidth>
void launch(const hn_swiglu_bwd_args *a, cudaStream_t stream)
{
    const int64_t spans = (a->cols + kWidth - 1) / kWidth;
    for (int64_t row = 0; row < a->rows; row += hn_band_rows(spans)) {
        const Backward<T> b = {(const T *)a->gate + row * a->ld_gate,
                               (const T *)a->up + row * a->ld_up,
                               (const T *)a->dy + row * a->ld_dy,
                               (T *)a->dgate + row * a->ld_dgate,
                               (T *)a->dup + row * a->ld_dup,
                               row_of((T *)a->h, row, a->ld_h),
                               a->cols,
                               a->ld_gate,
                               a->ld_up,
                               a->ld_dy,
                               a->ld_dgate,
                               a->ld_dup,
                               a->ld_h,
                               hn_spans_of(a->rows - row, spans)};
        swiglu_bwd_kernel<T, kWidth><<<blocks(b.spans), kThreads, 0, stream>>>(b);
    }
}

} // namespace

hn_status hn_swiglu_fwd_cuda(const hn_swiglu_args *a, hn_stream stream)
{
    HN_TRY(hn_swiglu_check(a));
    if (hn_vectors_fit(a->gate, a->ld_gate, a->dtype) &&
        hn_vectors_fit(a->up, a->ld_up, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype))
        HN_CUDA_REAL(a->dtype, T, launch<T, HN_VEC>(a, stream));
    else
        HN_CUDA_REAL(a->dtype, T, launch<T, 1>(a, stream));
    return HN_CUDA_LAUNCHED("swiglu");
}

hn_status hn_swiglu_bwd_cuda(const hn_swiglu_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_swiglu_bwd_check(a));
    if (hn_vectors_fit(a->gate, a->ld_gate, a->dtype) &&
        hn_vectors_fit(a->up, a->ld_up, a->dtype) && hn_vectors_fit(a->dy, a->ld_dy, a->dtype) &&
        hn_vectors_fit(a->dgate, a->ld_dgate, a->dtype) &&
        hn_vectors_fit(a->dup, a->ld_dup, a->dtype) && hn_vectors_fit(a->h, a->ld_h, a->dtype))
        HN_CUDA_REAL(a->dtype, T, launch<T, HN_VEC>(a, stream));
    else
        HN_CUDA_REAL(a->dtype, T, launch<T, 1>(a, stream));
    return HN_CUDA_LAUNCHED("swiglu_bwd");
}
