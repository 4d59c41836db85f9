/* A thread writes 8 neighbouring channels of a pixel (1 where alignment, or a number of channels
 * that is no multiple of 8, forbids 16-byte accesses): bits of the other tensor, or zeros. */
#include "kernels/conv/shortcut_a.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;

struct Grid { /* of the pixels that are written */
    hn_divisor by_wide, by_high;
    uint32_t wide, high;
};

struct Place {
    int64_t image;
    uint32_t i, j;
};

__device__ __forceinline__ Place place_of(const Grid &g, uint32_t row)
{
    const uint32_t line = hn_divide(row, g.by_wide), image = hn_divide(line, g.by_high);
    return {image, line - image * g.high, row - line * g.wide};
}

/* kWidth elements from `from`, or zeros; both begin on 16 bytes where kWidth is 8. */
template <class T, int kWidth>
__device__ __forceinline__ void put(T *to, const T *from, bool there)
{
    if constexpr (kWidth == HN_VEC) {
        hn_pack<T> v = {};
        if (there) v = hn_load_pack(from);
        hn_store_pack(to, v);
    } else {
        *to = there ? *from : T(0.0f);
    }
}

/* Reads from `from`, whose images are from_h by from_w, and writes `to`. forward: pixel (i, j) is
 * that at (i stride, j stride), column k is column k - before of cols_from; backward the other way
 * round. */
template <class T>
struct Copy {
    const T *from;
    T *to;
    int64_t ld_from, ld_to, from_h, from_w, before, cols_from;
    uint32_t first, stride;
    hn_divisor by_stride;
    hn_spans spans;
    Grid grid;
};

template <bool kForward, class T, int kWidth>
__global__ void __launch_bounds__(kThreads) shortcut_a_kernel(const Copy<T> a)
{
    const uint32_t n = blockIdx.x * kThreads + threadIdx.x;
    if (n >= a.spans.n) return;
    const hn_span_at span = hn_span_place(a.spans, n);
    const uint32_t row = a.first + (uint32_t)span.row;
    const Place at = place_of(a.grid, row);
    const int64_t col = (int64_t)span.span * kWidth;
    T *const to = a.to + row * a.ld_to + col;
    if constexpr (kForward) {
        const int64_t c = col - a.before;
        const int64_t i = (int64_t)at.i * a.stride, j = (int64_t)at.j * a.stride;
        const T *const from = a.from + ((at.image * a.from_h + i) * a.from_w + j) * a.ld_from + c;
        put<T, kWidth>(to, from, c >= 0 && c < a.cols_from);
    } else {
        const uint32_t i = hn_divide(at.i, a.by_stride), j = hn_divide(at.j, a.by_stride);
        const T *const from =
            a.from + ((at.image * a.from_h + i) * a.from_w + j) * a.ld_from + col + a.before;
        put<T, kWidth>(to, from, i * a.stride == at.i && j * a.stride == at.j);
    }
}

template <bool kForward, class T, int kWidth>
void launch(Copy<T> a, int64_t rows, int64_t cols, cudaStream_t stream)
{
    const int64_t spans = cols / kWidth;
    for (int64_t row = 0; row < rows; row += hn_band_rows(spans)) {
        a.first = (uint32_t)row;
        a.spans = hn_spans_of(rows - row, spans);
        const unsigned grid = hn_grid(a.spans.n, kThreads, INT32_MAX);
        shortcut_a_kernel<kForward, T, kWidth><<<grid, kThreads, 0, stream>>>(a);
    }
}

/* All columns in spans of 8, none of which is partly zeros. */
bool is_wide(const hn_shortcut_a_shape &s)
{
    return s.ci % HN_VEC == 0 && (s.co - s.ci) / 2 % HN_VEC == 0;
}

/* Writes the pixels of n images of `high` by `wide`. */
template <bool kForward, class T>
void launch(const hn_shortcut_a_shape &s, Copy<T> c, int64_t high, int64_t wide, int64_t cols,
            cudaStream_t stream)
{
    c.before = (s.co - s.ci) / 2;
    c.stride = (uint32_t)s.stride;
    c.by_stride = hn_divisor_of(s.stride);
    c.grid = {hn_divisor_of(wide), hn_divisor_of(high), (uint32_t)wide, (uint32_t)high};
    if (is_wide(s) && hn_vectors_fit(c.from, c.ld_from, s.dtype) &&
        hn_vectors_fit(c.to, c.ld_to, s.dtype))
        launch<kForward, T, HN_VEC>(c, s.n * high * wide, cols, stream);
    else
        launch<kForward, T, 1>(c, s.n * high * wide, cols, stream);
}

template <class T>
void launch_fwd(const hn_shortcut_a_args *a, cudaStream_t stream)
{
    const hn_shortcut_a_shape &s = a->s;
    Copy<T> c{};
    c.from = (const T *)a->x;
    c.to = (T *)a->y;
    c.ld_from = a->ld_x;
    c.ld_to = a->ld_y;
    c.from_h = s.h;
    c.from_w = s.w;
    c.cols_from = s.ci;
    launch<true, T>(s, c, hn_shortcut_a_out(s.h, s.stride), hn_shortcut_a_out(s.w, s.stride), s.co,
                    stream);
}

template <class T>
void launch_bwd(const hn_shortcut_a_bwd_args *a, cudaStream_t stream)
{
    const hn_shortcut_a_shape &s = a->s;
    Copy<T> c{};
    c.from = (const T *)a->dy;
    c.to = (T *)a->dx;
    c.ld_from = a->ld_dy;
    c.ld_to = a->ld_dx;
    c.from_h = hn_shortcut_a_out(s.h, s.stride);
    c.from_w = hn_shortcut_a_out(s.w, s.stride);
    c.cols_from = s.co;
    launch<false, T>(s, c, s.h, s.w, s.ci, stream);
}

} // namespace

hn_status hn_shortcut_a_fwd_cuda(const hn_shortcut_a_args *a, hn_stream stream)
{
    HN_TRY(hn_shortcut_a_check(a));
    HN_CUDA_REAL(a->s.dtype, T, launch_fwd<T>(a, stream));
    return HN_CUDA_LAUNCHED("shortcut_a");
}

hn_status hn_shortcut_a_bwd_cuda(const hn_shortcut_a_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_shortcut_a_bwd_check(a));
    HN_CUDA_REAL(a->s.dtype, T, launch_bwd<T>(a, stream));
    return HN_CUDA_LAUNCHED("shortcut_a_bwd");
}
