/* Rows of up to 1024 columns in whole 16-byte pieces stay in the registers of a warp, 1, 2 or 4
 * pieces a lane: forward has a warp a row, backward a block a group, whose warps take its rows in
 * turn and gather dscale and dshift on the way to dx. Other rows are read again, by a block each;
 * there the columns' sums are a kernel of their own, ahead of dx, which may lie on what it reads.
 */
#include "kernels/hyperflow/modulate.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kWarp = 32;
constexpr int kRowThreads = 128;   /* forward: 4 rows a block */
constexpr int kGroupThreads = 256; /* backward: 8 warps share the rows of a group */
constexpr int kWideThreads = 256;
constexpr int kSpan = kWarp * HN_VEC;  /* columns of a piece of every lane */
constexpr int64_t kNarrow = 4 * kSpan; /* widest row in registers */
constexpr int64_t kMostBlocks = 1 << 30;

template <class T>
struct Forward {
    const T *x, *res, *scale, *shift;
    T *sum, *y;
    float *mean, *rstd;
    int64_t rows, cols;
    hn_divisor group; /* rows of a group */
    int64_t ld_x, ld_res, ld_scale, ld_shift, ld_sum, ld_y;
    float eps, width; /* width: cols */
};

template <class T>
struct Backward {
    const T *sum, *scale, *dy, *dsum;
    const float *mean, *rstd;
    T *dx, *dscale, *dshift;
    int64_t rows, cols, groups, group_rows;
    hn_divisor group;
    int64_t ld_sum, ld_scale, ld_dy, ld_dsum, ld_dx, ld_dscale, ld_dshift;
    float width;
};

/* Of a row; without a normalisation 0 and 1, which change no bit. */
struct Moments {
    float mean, rstd;
};

/* near: the mean but for the rounding of a large sum; x, y: sums of deviations and squares. */
__device__ __forceinline__ Moments moments_of(float near, float x, float y, float width, float eps)
{
    const float off = x / width, var = y / width - off * off;
    return {near + off, 1.0f / sqrtf((var < 0.0f ? 0.0f : var) + eps)};
}

template <class T>
__device__ __forceinline__ Moments kept(const Backward<T> &a, int64_t row)
{
    return a.mean != nullptr ? Moments{a.mean[row], a.rstd[row]} : Moments{0.0f, 1.0f};
}

/* The first column of the lane's piece c. */
__device__ __forceinline__ int column(int c)
{
    return c * kSpan + (int)threadIdx.x % kWarp * HN_VEC;
}

/* ---- rows in registers ---- */

/* sum may lie on x or res, y on x. */
template <class T, int kN>
__global__ void __launch_bounds__(kRowThreads) fwd_kernel(const Forward<T> a)
{
    const int64_t row = (int64_t)blockIdx.x * (kRowThreads / kWarp) + threadIdx.x / kWarp;
    if (row >= a.rows) return; /* the same for the whole warp */
    const int64_t e = hn_divide((uint32_t)row, a.group);
    hn_pack<T> scale[kN] = {}, shift[kN] = {};
    float s[kN][HN_VEC], total = 0.0f;
#pragma unroll
    for (int c = 0; c < kN; c++) {
        const int col = column(c);
        hn_pack<T> x = {}, res = {};
        if (col < a.cols) {
            x = hn_load_pack(a.x + row * a.ld_x + col);
            if (a.res != nullptr) res = hn_load_pack(a.res + row * a.ld_res + col);
            scale[c] = hn_load_pack(a.scale + e * a.ld_scale + col);
            shift[c] = hn_load_pack(a.shift + e * a.ld_shift + col);
        }
        hn_unpack(x, s[c]);
        if (a.res != nullptr) {
            float r[HN_VEC];
            hn_unpack(res, r);
#pragma unroll
            for (int k = 0; k < HN_VEC; k++) s[c][k] += r[k];
            const hn_pack<T> rounded = hn_pack_of<T>(s[c]);
            hn_unpack(rounded, s[c]);
            if (col < a.cols) hn_store_pack(a.sum + row * a.ld_sum + col, rounded);
        }
#pragma unroll
        for (int k = 0; k < HN_VEC; k++) total += s[c][k]; /* behind the row zeros */
    }
    Moments m = {0.0f, 1.0f};
    if (a.eps > 0.0f) { /* the same for all */
        const float near = hn_warp_sum(total) / a.width;
        float sum = 0.0f, square = 0.0f;
#pragma unroll
        for (int c = 0; c < kN; c++) {
            if (column(c) >= a.cols) continue;
#pragma unroll
            for (int k = 0; k < HN_VEC; k++) {
                const float d = s[c][k] - near;
                sum += d;
                square += d * d;
            }
        }
        m = moments_of(near, hn_warp_sum(sum), hn_warp_sum(square), a.width, a.eps);
    }
#pragma unroll
    for (int c = 0; c < kN; c++) {
        const int col = column(c);
        if (col >= a.cols) continue;
        float g[HN_VEC], b[HN_VEC];
        hn_unpack(scale[c], g);
        hn_unpack(shift[c], b);
#pragma unroll
        for (int k = 0; k < HN_VEC; k++)
            s[c][k] = (s[c][k] - m.mean) * m.rstd * (1.0f + g[k]) + b[k];
        hn_store_pack(a.y + row * a.ld_y + col, hn_pack_of<T>(s[c]));
    }
    if (a.mean != nullptr && threadIdx.x % kWarp == 0) {
        a.mean[row] = m.mean;
        a.rstd[row] = m.rstd;
    }
}

