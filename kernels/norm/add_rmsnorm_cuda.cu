/* A team has a vector: 8, 16 or 32 threads where it is short, else a block. Up to 8192 columns are
 * read once and stay in registers, in both passes; all loads of a thread go out before the sum over
 * the team. A longer vector, or one that is not made of 16-byte pieces, is read again for the
 * second pass. dgain: blocks gather partial sums over runs of vectors, on the way to dx where it
 * stays in registers, else in a kernel of its own; then another kernel adds them in order. */
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

/* dgain. The vectors are cut into as many runs as there are blocks at a time on an H200, where each
 * sums the run it is on. */
constexpr int64_t kProcessors = 132;
constexpr int kRunThreads = 64; /* small blocks: the runs are few */
constexpr int kSumCols = 32;    /* columns of a block that adds the runs: 128 bytes */
constexpr int kSumSlices = kThreads / kSumCols;
constexpr int kBatch = 32; /* partial sums a thread has under way */

/* Blocks with sums for dgain that fit on a multiprocessor, by the registers of a thread: 64, 85 or
 * 128 for 4, 3 or 2 of them. */
constexpr int resident(size_t element, size_t gain, int chunks)
{
    const bool small = element == 2 && gain == 2;
    return chunks == 1 ? (element == 2 ? 4 : 3) : chunks == 2 ? (small ? 3 : 2) : small ? 2 : 1;
}

/* Chunks of a vector, and threads of the team that has it, where it stays in registers. */
constexpr int chunks_of(int64_t cols) { return cols <= kChunk ? 1 : cols <= 2 * kChunk ? 2 : 4; }
constexpr int team_of(int64_t cols)
{
    return cols <= kShort / 4   ? kWarp / 4
           : cols <= kShort / 2 ? kWarp / 2
           : cols <= kShort     ? kWarp
                                : kThreads;
}

/* Vectors of a matrix [rows, heads * cols] whose rows belong to groups. */
struct Layout {
    int64_t vectors, heads, cols, group; /* group: rows a replica */
    float width;                         /* cols */
    bool plain;                          /* one head, one replica */
    bool few;                            /* vectors: short divisions do */
    hn_divisor by_heads, by_group;
};

/* Where a vector lies: its row, its first column, its replica. */
struct Place {
    int64_t row, col, replica;
};

/* Divisions only where there is something to divide: long ones take as long as the rest. */
__device__ __forceinline__ Place place_of(const Layout &l, int64_t vector)
{
    if (l.plain) return {vector, 0, 0};
    if (l.few) {
        const uint32_t v = (uint32_t)vector, row = hn_divide(v, l.by_heads);
        return {row, (v - row * (uint32_t)l.heads) * l.cols, hn_divide(row, l.by_group)};
    }
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

/* Cut of the vectors of one replica for dgain: depends on shapes alone. */
struct Runs {
    int64_t vectors, length, count; /* of a replica; of a run; of runs in a replica */
};

Runs runs_of(const hn_add_rmsnorm_bwd_args *a)
{
    const int64_t heads = a->heads > 1 ? a->heads : 1, replicas = hn_replica_count(a->replicas);
    const int64_t vectors = a->rows / replicas * heads;
    const int64_t most = kProcessors * resident(hn_dtype_size(a->dtype),
                                                hn_dtype_size(a->gain_dtype), chunks_of(a->cols));
    const int64_t shared = (vectors * replicas + most - 1) / most;
    const int64_t teams = kThreads / team_of(a->cols), least = teams > 1 ? teams : 2;
    const int64_t length = shared > least ? shared : least;
    return {vectors, length, (vectors + length - 1) / length};
}

/* partial[run][col] of the block's run: the teams' sums, in order. */
template <int kTeam, int kChunks>
__device__ __forceinline__ void store_partial(const float (&sum)[kChunks][HN_VEC], int64_t cols,
                                              float *partial)
{
    const int lane = (int)threadIdx.x % kTeam;
    if constexpr (kTeam == kThreads) {
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (c * kTeam + lane) * HN_VEC;
            if (col < cols) hn_store_whole<HN_VEC>(partial + blockIdx.x * cols + col, sum[c]);
        }
    } else {
        static_assert(kChunks == 1, "short vectors");
        __shared__ float of_team[kThreads / kTeam][kTeam * HN_VEC];
#pragma unroll
        for (int k = 0; k < HN_VEC; k++)
            of_team[threadIdx.x / kTeam][lane * HN_VEC + k] = sum[0][k];
        __syncthreads();
        if (threadIdx.x >= cols) return; /* at most 256 */
        float v = 0.0f;
        for (int t = 0; t < kThreads / kTeam; t++) v += of_team[t][threadIdx.x];
        partial[blockIdx.x * cols + threadIdx.x] = v;
    }
}

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

