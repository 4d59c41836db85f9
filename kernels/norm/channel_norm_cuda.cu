/* A block has a run of pixels of an image and up to 256 channels: its threads lie side by side over
 * the channels (8 each where all operands are aligned, else one) and below each other over the
 * pixels. Sums of a run go to scratch, a small kernel adds the runs of a unit in order, and a
 * second pass over the image writes y or dx with what belongs to its channels in registers.
 *
 * Moments are about the first pixel of the run, in fp32; runs are put together in double. */
#include "kernels/norm/channel_norm.h"

#include <type_traits>

#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kMaxLanes = 32;           /* threads side by side: 256 channels of 8 a thread */
constexpr int64_t kMaxBlocks = 1 << 20; /* then a block takes several runs */
constexpr int64_t kWanted = 132 * 8;    /* blocks that keep an H200 busy */
constexpr int64_t kLeastRows = 4;       /* pixels of a thread, at least, where there are as many */
constexpr int kUnits = 8;               /* units of a block that adds runs: 32 bytes */
constexpr int kShares = kThreads / kUnits;

/* Rows that a thread has under way: 64 bytes of each operand. */
template <class T>
constexpr int kRows = sizeof(T) == 2 ? 4 : 2;

/* How images are cut into blocks: by shapes and the width of an access. */
struct Cut {
    int64_t images, pixels, cols, groups, width; /* width: channels of a group */
    int64_t length, runs;                        /* pixels of a run; runs of an image */
    int64_t col_blocks, blocks;
    int lanes, row_lanes;
};

Cut cut_of(int64_t images, int64_t pixels, int64_t cols, int64_t groups, int width)
{
    const int64_t spans = (cols + width - 1) / width;
    const int64_t col_blocks = (spans + kMaxLanes - 1) / kMaxLanes;
    const int64_t lanes = (spans + col_blocks - 1) / col_blocks, row_lanes = kThreads / lanes;
    const int64_t across = images * col_blocks;
    const int64_t wanted = across < kWanted ? (kWanted + across - 1) / across : 1;
    const int64_t shared = (pixels + wanted - 1) / wanted, least = kLeastRows * row_lanes;
    const int64_t length = shared > least ? shared : least;
    const int64_t runs = (pixels + length - 1) / length;
    return {images, pixels,     cols,          groups,     cols / groups, length,
            runs,   col_blocks, across * runs, (int)lanes, (int)row_lanes};
}

/* Sums of runs, in floats: the larger of both cuts, because pointers are not known yet. */
int64_t partial_floats(int64_t images, int64_t pixels, int64_t cols, int64_t groups, int sums)
{
    const int64_t one = cut_of(images, pixels, cols, groups, 1).runs;
    const int64_t vec = cut_of(images, pixels, cols, groups, HN_VEC).runs;
    const int64_t n = images * (one > vec ? one : vec) * sums * cols;
    return (n + 15) / 16 * 16;
}

/* What a thread of a block has to do. */
struct Tile {
    int64_t image, run, first, last; /* run: of all images; rows first .. last-1 */
    int64_t row, col;                /* the thread's first row, its first channel */
    bool active;
};

