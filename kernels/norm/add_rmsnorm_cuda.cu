/* A team has a vector: 8, 16 or 32 threads where it is short, else a block. Up to 8192 columns are
 * read once and stay in registers, in both passes; all loads of a thread go out before the sum over
 * the team. A longer vector, or one that is not made of 16-byte pieces, is read again for the
 * second pass. dgain: threads gather partial sums over runs of vectors, then a second kernel adds
 * them in order. */
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
constexpr int kRunThreads = 64;      /* small blocks: the runs are few */
constexpr int kBatch = 32;           /* partial sums a thread has under way */

/* Vectors of a matrix [rows, heads * cols] whose rows belong to groups. */
struct Layout {
    int64_t vectors, heads, cols, group; /* group: rows a replica */
    float width;                         /* cols */
    bool plain;                          /* one head, one replica */
};

/* Where a vector lies: its row, its first column, its replica. */
struct Place {
    int64_t row, col, replica;
};

/* Divisions only where there is something to divide: they take as long as the rest. */
__device__ __forceinline__ Place place_of(const Layout &l, int64_t vector)
{
    if (l.plain) return {vector, 0, 0};
    const int64_t row = vector / l.heads;
    return {row, (vector - row * l.heads) * l.cols, row / l.group};
}

/* Sum over a team that is whole warps, or a part of one in which all 32 threads call. */
template <int kTeam>
__device__ __forceinline__ float team_sum(float v)
{
    if constexpr (kTeam > kWarp) {
        return hn_block_sum<kTeam>(v);
    } else {
#pragma unroll
        for (int d = kTeam / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
        return v;
    }
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

template <int kWidth>
__device__ __forceinline__ void add(float (&a)[kWidth], const float (&b)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) a[k] += b[k];
}

/* s = s rstd (offset + g): y, here and in backward with the same bits. */
template <int kWidth>
__device__ __forceinline__ void scale(float (&s)[kWidth], float rstd, float offset,
                                      const float (&g)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) s[k] = s[k] * rstd * (offset + g[k]);
}

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

template <int kWidth>
__device__ __forceinline__ float square(const float (&s)[kWidth])
{
    float sum = 0.0f; /* values past the vector are zeros and add nothing */
#pragma unroll
    for (int k = 0; k < kWidth; k++) sum += s[k] * s[k];
    return sum;
}

/* Vectors of whole 16-byte pieces, up to kTeam * 8 * kChunks columns: read once. Each value is read
 * and then written by one thread: sum may lie on x or res. */
