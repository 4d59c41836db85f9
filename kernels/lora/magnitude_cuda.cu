/* A thread keeps its columns, whose factors it needs once, and walks down a run of rows; the sums
 * of the runs are added up in order by a second launch. */
#include "kernels/lora/magnitude.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_runs.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;

/* A block has 64 columns (32 where they are taken one by one) of a run of rows. There are about
 * three blocks a multiprocessor of an H200. */
template <int kWidth>
constexpr int kAcross = kWidth == 1 ? 32 : 8; /* threads side by side */
constexpr int64_t kBlocks = 3 * 132;
constexpr int64_t kLeastRun = kThreads / 8; /* rows: one a thread */
constexpr int kDeep = 2;                    /* rows that a thread has under way */

struct Runs {
    int64_t rows, cols, length, runs;
};

Runs runs_of(int64_t rows, int64_t cols)
{
    const int64_t strips = (cols + 63) / 64, wanted = strips < kBlocks ? kBlocks / strips : 1;
    const int64_t shared = (rows + wanted - 1) / wanted;
    const int64_t length = shared > kLeastRun ? shared : kLeastRun;
    return {rows, cols, length, (rows + length - 1) / length};
}

template <int kWidth>
unsigned blocks_of(const Runs &c)
{
    constexpr int64_t kCols = kAcross<kWidth> * kWidth;
    return (unsigned)((c.cols + kCols - 1) / kCols * c.runs);
}

/* Where a thread stands: its first column, how many are left from there on, its rows. */
struct Place {
    int64_t run, strip, col, left, row, end;
};

template <int kWidth>
__device__ __forceinline__ Place place_of(const Runs &c)
{
    constexpr int kCols = kAcross<kWidth> * kWidth;
    const uint32_t strips = (uint32_t)((c.cols + kCols - 1) / kCols);
    Place p;
    p.run = blockIdx.x / strips;
    p.strip = (int64_t)(blockIdx.x - (uint32_t)p.run * strips) * kCols;
    p.col = p.strip + (int)threadIdx.x % kAcross<kWidth> * kWidth;
    p.left = c.cols - p.col;
    p.row = p.run * c.length + (int)threadIdx.x / kAcross<kWidth>;
    p.end = p.run * c.length + c.length < c.rows ? p.run * c.length + c.length : c.rows;
    return p;
}

template <int kWidth>
__device__ __forceinline__ void factors_of(const float *m, const float *norm, const Place &p,
                                           float (&f)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        const float n = k < p.left ? norm[p.col + k] : 0.0f;
        f[k] = n != 0.0f ? m[p.col + k] / n : 0.0f;
    }
}

/* y may lie on z: a thread reads its values before it writes them. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    fwd_kernel(const T *z, int64_t ld_z, const float *m, const float *norm, const void *bias,
               bool bias_f32, T *y, int64_t ld_y, const Runs c)
{
    constexpr int kStep = kThreads / kAcross<kWidth>;
    const Place p = place_of<kWidth>(c);
    if (p.left <= 0) return;
    float f[kWidth], b[kWidth];
    factors_of<kWidth>(m, norm, p, f);
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        b[k] = 0.0f;
        if (bias == nullptr || k >= p.left) continue;
        b[k] = bias_f32 ? static_cast<const float *>(bias)[p.col + k]
                        : hn_f32(static_cast<const __nv_bfloat16 *>(bias)[p.col + k]);
    }
    for (int64_t i = p.row; i < p.end; i += kDeep * kStep) {
        float v[kDeep][kWidth];
#pragma unroll
        for (int u = 0; u < kDeep; u++)
            if (i + u * kStep < p.end)
                hn_load_span<kWidth>(z + (i + u * kStep) * ld_z + p.col, p.left, v[u]);
#pragma unroll
        for (int u = 0; u < kDeep; u++) {
            if (i + u * kStep >= p.end) continue;
#pragma unroll
            for (int k = 0; k < kWidth; k++) v[u][k] = f[k] * v[u][k] + b[k];
            hn_store_span<kWidth>(y + (i + u * kStep) * ld_y + p.col, p.left, v[u]);
        }
    }
}

/* part[run][col] = sum of dy z over the run's rows; NULL: not wanted. dz may lie on dy or z. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    bwd_kernel(const T *dy, int64_t ld_dy, const T *z, int64_t ld_z, const float *m,
               const float *norm, T *dz, int64_t ld_dz, float *part, const Runs c)
{
    constexpr int kBeside = kAcross<kWidth>, kStep = kThreads / kBeside, kWarps = kThreads / 32;
    constexpr int kCols = kBeside * kWidth, kKept = kWidth * kBeside / 32;
    __shared__ float of_warp[kWarps][kCols];
    const Place p = place_of<kWidth>(c);
    float f[kWidth], sum[kWidth] = {};
    factors_of<kWidth>(m, norm, p, f);
    for (int64_t i = p.row; i < p.end && p.left > 0; i += kDeep * kStep) {
        float u[kDeep][kWidth] = {}, v[kDeep][kWidth] = {}; /* rows past the end add zeros */
