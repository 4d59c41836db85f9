/* Each product is one cuBLASLt call, batched over the replicas; what it cannot do in the same pass
 * (a bias of another dtype, column sums, dropped operands) is a plain kernel before or after it. */
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_dw.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_runs.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1ll << 20; /* blocks loop over what is left */

float alpha_of(float alpha) { return alpha == 0.0f ? 1.0f : alpha; }

/* The batch of a product with activations: one product where all replicas share the parameters. */
int64_t batch_of(int64_t replicas, bool shared) { return shared ? 1 : hn_replica_count(replicas); }

/* ---- y = round(product + bias + add), bias of its own dtype ---- */

template <class T, class B>
__global__ void __launch_bounds__(kThreads)
    add_bias_kernel(const float *product, int64_t ld_p, const B *bias, int64_t bias_stride,
                    int64_t group, const T *add, int64_t ld_add, T *y, int64_t ld_y, int64_t rows,
                    int64_t cols)
{
    const int64_t n = rows * cols;
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t i = at / cols, j = at % cols;
        float v = product[i * ld_p + j] + hn_f32(bias[i / group * bias_stride + j]);
        if (add != nullptr) v += hn_f32(add[i * ld_add + j]);
        y[i * ld_y + j] = hn_round<T>(v);
    }
}

template <class T, class B>
void add_bias(const hn_linear_args *a, const float *product, cudaStream_t stream)
{
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    add_bias_kernel<T, B><<<hn_grid(a->rows * a->out, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        product, hn_gemm_cuda_padded(a->out, HN_F32), static_cast<const B *>(a->bias),
        a->replicas > 1 ? a->bias_stride : 0, group, static_cast<const T *>(a->add), a->ld_add,
        static_cast<T *>(a->y), a->ld_y, a->rows, a->out);
}

/* ---- column sums ---- */

/* A block has 64 columns (32 where they are taken one by one) of a run of rows. There are about
 * three blocks a multiprocessor of an H200, all at work at a time. */
template <int kWidth>
constexpr int kAcross = kWidth == 1 ? 32 : 8; /* threads side by side */
constexpr int64_t kSumBlocks = 3 * 132;
constexpr int64_t kLeastRun = kThreads / 8; /* rows: one a thread */
constexpr int kDeep = 4;                    /* rows that a thread has under way */

struct Columns {
    int64_t rows, cols, ld, length, runs, replicas; /* rows and runs of one replica */
    int64_t still, n_still;
};

Columns columns_of(const hn_linear_db_args *a)
{
    const int64_t replicas = hn_replica_count(a->replicas), rows = a->rows / replicas;
    const int64_t strips = replicas * ((a->out + 63) / 64);
    const int64_t wanted = strips < kSumBlocks ? kSumBlocks / strips : 1;
    const int64_t shared = (rows + wanted - 1) / wanted;
    const int64_t length = shared > kLeastRun ? shared : kLeastRun;
    return {rows,     a->out,   a->ld_dy,  length, (rows + length - 1) / length,
            replicas, a->still, a->n_still};
}

/* Adds every kStep-th of n rows, which lie ld apart from `from` on; `left` columns are there from
 * the thread's first on. */
template <int kWidth, int kStep, class T>
__device__ __forceinline__ void add_rows(const T *from, int64_t ld, int64_t n, int64_t left,
                                         float (&sum)[kWidth])
{
    float v[kWidth];
    if constexpr (kWidth == HN_VEC) {
        int64_t i = 0;
        for (; left >= kWidth && i < n; i += kDeep * kStep) {
            hn_pack<T> raw[kDeep] = {}; /* rows past the end add zeros */
#pragma unroll
            for (int u = 0; u < kDeep; u++)
                if (i + u * kStep < n) raw[u] = hn_load_pack(from + (i + u * kStep) * ld);
#pragma unroll
            for (int u = 0; u < kDeep; u++) {
                hn_unpack(raw[u], v);
#pragma unroll
                for (int k = 0; k < kWidth; k++) sum[k] += v[k];
            }
        }
        if (left >= kWidth) return;
    }
#pragma unroll(kWidth == 1 ? kDeep : 1)
    for (int64_t i = 0; i < n; i += kStep) {
        hn_load_span<kWidth>(from + i * ld, left, v);
#pragma unroll
        for (int k = 0; k < kWidth; k++) sum[k] += v[k];
    }
}