/* to[col] of piece c = the warps' sums, added in order. A whole block calls it. */
template <class T>
__device__ __forceinline__ void store_columns(const float (&sum)[HN_VEC], int c, int64_t cols,
                                              T *to)
{
    constexpr int kWarps = kGroupThreads / kWarp;
    __shared__ float of_warp[kWarps][kSpan];
    const int warp = (int)threadIdx.x / kWarp, lane = (int)threadIdx.x % kWarp;
    static_assert(kGroupThreads == kSpan, "a thread a column");
    __syncthreads(); /* the last sums have been read */
#pragma unroll
    for (int k = 0; k < HN_VEC; k++) of_warp[warp][k * kWarp + lane] = sum[k];
    __syncthreads();
    float all = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) all += of_warp[w][threadIdx.x];
    const int col = c * kSpan + lane * HN_VEC + warp; /* threadIdx.x is k * kWarp + lane */
    if (col < cols) to[col] = hn_round<T>(all);
}

/* dx may lie on dy, dsum or sum: a lane reads its columns of a row before it writes them. */
template <class T, int kN>
__global__ void __launch_bounds__(kGroupThreads) bwd_kernel(const Backward<T> a)
{
    const int64_t e = blockIdx.x, end = (e + 1) * a.group_rows;
    const bool normed = a.mean != nullptr;
    hn_pack<T> scale[kN] = {};
    float dscale[kN][HN_VEC] = {}, dshift[kN][HN_VEC] = {};
#pragma unroll
    for (int c = 0; c < kN; c++)
        if (column(c) < a.cols) scale[c] = hn_load_pack(a.scale + e * a.ld_scale + column(c));
#pragma unroll 1
    for (int64_t i = e * a.group_rows + threadIdx.x / kWarp; i < end; i += kGroupThreads / kWarp) {
        const Moments m = kept(a, i);
        hn_pack<T> dsum[kN] = {};
        float h[kN][HN_VEC], z[kN][HN_VEC], sum = 0.0f, dot = 0.0f;
#pragma unroll
        for (int c = 0; c < kN; c++) {
            const int col = column(c);
            hn_pack<T> dy = {}, s = {};
            if (col < a.cols) {
                dy = hn_load_pack(a.dy + i * a.ld_dy + col);
                s = hn_load_pack(a.sum + i * a.ld_sum + col);
                if (a.dsum != nullptr) dsum[c] = hn_load_pack(a.dsum + i * a.ld_dsum + col);
            }
            float g[HN_VEC];
            hn_unpack(dy, h[c]);
            hn_unpack(s, z[c]);
            hn_unpack(scale[c], g);
#pragma unroll
            for (int k = 0; k < HN_VEC; k++) { /* behind the row dy is 0 and adds nothing */
                z[c][k] = (z[c][k] - m.mean) * m.rstd;
                dscale[c][k] += h[c][k] * z[c][k];
                dshift[c][k] += h[c][k];
                h[c][k] *= 1.0f + g[k];
                sum += h[c][k];
                dot += h[c][k] * z[c][k];
            }
        }
        if (a.dx == nullptr) continue; /* the same for all */
        sum = normed ? hn_warp_sum(sum) / a.width : 0.0f;
        dot = normed ? hn_warp_sum(dot) / a.width : 0.0f;
#pragma unroll
        for (int c = 0; c < kN; c++) {
            const int col = column(c);
            if (col >= a.cols) continue;
            float more[HN_VEC];
            hn_unpack(dsum[c], more);
#pragma unroll
            for (int k = 0; k < HN_VEC; k++) {
                h[c][k] = m.rstd * (h[c][k] - sum - z[c][k] * dot);
                if (a.dsum != nullptr) h[c][k] += more[k];
            }
            hn_store_pack(a.dx + i * a.ld_dx + col, hn_pack_of<T>(h[c]));
        }
    }
    if (a.dscale == nullptr) return; /* the same for all */
#pragma unroll
    for (int c = 0; c < kN; c++) {
        store_columns(dscale[c], c, a.cols, a.dscale + e * a.ld_dscale);
        store_columns(dshift[c], c, a.cols, a.dshift + e * a.ld_dshift);
    }
}

