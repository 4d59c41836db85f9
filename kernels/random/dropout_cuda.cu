/* A thread takes spans of 8 columns, two Philox blocks, in 16-byte accesses where the rows allow;
 * four of them, because the key of the operation costs as much as one. */
#include "kernels/random/cuda_dropout.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kSpans = 4; /* a thread, kThreads apart */

template <class T>
struct Operands {
    const T *x;
    T *y;
    int64_t cols, ld_x, ld_y;
    int64_t first_row; /* of this band */
    hn_spans spans;
};

/* Dropped elements are 0 whatever x is; a product with 0 would keep NaN and the sign. */
__device__ __forceinline__ float drop(const hn_dropout_now &d, uint32_t word, float x)
{
    return word >= d.threshold ? x * d.scale : 0.0f;
}

/* x and y may be the same memory. Without dropout the bits are copied. */
template <class T, bool kDrop, bool kPacks>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(const Operands<T> a, const hn_dropout_launch key)
{
    hn_dropout_now now = {};
    if (kDrop) now = hn_dropout_begin(key);
    uint32_t i = blockIdx.x * (kThreads * kSpans) + threadIdx.x;
    for (int s = 0; s < kSpans && i < a.spans.n; s++, i += kThreads) {
        const hn_span_at at = hn_span_place(a.spans, i);
        const int64_t col = (int64_t)at.span * HN_VEC, n = a.cols - col;
        const T *const x = a.x + at.row * a.ld_x + col;
        T *const y = a.y + at.row * a.ld_y + col;
        uint32_t word[HN_VEC];
        if (kDrop) hn_dropout_words8(now, a.first_row + at.row, at.span, word);
        if (kPacks && n >= HN_VEC) {
            hn_pack<T> pack = hn_load_pack(x);
            if (kDrop) {
                float v[HN_VEC];
                hn_unpack(pack, v);
#pragma unroll
                for (int k = 0; k < HN_VEC; k++) v[k] = drop(now, word[k], v[k]);
                pack = hn_pack_of<T>(v);
            }
            hn_store_pack(y, pack);
            continue;
        }
#pragma unroll
        for (int k = 0; k < HN_VEC; k++)
            if (k < n) y[k] = kDrop ? hn_round<T>(drop(now, word[k], hn_f32(x[k]))) : x[k];
    }
}

template <class T, bool kDrop>
void launch(const hn_dropout_args *a, cudaStream_t stream)
{
    const bool packs =
        hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype);
    const auto kernel = packs ? dropout_kernel<T, kDrop, true> : dropout_kernel<T, kDrop, false>;
    const int64_t spans = (a->cols + HN_VEC - 1) / HN_VEC;
    for (int64_t row = 0; row < a->rows; row += hn_band_rows(spans)) {
        const Operands<T> band = {(const T *)a->x + row * a->ld_x,
                                  (T *)a->y + row * a->ld_y,
                                  a->cols,
                                  a->ld_x,
                                  a->ld_y,
                                  row,
                                  hn_spans_of(a->rows - row, spans)};
        kernel<<<hn_grid(band.spans.n, kThreads * kSpans, INT32_MAX), kThreads, 0, stream>>>(
            band, hn_dropout_launch_of(&a->key));
    }
}

} // namespace

hn_status hn_dropout_cuda(const hn_dropout_args *a, hn_stream stream)
{
    HN_TRY(hn_dropout_check(a));
    if (a->key.p > 0.0)
        HN_CUDA_REAL(a->dtype, T, launch<T, true>(a, stream));
    else if (a->x != a->y)
        HN_CUDA_REAL(a->dtype, T, launch<T, false>(a, stream));
    return HN_CUDA_LAUNCHED("dropout");
}
