/* Old candidates add what they have to the new scores; then kernels/reduce/topk.h. */
#include "kernels/reduce/topk.h"
#include "kernels/sparse/score_merge.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) join_kernel(const hn_score_merge_args a)
{
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < a.cap;
         i += (int64_t)gridDim.x * kThreads)
        if (a.ids[i] >= 0) a.f[a.ids[i]] += a.acc[i];
}

hn_topk_args best_of(const hn_score_merge_args *a)
{
    return {a->f, a->ids, a->acc, a->blocks, a->cap};
}

} // namespace

size_t hn_score_merge_cuda_scratch(const hn_score_merge_args *a)
{
    const hn_topk_args best = best_of(a);
    return hn_topk_cuda_scratch(&best);
}

hn_status hn_score_merge_cuda(const hn_score_merge_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_score_merge_check(a));
    const hn_topk_args best = best_of(a);
    join_kernel<<<hn_grid(a->cap, kThreads, 1 << 16), kThreads, 0, stream>>>(*a);
    HN_TRY(HN_CUDA_LAUNCHED("score_merge"));
    return hn_topk_cuda(&best, scratch, stream);
}
