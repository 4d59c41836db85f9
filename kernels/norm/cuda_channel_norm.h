/* cuda_channel_norm.h - how channel_norm_cuda.cu cuts images into blocks, and its sums over a block
 * and over runs (for that file only). */
#ifndef HN_CUDA_CHANNEL_NORM_H
#define HN_CUDA_CHANNEL_NORM_H
#include <type_traits>

#include "kernels/norm/channel_norm.h"
#include "runtime/base/cuda_vec.h"

namespace hn_channel {

constexpr int kThreads = 256;
constexpr int64_t kMaxLanes = 32;    /* threads side by side: 256 channels of 8 a thread */
constexpr int64_t kMaxGridY = 65535; /* then a block takes several runs */
constexpr int64_t kSms = 132;        /* of an H200 */
constexpr int64_t kLeastRows = 4;    /* pixels of a thread, at least, where there are as many */

/* Blocks of large images: what an H200 holds at a time. Forward's kernels take up to 80 registers a
 * thread (three blocks on an SM), backward's, with three operands under way, up to 128 (two): a
 * third block an SM would run behind the others, half of the SM idle. */
constexpr int64_t kForwardBlocks = 3 * kSms, kBackwardBlocks = 2 * kSms;

/* Blocks that add runs themselves: up to 2048 pairs of a run and a channel, 8 a thread, which are
 * loads of 24 KiB from L2, all under way together; narrow blocks (64 channels are a line of 128
 * bytes in bf16) reach many runs with that. 264 such blocks read 6 MiB: below 2 us, where a kernel
 * in between costs 4. With more than 16 pixels a thread, too few blocks would be at work. */
constexpr int64_t kPairs = 8 * kThreads;
constexpr int64_t kOwnBlocks = 2 * kSms, kOwnRows = 16;
constexpr int64_t kOwnColumns[] = {64, 32}; /* the second where the first leaves SMs idle */

/* The kernel in between: 8 units (32 bytes) a block. */
constexpr int kTotalThreads = 512, kUnits = 8, kShares = kTotalThreads / kUnits;

/* Rows that a thread has under way: 64 bytes of each operand. */
template <class T>
constexpr int kRows = sizeof(T) == 2 ? 4 : 2;

/* How images are cut into blocks: by shapes and the width of an access. */
struct Cut {
    int64_t images, pixels, cols, groups;
    int64_t width, share; /* channels of a group; images of a replica */
    int64_t length, runs; /* pixels of a run; runs of an image */
    int64_t col_blocks;   /* that lie side by side */
    int lanes, row_lanes; /* threads of a block beside and below each other */
    int columns, parts;   /* channels of a block; threads of each when sums are added */
    hn_divisor by_lanes, by_columns, by_runs, by_width, by_share;
    bool own; /* blocks of the second pass add up the runs */
};

__host__ __device__ inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

inline void cut_across(Cut *c, int64_t most_lanes, int width)
{
    const int64_t spans = divide_up(c->cols, width);
    c->col_blocks = divide_up(spans, most_lanes);
    c->lanes = (int)divide_up(spans, c->col_blocks);
    c->row_lanes = kThreads / c->lanes;
    c->columns = c->lanes * width;
    c->parts = kThreads / c->columns;
}

inline void cut_along(Cut *c, int64_t runs)
{
    const int64_t shared = divide_up(c->pixels, runs < 1 ? 1 : runs);
    const int64_t least = kLeastRows * c->row_lanes;
    c->length = shared > least ? shared : least;
    c->runs = divide_up(c->pixels, c->length);
}

/* Channels of the units that a block has a part of, at most. */
inline int64_t touched_of(const Cut &c)
{
    if (c.columns % c.width == 0) return c.columns;
    if (c.width % c.columns == 0) return c.width;
    const int64_t most = c.columns + 2 * (c.width - 1);
    return most < c.cols ? most : c.cols;
}

/* Whether a cut with blocks of `columns` channels lets them add the runs. */
inline bool cut_own(Cut *c, int64_t columns, int width)
{
    cut_across(c, columns / width, width);
    const int64_t touched = touched_of(*c), shared = c->share * c->columns;
    const int64_t most = kPairs / (touched > shared ? touched : shared);
    const int64_t wanted = divide_up(kOwnBlocks, c->images * c->col_blocks);
    cut_along(c, wanted < most ? wanted : most);
    return most > 0 && c->length <= kOwnRows * c->row_lanes;
}

/* share: images whose sums one block adds: those of a replica in backward, in forward 1
 * blocks: kForwardBlocks or kBackwardBlocks */
inline Cut cut_of(int64_t images, int64_t pixels, int64_t cols, int64_t groups, int64_t share,
                  int64_t blocks, int width)
{
    Cut c = {};
    c.images = images, c.pixels = pixels, c.cols = cols, c.groups = groups;
    c.width = cols / groups, c.share = share;
    for (const int64_t columns : kOwnColumns)
        if (!c.own || images * c.runs * c.col_blocks < kSms) c.own = cut_own(&c, columns, width);
    if (!c.own) {
        cut_across(&c, kMaxLanes, width);
        cut_along(&c, divide_up(blocks, images * c.col_blocks));
    }
    c.by_lanes = hn_divisor_of(c.lanes), c.by_columns = hn_divisor_of(c.columns);
    c.by_runs = hn_divisor_of(c.runs), c.by_width = hn_divisor_of(c.width);
    c.by_share = hn_divisor_of(c.share);
    return c;
}

/* Sums of runs, in floats: the larger of both cuts, because pointers are not known yet. */
inline int64_t partial_floats(int64_t images, int64_t pixels, int64_t cols, int64_t groups,
                              int64_t share, int64_t blocks, int sums)
{
    const int64_t one = cut_of(images, pixels, cols, groups, share, blocks, 1).runs;
    const int64_t vec = cut_of(images, pixels, cols, groups, share, blocks, HN_VEC).runs;
    const int64_t n = images * (one > vec ? one : vec) * sums * cols;
    return divide_up(n, 16) * 16;
}

/* What a thread of a block has to do with a run (of all images). */
struct Tile {
    int64_t first;      /* row, of all images */
    int64_t col;        /* the thread's first channel */
    uint32_t rows, row; /* of the run; the thread's first, from 0 */
    uint32_t image;
    bool active;
};

template <int kWidth>
__device__ __forceinline__ Tile tile_of(const Cut &c, int64_t run)
{
    const uint32_t image = hn_divide((uint32_t)run, c.by_runs);
    const int64_t skip = (run - image * c.runs) * c.length, left = c.pixels - skip;
    const uint32_t below = hn_divide(threadIdx.x, c.by_lanes);
    const uint32_t beside = threadIdx.x - below * (uint32_t)c.lanes;
    const int64_t col = ((int64_t)blockIdx.x * c.lanes + beside) * kWidth;
    Tile t = {};
    t.first = image * c.pixels + skip, t.col = col;
    t.rows = (uint32_t)(left < c.length ? left : c.length), t.row = below;
    t.image = image;
    t.active = below < (uint32_t)c.row_lanes && col < c.cols;
    return t;
}

/* The rows of a tile in whole steps, for a loop from the last step to the first. */
__device__ __forceinline__ uint32_t steps_of(const Tile &t, uint32_t step)
{
    return (t.rows + step - 1) / step * step;
}

__device__ __forceinline__ int64_t group_of(const Cut &c, int64_t col)
{
    return c.width == 1 ? col : hn_divide((uint32_t)col, c.by_width);
}

/* Values as they are stored, so that those under way take few registers. */
template <class T, int kWidth>
using Raw = std::conditional_t<kWidth == HN_VEC, hn_pack<T>, T>;

template <int kWidth, class T>
__device__ __forceinline__ Raw<T, kWidth> load_raw(const T *p)
{
    if constexpr (kWidth == HN_VEC)
        return hn_load_pack(p);
    else
        return p[0];
}

template <class T>
__device__ __forceinline__ void unpack_raw(const hn_pack<T> &a, float (&v)[HN_VEC])
{
    hn_unpack(a, v);
}
template <class T>
__device__ __forceinline__ void unpack_raw(const T &a, float (&v)[1])
{
    v[0] = hn_f32(a);
}

/* v[k] = of[stride * (group of channel col + k - first)] */
template <int kWidth>
__device__ __forceinline__ void load_units(const float *of, int stride, int64_t first, const Cut &c,
                                           int64_t col, float (&v)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) v[k] = of[stride * (group_of(c, col + k) - first)];
}

