/* A block sums the squares of HN_SUM_BLOCK elements in double, all of them under way at a time;
 * then one block a replica adds these sums in a fixed order and makes the factor. */
#include "kernels/optim/grad_norm.h"

#include "kernels/reduce/sum_squares.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kScaleThreads = 1024;
constexpr int64_t kMaxBlocks = 1 << 20;               /* then a block takes several parts */
constexpr int kPacks = HN_SUM_BLOCK / (4 * kThreads); /* of 4 elements a thread */
static_assert(HN_SUM_BLOCK % (4 * kThreads) == 0, "every thread sums as many elements");

/* partial[replica][block]. wide: rows of grad are aligned for 16 bytes */
__global__ void __launch_bounds__(kThreads, 4)
    square_kernel(const float *grad, int64_t n, int64_t replicas, int64_t grad_stride,
                  int64_t blocks, bool wide, double *partial)
{
    for (int64_t b = blockIdx.x; b < replicas * blocks; b += gridDim.x) {
        const int64_t replica = b / blocks, first = (b - replica * blocks) * HN_SUM_BLOCK;
        const float *const x = grad + replica * grad_stride + first;
        float v[kPacks][4];
        if (wide && n - first >= HN_SUM_BLOCK) {
#pragma unroll
            for (int p = 0; p < kPacks; p++) {
                const float4 four = reinterpret_cast<const float4 *>(x)[p * kThreads + threadIdx.x];
                v[p][0] = four.x, v[p][1] = four.y, v[p][2] = four.z, v[p][3] = four.w;
            }
        } else { /* the same elements */
#pragma unroll
            for (int e = 0; e < 4 * kPacks; e++) {
                const int at = 4 * (e / 4 * kThreads + (int)threadIdx.x) + e % 4;
                v[e / 4][e % 4] = first + at < n ? x[at] : 0.0f;
            }
        }
        double sum = 0.0;
#pragma unroll
        for (int p = 0; p < kPacks; p++)
#pragma unroll
            for (int k = 0; k < 4; k++) sum += (double)v[p][k] * (double)v[p][k];
        sum = hn_block_sum<kThreads>(sum);
        if (threadIdx.x == 0) partial[b] = sum;
    }
}

/* As set_scale of grad_norm_cpu.c. */
__device__ void set_scale(hn_step_block *step, double sum_squares, double count)
{
    const double norm = sqrt(sum_squares) / count;
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

__global__ void __launch_bounds__(kScaleThreads)
    scale_kernel(const double *partial, int64_t blocks, int64_t replicas, const float *count,
                 int64_t count_stride, hn_step_block *step)
{
    for (int64_t r = blockIdx.x; r < replicas; r += gridDim.x) {
        double sum = 0.0;
#pragma unroll 4
        for (int64_t b = threadIdx.x; b < blocks; b += kScaleThreads)
            sum += partial[r * blocks + b];
        sum = hn_block_sum<kScaleThreads>(sum);
        if (threadIdx.x == 0) set_scale(step + r, sum, (double)count[r * count_stride]);
    }
}

} // namespace

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
    square_kernel<<<hn_grid(replicas * blocks, 1, kMaxBlocks), kThreads, 0, stream>>>(
        a->grad, a->n, replicas, a->grad_stride, blocks, wide, partial);
    scale_kernel<<<hn_grid(replicas, 1, kMaxBlocks), kScaleThreads, 0, stream>>>(
        partial, blocks, replicas, a->count, a->count_stride, a->step);
    return HN_CUDA_LAUNCHED("grad_norm");
}
