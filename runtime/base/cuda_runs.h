/* cuda_runs.h - column sums in two launches: blocks add up runs of rows, then a block adds up the
 * runs of 32 columns (for .cu files only). Shapes alone decide the order of all additions.
 */
#ifndef HN_CUDA_RUNS_H
#define HN_CUDA_RUNS_H
#include "runtime/base/cuda_math.h"

/* A team is kTeam neighbouring lanes of a warp, each with kN columns. The sums over the warp's
 * teams: a lane of each team ends with its share of the columns, kN kTeam / 32 of them, in the
 * first places of v; v[k] is the sum of column hn_folded<kTeam, kN>() + k. Half of the columns that
 * are left change lanes at each step, to the lane kApart away, so that 36 shuffles add up 48
 * columns of 4 teams. */
template <int kTeam, int kN, int kApart = 16, int kSize>
static __device__ __forceinline__ void hn_fold(float (&v)[kSize])
{
    if constexpr (kApart >= kTeam) {
        static_assert(kN % 2 == 0, "equal shares");
        constexpr int kHalf = kN / 2;
        const bool upper = (threadIdx.x & kApart) != 0;
#pragma unroll
        for (int k = 0; k < kHalf; k++) {
            const float kept = upper ? v[k + kHalf] : v[k], given = upper ? v[k] : v[k + kHalf];
            v[k] = kept + __shfl_xor_sync(0xffffffffu, given, kApart);
        }
        hn_fold<kTeam, kHalf, kApart / 2>(v);
    }
}

template <int kTeam, int kN, int kApart = 16>
static __device__ __forceinline__ int hn_folded(void)
{
    if constexpr (kApart < kTeam)
        return 0;
    else
        return ((threadIdx.x & kApart) != 0 ? kN / 2 : 0) + hn_folded<kTeam, kN / 2, kApart / 2>();
}

/* Blocks that add up runs: 16 slices of consecutive runs, a warp each. */
enum { HN_RUN_COLS = 32, HN_RUN_SLICES = 16, HN_RUN_THREADS = HN_RUN_COLS * HN_RUN_SLICES };

/* Sum over r < runs of from[r * stride], in the threads of slice 0; from is the thread's column.
 * All threads of the block come here once; active: the column is there. 256 runs are one round of
 * loads that go out together. */
static __device__ __forceinline__ float hn_add_runs(const float *from, int64_t stride, int64_t runs,
                                                    bool active)
{
    constexpr int kBatch = 16;
    __shared__ float of_slice[HN_RUN_SLICES][HN_RUN_COLS];
    const int slice = (int)threadIdx.x / HN_RUN_COLS, lane = (int)threadIdx.x % HN_RUN_COLS;
    const int64_t share = (runs + HN_RUN_SLICES - 1) / HN_RUN_SLICES;
    const int64_t end = (slice + 1) * share < runs ? (slice + 1) * share : runs;
    float sum = 0.0f;
    for (int64_t r = slice * share; r < end && active; r += kBatch) {
        float v[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; b++) v[b] = r + b < end ? from[(r + b) * stride] : 0.0f;
#pragma unroll
        for (int b = 0; b < kBatch; b++)
            if (r + b < end) sum += v[b];
    }
    of_slice[slice][lane] = sum;
    __syncthreads();
    for (int s = 1; slice == 0 && s < HN_RUN_SLICES; s++) sum += of_slice[s][lane];
    return sum;
}
#endif