template <int kWidth>
__device__ __forceinline__ Tile tile_of(const Cut &c, int64_t block)
{
    const int64_t run = block / c.col_blocks, col_block = block - run * c.col_blocks;
    const int64_t image = run / c.runs, skip = (run - image * c.runs) * c.length;
    const int below = (int)threadIdx.x / c.lanes, beside = (int)threadIdx.x - below * c.lanes;
    const int64_t first = image * c.pixels + skip;
    const int64_t n = c.pixels - skip < c.length ? c.pixels - skip : c.length;
    const int64_t col = (col_block * c.lanes + beside) * kWidth;
    return {image, run, first, first + n, first + below, col, below < c.row_lanes && col < c.cols};
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

/* v[k] = of[stride * unit of channel col + k] */
template <int kWidth>
__device__ __forceinline__ void load_units(const float *of, int stride, const Cut &c, int64_t image,
                                           int64_t col, float (&v)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        const uint32_t j = (uint32_t)col + (uint32_t)k;
        const uint32_t group = c.width == 1 ? j : j / (uint32_t)c.width;
        v[k] = of[stride * (image * c.groups + group)];
    }
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

/* v of every thread that has rows, added over the rows of the block in order; the sum of the
 * block's column threadIdx.x, if there is one. */
template <int kWidth>
__device__ __forceinline__ float column_sum(float *of_thread, const Cut &c,
                                            const float (&v)[kWidth])
{
    const int columns = c.lanes * kWidth;
    __syncthreads(); /* the last sums have been read */
#pragma unroll
    for (int k = 0; k < kWidth; k++) of_thread[threadIdx.x * kWidth + k] = v[k];
    __syncthreads();
    float sum = 0.0f;
    if ((int)threadIdx.x < columns)
        for (int r = 0; r < c.row_lanes; r++) sum += of_thread[r * columns + (int)threadIdx.x];
    return sum;
}

/* The column that threadIdx.x stands for after column_sum, -1: none. */
template <int kWidth>
__device__ __forceinline__ int64_t summed_column(const Cut &c, int64_t block)
{
    const int columns = c.lanes * kWidth;
    const int64_t col = block % c.col_blocks * columns + threadIdx.x;
    return (int)threadIdx.x < columns && col < c.cols ? col : -1;
}

/* ---- forward ---- */

/* partial[run][3][cols]: a value, the mean's distance from it, squares about the mean. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 2)
    moments_kernel(const T *x, int64_t ld, const Cut c, float *partial)
{
    __shared__ float of_thread[kThreads * kWidth];
    for (int64_t block = blockIdx.x; block < c.blocks; block += gridDim.x) {
        const Tile t = tile_of<kWidth>(c, block);
        float shift[kWidth], v[kWidth], sum[kWidth] = {}, square[kWidth] = {};
        if (t.active) hn_load_whole<kWidth>(x + t.first * ld + t.col, shift);
        for (int64_t i = t.row; t.active && i < t.last; i += kRows<T> * c.row_lanes) {
            Raw<T, kWidth> raw[kRows<T>] = {};
#pragma unroll
            for (int u = 0; u < kRows<T>; u++)
                if (i + u * c.row_lanes < t.last)
                    raw[u] = load_raw<kWidth>(x + (i + u * c.row_lanes) * ld + t.col);
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                if (i + u * c.row_lanes >= t.last) continue;
                unpack_raw(raw[u], v);
#pragma unroll
                for (int k = 0; k < kWidth; k++) {
                    const float d = v[k] - shift[k];
                    sum[k] += d;
                    square[k] += d * d;
                }
            }
        }
        const float s = column_sum<kWidth>(of_thread, c, sum);
        const float q = column_sum<kWidth>(of_thread, c, square);
        const int64_t col = summed_column<kWidth>(c, block);
        if (col < 0) continue;
        const float off = s / (float)(t.last - t.first);
        float *const to = partial + 3 * t.run * c.cols + col;
        to[0] = hn_f32(x[t.first * ld + col]);
        to[c.cols] = off;
        to[2 * c.cols] = q - s * off;
    }
}

struct Statistics {
    float *mean, *rstd, *running_mean, *running_var;
    float eps, momentum;
};

/* v of the threads with the same unit, added in order, in the unit's first thread. */
__device__ __forceinline__ void add_shares(double (*of_share)[kUnits], double &v)
{
    const int unit = (int)threadIdx.x % kUnits, share = (int)threadIdx.x / kUnits;
    of_share[share][unit] = v;
    __syncthreads();
    if (share == 0)
        for (int k = 1; k < kShares; k++) v += of_share[k][unit];
}

/* A block has 8 units, 32 threads a unit: mean and rstd from the moments of runs and channels. */
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const float *partial, const Cut c, const Statistics to)
{
    __shared__ double sums[kShares][kUnits], squares[kShares][kUnits];
    const int64_t unit = (int64_t)blockIdx.x * kUnits + threadIdx.x % kUnits;
    const bool active = unit < c.images * c.groups;
    const int64_t image = active ? unit / c.groups : 0;
    const int64_t first = active ? (unit - image * c.groups) * c.width : 0;
    const float *const from = partial + 3 * image * c.runs * c.cols + first;
    const double near = (double)from[0];
    double sum = 0.0, square = 0.0;
#pragma unroll 4
    for (int64_t e = threadIdx.x / kUnits; e < c.runs * c.width; e += kShares) {
        const int64_t run = c.width == 1 ? e : e / c.width, j = e - run * c.width;
        const int64_t rest = c.pixels - run * c.length;
        const double n = (double)(rest < c.length ? rest : c.length);
        const float *const p = from + 3 * run * c.cols + j;
        const double off = (double)p[0] - near + (double)p[c.cols];
        sum += n * off;
        square += (double)p[2 * c.cols] + n * off * off;
    }
    add_shares(sums, sum);
    add_shares(squares, square);
    if (threadIdx.x >= kUnits || !active) return;
    const double n = (double)c.pixels * (double)c.width, off = sum / n, mean = near + off;
    double var = square / n - off * off;
    if (var < 0.0) var = 0.0;
    to.mean[unit] = (float)mean;
    to.rstd[unit] = (float)(1.0 / sqrt(var + (double)to.eps));
    if (to.running_mean == nullptr) return;
    const double m = (double)to.momentum;
    to.running_mean[unit] = (float)((1.0 - m) * (double)to.running_mean[unit] + m * mean);
    to.running_var[unit] =
        (float)((1.0 - m) * (double)to.running_var[unit] + m * var * n / (n - 1.0));
}

