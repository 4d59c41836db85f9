/* Rows of up to 1024 columns in whole 16-byte pieces, where latency is what costs. A team of 8, 16
 * or 32 lanes has a row, three or four pieces a lane: no idle lanes at 192, 384 and 768 columns,
 * and short chains of shuffles. A block has a run of rows and what belongs to its columns (gain,
 * bias, sums of their gradients) in registers; while a team works on a row, its next one is on the
 * way. Rows are read once, and each value is read and then written by one thread. */
#include "kernels/norm/cuda_layer_norm.h"
#include "runtime/base/cuda_runs.h"

namespace hn_layer_norm {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kParamThreads = bwd_blocks(2, 3, true).threads; /* in all variants */

/* Where a thread stands in its block. */
template <int kTeam>
__device__ __forceinline__ uint32_t team(void)
{
    return threadIdx.x / kTeam;
}

/* The first column of the thread's piece c, and how far it lies behind that of piece 0. */
template <int kTeam>
__device__ __forceinline__ int column(int c)
{
    return (c * kTeam + (int)threadIdx.x % kTeam) * HN_VEC;
}
template <int kTeam>
__device__ __forceinline__ constexpr int behind(int c)
{
    return c * kTeam * HN_VEC;
}

/* Where piece 0 lies in row i. */
template <int kTeam, class T>
__device__ __forceinline__ T *place(T *p, int64_t i, int64_t ld)
{
    return p + i * ld + column<kTeam>(0);
}

template <int kTeam>
__device__ __forceinline__ float team_sum(float v)
{
#pragma unroll
    for (int d = kTeam / 2; d > 0; d /= 2) v += __shfl_xor_sync(kAll, v, d);
    return v;
}

/* Two sums whose shuffles go side by side. */
template <int kTeam>
__device__ __forceinline__ float2 team_sum(float2 v)
{
#pragma unroll
    for (int d = kTeam / 2; d > 0; d /= 2) {
        const float x = __shfl_xor_sync(kAll, v.x, d), y = __shfl_xor_sync(kAll, v.y, d);
        v.x += x;
        v.y += y;
    }
    return v;
}

/* A gain or bias for the thread's columns as it is stored: f32, or bf16 in the first word of each
 * piece. Loaded and unpacked apart, so that nothing waits before all loads are under way. */
template <int kN>
struct RawParam {
    hn_pack<float> piece[kN];
};

/* NULL, and past the end of a row: zeros. */
template <int kTeam, int kN>
__device__ __forceinline__ RawParam<kN> load_raw(const Param &p, int64_t replica, int64_t cols)
{
    RawParam<kN> raw = {};
#pragma unroll
    for (int c = 0; c < kN; c++) {
        const int64_t col = column<kTeam>(c), at = replica * p.stride + col;
        if (p.data == nullptr || col >= cols) continue;
        const uint4 *const from = (const uint4 *)((const char *)p.data + at * (p.is_bf16 ? 2 : 4));
        raw.piece[c].word[0] = from[0];
        if (!p.is_bf16) raw.piece[c].word[1] = from[1];
    }
    return raw;
}

template <int kN>
__device__ __forceinline__ void unpack_raw(const RawParam<kN> &raw, bool is_bf16,
                                           float (&v)[kN][HN_VEC])
{
#pragma unroll
    for (int c = 0; c < kN; c++) {
        if (is_bf16)
            hn_unpack(hn_pack<__nv_bfloat16>{{raw.piece[c].word[0]}}, v[c]);
        else
            hn_unpack(raw.piece[c], v[c]);
    }
}

/* ---- forward ---- */

template <class T, int kN>
struct Input {
    hn_pack<T> x[kN], res[kN];
};

/* Row i, or zeros where it is past the run, and past the end of a row. */
template <int kTeam, int kN, class T>
__device__ __forceinline__ Input<T, kN> load_input(const Forward<T> &a, int64_t i, bool there)
{
    Input<T, kN> in = {};
    const T *const x = place<kTeam>(a.x, i, a.ld_x), *const res = place<kTeam>(a.res, i, a.ld_res);
#pragma unroll
    for (int c = 0; c < kN; c++) {
        if (!there || column<kTeam>(c) >= (int)a.cols) continue;
        in.x[c] = hn_load_pack(x + behind<kTeam>(c));
        if (a.res != nullptr) in.res[c] = hn_load_pack(res + behind<kTeam>(c));
    }
    return in;
}

/* sum may lie on x or res, y on x. */
template <class T, int kTeam, int kN>
__global__ void __launch_bounds__(fwd_blocks(sizeof(T), kN).threads,
                                  fwd_blocks(sizeof(T), kN).resident)
    fwd_kernel(const Forward<T> a, const Runs runs)
{
    constexpr int kTeams = fwd_blocks(sizeof(T), kN).threads / kTeam;
    const Run run = run_of(runs, blockIdx.x);
    uint32_t i = (uint32_t)run.begin + team<kTeam>(); /* rows are fewer than 2^31 */
    const uint32_t end = (uint32_t)run.end;
    Input<T, kN> in = load_input<kTeam, kN>(a, i, i < end);
    Input<T, kN> next = load_input<kTeam, kN>(a, i + kTeams, i + kTeams < end);
    const RawParam<kN> raw_gain = load_raw<kTeam, kN>(a.gain, run.replica, a.cols);
    const RawParam<kN> raw_bias = load_raw<kTeam, kN>(a.bias, run.replica, a.cols);
    float gain[kN][HN_VEC], bias[kN][HN_VEC];
    unpack_raw(raw_gain, a.gain.is_bf16, gain);
    unpack_raw(raw_bias, a.bias.is_bf16, bias);
    /* teams without a row in the last step: sums with zeros, no more */
    for (; i - team<kTeam>() < end; i += kTeams) {
        const bool there = i < end;
        T *const sum = place<kTeam>(a.sum, i, a.ld_sum), *const y = place<kTeam>(a.y, i, a.ld_y);
        float s[kN][HN_VEC], total = 0.0f;
#pragma unroll
        for (int c = 0; c < kN; c++) {
            hn_unpack(in.x[c], s[c]);
            if (a.res != nullptr) {
                float r[HN_VEC];
                hn_unpack(in.res[c], r);
                add(s[c], r);
                const hn_pack<T> rounded = hn_pack_of<T>(s[c]);
                hn_unpack(rounded, s[c]);
                if (there && column<kTeam>(c) < (int)a.cols)
                    hn_store_pack(sum + behind<kTeam>(c), rounded);
            }
            total += add_up(s[c]);
        }
        const float near = team_sum<kTeam>(total) / a.width;
        float2 sums = {0.0f, 0.0f};
#pragma unroll
        for (int c = 0; c < kN; c++) {
            if (column<kTeam>(c) >= (int)a.cols) continue;
#pragma unroll
            for (int k = 0; k < HN_VEC; k++) {
                const float d = s[c][k] - near;
                sums.x += d;
                sums.y += d * d;
            }
        }
        const Moments m = moments_of(near, team_sum<kTeam>(sums), a.width, a.eps);
#pragma unroll
        for (int c = 0; c < kN; c++) {
            if (!there || column<kTeam>(c) >= (int)a.cols) continue;
#pragma unroll
            for (int k = 0; k < HN_VEC; k++)
                s[c][k] = (s[c][k] - m.mean) * m.rstd * gain[c][k] + bias[c][k];
            hn_store_pack(y + behind<kTeam>(c), hn_pack_of<T>(s[c]));
        }
        if (threadIdx.x % kTeam == 0 && a.mean != nullptr && there) {
            a.mean[i] = m.mean;
            a.rstd[i] = m.rstd;
        }
        in = next;
        next = load_input<kTeam, kN>(a, i + 2 * kTeams, i + 2 * kTeams < end);
    }
}

/* ---- backward ---- */

template <class T, int kN>
struct Row {
    hn_pack<T> dy[kN], sum[kN], dsum[kN];
    float mean, rstd;
};

template <int kTeam, int kN, class T>
__device__ __forceinline__ Row<T, kN> load_row(const Backward<T> &a, int64_t i, bool there)
{
    Row<T, kN> r = {};
    if (there) r.mean = a.mean[i], r.rstd = a.rstd[i];
    const T *const dy = place<kTeam>(a.dy, i, a.ld_dy), *const sum =
                                                            place<kTeam>(a.sum, i, a.ld_sum);
    const T *const dsum = place<kTeam>(a.dsum, i, a.ld_dsum);
#pragma unroll
    for (int c = 0; c < kN; c++) {
        if (!there || column<kTeam>(c) >= (int)a.cols) continue;
        r.dy[c] = hn_load_pack(dy + behind<kTeam>(c));
        r.sum[c] = hn_load_pack(sum + behind<kTeam>(c));
        if (a.dsum != nullptr) r.dsum[c] = hn_load_pack(dsum + behind<kTeam>(c));
    }
    return r;
}

/* Place of a column in shared memory: lanes that are 8 columns apart write to banks of their own.
 */
__device__ __forceinline__ int banked(int col) { return col + col / 32; }

/* to[col] of the block's run: over the teams of a warp, then over the warps. */
template <int kTeam, int kN>
__device__ __forceinline__ void store_partial(const float (&sum)[kN][HN_VEC], int64_t cols,
                                              float *to)
{
    constexpr int kOwn = kN * HN_VEC, kCols = kOwn * kTeam, kKept = kCols / 32;
    constexpr int kWarps = kParamThreads / 32;
    __shared__ float of_warp[kWarps][kCols + kCols / 32];
    const int lane = (int)threadIdx.x % kTeam, first = hn_folded<kTeam, kOwn>();
    float v[kOwn];
#pragma unroll
    for (int k = 0; k < kOwn; k++) v[k] = sum[k / HN_VEC][k % HN_VEC];
    hn_fold<kTeam, kOwn>(v);
    __syncthreads(); /* the last sums have been read */
#pragma unroll
    for (int k = 0; k < kKept; k++) {
        const int c = (first + k) / HN_VEC, in_piece = (first + k) % HN_VEC;
        of_warp[threadIdx.x / 32][banked((c * kTeam + lane) * HN_VEC + in_piece)] = v[k];
    }
    __syncthreads();
    for (int col = (int)threadIdx.x; col < cols; col += kParamThreads) {
        float all = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; w++) all += of_warp[w][banked(col)];
        to[col] = all;
    }
}

