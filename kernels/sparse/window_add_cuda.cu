/* One pass, 8 elements a thread where alignment allows, in the fp32 formula of the fast CPU
 * function. */
#include "kernels/sparse/window_add.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096; /* then a thread takes several spans */

template <int kWidth>
__global__ void __launch_bounds__(kThreads) window_add_kernel(const hn_window_add_args a)
{
    const float scale = a.step->grad_scale;
    const float zero[kWidth] = {};
    for (int64_t i = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * kWidth; i < a.n;
         i += (int64_t)gridDim.x * kThreads * kWidth) {
        if (scale != 0.0f) {
            float g[kWidth], sum[kWidth], square[kWidth] = {};
            hn_load_span<kWidth>(a.g + i, a.n - i, g);
            hn_load_span<kWidth>(a.sum + i, a.n - i, sum);
            if (a.square != nullptr) hn_load_span<kWidth>(a.square + i, a.n - i, square);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                const float s = g[k] * scale;
                sum[k] += s;
                square[k] += s * s;
            }
            hn_store_span<kWidth>(a.sum + i, a.n - i, sum);
            if (a.square != nullptr) hn_store_span<kWidth>(a.square + i, a.n - i, square);
        }
        if (a.zero) hn_store_span<kWidth>(a.g + i, a.n - i, zero);
    }
}

} // namespace

hn_status hn_window_add_cuda(const hn_window_add_args *a, hn_stream stream)
{
    HN_TRY(hn_window_add_check(a));
    const bool wide = hn_vectors_fit(a->g, 0, HN_F32) && hn_vectors_fit(a->sum, 0, HN_F32) &&
                      hn_vectors_fit(a->square, 0, HN_F32);
    const int64_t width = wide ? HN_VEC : 1;
    const unsigned grid = hn_grid((a->n + width - 1) / width, kThreads, kMaxBlocks);
    if (wide)
        window_add_kernel<HN_VEC><<<grid, kThreads, 0, stream>>>(*a);
    else
        window_add_kernel<1><<<grid, kThreads, 0, stream>>>(*a);
    return HN_CUDA_LAUNCHED("window_add");
}
