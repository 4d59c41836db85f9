/* The trained rows are listed in order, and taken from there a chunk at a time: their x is
 * gathered, one product makes logits, linear_ce_rows_cuda.cu turns them into losses and gradient in
 * place, two products give dw and dx, which is scattered. A captured graph skips the chunks that
 * the list does not reach. Row losses are kept in double until one block adds them up in order of
 * the rows. */
#include "kernels/loss/linear_ce.h"

#include "kernels/loss/cuda_linear_ce_rows.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_branch.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kOneBlock = 1024;   /* threads of the kernels that are one block */
constexpr int kCopyThreads = 256; /* a warp a row: 8 rows a block */
constexpr int kCopyRows = kCopyThreads / 32;
constexpr int64_t kDefaultRows = 4096, kMaxLogits = 1ll << 30; /* f32: 4 GiB */

/* Pieces of the scratch. */
struct Work {
    void *logits;     /* [chunk, ld], then dt in place */
    void *gathered;   /* x [chunk, ld_x], then dx [chunk, ld_dx]: the rows lie as the caller's do,
                       * so that products are planned as if they were those */
    double *loss;     /* [rows]; 0 for ignored rows */
    int32_t *list;    /* [rows] the trained ones, in order */
    int32_t *trained; /* [1] their number */
    int64_t chunk, ld;
    size_t n_bytes;
};

Work work_of(const hn_linear_ce_args *a, void *scratch)
{
    Work w = {};
    const auto take = [&](int64_t n, size_t size) -> void * {
        char *const p = scratch ? static_cast<char *>(scratch) + w.n_bytes : nullptr;
        w.n_bytes += ((size_t)n * size + 63) / 64 * 64;
        return p;
    };
    const size_t size = hn_dtype_size(a->dtype);
    w.ld = hn_gemm_cuda_padded(a->vocab, a->dtype);
    w.chunk = a->chunk_rows;
    if (w.chunk == 0) w.chunk = w.ld * kDefaultRows < kMaxLogits ? kDefaultRows : kMaxLogits / w.ld;
    if (w.chunk < 1) w.chunk = 1;
    if (w.chunk > a->rows) w.chunk = a->rows;
    const int64_t ld_rows = a->ld_x > a->ld_dx ? a->ld_x : a->ld_dx;
    w.logits = take(w.chunk * w.ld, size);
    w.gathered = take(w.chunk * ld_rows, size);
    w.loss = static_cast<double *>(take(a->rows, sizeof *w.loss));
    w.list = static_cast<int32_t *>(take(a->rows, sizeof *w.list));
    w.trained = static_cast<int32_t *>(take(1, sizeof *w.trained));
    return w;
}

/* ---- which rows ---- */

