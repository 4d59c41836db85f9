/* A block has a run of pixels of an image and up to 256 channels: its threads lie side by side over
 * the channels (8 each where all operands are aligned, else one) and below each other over the
 * pixels. Sums of a run go to scratch, and a second pass over the image writes y or dx with what
 * belongs to its channels in registers, from the last pixel of a run to the first: what the first
 * pass read last is still in L2. In between the runs of a unit are added in order: where
 * they are few, every block of the second pass does that for its own channels (two launches, of
 * which the second also writes statistics and gradients of parameters), else a kernel (three).
 *
 * Moments are about the first pixel of the run, in fp32; runs are put together in double. */
#include "kernels/norm/channel_norm.h"

#include "kernels/norm/cuda_channel_norm.h"
#include "runtime/base/check.h"

namespace {

using namespace hn_channel;

constexpr int64_t kMaxBlocks = 1 << 20; /* then a thread takes several units */

/* ---- forward ---- */

/* partial[run][3][cols]: a value, the mean's distance from it, squares about the mean. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 2)
    moments_kernel(const T *x, int64_t ld, const Cut c, float *partial)
{
    constexpr int kDeep = 2 * kRows<T>; /* one operand alone: more rows of it */
    __shared__ alignas(16) float of_thread[2][kThreads * kWidth];
    for (int64_t run = blockIdx.y; run < c.images * c.runs; run += gridDim.y) {
        const Tile t = tile_of<kWidth>(c, run);
        const T *const from = x + t.first * ld;
        float shift[kWidth], v[kWidth], sum[kWidth] = {}, square[kWidth] = {};
        if (t.active) hn_load_whole<kWidth>(from + t.col, shift);
        for (uint32_t i = t.row; t.active && i < t.rows; i += kDeep * c.row_lanes) {
            Raw<T, kWidth> raw[kDeep] = {};
#pragma unroll
            for (int u = 0; u < kDeep; u++)
                if (i + u * c.row_lanes < t.rows)
                    raw[u] = load_raw<kWidth>(from + (int64_t)(i + u * c.row_lanes) * ld + t.col);
#pragma unroll
            for (int u = 0; u < kDeep; u++) {
                if (i + u * c.row_lanes >= t.rows) continue;
                unpack_raw(raw[u], v);
#pragma unroll
                for (int k = 0; k < kWidth; k++) {
                    const float d = v[k] - shift[k];
                    sum[k] += d;
                    square[k] += d * d;
                }
            }
        }
        float s, q;
        column_sums<kWidth>(of_thread, c, sum, square, &s, &q);
        const int64_t col = summed_column(c);
        if (col < 0) continue;
        const float off = s / (float)t.rows;
        float *const to = partial + 3 * run * c.cols + col;
        to[0] = hn_f32(from[col]);
        to[c.cols] = off;
        to[2 * c.cols] = q - s * off;
    }
}

/* Moments of a unit: about `near`, a value of it. */
struct Moments {
    double near, sum, square;
};

/* A thread's share of those of a unit. */
__device__ __forceinline__ Moments moments_of(const float *partial, const Cut &c, int64_t image,
                                              int64_t group, const Share &s)
{
    const float *const from = partial + 3 * image * c.runs * c.cols + group * c.width;
    Moments m = {(double)from[0], 0.0, 0.0};
    for (Walk w = walk_of(s, c.width); w.run < (uint32_t)c.runs;) {
        float value[kAhead] = {}, off[kAhead] = {}, square[kAhead] = {};
        uint32_t rows[kAhead] = {};
#pragma unroll
        for (int u = 0; u < kAhead; u++, walk_on(w)) {
            if (w.run >= (uint32_t)c.runs) continue;
            const int64_t rest = c.pixels - w.run * c.length;
            const float *const p = from + 3 * (int64_t)w.run * c.cols + w.channel;
            value[u] = p[0], off[u] = p[c.cols], square[u] = p[2 * c.cols];
            rows[u] = (uint32_t)(rest < c.length ? rest : c.length);
        }
#pragma unroll
        for (int u = 0; u < kAhead; u++) {
            if (rows[u] == 0) continue;
            const double n = (double)rows[u], d = (double)value[u] - m.near + (double)off[u];
            m.sum += n * d;
            m.square += (double)square[u] + n * d * d;
        }
    }
    return m;
}

