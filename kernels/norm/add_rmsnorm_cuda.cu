/* A team has a vector: a warp where it is short, else a block. Forward keeps up to 8192 columns in
 * registers; a longer or unaligned vector, and backward, read again for the second pass. dgain:
 * blocks gather partial sums over runs of vectors, then a second kernel adds them in order. */
#include "kernels/norm/add_rmsnorm.h"

#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int64_t kShort = 32 * 8;       /* columns that a warp takes in one access */
constexpr int64_t kMaxBlocks = 1 << 20;  /* then a team takes several vectors */
constexpr int64_t kChunk = kThreads * 8; /* columns a block takes in one access: 2048 */
constexpr int64_t kMaxChunks = 4;        /* 8192 columns in registers: 32 values a thread */

/* Cut of the vectors of a replica into runs that sum dgain by themselves. */
constexpr int64_t kRunMin = 32;      /* vectors in a run, if there are so many */
constexpr int64_t kBlockGoal = 1024; /* enough blocks to fill a GPU */
constexpr int64_t kMinRunLimit = 32; /* but so many runs, however wide the vectors are */

/* Vectors of a matrix [rows, heads * cols] whose rows belong to groups. */
struct Layout {
    int64_t vectors, heads, cols, group; /* group: rows a replica */
};

/* Where a vector lies: its row, its first column, its replica. */
struct Place {
    int64_t row, col, replica;
};

__device__ __forceinline__ Place place_of(const Layout &l, int64_t vector)
{
    const int64_t row = vector / l.heads;
    return {row, (vector - row * l.heads) * l.cols, row / l.group};
}

template <int kTeam>
__device__ __forceinline__ float team_sum(float v)
{
    if constexpr (kTeam == kWarp) return hn_warp_sum(v);
    return hn_block_sum<kThreads>(v);
}

template <int kTeam>
__device__ __forceinline__ int64_t first_vector()
{
    return (int64_t)blockIdx.x * (kThreads / kTeam) + threadIdx.x / kTeam;
}

template <class T>
struct Forward {
    const T *x, *res;
    const void *gain;
    T *sum, *y;
    float *rstd;
    int64_t ld_x, ld_res, ld_sum, ld_y, gain_stride;
    float eps, gain_offset;
    Layout l;
};

/* The sum of x and res as it is stored; without res it is x. */
template <int kWidth, class T>
__device__ __forceinline__ void add_span(const Forward<T> &a, const Place &p, int64_t col,
                                         float (&s)[kWidth])
{
    const int64_t n = a.l.cols - col, at = p.col + col;
    hn_load_span<kWidth>(a.x + p.row * a.ld_x + at, n, s);
    if (a.res == nullptr) return;
    float r[kWidth];
    hn_load_span<kWidth>(a.res + p.row * a.ld_res + at, n, r);
#pragma unroll
    for (int k = 0; k < kWidth; k++) s[k] = hn_f32(hn_round<T>(s[k] + r[k]));
    hn_store_span<kWidth>(a.sum + p.row * a.ld_sum + at, n, s);
}

template <class T, class G, int kWidth>
__device__ __forceinline__ void scale_span(const Forward<T> &a, const Place &p, int64_t col,
                                           float rstd, float (&s)[kWidth])
{
    const int64_t n = a.l.cols - col;
    float g[kWidth];
    hn_load_span<kWidth>((const G *)a.gain + p.replica * a.gain_stride + col, n, g);
#pragma unroll
    for (int k = 0; k < kWidth; k++) s[k] = s[k] * rstd * (a.gain_offset + g[k]);
    hn_store_span<kWidth>(a.y + p.row * a.ld_y + p.col + col, n, s);
}

template <int kWidth>
__device__ __forceinline__ float square(const float (&s)[kWidth])
{
    float sum = 0.0f; /* values past the vector are zeros and add nothing */
#pragma unroll
    for (int k = 0; k < kWidth; k++) sum += s[k] * s[k];
    return sum;
}

