/* Squares of 1 and 4: a choice for each tile of the matrix. Masks of large gradients or of low rank
 * have most of their entries in few tiles; there one product of the tile on the tensor cores, of
 * which the chosen values are taken, is less work than its values one by one. So the first kernel
 * counts the blocks of every tile and lists the tiles above a threshold, and the blocks of the
 * others; block_dw_mma_cuda.cu multiplies the tiles, block_dw_slab_cuda.cu the blocks; the last
 * kernel adds up the runs of both. Tiles without blocks are in no list.
 *
 * If all that together would take longer than the whole gradient, the first kernel says so, and
 * nothing is listed. */
#include "kernels/sparse/cuda_block_dw.h"

namespace {

constexpr int kTileValues = HN_SPARSE_TILE * HN_SPARSE_TILE;
constexpr int64_t kRoomBytes = 64 << 20; /* for the sums of tiles; fewer runs take what is more */

/* Measured with 8192 and 16384 tokens: the tile's blocks above which its product is faster (2 % and
 * 6 % of its values), and the shares of a matrix's values one by one, and of its tiles as products,
 * that take as long as the whole gradient: the reads of shared memory, and the rate of mma. */
constexpr int above_of(int64_t side) { return side == 1 ? 328 : 61; }

/* An element by itself takes longer the wider x is (4096 x 4096, 2048 x 8192, 4096 x 14336). */
double singles_of(const hn_block_dw_args *a)
{
    if (a->shape.br > 1) return 0.0125;
    if (a->in <= 4096) return 0.0062;
    return a->in <= 8192 ? 0.0040 : 0.0031;
}

constexpr double kTiles = 0.22;

struct Limits {
    int64_t above;          /* tiles with more blocks are products */
    int64_t singles, tiles; /* that take as long as the whole gradient */
    bool whole;             /* which may be chosen */
};

int64_t tiles_of(const hn_block_dw_args *a) { return hn_sparse_tiles(a->out, a->in); }

/* Tiles that may be products: each has more than `above` of the blocks. */
int64_t most_tiles(const hn_block_dw_args *a, const Limits &l)
{
    const int64_t fit = l.above >= a->capacity ? 0 : a->capacity / (l.above + 1);
    return fit < tiles_of(a) ? fit : tiles_of(a);
}

int64_t most_singles(const hn_block_dw_args *a, const Limits &l)
{
    return a->capacity < l.singles ? a->capacity : l.singles;
}

Limits limits_of(const hn_block_dw_args *a)
{
    const double total = (double)hn_block_total(a->shape, a->out, a->in);
    Limits l = {INT64_MAX, (int64_t)(singles_of(a) * total),
                (int64_t)(kTiles * (double)tiles_of(a)), false};
    if (hn_block_dw_product_takes_(a)) l.above = above_of(a->shape.br);
    l.whole = a->capacity > l.singles;
    if (a->way == HN_BLOCK_DW_BLOCKS) l.above = INT64_MAX, l.singles = a->capacity;
    if (a->way == HN_BLOCK_DW_TILES) l.above = 0;
    if (a->way != HN_BLOCK_DW_BEST) l.whole = false;
    return l;
}

/* ---- the choice ---- */

constexpr int kPlanThreads = 1024, kWarps = kPlanThreads / 32;

struct Counts {
    int single, tiles, tile_blocks;

    __device__ __forceinline__ void add(const Counts &o)
    {
        single += o.single, tiles += o.tiles, tile_blocks += o.tile_blocks;
    }
};

/* The sum of this thread's and the ones before; *all: of all threads. Whole numbers. */
__device__ __forceinline__ Counts scan(Counts mine, Counts *all, Counts *of_warp)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const Counts o = {__shfl_up_sync(0xffffffffu, mine.single, d),
                          __shfl_up_sync(0xffffffffu, mine.tiles, d),
                          __shfl_up_sync(0xffffffffu, mine.tile_blocks, d)};
        if (lane >= d) mine.add(o);
    }
    if (lane == 31) of_warp[warp] = mine;
    __syncthreads();
    Counts before = {};
    *all = {};
    for (int w = 0; w < kWarps; w++) {
        if (w == warp) before = *all;
        all->add(of_warp[w]);
    }
    mine.add(before);
    __syncthreads(); /* the next call writes of_warp */
    return mine;
}

