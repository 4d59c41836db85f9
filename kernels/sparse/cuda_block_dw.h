/* cuda_block_dw.h - what the kernels of block_dw share (for the .cu files of this folder only).
 *
 * How many blocks a span has is known when a kernel runs. So grids are what fills the GPU, and what
 * there is to do is planned by the kernels: items (blocks, or groups of them) times runs of tokens,
 * so many that the multiprocessors have equal shares. The sums of a run go to the scratch,
 * part[run][value of the span]; hn_block_dw_add_ adds them to grad in order.
 */
#ifndef HN_CUDA_BLOCK_DW_H
#define HN_CUDA_BLOCK_DW_H
#include "kernels/sparse/block_dw.h"
#include "kernels/sparse/block_gather.h"
#include "runtime/base/cuda_math.h"

constexpr int kHnSms_ = 132; /* of an H200; elsewhere loops take the rest, and bits stay */

/* A launch of a kernel: places for its items at one time, and what a run of tokens should have at
 * least: about as many as take as long as its sums. */
struct HnRuns_ {
    int64_t tokens, capacity, most;        /* rows; the span's; spans of more are another path's */
    int step, least, slots;                /* tokens; tokens; CTAs that run at a time */
    int64_t items_a_block, blocks_an_item; /* one of them 1 */
};

static __host__ __device__ __forceinline__ int64_t hn_ceil_div_(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Where part k of n parts of `all` begins, which differ by one at most; k = n: the end. */
static __device__ __forceinline__ int64_t hn_part_(int64_t all, int64_t k, int64_t n)
{
    return k * all / n;
}

/* Blocks of the span, as far as there is room for them. */
static __device__ __forceinline__ int hn_span_blocks_(const hn_sparse_span *span, int64_t capacity)
{
    const int n = span->count;
    return n < 0 ? 0 : n < capacity ? n : (int)capacity;
}

/* The same, or none when there are more than this path takes. */
static __device__ __forceinline__ int hn_path_blocks_(const hn_sparse_span *span, const HnRuns_ &r)
{
    const int n = hn_span_blocks_(span, r.capacity);
    return n > r.most ? 0 : n;
}

static __host__ __device__ __forceinline__ int64_t hn_items_(const HnRuns_ &r, int64_t blocks)
{
    return r.items_a_block > 1 ? blocks * r.items_a_block : hn_ceil_div_(blocks, r.blocks_an_item);
}

enum { kHnRounds_ = 4 }; /* that are tried, from the fewest on */

/* Runs of tokens for n items. Few items: as many as there are places. Else the most runs that fit
 * into a number of rounds of all places, for that number of rounds that takes the least time. */
static __host__ __device__ __forceinline__ int hn_runs_(const HnRuns_ &r, int64_t n)
{
    const int tokens = (int)r.tokens, items = (int)n;
    const int longest = tokens / r.least > 1 ? tokens / r.least : 1;
    if (n < 1 || n > 1 << 20) return 1;
    if (items <= r.slots / 8) return r.slots / items < longest ? r.slots / items : longest;
    const int fewest = (items + r.slots - 1) / r.slots;
    int best = 1;
    int64_t best_time = INT64_MAX;
    for (int k = 0; k < kHnRounds_; k++) {
        const int fit = (fewest + k) * r.slots / items, s = fit < longest ? fit : longest;
        const int64_t time = (int64_t)(fewest + k) * (tokens / s + r.least);
        if (time < best_time) best = s, best_time = time;
    }
    return best;
}

/* Bytes of the sums, for whatever count up to the least of capacity and most: runs times items are
 * at most the items and kHnRounds_ rounds more. */
static inline size_t hn_runs_bytes_(const HnRuns_ &r, const hn_block_dw_args *a)
{
    const int64_t values = hn_block_values(a->shape);
    const int64_t all = (r.capacity < r.most ? r.capacity : r.most) * values;
    const int64_t item = values * r.blocks_an_item / r.items_a_block;
    const int64_t few = all + kHnRounds_ * r.slots * item, runs = hn_runs_(r, 1) * all;
    return (size_t)(few < runs ? few : runs) * sizeof(float);
}

/* The paths: which arguments they take, scratch and shared memory in bytes, and launchers. A span
 * of more than `most` blocks is left alone. */
bool hn_block_dw_mma_takes_(const hn_block_dw_args *a); /* squares of 64, 128 and 256 */
size_t hn_block_dw_mma_scratch_(const hn_block_dw_args *a, int64_t most);
int hn_block_dw_mma_shared_(const hn_block_dw_args *a);
hn_status hn_block_dw_mma_(const hn_block_dw_args *a, int64_t most, void *scratch,
                           hn_stream stream);

bool hn_block_dw_group_takes_(const hn_block_dw_args *a); /* of 16 and 32 */
size_t hn_block_dw_group_scratch_(const hn_block_dw_args *a, int64_t most);
int hn_block_dw_group_shared_(const hn_block_dw_args *a);
hn_status hn_block_dw_group_(const hn_block_dw_args *a, int64_t most, void *scratch,
                             hn_stream stream);

bool hn_block_dw_slab_takes_(const hn_block_dw_args *a); /* of 1 and 4 */
size_t hn_block_dw_slab_scratch_(const hn_block_dw_args *a, int64_t most);
int hn_block_dw_slab_shared_(const hn_block_dw_args *a);
hn_status hn_block_dw_slab_(const hn_block_dw_args *a, int64_t most, void *scratch,
                            hn_stream stream);

/* grad += alpha * the sums of the runs, in order. */
hn_status hn_block_dw_add_(const hn_block_dw_args *a, const HnRuns_ &runs, const float *part,
                           hn_stream stream);

/* grad += alpha * dw of those values of the span that lie in rows row .. row + rows - 1; dw: these
 * rows. A span of at most `above` blocks is left alone. */
hn_status hn_block_gather_rows_(const hn_block_gather_args *a, int64_t row, int64_t rows,
                                int64_t above, hn_stream stream);

static inline float hn_alpha_(float alpha) { return alpha == 0.0f ? 1.0f : alpha; }

#endif