__global__ void __launch_bounds__(kThreads) frozen_kernel(int64_t units, const Statistics to)
{
    const int64_t step = (int64_t)gridDim.x * kThreads;
    for (int64_t u = (int64_t)blockIdx.x * kThreads + threadIdx.x; u < units; u += step) {
        to.mean[u] = to.running_mean[u];
        to.rstd[u] = 1.0f / sqrtf(to.running_var[u] + to.eps);
    }
}

template <class T>
struct Apply {
    const T *x, *res;
    T *y;
    const float *mean, *rstd;
    Param gain, bias;
    int64_t ld_x, ld_res, ld_y, share; /* share: images a replica */
    bool relu;
    Cut c;
};

/* Every value is read and then written by one thread: y may lie on x or res. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 2) apply_kernel(const Apply<T> a)
{
    for (int64_t block = blockIdx.x; block < a.c.blocks; block += gridDim.x) {
        const Tile t = tile_of<kWidth>(a.c, block);
        if (!t.active) continue;
        const int64_t replica = t.image / a.share;
        float mean[kWidth], factor[kWidth], bias[kWidth], v[kWidth], w[kWidth];
        load_units(a.mean, 1, a.c, t.image, t.col, mean);
        load_units(a.rstd, 1, a.c, t.image, t.col, factor);
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            factor[k] *= param_at(a.gain, replica, t.col + k);
            bias[k] = param_at(a.bias, replica, t.col + k);
        }
        for (int64_t i = t.row; i < t.last; i += kRows<T> * a.c.row_lanes) {
            Raw<T, kWidth> x[kRows<T>] = {}, res[kRows<T>] = {};
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                const int64_t row = i + u * a.c.row_lanes;
                if (row >= t.last) continue;
                x[u] = load_raw<kWidth>(a.x + row * a.ld_x + t.col);
                if (a.res != nullptr) res[u] = load_raw<kWidth>(a.res + row * a.ld_res + t.col);
            }
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                const int64_t row = i + u * a.c.row_lanes;
                if (row >= t.last) continue;
                unpack_raw(x[u], v);
                unpack_raw(res[u], w);
#pragma unroll
                for (int k = 0; k < kWidth; k++) {
                    v[k] = (v[k] - mean[k]) * factor[k] + bias[k] + w[k];
                    if (a.relu) v[k] = v[k] < 0.0f ? 0.0f : v[k]; /* NaN stays NaN */
                }
                hn_store_whole<kWidth>(a.y + row * a.ld_y + t.col, v);
            }
        }
    }
}

/* ---- backward ---- */

template <class T>
struct Backward {
    const T *x, *y, *dy;
    T *dx, *dres;
    const float *mean, *rstd, *of_unit;
    Param gain;
    float *dgain, *dbias;
    int64_t ld_x, ld_y, ld_dy, ld_dx, ld_dres, dgain_stride, dbias_stride, share;
    Cut c;
};

/* g = dy where relu let y through. */
template <int kWidth>
__device__ __forceinline__ void mask(float (&g)[kWidth], const float (&y)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) g[k] = y[k] <= 0.0f ? 0.0f : g[k];
}

