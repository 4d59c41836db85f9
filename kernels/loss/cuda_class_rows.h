/* cuda_class_rows.h - what the kernels of the losses over class logits share (for .cu files of this
 * folder only).
 *
 * A row belongs to a team: a warp where the range is narrow, so that a block takes several rows,
 * else a whole block. Rows leave what they give in scratch, and one block adds that up in order;
 * a batch of few narrow rows is done by one block altogether, in one launch. With replicas, whose
 * rows have sums of their own, a block each.
 */
#ifndef HN_CUDA_CLASS_ROWS_H
#define HN_CUDA_CLASS_ROWS_H
#include "kernels/loss/class_rows.h"
#include "runtime/base/cuda_math.h"

namespace hn_class {

constexpr int kWarp = 32;
constexpr int kWide = 256;           /* threads of a row's block */
constexpr int64_t kNarrowCols = 256; /* a warp walks so many columns in 8 steps */
constexpr int kNarrowThreads = 128;  /* 4 rows a block: the batch spreads over the GPU */
constexpr int kSumThreads = 512;     /* of the block that adds up, or does it all: 16 rows a step */
constexpr int64_t kOneBlockRows = 64; /* 4 steps cost less than a second launch, 2.5 us */

/* Sums over the team of a row, the same in every thread. A block's whole team calls them. */
template <int kTeam, class V>
static __device__ __forceinline__ V team_sum(V v)
{
    if constexpr (kTeam == kWarp)
        return hn_warp_sum(v);
    else
        return hn_block_sum<kTeam>(v);
}

/* The largest logit so far and where. */
struct Best {
    float z;
    int32_t at;
};

/* A NaN is larger than all others; of equals the first. */
static __device__ __forceinline__ Best better(Best a, Best b)
{
    const bool nan_a = isnan(a.z), nan_b = isnan(b.z);
    const bool same = nan_a ? nan_b : a.z == b.z;
    const bool first = same ? a.at < b.at : nan_a || a.z > b.z;
    return !same && nan_b ? b : first ? a : b;
}

static __device__ __forceinline__ Best warp_best(Best a)
{
    for (int d = kWarp / 2; d > 0; d /= 2) {
        const Best b = {__shfl_xor_sync(0xffffffffu, a.z, d),
                        __shfl_xor_sync(0xffffffffu, a.at, d)};
        a = better(a, b);
    }
    return a;
}

template <int kTeam>
static __device__ __forceinline__ Best team_best(Best a)
{
    a = warp_best(a);
    if constexpr (kTeam > kWarp) {
        __shared__ Best partial[kTeam / kWarp];
        if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = a;
        __syncthreads();
        a = partial[0];
        for (int w = 1; w < kTeam / kWarp; w++) a = better(a, partial[w]);
        __syncthreads(); /* before the next call writes partial */
    }
    return a;
}

/* Where the sums of a call go; nullptr: not wanted. Those of a group of rows have a block. */
struct Totals {
    float *loss, *count, *hits;
    int64_t groups, count_stride; /* equal groups, in order */
};

/* What a thread has gathered from its rows becomes the totals of the block's group. */
static __device__ __forceinline__ void add_totals(const Totals &all, double loss, int count,
                                                  int hits)
{
    loss = hn_block_sum<kSumThreads>(loss);
    count = hn_block_sum<kSumThreads>(count);
    hits = hn_block_sum<kSumThreads>(hits);
    if (threadIdx.x != 0) return;
    const int64_t g = blockIdx.x;
    if (all.loss != nullptr) all.loss[g] = (float)((double)all.loss[g] + loss);
    if (all.count != nullptr) all.count[g * all.count_stride] += (float)count;
    if (all.hits != nullptr) all.hits[g] += (float)hits;
}

static __global__ void __launch_bounds__(kSumThreads)
    class_totals_kernel(const hn_class_rows w, int64_t group, const Totals to)
{
    const int64_t first = blockIdx.x * group;
    double loss = 0.0;
    int count = 0, hits = 0;
    for (int64_t i = first + threadIdx.x; i < first + group; i += kSumThreads) {
        loss += w.loss[i];
        count += w.say[i] != 0;
        hits += (w.say[i] & HN_ROW_HIT) != 0;
    }
    add_totals(to, loss, count, hits);
}

/* What one row gives, in every thread of its team. */
struct RowGives {
    double loss;
    int say;
};

/* Rows of the grid's teams; op.row<kTeam>(row, lane) does one of them. */
template <class Op, int kTeam, int kThreads>
static __global__ void __launch_bounds__(kThreads)
    class_rows_kernel(const Op op, int64_t rows, const hn_class_rows w)
{
    const int64_t row = (int64_t)blockIdx.x * (kThreads / kTeam) + threadIdx.x / kTeam;
    const int lane = (int)threadIdx.x % kTeam;
    if (row >= rows) return; /* the same for the whole team */
    const RowGives r = op.template row<kTeam>(row, lane);
    if (lane != 0) return;
    w.loss[row] = r.loss;
    w.say[row] = r.say;
}

template <class Op>
static __global__ void __launch_bounds__(kSumThreads)
    class_rows_one_block_kernel(const Op op, int group, const Totals to)
{
    const int lane = (int)threadIdx.x % kWarp;
    double loss = 0.0;
    int count = 0, hits = 0;
#pragma unroll 1
    for (int i = (int)threadIdx.x / kWarp; i < group; i += kSumThreads / kWarp) {
        const int row = (int)blockIdx.x * group + i; /* rows are below 2^31 */
        const RowGives r = op.template row<kWarp>(row, lane);
        if (lane != 0) continue;
        loss += r.loss;
        count += r.say != 0;
        hits += (r.say & HN_ROW_HIT) != 0;
    }
    add_totals(to, loss, count, hits);
}

template <class Op>
static void launch_rows(const Op &op, int64_t rows, int64_t cols, const hn_class_rows &w,
                        const Totals &to, cudaStream_t stream)
{
    const unsigned groups = (unsigned)to.groups;
    if (cols <= kNarrowCols && rows / to.groups <= kOneBlockRows) {
        class_rows_one_block_kernel<<<groups, kSumThreads, 0, stream>>>(op, (int)(rows / groups),
                                                                        to);
        return;
    }
    if (cols <= kNarrowCols)
        class_rows_kernel<Op, kWarp, kNarrowThreads>
            <<<hn_grid(rows, kNarrowThreads / kWarp, INT32_MAX), kNarrowThreads, 0, stream>>>(
                op, rows, w);
    else
        class_rows_kernel<Op, kWide, kWide>
            <<<hn_grid(rows, 1, INT32_MAX), kWide, 0, stream>>>(op, rows, w);
    if (to.loss != nullptr || to.count != nullptr || to.hits != nullptr)
        class_totals_kernel<<<groups, kSumThreads, 0, stream>>>(w, rows / groups, to);
}

} // namespace hn_class
#endif