/* dx may lie on dy, dsum or sum; with kParams it may not be wanted. Rows of f32 take so many
 * registers that a team has one at a time. */
template <class T, int kTeam, int kN, bool kParams>
__global__ void __launch_bounds__(bwd_blocks(sizeof(T), kN, kParams).threads,
                                  bwd_blocks(sizeof(T), kN, kParams).resident)
    bwd_kernel(const Backward<T> a, const Runs runs, float *partial)
{
    constexpr int kTeams = bwd_blocks(sizeof(T), kN, kParams).threads / kTeam;
    constexpr bool kAhead = sizeof(T) == 2;
    const Run run = run_of(runs, blockIdx.x);
    uint32_t i = (uint32_t)run.begin + team<kTeam>(); /* rows are fewer than 2^31 */
    const uint32_t end = (uint32_t)run.end;
    Row<T, kN> row = load_row<kTeam, kN>(a, i, i < end), next;
    if constexpr (kAhead) next = load_row<kTeam, kN>(a, i + kTeams, i + kTeams < end);
    const RawParam<kN> raw = load_raw<kTeam, kN>(a.gain, run.replica, a.cols);
    float gain[kN][HN_VEC], gained[kN][HN_VEC] = {}, biased[kN][HN_VEC] = {};
    unpack_raw(raw, a.gain.is_bf16, gain);
    /* teams without a row in the last step: sums with zeros, no more */
    for (; i - team<kTeam>() < end; i += kTeams) {
        const bool there = i < end;
        float2 sums = {0.0f, 0.0f};
#pragma unroll
        for (int c = 0; c < kN; c++) {
            float dy[HN_VEC], z[HN_VEC];
            hn_unpack(row.dy[c], dy);
            hn_unpack(row.sum[c], z);
            standardise(z, row.mean, row.rstd);
            sums = add_dots(sums, dy, z, gain[c]);
            if constexpr (kParams) add_params(gained[c], biased[c], dy, z);
            if constexpr (kN == 4) { /* fp32 values of as many pieces would be spilled */
                hn_forget_unpacked(row.dy[c]);
                hn_forget_unpacked(row.sum[c]);
            }
        }
        if (a.dx != nullptr) { /* the same for all threads */
            float2 means = team_sum<kTeam>(sums);
            means.x /= a.width;
            means.y /= a.width;
            T *const dx = place<kTeam>(a.dx, i, a.ld_dx);
#pragma unroll
            for (int c = 0; c < kN; c++) {
                if (!there || column<kTeam>(c) >= (int)a.cols) continue;
                float dy[HN_VEC], z[HN_VEC], more[HN_VEC];
                hn_unpack(row.dy[c], dy);
                hn_unpack(row.sum[c], z);
                standardise(z, row.mean, row.rstd);
                differentiate(dy, z, row.rstd, means, gain[c]);
                hn_unpack(row.dsum[c], more);
                if (a.dsum != nullptr) add(dy, more);
                hn_store_pack(dx + behind<kTeam>(c), hn_pack_of<T>(dy));
            }
        }
        const uint32_t then = i + (kAhead ? 2 : 1) * kTeams;
        if constexpr (kAhead) row = next;
        (kAhead ? next : row) = load_row<kTeam, kN>(a, then, then < end);
    }
    if constexpr (kParams) {
        float *const to = partial + 2 * (int64_t)blockIdx.x * a.cols;
        store_partial<kTeam>(gained, a.cols, to);
        store_partial<kTeam>(biased, a.cols, to + a.cols);
    }
}

