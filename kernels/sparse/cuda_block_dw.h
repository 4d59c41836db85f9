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

/* A launch of a kernel: places for its items at one time, tokens of one step, and what a run of
 * tokens should have at least to be worth its sums. */
struct HnRuns_ {
    int64_t tokens;                        /* rows */
    int step, least, slots;                /* tokens; tokens; CTAs that run at a time */
    int64_t items_a_block, blocks_an_item; /* one of them 1 */
};

static __host__ __device__ __forceinline__ int64_t hn_ceil_div_(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Blocks of the span, as far as there is room for them. */
static __device__ __forceinline__ int hn_span_blocks_(const hn_sparse_span *span, int64_t capacity)
{
    const int n = span->count;
    return n < 0 ? 0 : n < capacity ? n : (int)capacity;
}

static __host__ __device__ __forceinline__ int64_t hn_items_(const HnRuns_ &r, int64_t blocks)
{
    return r.items_a_block > 1 ? blocks * r.items_a_block : hn_ceil_div_(blocks, r.blocks_an_item);
}

/* Runs of tokens for n items: as many as places are, and never more than twice, which bounds the
 * sums; of few choices the one with the fullest last round. */
static __host__ __device__ __forceinline__ int64_t hn_runs_(const HnRuns_ &r, int64_t items)
{
    const int64_t longest = r.tokens / r.least > 1 ? r.tokens / r.least : 1;
    if (items < 1 || items > r.slots) return 1;
    if (items <= r.slots / 8) return r.slots / items < longest ? r.slots / items : longest;
    int64_t best = 1, best_rounds = 1;
    for (int64_t s = 2; s <= 2 * r.slots / items && s <= longest; s++) {
        const int64_t rounds = hn_ceil_div_(s * items, r.slots);
        if (rounds * best < best_rounds * s) best = s, best_rounds = rounds;
    }
    return best;
}

/* Bytes of the sums, for whatever count up to the capacity. */
static inline size_t hn_runs_bytes_(const HnRuns_ &r, const hn_block_dw_args *a)
{
    const int64_t values = hn_block_values(a->shape), all = a->capacity * values;
    const int64_t item = values * r.blocks_an_item / r.items_a_block, few = 2 * r.slots * item;
    const int64_t most = few < hn_runs_(r, 1) * all ? few : hn_runs_(r, 1) * all;
    return (size_t)(most > all ? most : all) * sizeof(float); /* one run of all, or more of few */
}

/* The paths; scratch in bytes, launchers for arguments that the path takes. */
bool hn_block_dw_mma_takes_(const hn_block_dw_args *a);
size_t hn_block_dw_mma_scratch_(const hn_block_dw_args *a);
hn_status hn_block_dw_mma_(const hn_block_dw_args *a, void *scratch, hn_stream stream);

bool hn_block_dw_slab_takes_(const hn_block_dw_args *a);
bool hn_block_dw_slab_fits_(void); /* into the shared memory of the current device */
size_t hn_block_dw_slab_scratch_(const hn_block_dw_args *a);
hn_status hn_block_dw_slab_(const hn_block_dw_args *a, void *scratch, hn_stream stream);

/* grad += alpha * the sums of the runs, in order. */
hn_status hn_block_dw_add_(const hn_block_dw_args *a, const HnRuns_ &runs, const float *part,
                           hn_stream stream);

/* grad += alpha * dw of those values of the span that lie in rows row .. row + rows - 1; dw: these
 * rows. */
hn_status hn_block_gather_rows_(const hn_block_gather_args *a, int64_t row, int64_t rows,
                                hn_stream stream);

static inline float hn_alpha_(float alpha) { return alpha == 0.0f ? 1.0f : alpha; }

#endif
