/* Forward copies bits, 16 bytes a thread where alignment allows. The gradient sorts the rows by id
 * (stable radix sort, a warp a tile), then a block walks the rows of one id in order.
 *
 * The sort is our own because its scratch must be known on machines without a GPU.
 */
#include "kernels/embed/embedding.h"

#include <type_traits>

#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 20; /* then a block takes several items */

/* ---- forward ---- */

/* E holds the bits of one element; kWide: rows begin on 16 bytes in w and in y. */
template <class E, bool kWide>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(const int32_t *id, const E *w, E *y, int64_t rows, int64_t dim, int64_t ld_w,
                     int64_t ld_y, int64_t group, int64_t w_stride)
{
    constexpr int kWidth = kWide ? 16 / sizeof(E) : 1;
    const int64_t spans = (dim + kWidth - 1) / kWidth, step = (int64_t)gridDim.x * kThreads;
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < rows * spans; i += step) {
        const int64_t row = i / spans, col = (i - row * spans) * kWidth;
        const E *const from = w + row / group * w_stride + id[row] * ld_w + col;
        E *const to = y + row * ld_y + col;
        if (kWide && col + kWidth <= dim)
            *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
        else
            for (int64_t k = 0; k < kWidth && col + k < dim; k++) to[k] = from[k];
    }
}

template <class E>
void launch_fwd(const hn_embedding_args *a, cudaStream_t stream)
{
    const E *const w = (const E *)a->w;
    E *const y = (E *)a->y;
    constexpr int64_t kWidth = 16 / sizeof(E);
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    const bool wide = (uintptr_t)w % 16 == 0 && (uintptr_t)y % 16 == 0 && a->ld_w % kWidth == 0 &&
                      a->ld_y % kWidth == 0 && a->w_stride % kWidth == 0;
    if (wide)
        embedding_kernel<E, true>
            <<<hn_grid(a->rows * ((a->dim + kWidth - 1) / kWidth), kThreads, kMaxBlocks), kThreads,
               0, stream>>>(a->id, w, y, a->rows, a->dim, a->ld_w, a->ld_y, group, a->w_stride);
    else
        embedding_kernel<E, false>
            <<<hn_grid(a->rows * a->dim, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
                a->id, w, y, a->rows, a->dim, a->ld_w, a->ld_y, group, a->w_stride);
}

/* ---- sorting rows by id ---- */

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kSteps = 16;             /* of a warp: its loads are under way together */
constexpr int64_t kTile = 32 * kSteps; /* rows that a warp sorts */
constexpr int kScanBatch = 16;         /* counts a thread of the scan has under way */
static_assert(kThreads == kDigits, "the scan gives a thread a digit");

struct Pairs { /* ids and the rows they stand in */
    int32_t *id, *row;
};

/* Digits of the tile's rows, counted in shared memory by one warp: count[digit][tile]. */
__global__ void __launch_bounds__(32)
    count_kernel(const int32_t *id, int64_t rows, int shift, int64_t tiles, int32_t *count)
{
    __shared__ int32_t seen[kDigits];
    const int lane = (int)threadIdx.x;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        for (int d = lane; d < kDigits; d += 32) seen[d] = 0;
        __syncwarp();
        const int64_t first = tile * kTile + lane;
        int32_t key[kSteps];
#pragma unroll
        for (int k = 0; k < kSteps; k++) key[k] = first + k * 32 < rows ? id[first + k * 32] : 0;
#pragma unroll
        for (int k = 0; k < kSteps; k++)
            if (first + k * 32 < rows) /* integers: any order */
                atomicAdd(&seen[(uint32_t)key[k] >> shift & (kDigits - 1)], 1);
        __syncwarp();
        for (int d = lane; d < kDigits; d += 32) count[d * tiles + tile] = seen[d];
        __syncwarp(); /* before the next tile clears seen */
    }
}

/* One block: count[digit][tile] becomes the place where the tile's first such row goes. */
__global__ void __launch_bounds__(kThreads) scan_kernel(int32_t *count, int64_t tiles)
{
    __shared__ int32_t total[kDigits];
    const int digit = (int)threadIdx.x;
    int32_t *const mine = count + digit * tiles;
    int32_t sum = 0;
#pragma unroll kScanBatch
    for (int64_t t = 0; t < tiles; t++) sum += mine[t];
    total[digit] = sum;
    __syncthreads();
    int32_t at = 0;
    for (int d = 0; d < digit; d++) at += total[d];
    for (int64_t t = 0; t < tiles; t += kScanBatch) {
        int32_t n[kScanBatch];
#pragma unroll
        for (int k = 0; k < kScanBatch; k++) n[k] = t + k < tiles ? mine[t + k] : 0;
#pragma unroll
        for (int k = 0; k < kScanBatch; k++) {
            if (t + k < tiles) mine[t + k] = at;
            at += n[k];
        }
    }
}

