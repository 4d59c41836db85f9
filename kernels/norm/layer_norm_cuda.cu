/* Rows of up to 1024 columns in whole 16-byte pieces are layer_norm_narrow_cuda.cu's. Up to 8192
 * columns a block has a row, which is read once and stays in registers, in both passes; all loads
 * of a thread go out before the first sum over the block. A longer row, or one that is not made of
 * 16-byte pieces, is read again, by a warp up to 256 columns, else by a block. dgain and dbias:
 * blocks gather partial sums over runs of rows, on the way to dx where rows stay in registers, else
 * in a kernel of its own; then another kernel adds them in order. */
#include "kernels/norm/layer_norm.h"

#include "kernels/norm/cuda_layer_norm.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_runs.h"

namespace {

using namespace hn_layer_norm;

constexpr int kWarp = 32;
constexpr int64_t kMaxBlocks = 1 << 20;       /* then a team takes several rows */
constexpr int64_t kWarpColumns = 256;         /* of a row that a warp streams, at most */
constexpr int64_t kBlockChunk = kThreads * 8; /* columns that a block takes in one access: 2048 */
constexpr int kChunks = 4;                    /* accesses of a thread in the wider variant */
constexpr int kRunThreads = 64;               /* small blocks: the runs are few */

/* Blocks that gather sums, on a multiprocessor at a time, by the registers of a thread. */
constexpr int resident(size_t element, int chunks) { return chunks > 1 ? 1 : element == 2 ? 3 : 2; }

constexpr int chunks_of(int64_t cols) { return cols <= kBlockChunk ? 1 : kChunks; }

/* Sums over a team of two values; may be called repeatedly. */
template <int kTeam>
__device__ __forceinline__ float2 team_sum(float2 v)
{
    static_assert(kTeam == kWarp || kTeam == kThreads, "a warp or a block");
    v.x = hn_warp_sum(v.x);
    v.y = hn_warp_sum(v.y);
    if constexpr (kTeam == kThreads) {
        __shared__ float2 partial[kThreads / kWarp];
        if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = v;
        __syncthreads();
        v = partial[0];
        for (int w = 1; w < kThreads / kWarp; w++) v.x += partial[w].x, v.y += partial[w].y;
        __syncthreads(); /* before the next call writes partial */
    }
    return v;
}

template <int kTeam>
__device__ __forceinline__ float team_sum(float v)
{
    if constexpr (kTeam == kThreads)
        return hn_block_sum<kThreads>(v);
    else
        return hn_warp_sum(v);
}

/* The first column of the thread's piece c, where a block has a row. */
__device__ __forceinline__ int64_t column(int c)
{
    return (c * kThreads + (int)threadIdx.x) * HN_VEC;
}

/* s = (s - mean) rstd g + b: y */
template <int kWidth, class T>
__device__ __forceinline__ void scale(const Forward<T> &a, int64_t replica, int64_t col, float mean,
                                      float rstd, float (&s)[kWidth])
{
    float g[kWidth], b[kWidth] = {};
    const int64_t n = a.cols - col;
    load_param(a.gain, replica * a.gain.stride + col, n, g);
    if (a.bias.data != nullptr) load_param(a.bias, replica * a.bias.stride + col, n, b);
#pragma unroll
    for (int k = 0; k < kWidth; k++) s[k] = (s[k] - mean) * rstd * g[k] + b[k];
}

/* The first n of s; those behind are past the row. */
template <int kWidth>
__device__ __forceinline__ float2 add_deviations(float2 sums, const float (&s)[kWidth], float near,
                                                 int64_t n)
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        const float d = k < n ? s[k] - near : 0.0f;
        sums.x += d;
        sums.y += d * d;
    }
    return sums;
}

/* Rows of whole 16-byte pieces: read once. Each value is read and then written by one thread: sum
 * may lie on x or res, y on x. */