template <class T, class G, int kTeam, int kChunks>
__global__ void __launch_bounds__(kThreads) fwd_register_kernel(const Forward<T> a)
{
    constexpr int kTeams = kThreads / kTeam;
    const int lane = (int)threadIdx.x % kTeam;
    const int64_t step = (int64_t)gridDim.x * kTeams;
    for (int64_t first = (int64_t)blockIdx.x * kTeams; first < a.l.vectors; first += step) {
        const int64_t i = first + threadIdx.x / kTeam; /* past the end: sums with zeros, no more */
        const Place p = place_of(a.l, i);
        const T *const x = a.x + p.row * a.ld_x + p.col;
        const T *const res = a.res + p.row * a.ld_res + p.col;
        const G *const gain = (const G *)a.gain + p.replica * a.gain_stride;
        hn_pack<T> sum[kChunks] = {}, other[kChunks] = {};
        hn_pack<G> factor[kChunks] = {};
        float s[HN_VEC], r[HN_VEC], g[HN_VEC], v = 0.0f;
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (c * kTeam + lane) * HN_VEC;
            if (i >= a.l.vectors || col >= a.l.cols) continue;
            sum[c] = hn_load_pack(x + col);
            if (a.res != nullptr) other[c] = hn_load_pack(res + col);
            factor[c] = hn_load_pack(gain + col);
        }
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (c * kTeam + lane) * HN_VEC;
            hn_unpack(sum[c], s);
            if (a.res != nullptr) {
                hn_unpack(other[c], r);
                add(s, r);
                sum[c] = hn_pack_of<T>(s);
                hn_unpack(sum[c], s); /* rounded */
                if (i < a.l.vectors && col < a.l.cols)
                    hn_store_pack(a.sum + p.row * a.ld_sum + p.col + col, sum[c]);
            }
            v += square(s);
            hn_forget_unpacked(sum[c]);
        }
        const float rstd = 1.0f / sqrtf(team_sum<kTeam>(v) / a.l.width + a.eps);
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (c * kTeam + lane) * HN_VEC;
            if (i >= a.l.vectors || col >= a.l.cols) continue;
            hn_unpack(sum[c], s);
            hn_unpack(factor[c], g);
            scale(s, rstd, a.gain_offset, g);
            hn_store_pack(a.y + p.row * a.ld_y + p.col + col, hn_pack_of<T>(s));
        }
        if (lane == 0 && a.rstd != nullptr && i < a.l.vectors) a.rstd[i] = rstd;
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
        const float rstd = 1.0f / sqrtf(team_sum<kTeam>(v) / a.l.width + a.eps);
        for (int64_t col = lane * kWidth; col < a.l.cols; col += kTeam * kWidth) {
            const int64_t n = a.l.cols - col;
            float g[kWidth];
            hn_load_span<kWidth>(again + p.row * ld_again + p.col + col, n, s);
            hn_load_span<kWidth>((const G *)a.gain + p.replica * a.gain_stride + col, n, g);
            scale(s, rstd, a.gain_offset, g);
            hn_store_span<kWidth>(a.y + p.row * a.ld_y + p.col + col, n, s);
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

/* The thread's part of sum_j h sum, h = dy gain. */
template <int kWidth>
__device__ __forceinline__ float add_dot(float dot, const float (&dy)[kWidth],
                                         const float (&s)[kWidth], float offset,
                                         const float (&g)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) dot += dy[k] * (offset + g[k]) * s[k];
    return dot;
}

/* dy becomes dx = rstd h - c sum without dsum, with c = rstd^3 mean(h sum). */
template <int kWidth>
__device__ __forceinline__ void differentiate(float (&dy)[kWidth], const float (&s)[kWidth],
                                              float rstd, float c, float offset,
                                              const float (&g)[kWidth])
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) dy[k] = rstd * (dy[k] * (offset + g[k])) - c * s[k];
}

/* Vectors of whole 16-byte pieces, up to kTeam * 8 * kChunks columns: read once. Each value is read
 * and then written by one thread: dx and y may lie on dy, dsum or sum. */
template <class T, class G, int kTeam, int kChunks>
__global__ void __launch_bounds__(kThreads) dx_register_kernel(const Backward<T> a)
{
    constexpr int kTeams = kThreads / kTeam;
    const int lane = (int)threadIdx.x % kTeam;
    const int64_t step = (int64_t)gridDim.x * kTeams;
    for (int64_t first = (int64_t)blockIdx.x * kTeams; first < a.l.vectors; first += step) {
        const int64_t i = first + threadIdx.x / kTeam; /* past the end: sums with zeros, no more */
        const Place p = place_of(a.l, i);
        const T *const dy = a.dy + p.row * a.ld_dy + p.col;
        const T *const sum = a.sum + p.row * a.ld_sum + p.col;
        const T *const dsum = a.dsum + p.row * a.ld_dsum + p.col;
        const G *const gain = (const G *)a.gain + p.replica * a.gain_stride;
        const float rstd = i < a.l.vectors ? a.rstd[i] : 0.0f;
        hn_pack<T> from[kChunks] = {}, kept[kChunks] = {}, more[kChunks] = {}; /* dy, sum, dsum */
        hn_pack<G> factor[kChunks] = {};
        float h[HN_VEC], s[HN_VEC], g[HN_VEC], dot = 0.0f;
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (c * kTeam + lane) * HN_VEC;
            if (i >= a.l.vectors || col >= a.l.cols) continue;
            from[c] = hn_load_pack(dy + col);
            kept[c] = hn_load_pack(sum + col);
            if (a.dsum != nullptr) more[c] = hn_load_pack(dsum + col);
            factor[c] = hn_load_pack(gain + col);
        }
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            hn_unpack(from[c], h);
            hn_unpack(kept[c], s);
            hn_unpack(factor[c], g);
            dot = add_dot(dot, h, s, a.gain_offset, g);
            hn_forget_unpacked(from[c]);
            hn_forget_unpacked(kept[c]);
            hn_forget_unpacked(factor[c]);
        }
        const float mean = rstd * rstd * rstd * team_sum<kTeam>(dot) / a.l.width;
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (c * kTeam + lane) * HN_VEC;
            if (i >= a.l.vectors || col >= a.l.cols) continue;
            hn_unpack(from[c], h);
            hn_unpack(kept[c], s);
            hn_unpack(factor[c], g);
            differentiate(h, s, rstd, mean, a.gain_offset, g);
            scale(s, rstd, a.gain_offset, g);
            hn_unpack(more[c], g);
            if (a.dsum != nullptr) add(h, g);
            hn_store_pack(a.dx + p.row * a.ld_dx + p.col + col, hn_pack_of<T>(h));
            if (a.y != nullptr) hn_store_pack(a.y + p.row * a.ld_y + p.col + col, hn_pack_of<T>(s));
        }
    }
}