/* Sum of v over the threads before this one; *total: over all of the block. */
__device__ int scan(int v, int *total)
{
    __shared__ int sums[kOneBlock / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int upto = v;
    for (int d = 1; d < 32; d *= 2) {
        const int below = __shfl_up_sync(0xffffffffu, upto, d);
        if (lane >= d) upto += below;
    }
    if (lane == 31) sums[warp] = upto;
    __syncthreads();
    int before = 0, all = 0;
    for (int k = 0; k < kOneBlock / 32; k++) {
        if (k < warp) before += sums[k];
        all += sums[k];
    }
    *total = all;
    return before + upto - v;
}

/* One block; a thread has neighbouring rows. */
__global__ void __launch_bounds__(kOneBlock)
    linear_ce_list_kernel(const int32_t *labels, int64_t rows, int32_t *list, int32_t *trained)
{
    const int64_t each = (rows + kOneBlock - 1) / kOneBlock;
    const int64_t first = threadIdx.x * each, end = first + each < rows ? first + each : rows;
    int n = 0, total;
    for (int64_t i = first; i < end; i++) n += labels[i] != HN_LABEL_IGNORED;
    int at = scan(n, &total);
    for (int64_t i = first; i < end; i++)
        if (labels[i] != HN_LABEL_IGNORED) list[at++] = (int32_t)i;
    if (threadIdx.x == 0) *trained = total;
}

/* V: 16 bytes, or one element where rows are not made of such pieces. Columns count in V. */
template <class V>
__device__ __forceinline__ void copy_row(V *to, const V *from, int64_t cols)
{
#pragma unroll 4
    for (int64_t c = threadIdx.x % 32; c < cols; c += 32) to[c] = from[c];
}

template <class V>
__device__ __forceinline__ void clear_row(V *to, int64_t cols)
{
    for (int64_t c = threadIdx.x % 32; c < cols; c += 32) to[c] = V{};
}

/* Rows first .. first + n of the list, at to; zeros behind its end. */
template <class V>
__global__ void __launch_bounds__(kCopyThreads)
    linear_ce_gather_kernel(V *to, const V *x, int64_t ld, int64_t cols, const int32_t *list,
                            const int32_t *trained, int64_t first, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * kCopyRows + threadIdx.x / 32;
    if (i >= n) return;
    if (first + i < *trained)
        copy_row(to + i * ld, x + list[first + i] * ld, cols);
    else
        clear_row(to + i * ld, cols);
}

/* And back; rows behind the end of the list stay here. */
template <class V>
__global__ void __launch_bounds__(kCopyThreads)
    linear_ce_scatter_kernel(V *dx, const V *from, int64_t ld, int64_t cols, const int32_t *list,
                             const int32_t *trained, int64_t first, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * kCopyRows + threadIdx.x / 32;
    if (i < n && first + i < *trained) copy_row(dx + list[first + i] * ld, from + i * ld, cols);
}

/* What ignored rows give. */
template <class V>
__global__ void __launch_bounds__(kCopyThreads)
    linear_ce_ignored_kernel(V *dx, int64_t ld, int64_t cols, const int32_t *labels, int64_t rows,
                             double *loss, float *row_loss)
{
    const int64_t i = (int64_t)blockIdx.x * kCopyRows + threadIdx.x / 32;
    if (i >= rows || labels[i] != HN_LABEL_IGNORED) return;
    if (dx != nullptr) clear_row(dx + i * ld, cols);
    if (threadIdx.x % 32 != 0) return;
    loss[i] = 0.0;
    if (row_loss != nullptr) row_loss[i] = 0.0f;
}

/* One block: sums in an order that depends on rows only. */
__global__ void __launch_bounds__(kOneBlock)
    linear_ce_sum_kernel(const double *loss, const int32_t *trained, int64_t rows, float *loss_sum,
                         float *count)
{
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < rows; i += kOneBlock) sum += loss[i];
    sum = hn_block_sum<kOneBlock>(sum);
    if (threadIdx.x != 0) return;
    if (loss_sum != nullptr) *loss_sum = (float)((double)*loss_sum + sum);
    if (count != nullptr) *count += (float)*trained;
}

/* ---- launching ---- */

unsigned copy_blocks(int64_t rows) { return (unsigned)((rows + kCopyRows - 1) / kCopyRows); }

/* Whether rows of this matrix can be moved in pieces of 16 bytes. */
bool in_pieces(const hn_linear_ce_args *a, const void *p, int64_t ld)
{
    const size_t size = hn_dtype_size(a->dtype);
    return (uintptr_t)p % 16 == 0 && (size_t)ld * size % 16 == 0 && (size_t)a->dim * size % 16 == 0;
}

/* Runs the statement with V standing for what is moved at a time, `per` for the elements in it. */
#define MOVE(a, p, ld, V, per, ...)                                      \
    do {                                                                 \
        if (in_pieces((a), (p), (ld))) {                                 \
            using V = uint4;                                             \
            const int64_t per = 16 / (int64_t)hn_dtype_size((a)->dtype); \
            __VA_ARGS__;                                                 \
        } else {                                                         \
            const int64_t per = 1;                                       \
            HN_CUDA_REAL((a)->dtype, V, __VA_ARGS__);                    \
        }                                                                \
    } while (0)

hn_status list_rows(const hn_linear_ce_args *a, const Work &w, hn_stream stream)
{
    linear_ce_list_kernel<<<1, kOneBlock, 0, stream>>>(a->labels, a->rows, w.list, w.trained);
    MOVE(a, a->dx, a->ld_dx, V, per,
         linear_ce_ignored_kernel<<<copy_blocks(a->rows), kCopyThreads, 0, stream>>>(
             static_cast<V *>(a->dx), a->ld_dx / per, a->dim / per, a->labels, a->rows, w.loss,
             a->row_loss));
    return HN_CUDA_LAUNCHED("linear_ce: list");
}

hn_status gather(const hn_linear_ce_args *a, const Work &w, int64_t first, int64_t n,
                 hn_stream stream)
{
    MOVE(a, a->x, a->ld_x, V, per,
         linear_ce_gather_kernel<<<copy_blocks(n), kCopyThreads, 0, stream>>>(
             static_cast<V *>(w.gathered), static_cast<const V *>(a->x), a->ld_x / per,
             a->dim / per, w.list, w.trained, first, n));
    return HN_CUDA_LAUNCHED("linear_ce: gather");
}