/* ---- any row ---- */

/* A thread comes back to the columns that it has written itself. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kWideThreads) wide_fwd_kernel(const Forward<T> a)
{
    constexpr int64_t kStep = kWideThreads * kWidth;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const int64_t e = hn_divide((uint32_t)row, a.group);
        const T *s = a.x + row * a.ld_x;
        float total = 0.0f, sum = 0.0f, square = 0.0f, v[kWidth], b[kWidth];
        if (a.res != nullptr || a.eps > 0.0f)
#pragma unroll 1
            for (int64_t j = threadIdx.x * kWidth; j < a.cols; j += kStep) {
                hn_load_span<kWidth>(s + j, a.cols - j, v);
                if (a.res != nullptr) {
                    hn_load_span<kWidth>(a.res + row * a.ld_res + j, a.cols - j, b);
#pragma unroll
                    for (int k = 0; k < kWidth; k++) v[k] = hn_f32(hn_round<T>(v[k] + b[k]));
                    hn_store_span<kWidth>(a.sum + row * a.ld_sum + j, a.cols - j, v);
                }
#pragma unroll
                for (int k = 0; k < kWidth; k++) total += v[k];
            }
        if (a.res != nullptr) s = a.sum + row * a.ld_sum;
        Moments m = {0.0f, 1.0f};
        if (a.eps > 0.0f) {
            const float near = hn_block_sum<kWideThreads>(total) / a.width;
#pragma unroll 1
            for (int64_t j = threadIdx.x * kWidth; j < a.cols; j += kStep) {
                hn_load_span<kWidth>(s + j, a.cols - j, v);
#pragma unroll
                for (int k = 0; k < kWidth; k++) {
                    const float d = j + k < a.cols ? v[k] - near : 0.0f;
                    sum += d;
                    square += d * d;
                }
            }
            sum = hn_block_sum<kWideThreads>(sum);
            square = hn_block_sum<kWideThreads>(square);
            m = moments_of(near, sum, square, a.width, a.eps);
        }
#pragma unroll 1
        for (int64_t j = threadIdx.x * kWidth; j < a.cols; j += kStep) {
            float g[kWidth];
            hn_load_span<kWidth>(s + j, a.cols - j, v);
            hn_load_span<kWidth>(a.scale + e * a.ld_scale + j, a.cols - j, g);
            hn_load_span<kWidth>(a.shift + e * a.ld_shift + j, a.cols - j, b);
#pragma unroll
            for (int k = 0; k < kWidth; k++) v[k] = (v[k] - m.mean) * m.rstd * (1.0f + g[k]) + b[k];
            hn_store_span<kWidth>(a.y + row * a.ld_y + j, a.cols - j, v);
        }
        if (a.mean != nullptr && threadIdx.x == 0) {
            a.mean[row] = m.mean;
            a.rstd[row] = m.rstd;
        }
    }
}

/* A thread has a column of a group. */
template <class T>
__global__ void __launch_bounds__(kWideThreads)
    wide_columns_kernel(const Backward<T> a, int64_t in_group, int64_t blocks)
{
    for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
        const int64_t e = b / in_group, j = (b - e * in_group) * kWideThreads + threadIdx.x;
        if (j >= a.cols) continue;
        float sum = 0.0f, dot = 0.0f;
        for (int64_t i = e * a.group_rows; i < (e + 1) * a.group_rows; i++) {
            const Moments m = kept(a, i);
            const float dy = hn_f32(a.dy[i * a.ld_dy + j]);
            sum += dy;
            dot += dy * ((hn_f32(a.sum[i * a.ld_sum + j]) - m.mean) * m.rstd);
        }
        a.dscale[e * a.ld_dscale + j] = hn_round<T>(dot);
        a.dshift[e * a.ld_dshift + j] = hn_round<T>(sum);
    }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kWideThreads) wide_dx_kernel(const Backward<T> a)
{
    constexpr int64_t kStep = kWideThreads * kWidth;
    for (int64_t i = blockIdx.x; i < a.rows; i += gridDim.x) {
        const T *const scale = a.scale + (int64_t)hn_divide((uint32_t)i, a.group) * a.ld_scale;
        const Moments m = kept(a, i);
        float sum = 0.0f, dot = 0.0f, h[kWidth], z[kWidth], g[kWidth];
        if (a.mean != nullptr) {
            for (int64_t j = threadIdx.x * kWidth; j < a.cols; j += kStep) {
                hn_load_span<kWidth>(a.dy + i * a.ld_dy + j, a.cols - j, h);
                hn_load_span<kWidth>(a.sum + i * a.ld_sum + j, a.cols - j, z);
                hn_load_span<kWidth>(scale + j, a.cols - j, g);
#pragma unroll
                for (int k = 0; k < kWidth; k++) { /* behind the row dy is 0 */
                    h[k] *= 1.0f + g[k];
                    sum += h[k];
                    dot += h[k] * ((z[k] - m.mean) * m.rstd);
                }
            }
            sum = hn_block_sum<kWideThreads>(sum) / a.width;
            dot = hn_block_sum<kWideThreads>(dot) / a.width;
        }
        for (int64_t j = threadIdx.x * kWidth; j < a.cols; j += kStep) {
            float more[kWidth];
            hn_load_span<kWidth>(a.dy + i * a.ld_dy + j, a.cols - j, h);
            hn_load_span<kWidth>(a.sum + i * a.ld_sum + j, a.cols - j, z);
            hn_load_span<kWidth>(scale + j, a.cols - j, g);
            if (a.dsum != nullptr)
                hn_load_span<kWidth>(a.dsum + i * a.ld_dsum + j, a.cols - j, more);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                h[k] = m.rstd * (h[k] * (1.0f + g[k]) - sum - (z[k] - m.mean) * m.rstd * dot);
                if (a.dsum != nullptr) h[k] += more[k];
            }
            hn_store_span<kWidth>(a.dx + i * a.ld_dx + j, a.cols - j, h);
        }
    }
}