/* A gain or bias of either dtype. */
struct Param {
    const void *data;
    int64_t stride; /* from one replica to the next */
    bool is_bf16;
};

__device__ __forceinline__ float param_at(const Param &p, int64_t replica, int64_t col)
{
    const int64_t at = replica * p.stride + col;
    return p.is_bf16 ? hn_f32(((const __nv_bfloat16 *)p.data)[at]) : ((const float *)p.data)[at];
}

/* v of a thread, for sums over a block. */
template <int kWidth>
__device__ __forceinline__ void keep(float *of_thread, const float (&v)[kWidth])
{
    if constexpr (kWidth == HN_VEC)
        hn_store_whole<kWidth>(of_thread + threadIdx.x * kWidth, v);
    else
        of_thread[threadIdx.x] = v[0];
}

/* v and w of all threads that have rows, added in a fixed order: the sums of the block's column
 * threadIdx.x, if there is one. */
template <int kWidth>
__device__ __forceinline__ void column_sums(float (*of_thread)[kThreads * kWidth], const Cut &c,
                                            const float (&v)[kWidth], const float (&w)[kWidth],
                                            float *v_sum, float *w_sum)
{
    const int part = (int)hn_divide(threadIdx.x, c.by_columns);
    const int column = (int)threadIdx.x - part * c.columns;
    float a = 0.0f, b = 0.0f;
    __syncthreads(); /* the last sums have been read */
    keep<kWidth>(of_thread[0], v);
    keep<kWidth>(of_thread[1], w);
    __syncthreads();
    for (int r = part; part < c.parts && r < c.row_lanes; r += c.parts) {
        a += of_thread[0][r * c.columns + column];
        b += of_thread[1][r * c.columns + column];
    }
    __syncthreads();
    of_thread[0][threadIdx.x] = a;
    of_thread[1][threadIdx.x] = b;
    __syncthreads();
    for (int k = 1; part == 0 && k < c.parts; k++) {
        a += of_thread[0][k * c.columns + column];
        b += of_thread[1][k * c.columns + column];
    }
    *v_sum = a, *w_sum = b;
}

