/* A thread writes 8 neighbouring columns of a row (1 where alignment forbids 16-byte accesses):
 * bits of the other tensor, or zeros. */
#include "kernels/embed/take_rows.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;

template <class T>
struct Copy {
    const T *from;
    T *to;
    int64_t cols, ld_from, ld_to;
    uint32_t first, stride, offset;
    hn_divisor by_stride;
    hn_spans spans; /* of the rows that are written */
};

template <class T, int kWidth>
__device__ __forceinline__ void put(T *to, const T *from, int64_t n, bool there)
{
    if constexpr (kWidth == HN_VEC) {
        if (n >= kWidth) {
            hn_pack<T> v = {};
            if (there) v = hn_load_pack(from);
            hn_store_pack(to, v);
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++)
        if (k < n) to[k] = there ? from[k] : T(0.0f);
}

template <bool kForward, class T, int kWidth>
__global__ void __launch_bounds__(kThreads) take_rows_kernel(const Copy<T> a)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.spans.n) return;
    const hn_span_at at = hn_span_place(a.spans, i);
    const uint32_t row = a.first + (uint32_t)at.row;
    const int64_t col = (int64_t)at.span * kWidth;
    int64_t from = (int64_t)row * a.stride + a.offset;
    bool there = true;
    if constexpr (!kForward) {
        from = hn_divide(row, a.by_stride);
        there = row - (uint32_t)from * a.stride == a.offset;
    }
    put<T, kWidth>(a.to + row * a.ld_to + col, a.from + from * a.ld_from + col, a.cols - col,
                   there);
}

template <bool kForward, class T, int kWidth>
void launch(Copy<T> a, int64_t rows, cudaStream_t stream)
{
    const int64_t spans = (a.cols + kWidth - 1) / kWidth;
    for (int64_t row = 0; row < rows; row += hn_band_rows(spans)) {
        a.first = (uint32_t)row;
        a.spans = hn_spans_of(rows - row, spans);
        const unsigned grid = hn_grid(a.spans.n, kThreads, INT32_MAX);
        take_rows_kernel<kForward, T, kWidth><<<grid, kThreads, 0, stream>>>(a);
    }
}

template <bool kForward, class T>
void launch(const void *from, int64_t ld_from, void *to, int64_t ld_to, int64_t rows, int64_t cols,
            int64_t stride, int64_t offset, hn_dtype dtype, cudaStream_t stream)
{
    const Copy<T> c = {(const T *)from,
                       (T *)to,
                       cols,
                       ld_from,
                       ld_to,
                       0,
                       (uint32_t)stride,
                       (uint32_t)offset,
                       hn_divisor_of(stride),
                       hn_spans_of(1, 1)};
    if (hn_vectors_fit(from, ld_from, dtype) && hn_vectors_fit(to, ld_to, dtype))
        launch<kForward, T, HN_VEC>(c, rows, stream);
    else
        launch<kForward, T, 1>(c, rows, stream);
}

} // namespace

hn_status hn_take_rows_fwd_cuda(const hn_take_rows_args *a, hn_stream stream)
{
    HN_TRY(hn_take_rows_check(a));
    HN_CUDA_REAL(a->dtype, T,
                 launch<true, T>(a->x, a->ld_x, a->y, a->ld_y, a->rows, a->cols, a->stride,
                                 a->offset, a->dtype, stream));
    return HN_CUDA_LAUNCHED("take_rows");
}

hn_status hn_take_rows_bwd_cuda(const hn_take_rows_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_take_rows_bwd_check(a));
    HN_CUDA_REAL(a->dtype, T,
                 launch<false, T>(a->dy, a->ld_dy, a->dx, a->ld_dx, a->rows * a->stride, a->cols,
                                  a->stride, a->offset, a->dtype, stream));
    return HN_CUDA_LAUNCHED("take_rows_bwd");
}
