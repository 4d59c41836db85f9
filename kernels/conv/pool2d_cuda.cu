/* A thread takes 8 neighbouring channels (1 where alignment forbids 16-byte accesses) of one output
 * pixel and walks its window; backward, of one input pixel, and gathers from the windows that hold
 * it: no two threads meet. Neighbouring windows share their pixels in the caches. */
#include "kernels/conv/pool2d_window.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kFlight = 8; /* pixels of a whole image whose loads are under way together */

enum Mode { kMax, kAvg, kImage };

struct Shape {
    int h, w, out_h, out_w, size, stride, pad;
    bool include_pad, relu;
};

/* Row, a number below 2^31, as a place in an image of `high` by `wide` pixels. */
struct Grid {
    hn_divisor by_wide, by_high;
    uint32_t wide, high;
};

struct Place {
    int64_t image;
    int i, j;
};

__device__ __forceinline__ Place place_of(const Grid &g, uint32_t row)
{
    const uint32_t line = hn_divide(row, g.by_wide), image = hn_divide(line, g.by_high);
    return {image, (int)(line - image * g.high), (int)(row - line * g.wide)};
}

/* Of the window of output (p, q), whose ranges are u and v. */
__device__ __forceinline__ float count_of(const Shape &s, hn_pool2d_range u, hn_pool2d_range v)
{
    return s.include_pad ? (float)s.size * (float)s.size
                         : (float)(u.end - u.first) * (float)(v.end - v.first);
}

template <int kWidth>
__device__ __forceinline__ void store_index(uint8_t *p, int64_t n, const int (&at)[kWidth])
{
    if constexpr (kWidth == HN_VEC) {
        if (n >= kWidth) {
            uint2 word = {0, 0};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                word.x |= (uint32_t)at[k] << (8 * k);
                word.y |= (uint32_t)at[4 + k] << (8 * k);
            }
            *reinterpret_cast<uint2 *>(p) = word;
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++)
        if (k < n) p[k] = (uint8_t)at[k];
}

template <int kWidth>
__device__ __forceinline__ void load_index(const uint8_t *p, int64_t n, int (&at)[kWidth])
{
    if constexpr (kWidth == HN_VEC) {
        if (n >= kWidth) {
            const uint2 word = *reinterpret_cast<const uint2 *>(p);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                at[k] = (int)(word.x >> (8 * k) & 0xffu);
                at[4 + k] = (int)(word.y >> (8 * k) & 0xffu);
            }
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++) at[k] = k < n ? (int)p[k] : -1;
}

/* ---- forward ---- */

template <class T>
struct Forward {
    const T *x;
    T *y;
    uint8_t *index;
    int64_t c, ld_x, ld_y, ld_index;
    uint32_t first; /* row of the band */
    hn_spans spans;
    Grid grid;
    Shape s;
};