/* Up to kTeam * 8 * kChunks columns: read once. Each value is read and then written by one thread:
 * sum may lie on x or res. */
template <class T, class G, int kTeam, int kChunks>
__global__ void __launch_bounds__(kThreads) fwd_register_kernel(const Forward<T> a)
{
    const int lane = (int)threadIdx.x % kTeam;
    const int64_t step = (int64_t)gridDim.x * (kThreads / kTeam);
    for (int64_t i = first_vector<kTeam>(); i < a.l.vectors; i += step) {
        const Place p = place_of(a.l, i);
        float s[kChunks][HN_VEC] = {}, v = 0.0f;
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (int64_t)(c * kTeam + lane) * HN_VEC;
            if (col < a.l.cols) add_span(a, p, col, s[c]);
            v += square(s[c]);
        }
        const float rstd = 1.0f / sqrtf(team_sum<kTeam>(v) / (float)a.l.cols + a.eps);
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (int64_t)(c * kTeam + lane) * HN_VEC;
            if (col < a.l.cols) scale_span<T, G>(a, p, col, rstd, s[c]);
        }
        if (lane == 0 && a.rstd != nullptr) a.rstd[i] = rstd;
    }
}

/* Any width: the second pass reads the sum (or x) again, each thread what it read or wrote in the
 * first. */
template <class T, class G, int kTeam, int kWidth>
__global__ void __launch_bounds__(kThreads) fwd_stream_kernel(const Forward<T> a)
{
    const int lane = (int)threadIdx.x % kTeam;
    const int64_t step = (int64_t)gridDim.x * (kThreads / kTeam);
    const T *const again = a.res ? a.sum : a.x;
    const int64_t ld_again = a.res ? a.ld_sum : a.ld_x;
    for (int64_t i = first_vector<kTeam>(); i < a.l.vectors; i += step) {
        const Place p = place_of(a.l, i);
        float s[kWidth], v = 0.0f;
        for (int64_t col = lane * kWidth; col < a.l.cols; col += kTeam * kWidth) {
            add_span(a, p, col, s);
            v += square(s);
        }
        const float rstd = 1.0f / sqrtf(team_sum<kTeam>(v) / (float)a.l.cols + a.eps);
        for (int64_t col = lane * kWidth; col < a.l.cols; col += kTeam * kWidth) {
            hn_load_span<kWidth>(again + p.row * ld_again + p.col + col, a.l.cols - col, s);
            scale_span<T, G>(a, p, col, rstd, s);
        }
        if (lane == 0 && a.rstd != nullptr) a.rstd[i] = rstd;
    }
}

template <class T>
struct Backward {
    const T *sum, *dy, *dsum;
    const void *gain;
    const float *rstd;
    T *dx, *y;
    float *dgain;
    int64_t ld_sum, ld_dy, ld_dsum, ld_dx, ld_y, gain_stride, dgain_stride;
    float gain_offset;
    Layout l;
};

/* dx = rstd h - c sum (+ dsum) with h = dy gain and c = rstd^3 mean(h sum). Each thread reads
 * again in the second pass what it read in the first, and writes behind it: dx may lie on dy or
 * dsum. */