struct Plan {
    const hn_sparse_span *span;
    const int32_t *block, *tile_first;
    int64_t capacity;
    int tiles; /* of the matrix */
    Limits limits;
    HnChosen_ to;
};

/* Blocks of a tile, as far as the span has room for them. */
struct Blocks {
    int first, count;
};

__device__ __forceinline__ Blocks blocks_of(const Plan &p, int n, int tile)
{
    if (tile >= p.tiles) return {0, 0};
    const int first = min(p.tile_first[tile], n), behind = min(p.tile_first[tile + 1], n);
    return {first, behind > first ? behind - first : 0};
}

__device__ __forceinline__ Counts counts_of(const Plan &p, const Blocks &b)
{
    if (b.count > p.limits.above) return {0, 1, b.count};
    return {b.count, 0, 0};
}

__device__ __forceinline__ bool whole_is_faster(const Limits &l, const Counts &c)
{
    return l.whole && (c.single > l.singles || c.tiles > l.tiles ||
                       c.single * l.tiles + c.tiles * l.singles > l.singles * l.tiles);
}

/* What is to be copied into the list of single blocks: `count` from place `from` to place `to`. */
struct Copy {
    int from, to, count;
};

/* All thread blocks count alike, and share out the copies; the first writes the rest. */
__global__ void __launch_bounds__(kPlanThreads) block_dw_plan_kernel(const Plan p)
{
    __shared__ Counts of_warp[kWarps];
    __shared__ Copy copies[kPlanThreads];
    const int n = hn_span_blocks_(p.span, p.capacity), grid = (int)gridDim.x;
    const bool writes = blockIdx.x == 0;
    Counts mine = {}, all;
    for (int tile = (int)threadIdx.x; tile < p.tiles; tile += kPlanThreads)
        mine.add(counts_of(p, blocks_of(p, n, tile)));
    scan(mine, &all, of_warp);
    const bool whole = whole_is_faster(p.limits, all);
    if (writes && threadIdx.x == 0)
        *p.to.choice = whole ? HnChoice_{0, 0, 0, 0, 1}
                             : HnChoice_{all.single, all.tiles, all.tile_blocks, all.tiles > 0, 0};
    if (whole || all.tiles == 0) return;
    if (writes && threadIdx.x == 0) p.to.first[all.tiles] = all.tile_blocks;

    const int32_t *const id = p.block + p.span->first_block;
    Counts before = {};
    for (int tile0 = 0; tile0 < p.tiles; tile0 += kPlanThreads) {
        const int tile = tile0 + (int)threadIdx.x;
        const Blocks b = blocks_of(p, n, tile);
        const Counts now = counts_of(p, b);
        Counts at = scan(now, &all, of_warp); /* with its own */
        at.add(before);
        if (writes && now.tiles > 0) {
            p.to.tile[at.tiles - 1] = tile;
            p.to.first[at.tiles - 1] = at.tile_blocks - now.tile_blocks;
        }
        if (tile % grid == (int)blockIdx.x)
            copies[(int)threadIdx.x / grid] = {b.first, at.single - now.single, now.single};
        __syncthreads();
        /* Tiles of this thread block among the round's. */
        const int skipped = ((int)blockIdx.x - tile0 % grid + grid) % grid;
        const int own = skipped < kPlanThreads ? (kPlanThreads - 1 - skipped) / grid + 1 : 0;
        for (int c = (int)threadIdx.x / 32; c < own; c += kWarps) {
            const Copy copy = copies[c];
            for (int i = (int)threadIdx.x % 32; i < copy.count; i += 32) {
                p.to.id[copy.to + i] = id[copy.from + i];
                p.to.place[copy.to + i] = copy.from + i;
            }
        }
        before.add(all);
        __syncthreads(); /* the next round's copies */
    }
}