/* part[replica][run][col] = sum of dy over the run's rows; a thread has kWidth columns. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 3)
    sum_runs_kernel(const T *dy, const Columns c, float *part)
{
    constexpr int kBeside = kAcross<kWidth>, kBelow = kThreads / kBeside, kWarps = kThreads / 32;
    constexpr int kCols = kBeside * kWidth, kKept = kWidth * kBeside / 32;
    __shared__ float of_warp[kWarps][kCols];
    const int x = (int)threadIdx.x % kBeside * kWidth, below = (int)threadIdx.x / kBeside;
    const int64_t strips = (c.cols + kCols - 1) / kCols;
    const int64_t at = blockIdx.x / (uint32_t)strips; /* replica, run */
    const int64_t strip = (blockIdx.x - at * strips) * kCols;
    if (strip >= c.still && strip + kCols <= c.still + c.n_still) return; /* nobody reads them */
    const int64_t g = (uint32_t)at / (uint32_t)c.runs, first = (at - g * c.runs) * c.length;
    const int64_t rows = c.rows - first < c.length ? c.rows - first : c.length;
    const int64_t left = c.cols - strip - x; /* columns from this thread's first on */
    float sum[kWidth] = {};
    if (left > 0)
        add_rows<kWidth, kBelow>(dy + (g * c.rows + first + below) * c.ld + strip + x, c.ld,
                                 rows - below, left, sum);
    hn_fold<kBeside, kWidth>(sum);
#pragma unroll
    for (int k = 0; k < kKept; k++)
        of_warp[threadIdx.x / 32][x + hn_folded<kBeside, kWidth>() + k] = sum[k];
    __syncthreads();
    const int col = (int)threadIdx.x;
    if (col >= kCols || strip + col >= c.cols) return;
    float all = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) all += of_warp[w][col];
    part[at * c.cols + strip + col] = all;
}

/* db[replica][col] += alpha * sum of the runs, in order. */
__global__ void __launch_bounds__(HN_RUN_THREADS)
    add_runs_kernel(const float *part, const Columns c, float alpha, float *db, int64_t db_stride)
{
    const int64_t strips = (c.cols + HN_RUN_COLS - 1) / HN_RUN_COLS;
    const int64_t g = blockIdx.x / (uint32_t)strips;
    const int64_t col = (blockIdx.x - g * strips) * HN_RUN_COLS + threadIdx.x % HN_RUN_COLS;
    const bool moves = col < c.cols && !(col >= c.still && col < c.still + c.n_still);
    const bool writes = threadIdx.x < HN_RUN_COLS && moves;
    float *const to = db + g * db_stride + col;
    const float before = writes ? *to : 0.0f; /* on its way with the runs */
    const float sum = hn_add_runs(part + g * c.runs * c.cols + col, c.cols, c.runs, moves);
    if (writes) *to = before + alpha * sum;
}

/* ---- dw in pieces ---- */

/* A small dw over many rows is too few tiles for a GPU, and long ones: [192, 192] over 12,608 rows
 * is four. So pieces of the rows are products of their own, one tile a multiprocessor of an H200,
 * added up in order. Not the narrow ones of adapters, which memory bounds, and not f32. */
constexpr int64_t kTile = 128, kTiles = 132, kNarrow = 64, kLeastRows = 256;

int64_t dw_pieces(const hn_linear_dw_args *a)
{
    if (a->dtype != HN_BF16 || a->replicas > 1 || a->out <= kNarrow || a->in <= kNarrow) return 1;
    const int64_t tiles = ((a->out + kTile - 1) / kTile) * ((a->in + kTile - 1) / kTile);
    int64_t n = kTiles / tiles;
    while (n > 1 && (a->rows % n != 0 || a->rows / n < kLeastRows)) n--;
    return n > 1 ? n : 1;
}

/* dw += the pieces, in order; the loads of a batch go out together. There are fewer values than
 * 2^31 (kTiles tiles). */
__global__ void __launch_bounds__(kThreads)
    add_pieces_kernel(const float *piece, int pieces, int64_t ld, float *dw, int64_t rows,
                      hn_divisor by_cols, int64_t cols, int64_t ld_dw)
{
    constexpr int kBatch = 16;
    const int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (at >= rows * cols) return;
    const int64_t i = hn_divide((uint32_t)at, by_cols), j = at - i * cols;
    const float *const from = piece + i * ld + j;
    float *const to = dw + i * ld_dw + j;
    const float before = *to;
    float sum = 0.0f;
    for (int p = 0; p < pieces; p += kBatch) {
        float v[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; b++) v[b] = p + b < pieces ? from[(p + b) * rows * ld] : 0.0f;
#pragma unroll
        for (int b = 0; b < kBatch; b++)
            if (p + b < pieces) sum += v[b];
    }
    *to = before + sum;
}