/* sum += dy z */
template <int kWidth>
__device__ __forceinline__ void add_gain(float (&sum)[kWidth], const float (&dy)[kWidth],
                                         const float (&s)[kWidth], float rstd)
{
#pragma unroll
    for (int k = 0; k < kWidth; k++) sum[k] += dy[k] * s[k] * rstd;
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
 * and then written by one thread: dx and y may lie on dy, dsum or sum. With kGain a block has a run
 * of vectors, and dx may not be wanted; without it the compiler chooses the blocks of a
 * multiprocessor (0). */
template <class T, class G, int kTeam, int kChunks, bool kGain>
__global__ void __launch_bounds__(kThreads, kGain ? resident(sizeof(T), sizeof(G), kChunks) : 0)
    dx_register_kernel(const Backward<T> a, const Runs runs, float *partial)
{
    constexpr int kTeams = kThreads / kTeam;
    const int lane = (int)threadIdx.x % kTeam;
    int64_t begin = (int64_t)blockIdx.x * kTeams, end = a.l.vectors;
    int64_t step = (int64_t)gridDim.x * kTeams;
    if constexpr (kGain) {
        const int64_t replica = blockIdx.x / runs.count;
        const int64_t skip = (blockIdx.x - replica * runs.count) * runs.length;
        begin = replica * runs.vectors + skip, step = kTeams;
        end = begin + (runs.vectors - skip < runs.length ? runs.vectors - skip : runs.length);
    }
    float gained[kChunks][HN_VEC] = {};
    for (int64_t first = begin; first < end; first += step) {
        const int64_t i = first + threadIdx.x / kTeam; /* past the end: sums with zeros, no more */
        const Place p = place_of(a.l, i);
        const T *const dy = a.dy + p.row * a.ld_dy + p.col;
        const T *const sum = a.sum + p.row * a.ld_sum + p.col;
        const T *const dsum = a.dsum + p.row * a.ld_dsum + p.col;
        const G *const gain = (const G *)a.gain + p.replica * a.gain_stride;
        const float rstd = i < end ? a.rstd[i] : 0.0f;
        hn_pack<T> from[kChunks] = {}, kept[kChunks] = {}, more[kChunks] = {}; /* dy, sum, dsum */
        hn_pack<G> factor[kChunks] = {};
        float h[HN_VEC], s[HN_VEC], g[HN_VEC], dot = 0.0f;
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
            const int64_t col = (c * kTeam + lane) * HN_VEC;
            if (i >= end || col >= a.l.cols) continue;
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
            if (i >= end || col >= a.l.cols) continue;
            hn_unpack(from[c], h);
            hn_unpack(kept[c], s);
            hn_unpack(factor[c], g);
            if constexpr (kGain) {
                add_gain(gained[c], h, s, rstd);
                if (a.dx == nullptr) continue;
            }
            differentiate(h, s, rstd, mean, a.gain_offset, g);
            scale(s, rstd, a.gain_offset, g);
            hn_unpack(more[c], g);
            if (a.dsum != nullptr) add(h, g);
            hn_store_pack(a.dx + p.row * a.ld_dx + p.col + col, hn_pack_of<T>(h));
            if (a.y != nullptr) hn_store_pack(a.y + p.row * a.ld_y + p.col + col, hn_pack_of<T>(s));
        }
    }
    if constexpr (kGain) store_partial<kTeam>(gained, a.l.cols, partial);
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
            add_gain(sum, dy, s, rstd);
            const bool next = ++head == a.l.heads;
            row += next;
            head = next ? 0 : head;
        }
#pragma unroll
        for (int k = 0; k < kWidth; k++)
            if (k < columns) partial[run * a.l.cols + col + k] = sum[k];
    }
}

/* A block has 32 columns of a replica; its 8 slices have consecutive runs. The additions have an
 * order; the loads of a batch go out together. */