/* ---- sums of runs ---- */

struct Sums {
    const hn_sparse_span *span;
    const int32_t *tile_first;
    float *grad;
    float alpha;
    HnChosen_ from;
    HnRuns_ singles, tiles;
};

/* The last k < n with first[k] <= at. */
__device__ __forceinline__ int find(const int32_t *first, int n, int at)
{
    int low = 0, behind = n;
    while (behind - low > 1) {
        const int middle = (low + behind) / 2;
        if (first[middle] <= at)
            low = middle;
        else
            behind = middle;
    }
    return low;
}

/* Blocks of kSide. */
template <int kSide>
__global__ void __launch_bounds__(kHnAddThreads_, 5) block_dw_sums_kernel(const Sums s)
{
    constexpr int kValues = kSide * kSide;
    const HnChoice_ choice = *s.from.choice;
    float *const grad = s.grad + s.span->first_value;
    const int64_t singles = (int64_t)choice.single * kValues;
    const int64_t tiles = (int64_t)choice.tile_blocks * kValues;
    hn_add_runs_(s.from.single_part, singles,
                 hn_runs_(s.singles, hn_items_(s.singles, choice.single)), s.alpha, grad,
                 [&](int64_t v) {
                     const int64_t b = v / kValues;
                     return choice.listed ? (int64_t)s.from.place[b] * kValues + v % kValues : v;
                 });
    const int runs = hn_product_runs_(s.tiles, choice.tiles, tiles, s.from.room);
    if (runs == 1) return; /* which was added at once */
    hn_add_runs_(s.from.tile_part, tiles, runs, s.alpha, grad, [&](int64_t v) {
        const int b = (int)(v / kValues), k = find(s.from.first, choice.tiles, b);
        const int64_t place = s.tile_first[s.from.tile[k]] + b - s.from.first[k];
        return place * kValues + v % kValues;
    });
}

/* ---- scratch ---- */

/* Values of the tiles' sums, of all runs: hn_runs_ gives no more runs than fit into the places and
 * kHnRounds_ rounds more, and than `longest`. */
int64_t room_of(const hn_block_dw_args *a, int64_t most)
{
    const HnRuns_ runs = hn_block_dw_product_runs_(a, most);
    const int64_t values = a->capacity * hn_block_values(a->shape), longest = hn_runs_(runs, 1);
    if (most == 0 || longest < 2) return 0;
    int64_t room = values + (int64_t)kHnRounds_ * runs.slots * kTileValues;
    if (longest * values < room) room = longest * values;
    constexpr int64_t kMost = kRoomBytes / (int64_t)sizeof(float);
    return room < kMost ? room : kMost;
}

int64_t take(int64_t *bytes, int64_t n)
{
    const int64_t at = *bytes;
    *bytes += (n * 4 + 255) / 256 * 256;
    return at;
}

