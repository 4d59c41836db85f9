/* cuda_range.h - what the optimizers' kernels share (for .cu files of this folder only).
 *
 * An update walks a range [replicas][n], 8 elements a thread where alignment allows, and zeroes the
 * gradient up to n_zero. Everything that changes from step to step is read on the device.
 */
#ifndef HN_CUDA_RANGE_H
#define HN_CUDA_RANGE_H
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"
#include "runtime/base/step_block.h"

namespace hn_optim {

constexpr int kRangeThreads = 256;
constexpr int64_t kRangeBlocks = 4096; /* a replica: then a thread takes several spans */

struct Range {
    float *p, *grad;
    __nv_bfloat16 *work; /* nullptr: none */
    const hn_step_block *step;
    int64_t n, n_zero, replicas, stride, grad_stride, step_stride;
};

template <class A>
Range range_of(const A *a)
{
    return {a->p,
            a->grad,
            reinterpret_cast<__nv_bfloat16 *>(a->work),
            a->step,
            a->n,
            a->n_zero,
            hn_replica_count(a->replicas),
            a->stride,
            a->grad_stride,
            a->step_stride};
}

/* state1, state2: the moments, which lie like p; nullptr where there is none. */
inline bool range_is_wide(const Range &r, const float *state1, const float *state2)
{
    const int64_t stride = r.replicas > 1 ? r.stride : 0;
    return hn_vectors_fit(r.p, stride, HN_F32) && hn_vectors_fit(state1, stride, HN_F32) &&
           hn_vectors_fit(state2, stride, HN_F32) && hn_vectors_fit(r.work, stride, HN_BF16) &&
           hn_vectors_fit(r.grad, r.replicas > 1 ? r.grad_stride : 0, HN_F32);
}

inline dim3 range_grid(const Range &r, int64_t width)
{
    const int64_t n = r.n > r.n_zero ? r.n : r.n_zero;
    return dim3(hn_grid((n + width - 1) / width, kRangeThreads, kRangeBlocks),
                hn_grid(r.replicas, 1, 65535));
}

/* update.factors_of(step block) makes the numbers of a replica, once a block;
 * update.span(factors, at, n, p, grad) changes the values p of elements at .. at + n and its own
 * state there. */
template <int kWidth, class Update>
__global__ void __launch_bounds__(kRangeThreads) range_kernel(const Range r, const Update update)
{
    __shared__ typename Update::Factors factors;
    const int64_t n = r.n > r.n_zero ? r.n : r.n_zero;
    const int64_t step = (int64_t)gridDim.x * kRangeThreads * kWidth;
    for (int64_t replica = blockIdx.y; replica < r.replicas; replica += gridDim.y) {
        const hn_step_block *const s = r.step + replica * r.step_stride;
        const bool moves = s->grad_scale != 0.0f && s->frozen == 0;
        if (threadIdx.x == 0) factors = update.factors_of(s);
        __syncthreads();
        float *const grad = r.grad + replica * r.grad_stride;
        int64_t i = ((int64_t)blockIdx.x * kRangeThreads + threadIdx.x) * kWidth;
        for (; i < n; i += step) {
            if (moves && i < r.n) {
                const int64_t at = replica * r.stride + i, left = r.n - i;
                float p[kWidth], g[kWidth];
                hn_load_span<kWidth>(r.p + at, left, p);
                hn_load_span<kWidth>(grad + i, left, g);
                update.template span<kWidth>(factors, at, left, p, g);
                hn_store_span<kWidth>(r.p + at, left, p);
                if (r.work != nullptr) hn_store_span<kWidth>(r.work + at, left, p);
            }
            const float zero[kWidth] = {};
            if (i < r.n_zero) hn_store_span<kWidth>(grad + i, r.n_zero - i, zero);
        }
        __syncthreads(); /* before factors of the next replica */
    }
}

template <class Update>
void launch_range(const Range &r, const Update &update, bool wide, cudaStream_t stream)
{
    if (wide)
        range_kernel<HN_VEC><<<range_grid(r, HN_VEC), kRangeThreads, 0, stream>>>(r, update);
    else
        range_kernel<1><<<range_grid(r, 1), kRangeThreads, 0, stream>>>(r, update);
}

} // namespace hn_optim
#endif