struct Statistics {
    float *mean, *rstd, *running_mean, *running_var;
    float eps, momentum;
};

struct Unit {
    double mean, var;
    float rstd;
};

__device__ __forceinline__ Unit unit_of(const Moments &m, const Cut &c, float eps)
{
    const double n = (double)c.pixels * (double)c.width, off = m.sum / n;
    double var = m.square / n - off * off;
    if (var < 0.0) var = 0.0;
    return {m.near + off, var, (float)(1.0 / sqrt(var + (double)eps))};
}

__device__ __forceinline__ void write_unit(const Statistics &to, const Cut &c, int64_t unit,
                                           const Unit &u)
{
    const double m = (double)to.momentum, n = (double)c.pixels * (double)c.width;
    to.mean[unit] = (float)u.mean;
    to.rstd[unit] = u.rstd;
    if (to.running_mean == nullptr) return;
    to.running_mean[unit] = (float)((1.0 - m) * (double)to.running_mean[unit] + m * u.mean);
    to.running_var[unit] =
        (float)((1.0 - m) * (double)to.running_var[unit] + m * u.var * n / (n - 1.0));
}

/* A block has 8 units, 64 threads a unit: mean and rstd from the moments of runs and channels. */
__global__ void __launch_bounds__(kTotalThreads)
    finish_kernel(const float *partial, const Cut c, const Statistics to)
{
    __shared__ Totals<kTotalThreads> of_thread;
    const Share s = {(int)threadIdx.x / kUnits, kShares, kUnits};
    const int64_t unit = (int64_t)blockIdx.x * kUnits + threadIdx.x % kUnits;
    const bool active = unit < c.images * c.groups;
    Moments m = {};
    if (active) m = moments_of(partial, c, unit / c.groups, unit % c.groups, s);
    add_shares(of_thread, s, m.sum, m.square);
    if (s.at == 0 && active) write_unit(to, c, unit, unit_of(m, c, to.eps));
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
    const float *partial; /* for blocks that add the runs */
    Statistics to;
    Param gain, bias;
    int64_t ld_x, ld_res, ld_y;
    bool relu;
    Cut c;
};

/* y, before res and relu; backward asks for the same bits again. factor: rstd * gain */
__device__ __forceinline__ float normalised(float x, float mean, float factor, float bias)
{
    return fmaf(x - mean, factor, bias);
}

/* Every value is read and then written by one thread: y may lie on x or res. mean, rstd: of groups
 * from `first` on */
template <class T, int kWidth>
__device__ __forceinline__ void apply_tile(const Apply<T> &a, const Tile &t, const float *of_mean,
                                           const float *of_rstd, int64_t first)
{
    const int64_t replica = hn_divide(t.image, a.c.by_share);
    float mean[kWidth], factor[kWidth], bias[kWidth], v[kWidth], w[kWidth];
    load_units(of_mean, 1, first, a.c, t.col, mean);
    load_units(of_rstd, 1, first, a.c, t.col, factor);
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        factor[k] *= param_at(a.gain, replica, t.col + k);
        bias[k] = param_at(a.bias, replica, t.col + k);
    }
    const uint32_t step = kRows<T> * (uint32_t)a.c.row_lanes;
    for (uint32_t end = steps_of(t, step); end > 0; end -= step) {
        const uint32_t i = end - step + t.row;
        Raw<T, kWidth> x[kRows<T>] = {}, res[kRows<T>] = {};
#pragma unroll
        for (int u = 0; u < kRows<T>; u++) {
            if (i + u * a.c.row_lanes >= t.rows) continue;
            const int64_t row = t.first + i + u * a.c.row_lanes;
            x[u] = load_raw<kWidth>(a.x + row * a.ld_x + t.col);
            if (a.res != nullptr) res[u] = load_raw<kWidth>(a.res + row * a.ld_res + t.col);
        }
#pragma unroll
        for (int u = 0; u < kRows<T>; u++) {
            if (i + u * a.c.row_lanes >= t.rows) continue;
            const int64_t row = t.first + i + u * a.c.row_lanes;
            unpack_raw(x[u], v);
            unpack_raw(res[u], w);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                v[k] = normalised(v[k], mean[k], factor[k], bias[k]) + w[k];
                if (a.relu) v[k] = v[k] < 0.0f ? 0.0f : v[k]; /* NaN stays NaN */
            }
            hn_store_whole<kWidth>(a.y + row * a.ld_y + t.col, v);
        }
    }
}