template <class T, class G, int kTeam, int kWidth>
__global__ void __launch_bounds__(kThreads) dx_kernel(const Backward<T> a)
{
    const int lane = (int)threadIdx.x % kTeam;
    const int64_t step = (int64_t)gridDim.x * (kThreads / kTeam);
    for (int64_t i = first_vector<kTeam>(); i < a.l.vectors; i += step) {
        const Place p = place_of(a.l, i);
        const T *const dy = a.dy + p.row * a.ld_dy + p.col;
        const T *const sum = a.sum + p.row * a.ld_sum + p.col;
        const G *const gain = (const G *)a.gain + p.replica * a.gain_stride;
        float h[kWidth], s[kWidth], g[kWidth], y[kWidth], dot = 0.0f;
        for (int64_t col = lane * kWidth; col < a.l.cols; col += kTeam * kWidth) {
            const int64_t n = a.l.cols - col;
            hn_load_span<kWidth>(dy + col, n, h);
            hn_load_span<kWidth>(sum + col, n, s);
            hn_load_span<kWidth>(gain + col, n, g);
#pragma unroll
            for (int k = 0; k < kWidth; k++) dot += h[k] * (a.gain_offset + g[k]) * s[k];
        }
        const float rstd = a.rstd[i];
        const float c = rstd * rstd * rstd * team_sum<kTeam>(dot) / (float)a.l.cols;
        for (int64_t col = lane * kWidth; col < a.l.cols; col += kTeam * kWidth) {
            const int64_t n = a.l.cols - col;
            hn_load_span<kWidth>(dy + col, n, h);
            hn_load_span<kWidth>(sum + col, n, s);
            hn_load_span<kWidth>(gain + col, n, g);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                y[k] = s[k] * rstd * (a.gain_offset + g[k]);
                h[k] = rstd * (h[k] * (a.gain_offset + g[k])) - c * s[k];
            }
            if (a.dsum != nullptr) {
                hn_load_span<kWidth>(a.dsum + p.row * a.ld_dsum + p.col + col, n, s);
#pragma unroll
                for (int k = 0; k < kWidth; k++) h[k] += s[k];
            }
            hn_store_span<kWidth>(a.dx + p.row * a.ld_dx + p.col + col, n, h);
            if (a.y != nullptr) hn_store_span<kWidth>(a.y + p.row * a.ld_y + p.col + col, n, y);
        }
    }
}

/* Cut of the vectors of one replica for dgain: depends on shapes alone. */
struct Runs {
    int64_t vectors, length, count, pieces; /* a replica; a run; a replica; of kThreads columns */
};

Runs runs_of(int64_t vectors, int64_t cols)
{
    const int64_t pieces = (cols + kThreads - 1) / kThreads;
    const int64_t most = kBlockGoal / pieces > kMinRunLimit ? kBlockGoal / pieces : kMinRunLimit;
    const int64_t shared = (vectors + most - 1) / most;
    const int64_t length = shared > kRunMin ? shared : kRunMin;
    return {vectors, length, (vectors + length - 1) / length, pieces};
}

Runs runs_of(const hn_add_rmsnorm_bwd_args *a)
{
    const int64_t heads = a->heads > 1 ? a->heads : 1;
    return runs_of(a->rows / hn_replica_count(a->replicas) * heads, a->cols);
}