/* A warp moves its tile in order, 32 rows at a time: a row goes behind those of its digit that
 * came before. row nullptr: rows stand in their first order. */
__global__ void __launch_bounds__(32)
    scatter_kernel(const int32_t *id, const int32_t *row, int64_t rows, int shift, int64_t tiles,
                   const int32_t *place, Pairs to)
{
    __shared__ int32_t next[kDigits];
    const int lane = (int)threadIdx.x;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        for (int d = lane; d < kDigits; d += 32) next[d] = place[d * tiles + tile];
        __syncwarp();
        const int64_t first = tile * kTile + lane;
        int32_t key[kSteps], from[kSteps];
#pragma unroll
        for (int k = 0; k < kSteps; k++) {
            const int64_t i = first + k * 32;
            key[k] = i < rows ? id[i] : 0;
            from[k] = row && i < rows ? row[i] : (int32_t)i;
        }
#pragma unroll
        for (int k = 0; k < kSteps; k++) { /* the same in every lane */
            const bool inside = first + k * 32 < rows;
            /* lanes past the end form a digit of their own */
            const int digit = inside ? (int)((uint32_t)key[k] >> shift & (kDigits - 1)) : kDigits;
            const unsigned same = __match_any_sync(0xffffffffu, digit);
            const int before = __popc(same & ((1u << lane) - 1));
            const int32_t at = inside ? next[digit] + before : 0;
            __syncwarp(); /* all have read next */
            if (inside && before == 0) next[digit] += __popc(same);
            __syncwarp();
            if (inside) {
                to.id[at] = key[k];
                to.row[at] = from[k];
            }
        }
        __syncwarp(); /* before the next tile overwrites next */
    }
}

/* ---- gradient ---- */

constexpr int kBatch = 8; /* rows in flight at a time */

/* Spans of a thread, kThreads apart: one of 8 columns, or 4 of one. Columns of a block. */
__host__ __device__ constexpr int spans_of(int width) { return width == HN_VEC ? 1 : 4; }
__host__ __device__ constexpr int64_t piece_of(int width)
{
    return (int64_t)kThreads * width * spans_of(width);
}

/* kWidth values as they are stored; zeros where they are not wanted. */
template <class T>
__device__ __forceinline__ void load(bool wanted, const T *p, hn_pack<T> &v)
{
    v = {};
    if (wanted) v = hn_load_pack(p);
}
template <class T>
__device__ __forceinline__ void load(bool wanted, const T *p, T &v)
{
    v = wanted ? *p : T(0.0f);
}
template <class T>
__device__ __forceinline__ void add_to(float (&sum)[HN_VEC], const hn_pack<T> &v)
{
    float f[HN_VEC];
    hn_unpack(v, f);
#pragma unroll
    for (int j = 0; j < HN_VEC; j++) sum[j] += f[j];
}
template <class T>
__device__ __forceinline__ void add_to(float (&sum)[1], T v)
{
    sum[0] += hn_f32(v);
}

/* An item is a place in the sorted rows and a piece of the columns. Where a run of one id in one
 * replica begins, its block adds the run's rows in order; elsewhere it has nothing to do. Most runs
 * are one row: it is under way together with dw, ahead of the loop. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(const int32_t *id, const int32_t *row, const T *__restrict__ dy, float *dw,
                    int64_t rows, int64_t dim, int64_t ld_dy, int64_t ld_dw, int64_t group,
                    int64_t dw_stride)
{
    using Stored = std::conditional_t<kWidth == HN_VEC, hn_pack<T>, T>;
    constexpr int kCount = spans_of(kWidth);
    constexpr int64_t kApart = (int64_t)kThreads * kWidth;
    constexpr int64_t kPiece = piece_of(kWidth);
    const int64_t pieces = (dim + kPiece - 1) / kPiece;
    for (int64_t item = blockIdx.x; item < rows * pieces; item += gridDim.x) {
        const int64_t first = item / pieces;
        const int64_t col = (item - first * pieces) * kPiece + threadIdx.x * kWidth;
        const int32_t key = id[first];
        const int64_t replica = row[first] / group, end = (replica + 1) * group;
        if (first > 0 && id[first - 1] == key && row[first - 1] >= replica * group) continue;
        float *const to = dw + replica * dw_stride + key * ld_dw + col;
        const T *const from = dy + row[first] * ld_dy + col;
        float sum[kCount][kWidth];
        Stored own[kCount];
#pragma unroll
        for (int c = 0; c < kCount; c++) {
            hn_load_span<kWidth>(to + c * kApart, dim - col - c * kApart, sum[c]);
            load(col + c * kApart < dim, from + c * kApart, own[c]);
        }
#pragma unroll
        for (int c = 0; c < kCount; c++) add_to(sum[c], own[c]);
        /* the same in every thread */
        bool more = first + 1 < rows && id[first + 1] == key && row[first + 1] < end;
        for (int64_t i = first + 1; more; i += kBatch) {
            Stored v[kBatch][kCount];
            bool in_run[kBatch];
#pragma unroll
            for (int k = 0; k < kBatch; k++) {
                in_run[k] = i + k < rows && id[i + k] == key && row[i + k] < end;
                const T *const p = dy + (in_run[k] ? row[i + k] * ld_dy + col : 0);
#pragma unroll
                for (int c = 0; c < kCount; c++)
                    load(in_run[k] && col + c * kApart < dim, p + c * kApart, v[k][c]);
            }
#pragma unroll
            for (int k = 0; k < kBatch; k++)
#pragma unroll
                for (int c = 0; c < kCount; c++)
                    if (in_run[k]) add_to(sum[c], v[k][c]);
            more = in_run[kBatch - 1];
        }