/* partial[run][2][cols]: sums of g and of g z. On the way g goes to dres, where that is wanted: it
 * may lie on dy or y. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 2) sums_kernel(const Backward<T> a, float *partial)
{
    __shared__ float of_thread[kThreads * kWidth];
    for (int64_t block = blockIdx.x; block < a.c.blocks; block += gridDim.x) {
        const Tile t = tile_of<kWidth>(a.c, block);
        float mean[kWidth], rstd[kWidth], g[kWidth], v[kWidth], sum[kWidth] = {}, dot[kWidth] = {};
        if (t.active) {
            load_units(a.mean, 1, a.c, t.image, t.col, mean);
            load_units(a.rstd, 1, a.c, t.image, t.col, rstd);
        }
        for (int64_t i = t.row; t.active && i < t.last; i += kRows<T> * a.c.row_lanes) {
            Raw<T, kWidth> dy[kRows<T>] = {}, x[kRows<T>] = {}, y[kRows<T>] = {};
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                const int64_t row = i + u * a.c.row_lanes;
                if (row >= t.last) continue;
                dy[u] = load_raw<kWidth>(a.dy + row * a.ld_dy + t.col);
                x[u] = load_raw<kWidth>(a.x + row * a.ld_x + t.col);
                if (a.y != nullptr) y[u] = load_raw<kWidth>(a.y + row * a.ld_y + t.col);
            }
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                const int64_t row = i + u * a.c.row_lanes;
                if (row >= t.last) continue;
                unpack_raw(dy[u], g);
                unpack_raw(y[u], v);
                if (a.y != nullptr) mask(g, v);
                unpack_raw(x[u], v);
#pragma unroll
                for (int k = 0; k < kWidth; k++) {
                    sum[k] += g[k];
                    dot[k] += g[k] * ((v[k] - mean[k]) * rstd[k]);
                }
                if (a.dres != nullptr) hn_store_whole<kWidth>(a.dres + row * a.ld_dres + t.col, g);
            }
        }
        const float s = column_sum<kWidth>(of_thread, a.c, sum);
        const float d = column_sum<kWidth>(of_thread, a.c, dot);
        const int64_t col = summed_column<kWidth>(a.c, block);
        if (col < 0) continue;
        partial[2 * t.run * a.c.cols + col] = s;
        partial[(2 * t.run + 1) * a.c.cols + col] = d;
    }
}

/* of_unit[unit][2]: means of g gain and of g gain z over a unit. Threads as in finish_kernel. */
__global__ void __launch_bounds__(kThreads)
    average_kernel(const float *partial, const Cut c, const Param gain, int64_t share,
                   float *of_unit)
{
    __shared__ double sums[kShares][kUnits], dots[kShares][kUnits];
    const int64_t unit = (int64_t)blockIdx.x * kUnits + threadIdx.x % kUnits;
    const bool active = unit < c.images * c.groups;
    const int64_t image = active ? unit / c.groups : 0, replica = image / share;
    const int64_t first = active ? (unit - image * c.groups) * c.width : 0;
    const float *const from = partial + 2 * image * c.runs * c.cols + first;
    double sum = 0.0, dot = 0.0;
#pragma unroll 4
    for (int64_t e = threadIdx.x / kUnits; e < c.runs * c.width; e += kShares) {
        const int64_t run = c.width == 1 ? e : e / c.width, j = e - run * c.width;
        const double factor = (double)param_at(gain, replica, first + j);
        sum += factor * (double)from[2 * run * c.cols + j];
        dot += factor * (double)from[(2 * run + 1) * c.cols + j];
    }
    add_shares(sums, sum);
    add_shares(dots, dot);
    if (threadIdx.x >= kUnits || !active) return;
    const double n = (double)c.pixels * (double)c.width;
    of_unit[2 * unit] = (float)(sum / n);
    of_unit[2 * unit + 1] = (float)(dot / n);
}

struct Targets {
    float *dgain, *dbias;
    int64_t dgain_stride, dbias_stride;
};

/* A block has 8 channels of a replica, 32 threads a channel: dgain and dbias. */
__global__ void __launch_bounds__(kThreads)
    params_kernel(const float *partial, const Cut c, int64_t share, const Targets to)
{
    __shared__ double sums[kShares][kUnits], dots[kShares][kUnits];
    const int64_t col_blocks = (c.cols + kUnits - 1) / kUnits, replica = blockIdx.x / col_blocks;
    const int64_t col = (blockIdx.x - replica * col_blocks) * kUnits + threadIdx.x % kUnits;
    const int64_t runs = share * c.runs;
    const float *const from = partial + 2 * replica * runs * c.cols + col;
    double sum = 0.0, dot = 0.0;
#pragma unroll 4
    for (int64_t r = threadIdx.x / kUnits; col < c.cols && r < runs; r += kShares) {
        sum += (double)from[2 * r * c.cols];
        dot += (double)from[(2 * r + 1) * c.cols];
    }
    add_shares(sums, sum);
    add_shares(dots, dot);
    if (threadIdx.x >= kUnits || col >= c.cols) return;
    if (to.dgain != nullptr) to.dgain[replica * to.dgain_stride + col] += (float)dot;
    if (to.dbias != nullptr) to.dbias[replica * to.dbias_stride + col] += (float)sum;
}