size_t dropped_bytes(const hn_linear_dw_args *a)
{
    if (a->drop.p == 0.0) return 0;
    const size_t bytes = (size_t)(a->rows * hn_gemm_cuda_padded(a->in, a->dtype));
    return (bytes * hn_dtype_size(a->dtype) + 255) / 256 * 256;
}

template <class T, int kWidth>
void sum_runs(const hn_linear_db_args *a, const Columns &c, float *part, cudaStream_t stream)
{
    constexpr int64_t kCols = kAcross<kWidth> * kWidth;
    const int64_t blocks = (c.cols + kCols - 1) / kCols * c.runs * c.replicas;
    sum_runs_kernel<T, kWidth>
        <<<(unsigned)blocks, kThreads, 0, stream>>>(static_cast<const T *>(a->dy), c, part);
}

template <class T>
void sum_runs(const hn_linear_db_args *a, const Columns &c, float *part, cudaStream_t stream)
{
    if (hn_vectors_fit(a->dy, a->ld_dy, a->dtype))
        sum_runs<T, HN_VEC>(a, c, part, stream);
    else
        sum_runs<T, 1>(a, c, part, stream);
}

} // namespace

size_t hn_linear_fwd_cuda_scratch(const hn_linear_args *a)
{
    if (a->bias_dtype == a->dtype) return 0;
    return (size_t)(a->rows * hn_gemm_cuda_padded(a->out, HN_F32)) * sizeof(float);
}

hn_status hn_linear_fwd_cuda(const hn_linear_args *a, hn_gemm_cuda *gemm, void *scratch,
                             hn_stream stream)
{
    HN_TRY(hn_linear_check(a));
    const bool apart = a->bias != nullptr && a->bias_dtype != a->dtype;
    if (apart) HN_TRY(hn_check_pointer("linear", "scratch", scratch));
    const bool shared = a->w_stride == 0 && (a->bias == nullptr || apart || a->bias_stride == 0);
    hn_gemm_cuda_args g = {};
    g.batch = batch_of(a->replicas, shared);
    g.m = a->rows / g.batch, g.n = a->out, g.k = a->in;
    g.a = a->x, g.ld_a = a->ld_x, g.a_stride = g.m * a->ld_x;
    g.b = a->w, g.ld_b = a->ld_w, g.b_stride = a->w_stride, g.trans_b = true;
    g.dtype = a->dtype, g.alpha = alpha_of(a->alpha);
    if (apart) {
        g.c = scratch, g.ld_c = hn_gemm_cuda_padded(a->out, HN_F32), g.c_dtype = HN_F32;
    } else {
        g.c = a->y, g.ld_c = a->ld_y, g.c_dtype = a->dtype;
        g.bias = a->bias, g.bias_stride = a->bias_stride;
        g.c0 = a->add, g.ld_c0 = a->ld_add, g.c0_stride = g.m * a->ld_add;
        g.beta = a->add != nullptr ? 1.0f : 0.0f;
    }
    g.c_stride = g.m * g.ld_c;
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    if (!apart) return HN_OK;
    if (a->dtype == HN_F32)
        add_bias<float, __nv_bfloat16>(a, static_cast<const float *>(scratch), stream);
    else
        add_bias<__nv_bfloat16, float>(a, static_cast<const float *>(scratch), stream);
    return HN_CUDA_LAUNCHED("linear: add_bias");
}