__global__ void __launch_bounds__(kThreads)
    dgain_sum_kernel(const float *partial, float *dgain, int64_t cols, int64_t dgain_stride,
                     int64_t runs)
{
    __shared__ float of_slice[kSumSlices][kSumCols];
    const int slice = (int)threadIdx.x / kSumCols, lane = (int)threadIdx.x % kSumCols;
    const int64_t col_blocks = (cols + kSumCols - 1) / kSumCols, replica = blockIdx.x / col_blocks;
    const int64_t col = (blockIdx.x - replica * col_blocks) * kSumCols + lane;
    const int64_t share = (runs + kSumSlices - 1) / kSumSlices;
    const int64_t last = (slice + 1) * share < runs ? (slice + 1) * share : runs;
    const float *const from = partial + replica * runs * cols + col;
    float sum = 0.0f;
    for (int64_t r = slice * share; r < last && col < cols; r += kBatch) {
        float v[kBatch];
#pragma unroll
        for (int k = 0; k < kBatch; k++) v[k] = r + k < last ? from[(r + k) * cols] : 0.0f;
#pragma unroll
        for (int k = 0; k < kBatch; k++)
            if (r + k < last) sum += v[k];
    }
    of_slice[slice][lane] = sum;
    __syncthreads();
    if (slice > 0 || col >= cols) return;
    for (int t = 1; t < kSumSlices; t++) sum += of_slice[t][lane];
    dgain[replica * dgain_stride + col] += sum;
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

/* Where dgain goes before the runs are added. */
struct Gain {
    Runs runs;
    int64_t replicas;
    float *partial;
};

template <class T, class G, int kTeam, int kChunks>
void dx_registers(const Backward<T> &f, const Gain &to, cudaStream_t stream)
{
    if (f.dgain != nullptr)
        dx_register_kernel<T, G, kTeam, kChunks, true>
            <<<(unsigned)(to.replicas * to.runs.count), kThreads, 0, stream>>>(f, to.runs,
                                                                               to.partial);
    else
        dx_register_kernel<T, G, kTeam, kChunks, false>
            <<<blocks<kTeam>(f.l.vectors), kThreads, 0, stream>>>(f, to.runs, nullptr);
}

template <class T, class G>
void launch_registers(const Backward<T> &f, const Gain &to, cudaStream_t stream)
{
    switch (team_of(f.l.cols)) {
    case kWarp / 4: return dx_registers<T, G, kWarp / 4, 1>(f, to, stream);
    case kWarp / 2: return dx_registers<T, G, kWarp / 2, 1>(f, to, stream);
    case kWarp: return dx_registers<T, G, kWarp, 1>(f, to, stream);
    default: break;
    }
    switch (chunks_of(f.l.cols)) {
    case 1: return dx_registers<T, G, kThreads, 1>(f, to, stream);
    case 2: return dx_registers<T, G, kThreads, 2>(f, to, stream);
    default: return dx_registers<T, G, kThreads, kMaxChunks>(f, to, stream);
    }
}

template <class T, class G, int kTeam, int kWidth>
void dx_stream(const Backward<T> &f, cudaStream_t stream)
{
    dx_stream_kernel<T, G, kTeam, kWidth><<<blocks<kTeam>(f.l.vectors), kThreads, 0, stream>>>(f);
}

template <class T, class G>
void launch_stream(const Backward<T> &f, bool wide, cudaStream_t stream)
{
    if (f.l.cols <= kShort)
        return wide ? dx_stream<T, G, kWarp, HN_VEC>(f, stream)
                    : dx_stream<T, G, kWarp, 1>(f, stream);
    return wide ? dx_stream<T, G, kThreads, HN_VEC>(f, stream)
                : dx_stream<T, G, kThreads, 1>(f, stream);
}

template <class T>
void launch_partial(const Backward<T> &f, const Gain &to, bool wide, cudaStream_t stream)
{
    const int64_t n = to.replicas * to.runs.count, cols = f.l.cols;
    if (wide)
        dgain_partial_kernel<T, HN_VEC>
            <<<hn_grid(n * ((cols + HN_VEC - 1) / HN_VEC), kRunThreads, kMaxBlocks), kRunThreads, 0,
               stream>>>(f, to.runs, to.replicas, to.partial);
    else
        dgain_partial_kernel<T, 1>
            <<<hn_grid(n * cols, kRunThreads, kMaxBlocks), kRunThreads, 0, stream>>>(
                f, to.runs, to.replicas, to.partial);
}

/* Where nothing stays in registers, dgain comes before dx, which may lie on dy. */
template <class T, class G>
void launch_bwd(const Backward<T> &f, const Gain &to, bool wide, cudaStream_t stream)
{
    const int64_t cols = f.l.cols;
    if (wide && cols % HN_VEC == 0 && cols <= kMaxChunks * kChunk) {
        launch_registers<T, G>(f, to, stream);
    } else {
        if (f.dgain != nullptr) launch_partial(f, to, wide, stream);
        if (f.dx != nullptr) launch_stream<T, G>(f, wide, stream);
    }
    if (f.dgain != nullptr)
        dgain_sum_kernel<<<(unsigned)(to.replicas * ((cols + kSumCols - 1) / kSumCols)), kThreads,
                           0, stream>>>(to.partial, f.dgain, cols, f.dgain_stride, to.runs.count);
}

Layout layout_of(int64_t rows, int64_t heads, int64_t cols, int64_t replicas)
{
    const int64_t h = heads > 1 ? heads : 1;
    const int64_t g = hn_replica_count(replicas);
    const bool few = rows * h <= INT32_MAX - kThreads; /* a block looks past the end */
    return {rows * h,
            h,
            cols,
            rows / g,
            (float)cols,
            h == 1 && g == 1,
            few,
            hn_divisor_of(h),
            hn_divisor_of(rows / g)};
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
    const Gain to = {runs_of(a), hn_replica_count(a->replicas), (float *)scratch};
    HN_CUDA_REAL(
        t, T,
        HN_CUDA_REAL(a->gain_dtype, G, launch_bwd<T, G>(backward_of<T>(a), to, wide, stream)));
    return HN_CUDA_LAUNCHED("add_rmsnorm_bwd");
}
