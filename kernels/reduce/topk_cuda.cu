/* Radix selection by 14, 14 and 4 bits of order-preserving keys; the file reads in the order of the
 * launches. Scores are cut into as many consecutive ranges as there are blocks, and every block
 * walks its range in order. The counts of a range say what it has to give, so the sums over the
 * ranges before it say where in the output it begins: no block waits for another one, and integer
 * counts make the result the same however they come together.
 *
 *   count_first   counts by the upper 14 bits, a histogram a range                     reads x
 *   add_ranges    histogram of all
 *   choose_first  bin of the k-th score; what each range has in this bin or above
 *   set_aside     those scores, in order, and their positions                          reads x
 *   count_second  of those in the bin: by the next 14 bits                        reads the list
 *   add_ranges
 *   count_third   28 bits are known: counts what is above, and by the last 4      reads the list
 *   take          copies what is above the k-th key, and the first equal ones     reads the list
 *
 * Where the list would not fit (many scores share the bin), x itself stands for it. */
#include "kernels/reduce/topk.h"
#include "kernels/reduce/topk_key.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 512;
constexpr int kPerSm = 3; /* blocks on a multiprocessor */
constexpr int kWarps = kThreads / 32;
constexpr int64_t kRanges = 132 * kPerSm;         /* multiprocessors of an H200 */
constexpr int64_t kLeastRange = 2 * 8 * kThreads; /* with fewer scores there are fewer ranges */
constexpr int kBits = 14, kBins = 1 << kBits;     /* 64 KiB of counts */
constexpr int kFirstShift = 32 - kBits, kSecondShift = kFirstShift - kBits;
constexpr int kLastBins = 1 << kSecondShift;
constexpr int kOwnBins = kBins / kThreads;
constexpr int64_t kLeastList = 1 << 20; /* fewer scores stay in the second cache anyway */
static_assert(kThreads >= kRanges && kThreads % kLastBins == 0, "a thread a range, a thread a bin");

/* What is known of the k-th key. */
struct State {
    uint32_t prefix; /* its upper bits, the others 0 */
    uint32_t want;   /* scores to be taken of those that agree with prefix */
    uint32_t listed; /* scores set aside; 0: none, x stands for the list */
};

/* Device memory of a call. */
struct Scratch {
    State *state;      /* [2] after the first and the second bits */
    uint32_t *total;   /* [kBins] */
    uint32_t *count;   /* [ranges] scores to be set aside */
    uint32_t *above;   /* [ranges] keys above the 28 bits known */
    uint32_t *last;    /* [ranges][kLastBins] */
    uint32_t *bins;    /* [ranges][kBins] */
    float *value;      /* [capacity] the list */
    int32_t *index;    /* [capacity] */
    uint32_t capacity; /* of the list; 0: none */
    int ranges;
    size_t bytes; /* all of it */
};

/* Scores in a row. */
struct List {
    const float *x;
    const int32_t *index; /* nullptr: 0, 1, 2... */
    uint32_t n;
    bool wide; /* x is aligned for 16 bytes */
};

struct Range {
    uint32_t begin, end;
};

/* A block's part of n scores: whole tiles. */
__device__ __forceinline__ Range range_of(uint32_t n, uint32_t tile)
{
    const uint32_t tiles = (n + tile - 1) / tile, each = (tiles + gridDim.x - 1) / gridDim.x;
    const uint64_t begin = (uint64_t)blockIdx.x * each * tile, end = begin + (uint64_t)each * tile;
    return {(uint32_t)(begin < n ? begin : n), (uint32_t)(end < n ? end : n)};
}

__device__ __forceinline__ List list_of(const List &x, const Scratch &s)
{
    const uint32_t listed = s.state[0].listed;
    return listed > 0 ? List{s.value, s.index, listed, true} : x;
}

__device__ __forceinline__ uint32_t key_of(float x) { return hn_topk_key_(__float_as_uint(x)); }

/* The scores of a tile that are a thread's: kGroups times four in a row, kThreads fours apart. */
template <int kGroups>
__device__ __forceinline__ uint32_t place(uint32_t tile, int g)
{
    return tile + 4 * (g * kThreads + threadIdx.x);
}

