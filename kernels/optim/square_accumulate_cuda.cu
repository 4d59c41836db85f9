/* One pass, 8 elements a thread where alignment allows, in the fp32 formula of the fast CPU
 * function; replicas in the grid's second axis. */
#include "kernels/optim/square_accumulate.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096; /* a replica: then a thread takes several spans */

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    square_accumulate_kernel(const hn_square_accumulate_args a, int64_t replicas)
{
    for (int64_t r = blockIdx.y; r < replicas; r += gridDim.y) {
        float *const f = a.f + r * a.stride;
        const float *const grad = a.grad + r * a.grad_stride;
        const double count = a.count != nullptr ? (double)a.count[r * a.count_stride] : 1.0;
        const float scale = (float)(count != 0.0 ? (double)a.scale / count : 0.0);
        int64_t i = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * kWidth;
        for (; i < a.n; i += (int64_t)gridDim.x * kThreads * kWidth) {
            float x[kWidth], g[kWidth];
            hn_load_span<kWidth>(f + i, a.n - i, x);
            hn_load_span<kWidth>(grad + i, a.n - i, g);
#pragma unroll
            for (int k = 0; k < kWidth; k++) x[k] = a.keep * x[k] + scale * g[k] * g[k];
            hn_store_span<kWidth>(f + i, a.n - i, x);
        }
    }
}

} // namespace

hn_status hn_square_accumulate_cuda(const hn_square_accumulate_args *a, hn_stream stream)
{
    HN_TRY(hn_square_accumulate_check(a));
    const int64_t replicas = hn_replica_count(a->replicas);
    const bool wide = hn_vectors_fit(a->f, replicas > 1 ? a->stride : 0, HN_F32) &&
                      hn_vectors_fit(a->grad, replicas > 1 ? a->grad_stride : 0, HN_F32);
    const int64_t width = wide ? HN_VEC : 1;
    const dim3 grid(hn_grid((a->n + width - 1) / width, kThreads, kMaxBlocks),
                    hn_grid(replicas, 1, 65535));
    if (wide)
        square_accumulate_kernel<HN_VEC><<<grid, kThreads, 0, stream>>>(*a, replicas);
    else
        square_accumulate_kernel<1><<<grid, kThreads, 0, stream>>>(*a, replicas);
    return HN_CUDA_LAUNCHED("square_accumulate");
}