template <class T, int kWidth>
__device__ __forceinline__ void max_span(const Forward<T> &a, uint32_t row, int64_t col)
{
    const int64_t n = a.c - col;
    const Place at = place_of(a.grid, row);
    const int top = at.i * a.s.stride - a.s.pad, left = at.j * a.s.stride - a.s.pad;
    const hn_pool2d_range us = hn_pool2d_inside(top, a.s.size, a.s.h);
    const hn_pool2d_range vs = hn_pool2d_inside(left, a.s.size, a.s.w);
    float best[kWidth];
    int where[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        best[k] = -INFINITY;
        where[k] = us.first * a.s.size + vs.first;
    }
    for (int u = us.first; u < us.end; u++) {
        const T *const line = a.x + ((at.image * a.s.h + top + u) * a.s.w + left) * a.ld_x + col;
        for (int v = vs.first; v < vs.end; v++) {
            float x[kWidth];
            hn_load_span<kWidth>(line + v * a.ld_x, n, x);
#pragma unroll
            for (int k = 0; k < kWidth; k++)
                if (x[k] > best[k] || isnan(x[k])) {
                    best[k] = x[k];
                    where[k] = u * a.s.size + v;
                }
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++)
        if (a.s.relu && best[k] <= 0.0f) {
            best[k] = 0.0f;
            where[k] = HN_POOL2D_NONE;
        }
    hn_store_span<kWidth>(a.y + row * a.ld_y + col, n, best);
    if (a.index != nullptr) store_index<kWidth>(a.index + row * a.ld_index + col, n, where);
}

template <class T, int kWidth>
__device__ __forceinline__ void avg_span(const Forward<T> &a, uint32_t row, int64_t col)
{
    const int64_t n = a.c - col;
    const Place at = place_of(a.grid, row);
    const int top = at.i * a.s.stride - a.s.pad, left = at.j * a.s.stride - a.s.pad;
    const hn_pool2d_range us = hn_pool2d_inside(top, a.s.size, a.s.h);
    const hn_pool2d_range vs = hn_pool2d_inside(left, a.s.size, a.s.w);
    const float count = count_of(a.s, us, vs);
    float sum[kWidth] = {};
    for (int u = us.first; u < us.end; u++) {
        const T *const line = a.x + ((at.image * a.s.h + top + u) * a.s.w + left) * a.ld_x + col;
        for (int v = vs.first; v < vs.end; v++) {
            float x[kWidth];
            hn_load_span<kWidth>(line + v * a.ld_x, n, x);
#pragma unroll
            for (int k = 0; k < kWidth; k++) sum[k] += x[k];
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++) sum[k] /= count;
    hn_store_span<kWidth>(a.y + row * a.ld_y + col, n, sum);
}

template <class T, int kWidth>
__device__ __forceinline__ void image_span(const Forward<T> &a, uint32_t row, int64_t col)
{
    const int64_t n = a.c - col, pixels = (int64_t)a.s.h * a.s.w;
    const T *const from = a.x + row * pixels * a.ld_x + col;
    float sum[kWidth] = {};
#pragma unroll kFlight
    for (int64_t i = 0; i < pixels; i++) {
        float x[kWidth];
        hn_load_span<kWidth>(from + i * a.ld_x, n, x);
#pragma unroll
        for (int k = 0; k < kWidth; k++) sum[k] += x[k];
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++) sum[k] /= (float)pixels;
    hn_store_span<kWidth>(a.y + row * a.ld_y + col, n, sum);
}

template <Mode kMode, class T, int kWidth>
__global__ void __launch_bounds__(kThreads) pool2d_fwd_kernel(const Forward<T> a)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.spans.n) return;
    const hn_span_at at = hn_span_place(a.spans, i);
    const uint32_t row = a.first + (uint32_t)at.row;
    const int64_t col = (int64_t)at.span * kWidth;
    if constexpr (kMode == kMax)
        max_span<T, kWidth>(a, row, col);
    else if constexpr (kMode == kAvg)
        avg_span<T, kWidth>(a, row, col);
    else
        image_span<T, kWidth>(a, row, col);
}

/* ---- backward ---- */

template <class T>
struct Backward {
    const T *dy;
    const uint8_t *index;
    T *dx;
    int64_t c, ld_dy, ld_index, ld_dx;
    uint32_t first;
    hn_spans spans;
    Grid grid;
    Shape s;
};

/* Adds what output row `row` gives to pixel (at.i, at.j), which lies at (u, v) of its window. */
template <Mode kMode, class T, int kWidth>
__device__ __forceinline__ void gather(const Backward<T> &a, int64_t row, int64_t col, int here,
                                       float share, float (&sum)[kWidth])
{
    const int64_t n = a.c - col;
    float dy[kWidth];
    hn_load_span<kWidth>(a.dy + row * a.ld_dy + col, n, dy);
    if constexpr (kMode == kMax) {
        int index[kWidth];
        load_index<kWidth>(a.index + row * a.ld_index + col, n, index);
#pragma unroll
        for (int k = 0; k < kWidth; k++) sum[k] += index[k] == here ? dy[k] : 0.0f;
    } else {
#pragma unroll
        for (int k = 0; k < kWidth; k++) sum[k] += dy[k] * share;
    }
}

template <Mode kMode, class T, int kWidth>
__device__ __forceinline__ void bwd_span(const Backward<T> &a, uint32_t row, int64_t col)
{
    const Place at = place_of(a.grid, row);
    const Shape &s = a.s;
    float sum[kWidth] = {};
    if constexpr (kMode == kImage) {
        gather<kMode, T, kWidth>(a, at.image, col, 0, 1.0f / (float)((int64_t)s.h * s.w), sum);
    } else {
        const hn_pool2d_range ps = hn_pool2d_holding(at.i, s.size, s.stride, s.pad, s.out_h);
        const hn_pool2d_range qs = hn_pool2d_holding(at.j, s.size, s.stride, s.pad, s.out_w);
        for (int p = ps.first; p < ps.end; p++) {
            const int top = p * s.stride - s.pad;
            const hn_pool2d_range us = hn_pool2d_inside(top, s.size, s.h);
            for (int q = qs.first; q < qs.end; q++) {
                const int left = q * s.stride - s.pad;
                const hn_pool2d_range vs = hn_pool2d_inside(left, s.size, s.w);
                const int here = (at.i - top) * s.size + at.j - left;
                gather<kMode, T, kWidth>(a, (at.image * s.out_h + p) * s.out_w + q, col, here,
                                         1.0f / count_of(s, us, vs), sum);
            }
        }
    }
    hn_store_span<kWidth>(a.dx + row * a.ld_dx + col, a.c - col, sum);
}