template <int kGroups>
__device__ __forceinline__ void load_tile(const List &list, uint32_t tile, uint32_t end,
                                          float (&v)[4 * kGroups])
{
    if (list.wide && end - tile >= 4 * kGroups * kThreads) {
#pragma unroll
        for (int g = 0; g < kGroups; g++) {
            const float4 four = *reinterpret_cast<const float4 *>(list.x + place<kGroups>(tile, g));
            v[4 * g] = four.x, v[4 * g + 1] = four.y, v[4 * g + 2] = four.z, v[4 * g + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int e = 0; e < 4 * kGroups; e++) {
            const uint32_t i = place<kGroups>(tile, e / 4) + e % 4;
            v[e] = i < end ? list.x[i] : 0.0f;
        }
    }
}

/* Inclusive sums over the lanes up to this one. */
template <class T>
__device__ __forceinline__ T warp_scan(T v)
{
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const T before = __shfl_up_sync(0xffffffffu, v, d);
        if ((int)threadIdx.x % 32 >= d) v += before;
    }
    return v;
}

/* Sums over the threads before this one, and *all over all; one barrier. `part` must not be in use
 * by the call before: callers take turns between two. */
template <class T>
__device__ __forceinline__ T block_scan(T v, T *part, T *all)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T mine = warp_scan(v);
    if (lane == 31) part[warp] = mine;
    __syncthreads();
    const T warps = warp_scan(lane < kWarps ? part[lane] : 0);
    *all = __shfl_sync(0xffffffffu, warps, kWarps - 1);
    const T before = __shfl_sync(0xffffffffu, warps, warp > 0 ? warp - 1 : 0);
    return mine - v + (warp > 0 ? before : 0);
}
static_assert(kWarps <= 32, "a lane a warp");

/* ---- histograms ---- */

/* kFirst: by the upper bits; else by the next ones of the keys that agree with those known. A
 * thread gathers equal bins that follow each other: many scores may be the same, zeros above all.
 */
template <bool kFirst>
__global__ void __launch_bounds__(kThreads, kPerSm) count_kernel(const List x, const Scratch s)
{
    extern __shared__ uint32_t count[];
    const List list = kFirst ? x : list_of(x, s);
    const uint32_t prefix = kFirst ? 0 : s.state[0].prefix;
    for (int b = threadIdx.x; b < kBins; b += kThreads) count[b] = 0;
    __syncthreads();
    constexpr int kGroups = 2;
    const Range r = range_of(list.n, 4 * kGroups * kThreads);
    uint32_t bin = 0, times = 0;
    for (uint32_t tile = r.begin; tile < r.end; tile += 4 * kGroups * kThreads) {
        float v[4 * kGroups];
        load_tile<kGroups>(list, tile, r.end, v);
#pragma unroll
        for (int e = 0; e < 4 * kGroups; e++) {
            const uint32_t key = key_of(v[e]);
            if (place<kGroups>(tile, e / 4) + e % 4 >= r.end) continue;
            if (!kFirst && (key ^ prefix) >> kFirstShift != 0) continue;
            const uint32_t now = kFirst ? key >> kFirstShift : key >> kSecondShift & (kBins - 1);
            if (now != bin) {
                if (times > 0) atomicAdd(&count[bin], times);
                bin = now;
                times = 0;
            }
            times++;
        }
    }
    if (times > 0) atomicAdd(&count[bin], times);
    __syncthreads();
    uint32_t *const bins = s.bins + (int64_t)blockIdx.x * kBins;
    for (int b = threadIdx.x; b < kBins; b += kThreads) bins[b] = count[b];
}

constexpr int kAddBins = 64, kAddLanes = kThreads / kAddBins; /* of a block */

__global__ void __launch_bounds__(kThreads) add_ranges_kernel(const Scratch s)
{
    __shared__ uint32_t part[kAddLanes][kAddBins];
    const int own = threadIdx.x % kAddBins, lane = threadIdx.x / kAddBins;
    const int bin = blockIdx.x * kAddBins + own;
    uint32_t sum = 0;
#pragma unroll 4
    for (int r = lane; r < s.ranges; r += kAddLanes) sum += s.bins[(int64_t)r * kBins + bin];
    part[lane][own] = sum;
    __syncthreads();
    if (lane > 0) return;
    for (int l = 1; l < kAddLanes; l++) sum += part[l][own];
    s.total[bin] = sum;
}

struct Choice {
    uint32_t bin, above, inside; /* the bin of the want-th largest; counts above it and in it */
};

/* Of the histogram of all; every thread gets the answer. A thread looks at kOwnBins from the top
 * on. */