/* ---- launchers ---- */

template <class T>
void launch(const hn_modulate_args *a, cudaStream_t stream)
{
    const Forward<T> f = {(const T *)a->x,
                          (const T *)a->res,
                          (const T *)a->scale,
                          (const T *)a->shift,
                          (T *)a->sum,
                          (T *)a->y,
                          a->mean,
                          a->rstd,
                          a->rows,
                          a->cols,
                          hn_divisor_of(a->rows / a->groups),
                          a->ld_x,
                          a->ld_res,
                          a->ld_scale,
                          a->ld_shift,
                          a->ld_sum,
                          a->ld_y,
                          a->eps,
                          (float)a->cols};
    const bool fits =
        hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->res, a->ld_res, a->dtype) &&
        hn_vectors_fit(a->scale, a->ld_scale, a->dtype) &&
        hn_vectors_fit(a->shift, a->ld_shift, a->dtype) &&
        hn_vectors_fit(a->sum, a->ld_sum, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype);
    const unsigned rows = hn_grid(a->rows, kRowThreads / kWarp, INT32_MAX);
    const unsigned wide = hn_grid(a->rows, 1, kMostBlocks);
    if (fits && a->cols % HN_VEC == 0 && a->cols <= kNarrow) {
        if (a->cols <= kSpan)
            fwd_kernel<T, 1><<<rows, kRowThreads, 0, stream>>>(f);
        else if (a->cols <= 2 * kSpan)
            fwd_kernel<T, 2><<<rows, kRowThreads, 0, stream>>>(f);
        else
            fwd_kernel<T, 4><<<rows, kRowThreads, 0, stream>>>(f);
    } else if (fits) {
        wide_fwd_kernel<T, HN_VEC><<<wide, kWideThreads, 0, stream>>>(f);
    } else {
        wide_fwd_kernel<T, 1><<<wide, kWideThreads, 0, stream>>>(f);
    }
}

