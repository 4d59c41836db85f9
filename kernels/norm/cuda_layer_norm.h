/* cuda_layer_norm.h - operands and arithmetic of a row, for layer_norm_cuda.cu, which has wide and
 * unaligned rows, and layer_norm_narrow_cuda.cu (for those files only). */
#ifndef HN_CUDA_LAYER_NORM_H
#define HN_CUDA_LAYER_NORM_H
#include "kernels/norm/layer_norm.h"
#include "runtime/base/cuda_vec.h"

namespace hn_layer_norm {

constexpr int kThreads = 256;
constexpr int64_t kProcessors = 132; /* of an H200: what runs of rows are cut for */

/* A gain or bias of either dtype; NULL: zeros. */
struct Param {
    const void *data;
    int64_t stride; /* from one replica to the next */
    bool is_bf16;
};

template <int kWidth>
__device__ __forceinline__ void load_param(const Param &p, int64_t at, int64_t n,
                                           float (&v)[kWidth])
{
    if (p.is_bf16)
        hn_load_span<kWidth>((const __nv_bfloat16 *)p.data + at, n, v);
    else
        hn_load_span<kWidth>((const float *)p.data + at, n, v);
}

/* Cut of the rows of one replica: depends on shapes alone. */
struct Runs {
    int64_t rows, length, count; /* of a replica; of a run; of runs in a replica */
};

/* At most `blocks` runs where each replica has one, of `least` rows or more. */
inline Runs runs_of(int64_t rows, int64_t replicas, int64_t blocks, int64_t least)
{
    const int64_t own = rows / replicas, wanted = blocks > replicas ? blocks / replicas : 1;
    const int64_t shared = (own + wanted - 1) / wanted, length = shared > least ? shared : least;
    return {own, length, (own + length - 1) / length};
}

/* The rows of a block that has a run. */
struct Run {
    int64_t begin, end, replica;
};

__device__ __forceinline__ Run run_of(const Runs &runs, uint32_t block)
{
    const int64_t replica = block / (uint32_t)runs.count;
    const int64_t skip = (block - replica * runs.count) * runs.length;
    const int64_t begin = replica * runs.rows + skip, left = runs.rows - skip;
    return {begin, begin + (left < runs.length ? left : runs.length), replica};
}

/* ---- forward ---- */

template <class T>
struct Forward {
    const T *x, *res;
    Param gain, bias;
    T *sum, *y;
    float *mean, *rstd;
    int64_t rows, cols, replicas;
    hn_divisor group; /* rows of a replica */
    int64_t ld_x, ld_res, ld_sum, ld_y;
    float eps, width; /* width: cols */
    bool has_replicas;
};

/* What a row's deviations say: near is its mean but for the rounding of a large sum. */
struct Moments {
    float mean, rstd;
};

__device__ __forceinline__ Moments moments_of(float near, float2 sums, float width, float eps)
{
    const float off = sums.x / width, var = sums.y / width - off * off;
    return {near + off, 1.0f / sqrtf((var < 0.0f ? 0.0f : var) + eps)};
}

template <int kWidth>
__device__ __forceinline__ float add_up(const float (&s)[kWidth])
{
    float sum = 0.0f; /* values past the row are zeros and add nothing */
#pragma unroll
    for (int k = 0; k < kWidth; k++) sum += s[k];
    return sum;
}

/* ---- backward ---- */

template <class T>
struct Backward {
    const T *sum, *dy, *dsum;
    Param gain;
    const float *mean, *rstd;
    T *dx;
    float *dgain, *dbias;
    int64_t rows, cols, replicas;
    hn_divisor group;
    int64_t ld_sum, ld_dy, ld_dsum, ld_dx, dgain_stride, dbias_stride;
    float width;
    bool has_replicas, params; /* params: dgain or dbias is wanted */
};

/* z = (s - mean) rstd */
template <int kWidth>
__device__ __forceinline__ void standardise(float (&s)[kWidth], float mean, float rstd)
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) s[k] = (s[k] - mean) * rstd;
}

/* The thread's part of the sums of h = dy gain and of h z. */
template <int kWidth>
__device__ __forceinline__ float2 add_dots(float2 sums, const float (&dy)[kWidth],
                                           const float (&z)[kWidth], const float (&g)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        const float h = dy[k] * g[k];
        sums.x += h;
        sums.y += h * z[k];
    }
    return sums;
}

/* gain += dy z, bias += dy */
template <int kWidth>
__device__ __forceinline__ void add_params(float (&gain)[kWidth], float (&bias)[kWidth],
                                           const float (&dy)[kWidth], const float (&z)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        gain[k] += dy[k] * z[k];
        bias[k] += dy[k];
    }
}

/* dy becomes dx = rstd (h - sum - z dot) without dsum; means: of h and of h z. */
template <int kWidth>
__device__ __forceinline__ void differentiate(float (&dy)[kWidth], const float (&z)[kWidth],
                                              float rstd, float2 means, const float (&g)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) dy[k] = rstd * (dy[k] * g[k] - means.x - z[k] * means.y);
}

template <int kWidth>
__device__ __forceinline__ void add(float (&a)[kWidth], const float (&b)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) a[k] += b[k];
}

/* ---- rows of up to 1024 columns in whole 16-byte pieces (layer_norm_narrow_cuda.cu) ---- */

constexpr int64_t kNarrow = 1024;

/* Lanes of the team that has such a row, and how many pieces of 8 columns each of them has. */
constexpr int lanes_of(int64_t cols) { return cols <= 192 ? 8 : cols <= 384 ? 16 : 32; }
constexpr int pieces_of(int64_t cols) { return cols <= 768 ? 3 : 4; }

/* Threads of a block, and blocks on a multiprocessor at a time, by the registers of a thread. Sums
 * of gradients want few, large blocks, of which each leaves one sum a column. */
struct Blocks {
    int threads, resident;
};
__host__ __device__ constexpr Blocks fwd_blocks(size_t element, int pieces)
{
    return {128, element == 2 && pieces == 3 ? 3 : 2};
}
__host__ __device__ constexpr Blocks bwd_blocks(size_t element, int pieces, bool params)
{
    return params ? Blocks{256, 1} : Blocks{128, element == 4 ? 7 - pieces : 6 - pieces};
}

inline Runs narrow_runs(int64_t rows, int64_t replicas, int64_t cols, Blocks b)
{
    return runs_of(rows, replicas, b.resident * kProcessors, b.threads / lanes_of(cols));
}

template <class T>
void narrow_fwd(const Forward<T> &f, cudaStream_t s);
/* partial[replica][run][2][col]: dgain, then dbias, of narrow_runs, where they are wanted. */
template <class T>
void narrow_bwd(const Backward<T> &f, float *partial, cudaStream_t s);

} // namespace hn_layer_norm
#endif