hn_status hn_linear_dx_cuda(const hn_linear_dx_args *a, hn_gemm_cuda *gemm, hn_stream stream)
{
    HN_TRY(hn_linear_dx_check(a));
    hn_gemm_cuda_args g = {};
    g.batch = batch_of(a->replicas, a->w_stride == 0);
    g.m = a->rows / g.batch, g.n = a->in, g.k = a->out;
    g.a = a->dy, g.ld_a = a->ld_dy, g.a_stride = g.m * a->ld_dy;
    g.b = a->w, g.ld_b = a->ld_w, g.b_stride = a->w_stride;
    g.c = a->dx, g.ld_c = a->ld_dx, g.c_stride = g.m * a->ld_dx;
    g.c0 = a->add, g.ld_c0 = a->ld_add, g.c0_stride = g.m * a->ld_add;
    g.dtype = g.c_dtype = a->dtype;
    g.alpha = alpha_of(a->alpha), g.beta = a->add != nullptr ? 1.0f : 0.0f;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

/* Scratch: x' | pieces of dw */
size_t hn_linear_dw_cuda_scratch(const hn_linear_dw_args *a)
{
    const int64_t n = dw_pieces(a), piece = a->out * hn_gemm_cuda_padded(a->in, HN_F32);
    return dropped_bytes(a) + (n > 1 ? (size_t)(n * piece) * sizeof(float) : 0);
}

static hn_status dw_in_pieces(const hn_linear_dw_args *a, hn_gemm_cuda_args g, int64_t pieces,
                              float *scratch, hn_gemm_cuda *gemm, hn_stream stream)
{
    g.batch = pieces, g.k = a->rows / pieces;
    g.a_stride = g.k * g.ld_a, g.b_stride = g.k * g.ld_b;
    g.c = scratch, g.ld_c = hn_gemm_cuda_padded(a->in, HN_F32), g.c_stride = a->out * g.ld_c;
    g.beta = 0.0f;
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    add_pieces_kernel<<<hn_grid(a->out * a->in, kThreads, INT32_MAX), kThreads, 0, stream>>>(
        scratch, (int)pieces, g.ld_c, a->dw, a->out, hn_divisor_of(a->in), a->in, a->ld_dw);
    return HN_CUDA_LAUNCHED("linear_dw: add_pieces");
}

hn_status hn_linear_dw_cuda(const hn_linear_dw_args *a, hn_gemm_cuda *gemm, void *scratch,
                            hn_stream stream)
{
    HN_TRY(hn_linear_dw_check(a));
    if (hn_linear_dw_cuda_scratch(a) > 0) HN_TRY(hn_check_pointer("linear_dw", "scratch", scratch));
    hn_gemm_cuda_args g = {};
    g.batch = batch_of(a->replicas, false);
    g.m = a->out, g.n = a->in, g.k = a->rows / g.batch;
    g.a = a->dy, g.ld_a = a->ld_dy, g.trans_a = true;
    g.b = a->x, g.ld_b = a->ld_x;
    g.c = a->dw, g.ld_c = a->ld_dw, g.c_stride = a->dw_stride;
    g.dtype = a->dtype, g.c_dtype = HN_F32;
    g.alpha = alpha_of(a->alpha), g.beta = 1.0f;
    if (a->drop.p > 0.0) {
        hn_dropout_args d = {};
        d.x = a->x, d.y = scratch, d.rows = a->rows, d.cols = a->in;
        d.ld_x = a->ld_x, d.ld_y = hn_gemm_cuda_padded(a->in, a->dtype);
        d.dtype = a->dtype, d.key = a->drop;
        HN_TRY(hn_dropout_cuda(&d, stream));
        g.b = scratch, g.ld_b = d.ld_y;
    }
    const int64_t pieces = dw_pieces(a);
    if (pieces > 1) {
        char *const behind = static_cast<char *>(scratch) + dropped_bytes(a);
        return dw_in_pieces(a, g, pieces, reinterpret_cast<float *>(behind), gemm, stream);
    }
    g.a_stride = g.k * g.ld_a, g.b_stride = g.k * g.ld_b;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

size_t hn_linear_db_cuda_scratch(const hn_linear_db_args *a)
{
    const Columns c = columns_of(a);
    return (size_t)(c.replicas * c.runs * c.cols) * sizeof(float);
}

hn_status hn_linear_db_cuda(const hn_linear_db_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_linear_db_check(a));
    HN_TRY(hn_check_pointer("linear_db", "scratch", scratch));
    const Columns c = columns_of(a);
    float *const part = static_cast<float *>(scratch);
    HN_CUDA_REAL(a->dtype, T, sum_runs<T>(a, c, part, stream));
    const int64_t blocks = c.replicas * ((c.cols + HN_RUN_COLS - 1) / HN_RUN_COLS);
    add_runs_kernel<<<(unsigned)blocks, HN_RUN_THREADS, 0, stream>>>(part, c, alpha_of(a->alpha),
                                                                     a->db, a->db_stride);
    return HN_CUDA_LAUNCHED("linear_db");
}