/* Choice | tile, first | id, place | sums of single blocks | sums of tiles; gives the bytes. */
size_t lay_out(const hn_block_dw_args *a, const Limits &l, char *scratch, HnChosen_ *c)
{
    const int64_t tiles = most_tiles(a, l), listed = tiles > 0 ? most_singles(a, l) : 0;
    const size_t sums = hn_runs_bytes_(hn_block_dw_slab_runs_(a, most_singles(a, l)), a);
    int64_t bytes = (int64_t)kHnChoiceBytes_;
    c->room = room_of(a, tiles);
    const int64_t tile = take(&bytes, tiles), first = take(&bytes, tiles + 1);
    const int64_t id = take(&bytes, listed), place = take(&bytes, listed);
    const int64_t single_part = take(&bytes, (int64_t)(sums / sizeof(float)));
    const int64_t tile_part = take(&bytes, c->room);
    if (scratch == nullptr) return (size_t)bytes;
    c->choice = reinterpret_cast<HnChoice_ *>(scratch);
    c->tile = reinterpret_cast<int32_t *>(scratch + tile);
    c->first = reinterpret_cast<int32_t *>(scratch + first);
    c->id = reinterpret_cast<int32_t *>(scratch + id);
    c->place = reinterpret_cast<int32_t *>(scratch + place);
    c->single_part = reinterpret_cast<float *>(scratch + single_part);
    c->tile_part = reinterpret_cast<float *>(scratch + tile_part);
    return (size_t)bytes;
}

} // namespace

/* Not where even a quarter of the capacity would be too much if it filled whole tiles. */
bool hn_block_dw_tile_takes_(const hn_block_dw_args *a)
{
    if (!hn_block_dw_slab_takes_(a)) return false;
    if (a->way == HN_BLOCK_DW_BLOCKS) return true;
    if (a->way == HN_BLOCK_DW_TILES) return hn_block_dw_product_takes_(a);
    const double total = (double)hn_block_total(a->shape, a->out, a->in);
    const double share = hn_block_dw_product_takes_(a) ? kTiles : singles_of(a);
    return singles_of(a) * total >= 1.0 &&
           (double)a->capacity <= (double)kHnCapacityOfShare_ * share * total;
}

bool hn_block_dw_tile_needs_whole_(const hn_block_dw_args *a) { return limits_of(a).whole; }

size_t hn_block_dw_tile_scratch_(const hn_block_dw_args *a)
{
    HnChosen_ c;
    return lay_out(a, limits_of(a), nullptr, &c);
}

int hn_block_dw_tile_shared_(const hn_block_dw_args *a)
{
    const int slab = hn_block_dw_slab_shared_(), product = hn_block_dw_product_shared_();
    (void)a;
    return slab > product ? slab : product;
}

hn_status hn_block_dw_tile_(const hn_block_dw_args *a, void *scratch, const int32_t **whole,
                            hn_stream stream)
{
    const Limits limits = limits_of(a);
    const int64_t tiles = most_tiles(a, limits), singles = most_singles(a, limits);
    const int64_t values = hn_block_values(a->shape);
    Plan plan = {a->span, a->block, a->tile_first, a->capacity, (int)tiles_of(a), limits, {}};
    lay_out(a, limits, static_cast<char *>(scratch), &plan.to);
    *whole = &plan.to.choice->whole;
    block_dw_plan_kernel<<<hn_grid(tiles_of(a), 1, kHnSms_), kPlanThreads, 0, stream>>>(plan);
    HN_TRY(HN_CUDA_LAUNCHED("block_dw: plan"));
    if (limits.above > 0) HN_TRY(hn_block_dw_slab_(a, singles, plan.to, stream));
    if (tiles > 0) HN_TRY(hn_block_dw_product_(a, tiles, plan.to, stream));
    const Sums sums = {a->span,
                       a->tile_first,
                       a->grad,
                       hn_alpha_(a->alpha),
                       plan.to,
                       hn_block_dw_slab_runs_(a, singles),
                       hn_block_dw_product_runs_(a, tiles)};
    const int64_t n = tiles > 0 ? a->capacity : singles;
    const unsigned grid = hn_grid(n * values, kHnAddThreads_ / kHnAddDeepest_, kHnSms_ * 8);
    if (a->shape.br == 1)
        block_dw_sums_kernel<1><<<grid, kHnAddThreads_, 0, stream>>>(sums);
    else
        block_dw_sums_kernel<4><<<grid, kHnAddThreads_, 0, stream>>>(sums);
    return HN_CUDA_LAUNCHED("block_dw: sums");
}