template <class T, int kN>
__global__ void __launch_bounds__(kThreads) fwd_register_kernel(const Forward<T> a)
{
    for (int64_t i = blockIdx.x; i < a.rows; i += gridDim.x) {
        hn_pack<T> sum[kN] = {}, other[kN] = {};
        float s[HN_VEC], r[HN_VEC], total = 0.0f;
#pragma unroll
        for (int c = 0; c < kN; c++) {
            const int64_t col = column(c);
            if (col >= a.cols) continue;
            sum[c] = hn_load_pack(a.x + i * a.ld_x + col);
            if (a.res != nullptr) other[c] = hn_load_pack(a.res + i * a.ld_res + col);
        }
#pragma unroll
        for (int c = 0; c < kN; c++) {
            const int64_t col = column(c);
            hn_unpack(sum[c], s);
            if (a.res != nullptr) {
                hn_unpack(other[c], r);
#pragma unroll
                for (int k = 0; k < HN_VEC; k++) s[k] += r[k];
                sum[c] = hn_pack_of<T>(s);
                hn_unpack(sum[c], s); /* rounded */
                if (col < a.cols) hn_store_pack(a.sum + i * a.ld_sum + col, sum[c]);
            }
            total += add_up(s);
            hn_forget_unpacked(sum[c]);
        }
        const float near = team_sum<kThreads>(total) / a.width;
        float2 sums = {0.0f, 0.0f};
#pragma unroll
        for (int c = 0; c < kN; c++) {
            hn_unpack(sum[c], s);
            sums = add_deviations(sums, s, near, a.cols - column(c));
            hn_forget_unpacked(sum[c]);
        }
        const Moments m = moments_of(near, team_sum<kThreads>(sums), a.width, a.eps);
        const int64_t replica = a.has_replicas ? hn_divide((uint32_t)i, a.group) : 0;
#pragma unroll
        for (int c = 0; c < kN; c++) {
            const int64_t col = column(c);
            if (col >= a.cols) continue;
            hn_unpack(sum[c], s);
            scale(a, replica, col, m.mean, m.rstd, s);
            hn_store_pack(a.y + i * a.ld_y + col, hn_pack_of<T>(s));
        }
        if (threadIdx.x > 0 || a.mean == nullptr) continue;
        a.mean[i] = m.mean;
        a.rstd[i] = m.rstd;
    }
}

/* The sum of x and res as it is stored; without res it is x. */
template <int kWidth, class T>
__device__ __forceinline__ void add_span(const Forward<T> &a, int64_t i, int64_t col,
                                         float (&s)[kWidth])
{
    const int64_t n = a.cols - col;
    hn_load_span<kWidth>(a.x + i * a.ld_x + col, n, s);
    if (a.res == nullptr) return;
    float r[kWidth];
    hn_load_span<kWidth>(a.res + i * a.ld_res + col, n, r);
#pragma unroll
    for (int k = 0; k < kWidth; k++) s[k] = hn_f32(hn_round<T>(s[k] + r[k]));
    hn_store_span<kWidth>(a.sum + i * a.ld_sum + col, n, s);
}

/* Any width: later passes read the sum (or x) again, each thread what it read or wrote before. A
 * team has a row to itself: all of it takes part in every sum. */
template <class T, int kTeam, int kWidth>
__global__ void __launch_bounds__(kThreads) fwd_stream_kernel(const Forward<T> a)
{
    const int lane = (int)threadIdx.x % kTeam;
    const int64_t step = (int64_t)gridDim.x * (kThreads / kTeam);
    const T *const again = a.res ? a.sum : a.x;
    const int64_t ld_again = a.res ? a.ld_sum : a.ld_x;
    int64_t i = (int64_t)blockIdx.x * (kThreads / kTeam) + threadIdx.x / kTeam;
    for (; i < a.rows; i += step) {
        float s[kWidth], total = 0.0f;
        float2 sums = {0.0f, 0.0f};
        for (int64_t col = lane * kWidth; col < a.cols; col += kTeam * kWidth) {
            add_span(a, i, col, s);
            total += add_up(s);
        }
        const float near = team_sum<kTeam>(total) / a.width;
        for (int64_t col = lane * kWidth; col < a.cols; col += kTeam * kWidth) {
            hn_load_span<kWidth>(again + i * ld_again + col, a.cols - col, s);
            sums = add_deviations(sums, s, near, a.cols - col);
        }
        const Moments m = moments_of(near, team_sum<kTeam>(sums), a.width, a.eps);
        const int64_t replica = a.has_replicas ? hn_divide((uint32_t)i, a.group) : 0;
#pragma unroll(kWidth == 1 ? 1 : 4) /* narrow and unrolled it spills registers */
        for (int64_t col = lane * kWidth; col < a.cols; col += kTeam * kWidth) {
            hn_load_span<kWidth>(again + i * ld_again + col, a.cols - col, s);
            scale(a, replica, col, m.mean, m.rstd, s);
            hn_store_span<kWidth>(a.y + i * a.ld_y + col, a.cols - col, s);
        }
        if (lane != 0 || a.mean == nullptr) continue;
        a.mean[i] = m.mean;
        a.rstd[i] = m.rstd;
    }
}

