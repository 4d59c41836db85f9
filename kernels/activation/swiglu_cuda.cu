/* A thread takes 8 neighbouring values of a row (1 where alignment forbids 16-byte accesses): it
 * reads all its inputs, then writes, so that outputs may lie on inputs. */
#include "kernels/activation/swiglu.h"

#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 20; /* then each thread takes several spans */

/* f = sigmoid(v) and rest = 1 - f, both without cancellation; the exponential cannot overflow. */
__device__ __forceinline__ void sigmoid(float v, float *f, float *rest)
{
    const float e = expf(-fabsf(v)), large = 1.0f / (1.0f + e), small = e * large;
    *f = v < 0.0f ? small : large;
    *rest = v < 0.0f ? large : small;
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    swiglu_fwd_kernel(const T *gate, const T *up, T *y, int64_t rows, int64_t cols, int64_t ld_gate,
                      int64_t ld_up, int64_t ld_y)
{
    const int64_t spans = (cols + kWidth - 1) / kWidth, step = (int64_t)gridDim.x * kThreads;
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < rows * spans; i += step) {
        const int64_t row = i / spans, col = i % spans * kWidth, n = cols - col;
        float v[kWidth], u[kWidth];
        hn_load_span<kWidth>(gate + row * ld_gate + col, n, v);
        hn_load_span<kWidth>(up + row * ld_up + col, n, u);
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            float f, rest;
            sigmoid(v[k], &f, &rest);
            u[k] *= v[k] * f;
        }
        hn_store_span<kWidth>(y + row * ld_y + col, n, u);
    }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    swiglu_bwd_kernel(const T *gate, const T *up, const T *dy, T *dgate, T *dup, T *h, int64_t rows,
                      int64_t cols, int64_t ld_gate, int64_t ld_up, int64_t ld_dy, int64_t ld_dgate,
                      int64_t ld_dup, int64_t ld_h)
{
    const int64_t spans = (cols + kWidth - 1) / kWidth, step = (int64_t)gridDim.x * kThreads;
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < rows * spans; i += step) {
        const int64_t row = i / spans, col = i % spans * kWidth, n = cols - col;
        float v[kWidth], u[kWidth], d[kWidth]; /* become dup, dgate, h */
        hn_load_span<kWidth>(gate + row * ld_gate + col, n, v);
        hn_load_span<kWidth>(up + row * ld_up + col, n, u);
        hn_load_span<kWidth>(dy + row * ld_dy + col, n, d);
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            float f, rest;
            sigmoid(v[k], &f, &rest);
            const float silu = v[k] * f;
            const float product = silu * u[k];
            u[k] = d[k] * u[k] * (f + silu * rest);
            v[k] = d[k] * silu;
            d[k] = product;
        }
        hn_store_span<kWidth>(dgate + row * ld_dgate + col, n, u);
        hn_store_span<kWidth>(dup + row * ld_dup + col, n, v);
        if (h != nullptr) hn_store_span<kWidth>(h + row * ld_h + col, n, d);
    }
}

unsigned blocks(int64_t rows, int64_t cols, int64_t width)
{
    return hn_grid(rows * ((cols + width - 1) / width), kThreads, kMaxBlocks);
}

template <class T, int kWidth>
void launch(const hn_swiglu_args *a, cudaStream_t stream)
{
    swiglu_fwd_kernel<T, kWidth><<<blocks(a->rows, a->cols, kWidth), kThreads, 0, stream>>>(
        (const T *)a->gate, (const T *)a->up, (T *)a->y, a->rows, a->cols, a->ld_gate, a->ld_up,
        a->ld_y);
}

template <class T, int kWidth>
void launch(const hn_swiglu_bwd_args *a, cudaStream_t stream)
{
    swiglu_bwd_kernel<T, kWidth><<<blocks(a->rows, a->cols, kWidth), kThreads, 0, stream>>>(
        (const T *)a->gate, (const T *)a->up, (const T *)a->dy, (T *)a->dgate, (T *)a->dup,
        (T *)a->h, a->rows, a->cols, a->ld_gate, a->ld_up, a->ld_dy, a->ld_dgate, a->ld_dup,
        a->ld_h);
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