/* The block adds up the runs of its units, into mean and rstd; that of an image's first run and of
 * a unit's first channel also writes what they come to, which no block of this kernel reads. The
 * group of mean[0]. */
template <class T>
__device__ __forceinline__ int64_t own_statistics(const Apply<T> &a, const Tile &t, bool writes,
                                                  Totals<kThreads> &of_thread, float *mean,
                                                  float *rstd)
{
    const Own o = own_of(a.c);
    const int64_t group = o.first + o.unit;
    Moments m = {};
    if (o.share.at < o.share.shares) m = moments_of(a.partial, a.c, t.image, group, o.share);
    add_shares(of_thread, o.share, m.sum, m.square);
    if (o.share.at == 0) {
        const Unit u = unit_of(m, a.c, a.to.eps);
        mean[o.unit] = (float)u.mean, rstd[o.unit] = u.rstd;
        if (writes && group * a.c.width >= (int64_t)blockIdx.x * a.c.columns)
            write_unit(a.to, a.c, (int64_t)t.image * a.c.groups + group, u);
    }
    __syncthreads();
    return o.first;
}

template <class T, int kWidth, bool kOwn>
__global__ void __launch_bounds__(kThreads, kOwn ? 2 : 3) apply_kernel(const Apply<T> a)
{
    __shared__ Totals<kThreads> of_thread; /* no memory where it is not used */
    __shared__ float mean[kThreads], rstd[kThreads];
    for (int64_t run = blockIdx.y; run < a.c.images * a.c.runs; run += gridDim.y) {
        const Tile t = tile_of<kWidth>(a.c, run);
        if constexpr (kOwn) {
            const bool writes = run == t.image * a.c.runs;
            const int64_t first = own_statistics(a, t, writes, of_thread, mean, rstd);
            if (t.active) apply_tile<T, kWidth>(a, t, mean, rstd, first);
        } else {
            const int64_t units = (int64_t)t.image * a.c.groups;
            if (t.active) apply_tile<T, kWidth>(a, t, a.to.mean + units, a.to.rstd + units, 0);
        }
    }
}

/* ---- backward ---- */

/* Gradients of gain and bias; NULL: not wanted. */
struct Targets {
    float *dgain, *dbias;
    int64_t dgain_stride, dbias_stride;
};

template <class T>
struct Backward {
    const T *x, *y, *dy;
    T *dx, *dres;
    const float *mean, *rstd;
    const float *partial, *of_unit; /* of runs: for blocks that add them; of units: for others */
    Param gain, bias;               /* bias: where relu goes by it */
    Targets to;
    int64_t ld_x, ld_y, ld_dy, ld_dx, ld_dres;
    bool frozen;
    Cut c;
};

/* g = dy where relu let y through. */
template <int kWidth>
__device__ __forceinline__ void mask(float (&g)[kWidth], const float (&y)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) g[k] = y[k] <= 0.0f ? 0.0f : g[k];
}

/* The same where y is made again from x. */
template <int kWidth>
__device__ __forceinline__ void mask(float (&g)[kWidth], const float (&x)[kWidth],
                                     const float (&mean)[kWidth], const float (&factor)[kWidth],
                                     const float (&bias)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++)
        g[k] = normalised(x[k], mean[k], factor[k], bias[k]) <= 0.0f ? 0.0f : g[k];
}

