/* A block sums the squares of HN_SUM_BLOCK elements in double, all of them under way at a time. The
 * block of a replica that is done last adds these sums, in an order that does not depend on which
 * block it is, and makes the factor. The step block counts the blocks that are done. */
#include "kernels/optim/grad_norm.h"

#include "kernels/reduce/sum_squares.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 1024;            /* sums under way when the sums of blocks are added */
constexpr int64_t kMaxBlocks = 1 << 20; /* then a block takes several parts */
constexpr int kPacks = HN_SUM_BLOCK / (4 * kThreads); /* of 4 elements a thread */
static_assert(HN_SUM_BLOCK % (4 * kThreads) == 0, "every thread sums as many elements");

/* The sum of the squares of x[0 .. HN_SUM_BLOCK), or what is left, in every thread. */
__device__ __forceinline__ double sum_block(const float *x, int64_t left, bool wide)
{
    float v[kPacks][4];
    if (wide && left >= HN_SUM_BLOCK) {
#pragma unroll
        for (int p = 0; p < kPacks; p++) {
            const float4 four = reinterpret_cast<const float4 *>(x)[p * kThreads + threadIdx.x];
            v[p][0] = four.x, v[p][1] = four.y, v[p][2] = four.z, v[p][3] = four.w;
        }
    } else { /* the same elements */
#pragma unroll
        for (int e = 0; e < 4 * kPacks; e++) {
            const int at = 4 * (e / 4 * kThreads + (int)threadIdx.x) + e % 4;
            v[e / 4][e % 4] = at < left ? x[at] : 0.0f;
        }
    }
    double sum = 0.0;
#pragma unroll
    for (int p = 0; p < kPacks; p++)
#pragma unroll
        for (int k = 0; k < 4; k++) sum += (double)v[p][k] * (double)v[p][k];
    return hn_block_sum<kThreads>(sum);
}

/* Whether this block is the last of the replica: then it sees what the others have written. Every
 * thread asks, thread 0 behind what the block has written. */
__device__ __forceinline__ bool is_last(hn_step_block *step, int64_t blocks)
{
    __shared__ bool last;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(&step->arrived, 1u) == (uint32_t)(blocks - 1);
        __threadfence();
    }
    __syncthreads();
    return last;
}

/* The sum of partial[0 .. blocks), in thread 0: kLanes sums, each over every kLanes-th one, added
 * by warps. A thread makes kLanes / kThreads of them at a time, so that its loads overlap. */
