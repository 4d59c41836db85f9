/* Which way: by the number of blocks, of which only the capacity is known when the launch is made.
 *
 *   rows, columns   the chosen columns of dy (or x) side by side, one product by cuBLASLt
 *   squares of 64 to 256, bf16    block_dw_mma_cuda.cu
 *   squares of 16 and 32, bf16    block_dw_group_cuda.cu
 *   squares of 1 and 4, bf16      block_dw_tile_cuda.cu, which chooses again for each tile
 *   else, and where so much is chosen that these would take longer than the whole gradient: the
 *   whole gradient by cuBLASLt, strip by strip, of which the chosen values are gathered
 *
 * A matrix may use its whole capacity or, as most do, a quarter of it. Where this makes the
 * difference both ways are enqueued: kernels of the first leave long lists alone, and the second is
 * a branch of the graph that short lists skip. Of squares of 1 and 4 it is not the length that
 * decides, but how much of the list lies in few tiles. */
#include "kernels/sparse/cuda_block_dw.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_branch.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGrid = kHnSms_ * 16; /* blocks loop over what is left */
constexpr size_t kStripBytes = 64 << 20;   /* of the whole gradient at a time */

/* Squares are read in pieces of 16 or 8 bytes. */
bool is_aligned(const hn_block_dw_args *a)
{
    return (uintptr_t)a->dy % 16 == 0 && (uintptr_t)a->x % 16 == 0;
}

/* The share of a matrix above which the whole gradient is faster, as measured with 8192 and 16384
 * tokens: the reading of operands a block (16, 32), the rate of mma (64 and more). */
double most_of(int64_t side)
{
    switch (side) {
    case 16: return 0.06;
    case 32: return 0.12;
    case 64: return 0.18;
    default: return 0.22;
    }
}

/* A way of its own for blocks of one shape. */
struct Path {
    size_t (*scratch)(const hn_block_dw_args *a, int64_t most);
    int (*shared)(const hn_block_dw_args *a);
    hn_status (*run)(const hn_block_dw_args *a, int64_t most, void *scratch, hn_stream stream);
};

const Path kSquares = {hn_block_dw_mma_scratch_, hn_block_dw_mma_shared_, hn_block_dw_mma_};
const Path kGroups = {hn_block_dw_group_scratch_, hn_block_dw_group_shared_, hn_block_dw_group_};

bool is_line(const hn_block_dw_args *a)
{
    return hn_block_values(a->shape) > 1 && (a->shape.br == 1 || a->shape.bc == 1);
}

/* Rows and columns: whether one product of them is faster. */
bool is_short(const hn_block_dw_args *a)
{
    return (double)a->capacity <= 0.6 * (double)hn_block_total(a->shape, a->out, a->in);
}

const Path *path_of(const hn_block_dw_args *a)
{
    if (hn_block_dw_mma_takes_(a)) return &kSquares;
    return hn_block_dw_group_takes_(a) ? &kGroups : nullptr;
}

/* Blocks that the path of the shape takes at most; 0: the whole gradient alone. */
int64_t most_blocks(const hn_block_dw_args *a)
{
    const double total = (double)hn_block_total(a->shape, a->out, a->in);
    const int64_t most = (int64_t)(most_of(a->shape.br) * total);
    if (path_of(a) == nullptr || a->way == HN_BLOCK_DW_WHOLE ||
        a->capacity > kHnCapacityOfShare_ * most)
        return 0;
    return most < a->capacity ? most : a->capacity;
}

/* Into the shared memory of the current device. */
bool fits(int bytes)
{
    int device = 0, most = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) ==
               cudaSuccess &&
           most >= bytes;
}

/* ---- sums of the runs ---- */

__global__ void __launch_bounds__(kHnAddThreads_)
    add_runs_kernel(const float *__restrict__ part, const HnRuns_ runs, int64_t values, float alpha,
                    const hn_sparse_span *span, float *grad)
{
    const int64_t blocks = hn_path_blocks_(span, runs);
    hn_add_runs_(part, blocks * values, hn_runs_(runs, hn_items_(runs, blocks)), alpha,
                 grad + span->first_value, [](int64_t v) { return v; });
}

/* ---- rows and columns ---- */

/* Scratch: the gathered columns [rows, ld_gathered] | their product [capacity, ld_product] */
struct Lines {
    const void *from, *other; /* operand with the chosen columns, and the other */
    int64_t ld_from, ld_other, n, ld_gathered, ld_product; /* n: values of a block */
    size_t product_at, bytes;
};

Lines lines_of(const hn_block_dw_args *a)
{
    const bool rows = a->shape.br == 1;
    Lines l = {};
    l.from = rows ? a->dy : a->x, l.ld_from = rows ? a->ld_dy : a->ld_x;
    l.other = rows ? a->x : a->dy, l.ld_other = rows ? a->ld_x : a->ld_dy;
    l.n = hn_block_values(a->shape);
    l.ld_gathered = hn_gemm_cuda_padded(a->capacity, a->dtype);
    l.ld_product = hn_gemm_cuda_padded(l.n, HN_F32);
    const size_t gathered = (size_t)(a->rows * l.ld_gathered) * hn_dtype_size(a->dtype);
    l.product_at = (gathered + 255) / 256 * 256;
    l.bytes = l.product_at + (size_t)(a->capacity * l.ld_product) * sizeof(float);
    return l;
}

