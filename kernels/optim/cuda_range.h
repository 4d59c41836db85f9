/* cuda_range.h - what the optimizers' kernels share (for .cu files of this folder only).
 *
 * An update walks ranges [replicas][n], 8 elements a thread where alignment allows, and zeroes the
 * gradient up to n_zero. A few ranges share a launch. Everything that changes from step to step is
 * read on the device.
 */
#ifndef HN_CUDA_RANGE_H
#define HN_CUDA_RANGE_H
#include "kernels/optim/optim_many.h"
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

inline unsigned range_blocks(const Range &r, int64_t width)
{
    const int64_t n = r.n > r.n_zero ? r.n : r.n_zero;
    return hn_grid((n + width - 1) / width, kRangeThreads, kRangeBlocks);
}

/* Ranges of one launch, each with an update of its own. */
template <class Update>
struct Part {
    Range range;
    Update update;
    unsigned end; /* blocks of this one and those before it */
};

template <class Update>
struct Parts {
    int n;
    bool narrow; /* one value a thread: a range is not aligned */
    Part<Update> part[HN_OPTIM_MANY];
};

/* update.factors_of(step block) makes the numbers of a replica, once a block;
 * update.span(factors, at, n, p, grad) changes the values p of elements at .. at + n and its own
 * state there. */
template <int kWidth, class Update>
__device__ __forceinline__ void update_part(const Range &r, const Update &update, unsigned block,
                                            unsigned blocks, typename Update::Factors *factors)
{
    const int64_t n = r.n > r.n_zero ? r.n : r.n_zero;
    const int64_t step = (int64_t)blocks * kRangeThreads * kWidth;
    for (int64_t replica = blockIdx.y; replica < r.replicas; replica += gridDim.y) {
        const hn_step_block *const s = r.step + replica * r.step_stride;
        const bool moves = s->grad_scale != 0.0f && s->frozen == 0;
        if (threadIdx.x == 0) *factors = update.factors_of(s);
        __syncthreads();
        float *const grad = r.grad + replica * r.grad_stride;
        int64_t i = ((int64_t)block * kRangeThreads + threadIdx.x) * kWidth;
        for (; i < n; i += step) {
            if (moves && i < r.n) {
                const int64_t at = replica * r.stride + i, left = r.n - i;
                float p[kWidth], g[kWidth];
                hn_load_span<kWidth>(r.p + at, left, p);
                hn_load_span<kWidth>(grad + i, left, g);
                update.template span<kWidth>(*factors, at, left, p, g);
                hn_store_span<kWidth>(r.p + at, left, p);
                if (r.work != nullptr) hn_store_span<kWidth>(r.work + at, left, p);
            }
            const float zero[kWidth] = {};
            if (i < r.n_zero) hn_store_span<kWidth>(grad + i, r.n_zero - i, zero);
        }
        __syncthreads(); /* before factors of the next replica */
    }
}

/* The part is copied: the compiler splits 16-byte stores between which it reads arguments again. */
template <int kWidth, class Update>
__global__ void __launch_bounds__(kRangeThreads)
    update_kernel(const __grid_constant__ Parts<Update> parts)
{
    __shared__ typename Update::Factors factors;
    int k = 0;
    while (parts.part[k].end <= blockIdx.x) k++;
    const Part<Update> part = parts.part[k];
    const unsigned first = k > 0 ? parts.part[k - 1].end : 0;
    update_part<kWidth>(part.range, part.update, blockIdx.x - first, part.end - first, &factors);
}

template <class Update>
void add_part(Parts<Update> *to, const Range &r, const Update &update, bool wide)
{
    to->narrow = to->narrow || !wide;
    to->part[to->n++] = {r, update, 0};
}

template <int kWidth, class Update>
void launch_parts_of(Parts<Update> *parts, cudaStream_t stream)
{
    int64_t replicas = 1;
    unsigned blocks = 0;
    for (int k = 0; k < parts->n; k++) {
        const Range &r = parts->part[k].range;
        if (r.replicas > replicas) replicas = r.replicas;
        parts->part[k].end = blocks += range_blocks(r, kWidth);
    }
    const dim3 grid(blocks, hn_grid(replicas, 1, 65535));
    update_kernel<kWidth, Update><<<grid, kRangeThreads, 0, stream>>>(*parts);
}

template <class Update>
void launch_parts(Parts<Update> *parts, cudaStream_t stream)
{
    if (parts->narrow)
        launch_parts_of<1>(parts, stream);
    else
        launch_parts_of<HN_VEC>(parts, stream);
}

} // namespace hn_optim
#endif