/* ---- backward ---- */

/* to[col] of the block's run. */
template <int kN>
__device__ __forceinline__ void store_partial(const float (&sum)[kN][HN_VEC], int64_t cols,
                                              float *to)
{
#pragma unroll
    for (int c = 0; c < kN; c++)
#pragma unroll
        for (int k = 0; k < HN_VEC; k++) {
            const int64_t col = column(c) + k;
            if (col < cols) to[col] = sum[c][k];
        }
}

/* Rows of whole 16-byte pieces: read once. Each value is read and then written by one thread: dx
 * may lie on dy, dsum or sum. With kParams a block has a run of rows, and dx may not be wanted;
 * without it the compiler chooses the blocks of a multiprocessor (0). */
template <class T, int kN, bool kParams>
__global__ void __launch_bounds__(kThreads, kParams ? resident(sizeof(T), kN) : 0)
    dx_register_kernel(const Backward<T> a, const Runs runs, float *partial)
{
    Run run = {blockIdx.x, a.rows, 0};
    if constexpr (kParams) run = run_of(runs, blockIdx.x);
    const int64_t step = kParams ? 1 : gridDim.x;
    float gained[kN][HN_VEC] = {}, biased[kN][HN_VEC] = {};
    for (int64_t i = run.begin; i < run.end; i += step) {
        const int64_t gain_at =
            a.has_replicas ? hn_divide((uint32_t)i, a.group) * a.gain.stride : 0;
        const float mean = a.mean[i], rstd = a.rstd[i];
        hn_pack<T> from[kN] = {}, kept[kN] = {}, more[kN] = {}; /* dy, sum, dsum */
        float dy[HN_VEC], z[HN_VEC], g[HN_VEC];
        float2 sums = {0.0f, 0.0f};
#pragma unroll
        for (int c = 0; c < kN; c++) {
            const int64_t col = column(c);
            if (col >= a.cols) continue;
            from[c] = hn_load_pack(a.dy + i * a.ld_dy + col);
            kept[c] = hn_load_pack(a.sum + i * a.ld_sum + col);
            if (a.dsum != nullptr) more[c] = hn_load_pack(a.dsum + i * a.ld_dsum + col);
        }
#pragma unroll
        for (int c = 0; c < kN; c++) {
            const int64_t col = column(c);
            if (col >= a.cols) continue;
            hn_unpack(from[c], dy);
            hn_unpack(kept[c], z);
            standardise(z, mean, rstd);
            load_param(a.gain, gain_at + col, a.cols - col, g);
            sums = add_dots(sums, dy, z, g);
            if constexpr (kParams) add_params(gained[c], biased[c], dy, z);
            hn_forget_unpacked(from[c]);
            hn_forget_unpacked(kept[c]);
        }
        if (kParams && a.dx == nullptr) continue; /* the same for all threads */
        float2 means = team_sum<kThreads>(sums);
        means.x /= a.width;
        means.y /= a.width;
#pragma unroll
        for (int c = 0; c < kN; c++) {
            const int64_t col = column(c);
            if (col >= a.cols) continue;
            hn_unpack(from[c], dy);
            hn_unpack(kept[c], z);
            standardise(z, mean, rstd);
            load_param(a.gain, gain_at + col, a.cols - col, g);
            differentiate(dy, z, rstd, means, g);
            hn_unpack(more[c], g);
            if (a.dsum != nullptr) add(dy, g);
            hn_store_pack(a.dx + i * a.ld_dx + col, hn_pack_of<T>(dy));
        }
    }
    if constexpr (kParams) {
        float *const to = partial + 2 * (int64_t)blockIdx.x * a.cols;
        store_partial(gained, a.cols, to);
        store_partial(biased, a.cols, to + a.cols);
    }
}

/* Any width: each thread reads again in the second pass what it read in the first, and writes
 * behind it. */