__device__ __forceinline__ double sum_partial(const double *partial, int64_t blocks)
{
    constexpr int kEach = kLanes / kThreads;
    __shared__ double warp_sum[kLanes / 32];
    double sum[kEach] = {}, total = 0.0;
#pragma unroll 2
    for (int64_t b = threadIdx.x; b < blocks; b += kLanes) {
        double v[kEach];
#pragma unroll
        for (int k = 0; k < kEach; k++)
            v[k] = b + k * kThreads < blocks ? __ldcg(partial + b + k * kThreads) : 0.0;
#pragma unroll
        for (int k = 0; k < kEach; k++) sum[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < kEach; k++) {
        sum[k] = hn_warp_sum(sum[k]);
        if (threadIdx.x % 32 == 0) warp_sum[(k * kThreads + (int)threadIdx.x) / 32] = sum[k];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        total = warp_sum[0];
#pragma unroll
        for (int w = 1; w < kLanes / 32; w++) total += warp_sum[w];
    }
    __syncthreads(); /* before the next call */
    return total;
}

/* As set_scale of grad_norm_cpu.c. */
__device__ void set_scale(hn_step_block *step, double sum_squares, double count)
{
    const double norm = sqrt(sum_squares) / count;
    step->count = (float)count;
    step->grad_scale = 0.0f;
    if (count == 0.0) {
        step->grad_norm = 0.0f;
        step->skipped = HN_STEP_EMPTY;
        return;
    }
    step->grad_norm = (float)norm;
    step->skipped = HN_STEP_NONFINITE;
    if (!isfinite(norm) || !isfinite(count) || count < 0.0) return;
    const double clip = step->max_norm > 0.0f ? (double)step->max_norm / (norm + 1e-6) : 1.0;
    step->grad_scale = (float)((clip < 1.0 ? clip : 1.0) / count);
    step->skipped = HN_STEP_DONE;
}

/* partial[replica][block]. wide: rows of grad are aligned for 16 bytes */
__global__ void __launch_bounds__(kThreads, 4)
    grad_norm_kernel(const hn_grad_norm_args a, int64_t replicas, int64_t blocks, bool wide,
                     double *partial)
{
    for (int64_t b = blockIdx.x; b < replicas * blocks; b += gridDim.x) {
        const int64_t replica = b / blocks, first = (b - replica * blocks) * HN_SUM_BLOCK;
        hn_step_block *const step = a.step + replica;
        const float *const x = a.grad + replica * a.grad_stride + first;
        const double sum = sum_block(x, a.n - first, wide);
        if (threadIdx.x == 0) partial[b] = sum;
        if (!is_last(step, blocks)) continue;
        const double all = sum_partial(partial + replica * blocks, blocks);
        if (threadIdx.x != 0) continue;
        set_scale(step, all, (double)a.count[replica * a.count_stride]);
        step->arrived = 0;
    }
}

/* The first part alone. */
__global__ void __launch_bounds__(kThreads, 4)
    grad_sums_kernel(const hn_grad_sums_args a, int64_t blocks, bool wide)
{
    for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
        const double sum = sum_block(a.grad + b * HN_SUM_BLOCK, a.n - b * HN_SUM_BLOCK, wide);
        if (threadIdx.x == 0) a.sum[b] = sum;
    }
}

/* The second, in one block. */
__global__ void __launch_bounds__(kThreads) grad_scale_kernel(const hn_grad_scale_args a)
{
    const double all = sum_partial(a.sum, a.blocks);
    if (threadIdx.x == 0) set_scale(a.step, all, (double)a.count[0]);
}

} // namespace

hn_status hn_grad_sums_cuda(const hn_grad_sums_args *a, hn_stream stream)
{
    HN_TRY(hn_grad_sums_check(a));
    const int64_t blocks = hn_sum_squares_blocks(a->n);
    grad_sums_kernel<<<hn_grid(blocks, 1, kMaxBlocks), kThreads, 0, stream>>>(
        *a, blocks, hn_vectors_fit(a->grad, 0, HN_F32));
    return HN_CUDA_LAUNCHED("grad_sums");
}

hn_status hn_grad_scale_cuda(const hn_grad_scale_args *a, hn_stream stream)
{
    HN_TRY(hn_grad_scale_check(a));
    grad_scale_kernel<<<1, kThreads, 0, stream>>>(*a);
    return HN_CUDA_LAUNCHED("grad_scale");
}

size_t hn_grad_norm_cuda_scratch(const hn_grad_norm_args *a)
{
    return (size_t)(hn_replica_count(a->replicas) * hn_sum_squares_blocks(a->n)) * sizeof(double);
}

hn_status hn_grad_norm_cuda(const hn_grad_norm_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_grad_norm_check(a));
    HN_TRY(hn_check_pointer("grad_norm", "scratch", scratch));
    const int64_t replicas = hn_replica_count(a->replicas), blocks = hn_sum_squares_blocks(a->n);
    double *const partial = (double *)scratch;
    const bool wide = hn_vectors_fit(a->grad, replicas > 1 ? a->grad_stride : 0, HN_F32);
    grad_norm_kernel<<<hn_grid(replicas * blocks, 1, kMaxBlocks), kThreads, 0, stream>>>(
        *a, replicas, blocks, wide, partial);
    return HN_CUDA_LAUNCHED("grad_norm");
}