template <class T>
void launch_wide(const Backward<T> &b, bool fits, cudaStream_t stream)
{
    const int64_t in_group = (b.cols + kWideThreads - 1) / kWideThreads;
    const unsigned rows = hn_grid(b.rows, 1, kMostBlocks);
    if (b.dscale != nullptr)
        wide_columns_kernel<<<hn_grid(b.groups * in_group, 1, kMostBlocks), kWideThreads, 0,
                              stream>>>(b, in_group, b.groups * in_group);
    if (b.dx == nullptr) return;
    if (fits)
        wide_dx_kernel<T, HN_VEC><<<rows, kWideThreads, 0, stream>>>(b);
    else
        wide_dx_kernel<T, 1><<<rows, kWideThreads, 0, stream>>>(b);
}

template <class T>
void launch(const hn_modulate_bwd_args *a, cudaStream_t stream)
{
    const Backward<T> b = {(const T *)a->sum,
                           (const T *)a->scale,
                           (const T *)a->dy,
                           (const T *)a->dsum,
                           a->mean,
                           a->rstd,
                           (T *)a->dx,
                           (T *)a->dscale,
                           (T *)a->dshift,
                           a->rows,
                           a->cols,
                           a->groups,
                           a->rows / a->groups,
                           hn_divisor_of(a->rows / a->groups),
                           a->ld_sum,
                           a->ld_scale,
                           a->ld_dy,
                           a->ld_dsum,
                           a->ld_dx,
                           a->ld_dscale,
                           a->ld_dshift,
                           (float)a->cols};
    const bool fits = hn_vectors_fit(a->sum, a->ld_sum, a->dtype) &&
                      hn_vectors_fit(a->scale, a->ld_scale, a->dtype) &&
                      hn_vectors_fit(a->dy, a->ld_dy, a->dtype) &&
                      hn_vectors_fit(a->dsum, a->ld_dsum, a->dtype) &&
                      hn_vectors_fit(a->dx, a->ld_dx, a->dtype);
    const unsigned groups = (unsigned)a->groups;
    if (!fits || a->cols % HN_VEC != 0 || a->cols > kNarrow)
        launch_wide(b, fits, stream);
    else if (a->cols <= kSpan)
        bwd_kernel<T, 1><<<groups, kGroupThreads, 0, stream>>>(b);
    else if (a->cols <= 2 * kSpan)
        bwd_kernel<T, 2><<<groups, kGroupThreads, 0, stream>>>(b);
    else
        bwd_kernel<T, 4><<<groups, kGroupThreads, 0, stream>>>(b);
}

} // namespace

hn_status hn_modulate_fwd_cuda(const hn_modulate_args *a, hn_stream stream)
{
    HN_TRY(hn_modulate_check(a));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, stream));
    return HN_CUDA_LAUNCHED("modulate");
}

hn_status hn_modulate_bwd_cuda(const hn_modulate_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_modulate_bwd_check(a));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, stream));
    return HN_CUDA_LAUNCHED("modulate_bwd");
}