template <Mode kMode, class T, int kWidth>
__global__ void __launch_bounds__(kThreads) pool2d_bwd_kernel(const Backward<T> a)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.spans.n) return;
    const hn_span_at at = hn_span_place(a.spans, i);
    bwd_span<kMode, T, kWidth>(a, a.first + (uint32_t)at.row, (int64_t)at.span * kWidth);
}

/* ---- launchers ---- */

Shape shape_of(const hn_pool2d_shape &s)
{
    return {(int)s.h,      (int)s.w,   (int)s.out_h,        (int)s.out_w, (int)s.size,
            (int)s.stride, (int)s.pad, s.count_include_pad, s.relu};
}

Grid grid_of(int64_t high, int64_t wide)
{
    return {hn_divisor_of(wide), hn_divisor_of(high), (uint32_t)wide, (uint32_t)high};
}

unsigned blocks(const hn_spans &s) { return hn_grid(s.n, kThreads, INT32_MAX); }

template <Mode kMode, class T, int kWidth>
void launch(const hn_pool2d_args *a, cudaStream_t stream)
{
    const hn_pool2d_shape &s = a->s;
    const int64_t spans = (s.c + kWidth - 1) / kWidth, rows = s.n * s.out_h * s.out_w;
    for (int64_t row = 0; row < rows; row += hn_band_rows(spans)) {
        const Forward<T> f = {(const T *)a->x,
                              (T *)a->y,
                              a->index,
                              s.c,
                              a->ld_x,
                              a->ld_y,
                              a->ld_index,
                              (uint32_t)row,
                              hn_spans_of(rows - row, spans),
                              grid_of(s.out_h, s.out_w),
                              shape_of(s)};
        pool2d_fwd_kernel<kMode, T, kWidth><<<blocks(f.spans), kThreads, 0, stream>>>(f);
    }
}

template <Mode kMode, class T, int kWidth>
void launch(const hn_pool2d_bwd_args *a, cudaStream_t stream)
{
    const hn_pool2d_shape &s = a->s;
    const int64_t spans = (s.c + kWidth - 1) / kWidth, rows = s.n * s.h * s.w;
    for (int64_t row = 0; row < rows; row += hn_band_rows(spans)) {
        const Backward<T> b = {(const T *)a->dy,
                               a->index,
                               (T *)a->dx,
                               s.c,
                               a->ld_dy,
                               a->ld_index,
                               a->ld_dx,
                               (uint32_t)row,
                               hn_spans_of(rows - row, spans),
                               grid_of(s.h, s.w),
                               shape_of(s)};
        pool2d_bwd_kernel<kMode, T, kWidth><<<blocks(b.spans), kThreads, 0, stream>>>(b);
    }
}

template <class T, int kWidth, class Args>
void launch_mode(const Args *a, cudaStream_t stream)
{
    if (a->s.size == 0)
        launch<kImage, T, kWidth>(a, stream);
    else if (a->s.kind == HN_POOL_MAX)
        launch<kMax, T, kWidth>(a, stream);
    else
        launch<kAvg, T, kWidth>(a, stream);
}

/* Eight indices are one access of 8 bytes. */
bool indices_fit(const uint8_t *index, int64_t ld)
{
    return index == nullptr || ((uintptr_t)index % 8 == 0 && ld % 8 == 0);
}

template <class Args>
void launch_all(const Args *a, bool wide, cudaStream_t stream)
{
    if (wide)
        HN_CUDA_REAL(a->s.dtype, T, launch_mode<T, HN_VEC>(a, stream));
    else
        HN_CUDA_REAL(a->s.dtype, T, launch_mode<T, 1>(a, stream));
}

} // namespace

hn_status hn_pool2d_fwd_cuda(const hn_pool2d_args *a, hn_stream stream)
{
    HN_TRY(hn_pool2d_check(a));
    launch_all(a,
               hn_vectors_fit(a->x, a->ld_x, a->s.dtype) &&
                   hn_vectors_fit(a->y, a->ld_y, a->s.dtype) && indices_fit(a->index, a->ld_index),
               stream);
    return HN_CUDA_LAUNCHED("pool2d");
}

hn_status hn_pool2d_bwd_cuda(const hn_pool2d_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_pool2d_bwd_check(a));
    launch_all(a,
               hn_vectors_fit(a->dy, a->ld_dy, a->s.dtype) &&
                   hn_vectors_fit(a->dx, a->ld_dx, a->s.dtype) &&
                   indices_fit(a->index, a->ld_index),
               stream);
    return HN_CUDA_LAUNCHED("pool2d_bwd");
}
