/* By chunks of rows: logits f32 by cuBLASLt, one block a row turns them into loss and gradient in
 * place (a bf16 gradient fills the front half of its row), two products give dx and dw. Row losses
 * are kept in double until one block adds them up in order. */
#include "kernels/loss/linear_ce.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kRowThreads = 512; /* a row of 128k logits: 256 a thread */
constexpr int kSumThreads = 1024;
constexpr int64_t kDefaultRows = 4096, kMaxLogits = 1ll << 30; /* f32: 4 GiB */

/* Pieces of the scratch. */
struct Work {
    float *logits; /* [chunk, ld], then dt in place */
    double *loss;  /* [rows]; 0 for ignored rows */
    int64_t chunk, ld;
    size_t n_bytes;
};

Work work_of(const hn_linear_ce_args *a, void *scratch)
{
    Work w = {};
    w.ld = hn_gemm_cuda_padded(a->vocab, HN_F32);
    w.chunk = a->chunk_rows;
    if (w.chunk == 0) w.chunk = w.ld * kDefaultRows < kMaxLogits ? kDefaultRows : kMaxLogits / w.ld;
    if (w.chunk < 1) w.chunk = 1;
    if (w.chunk > a->rows) w.chunk = a->rows;
    const size_t logits = ((size_t)(w.chunk * w.ld) * sizeof(float) + 63) / 64 * 64;
    w.n_bytes = logits + (size_t)a->rows * sizeof(double);
    if (scratch == nullptr) return w;
    w.logits = static_cast<float *>(scratch);
    w.loss = reinterpret_cast<double *>(static_cast<char *>(scratch) + logits);
    return w;
}

struct Rows {
    float *logits;
    int64_t ld, vocab;
    const int32_t *labels; /* of the chunk, as the two below */
    double *loss;
    float *row_loss; /* NULL: not wanted */
    float softcap;
    bool gradient; /* logits become dt */
};

/* z of a logit t; the same instructions in both walks over the row. */
__device__ __forceinline__ float cap(float t, float softcap)
{
    return softcap > 0.0f ? softcap * tanhf(t / softcap) : t;
}

/* Largest z of the row and sum of exp(z - largest): first a running pair a thread. */
__device__ void softmax_sums(const float *t, const Rows &r, float *most, float *sum)
{
    float m = -INFINITY, s = 0.0f;
    for (int64_t n = threadIdx.x; n < r.vocab; n += kRowThreads) {
        const float z = cap(t[n], r.softcap);
        if (z > m) {
            s = s * expf(m - z) + 1.0f; /* the first time 0 * exp(-inf) */
            m = z;
        } else if (z != -INFINITY) { /* which adds nothing, and m may be -inf still */
            s += expf(z - m);        /* NaN for a NaN: it stays in the sum */
        }
    }
    *most = hn_block_max<kRowThreads>(m);
    /* a thread without columns has s = 0 and exp(-inf) */
    *sum = hn_block_sum<kRowThreads>(s * expf(m - *most));
}

/* dt of one logit. */
__device__ __forceinline__ float gradient(float t, bool target, float most, float scale,
                                          float softcap)
{
    const float z = cap(t, softcap);
    const float dz = expf(z - most) * scale - (target ? 1.0f : 0.0f);
    if (!(softcap > 0.0f)) return dz;
    const float u = z / softcap;
    return dz * (1.0f - u * u);
}

/* Block b: row b of the chunk. T: dtype of dt, written over the logits from the row's start. */
template <class T>
__global__ void __launch_bounds__(kRowThreads) linear_ce_row_kernel(const Rows r)
{
    const int64_t row = blockIdx.x;
    float *const t = r.logits + row * r.ld;
    T *const dt = reinterpret_cast<T *>(t);
    const int64_t label = r.labels[row];
    const bool trained = label != HN_LABEL_IGNORED;
    float most = 0.0f, scale = 0.0f;
    if (trained) { /* the same for the whole block */
        float sum;
        softmax_sums(t, r, &most, &sum);
        scale = 1.0f / sum;
        if (threadIdx.x == 0) {
            const bool known = label >= 0 && label < r.vocab;
            const double target = known ? (double)cap(t[label], r.softcap) : (double)NAN;
            const double loss = (double)most - target + log((double)sum);
            r.loss[row] = loss;
            if (r.row_loss != nullptr) r.row_loss[row] = (float)loss;
        }
    } else if (threadIdx.x == 0) {
        r.loss[row] = 0.0;
        if (r.row_loss != nullptr) r.row_loss[row] = 0.0f;
    }
    if (!r.gradient) return;
    __syncthreads(); /* thread 0 has read the target */
    /* A piece is read by all before any of it is written: element n of a bf16 row lies in the
     * memory of logit n / 2, which belongs to this piece or to an earlier one. */
    for (int64_t first = 0; first < r.vocab; first += kRowThreads) {
        const int64_t n = first + threadIdx.x;
        float d = 0.0f;
        if (trained && n < r.vocab) d = gradient(t[n], n == label, most, scale, r.softcap);
        if (sizeof(T) < sizeof(float)) __syncthreads();
        if (n < r.vocab) dt[n] = hn_round<T>(d);
    }
}