template <class T, int kTeam, int kWidth>
__global__ void __launch_bounds__(kThreads) dx_stream_kernel(const Backward<T> a)
{
    const int lane = (int)threadIdx.x % kTeam;
    const int64_t step = (int64_t)gridDim.x * (kThreads / kTeam);
    int64_t i = (int64_t)blockIdx.x * (kThreads / kTeam) + threadIdx.x / kTeam;
    for (; i < a.rows; i += step) {
        const int64_t gain_at =
            a.has_replicas ? hn_divide((uint32_t)i, a.group) * a.gain.stride : 0;
        const float mean = a.mean[i], rstd = a.rstd[i];
        float dy[kWidth], z[kWidth], g[kWidth];
        float2 sums = {0.0f, 0.0f};
        for (int64_t col = lane * kWidth; col < a.cols; col += kTeam * kWidth) {
            const int64_t n = a.cols - col; /* behind the row dy is 0 */
            hn_load_span<kWidth>(a.dy + i * a.ld_dy + col, n, dy);
            hn_load_span<kWidth>(a.sum + i * a.ld_sum + col, n, z);
            standardise(z, mean, rstd);
            load_param(a.gain, gain_at + col, n, g);
            sums = add_dots(sums, dy, z, g);
        }
        float2 means = team_sum<kTeam>(sums);
        means.x /= a.width;
        means.y /= a.width;
        for (int64_t col = lane * kWidth; col < a.cols; col += kTeam * kWidth) {
            const int64_t n = a.cols - col;
            hn_load_span<kWidth>(a.dy + i * a.ld_dy + col, n, dy);
            hn_load_span<kWidth>(a.sum + i * a.ld_sum + col, n, z);
            standardise(z, mean, rstd);
            load_param(a.gain, gain_at + col, n, g);
            differentiate(dy, z, rstd, means, g);
            if (a.dsum != nullptr) {
                hn_load_span<kWidth>(a.dsum + i * a.ld_dsum + col, n, g);
                add(dy, g);
            }
            hn_store_span<kWidth>(a.dx + i * a.ld_dx + col, n, dy);
        }
    }
}

/* partial[replica][run][2][col], dgain then dbias: a thread has kWidth columns of a run. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kRunThreads)
    partial_kernel(const Backward<T> a, const Runs runs, int64_t replicas, float *partial)
{
    const int64_t spans = (a.cols + kWidth - 1) / kWidth, n = replicas * runs.count * spans;
    const int64_t step = (int64_t)gridDim.x * kRunThreads;
    for (int64_t u = (int64_t)blockIdx.x * kRunThreads + threadIdx.x; u < n; u += step) {
        const int64_t run = u / spans, replica = run / runs.count, col = (u - run * spans) * kWidth;
        const int64_t base = replica * runs.rows, skip = run % runs.count * runs.length;
        const int64_t end = skip + runs.length, columns = a.cols - col;
        const int64_t last = base + (end < runs.rows ? end : runs.rows);
        float gain[kWidth] = {}, bias[kWidth] = {};
#pragma unroll 4
        for (int64_t i = base + skip; i < last; i++) {
            float dy[kWidth], z[kWidth];
            hn_load_span<kWidth>(a.dy + i * a.ld_dy + col, columns, dy);
            hn_load_span<kWidth>(a.sum + i * a.ld_sum + col, columns, z);
            standardise(z, a.mean[i], a.rstd[i]);
            add_params(gain, bias, dy, z);
        }
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            if (k >= columns) continue;
            partial[2 * run * a.cols + col + k] = gain[k];
            partial[(2 * run + 1) * a.cols + col + k] = bias[k];
        }
    }
}

/* Where the sums of runs go: one of dgain and dbias may be NULL. */
struct Targets {
    float *to[2];
    int64_t stride[2];
};

/* A block has 32 columns of dgain or dbias of a replica. */
__global__ void __launch_bounds__(HN_RUN_THREADS)
    sum_kernel(const float *partial, const Targets t, int64_t cols, int64_t runs)
{
    const int64_t strips = (cols + HN_RUN_COLS - 1) / HN_RUN_COLS;
    const int64_t which = blockIdx.x / (uint32_t)strips, replica = which / 2, k = which % 2;
    const int64_t col = (blockIdx.x - which * strips) * HN_RUN_COLS + threadIdx.x % HN_RUN_COLS;
    float *const to = k ? t.to[1] : t.to[0];
    if (to == nullptr) return; /* the same for all threads */
    float *const at = to + replica * (k ? t.stride[1] : t.stride[0]) + col;
    const bool writes = threadIdx.x < HN_RUN_COLS && col < cols;
    const float before = writes ? *at : 0.0f; /* on its way with the runs */
    const float *const from = partial + (2 * replica * runs + k) * cols + col;
    const float sum = hn_add_runs(from, 2 * cols, runs, col < cols);
    if (writes) *at = before + sum;
}