/* dx = rstd (gain g - sum - z dot) = factor g + slope (x - mean) + base. Every value is read and
 * then written by one thread. of_unit NULL: sum and dot are 0, x is not needed. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 2) dx_kernel(const Backward<T> a)
{
    for (int64_t block = blockIdx.x; block < a.c.blocks; block += gridDim.x) {
        const Tile t = tile_of<kWidth>(a.c, block);
        if (!t.active) continue;
        const int64_t replica = t.image / a.share;
        float mean[kWidth], factor[kWidth], base[kWidth] = {}, slope[kWidth] = {};
        float g[kWidth], v[kWidth];
        load_units(a.mean, 1, a.c, t.image, t.col, mean);
        load_units(a.rstd, 1, a.c, t.image, t.col, factor);
        if (a.of_unit != nullptr) {
            load_units(a.of_unit, 2, a.c, t.image, t.col, base);
            load_units(a.of_unit + 1, 2, a.c, t.image, t.col, slope);
        }
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            base[k] *= -factor[k];
            slope[k] *= -factor[k] * factor[k];
            factor[k] *= param_at(a.gain, replica, t.col + k);
        }
        for (int64_t i = t.row; i < t.last; i += kRows<T> * a.c.row_lanes) {
            Raw<T, kWidth> dy[kRows<T>] = {}, x[kRows<T>] = {}, y[kRows<T>] = {};
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                const int64_t row = i + u * a.c.row_lanes;
                if (row >= t.last) continue;
                dy[u] = load_raw<kWidth>(a.dy + row * a.ld_dy + t.col);
                if (a.of_unit != nullptr) x[u] = load_raw<kWidth>(a.x + row * a.ld_x + t.col);
                if (a.y != nullptr) y[u] = load_raw<kWidth>(a.y + row * a.ld_y + t.col);
            }
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                const int64_t row = i + u * a.c.row_lanes;
                if (row >= t.last) continue;
                unpack_raw(dy[u], g);
                unpack_raw(y[u], v);
                if (a.y != nullptr) mask(g, v);
                if (a.dres != nullptr) hn_store_whole<kWidth>(a.dres + row * a.ld_dres + t.col, g);
                if (a.dx == nullptr) continue;
                unpack_raw(x[u], v);
#pragma unroll
                for (int k = 0; k < kWidth; k++)
                    v[k] = factor[k] * g[k] + slope[k] * (v[k] - mean[k]) + base[k];
                hn_store_whole<kWidth>(a.dx + row * a.ld_dx + t.col, v);
            }
        }
    }
}

/* ---- launchers ---- */

unsigned grid_of(const Cut &c) { return hn_grid(c.blocks, 1, kMaxBlocks); }
unsigned units_grid(const Cut &c) { return hn_grid(c.images * c.groups, kUnits, INT32_MAX); }

template <class T, int kWidth>
void launch_fwd(const hn_channel_norm *a, float *partial, cudaStream_t stream)
{
    const Cut c = cut_of(a->images, a->pixels, a->cols, a->groups, kWidth);
    const Statistics to = {a->mean, a->rstd, a->running_mean, a->running_var, a->eps, a->momentum};
    const Apply<T> f = {(const T *)a->x,
                        (const T *)a->res,
                        (T *)a->y,
                        a->mean,
                        a->rstd,
                        {a->gain, a->gain_stride, a->gain_dtype == HN_BF16},
                        {a->bias, a->bias_stride, a->bias_dtype == HN_BF16},
                        a->ld_x,
                        a->ld_res,
                        a->ld_y,
                        a->images / hn_replica_count(a->replicas),
                        a->relu,
                        c};
    if (a->frozen) {
        const int64_t units = a->images * a->groups;
        frozen_kernel<<<hn_grid(units, kThreads, kMaxBlocks), kThreads, 0, stream>>>(units, to);
    } else {
        moments_kernel<T, kWidth><<<grid_of(c), kThreads, 0, stream>>>(f.x, f.ld_x, c, partial);
        finish_kernel<<<units_grid(c), kThreads, 0, stream>>>(partial, c, to);
    }
    apply_kernel<T, kWidth><<<grid_of(c), kThreads, 0, stream>>>(f);
}