/* The channel that threadIdx.x stands for after column_sums, -1: none. */
__device__ __forceinline__ int64_t summed_column(const Cut &c)
{
    const int64_t col = (int64_t)blockIdx.x * c.columns + threadIdx.x;
    return (int)threadIdx.x < c.columns && col < c.cols ? col : -1;
}

/* ---- sums over runs ---- */

/* A thread's share of a sum: of `shares` threads, which are n threads apart. */
struct Share {
    int at, shares, n;
};

/* Double sums of threads, two each. */
template <int kCount>
struct Totals {
    double v[2][kCount];
};

/* v and w of all shares, added as a tree, in share 0. All threads of the block come here. */
template <int kCount>
__device__ __forceinline__ void add_shares(Totals<kCount> &of_thread, const Share &s, double &v,
                                           double &w)
{
    __syncthreads(); /* the last sums have been read */
    for (int left = s.shares; left > 1;) {
        const int half = (left + 1) / 2;
        if (s.at >= half && s.at < left) {
            of_thread.v[0][threadIdx.x] = v;
            of_thread.v[1][threadIdx.x] = w;
        }
        __syncthreads();
        if (s.at + half < left) {
            v += of_thread.v[0][(int)threadIdx.x + half * s.n];
            w += of_thread.v[1][(int)threadIdx.x + half * s.n];
        }
        left = half;
    }
}

/* Places of a thread's share of a unit: runs, and channels of the group in them. A thread loads
 * kAhead of them before it adds the first. */
constexpr int kAhead = 8;

struct Walk {
    uint32_t run, channel, step_run, step_channel, width;
};

__device__ __forceinline__ Walk walk_of(const Share &s, int64_t width)
{
    const uint32_t at = (uint32_t)s.at, shares = (uint32_t)s.shares, w = (uint32_t)width;
    return {at / w, at % w, shares / w, shares % w, w};
}

__device__ __forceinline__ void walk_on(Walk &w)
{
    w.run += w.step_run, w.channel += w.step_channel;
    if (w.channel >= w.width) w.channel -= w.width, w.run++;
}

/* The units that a block of the second pass has channels of, and what of them a thread adds up. */
struct Own {
    int64_t first; /* group of the block's first channel */
    int n, unit;   /* groups; the thread's, below n */
    Share share;
};

__device__ __forceinline__ Own own_of(const Cut &c)
{
    const int64_t first = (int64_t)blockIdx.x * c.columns, end = first + c.columns;
    Own o = {};
    o.first = group_of(c, first);
    o.n = (int)(group_of(c, (end < c.cols ? end : c.cols) - 1) - o.first) + 1;
    const int at = (int)threadIdx.x / o.n;
    o.unit = (int)threadIdx.x - at * o.n;
    o.share = {at, kThreads / o.n, o.n};
    return o;
}

} // namespace hn_channel
#endif