/* partial[replica][run][col] = sum over the vectors of the run: a thread a column. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    dgain_partial_kernel(const Backward<T> a, const Runs runs, int64_t replicas, float *partial)
{
    for (int64_t b = blockIdx.x; b < replicas * runs.count * runs.pieces; b += gridDim.x) {
        const int64_t run = b / runs.pieces, replica = run / runs.count;
        const int64_t col = (b - run * runs.pieces) * kThreads + threadIdx.x;
        if (col >= a.l.cols) continue;
        const int64_t base = replica * runs.vectors, in_replica = run % runs.count * runs.length;
        const int64_t end = in_replica + runs.length;
        const int64_t last = base + (end < runs.vectors ? end : runs.vectors);
        float sum = 0.0f;
#pragma unroll 4
        for (int64_t i = base + in_replica; i < last; i++) {
            const int64_t row = i / a.l.heads, at = (i - row * a.l.heads) * a.l.cols + col;
            sum +=
                hn_f32(a.dy[row * a.ld_dy + at]) * hn_f32(a.sum[row * a.ld_sum + at]) * a.rstd[i];
        }
        partial[run * a.l.cols + col] = sum;
    }
}

__global__ void __launch_bounds__(kThreads)
    dgain_sum_kernel(const float *partial, float *dgain, int64_t cols, int64_t dgain_stride,
                     int64_t runs, int64_t replicas)
{
    const int64_t step = (int64_t)gridDim.x * kThreads;
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < replicas * cols; i += step) {
        const int64_t replica = i / cols, col = i - replica * cols;
        const float *const from = partial + replica * runs * cols + col;
        float sum = 0.0f;
#pragma unroll 4
        for (int64_t r = 0; r < runs; r++) sum += from[r * cols];
        dgain[replica * dgain_stride + col] += sum;
    }
}

template <int kTeam>
unsigned blocks(int64_t vectors)
{
    return hn_grid(vectors, kThreads / kTeam, kMaxBlocks);
}

template <class T, class G>
void launch_fwd(const Forward<T> &f, bool wide, cudaStream_t stream)
{
    const int64_t n = f.l.vectors, cols = f.l.cols;
    if (!wide && cols <= kShort)
        fwd_stream_kernel<T, G, kWarp, 1><<<blocks<kWarp>(n), kThreads, 0, stream>>>(f);
    else if (!wide)
        fwd_stream_kernel<T, G, kThreads, 1><<<blocks<kThreads>(n), kThreads, 0, stream>>>(f);
    else if (cols <= kShort)
        fwd_register_kernel<T, G, kWarp, 1><<<blocks<kWarp>(n), kThreads, 0, stream>>>(f);
    else if (cols <= kChunk)
        fwd_register_kernel<T, G, kThreads, 1><<<blocks<kThreads>(n), kThreads, 0, stream>>>(f);
    else if (cols <= 2 * kChunk)
        fwd_register_kernel<T, G, kThreads, 2><<<blocks<kThreads>(n), kThreads, 0, stream>>>(f);
    else if (cols <= kMaxChunks * kChunk)
        fwd_register_kernel<T, G, kThreads, kMaxChunks>
            <<<blocks<kThreads>(n), kThreads, 0, stream>>>(f);
    else
        fwd_stream_kernel<T, G, kThreads, HN_VEC><<<blocks<kThreads>(n), kThreads, 0, stream>>>(f);
}

template <class T, class G>
void launch_dx(const Backward<T> &f, bool wide, cudaStream_t stream)
{
    const int64_t n = f.l.vectors;
    if (!wide && f.l.cols <= kShort)
        dx_kernel<T, G, kWarp, 1><<<blocks<kWarp>(n), kThreads, 0, stream>>>(f);
    else if (!wide)
        dx_kernel<T, G, kThreads, 1><<<blocks<kThreads>(n), kThreads, 0, stream>>>(f);
    else if (f.l.cols <= kShort)
        dx_kernel<T, G, kWarp, HN_VEC><<<blocks<kWarp>(n), kThreads, 0, stream>>>(f);
    else
        dx_kernel<T, G, kThreads, HN_VEC><<<blocks<kThreads>(n), kThreads, 0, stream>>>(f);
}

/* dgain before dx: dx may lie on dy. */
template <class T, class G>
void launch_bwd(const Backward<T> &f, const Runs &runs, int64_t replicas, float *partial, bool wide,
                cudaStream_t stream)
{
    if (f.dgain != nullptr) {
        const unsigned grid = hn_grid(replicas * runs.count * runs.pieces, 1, kMaxBlocks);
        dgain_partial_kernel<<<grid, kThreads, 0, stream>>>(f, runs, replicas, partial);
        dgain_sum_kernel<<<hn_grid(replicas * f.l.cols, kThreads, kMaxBlocks), kThreads, 0,
                           stream>>>(partial, f.dgain, f.l.cols, f.dgain_stride, runs.count,
                                     replicas);
    }
    if (f.dx != nullptr) launch_dx<T, G>(f, wide, stream);
}

Layout layout_of(int64_t rows, int64_t heads, int64_t cols, int64_t replicas)
{
    const int64_t h = heads > 1 ? heads : 1;
    return {rows * h, h, cols, rows / hn_replica_count(replicas)};
}