/* What y is made of, beside x and mean, for the columns of a thread. Of one image: batch norm's. */
template <class T, int kWidth>
__device__ __forceinline__ void load_gate(const Backward<T> &a, int64_t units, int64_t col,
                                          float (&factor)[kWidth], float (&bias)[kWidth])
{
    load_units(a.rstd + units, 1, 0, a.c, col, factor);
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        factor[k] *= param_at(a.gain, 0, col + k);
        bias[k] = param_at(a.bias, 0, col + k);
    }
}

/* partial[run][2][cols]: sums of g and of g z. On the way g goes to dres, where that is wanted: it
 * may lie on dy or y. kByBias: relu goes by x, gain and bias, not by y; there is no dres then. */
template <class T, int kWidth, bool kByBias>
__global__ void __launch_bounds__(kThreads, 2) sums_kernel(const Backward<T> a, float *partial)
{
    __shared__ alignas(16) float of_thread[2][kThreads * kWidth];
    const Cut &c = a.c;
    for (int64_t run = blockIdx.y; run < c.images * c.runs; run += gridDim.y) {
        const Tile t = tile_of<kWidth>(c, run);
        const int64_t units = (int64_t)t.image * c.groups;
        float mean[kWidth], g[kWidth], v[kWidth], sum[kWidth] = {}, dot[kWidth] = {};
        float factor[kWidth], bias[kWidth]; /* no registers where they are not used */
        if (t.active) load_units(a.mean + units, 1, 0, c, t.col, mean);
        if (kByBias && t.active) load_gate(a, units, t.col, factor, bias);
        for (uint32_t i = t.row; t.active && i < t.rows; i += kRows<T> * c.row_lanes) {
            Raw<T, kWidth> dy[kRows<T>] = {}, x[kRows<T>] = {}, y[kRows<T>] = {};
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                if (i + u * c.row_lanes >= t.rows) continue;
                const int64_t row = t.first + i + u * c.row_lanes;
                dy[u] = load_raw<kWidth>(a.dy + row * a.ld_dy + t.col);
                x[u] = load_raw<kWidth>(a.x + row * a.ld_x + t.col);
                if (!kByBias && a.y != nullptr) y[u] = load_raw<kWidth>(a.y + row * a.ld_y + t.col);
            }
#pragma unroll
            for (int u = 0; u < kRows<T>; u++) {
                if (i + u * c.row_lanes >= t.rows) continue;
                const int64_t row = t.first + i + u * c.row_lanes;
                unpack_raw(dy[u], g);
                unpack_raw(y[u], v);
                if (!kByBias && a.y != nullptr) mask(g, v);
                unpack_raw(x[u], v);
                if (kByBias) mask(g, v, mean, factor, bias);
#pragma unroll
                for (int k = 0; k < kWidth; k++) {
                    sum[k] += g[k];
                    dot[k] += g[k] * (v[k] - mean[k]); /* rstd below, for all rows */
                }
                if (!kByBias && a.dres != nullptr)
                    hn_store_whole<kWidth>(a.dres + row * a.ld_dres + t.col, g);
            }
        }
        float s, d;
        column_sums<kWidth>(of_thread, c, sum, dot, &s, &d);
        const int64_t col = summed_column(c);
        if (col < 0) continue;
        partial[2 * run * c.cols + col] = s;
        partial[(2 * run + 1) * c.cols + col] = d * a.rstd[units + group_of(c, col)];
    }
}

struct Dots {
    double sum, dot; /* of g, of g z */
};

/* A thread's share of the sums over `runs` runs that begin at `from`, of w.width channels each, all
 * of them times their gain, where there is one. */