__device__ __forceinline__ Choice choose(const uint32_t *total, uint32_t want)
{
    __shared__ uint32_t part[kWarps];
    __shared__ Choice choice;
    const uint32_t *const own = total + kBins - (threadIdx.x + 1) * kOwnBins;
    uint32_t sum = 0, all;
    for (int b = 0; b < kOwnBins; b++) sum += own[b];
    uint32_t above = block_scan(sum, part, &all);
    if (above < want && want <= above + sum) {
        int b = kOwnBins - 1;
        for (; above + own[b] < want; b--) above += own[b];
        choice = {(uint32_t)(own - total) + b, above, own[b]};
    }
    __syncthreads();
    return choice;
}

/* ---- the list ---- */

__global__ void __launch_bounds__(kThreads) choose_first_kernel(const Scratch s, uint32_t k)
{
    const Choice c = choose(s.total, k);
    uint32_t sum = 0;
    const uint32_t *const bins = s.bins + (int64_t)blockIdx.x * kBins;
    for (int b = threadIdx.x; b < kBins; b += kThreads)
        if ((uint32_t)b >= c.bin) sum += bins[b];
    sum = hn_block_sum<kThreads>(sum);
    if (threadIdx.x > 0) return;
    s.count[blockIdx.x] = sum;
    const uint32_t listed = c.above + c.inside;
    if (blockIdx.x == 0)
        s.state[0] = {c.bin << kFirstShift, k - c.above, listed <= s.capacity ? listed : 0};
}

constexpr uint32_t kFewStaged = kThreads / 2, kMostStaged = 8 * kThreads;

/* Copies, in order, the scores of a block's range of the list whose key is above `least`, or is
 * `least` and among the first `ties` such ones (kTies; else all such ones); `to`: where the first
 * one goes. kGroups fours a thread. A thread's scores are bits of masks; their counts by group, and
 * of equal ones behind those, travel as fields of 16 bits in one word. Where a tile gives many,
 * they come together in shared memory first: neighbouring threads then write neighbours. */
template <int kGroups, bool kTies>
__device__ __forceinline__ void copy_range(const List &list, Range r, uint32_t least, uint32_t ties,
                                           uint32_t to, int32_t *index, float *value)
{
    static_assert(kGroups * (kTies ? 2 : 1) <= 4 && 4 * kThreads < 1 << 16, "fields of a word");
    __shared__ uint64_t part[2][kWarps];
    __shared__ int32_t staged_index[kMostStaged];
    __shared__ float staged_value[kMostStaged];
    constexpr uint32_t kTile = 4 * kGroups * kThreads;
    int turn = 0;
    for (uint32_t tile = r.begin; tile < r.end; tile += kTile, turn ^= 1) {
        float v[4 * kGroups];
        load_tile<kGroups>(list, tile, r.end, v);
        uint32_t above = 0, equal = 0;
#pragma unroll
        for (int e = 0; e < 4 * kGroups; e++) {
            const uint32_t key = key_of(v[e]);
            if (kTies ? key > least : key >= least) above |= 1u << e;
            if (kTies && key == least) equal |= 1u << e;
        }
        if (r.end - tile < kTile) { /* not what lies behind the end */
            uint32_t inside = 0;
            for (int e = 0; e < 4 * kGroups; e++)
                inside |= (place<kGroups>(tile, e / 4) + e % 4 < r.end ? 1u : 0) << e;
            above &= inside;
            equal &= inside;
        }
        uint64_t count = 0, all;
#pragma unroll
        for (int g = 0; g < kGroups; g++) {
            count |= (uint64_t)__popc(above >> (4 * g) & 15) << (16 * g);
            if (kTies) count |= (uint64_t)__popc(equal >> (4 * g) & 15) << (16 * (kGroups + g));
        }
        const uint64_t before = block_scan(count, part[turn], &all);
        uint32_t taken = 0, tied = 0, given = 0; /* of the tile */
#pragma unroll
        for (int g = 0; g < kGroups; g++) {
            taken += (uint32_t)(all >> (16 * g) & 0xffff);
            if (kTies) tied += (uint32_t)(all >> (16 * (kGroups + g)) & 0xffff);
        }
        taken += tied < ties ? tied : ties;
        const bool staged = taken > kFewStaged && taken <= kMostStaged;
#pragma unroll
        for (int g = 0; g < kGroups; g++) {
            uint32_t at = given + (uint32_t)(before >> (16 * g) & 0xffff), left = 0;
            if (kTies) { /* ties that are left for this thread */
                const uint32_t ahead = before >> (16 * (kGroups + g)) & 0xffff;
                at += ahead < ties ? ahead : ties;
                left = ahead < ties ? ties - ahead : 0;
            }
#pragma unroll
            for (int e = 4 * g; e < 4 * g + 4; e++) {
                bool takes = above >> e & 1;
                if (kTies && (equal >> e & 1) && left > 0) {
                    takes = true;
                    left--;
                }
                if (!takes) continue;
                const uint32_t i = place<kGroups>(tile, g) + e % 4;
                const int32_t from = kTies && list.index != nullptr ? list.index[i] : (int32_t)i;
                if (staged) {
                    staged_index[at] = from;
                    staged_value[at] = v[e];
                } else {
                    index[to + at] = from;
                    if (!kTies || value != nullptr) value[to + at] = v[e];
                }
                at++;
            }
            given += (uint32_t)(all >> (16 * g) & 0xffff);
            if (kTies) {
                const uint32_t equals = all >> (16 * (kGroups + g)) & 0xffff;
                given += equals < ties ? equals : ties;
                ties -= equals < ties ? equals : ties;
            }
        }
        if (staged) {
            __syncthreads(); /* the barrier of the next sums stands before the next writes */
            for (uint32_t i = threadIdx.x; i < taken; i += kThreads) {
                index[to + i] = staged_index[i];
                if (!kTies || value != nullptr) value[to + i] = staged_value[i];
            }
        }
        to += taken;
    }
}