/* ---- launchers ---- */

template <int kTeam>
unsigned blocks(int64_t rows)
{
    return hn_grid(rows, kThreads / kTeam, kMaxBlocks);
}

/* Whether rows stay in registers, and whether they are layer_norm_narrow_cuda.cu's. */
bool in_registers(int64_t cols, bool wide)
{
    return wide && cols % HN_VEC == 0 && cols <= kChunks * kBlockChunk;
}
bool is_narrow(int64_t cols, bool wide) { return in_registers(cols, wide) && cols <= kNarrow; }

template <class T>
void launch_fwd(const Forward<T> &f, bool wide, cudaStream_t s)
{
    const unsigned by_warp = blocks<kWarp>(f.rows), by_block = blocks<kThreads>(f.rows);
    if (is_narrow(f.cols, wide))
        narrow_fwd(f, s);
    else if (in_registers(f.cols, wide) && chunks_of(f.cols) == 1)
        fwd_register_kernel<T, 1><<<by_block, kThreads, 0, s>>>(f);
    else if (in_registers(f.cols, wide))
        fwd_register_kernel<T, kChunks><<<by_block, kThreads, 0, s>>>(f);
    else if (f.cols <= kWarpColumns)
        fwd_stream_kernel<T, kWarp, 1><<<by_warp, kThreads, 0, s>>>(f);
    else if (wide)
        fwd_stream_kernel<T, kThreads, HN_VEC><<<by_block, kThreads, 0, s>>>(f);
    else
        fwd_stream_kernel<T, kThreads, 1><<<by_block, kThreads, 0, s>>>(f);
}

/* The cut of the rows where dgain or dbias is wanted. */
Runs params_runs(const hn_layer_norm_bwd_args *a, bool wide)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    const size_t element = hn_dtype_size(a->dtype);
    if (is_narrow(a->cols, wide))
        return narrow_runs(a->rows, replicas, a->cols,
                           bwd_blocks(element, pieces_of(a->cols), true));
    const int64_t most = kProcessors * resident(element, chunks_of(a->cols));
    return runs_of(a->rows, replicas, most, a->cols <= kNarrow ? kThreads / kWarp : 2);
}

/* Where dgain and dbias go before the runs are added. */
struct Gather {
    Runs runs;
    float *partial;
};

template <class T, int kN>
void dx_registers(const Backward<T> &f, const Gather &to, cudaStream_t s)
{
    if (f.params)
        dx_register_kernel<T, kN, true>
            <<<(unsigned)(f.replicas * to.runs.count), kThreads, 0, s>>>(f, to.runs, to.partial);
    else
        dx_register_kernel<T, kN, false>
            <<<blocks<kThreads>(f.rows), kThreads, 0, s>>>(f, to.runs, nullptr);
}

template <class T>
void launch_stream(const Backward<T> &f, bool wide, cudaStream_t s)
{
    if (f.cols <= kWarpColumns)
        dx_stream_kernel<T, kWarp, 1><<<blocks<kWarp>(f.rows), kThreads, 0, s>>>(f);
    else if (wide)
        dx_stream_kernel<T, kThreads, HN_VEC><<<blocks<kThreads>(f.rows), kThreads, 0, s>>>(f);
    else
        dx_stream_kernel<T, kThreads, 1><<<blocks<kThreads>(f.rows), kThreads, 0, s>>>(f);
}

template <class T>
void launch_partial(const Backward<T> &f, const Gather &to, bool wide, cudaStream_t s)
{
    const int64_t n = f.replicas * to.runs.count;
    if (wide)
        partial_kernel<T, HN_VEC>
            <<<hn_grid(n * ((f.cols + HN_VEC - 1) / HN_VEC), kRunThreads, kMaxBlocks), kRunThreads,
               0, s>>>(f, to.runs, f.replicas, to.partial);
    else
        partial_kernel<T, 1><<<hn_grid(n * f.cols, kRunThreads, kMaxBlocks), kRunThreads, 0, s>>>(
            f, to.runs, f.replicas, to.partial);
}

