/* Which way: by capacity, as the number of blocks is not known when the launch is made.
 *
 *   rows, columns   the chosen columns of dy (or x) side by side, one product by cuBLASLt
 *   squares of 16 to 256, bf16    block_dw_mma_cuda.cu
 *   squares of 1 and 4, bf16      block_dw_slab_cuda.cu
 *   else, and where so much may be chosen that it would take longer than the whole gradient: the
 *   whole gradient by cuBLASLt, strip by strip, of which the chosen values are gathered
 */
#include "kernels/sparse/cuda_block_dw.h"
#include "runtime/base/check.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGrid = kHnSms_ * 16; /* blocks loop over what is left */
constexpr size_t kStripBytes = 64 << 20;   /* of the whole gradient at a time */

/* Squares are read in pieces of 16 or 8 bytes. */
bool is_aligned(const hn_block_dw_args *a)
{
    return (uintptr_t)a->dy % 16 == 0 && (uintptr_t)a->x % 16 == 0;
}

enum class Path { kLines, kSquares, kSlab, kDense };

/* The share of a matrix above which the whole gradient is faster: the reading of operands a block
 * (16, 32: half and a quarter of the L2's rate), the rate of mma (64 and more), the reads of shared
 * memory (1, 4). */
double most_of(int64_t side)
{
    switch (side) {
    case 1: return 0.005;
    case 4: return 0.015;
    case 16: return 0.06;
    case 32: return 0.12;
    case 64: return 0.25;
    default: return 0.45;
    }
}

bool is_line(const hn_block_dw_args *a) { return a->shape.br == 1 || a->shape.bc == 1; }

Path path_of(const hn_block_dw_args *a)
{
    const int64_t values = hn_block_values(a->shape);
    const double share = (double)(a->capacity * values) / ((double)a->out * (double)a->in);
    if (is_line(a) && values > 1) return share <= 0.6 ? Path::kLines : Path::kDense;
    if (share > most_of(a->shape.br)) return Path::kDense;
    if (hn_block_dw_mma_takes_(a)) return Path::kSquares;
    return hn_block_dw_slab_takes_(a) ? Path::kSlab : Path::kDense;
}

/* ---- sums of the runs ---- */

__global__ void __launch_bounds__(kThreads)
    add_runs_kernel(const float *__restrict__ part, const HnRuns_ runs, int64_t values,
                    int64_t capacity, float alpha, const hn_sparse_span *span, float *grad)
{
    const int64_t blocks = hn_span_blocks_(span, capacity), n = blocks * values;
    const int64_t count = hn_runs_(runs, hn_items_(runs, blocks));
    float *const to = grad + span->first_value;
    for (int64_t v = (int64_t)blockIdx.x * kThreads + threadIdx.x; v < n;
         v += (int64_t)gridDim.x * kThreads) {
        float sum = 0.0f;
#pragma unroll 16 /* loads under way */
        for (int64_t r = 0; r < count; r++) sum += part[r * n + v];
        to[v] += alpha * sum;
    }
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

/* ---- the whole gradient ---- */

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
                    hn_stream stream)
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
        HN_TRY(hn_block_gather_rows_(&gather, row, g.m, stream));
    }
    return HN_OK;
}

} // namespace

hn_status hn_block_dw_add_(const hn_block_dw_args *a, const HnRuns_ &runs, const float *part,
                           hn_stream stream)
{
    const int64_t values = hn_block_values(a->shape);
    add_runs_kernel<<<hn_grid(a->capacity * values, kThreads, kMaxGrid), kThreads, 0, stream>>>(
        part, runs, values, a->capacity, hn_alpha_(a->alpha), a->span, a->grad);
    return HN_CUDA_LAUNCHED("block_dw: add_runs");
}

/* Operands may turn out not to be aligned, and devices to have little shared memory. Squares go
 * strip by strip then; the scratch has room for the rows of one tile at least. */
size_t hn_block_dw_cuda_scratch(const hn_block_dw_args *a)
{
    const Path path = path_of(a);
    if (path == Path::kLines) return lines_of(a).bytes;
    if (path == Path::kDense) return (size_t)strip_rows(a, kStripBytes) * row_bytes(a);
    const size_t least = (size_t)strip_rows(a, 0) * row_bytes(a);
    const size_t sums =
        path == Path::kSquares ? hn_block_dw_mma_scratch_(a) : hn_block_dw_slab_scratch_(a);
    return sums > least ? sums : least;
}

hn_status hn_block_dw_cuda(const hn_block_dw_args *a, hn_gemm_cuda *gemm, void *scratch,
                           hn_stream stream)
{
    HN_TRY(hn_block_dw_check(a));
    HN_TRY(hn_check_pointer("block_dw", "scratch", scratch));
    const Path path = path_of(a);
    if (path == Path::kLines) return run_lines(a, gemm, scratch, stream);
    const bool fits = path != Path::kSlab || hn_block_dw_slab_fits_();
    if (path == Path::kDense || !fits || !is_aligned(a))
        return run_dense(a, gemm, static_cast<float *>(scratch),
                         strip_rows(a, hn_block_dw_cuda_scratch(a)), stream);
    if (path == Path::kSquares) return hn_block_dw_mma_(a, scratch, stream);
    return hn_block_dw_slab_(a, scratch, stream);
}