#pragma unroll
        for (int d = 0; d < kDeep; d++) {
            if (i + d * kStep >= p.end) continue;
            hn_load_span<kWidth>(dy + (i + d * kStep) * ld_dy + p.col, p.left, u[d]);
            if (part != nullptr)
                hn_load_span<kWidth>(z + (i + d * kStep) * ld_z + p.col, p.left, v[d]);
        }
#pragma unroll
        for (int d = 0; d < kDeep; d++) {
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                sum[k] += u[d][k] * v[d][k];
                u[d][k] *= f[k];
            }
            if (i + d * kStep < p.end)
                hn_store_span<kWidth>(dz + (i + d * kStep) * ld_dz + p.col, p.left, u[d]);
        }
    }
    if (part == nullptr) return; /* the same for all */
    hn_fold<kBeside, kWidth>(sum);
    const int x = (int)threadIdx.x % kBeside * kWidth;
#pragma unroll
    for (int k = 0; k < kKept; k++)
        of_warp[threadIdx.x / 32][x + hn_folded<kBeside, kWidth>() + k] = sum[k];
    __syncthreads();
    const int col = (int)threadIdx.x;
    if (col >= kCols || p.strip + col >= c.cols) return;
    float all = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) all += of_warp[w][col];
    part[p.run * c.cols + p.strip + col] = all;
}

/* dm[col] += the sum of the runs, in order, over norm[col]. */
__global__ void __launch_bounds__(HN_RUN_THREADS)
    add_runs_kernel(const float *part, const Runs c, const float *norm, float *dm)
{
    const int64_t col = (int64_t)blockIdx.x * HN_RUN_COLS + threadIdx.x % HN_RUN_COLS;
    const float n = col < c.cols ? norm[col] : 0.0f;
    const bool writes = threadIdx.x < HN_RUN_COLS && n != 0.0f;
    const float before = writes ? dm[col] : 0.0f; /* on its way with the runs */
    const float sum = hn_add_runs(part + col, c.cols, c.runs, n != 0.0f);
    if (writes) dm[col] = before + sum / n;
}

template <class T, int kWidth>
void launch_fwd(const hn_magnitude_args *a, cudaStream_t stream)
{
    const Runs c = runs_of(a->rows, a->cols);
    fwd_kernel<T, kWidth><<<blocks_of<kWidth>(c), kThreads, 0, stream>>>(
        static_cast<const T *>(a->z), a->ld_z, a->m, a->norm, a->bias, a->bias_dtype == HN_F32,
        static_cast<T *>(a->y), a->ld_y, c);
}

template <class T>
void launch_fwd(const hn_magnitude_args *a, cudaStream_t stream)
{
    if (hn_vectors_fit(a->z, a->ld_z, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype))
        launch_fwd<T, HN_VEC>(a, stream);
    else
        launch_fwd<T, 1>(a, stream);
}

template <class T, int kWidth>
void launch_bwd(const hn_magnitude_bwd_args *a, float *part, const Runs &c, cudaStream_t stream)
{
    bwd_kernel<T, kWidth><<<blocks_of<kWidth>(c), kThreads, 0, stream>>>(
        static_cast<const T *>(a->dy), a->ld_dy, static_cast<const T *>(a->z), a->ld_z, a->m,
        a->norm, static_cast<T *>(a->dz), a->ld_dz, part, c);
}

template <class T>
void launch_bwd(const hn_magnitude_bwd_args *a, float *part, const Runs &c, cudaStream_t stream)
{
    if (hn_vectors_fit(a->dy, a->ld_dy, a->dtype) && hn_vectors_fit(a->z, a->ld_z, a->dtype) &&
        hn_vectors_fit(a->dz, a->ld_dz, a->dtype))
        launch_bwd<T, HN_VEC>(a, part, c, stream);
    else
        launch_bwd<T, 1>(a, part, c, stream);
}

} // namespace

hn_status hn_magnitude_fwd_cuda(const hn_magnitude_args *a, hn_stream stream)
{
    HN_TRY(hn_magnitude_check(a));
    HN_CUDA_REAL(a->dtype, T, launch_fwd<T>(a, stream));
    return HN_CUDA_LAUNCHED("magnitude");
}

size_t hn_magnitude_bwd_cuda_scratch(const hn_magnitude_bwd_args *a)
{
    const Runs c = runs_of(a->rows, a->cols);
    return (size_t)(c.runs * c.cols) * sizeof(float);
}

hn_status hn_magnitude_bwd_cuda(const hn_magnitude_bwd_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_magnitude_bwd_check(a));
    if (a->dm != nullptr) HN_TRY(hn_check_pointer("magnitude_bwd", "scratch", scratch));
    const Runs c = runs_of(a->rows, a->cols);
    float *const part = a->dm != nullptr ? static_cast<float *>(scratch) : nullptr;
    HN_CUDA_REAL(a->dtype, T, launch_bwd<T>(a, part, c, stream));
    if (part == nullptr) return HN_CUDA_LAUNCHED("magnitude_bwd");
    const int64_t blocks = (c.cols + HN_RUN_COLS - 1) / HN_RUN_COLS;
    add_runs_kernel<<<(unsigned)blocks, HN_RUN_THREADS, 0, stream>>>(part, c, a->norm, a->dm);
    return HN_CUDA_LAUNCHED("magnitude_bwd");
}