#pragma unroll
        for (int c = 0; c < kCount; c++)
            hn_store_span<kWidth>(to + c * kApart, dim - col - c * kApart, sum[c]);
    }
}

int64_t tiles_of(int64_t rows) { return (rows + kTile - 1) / kTile; }

/* Scratch: two pairs of arrays [rows], then count [kDigits][tiles]. */
struct Scratch {
    Pairs pairs[2];
    int32_t *count;
};

Scratch split(void *scratch, int64_t rows)
{
    int32_t *const p = (int32_t *)scratch;
    return {{{p, p + rows}, {p + 2 * rows, p + 3 * rows}}, p + 4 * rows};
}

/* Returns the ids in order with their rows. Passes of 8 bits, as many as an id below vocab has. */
Pairs sort_rows(const hn_embedding_dw_args *a, const Scratch &s, cudaStream_t stream)
{
    const int64_t tiles = tiles_of(a->rows);
    const unsigned grid = hn_grid(tiles, 1, kMaxBlocks);
    const int32_t *id = a->id, *row = nullptr;
    Pairs sorted = s.pairs[0];
    for (int shift = 0; shift == 0 || (shift < 31 && (a->vocab - 1) >> shift > 0);
         shift += kDigitBits) {
        sorted = s.pairs[shift / kDigitBits % 2];
        count_kernel<<<grid, 32, 0, stream>>>(id, a->rows, shift, tiles, s.count);
        scan_kernel<<<1, kThreads, 0, stream>>>(s.count, tiles);
        scatter_kernel<<<grid, 32, 0, stream>>>(id, row, a->rows, shift, tiles, s.count, sorted);
        id = sorted.id;
        row = sorted.row;
    }
    return sorted;
}

template <class T, int kWidth>
void launch_width(const hn_embedding_dw_args *a, const Pairs &sorted, cudaStream_t stream)
{
    const int64_t pieces = (a->dim + piece_of(kWidth) - 1) / piece_of(kWidth);
    add_rows_kernel<T, kWidth><<<hn_grid(a->rows * pieces, 1, kMaxBlocks), kThreads, 0, stream>>>(
        sorted.id, sorted.row, (const T *)a->dy, a->dw, a->rows, a->dim, a->ld_dy, a->ld_dw,
        a->rows / hn_replica_count(a->replicas), a->dw_stride);
}

template <class T>
void launch_dw(const hn_embedding_dw_args *a, const Pairs &sorted, cudaStream_t stream)
{
    if (a->dim % HN_VEC == 0 && hn_vectors_fit(a->dy, a->ld_dy, a->dtype) &&
        hn_vectors_fit(a->dw, a->ld_dw, HN_F32) && hn_vectors_fit(a->dw, a->dw_stride, HN_F32))
        launch_width<T, HN_VEC>(a, sorted, stream);
    else
        launch_width<T, 1>(a, sorted, stream);
}

} // namespace

hn_status hn_embedding_fwd_cuda(const hn_embedding_args *a, hn_stream stream)
{
    HN_TRY(hn_embedding_check_shapes(a));
    if (a->dtype == HN_F32)
        launch_fwd<uint32_t>(a, stream);
    else
        launch_fwd<uint16_t>(a, stream);
    return HN_CUDA_LAUNCHED("embedding");
}

size_t hn_embedding_dw_cuda_scratch(const hn_embedding_dw_args *a)
{
    return (size_t)(4 * a->rows + kDigits * tiles_of(a->rows)) * sizeof(int32_t);
}

hn_status hn_embedding_dw_cuda(const hn_embedding_dw_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_embedding_dw_check_shapes(a));
    HN_TRY(hn_check_pointer("embedding_dw", "scratch", scratch));
    const Pairs sorted = sort_rows(a, split(scratch, a->rows), stream);
    HN_CUDA_REAL(a->dtype, T, launch_dw<T>(a, sorted, stream));
    return HN_CUDA_LAUNCHED("embedding_dw");
}
