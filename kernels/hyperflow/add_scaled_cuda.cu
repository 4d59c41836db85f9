/* A thread takes 8 neighbouring values of a row (1 where alignment forbids 16-byte accesses): it
 * reads, then writes, so that y may lie on a or b. */
#include "kernels/hyperflow/add_scaled.h"

#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 20; /* then each thread takes several spans */

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) add_scaled_kernel(const hn_add_scaled_args a)
{
    const int64_t spans = (a.cols + kWidth - 1) / kWidth, step = (int64_t)gridDim.x * kThreads;
    for (int64_t k = (int64_t)blockIdx.x * kThreads + threadIdx.x; k < a.rows * spans; k += step) {
        const int64_t i = k / spans, j = k % spans * kWidth, n = a.cols - j, p = i % a.period;
        const float w = a.s != nullptr ? a.alpha * a.s[p] : a.alpha;
        float x[kWidth], b[kWidth];
        hn_load_span<kWidth>(a.a + p * a.ld_a + j, n, x);
        hn_load_span<kWidth>((const T *)a.b + i * a.ld_b + j, n, b);
#pragma unroll
        for (int e = 0; e < kWidth; e++) x[e] += w * b[e];
        hn_store_span<kWidth>(a.y + i * a.ld_y + j, n, x);
        if (a.rounded != nullptr)
            hn_store_span<kWidth>((__nv_bfloat16 *)a.rounded + i * a.ld_rounded + j, n, x);
    }
}

template <class T, int kWidth>
void launch(const hn_add_scaled_args *a, cudaStream_t stream)
{
    const unsigned blocks =
        hn_grid(a->rows * ((a->cols + kWidth - 1) / kWidth), kThreads, kMaxBlocks);
    add_scaled_kernel<T, kWidth><<<blocks, kThreads, 0, stream>>>(*a);
}

} // namespace

hn_status hn_add_scaled_cuda(const hn_add_scaled_args *a, hn_stream stream)
{
    HN_TRY(hn_add_scaled_check(a));
    if (hn_vectors_fit(a->a, a->ld_a, HN_F32) && hn_vectors_fit(a->b, a->ld_b, a->b_dtype) &&
        hn_vectors_fit(a->y, a->ld_y, HN_F32) && hn_vectors_fit(a->rounded, a->ld_rounded, HN_BF16))
        HN_CUDA_REAL(a->b_dtype, T, launch<T, HN_VEC>(a, stream));
    else
        HN_CUDA_REAL(a->b_dtype, T, launch<T, 1>(a, stream));
    return HN_CUDA_LAUNCHED("add_scaled");
}