__device__ __forceinline__ Dots dots_of(const float *from, int64_t cols, uint32_t runs, Walk w,
                                        const Param *gain, int64_t replica, int64_t first)
{
    Dots d = {};
    while (w.run < runs) {
        float sum[kAhead] = {}, dot[kAhead] = {}, factor[kAhead] = {};
#pragma unroll
        for (int u = 0; u < kAhead; u++, walk_on(w)) {
            if (w.run >= runs) continue;
            const float *const p = from + 2 * (int64_t)w.run * cols + w.channel;
            sum[u] = p[0], dot[u] = p[cols];
            factor[u] = gain != nullptr ? param_at(*gain, replica, first + w.channel) : 1.0f;
        }
#pragma unroll
        for (int u = 0; u < kAhead; u++) { /* places that are not there add 0 */
            d.sum += (double)factor[u] * (double)sum[u];
            d.dot += (double)factor[u] * (double)dot[u];
        }
    }
    return d;
}

/* A thread's share of the sums of g gain and g gain z over a unit. */
__device__ __forceinline__ Dots unit_dots(const float *partial, const Cut &c, const Param &gain,
                                          int64_t image, int64_t group, const Share &s)
{
    const int64_t first = group * c.width, replica = hn_divide((uint32_t)image, c.by_share);
    return dots_of(partial + 2 * image * c.runs * c.cols + first, c.cols, (uint32_t)c.runs,
                   walk_of(s, c.width), &gain, replica, first);
}

/* A thread's share of the sums of g and g z over a channel of a replica. */
__device__ __forceinline__ Dots channel_dots(const float *partial, const Cut &c, int64_t replica,
                                             int64_t col, const Share &s)
{
    const int64_t runs = c.share * c.runs;
    return dots_of(partial + 2 * replica * runs * c.cols + col, c.cols, (uint32_t)runs,
                   walk_of(s, 1), nullptr, 0, 0);
}

__device__ __forceinline__ void write_params(const Targets &to, int64_t replica, int64_t col,
                                             const Dots &d)
{
    if (to.dgain != nullptr) to.dgain[replica * to.dgain_stride + col] += (float)d.dot;
    if (to.dbias != nullptr) to.dbias[replica * to.dbias_stride + col] += (float)d.sum;
}

/* A block has 8 units, of_unit[unit][2] = means of g gain and of g gain z; or, from average_blocks
 * on, 8 channels of a replica: dgain and dbias. */
template <class T>
__global__ void __launch_bounds__(kTotalThreads)
    totals_kernel(const Backward<T> a, float *of_unit, int64_t average_blocks)
{
    __shared__ Totals<kTotalThreads> of_thread;
    const Cut &c = a.c;
    const Share s = {(int)threadIdx.x / kUnits, kShares, kUnits};
    const bool averages = blockIdx.x < average_blocks;
    const int64_t of_replica = divide_up(c.cols, kUnits);
    const int64_t block = averages ? blockIdx.x : blockIdx.x - average_blocks;
    const int64_t replica = averages ? 0 : block / of_replica;
    const int64_t at = (block - replica * of_replica) * kUnits + threadIdx.x % kUnits;
    const bool active = at < (averages ? c.images * c.groups : c.cols);
    Dots d = {};
    if (active && averages)
        d = unit_dots(a.partial, c, a.gain, at / c.groups, at % c.groups, s);
    else if (active)
        d = channel_dots(a.partial, c, replica, at, s);
    add_shares(of_thread, s, d.sum, d.dot);
    if (s.at != 0 || !active) return;
    const double n = (double)c.pixels * (double)c.width;
    if (averages)
        of_unit[2 * at] = (float)(d.sum / n), of_unit[2 * at + 1] = (float)(d.dot / n);
    else
        write_params(a.to, replica, at, d);
}

/* dx = rstd (gain g - sum - z dot) = factor g + slope (x - mean) + base. Every value is read and
 * then written by one thread. averages: pairs of sum and dot, of groups from `first` on; NULL: they
 * are 0, x is not needed. */