/* Whether every vector begins on 16 bytes within its row. */
bool vectors_fit_in_row(const Layout &l, hn_dtype t)
{
    return l.heads == 1 || l.cols * (int64_t)hn_dtype_size(t) % 16 == 0;
}

template <class T>
Forward<T> forward_of(const hn_add_rmsnorm_args *a)
{
    return {(const T *)a->x, (const T *)a->res,
            a->gain,         (T *)a->sum,
            (T *)a->y,       a->rstd,
            a->ld_x,         a->ld_res,
            a->ld_sum,       a->ld_y,
            a->gain_stride,  a->eps,
            a->gain_offset,  layout_of(a->rows, a->heads, a->cols, a->replicas)};
}

template <class T>
Backward<T> backward_of(const hn_add_rmsnorm_bwd_args *a)
{
    return {(const T *)a->sum,
            (const T *)a->dy,
            (const T *)a->dsum,
            a->gain,
            a->rstd,
            (T *)a->dx,
            (T *)a->y,
            a->dgain,
            a->ld_sum,
            a->ld_dy,
            a->ld_dsum,
            a->ld_dx,
            a->ld_y,
            a->gain_stride,
            a->dgain_stride,
            a->gain_offset,
            layout_of(a->rows, a->heads, a->cols, a->replicas)};
}

} // namespace

hn_status hn_add_rmsnorm_fwd_cuda(const hn_add_rmsnorm_args *a, hn_stream stream)
{
    HN_TRY(hn_add_rmsnorm_check(a));
    const hn_dtype t = a->dtype;
    const bool wide = hn_vectors_fit(a->x, a->ld_x, t) && hn_vectors_fit(a->res, a->ld_res, t) &&
                      hn_vectors_fit(a->sum, a->ld_sum, t) && hn_vectors_fit(a->y, a->ld_y, t) &&
                      hn_vectors_fit(a->gain, a->gain_stride, a->gain_dtype) &&
                      vectors_fit_in_row(layout_of(a->rows, a->heads, a->cols, a->replicas), t);
    HN_CUDA_REAL(t, T,
                 HN_CUDA_REAL(a->gain_dtype, G, launch_fwd<T, G>(forward_of<T>(a), wide, stream)));
    return HN_CUDA_LAUNCHED("add_rmsnorm");
}

size_t hn_add_rmsnorm_bwd_cuda_scratch(const hn_add_rmsnorm_bwd_args *a)
{
    return (size_t)(hn_replica_count(a->replicas) * runs_of(a).count * a->cols) * sizeof(float);
}

hn_status hn_add_rmsnorm_bwd_cuda(const hn_add_rmsnorm_bwd_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_add_rmsnorm_bwd_check(a));
    if (a->dgain) HN_TRY(hn_check_pointer("add_rmsnorm_bwd", "scratch", scratch));
    const hn_dtype t = a->dtype;
    const bool wide = hn_vectors_fit(a->sum, a->ld_sum, t) && hn_vectors_fit(a->dy, a->ld_dy, t) &&
                      hn_vectors_fit(a->dsum, a->ld_dsum, t) &&
                      hn_vectors_fit(a->dx, a->ld_dx, t) && hn_vectors_fit(a->y, a->ld_y, t) &&
                      hn_vectors_fit(a->gain, a->gain_stride, a->gain_dtype) &&
                      vectors_fit_in_row(layout_of(a->rows, a->heads, a->cols, a->replicas), t);
    const Runs runs = runs_of(a);
    const int64_t replicas = hn_replica_count(a->replicas);
    HN_CUDA_REAL(t, T,
                 HN_CUDA_REAL(a->gain_dtype, G,
                              launch_bwd<T, G>(backward_of<T>(a), runs, replicas, (float *)scratch,
                                               wide, stream)));
    return HN_CUDA_LAUNCHED("add_rmsnorm_bwd");
}
