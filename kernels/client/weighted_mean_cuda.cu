/* A thread sums four neighbouring values over all clients, or one where they do not begin on 16
 * bytes. Eight clients are loaded before their sum: the reads of all blocks keep memory busy. */
#include "kernels/client/weighted_mean.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kThreads = 128;
constexpr int kAhead = 8; /* clients */
constexpr int64_t kMaxBlocks = INT32_MAX;

struct Mean {
    const float *x, *base;
    const double *weight;
    float *out;
    int64_t clients, n, stride;
};

template <int kWidth>
struct alignas(kWidth * sizeof(float)) Values {
    float v[kWidth];
};

template <int kWidth>
__global__ void __launch_bounds__(kThreads) weighted_mean_kernel(Mean a)
{
    using Pack = Values<kWidth>;
    for (int64_t i = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * kWidth; i < a.n;
         i += (int64_t)gridDim.x * kThreads * kWidth) {
        Pack base = {};
        double sum[kWidth] = {};
        if (a.base != nullptr) base = *reinterpret_cast<const Pack *>(a.base + i);
        for (int64_t first = 0; first < a.clients; first += kAhead) {
            Pack x[kAhead];
#pragma unroll
            for (int k = 0; k < kAhead; k++)
                if (first + k < a.clients)
                    x[k] = *reinterpret_cast<const Pack *>(a.x + (first + k) * a.stride + i);
#pragma unroll
            for (int k = 0; k < kAhead; k++)
                if (first + k < a.clients) {
                    const double weight = a.weight[first + k];
#pragma unroll
                    for (int e = 0; e < kWidth; e++) {
                        const double d = __dsub_rn((double)x[k].v[e], (double)base.v[e]);
                        sum[e] = __dadd_rn(sum[e], __dmul_rn(weight, d));
                    }
                }
        }
        Pack out;
#pragma unroll
        for (int e = 0; e < kWidth; e++)
            out.v[e] = __double2float_rn(__dadd_rn((double)base.v[e], sum[e]));
        *reinterpret_cast<Pack *>(a.out + i) = out;
    }
}

bool fours(const void *p) { return (uintptr_t)p % 16 == 0; }

} // namespace

hn_status hn_weighted_mean_cuda(const hn_weighted_mean_args *a, hn_stream stream)
{
    HN_TRY(hn_weighted_mean_check(a));
    const Mean mean = {a->x, a->base, a->weight, a->out, a->clients, a->n, a->stride};
    if (a->n % 4 == 0 && a->stride % 4 == 0 && fours(a->x) && fours(a->base) && fours(a->out))
        weighted_mean_kernel<4>
            <<<hn_grid(a->n, 4 * kThreads, kMaxBlocks), kThreads, 0, stream>>>(mean);
    else
        weighted_mean_kernel<1><<<hn_grid(a->n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(mean);
    return HN_CUDA_LAUNCHED("weighted_mean");
}