constexpr int kListGroups = 3, kTakeGroups = 2;

__global__ void __launch_bounds__(kThreads, kPerSm) set_aside_kernel(const List x, const Scratch s)
{
    if (s.state[0].listed == 0) return;
    uint32_t to = threadIdx.x < blockIdx.x ? s.count[threadIdx.x] : 0;
    to = hn_block_sum<kThreads>(to);
    /* The ranges of count_kernel<true>: its tiles are half as long. */
    const Range r = range_of(x.n, 8 * kThreads);
    copy_range<kListGroups, false>(x, r, s.state[0].prefix, 0, to, s.index, s.value);
}

/* ---- the last bits ---- */

__global__ void __launch_bounds__(kThreads, kPerSm)
    count_third_kernel(const List x, const Scratch s)
{
    __shared__ uint32_t count[kLastBins];
    const Choice c = choose(s.total, s.state[0].want);
    const uint32_t prefix = s.state[0].prefix | c.bin << kSecondShift;
    if (threadIdx.x < kLastBins) count[threadIdx.x] = 0;
    __syncthreads();
    const List list = list_of(x, s);
    constexpr int kGroups = 2;
    const Range r = range_of(list.n, 4 * kGroups * kThreads);
    uint32_t above = 0;
    for (uint32_t tile = r.begin; tile < r.end; tile += 4 * kGroups * kThreads) {
        float v[4 * kGroups];
        load_tile<kGroups>(list, tile, r.end, v);
#pragma unroll
        for (int e = 0; e < 4 * kGroups; e++) {
            const uint32_t key = key_of(v[e]);
            if (place<kGroups>(tile, e / 4) + e % 4 >= r.end) continue;
            above += key >> kSecondShift > prefix >> kSecondShift;
            if ((key ^ prefix) >> kSecondShift == 0) atomicAdd(&count[key & (kLastBins - 1)], 1u);
        }
    }
    above = hn_block_sum<kThreads>(above); /* its barriers stand behind the counts, too */
    if (threadIdx.x < kLastBins) s.last[blockIdx.x * kLastBins + threadIdx.x] = count[threadIdx.x];
    if (threadIdx.x > 0) return;
    s.above[blockIdx.x] = above;
    if (blockIdx.x == 0) s.state[1] = {prefix, s.state[0].want - c.above, 0};
}

/* The last bin, and how many of it are to be taken. */
__device__ __forceinline__ Choice choose_last(const Scratch &s, uint32_t want)
{
    __shared__ uint32_t part[kThreads];
    __shared__ Choice choice;
    const int bin = threadIdx.x % kLastBins;
    uint32_t sum = 0;
    for (int r = threadIdx.x / kLastBins; r < s.ranges; r += kThreads / kLastBins)
        sum += s.last[r * kLastBins + bin];
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < kLastBins) {
        for (int t = kLastBins; t < kThreads; t += kLastBins) sum += part[t + bin];
        part[bin] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t above = 0;
        int b = kLastBins - 1;
        for (; above + part[b] < want; b--) above += part[b];
        choice = {(uint32_t)b, above, part[b]};
    }
    __syncthreads();
    return choice;
}