template <class T, int kWidth, bool kByBias>
__device__ __forceinline__ void dx_tile(const Backward<T> &a, const Tile &t, const float *averages,
                                        int64_t first)
{
    const int64_t replica = hn_divide(t.image, a.c.by_share);
    const int64_t units = (int64_t)t.image * a.c.groups;
    float mean[kWidth], factor[kWidth], base[kWidth] = {}, slope[kWidth] = {};
    float g[kWidth], v[kWidth], bias[kWidth];
    load_units(a.mean + units, 1, 0, a.c, t.col, mean);
    load_units(a.rstd + units, 1, 0, a.c, t.col, factor);
    if (averages != nullptr) {
        load_units(averages, 2, first, a.c, t.col, base);
        load_units(averages + 1, 2, first, a.c, t.col, slope);
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        base[k] *= -factor[k];
        slope[k] *= -factor[k] * factor[k];
        factor[k] *= param_at(a.gain, replica, t.col + k);
        if (kByBias) bias[k] = param_at(a.bias, 0, t.col + k);
    }
    const uint32_t step = kRows<T> * (uint32_t)a.c.row_lanes;
    for (uint32_t end = steps_of(t, step); end > 0; end -= step) {
        const uint32_t i = end - step + t.row;
        Raw<T, kWidth> dy[kRows<T>] = {}, x[kRows<T>] = {}, y[kRows<T>] = {};
#pragma unroll
        for (int u = 0; u < kRows<T>; u++) {
            if (i + u * a.c.row_lanes >= t.rows) continue;
            const int64_t row = t.first + i + u * a.c.row_lanes;
            dy[u] = load_raw<kWidth>(a.dy + row * a.ld_dy + t.col);
            if (kByBias || averages != nullptr) x[u] = load_raw<kWidth>(a.x + row * a.ld_x + t.col);
            if (!kByBias && a.y != nullptr) y[u] = load_raw<kWidth>(a.y + row * a.ld_y + t.col);
        }
#pragma unroll
        for (int u = 0; u < kRows<T>; u++) {
            if (i + u * a.c.row_lanes >= t.rows) continue;
            const int64_t row = t.first + i + u * a.c.row_lanes;
            unpack_raw(dy[u], g);
            unpack_raw(y[u], v);
            if (!kByBias && a.y != nullptr) mask(g, v);
            if (!kByBias && a.dres != nullptr)
                hn_store_whole<kWidth>(a.dres + row * a.ld_dres + t.col, g);
            if (a.dx == nullptr) continue;
            unpack_raw(x[u], v);
            if (kByBias) mask(g, v, mean, factor, bias);
#pragma unroll
            for (int k = 0; k < kWidth; k++)
                v[k] = factor[k] * g[k] + slope[k] * (v[k] - mean[k]) + base[k];
            hn_store_whole<kWidth>(a.dx + row * a.ld_dx + t.col, v);
        }
    }
}

/* The block adds up the runs of its units: averages[unit][2]. The group of averages[0]. */
template <class T>
__device__ __forceinline__ int64_t own_averages(const Backward<T> &a, const Tile &t,
                                                Totals<kThreads> &of_thread, float *averages)
{
    const Own o = own_of(a.c);
    Dots d = {};
    if (o.share.at < o.share.shares)
        d = unit_dots(a.partial, a.c, a.gain, t.image, o.first + o.unit, o.share);
    add_shares(of_thread, o.share, d.sum, d.dot);
    const double n = (double)a.c.pixels * (double)a.c.width;
    if (o.share.at == 0) {
        averages[2 * o.unit] = (float)(d.sum / n);
        averages[2 * o.unit + 1] = (float)(d.dot / n);
    }
    __syncthreads();
    return o.first;
}

/* The block adds up all runs of a replica for its channels: dgain and dbias. */
template <class T>
__device__ __forceinline__ void own_params(const Backward<T> &a, int64_t replica,
                                           Totals<kThreads> &of_thread)
{
    const int part = (int)hn_divide(threadIdx.x, a.c.by_columns);
    const Share s = {part, a.c.parts, a.c.columns};
    const int64_t col = (int64_t)blockIdx.x * a.c.columns + (int)threadIdx.x - part * a.c.columns;
    const bool active = part < a.c.parts && col < a.c.cols;
    Dots d = {};
    if (active) d = channel_dots(a.partial, a.c, replica, col, s);
    add_shares(of_thread, s, d.sum, d.dot);
    if (active && part == 0) write_params(a.to, replica, col, d);
}