template <class T>
Backward<T> backward_of(const hn_channel_norm_bwd *a, const Cut &c)
{
    return {(const T *)a->x,
            (const T *)a->y,
            (const T *)a->dy,
            (T *)a->dx,
            (T *)a->dres,
            a->mean,
            a->rstd,
            nullptr,
            {a->gain, a->gain_stride, a->gain_dtype == HN_BF16},
            a->dgain,
            a->dbias,
            a->ld_x,
            a->ld_y,
            a->ld_dy,
            a->ld_dx,
            a->ld_dres,
            a->dgain_stride,
            a->dbias_stride,
            a->images / hn_replica_count(a->replicas),
            c};
}

template <class T, int kWidth>
void launch_bwd(const hn_channel_norm_bwd *a, float *partial, float *of_unit, cudaStream_t stream)
{
    const Cut c = cut_of(a->images, a->pixels, a->cols, a->groups, kWidth);
    Backward<T> f = backward_of<T>(a, c);
    if (hn_channel_norm_has_sums(a)) {
        sums_kernel<T, kWidth><<<grid_of(c), kThreads, 0, stream>>>(f, partial);
        if (f.dres != nullptr) { /* g is there now */
            f.dy = f.dres;
            f.ld_dy = f.ld_dres;
            f.dres = nullptr;
            f.y = nullptr;
        }
        if (f.dx != nullptr && !a->frozen) {
            average_kernel<<<units_grid(c), kThreads, 0, stream>>>(partial, c, f.gain, f.share,
                                                                   of_unit);
            f.of_unit = of_unit;
        }
        if (f.dgain != nullptr || f.dbias != nullptr) {
            const int64_t blocks = a->images / f.share * ((c.cols + kUnits - 1) / kUnits);
            params_kernel<<<(unsigned)blocks, kThreads, 0, stream>>>(
                partial, c, f.share, {f.dgain, f.dbias, f.dgain_stride, f.dbias_stride});
        }
    }
    if (f.dx != nullptr || f.dres != nullptr)
        dx_kernel<T, kWidth><<<grid_of(c), kThreads, 0, stream>>>(f);
}

} // namespace

size_t hn_channel_norm_cuda_scratch(const hn_channel_norm *a)
{
    if (a->frozen) return 0;
    return (size_t)partial_floats(a->images, a->pixels, a->cols, a->groups, 3) * sizeof(float);
}

hn_status hn_channel_norm_cuda(const hn_channel_norm *a, void *scratch, hn_stream stream)
{
    const hn_dtype t = a->dtype;
    const bool wide = a->cols % HN_VEC == 0 && hn_vectors_fit(a->x, a->ld_x, t) &&
                      hn_vectors_fit(a->res, a->ld_res, t) && hn_vectors_fit(a->y, a->ld_y, t);
    float *const partial = (float *)scratch;
    HN_CUDA_REAL(t, T,
                 wide ? launch_fwd<T, HN_VEC>(a, partial, stream)
                      : launch_fwd<T, 1>(a, partial, stream));
    return HN_CUDA_LAUNCHED("channel_norm");
}

size_t hn_channel_norm_bwd_cuda_scratch(const hn_channel_norm_bwd *a)
{
    if (!hn_channel_norm_has_sums(a)) return 0;
    return (size_t)(partial_floats(a->images, a->pixels, a->cols, a->groups, 2) +
                    2 * a->images * a->groups) *
           sizeof(float);
}

hn_status hn_channel_norm_bwd_cuda(const hn_channel_norm_bwd *a, void *scratch, hn_stream stream)
{
    const hn_dtype t = a->dtype;
    const bool wide = a->cols % HN_VEC == 0 && hn_vectors_fit(a->x, a->ld_x, t) &&
                      hn_vectors_fit(a->y, a->ld_y, t) && hn_vectors_fit(a->dy, a->ld_dy, t) &&
                      hn_vectors_fit(a->dx, a->ld_dx, t) && hn_vectors_fit(a->dres, a->ld_dres, t);
    float *const partial = (float *)scratch;
    float *const of_unit =
        scratch ? partial + partial_floats(a->images, a->pixels, a->cols, a->groups, 2) : nullptr;
    HN_CUDA_REAL(t, T,
                 wide ? launch_bwd<T, HN_VEC>(a, partial, of_unit, stream)
                      : launch_bwd<T, 1>(a, partial, of_unit, stream));
    return HN_CUDA_LAUNCHED("channel_norm_bwd");
}
