/* Single values and squares of 4 without tensor cores. A group of neighbours in the span touches
 * nearly all columns of x but few rows of tiles; so a thread block takes a run of tokens, a few at
 * a time, of all columns that its group needs, lays them out column by column in shared memory, and
 * every thread adds up the products of its own values in registers, while the next tokens come.
 * What is read is read once a group, whole, which for scattered values is the least that memory
 * allows: a column by itself would cost a sector of 32 bytes for each of its 2-byte values. */
#include "kernels/sparse/cuda_block_dw.h"
#include "runtime/base/cuda_mma.h"

namespace {

/* Blocks of a thread; a thread block has a multiprocessor to itself. */
template <int kSide_>
struct Slab {
    static constexpr int kSide = kSide_; /* of a block */
    static constexpr int kThreads = 512;
    static constexpr int kEach = kSide == 1 ? 20 : 4;
    static constexpr int kBlocks = kEach * kThreads;       /* of a group */
    static constexpr int kMostTokens = kSide == 1 ? 8 : 4; /* at a time */
};
constexpr int kSharedBytes = 220 * 1024; /* tokens as they come, and as columns */

struct Job {
    const __nv_bfloat16 *dy, *x;
    int64_t ld_dy, ld_x, out, in;
    const hn_sparse_span *span;
    const int32_t *block;
    HnChosen_ chosen;
    HnRuns_ runs;
};

/* The columns that a group needs. */
struct Window {
    int row, rows, col, cols; /* of dy and of x; multiples of 4 */
    int quads;                /* fours of columns of both, dy's first */
};

/* kT tokens of a column. */
template <int kT>
struct __align__(2 * kT) Tokens
{
    uint32_t pair[kT / 2];
};

__device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/* Starts copying 8 bytes to shared memory, zeros unless `there` (then nothing is read). */
__device__ __forceinline__ void copy8(uint2 *to, const __nv_bfloat16 *from, bool there)
{
    const int bytes = there ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(hn_shared_address_(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
}

/* Starts copying four columns q of kT tokens; token t of them to raw[t * quads + q]. */
template <int kT>
__device__ __forceinline__ void copy_quad(const Job &job, const Window &win, int q, int64_t token,
                                          int64_t end, uint2 *raw)
{
    const bool of_dy = 4 * q < win.rows;
    const int64_t ld = of_dy ? job.ld_dy : job.ld_x;
    const __nv_bfloat16 *from =
        (of_dy ? job.dy + win.row + 4 * q : job.x + win.col + 4 * q - win.rows) + token * ld;
#pragma unroll
    for (int t = 0; t < kT; t++) {
        copy8(raw + t * win.quads + q, from, token + t < end);
        from += ld;
    }
}

/* From rows to columns. Column 4 q + k of the window lies at k * quads + q, so that neighbouring
 * threads write neighbouring places, and read mixed ones. A thread turns what it has copied itself,
 * and starts copying the next tokens in its place. */
template <class S, int kT>
__device__ __forceinline__ void turn(const Job &job, const Window &win, int64_t next, int64_t end,
                                     uint2 *raw, Tokens<kT> *shared)
{
#pragma unroll 1
    for (int q = (int)threadIdx.x; q < win.quads; q += S::kThreads) {
        uint2 row[kT];
#pragma unroll
        for (int t = 0; t < kT; t++) row[t] = raw[t * win.quads + q];
        Tokens<kT> column[4];
#pragma unroll
        for (int t = 0; t < kT; t += 2) {
            column[0].pair[t / 2] = __byte_perm(row[t].x, row[t + 1].x, 0x5410);
            column[1].pair[t / 2] = __byte_perm(row[t].x, row[t + 1].x, 0x7632);
            column[2].pair[t / 2] = __byte_perm(row[t].y, row[t + 1].y, 0x5410);
            column[3].pair[t / 2] = __byte_perm(row[t].y, row[t + 1].y, 0x7632);
        }
#pragma unroll
        for (int k = 0; k < 4; k++) shared[k * win.quads + q] = column[k];
        if (next < end) copy_quad<kT>(job, win, q, next, end, raw);
    }
    hn_copy_commit_();
}

/* Where the operands of a block lie: dy's place in the upper half, x's in the lower. */
template <int kSide>
__device__ __forceinline__ uint32_t places(const Window &win, int row, int col)
{
    const int r = row - win.row, c = col - win.col, first = win.rows / 4;
    if (kSide == 4) return (uint32_t)(r / 4) << 16 | (uint32_t)(first + c / 4);
    return (uint32_t)(r % 4 * win.quads + r / 4) << 16 |
           (uint32_t)(c % 4 * win.quads + first + c / 4);
}

template <int kT>
__device__ __forceinline__ void add_products(float *sum, const Tokens<kT> *shared, uint32_t place)
{
    const Tokens<kT> p = shared[place >> 16], q = shared[place & 0xffffu];
#pragma unroll
    for (int t = 0; t < kT / 2; t++) {
        *sum += low(p.pair[t]) * low(q.pair[t]);
        *sum += high(p.pair[t]) * high(q.pair[t]);
    }
}

template <int kT>
__device__ __forceinline__ void add_square(float *sum, const Tokens<kT> *shared, int quads,
                                           uint32_t place)
{
    Tokens<kT> p[4], q[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        p[k] = shared[k * quads + (place >> 16)];
        q[k] = shared[k * quads + (place & 0xffffu)];
    }
#pragma unroll
    for (int t = 0; t < kT / 2; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                sum[4 * i + k] += low(p[i].pair[t]) * low(q[k].pair[t]);
                sum[4 * i + k] += high(p[i].pair[t]) * high(q[k].pair[t]);
            }
}

/* Adds up tokens begin .. end, kT at a time, for the first `used` blocks of a warp's threads. */
template <class S, int kT>
__device__ __forceinline__ void add_tokens(const Job &job, const Window &win, int64_t begin,
                                           int64_t end, int used, const uint32_t *place,
                                           float (*sum)[S::kSide * S::kSide], char *memory)
{
    uint2 *const raw = reinterpret_cast<uint2 *>(memory); /* [kT][quads] */
    Tokens<kT> *const shared = reinterpret_cast<Tokens<kT> *>(raw + kT * win.quads);
    constexpr int kAtOnce = S::kSide == 4 ? 1 : kT == 8 ? 2 : 4; /* loads under way */
    static_assert(S::kEach % kAtOnce == 0, "no block behind the last");
    __syncthreads(); /* nobody reads the group before, which may have been of another size */
#pragma unroll 1
    for (int q = (int)threadIdx.x; q < win.quads; q += S::kThreads)
        copy_quad<kT>(job, win, q, begin, end, raw);
    hn_copy_commit_();
#pragma unroll 1
    for (int64_t token = begin; token < end; token += kT) {
        hn_copy_wait_<0>(); /* for what this thread turns */
        __syncthreads();    /* nobody reads the tokens before */
        turn<S, kT>(job, win, token + kT, end, raw, shared);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < S::kEach; k += kAtOnce) {
            if (k >= used) break;
#pragma unroll
            for (int i = k; i < k + kAtOnce; i++) {
                uint32_t at = place[i];
                asm volatile("" : "+r"(at)); /* both addresses ahead would be twice the registers */
                if constexpr (S::kSide == 1)
                    add_products<kT>(sum[i], shared, at);
                else
                    add_square<kT>(sum[i], shared, win.quads, at);
            }
        }
    }
}

/* Whether kT tokens of the window fit into shared memory, twice. */
template <class S, int kT>
__device__ __forceinline__ bool fits(const Window &win)
{
    return kT <= S::kMostTokens && 2 * win.quads * 4 * (int)sizeof(Tokens<kT>) <= kSharedBytes;
}

/* Groups whose window does not fit into shared memory (blocks few and far between) read device
 * memory value by value. */
template <class S>
__device__ __forceinline__ void add_apart(const Job &job, int64_t begin, int64_t end,
                                          const int32_t *id, int n, hn_divisor by_across,
                                          int across, float *to)
{
    constexpr int kValues = S::kSide * S::kSide;
    for (int v = (int)threadIdx.x; v < n * kValues; v += S::kThreads) {
        const int i = id[v / kValues], down = (int)hn_divide((uint32_t)i, by_across);
        const int row = down * S::kSide + v % kValues / S::kSide;
        const int col = (i - down * across) * S::kSide + v % S::kSide;
        float sum = 0.0f;
#pragma unroll 2
        for (int64_t t = begin; t < end; t++)
            sum += hn_f32(job.dy[t * job.ld_dy + row]) * hn_f32(job.x[t * job.ld_x + col]);
        to[v] = sum;
    }
}

template <class S>
__device__ __forceinline__ Window window_of(const Job &job, const int32_t *id, int64_t blocks,
                                            hn_divisor by_across, int across)
{
    const uint32_t first = (uint32_t)id[0], last = (uint32_t)id[blocks - 1];
    const int r0 = (int)hn_divide(first, by_across), r1 = (int)hn_divide(last, by_across);
    const int top = r0 * S::kSide / HN_SPARSE_TILE, bottom = r1 * S::kSide / HN_SPARSE_TILE;
    Window w = {top * HN_SPARSE_TILE, 0, 0, (int)job.in, 0};
    w.rows = min((bottom + 1) * HN_SPARSE_TILE, (int)job.out) - w.row;
    if (top == bottom) { /* blocks come by tiles, from left to right */
        const int left = ((int)first - r0 * across) * S::kSide / HN_SPARSE_TILE;
        const int right = ((int)last - r1 * across) * S::kSide / HN_SPARSE_TILE;
        w.col = left * HN_SPARSE_TILE;
        w.cols = min((right + 1) * HN_SPARSE_TILE, (int)job.in) - w.col;
    }
    w.quads = w.rows / 4 + w.cols / 4;
    return w;
}

/* Which thread has which single value. Eight lanes at a time read 16 bytes each of shared memory,
 * in one go if all from different banks: so lane l gets, as far as there are any, values whose x
 * lies in banks 4 (l % 8) and up. What is added up, and in which order, does not depend on it. */
struct Order {
    static constexpr int kLanes = 8;
    int taken[kLanes], rest; /* values of each kind so far; of kinds with too many */
    uint16_t value[Slab<1>::kBlocks], more[Slab<1>::kBlocks];
};

__device__ __forceinline__ void find_order(const Window &win, const int32_t *id, int n,
                                           hn_divisor by_across, int across, Order *o)
{
    constexpr int kLanes = Order::kLanes, kThreads = Slab<1>::kThreads;
    const int t = (int)threadIdx.x, lane = t % 32;
    __syncthreads(); /* nobody reads the tokens of the group before */
    if (t < kLanes) o->taken[t] = 0;
    if (t == 0) o->rest = 0;
    __syncthreads();
#pragma unroll 1
    for (int first = t - lane; first < n; first += kThreads) {
        int kind = kLanes; /* none */
        if (first + lane < n) {
            const int i = id[first + lane], row = (int)hn_divide((uint32_t)i, by_across);
            kind = (int)places<1>(win, row, i - row * across) % kLanes;
        }
        int before = 0, count = 0; /* of this lane's kind; of kind number lane */
#pragma unroll
        for (int k = 0; k < kLanes; k++) {
            const uint32_t same = __ballot_sync(0xffffffffu, kind == k);
            if (kind == k) before = __popc(same & ((1u << lane) - 1));
            if (lane == k) count = __popc(same);
        }
        const int from = lane < kLanes ? atomicAdd(&o->taken[lane], count) : 0;
        before += __shfl_sync(0xffffffffu, from, kind % kLanes);
        const int at = before * kLanes + kind;
        if (kind == kLanes) continue;
        if (at < n)
            o->value[at] = (uint16_t)(first + lane);
        else
            o->more[atomicAdd(&o->rest, 1)] = (uint16_t)(first + lane);
    }
    __syncthreads();
    for (int m = t; m < o->rest; m += kThreads) { /* into the places that are left */
        int left = m;
        for (int k = 0; k < kLanes; k++) {
            const int room = max((n - k + kLanes - 1) / kLanes - o->taken[k], 0);
            if (left >= 0 && left < room) o->value[(o->taken[k] + left) * kLanes + k] = o->more[m];
            left -= room;
        }
    }
    __syncthreads();
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    block_dw_slab_kernel(const Job job, const hn_divisor by_across)
{
    extern __shared__ __align__(16) char shared[];
    constexpr int kValues = S::kSide * S::kSide;
    const HnChoice_ choice = *job.chosen.choice;
    const int32_t *const ids = choice.listed ? job.chosen.id : job.block + job.span->first_block;
    const int64_t blocks = choice.single;
    const int64_t groups = hn_items_(job.runs, blocks), runs = hn_runs_(job.runs, groups);
    const int across = (int)(job.in / S::kSide);
    const int64_t steps = hn_ceil_div_(job.runs.tokens, job.runs.step);

#pragma unroll 1
    for (int64_t w = blockIdx.x; w < groups * runs; w += gridDim.x) {
        const int64_t run = w / groups, group = w % groups, first = hn_part_(blocks, group, groups);
        const int32_t *const id = ids + first;
        const int n = (int)(hn_part_(blocks, group + 1, groups) - first);
        const int others = n - (int)threadIdx.x / 32 * 32; /* blocks from this warp's first on */
        const int used = others > 0 ? (others + S::kThreads - 1) / S::kThreads : 0;
        const int64_t begin = hn_part_(steps, run, runs) * job.runs.step;
        const int64_t behind = hn_part_(steps, run + 1, runs) * job.runs.step;
        const int64_t end = behind < job.runs.tokens ? behind : job.runs.tokens;
        const Window win = window_of<S>(job, id, n, by_across, across);
        float *const to = job.chosen.single_part + (run * blocks + first) * kValues;
        if (!fits<S, 2>(win)) {
            add_apart<S>(job, begin, end, id, n, by_across, across, to);
            continue;
        }

        const bool ordered = S::kSide == 1 && fits<S, 8>(win);
        Order *const order = reinterpret_cast<Order *>(shared);
        if (ordered) find_order(win, id, n, by_across, across, order);
        float sum[S::kEach][kValues];
        uint32_t place[S::kEach];
#pragma unroll
        for (int k = 0; k < S::kEach; k++) {
            const int at = k * S::kThreads + (int)threadIdx.x;
            const int b = at >= n ? 0 : ordered ? order->value[at] : at;
            const int i = id[b], down = (int)hn_divide((uint32_t)i, by_across);
            place[k] = places<S::kSide>(win, down * S::kSide, (i - down * across) * S::kSide);
            if (ordered && at < n) to[at] = __int_as_float(b); /* kept there for this thread */
#pragma unroll
            for (int v = 0; v < kValues; v++) sum[k][v] = 0.0f;
        }
        /* The more tokens of a column at once, the fewer reads of shared memory collide. */
        if (S::kMostTokens == 8 && fits<S, S::kMostTokens>(win))
            add_tokens<S, S::kMostTokens>(job, win, begin, end, used, place, sum, shared);
        else if (fits<S, 4>(win))
            add_tokens<S, 4>(job, win, begin, end, used, place, sum, shared);
        else
            add_tokens<S, 2>(job, win, begin, end, used, place, sum, shared);
        int b[S::kEach];
#pragma unroll
        for (int k = 0; k < S::kEach; k++) {
            const int at = k * S::kThreads + (int)threadIdx.x;
            b[k] = ordered && at < n ? __float_as_int(to[at]) : at;
        }
        if (ordered) __syncthreads(); /* all have read theirs */
#pragma unroll
        for (int k = 0; k < S::kEach; k++)
            if (k * S::kThreads + (int)threadIdx.x < n)
#pragma unroll
                for (int v = 0; v < kValues; v++) to[b[k] * kValues + v] = sum[k][v];
    }
}

template <class S>
HnRuns_ runs_of(const hn_block_dw_args *a, int64_t most)
{
    return {a->rows, a->capacity, most, 8, 64, kHnSms_, 1, S::kBlocks};
}

template <class S>
hn_status launch(const hn_block_dw_args *a, int64_t most, const HnChosen_ &to, hn_stream stream)
{
    const HnRuns_ runs = runs_of<S>(a, most);
    const Job job = {static_cast<const __nv_bfloat16 *>(a->dy),
                     static_cast<const __nv_bfloat16 *>(a->x),
                     a->ld_dy,
                     a->ld_x,
                     a->out,
                     a->in,
                     a->span,
                     a->block,
                     to,
                     runs};
    const int64_t works = hn_items_(runs, most) * hn_runs_(runs, 1);
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(
        block_dw_slab_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes)));
    block_dw_slab_kernel<S><<<hn_grid(works, 1, kHnSms_), S::kThreads, kSharedBytes, stream>>>(
        job, hn_divisor_of(a->in / S::kSide));
    return HN_CUDA_LAUNCHED("block_dw_slab");
}

} // namespace

/* x is this wide at most: two tokens of all columns and one tile of dy fit, twice. */
constexpr int64_t kWidest = kSharedBytes / (2 * 2 * (int)sizeof(__nv_bfloat16)) - HN_SPARSE_TILE;

bool hn_block_dw_slab_takes_(const hn_block_dw_args *a)
{
    return a->dtype == HN_BF16 && a->shape.br == a->shape.bc &&
           (a->shape.br == 1 || a->shape.br == 4) && a->out % 4 == 0 && a->in % 4 == 0 &&
           a->ld_dy % 4 == 0 && a->ld_x % 4 == 0 && a->in <= kWidest;
}

HnRuns_ hn_block_dw_slab_runs_(const hn_block_dw_args *a, int64_t most)
{
    return a->shape.br == 1 ? runs_of<Slab<1>>(a, most) : runs_of<Slab<4>>(a, most);
}

int hn_block_dw_slab_shared_() { return kSharedBytes; }

hn_status hn_block_dw_slab_(const hn_block_dw_args *a, int64_t most, const HnChosen_ &to,
                            hn_stream stream)
{
    return a->shape.br == 1 ? launch<Slab<1>>(a, most, to, stream)
                            : launch<Slab<4>>(a, most, to, stream);
}