/* Any width: each thread reads again in the second pass what it read in the first, and writes
 * behind it. */
template <class T, class G, int kTeam, int kWidth>
__global__ void __launch_bounds__(kThreads) dx_stream_kernel(const Backward<T> a)
{
    const int lane = (int)threadIdx.x % kTeam;
    const int64_t step = (int64_t)gridDim.x * (kThreads / kTeam);
    for (int64_t i = first_vector<kTeam>(); i < a.l.vectors; i += step) {
        const Place p = place_of(a.l, i);
        const T *const dy = a.dy + p.row * a.ld_dy + p.col;
        const T *const sum = a.sum + p.row * a.ld_sum + p.col;
        const G *const gain = (const G *)a.gain + p.replica * a.gain_stride;
        float h[kWidth], s[kWidth], g[kWidth], dot = 0.0f;
        for (int64_t col = lane * kWidth; col < a.l.cols; col += kTeam * kWidth) {
            const int64_t n = a.l.cols - col;
            hn_load_span<kWidth>(dy + col, n, h);
            hn_load_span<kWidth>(sum + col, n, s);
            hn_load_span<kWidth>(gain + col, n, g);
            dot = add_dot(dot, h, s, a.gain_offset, g);
        }
        const float rstd = a.rstd[i];
        const float c = rstd * rstd * rstd * team_sum<kTeam>(dot) / a.l.width;
        for (int64_t col = lane * kWidth; col < a.l.cols; col += kTeam * kWidth) {
            const int64_t n = a.l.cols - col;
            hn_load_span<kWidth>(dy + col, n, h);
            hn_load_span<kWidth>(sum + col, n, s);
            hn_load_span<kWidth>(gain + col, n, g);
            differentiate(h, s, rstd, c, a.gain_offset, g);
            scale(s, rstd, a.gain_offset, g);
            if (a.dsum != nullptr) {
                hn_load_span<kWidth>(a.dsum + p.row * a.ld_dsum + p.col + col, n, g);
                add(h, g);
            }
            hn_store_span<kWidth>(a.dx + p.row * a.ld_dx + p.col + col, n, h);
            if (a.y != nullptr) hn_store_span<kWidth>(a.y + p.row * a.ld_y + p.col + col, n, s);
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

/* partial[replica][run][col] = sum over the vectors of the run: a thread has kWidth columns. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kRunThreads)
    dgain_partial_kernel(const Backward<T> a, const Runs runs, int64_t replicas, float *partial)
{
    const int64_t spans = (a.l.cols + kWidth - 1) / kWidth, n = replicas * runs.count * spans;
    const int64_t step = (int64_t)gridDim.x * kRunThreads;
    for (int64_t u = (int64_t)blockIdx.x * kRunThreads + threadIdx.x; u < n; u += step) {
        const int64_t run = u / spans, replica = run / runs.count, col = (u - run * spans) * kWidth;
        const int64_t base = replica * runs.vectors, in_replica = run % runs.count * runs.length;
        const int64_t end = in_replica + runs.length, columns = a.l.cols - col;
        const int64_t last = base + (end < runs.vectors ? end : runs.vectors);
        int64_t row = (base + in_replica) / a.l.heads;
        int64_t head = base + in_replica - row * a.l.heads;
        float sum[kWidth] = {};
#pragma unroll 4
        for (int64_t i = base + in_replica; i < last; i++) {
            const int64_t at = head * a.l.cols + col;
            float dy[kWidth], s[kWidth];
            hn_load_span<kWidth>(a.dy + row * a.ld_dy + at, columns, dy);
            hn_load_span<kWidth>(a.sum + row * a.ld_sum + at, columns, s);
            const float rstd = a.rstd[i];
#pragma unroll
            for (int k = 0; k < kWidth; k++) sum[k] += dy[k] * s[k] * rstd;
            const bool next = ++head == a.l.heads;
            row += next;
            head = next ? 0 : head;
        }
#pragma unroll
        for (int k = 0; k < kWidth; k++)
            if (k < columns) partial[run * a.l.cols + col + k] = sum[k];
    }
}

/* A thread a column. The additions have an order; the loads of a batch go out together. */
__global__ void __launch_bounds__(kRunThreads)
    dgain_sum_kernel(const float *partial, float *dgain, int64_t cols, int64_t dgain_stride,
                     int64_t runs, int64_t replicas)
{
    const int64_t step = (int64_t)gridDim.x * kRunThreads;
    for (int64_t i = (int64_t)blockIdx.x * kRunThreads + threadIdx.x; i < replicas * cols;
         i += step) {
        const int64_t replica = i / cols, col = i - replica * cols;
        const float *const from = partial + replica * runs * cols + col;
        float sum = 0.0f;
        for (int64_t r = 0; r < runs; r += kBatch) {
            float v[kBatch];
#pragma unroll
            for (int k = 0; k < kBatch; k++) v[k] = r + k < runs ? from[(r + k) * cols] : 0.0f;
#pragma unroll
            for (int k = 0; k < kBatch; k++)
                if (r + k < runs) sum += v[k];
        }
        dgain[replica * dgain_stride + col] += sum;
    }
}

template <int kTeam>
unsigned blocks(int64_t vectors)
{
    return hn_grid(vectors, kThreads / kTeam, kMaxBlocks);
}

template <class T, class G, int kTeam, int kChunks>
void fwd_registers(const Forward<T> &f, cudaStream_t stream)
{
    fwd_register_kernel<T, G, kTeam, kChunks>
        <<<blocks<kTeam>(f.l.vectors), kThreads, 0, stream>>>(f);
}

template <class T, class G, int kTeam, int kWidth>
void fwd_stream(const Forward<T> &f, cudaStream_t stream)
{
    fwd_stream_kernel<T, G, kTeam, kWidth><<<blocks<kTeam>(f.l.vectors), kThreads, 0, stream>>>(f);
}

template <class T, class G>
void launch_fwd(const Forward<T> &f, bool wide, cudaStream_t stream)
{
    const int64_t cols = f.l.cols;
    if (wide && cols % HN_VEC == 0 && cols <= kMaxChunks * kChunk) {
        if (cols <= kShort / 4) return fwd_registers<T, G, kWarp / 4, 1>(f, stream);
        if (cols <= kShort / 2) return fwd_registers<T, G, kWarp / 2, 1>(f, stream);
        if (cols <= kShort) return fwd_registers<T, G, kWarp, 1>(f, stream);
        if (cols <= kChunk) return fwd_registers<T, G, kThreads, 1>(f, stream);
        if (cols <= 2 * kChunk) return fwd_registers<T, G, kThreads, 2>(f, stream);
        return fwd_registers<T, G, kThreads, kMaxChunks>(f, stream);
    }
    if (cols <= kShort)
        return wide ? fwd_stream<T, G, kWarp, HN_VEC>(f, stream)
                    : fwd_stream<T, G, kWarp, 1>(f, stream);
    return wide ? fwd_stream<T, G, kThreads, HN_VEC>(f, stream)
                : fwd_stream<T, G, kThreads, 1>(f, stream);
}

template <class T, class G, int kTeam, int kChunks>
void dx_registers(const Backward<T> &f, cudaStream_t stream)
{
    dx_register_kernel<T, G, kTeam, kChunks>
        <<<blocks<kTeam>(f.l.vectors), kThreads, 0, stream>>>(f);
}

template <class T, class G, int kTeam, int kWidth>
void dx_stream(const Backward<T> &f, cudaStream_t stream)
{
    dx_stream_kernel<T, G, kTeam, kWidth><<<blocks<kTeam>(f.l.vectors), kThreads, 0, stream>>>(f);
}

template <class T, class G>
void launch_dx(const Backward<T> &f, bool wide, cudaStream_t stream)
{
    const int64_t cols = f.l.cols;
    if (wide && cols % HN_VEC == 0 && cols <= kMaxChunks * kChunk) {
        if (cols <= kShort / 4) return dx_registers<T, G, kWarp / 4, 1>(f, stream);
        if (cols <= kShort / 2) return dx_registers<T, G, kWarp / 2, 1>(f, stream);
        if (cols <= kShort) return dx_registers<T, G, kWarp, 1>(f, stream);
        if (cols <= kChunk) return dx_registers<T, G, kThreads, 1>(f, stream);
        if (cols <= 2 * kChunk) return dx_registers<T, G, kThreads, 2>(f, stream);
        return dx_registers<T, G, kThreads, kMaxChunks>(f, stream);
    }
    if (cols <= kShort)
        return wide ? dx_stream<T, G, kWarp, HN_VEC>(f, stream)
                    : dx_stream<T, G, kWarp, 1>(f, stream);
    return wide ? dx_stream<T, G, kThreads, HN_VEC>(f, stream)
                : dx_stream<T, G, kThreads, 1>(f, stream);
}

template <class T>
void launch_dgain(const Backward<T> &f, const Runs &runs, int64_t replicas, float *partial,
                  bool wide, cudaStream_t stream)
{
    const int64_t n = replicas * runs.count, cols = f.l.cols;
    if (wide)
        dgain_partial_kernel<T, HN_VEC>
            <<<hn_grid(n * ((cols + HN_VEC - 1) / HN_VEC), kRunThreads, kMaxBlocks), kRunThreads, 0,
               stream>>>(f, runs, replicas, partial);
    else
        dgain_partial_kernel<T, 1>
            <<<hn_grid(n * cols, kRunThreads, kMaxBlocks), kRunThreads, 0, stream>>>(
                f, runs, replicas, partial);
    dgain_sum_kernel<<<hn_grid(replicas * cols, kRunThreads, kMaxBlocks), kRunThreads, 0, stream>>>(
        partial, f.dgain, cols, f.dgain_stride, runs.count, replicas);
}

/* dgain before dx: dx may lie on dy. */
template <class T, class G>
void launch_bwd(const Backward<T> &f, const Runs &runs, int64_t replicas, float *partial, bool wide,
                cudaStream_t stream)
{
    if (f.dgain != nullptr) launch_dgain(f, runs, replicas, partial, wide, stream);
    if (f.dx != nullptr) launch_dx<T, G>(f, wide, stream);
}

Layout layout_of(int64_t rows, int64_t heads, int64_t cols, int64_t replicas)
{
    const int64_t h = heads > 1 ? heads : 1;
    const int64_t g = hn_replica_count(replicas);
    return {rows * h, h, cols, rows / g, (float)cols, h == 1 && g == 1};
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