__global__ void __launch_bounds__(kThreads, 2)
    take_kernel(const List x, const Scratch s, int32_t *index, float *value)
{
    const Choice c = choose_last(s, s.state[1].want);
    const uint32_t want = s.state[1].want - c.above; /* of those equal to the k-th */
    uint32_t greater = 0, equal = 0;                 /* in the ranges before this one */
    if (threadIdx.x < blockIdx.x) {
        const uint32_t *const last = s.last + threadIdx.x * kLastBins;
        greater = s.above[threadIdx.x];
        equal = last[c.bin];
        for (uint32_t b = c.bin + 1; b < kLastBins; b++) greater += last[b];
    }
    greater = hn_block_sum<kThreads>(greater);
    equal = hn_block_sum<kThreads>(equal);
    const uint32_t taken = equal < want ? equal : want;
    const List list = list_of(x, s);
    const Range r = range_of(list.n, 4 * kTakeGroups * kThreads);
    copy_range<kTakeGroups, true>(list, r, s.state[1].prefix | c.bin, want - taken, greater + taken,
                                  index, value);
}

__global__ void __launch_bounds__(256) take_all_kernel(const hn_topk_args a)
{
    for (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < a.n;
         i += (int64_t)gridDim.x * 256) {
        a.index[i] = (int32_t)i;
        if (a.value != nullptr) a.value[i] = a.x[i];
    }
}

/* ---- launches ---- */

template <class T>
T *take_bytes(char *base, size_t *used, int64_t n)
{
    T *const p = base != nullptr ? reinterpret_cast<T *>(base + *used) : nullptr;
    *used += ((size_t)n * sizeof(T) + 63) / 64 * 64;
    return p;
}

/* base NULL: only the size. */
Scratch scratch_of(const hn_topk_args *a, void *base)
{
    Scratch s = {};
    char *const p = (char *)base;
    const int64_t room = a->k + a->n / 16;
    s.ranges = (int)hn_grid(a->n, kLeastRange, kRanges);
    s.capacity = a->n >= kLeastList && room <= a->n / 2 ? (uint32_t)room : 0;
    s.state = take_bytes<State>(p, &s.bytes, 2);
    s.total = take_bytes<uint32_t>(p, &s.bytes, kBins);
    s.count = take_bytes<uint32_t>(p, &s.bytes, s.ranges);
    s.above = take_bytes<uint32_t>(p, &s.bytes, s.ranges);
    s.last = take_bytes<uint32_t>(p, &s.bytes, s.ranges * kLastBins);
    s.bins = take_bytes<uint32_t>(p, &s.bytes, (int64_t)s.ranges * kBins);
    s.value = take_bytes<float>(p, &s.bytes, s.capacity);
    s.index = take_bytes<int32_t>(p, &s.bytes, s.capacity);
    return s;
}

} // namespace

size_t hn_topk_cuda_scratch(const hn_topk_args *a)
{
    return a->k > 0 && a->k < a->n ? scratch_of(a, nullptr).bytes : 0;
}

hn_status hn_topk_cuda(const hn_topk_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_topk_check(a));
    if (a->k == 0) return HN_OK;
    if (a->k == a->n) {
        take_all_kernel<<<hn_grid(a->n, 256, 1 << 16), 256, 0, stream>>>(*a);
        return HN_CUDA_LAUNCHED("topk");
    }
    HN_TRY(hn_check_pointer("topk", "scratch", scratch));
    const Scratch s = scratch_of(a, scratch);
    const List x = {a->x, nullptr, (uint32_t)a->n, hn_vectors_fit(a->x, 0, HN_F32)};
    const unsigned grid = (unsigned)s.ranges;
    constexpr int kBytes = kBins * sizeof(uint32_t);
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(count_kernel<true>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes)));
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(count_kernel<false>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes)));
    count_kernel<true><<<grid, kThreads, kBytes, stream>>>(x, s);
    add_ranges_kernel<<<kBins / kAddBins, kThreads, 0, stream>>>(s);
    choose_first_kernel<<<grid, kThreads, 0, stream>>>(s, (uint32_t)a->k);
    if (s.capacity > 0) set_aside_kernel<<<grid, kThreads, 0, stream>>>(x, s);
    count_kernel<false><<<grid, kThreads, kBytes, stream>>>(x, s);
    add_ranges_kernel<<<kBins / kAddBins, kThreads, 0, stream>>>(s);
    count_third_kernel<<<grid, kThreads, 0, stream>>>(x, s);
    take_kernel<<<grid, kThreads, 0, stream>>>(x, s, a->index, a->value);
    return HN_CUDA_LAUNCHED("topk");
}
