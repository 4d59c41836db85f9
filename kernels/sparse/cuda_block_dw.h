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

/* The capacity of a matrix over the share that it is expected to use (runtime/adapt). Where even
 * this share is too long for a path, the whole gradient alone. */
constexpr int64_t kHnCapacityOfShare_ = 4;

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

/* grad += alpha * the sums of the runs, in order. */
hn_status hn_block_dw_add_(const hn_block_dw_args *a, const HnRuns_ &runs, const float *part,
                           hn_stream stream);

/* ---- squares of 1 and 4: a choice for each tile of the matrix ---- */

/* What a kernel found before the others run; in the scratch. */
struct HnChoice_ {
    int32_t single;             /* blocks that are multiplied one by one */
    int32_t tiles, tile_blocks; /* tiles that are a product each, and their blocks */
    int32_t listed;             /* 0: no tile is, and the single blocks are the span */
    int32_t whole;              /* 1: the whole gradient is faster; the others are 0 then */
};

/* The choice and its lists, as kernels get them. Tiles and blocks stand in the order of the span.
 */
struct HnChosen_ {
    HnChoice_ *choice;
    int32_t *tile, *first; /* tile k of those that are products; its first block among theirs */
    int32_t *id, *place;   /* of single block k; where it stands in the span. Only if listed */
    float *single_part;    /* [run][value of the single blocks] */
    float *tile_part;      /* [run][value of the tiles' blocks] */
    int64_t room;          /* values that tile_part has room for */
};

bool hn_block_dw_tile_takes_(const hn_block_dw_args *a);
/* The whole gradient, where it may be needed (hn_block_dw_tile_needs_whole_), comes behind, of
 * spans with *whole > 0, which hn_block_dw_tile_ gives; it may have what of the scratch lies behind
 * the first kHnChoiceBytes_. */
constexpr size_t kHnChoiceBytes_ = 256;
bool hn_block_dw_tile_needs_whole_(const hn_block_dw_args *a);
size_t hn_block_dw_tile_scratch_(const hn_block_dw_args *a);
int hn_block_dw_tile_shared_(const hn_block_dw_args *a);
hn_status hn_block_dw_tile_(const hn_block_dw_args *a, void *scratch, const int32_t **whole,
                            hn_stream stream);

/* The kernels of single blocks (at most `most`) and of tiles; sums of runs go to `to`'s parts. */
bool hn_block_dw_slab_takes_(const hn_block_dw_args *a);
HnRuns_ hn_block_dw_slab_runs_(const hn_block_dw_args *a, int64_t most);
int hn_block_dw_slab_shared_();
hn_status hn_block_dw_slab_(const hn_block_dw_args *a, int64_t most, const HnChosen_ &to,
                            hn_stream stream);

bool hn_block_dw_product_takes_(const hn_block_dw_args *a);
HnRuns_ hn_block_dw_product_runs_(const hn_block_dw_args *a, int64_t most);
int hn_block_dw_product_shared_();
hn_status hn_block_dw_product_(const hn_block_dw_args *a, int64_t most, const HnChosen_ &to,
                               hn_stream stream);

/* Runs of the tiles' products, whose sums the part must hold; one run adds to grad at once. */
static __device__ __forceinline__ int hn_product_runs_(const HnRuns_ &r, int tiles, int64_t values,
                                                       int64_t room)
{
    const int runs = hn_runs_(r, tiles);
    const int64_t fit = values > 0 ? room / values : 1;
    return runs <= fit ? runs : fit > 1 ? (int)fit : 1;
}

/* ---- sums of runs ---- */

constexpr int kHnAddThreads_ = 256;
constexpr int kHnAddBatch_ = 8;    /* loads of a thread under way */
constexpr int kHnAddDeepest_ = 32; /* threads that share the runs of a value */

/* to[at(v)] += alpha * the sum of part[run][v] over `count` runs, for v < n. Many runs are shared
 * out among threads, so that no thread waits for memory more than once or twice; their sums are
 * added in order. All threads of all blocks take part. */
template <class At>
__device__ __forceinline__ void hn_add_runs_(const float *__restrict__ part, int64_t n, int count,
                                             float alpha, float *to, At at)
{
    __shared__ float sums[kHnAddThreads_];
    int deep = 1;
    while (deep < kHnAddDeepest_ && deep * kHnAddBatch_ < count) deep *= 2;
    const int wide = kHnAddThreads_ / deep, col = (int)threadIdx.x % wide;
    const int d = (int)threadIdx.x / wide;
    const int begin = d * count / deep, end = (d + 1) * count / deep;
    for (int64_t v0 = (int64_t)blockIdx.x * wide; v0 < n; v0 += (int64_t)gridDim.x * wide) {
        const int64_t v = v0 + col;
        const bool writes = d == 0 && v < n;
        float *const target = to + (writes ? at(v) : 0);
        const float before = writes ? *target : 0.0f;
        float sum = 0.0f;
        for (int r = begin; r < end; r += kHnAddBatch_) {
            float p[kHnAddBatch_];
#pragma unroll
            for (int i = 0; i < kHnAddBatch_; i++)
                p[i] = r + i < end && v < n ? part[(r + i) * n + v] : 0.0f;
#pragma unroll
            for (int i = 0; i < kHnAddBatch_; i++) sum += p[i];
        }
        if (deep > 1) { /* the same for all threads */
            sums[threadIdx.x] = sum;
            __syncthreads();
            if (d == 0)
                for (int i = 1; i < deep; i++) sum += sums[i * wide + col];
            __syncthreads();
        }
        if (writes) *target = before + alpha * sum;
    }
}

/* grad += alpha * dw of those values of the span that lie in rows row .. row + rows - 1; dw: these
 * rows. Nothing happens unless *value > above. */
hn_status hn_block_gather_rows_(const hn_block_gather_args *a, int64_t row, int64_t rows,
                                const int32_t *value, int32_t above, hn_stream stream);

static inline float hn_alpha_(float alpha) { return alpha == 0.0f ? 1.0f : alpha; }

#endif
