/* One pass, a block for each 4096 elements, 8 a thread where alignment allows; with a loss, blocks
 * leave partial sums that a second kernel adds up in order. */
#include "kernels/optim/anchor.h"
#include "kernels/optim/anchor_sum.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;            /* 2 spans of 8 a thread: 4096 elements */
constexpr int64_t kMaxBlocks = 132 * 16; /* then a block takes several pieces */
constexpr int kSumThreads = 512;

/* n is that of a replica; blocks pieces each. count may be nullptr, partial too: no loss. */
struct Anchor {
    const float *p, *ref, *fisher, *count;
    float *grad;
    int64_t n, replicas, blocks, stride, ref_stride, fisher_stride, grad_stride, count_stride;
    float weight;
    double *partial;
};

__device__ __forceinline__ double weight_of(const Anchor &a, int64_t replica)
{
    return (double)a.weight *
           (a.count != nullptr ? (double)a.count[replica * a.count_stride] : 1.0);
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads) anchor_kernel(const Anchor a)
{
    for (int64_t b = blockIdx.x; b < a.replicas * a.blocks; b += gridDim.x) {
        const int64_t replica = b / a.blocks;
        const int64_t first = (b - replica * a.blocks) * HN_ANCHOR_BLOCK_;
        const int64_t left = a.n - first, n = left < HN_ANCHOR_BLOCK_ ? left : HN_ANCHOR_BLOCK_;
        const float *const p = a.p + replica * a.stride + first;
        const float *const ref = a.ref + replica * a.ref_stride + first;
        const float *const fisher =
            a.fisher != nullptr ? a.fisher + replica * a.fisher_stride + first : nullptr;
        float *const grad = a.grad + replica * a.grad_stride + first;
        const float weight = (float)weight_of(a, replica);
        double sum = 0.0;
        for (int64_t i = (int64_t)threadIdx.x * kWidth; i < n; i += kThreads * kWidth) {
            float x[kWidth], y[kWidth], g[kWidth], f[kWidth];
            hn_load_span<kWidth>(p + i, n - i, x);
            hn_load_span<kWidth>(ref + i, n - i, y);
            hn_load_span<kWidth>(grad + i, n - i, g);
            if (fisher != nullptr) hn_load_span<kWidth>(fisher + i, n - i, f);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                const float d = x[k] - y[k], pull = fisher != nullptr ? f[k] * d : d;
                g[k] += weight * pull;
                sum += (double)pull * (double)d; /* 0 behind the end */
            }
            hn_store_span<kWidth>(grad + i, n - i, g);
        }
        if (a.partial == nullptr) continue;
        sum = hn_block_sum<kThreads>(sum);
        if (threadIdx.x == 0) a.partial[b] = sum;
    }
}

__global__ void __launch_bounds__(kSumThreads)
    anchor_loss_kernel(const Anchor a, float *loss, int64_t loss_stride)
{
    for (int64_t r = blockIdx.x; r < a.replicas; r += gridDim.x) {
        double sum = 0.0;
        for (int64_t b = threadIdx.x; b < a.blocks; b += kSumThreads)
            sum += a.partial[r * a.blocks + b];
        sum = hn_block_sum<kSumThreads>(sum);
        if (threadIdx.x == 0) {
            float *const to = loss + r * loss_stride;
            *to = (float)((double)*to + 0.5 * weight_of(a, r) * sum);
        }
    }
}

} // namespace

size_t hn_anchor_cuda_scratch(const hn_anchor_args *a)
{
    if (a->loss == nullptr && a->loss_stride <= 0) return 0;
    return (size_t)(hn_replica_count(a->replicas) * hn_anchor_blocks_(a->n)) * sizeof(double);
}

hn_status hn_anchor_cuda(const hn_anchor_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_anchor_check(a));
    if (a->loss != nullptr) HN_TRY(hn_check_pointer("anchor", "scratch", scratch));
    const int64_t replicas = hn_replica_count(a->replicas), blocks = hn_anchor_blocks_(a->n);
    const auto fits = [&](const float *p, int64_t stride) {
        return hn_vectors_fit(p, replicas > 1 ? stride : 0, HN_F32);
    };
    const bool wide = fits(a->p, a->stride) && fits(a->ref, a->ref_stride) &&
                      fits(a->fisher, a->fisher_stride) && fits(a->grad, a->grad_stride);
    const Anchor k = {a->p,
                      a->ref,
                      a->fisher,
                      a->count,
                      a->grad,
                      a->n,
                      replicas,
                      blocks,
                      a->stride,
                      a->ref_stride,
                      a->fisher_stride,
                      a->grad_stride,
                      a->count_stride,
                      a->weight,
                      a->loss != nullptr ? (double *)scratch : nullptr};
    const unsigned grid = hn_grid(replicas * blocks, 1, kMaxBlocks);
    if (wide)
        anchor_kernel<HN_VEC><<<grid, kThreads, 0, stream>>>(k);
    else
        anchor_kernel<1><<<grid, kThreads, 0, stream>>>(k);
    if (a->loss != nullptr)
        anchor_loss_kernel<<<hn_grid(replicas, 1, kMaxBlocks), kSumThreads, 0, stream>>>(
            k, a->loss, a->loss_stride);
    return HN_CUDA_LAUNCHED("anchor");
}
