/* One pass, 8 elements a thread where alignment allows, in the fp32 formula of the fast CPU
 * function; replicas in the grid's second axis. */
#include "kernels/optim/moving_average.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096; /* a replica: then a thread takes several spans */

/* 1 - d; 0 where nothing was updated. */
__device__ float share_of(const hn_step_block *s, float decay)
{
    const double n = (double)s->step, early = n > 1 ? (n - 1) / (n + 8) : 0;
    if (s->skipped != HN_STEP_DONE || s->frozen != 0) return 0;
    return (float)(1 - (early < (double)decay ? early : (double)decay));
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    moving_average_kernel(const hn_moving_average_args a, int64_t replicas)
{
    for (int64_t r = blockIdx.y; r < replicas; r += gridDim.y) {
        float *const avg = a.a + r * a.stride;
        const float *const p = a.p + r * a.stride;
        const float share = share_of(a.step + r * a.step_stride, a.decay);
        if (share == 0) continue;
        int64_t i = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * kWidth;
        for (; i < a.n; i += (int64_t)gridDim.x * kThreads * kWidth) {
            float x[kWidth], v[kWidth];
            hn_load_span<kWidth>(avg + i, a.n - i, x);
            hn_load_span<kWidth>(p + i, a.n - i, v);
#pragma unroll
            for (int k = 0; k < kWidth; k++) x[k] += share * (v[k] - x[k]);
            hn_store_span<kWidth>(avg + i, a.n - i, x);
        }
    }
}

} // namespace

hn_status hn_moving_average_cuda(const hn_moving_average_args *a, hn_stream stream)
{
    HN_TRY(hn_moving_average_check(a));
    const int64_t replicas = hn_replica_count(a->replicas);
    const int64_t apart = replicas > 1 ? a->stride : 0;
    const bool wide = hn_vectors_fit(a->a, apart, HN_F32) && hn_vectors_fit(a->p, apart, HN_F32);
    const int64_t width = wide ? HN_VEC : 1;
    const dim3 grid(hn_grid((a->n + width - 1) / width, kThreads, kMaxBlocks),
                    hn_grid(replicas, 1, 65535));
    if (wide)
        moving_average_kernel<HN_VEC><<<grid, kThreads, 0, stream>>>(*a, replicas);
    else
        moving_average_kernel<1><<<grid, kThreads, 0, stream>>>(*a, replicas);
    return HN_CUDA_LAUNCHED("moving_average");
}