/* Column b of `to` is column id[b] of `from`; zeros behind the last block. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_columns_kernel(const T *__restrict__ from, int64_t ld, int64_t rows, int64_t capacity,
                          const hn_sparse_span *span, const int32_t *__restrict__ block, T *to,
                          int64_t ld_to)
{
    const int blocks = hn_span_blocks_(span, capacity);
    const int32_t *const id = block + span->first_block;
    const int64_t n = rows * capacity;
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t t = at / capacity, b = at - t * capacity;
        to[t * ld_to + b] = b < blocks ? from[t * ld + id[b]] : hn_round<T>(0.0f);
    }
}

/* grad += alpha * product, of the blocks that are there. */
__global__ void __launch_bounds__(kThreads)
    add_lines_kernel(const float *__restrict__ product, int64_t ld, int64_t values,
                     int64_t capacity, float alpha, const hn_sparse_span *span, float *grad)
{
    const int64_t n = hn_span_blocks_(span, capacity) * values;
    float *const to = grad + span->first_value;
    for (int64_t v = (int64_t)blockIdx.x * kThreads + threadIdx.x; v < n;
         v += (int64_t)gridDim.x * kThreads) {
        const int64_t b = v / values;
        to[v] += alpha * product[b * ld + v - b * values];
    }
}

hn_status run_lines(const hn_block_dw_args *a, hn_gemm_cuda *gemm, void *scratch, hn_stream stream)
{
    const Lines l = lines_of(a);
    float *const product = reinterpret_cast<float *>(static_cast<char *>(scratch) + l.product_at);
    HN_CUDA_REAL(a->dtype, T,
                 gather_columns_kernel<T>
                 <<<hn_grid(a->rows * a->capacity, kThreads, kMaxGrid), kThreads, 0, stream>>>(
                     static_cast<const T *>(l.from), l.ld_from, a->rows, a->capacity, a->span,
                     a->block, static_cast<T *>(scratch), l.ld_gathered));
    HN_TRY(HN_CUDA_LAUNCHED("block_dw: gather_columns"));
    hn_gemm_cuda_args g = {};
    g.m = a->capacity, g.n = l.n, g.k = a->rows;
    g.a = scratch, g.ld_a = l.ld_gathered, g.trans_a = true;
    g.b = l.other, g.ld_b = l.ld_other;
    g.c = product, g.ld_c = l.ld_product;
    g.dtype = a->dtype, g.c_dtype = HN_F32, g.alpha = 1.0f;
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    add_lines_kernel<<<hn_grid(a->capacity * l.n, kThreads, kMaxGrid), kThreads, 0, stream>>>(
        product, l.ld_product, l.n, a->capacity, hn_alpha_(a->alpha), a->span, a->grad);
    return HN_CUDA_LAUNCHED("block_dw: add_lines");
}

/* ---- the whole gradient, if *value > above ---- */

size_t row_bytes(const hn_block_dw_args *a)
{
    return (size_t)hn_gemm_cuda_padded(a->in, HN_F32) * sizeof(float);
}

/* Rows of a strip that fits in so many bytes: whole tiles, at least one. */
int64_t strip_rows(const hn_block_dw_args *a, size_t bytes)
{
    constexpr int64_t kTile = HN_SPARSE_TILE;
    const int64_t fit = (int64_t)(bytes / row_bytes(a)) / kTile * kTile;
    const int64_t rows = fit > kTile ? fit : kTile;
    return rows < a->out ? rows : a->out;
}

hn_status run_dense(const hn_block_dw_args *a, hn_gemm_cuda *gemm, float *strip, int64_t rows,
                    const int32_t *value, int32_t above, hn_stream stream)
{
    hn_block_gather_args gather = {};
    gather.dw = strip, gather.span = a->span, gather.block = a->block, gather.grad = a->grad;
    gather.out = a->out, gather.in = a->in, gather.ld_dw = hn_gemm_cuda_padded(a->in, HN_F32);
    gather.shape = a->shape, gather.capacity = a->capacity;
    gather.alpha = a->alpha;
    for (int64_t row = 0; row < a->out; row += rows) {
        hn_gemm_cuda_args g = {};
        g.m = a->out - row < rows ? a->out - row : rows, g.n = a->in, g.k = a->rows;
        g.a = static_cast<const char *>(a->dy) + row * (int64_t)hn_dtype_size(a->dtype);
        g.ld_a = a->ld_dy, g.trans_a = true;
        g.b = a->x, g.ld_b = a->ld_x;
        g.c = strip, g.ld_c = gather.ld_dw;
        g.dtype = a->dtype, g.c_dtype = HN_F32, g.alpha = 1.0f;
        HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
        HN_TRY(hn_block_gather_rows_(&gather, row, g.m, value, above, stream));
    }
    return HN_OK;
}

} // namespace