/* ---- launchers ---- */

template <class T, int kTeam, int kN>
void launch(const Forward<T> &f, cudaStream_t s)
{
    constexpr Blocks b = fwd_blocks(sizeof(T), kN);
    const Runs runs = narrow_runs(f.rows, f.replicas, f.cols, b);
    fwd_kernel<T, kTeam, kN><<<(unsigned)(f.replicas * runs.count), b.threads, 0, s>>>(f, runs);
}

template <class T, int kTeam, int kN, bool kParams>
void launch(const Backward<T> &f, float *partial, cudaStream_t s)
{
    constexpr Blocks b = bwd_blocks(sizeof(T), kN, kParams);
    const Runs runs = narrow_runs(f.rows, f.replicas, f.cols, b);
    const unsigned blocks = (unsigned)(f.replicas * runs.count);
    bwd_kernel<T, kTeam, kN, kParams><<<blocks, b.threads, 0, s>>>(f, runs, partial);
}

template <class T, int kTeam, int kN>
void launch(const Backward<T> &f, float *partial, cudaStream_t s)
{
    return f.params ? launch<T, kTeam, kN, true>(f, partial, s)
                    : launch<T, kTeam, kN, false>(f, partial, s);
}

} // namespace

template <class T>
void narrow_fwd(const Forward<T> &f, cudaStream_t s)
{
    if (pieces_of(f.cols) == 4) return launch<T, 32, 4>(f, s);
    const int lanes = lanes_of(f.cols);
    return lanes == 8    ? launch<T, 8, 3>(f, s)
           : lanes == 16 ? launch<T, 16, 3>(f, s)
                         : launch<T, 32, 3>(f, s);
}

template <class T>
void narrow_bwd(const Backward<T> &f, float *partial, cudaStream_t s)
{
    if (pieces_of(f.cols) == 4) return launch<T, 32, 4>(f, partial, s);
    const int lanes = lanes_of(f.cols);
    return lanes == 8    ? launch<T, 8, 3>(f, partial, s)
           : lanes == 16 ? launch<T, 16, 3>(f, partial, s)
                         : launch<T, 32, 3>(f, partial, s);
}

template void narrow_fwd(const Forward<float> &f, cudaStream_t s);
template void narrow_fwd(const Forward<__nv_bfloat16> &f, cudaStream_t s);
template void narrow_bwd(const Backward<float> &f, float *partial, cudaStream_t s);
template void narrow_bwd(const Backward<__nv_bfloat16> &f, float *partial, cudaStream_t s);

} // namespace hn_layer_norm