template <class T, int kWidth, bool kByBias, bool kOwn>
__global__ void __launch_bounds__(kThreads, 2) dx_kernel(const Backward<T> a)
{
    __shared__ Totals<kThreads> of_thread; /* no memory where it is not used */
    __shared__ float averages[2 * kThreads];
    for (int64_t run = blockIdx.y; run < a.c.images * a.c.runs; run += gridDim.y) {
        const Tile t = tile_of<kWidth>(a.c, run);
        if constexpr (kOwn) {
            const int64_t replica = hn_divide(t.image, a.c.by_share);
            const bool first_run = run == replica * a.c.share * a.c.runs;
            if (first_run && (a.to.dgain != nullptr || a.to.dbias != nullptr))
                own_params(a, replica, of_thread);
            int64_t first = 0;
            if (!a.frozen) first = own_averages(a, t, of_thread, averages);
            if (t.active) dx_tile<T, kWidth, kByBias>(a, t, a.frozen ? nullptr : averages, first);
        } else {
            const float *averages_of = a.of_unit;
            if (averages_of != nullptr) averages_of += 2 * (int64_t)t.image * a.c.groups;
            if (t.active) dx_tile<T, kWidth, kByBias>(a, t, averages_of, 0);
        }
    }
}

/* ---- launchers ---- */

dim3 grid_of(const Cut &c)
{
    return dim3((unsigned)c.col_blocks, hn_grid(c.images * c.runs, 1, kMaxGridY));
}
unsigned units_grid(const Cut &c) { return hn_grid(c.images * c.groups, kUnits, INT32_MAX); }

template <class T, int kWidth>
void launch_fwd(const hn_channel_norm *a, float *partial, cudaStream_t stream)
{
    Cut c = cut_of(a->images, a->pixels, a->cols, a->groups, 1, kForwardBlocks, kWidth);
    c.share = a->images / hn_replica_count(a->replicas), c.by_share = hn_divisor_of(c.share);
    const Statistics to = {a->mean, a->rstd, a->running_mean, a->running_var, a->eps, a->momentum};
    const Apply<T> f = {(const T *)a->x,
                        (const T *)a->res,
                        (T *)a->y,
                        partial,
                        to,
                        {a->gain, a->gain_stride, a->gain_dtype == HN_BF16},
                        {a->bias, a->bias_stride, a->bias_dtype == HN_BF16},
                        a->ld_x,
                        a->ld_res,
                        a->ld_y,
                        a->relu,
                        c};
    if (a->frozen) {
        const int64_t units = a->images * a->groups;
        frozen_kernel<<<hn_grid(units, kThreads, kMaxBlocks), kThreads, 0, stream>>>(units, to);
    } else {
        moments_kernel<T, kWidth><<<grid_of(c), kThreads, 0, stream>>>(f.x, f.ld_x, c, partial);
        if (!c.own) finish_kernel<<<units_grid(c), kTotalThreads, 0, stream>>>(partial, c, to);
    }
    if (c.own && !a->frozen)
        apply_kernel<T, kWidth, true><<<grid_of(c), kThreads, 0, stream>>>(f);
    else
        apply_kernel<T, kWidth, false><<<grid_of(c), kThreads, 0, stream>>>(f);
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
            nullptr,
            {a->gain, a->gain_stride, a->gain_dtype == HN_BF16},
            {a->bias, 0, a->bias_dtype == HN_BF16},
            {a->dgain, a->dbias, a->dgain_stride, a->dbias_stride},
            a->ld_x,
            a->ld_y,
            a->ld_dy,
            a->ld_dx,
            a->ld_dres,
            a->frozen,
            c};
}