hn_status hn_block_dw_add_(const hn_block_dw_args *a, const HnRuns_ &runs, const float *part,
                           hn_stream stream)
{
    const int64_t values = hn_block_values(a->shape);
    const int64_t blocks = runs.capacity < runs.most ? runs.capacity : runs.most;
    add_runs_kernel<<<hn_grid(blocks * values, kHnAddThreads_ / kHnAddDeepest_, kMaxGrid / 2),
                      kHnAddThreads_, 0, stream>>>(part, runs, values, hn_alpha_(a->alpha), a->span,
                                                   a->grad);
    return HN_CUDA_LAUNCHED("block_dw: add_runs");
}

namespace {

/* The whole gradient alone. */
hn_status run_whole(const hn_block_dw_args *a, hn_gemm_cuda *gemm, void *scratch, size_t bytes,
                    hn_stream stream)
{
    return run_dense(a, gemm, static_cast<float *>(scratch), strip_rows(a, bytes), &a->span->count,
                     0, stream);
}

/* A path, which has filled its part of the scratch, and the whole gradient if *value > above: in
 * the same scratch from `used` on, as it comes behind. */
hn_status or_whole(const hn_block_dw_args *a, hn_gemm_cuda *gemm, void *scratch, size_t used,
                   const int32_t *value, int32_t above, hn_stream stream)
{
    float *const strip = reinterpret_cast<float *>(static_cast<char *>(scratch) + used);
    const int64_t rows = strip_rows(a, hn_block_dw_cuda_scratch(a) - used);
    hn_cuda_branch branch;
    HN_TRY(hn_cuda_branch_begin(&branch, value, above, stream));
    return hn_cuda_branch_end(&branch, run_dense(a, gemm, strip, rows, value, above, branch.body));
}

bool is_tiled(const hn_block_dw_args *a)
{
    return a->way != HN_BLOCK_DW_WHOLE && hn_block_dw_tile_takes_(a);
}

hn_status check_way(const hn_block_dw_args *a, bool runs)
{
    if (runs || a->way == HN_BLOCK_DW_BEST || a->way == HN_BLOCK_DW_WHOLE) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "block_dw: way %d takes squares of 1 and 4 of bf16 matrices on a device with %d "
                   "bytes of shared memory, in rows of whole 16-byte pieces",
                   (int)a->way, hn_block_dw_tile_shared_(a));
}

} // namespace

/* Operands may turn out not to be aligned, and devices to have little shared memory. Squares go
 * strip by strip then; the scratch has room for the rows of one tile at least. */
size_t hn_block_dw_cuda_scratch(const hn_block_dw_args *a)
{
    if (is_line(a) && is_short(a) && a->way != HN_BLOCK_DW_WHOLE) return lines_of(a).bytes;
    if (is_tiled(a)) {
        const size_t most = hn_block_dw_tile_needs_whole_(a) ? kStripBytes : 0;
        const size_t strip = kHnChoiceBytes_ + (size_t)strip_rows(a, most) * row_bytes(a);
        const size_t sums = hn_block_dw_tile_scratch_(a);
        return sums > strip ? sums : strip;
    }
    const int64_t most = is_line(a) ? 0 : most_blocks(a);
    const size_t strip = (size_t)strip_rows(a, most < a->capacity ? kStripBytes : 0) * row_bytes(a);
    const size_t sums = most > 0 ? path_of(a)->scratch(a, most) : 0;
    return sums > strip ? sums : strip;
}

hn_status hn_block_dw_cuda(const hn_block_dw_args *a, hn_gemm_cuda *gemm, void *scratch,
                           hn_stream stream)
{
    HN_TRY(hn_block_dw_check(a));
    HN_TRY(hn_check_pointer("block_dw", "scratch", scratch));
    const size_t bytes = hn_block_dw_cuda_scratch(a);
    const bool tiled = is_tiled(a) && is_aligned(a) && fits(hn_block_dw_tile_shared_(a));
    HN_TRY(check_way(a, tiled));
    if (tiled) {
        const int32_t *whole;
        HN_TRY(hn_block_dw_tile_(a, scratch, &whole, stream));
        if (!hn_block_dw_tile_needs_whole_(a)) return HN_OK;
        return or_whole(a, gemm, scratch, kHnChoiceBytes_, whole, 0, stream);
    }
    if (is_line(a) && is_short(a) && a->way != HN_BLOCK_DW_WHOLE)
        return run_lines(a, gemm, scratch, stream);
    const int64_t most = is_line(a) ? 0 : most_blocks(a);
    if (most == 0 || !is_aligned(a) || !fits(path_of(a)->shared(a)))
        return run_whole(a, gemm, scratch, bytes, stream);
    HN_TRY(path_of(a)->run(a, most, scratch, stream));
    if (most == a->capacity) return HN_OK;
    return or_whole(a, gemm, scratch, 0, &a->span->count, (int32_t)most, stream);
}