/* One block: sums in an order that depends on rows only. */
__global__ void __launch_bounds__(kSumThreads)
    linear_ce_sum_kernel(const double *loss, const int32_t *labels, int64_t rows, float *loss_sum,
                         float *count)
{
    double sum = 0.0;
    long long trained = 0;
    for (int64_t i = threadIdx.x; i < rows; i += kSumThreads) {
        sum += loss[i];
        trained += labels[i] != HN_LABEL_IGNORED;
    }
    sum = hn_block_sum<kSumThreads>(sum);
    trained = hn_block_sum<kSumThreads>(trained);
    if (threadIdx.x != 0) return;
    if (loss_sum != nullptr) *loss_sum = (float)((double)*loss_sum + sum);
    if (count != nullptr) *count += (float)trained;
}

/* Address of element i of an array of dtype t. */
const void *at(const void *p, hn_dtype t, int64_t i)
{
    return static_cast<const char *>(p) + (size_t)i * hn_dtype_size(t);
}

/* dx = dt w and dw += dt^T x, for rows first .. first + n. */
hn_status products(const hn_linear_ce_args *a, const Work &w, hn_gemm_cuda *gemm, int64_t first,
                   int64_t n, hn_stream stream)
{
    hn_gemm_cuda_args g = {};
    g.a = w.logits, g.ld_a = a->dtype == HN_F32 ? w.ld : 2 * w.ld;
    g.dtype = a->dtype, g.alpha = 1.0f;
    if (a->dx != nullptr) {
        hn_gemm_cuda_args x = g;
        x.m = n, x.n = a->dim, x.k = a->vocab;
        x.b = a->w, x.ld_b = a->ld_w;
        x.c = const_cast<void *>(at(a->dx, a->dtype, first * a->ld_dx)), x.ld_c = a->ld_dx;
        x.c_dtype = a->dtype;
        HN_TRY(hn_gemm_cuda_run(gemm, &x, stream));
    }
    if (a->dw == nullptr) return HN_OK;
    g.m = a->vocab, g.n = a->dim, g.k = n, g.trans_a = true;
    g.b = at(a->x, a->dtype, first * a->ld_x), g.ld_b = a->ld_x;
    g.c = a->dw, g.ld_c = a->ld_dw, g.c_dtype = HN_F32, g.beta = 1.0f;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

hn_status run_chunk(const hn_linear_ce_args *a, const Work &w, hn_gemm_cuda *gemm, int64_t first,
                    int64_t n, hn_stream stream)
{
    hn_gemm_cuda_args g = {};
    g.m = n, g.n = a->vocab, g.k = a->dim;
    g.a = at(a->x, a->dtype, first * a->ld_x), g.ld_a = a->ld_x;
    g.b = a->w, g.ld_b = a->ld_w, g.trans_b = true;
    g.c = w.logits, g.ld_c = w.ld;
    g.dtype = a->dtype, g.c_dtype = HN_F32, g.alpha = 1.0f;
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    const bool gradient = a->dx != nullptr || a->dw != nullptr;
    const Rows r = {w.logits,       w.ld,
                    a->vocab,       a->labels + first,
                    w.loss + first, a->row_loss != nullptr ? a->row_loss + first : nullptr,
                    a->softcap,     gradient};
    HN_CUDA_REAL(a->dtype, T, linear_ce_row_kernel<T><<<(unsigned)n, kRowThreads, 0, stream>>>(r));
    HN_TRY(HN_CUDA_LAUNCHED("linear_ce: rows"));
    return gradient ? products(a, w, gemm, first, n, stream) : HN_OK;
}

} // namespace

size_t hn_linear_ce_cuda_scratch(const hn_linear_ce_args *a) { return work_of(a, nullptr).n_bytes; }

hn_status hn_linear_ce_cuda(const hn_linear_ce_args *a, hn_gemm_cuda *gemm, void *scratch,
                            hn_stream stream)
{
    HN_TRY(hn_linear_ce_check(a));
    HN_TRY(hn_check_pointer("linear_ce", "scratch", scratch));
    const Work w = work_of(a, scratch);
    for (int64_t first = 0; first < a->rows; first += w.chunk) {
        const int64_t n = a->rows - first < w.chunk ? a->rows - first : w.chunk;
        HN_TRY(run_chunk(a, w, gemm, first, n, stream));
    }
    if (a->loss_sum == nullptr && a->count == nullptr) return HN_OK;
    linear_ce_sum_kernel<<<1, kSumThreads, 0, stream>>>(w.loss, a->labels, a->rows, a->loss_sum,
                                                        a->count);
    return HN_CUDA_LAUNCHED("linear_ce: sum");
}
