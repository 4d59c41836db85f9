/* Forward copies bits, 16 bytes a thread where alignment allows. The gradient sorts the rows by id
 * (stable radix sort, a warp a tile), then a block walks the rows of one id in order.
 *
 * The sort is our own because its scratch must be known on machines without a GPU.
 */
#include "kernels/embed/embedding.h"

#include "runtime/base/check.h"
#include "runtime/base/cuda_math.h"

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
constexpr int64_t kTile = 512; /* rows that a warp sorts: 16 of its steps */
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
        const int64_t last = (tile + 1) * kTile < rows ? (tile + 1) * kTile : rows;
        for (int64_t i = tile * kTile + lane; i < last; i += 32)
            atomicAdd(&seen[(uint32_t)id[i] >> shift & (kDigits - 1)], 1); /* integers: any order */
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
    for (int64_t t = 0; t < tiles; t++) sum += mine[t];
    total[digit] = sum;
    __syncthreads();
    int32_t at = 0;
    for (int d = 0; d < digit; d++) at += total[d];
    for (int64_t t = 0; t < tiles; t++) {
        const int32_t n = mine[t];
        mine[t] = at;
        at += n;
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
        const int64_t last = (tile + 1) * kTile < rows ? (tile + 1) * kTile : rows;
        for (int64_t base = tile * kTile; base < last; base += 32) { /* the same in every lane */
            const int64_t i = base + lane;
            const bool inside = i < last;
            const int32_t key = inside ? id[i] : 0;
            /* lanes past the end form a digit of their own */
            const int digit = inside ? (int)((uint32_t)key >> shift & (kDigits - 1)) : kDigits;
            const unsigned same = __match_any_sync(0xffffffffu, digit);
            const int before = __popc(same & ((1u << lane) - 1));
            const int32_t at = inside ? next[digit] + before : 0;
            __syncwarp(); /* all have read next */
            if (inside && before == 0) next[digit] += __popc(same);
            __syncwarp();
            if (inside) {
                to.id[at] = key;
                to.row[at] = row ? row[i] : (int32_t)i;
            }
        }
        __syncwarp(); /* before the next tile overwrites next */
    }
}

/* ---- gradient ---- */

constexpr int kColumns = 4;                              /* of a thread, kThreads apart */
constexpr int kBatch = 8;                                /* rows in flight at a time */
constexpr int64_t kPiece = (int64_t)kThreads * kColumns; /* of a block */

/* An item is a place in the sorted rows and a piece of the columns. Where a run of one id in one
 * replica begins, its block adds the run's rows in order; elsewhere it has nothing to do. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(const int32_t *id, const int32_t *row, const T *__restrict__ dy, float *dw,
                    int64_t rows, int64_t dim, int64_t ld_dy, int64_t ld_dw, int64_t group,
                    int64_t dw_stride)
{
    const int64_t pieces = (dim + kPiece - 1) / kPiece;
    for (int64_t item = blockIdx.x; item < rows * pieces; item += gridDim.x) {
        const int64_t first = item / pieces, col = (item - first * pieces) * kPiece + threadIdx.x;
        const int32_t key = id[first];
        const int64_t replica = row[first] / group, end = (replica + 1) * group;
        if (first > 0 && id[first - 1] == key && row[first - 1] >= replica * group) continue;
        float *const to = dw + replica * dw_stride + key * ld_dw + col;
        float sum[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; c++)
            sum[c] = col + c * kThreads < dim ? to[c * kThreads] : 0.0f;
        bool more = true; /* the same in every thread */
        for (int64_t i = first; more; i += kBatch) {
            float v[kBatch][kColumns];
            bool in_run[kBatch];
#pragma unroll
            for (int k = 0; k < kBatch; k++) {
                in_run[k] = i + k < rows && id[i + k] == key && row[i + k] < end;
                const T *const from = dy + (in_run[k] ? row[i + k] * ld_dy + col : 0);
#pragma unroll
                for (int c = 0; c < kColumns; c++)
                    v[k][c] =
                        in_run[k] && col + c * kThreads < dim ? hn_f32(from[c * kThreads]) : 0.0f;
            }
#pragma unroll
            for (int k = 0; k < kBatch; k++)
#pragma unroll
                for (int c = 0; c < kColumns; c++)
                    if (in_run[k]) sum[c] += v[k][c];
            more = in_run[kBatch - 1];
        }
#pragma unroll
        for (int c = 0; c < kColumns; c++)
            if (col + c * kThreads < dim) to[c * kThreads] = sum[c];
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

template <class T>
void launch_dw(const hn_embedding_dw_args *a, const Pairs &sorted, cudaStream_t stream)
{
    const int64_t pieces = (a->dim + kPiece - 1) / kPiece;
    add_rows_kernel<<<hn_grid(a->rows * pieces, 1, kMaxBlocks), kThreads, 0, stream>>>(
        sorted.id, sorted.row, (const T *)a->dy, a->dw, a->rows, a->dim, a->ld_dy, a->ld_dw,
        a->rows / hn_replica_count(a->replicas), a->dw_stride);
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