/* Where nothing stays in registers, dgain and dbias come before dx, which may lie on dy. */
template <class T>
void launch_bwd(const Backward<T> &f, const Gather &to, bool wide, cudaStream_t s)
{
    if (is_narrow(f.cols, wide)) {
        narrow_bwd(f, to.partial, s);
    } else if (in_registers(f.cols, wide)) {
        if (chunks_of(f.cols) == 1)
            dx_registers<T, 1>(f, to, s);
        else
            dx_registers<T, kChunks>(f, to, s);
    } else {
        if (f.params) launch_partial(f, to, wide, s);
        if (f.dx != nullptr) launch_stream(f, wide, s);
    }
    if (!f.params) return;
    const int64_t n = f.replicas * 2 * ((f.cols + HN_RUN_COLS - 1) / HN_RUN_COLS);
    sum_kernel<<<(unsigned)n, HN_RUN_THREADS, 0, s>>>(
        to.partial, {{f.dgain, f.dbias}, {f.dgain_stride, f.dbias_stride}}, f.cols, to.runs.count);
}

template <class T>
Forward<T> forward_of(const hn_layer_norm_args *a)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    return {(const T *)a->x,
            (const T *)a->res,
            {a->gain, a->gain_stride, a->gain_dtype == HN_BF16},
            {a->bias, a->bias_stride, a->bias_dtype == HN_BF16},
            (T *)a->sum,
            (T *)a->y,
            a->mean,
            a->rstd,
            a->rows,
            a->cols,
            replicas,
            hn_divisor_of(a->rows / replicas),
            a->ld_x,
            a->ld_res,
            a->ld_sum,
            a->ld_y,
            a->eps,
            (float)a->cols,
            replicas > 1};
}

template <class T>
Backward<T> backward_of(const hn_layer_norm_bwd_args *a)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    return {(const T *)a->sum,
            (const T *)a->dy,
            (const T *)a->dsum,
            {a->gain, a->gain_stride, a->gain_dtype == HN_BF16},
            a->mean,
            a->rstd,
            (T *)a->dx,
            a->dgain,
            a->dbias,
            a->rows,
            a->cols,
            replicas,
            hn_divisor_of(a->rows / replicas),
            a->ld_sum,
            a->ld_dy,
            a->ld_dsum,
            a->ld_dx,
            a->dgain_stride,
            a->dbias_stride,
            (float)a->cols,
            replicas > 1,
            a->dgain != nullptr || a->dbias != nullptr};
}

} // namespace

hn_status hn_layer_norm_fwd_cuda(const hn_layer_norm_args *a, hn_stream stream)
{
    HN_TRY(hn_layer_norm_check(a));
    const hn_dtype t = a->dtype;
    const bool wide = hn_vectors_fit(a->x, a->ld_x, t) && hn_vectors_fit(a->res, a->ld_res, t) &&
                      hn_vectors_fit(a->sum, a->ld_sum, t) && hn_vectors_fit(a->y, a->ld_y, t) &&
                      hn_vectors_fit(a->gain, a->gain_stride, a->gain_dtype) &&
                      hn_vectors_fit(a->bias, a->bias_stride, a->bias_dtype);
    HN_CUDA_REAL(t, T, launch_fwd<T>(forward_of<T>(a), wide, stream));
    return HN_CUDA_LAUNCHED("layer_norm");
}

size_t hn_layer_norm_bwd_cuda_scratch(const hn_layer_norm_bwd_args *a)
{
    if (a->dgain == NULL && a->dbias == NULL) return 0;
    const int64_t one = params_runs(a, false).count, vec = params_runs(a, true).count;
    const int64_t runs = hn_replica_count(a->replicas) * (one > vec ? one : vec);
    return (size_t)(runs * 2 * a->cols) * sizeof(float);
}

hn_status hn_layer_norm_bwd_cuda(const hn_layer_norm_bwd_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_layer_norm_bwd_check(a));
    if (a->dgain != NULL || a->dbias != NULL)
        HN_TRY(hn_check_pointer("layer_norm_bwd", "scratch", scratch));
    const hn_dtype t = a->dtype;
    const bool wide = hn_vectors_fit(a->sum, a->ld_sum, t) && hn_vectors_fit(a->dy, a->ld_dy, t) &&
                      hn_vectors_fit(a->dsum, a->ld_dsum, t) &&
                      hn_vectors_fit(a->dx, a->ld_dx, t) &&
                      hn_vectors_fit(a->gain, a->gain_stride, a->gain_dtype);
    const Gather to = {params_runs(a, wide), (float *)scratch};
    HN_CUDA_REAL(t, T, launch_bwd<T>(backward_of<T>(a), to, wide, stream));
    return HN_CUDA_LAUNCHED("layer_norm_bwd");
}