/* What dx needs, and gradients of parameters, by a kernel of its own. */
template <class T>
void launch_totals(Backward<T> *f, float *of_unit, cudaStream_t stream)
{
    const Cut &c = f->c;
    const bool averages = f->dx != nullptr && !f->frozen;
    const bool params = f->to.dgain != nullptr || f->to.dbias != nullptr;
    const int64_t average_blocks = averages ? units_grid(c) : 0;
    const int64_t param_blocks = params ? c.images / c.share * divide_up(c.cols, kUnits) : 0;
    totals_kernel<<<(unsigned)(average_blocks + param_blocks), kTotalThreads, 0, stream>>>(
        *f, of_unit, average_blocks);
    f->of_unit = averages ? of_unit : nullptr;
}

template <class T, int kWidth, bool kByBias>
void launch_bwd_by(const hn_channel_norm_bwd *a, float *partial, float *of_unit,
                   cudaStream_t stream)
{
    const int64_t share = a->images / hn_replica_count(a->replicas);
    const Cut c = cut_of(a->images, a->pixels, a->cols, a->groups, share, kBackwardBlocks, kWidth);
    Backward<T> f = backward_of<T>(a, c);
    const bool sums = hn_channel_norm_has_sums(a), own = sums && c.own && f.dx != nullptr;
    if (sums) {
        sums_kernel<T, kWidth, kByBias><<<grid_of(c), kThreads, 0, stream>>>(f, partial);
        if (f.dres != nullptr) { /* g is there now */
            f.dy = f.dres;
            f.ld_dy = f.ld_dres;
            f.dres = nullptr;
            f.y = nullptr;
        }
        f.partial = partial;
        if (!own) launch_totals(&f, of_unit, stream);
    }
    if (own)
        dx_kernel<T, kWidth, kByBias, true><<<grid_of(c), kThreads, 0, stream>>>(f);
    else if (f.dx != nullptr || f.dres != nullptr)
        dx_kernel<T, kWidth, kByBias, false><<<grid_of(c), kThreads, 0, stream>>>(f);
}

template <class T, int kWidth>
void launch_bwd(const hn_channel_norm_bwd *a, float *partial, float *of_unit, cudaStream_t stream)
{
    if (a->bias != nullptr)
        launch_bwd_by<T, kWidth, true>(a, partial, of_unit, stream);
    else
        launch_bwd_by<T, kWidth, false>(a, partial, of_unit, stream);
}

} // namespace

size_t hn_channel_norm_cuda_scratch(const hn_channel_norm *a)
{
    if (a->frozen) return 0;
    return (size_t)partial_floats(a->images, a->pixels, a->cols, a->groups, 1, kForwardBlocks, 3) *
           sizeof(float);
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

static int64_t bwd_partial_floats(const hn_channel_norm_bwd *a)
{
    const int64_t share = a->images / hn_replica_count(a->replicas);
    return partial_floats(a->images, a->pixels, a->cols, a->groups, share, kBackwardBlocks, 2);
}

size_t hn_channel_norm_bwd_cuda_scratch(const hn_channel_norm_bwd *a)
{
    if (!hn_channel_norm_has_sums(a)) return 0;
    return (size_t)(bwd_partial_floats(a) + 2 * a->images * a->groups) * sizeof(float);
}

hn_status hn_channel_norm_bwd_cuda(const hn_channel_norm_bwd *a, void *scratch, hn_stream stream)
{
    const hn_dtype t = a->dtype;
    const bool wide = a->cols % HN_VEC == 0 && hn_vectors_fit(a->x, a->ld_x, t) &&
                      hn_vectors_fit(a->y, a->ld_y, t) && hn_vectors_fit(a->dy, a->ld_dy, t) &&
                      hn_vectors_fit(a->dx, a->ld_dx, t) && hn_vectors_fit(a->dres, a->ld_dres, t);
    float *const partial = (float *)scratch;
    float *const of_unit = scratch ? partial + bwd_partial_floats(a) : nullptr;
    HN_CUDA_REAL(t, T,
                 wide ? launch_bwd<T, HN_VEC>(a, partial, of_unit, stream)
                      : launch_bwd<T, 1>(a, partial, of_unit, stream));
    return HN_CUDA_LAUNCHED("channel_norm_bwd");
}