hn_status scatter(const hn_linear_ce_args *a, const Work &w, int64_t first, int64_t n,
                  hn_stream stream)
{
    MOVE(a, a->dx, a->ld_dx, V, per,
         linear_ce_scatter_kernel<<<copy_blocks(n), kCopyThreads, 0, stream>>>(
             static_cast<V *>(a->dx), static_cast<const V *>(w.gathered), a->ld_dx / per,
             a->dim / per, w.list, w.trained, first, n));
    return HN_CUDA_LAUNCHED("linear_ce: scatter");
}

/* dw += dt^T x, then dx = dt w, which takes x's place. */
hn_status products(const hn_linear_ce_args *a, const Work &w, hn_gemm_cuda *gemm, int64_t n,
                   hn_stream stream)
{
    hn_gemm_cuda_args g = {};
    g.a = w.logits, g.ld_a = w.ld;
    g.dtype = a->dtype, g.alpha = 1.0f;
    if (a->dw != nullptr) {
        hn_gemm_cuda_args d = g;
        d.m = a->vocab, d.n = a->dim, d.k = n, d.trans_a = true;
        d.b = w.gathered, d.ld_b = a->ld_x;
        d.c = a->dw, d.ld_c = a->ld_dw, d.c_dtype = HN_F32, d.beta = 1.0f;
        HN_TRY(hn_gemm_cuda_run(gemm, &d, stream));
    }
    if (a->dx == nullptr) return HN_OK;
    g.m = n, g.n = a->dim, g.k = a->vocab;
    g.b = a->w, g.ld_b = a->ld_w;
    g.c = w.gathered, g.ld_c = a->ld_dx, g.c_dtype = a->dtype;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

/* Trained rows first .. first + n - 1, or as many as there are. */
hn_status run_chunk(const hn_linear_ce_args *a, const Work &w, hn_gemm_cuda *gemm, int64_t first,
                    int64_t n, hn_stream stream)
{
    hn_gemm_cuda_args g = {};
    g.m = n, g.n = a->vocab, g.k = a->dim;
    g.a = w.gathered, g.ld_a = a->ld_x;
    g.b = a->w, g.ld_b = a->ld_w, g.trans_b = true;
    g.c = w.logits, g.ld_c = w.ld;
    g.dtype = g.c_dtype = a->dtype, g.alpha = 1.0f;
    hn_linear_ce_rows r = {};
    r.logits = w.logits, r.ld = w.ld, r.vocab = a->vocab, r.n = n;
    r.labels = a->labels, r.list = w.list, r.trained = w.trained, r.first = first;
    r.loss = w.loss, r.row_loss = a->row_loss;
    r.softcap = a->softcap, r.gradient = a->dx != nullptr || a->dw != nullptr;
    r.dtype = a->dtype;
    HN_TRY(gather(a, w, first, n, stream));
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    HN_TRY(hn_linear_ce_rows_run(&r, stream));
    if (r.gradient) HN_TRY(products(a, w, gemm, n, stream));
    return a->dx != nullptr ? scatter(a, w, first, n, stream) : HN_OK;
}

} // namespace

size_t hn_linear_ce_cuda_scratch(const hn_linear_ce_args *a) { return work_of(a, nullptr).n_bytes; }

hn_status hn_linear_ce_cuda(const hn_linear_ce_args *a, hn_gemm_cuda *gemm, void *scratch,
                            hn_stream stream)
{
    HN_TRY(hn_linear_ce_check(a));
    HN_TRY(hn_check_pointer("linear_ce", "scratch", scratch));
    const Work w = work_of(a, scratch);
    HN_TRY(list_rows(a, w, stream));
    for (int64_t first = 0; first < a->rows; first += w.chunk) {
        const int64_t n = a->rows - first < w.chunk ? a->rows - first : w.chunk;
        if (first == 0) { /* hardly ever without a trained row */
            HN_TRY(run_chunk(a, w, gemm, first, n, stream));
            continue;
        }
        hn_cuda_branch b;
        HN_TRY(hn_cuda_branch_begin(&b, w.trained, (int32_t)first, stream));
        const hn_status st = run_chunk(a, w, gemm, first, n, b.body);
        HN_TRY(hn_cuda_branch_end(&b, st));
    }
    if (a->loss_sum == nullptr && a->count == nullptr) return HN_OK;
    linear_ce_sum_kernel<<<1, kOneBlock, 0, stream>>>(w.loss, w.trained, a->rows, a->loss_sum,
                                                      a->count);
    return HN_CUDA_LAUNCHED("linear_ce: sum");
}
