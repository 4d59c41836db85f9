/* Patches: a warp lays out one row, lanes side by side in it. Where pixels are no multiple of 16
 * bytes (stems: 1 or 3 channels) a thread makes 16 bytes of a row instead, of several taps, and
 * then the same 16 bytes of other rows, so that it finds out only once where they come from. The
 * gradients of patches: a warp gathers what all patches hold of a pixel, kernel row by kernel row,
 * so that the order is fixed. */
#include "kernels/conv/cuda_conv2d.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kMaxBlocks = 1ll << 16; /* blocks loop over what is left */
constexpr int kTapsAhead = 5;             /* loads of a thread that are under way together */
constexpr int64_t kSpanBlocks = 132 * 8;  /* of an H200, so that threads have several rows */

/* Values of 16 bytes. */
template <class T>
constexpr int kSpan = 16 / (int)sizeof(T);

struct Window {
    int32_t h, w, out_h, out_w, in, group_in, kh, kw, stride, pad, dilation;
    hn_divisor by_out_w, by_out_h, by_w, by_h, by_group_in, by_kw, by_stride;
};

Window window_of(const hn_conv2d_shape &s)
{
    Window w = {};
    w.h = (int32_t)s.h, w.w = (int32_t)s.w;
    w.out_h = (int32_t)hn_conv2d_out_h(&s), w.out_w = (int32_t)hn_conv2d_out_w(&s);
    w.in = (int32_t)s.in, w.group_in = (int32_t)(s.in / s.groups);
    w.kh = (int32_t)s.kh, w.kw = (int32_t)s.kw;
    w.stride = (int32_t)s.stride, w.pad = (int32_t)s.pad, w.dilation = (int32_t)s.dilation;
    w.by_out_w = hn_divisor_of(w.out_w), w.by_out_h = hn_divisor_of(w.out_h);
    w.by_w = hn_divisor_of(s.w), w.by_h = hn_divisor_of(s.h);
    w.by_group_in = hn_divisor_of(w.group_in), w.by_kw = hn_divisor_of(s.kw);
    w.by_stride = hn_divisor_of(s.stride);
    return w;
}

struct Pixel {
    int32_t image, i, j; /* i, j: row and column */
};

__device__ __forceinline__ Pixel pixel_of(uint32_t at, int32_t h, int32_t w, hn_divisor by_h,
                                          hn_divisor by_w)
{
    const uint32_t line = hn_divide(at, by_w), image = hn_divide(line, by_h);
    return {(int32_t)image, (int32_t)(line - image * (uint32_t)h),
            (int32_t)(at - line * (uint32_t)w)};
}

/* Where a group's row of patches begins. */
__device__ __forceinline__ int64_t patch_at(int64_t row, int64_t ld, int64_t group,
                                            int64_t group_stride)
{
    return group * group_stride + row * ld;
}

/* A row of all groups is kh kw in values; kWidth divides the channels of a group. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    patches_kernel(const Window k, const T *__restrict__ x, int64_t ld_x, T *__restrict__ patches,
                   int64_t first, int64_t rows, int64_t ld, int64_t group_stride,
                   hn_divisor by_spans)
{
    const uint32_t spans = (uint32_t)k.in / kWidth; /* of a pixel */
    const uint32_t n = (uint32_t)(k.kh * k.kw) * spans;
    for (int64_t row = (int64_t)blockIdx.x * kWarps + threadIdx.x / 32; row < rows;
         row += (int64_t)gridDim.x * kWarps) {
        const Pixel at =
            pixel_of((uint32_t)(first + row), k.out_h, k.out_w, k.by_out_h, k.by_out_w);
        const int32_t i0 = at.i * k.stride - k.pad, j0 = at.j * k.stride - k.pad;
        const T *const image = x + (int64_t)at.image * k.h * k.w * ld_x;
        for (uint32_t v = threadIdx.x % 32; v < n; v += 32) {
            const uint32_t tap = hn_divide(v, by_spans), r = hn_divide(tap, k.by_kw);
            const uint32_t c = (v - tap * spans) * kWidth, group = hn_divide(c, k.by_group_in);
            const int32_t i = i0 + (int32_t)r * k.dilation;
            const int32_t j = j0 + (int32_t)(tap - r * (uint32_t)k.kw) * k.dilation;
            T *const to = patches + patch_at(row, ld, group, group_stride) +
                          (int64_t)tap * k.group_in + (c - group * (uint32_t)k.group_in);
            float value[kWidth] = {};
            if (i >= 0 && i < k.h && j >= 0 && j < k.w)
                hn_load_whole<kWidth>(image + ((int64_t)i * k.w + j) * ld_x + c, value);
            hn_store_whole<kWidth>(to, value); /* to and from fp32: the same bits */
        }
    }
}

/* Rows of w with zeros behind them. */
template <class T>
struct Weight {
    const T *from;
    T *to; /* nullptr: not wanted */
    int64_t out, ld;
};

/* One group. A value lies `offset` behind the first tap of its row of patches, which may be outside
 * the image as well as the value; columns behind the last tap are outside of all images. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    spans_kernel(const Window k, const T *__restrict__ x, int64_t ld_x, T *__restrict__ patches,
                 int64_t first, int64_t rows, int64_t ld, hn_divisor by_spans, const Weight<T> w)
{
    const uint32_t spans = (uint32_t)ld / kSpan<T>, taps = (uint32_t)(k.kh * k.kw * k.in);
    const uint32_t below = hn_divide(threadIdx.x, by_spans), height = kThreads / spans;
    const uint32_t col = (threadIdx.x - below * spans) * kSpan<T>;
    uint32_t down[kSpan<T>], across[kSpan<T>], offset[kSpan<T>];
#pragma unroll
    for (int u = 0; u < kSpan<T>; u++) {
        const uint32_t tap = hn_divide(col + u, k.by_group_in), r = hn_divide(tap, k.by_kw);
        const uint32_t i = r * (uint32_t)k.dilation;
        const uint32_t j = (tap - r * (uint32_t)k.kw) * (uint32_t)k.dilation;
        down[u] = col + u < taps ? i : 1u << 31; /* no row of any image */
        across[u] = j;
        offset[u] = (i * (uint32_t)k.w + j) * (uint32_t)ld_x + (col + u - tap * (uint32_t)k.in);
    }
    const int64_t step = (int64_t)gridDim.x * height;
    for (int64_t row = (int64_t)blockIdx.x * height + below; below < height && row < rows;
         row += step) {
        const Pixel at =
            pixel_of((uint32_t)(first + row), k.out_h, k.out_w, k.by_out_h, k.by_out_w);
        const int32_t i0 = at.i * k.stride - k.pad, j0 = at.j * k.stride - k.pad;
        const int64_t pixel = ((int64_t)at.image * k.h + i0) * k.w + j0;
        alignas(16) T value[kSpan<T>];
#pragma unroll
        for (int u = 0; u < kSpan<T>; u++) {
            const bool inside =
                (uint32_t)i0 + down[u] < (uint32_t)k.h && (uint32_t)j0 + across[u] < (uint32_t)k.w;
            value[u] = hn_round<T>(0.0f);
            if (inside) value[u] = x[pixel * ld_x + (int64_t)offset[u]];
        }
        uint4 span;
        memcpy(&span, value, sizeof span);
        *reinterpret_cast<uint4 *>(patches + row * ld + col) = span;
    }
    if (w.to == nullptr) return;
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < w.out * ld;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t o = at / ld, c = at - o * ld;
        w.to[at] = c < taps ? w.from[o * w.ld + c] : hn_round<T>(0.0f);
    }
}

/* The row or column of y that a kernel's row or column r reads pixel i for; -1: none. */
__device__ __forceinline__ int32_t reader_of(int32_t i, int32_t r, const Window &k, int32_t out)
{
    const int32_t t = i + k.pad - r * k.dilation;
    if (t < 0) return -1;
    const int32_t at = (int32_t)hn_divide((uint32_t)t, k.by_stride);
    return at < out && at * k.stride == t ? at : -1;
}

/* A warp takes a pixel. add and dx may be the same memory: an element is read and then written by
 * one thread. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    patches_sum_kernel(const Window k, const float *__restrict__ patches, int64_t first_pixel,
                       int64_t pixels, int64_t ld, int64_t group_stride, const T *add,
                       int64_t ld_add, T *dx, int64_t ld_dx)
{
    for (int64_t pixel = (int64_t)blockIdx.x * kWarps + threadIdx.x / 32; pixel < pixels;
         pixel += (int64_t)gridDim.x * kWarps) {
        const Pixel p = pixel_of((uint32_t)pixel, k.h, k.w, k.by_h, k.by_w);
        const int64_t to = first_pixel + pixel, image = (int64_t)p.image * k.out_h * k.out_w;
        for (int32_t c = (int32_t)threadIdx.x % 32; c < k.in; c += 32) {
            const int32_t group = (int32_t)hn_divide((uint32_t)c, k.by_group_in);
            const float *const patch = patches + group * group_stride + (c - group * k.group_in);
            float sum = 0.0f;
            for (int32_t r = 0; r < k.kh; r++) {
                const int32_t i = reader_of(p.i, r, k, k.out_h);
                if (i < 0) continue;
#pragma unroll 1 /* unrolled it spills registers */
                for (int32_t s = 0; s < k.kw; s += kTapsAhead) {
                    float v[kTapsAhead];
                    bool read[kTapsAhead];
#pragma unroll
                    for (int u = 0; u < kTapsAhead; u++) {
                        const int32_t j = s + u < k.kw ? reader_of(p.j, s + u, k, k.out_w) : -1;
                        const int64_t row = image + (int64_t)i * k.out_w + j;
                        read[u] = j >= 0;
                        v[u] = 0.0f;
                        if (read[u])
                            v[u] = patch[row * ld + (int64_t)(r * k.kw + s + u) * k.group_in];
                    }
#pragma unroll
                    for (int u = 0; u < kTapsAhead; u++)
                        if (read[u]) sum += v[u];
                }
            }
            if (add != nullptr) sum += hn_f32(add[to * ld_add + c]);
            dx[to * ld_dx + c] = hn_round<T>(sum);
        }
    }
}

template <class T, int kWidth>
void launch_patches(const hn_conv2d_patches *p, const T *x, int64_t ld_x, T *patches,
                    cudaStream_t stream)
{
    const Window k = window_of(p->shape);
    patches_kernel<T, kWidth><<<hn_grid(p->rows, kWarps, kMaxBlocks), kThreads, 0, stream>>>(
        k, x, ld_x, patches, p->first, p->rows, p->ld, p->group_stride,
        hn_divisor_of(k.in / kWidth));
}

template <class T>
void launch_spans(const hn_conv2d_patches *p, const T *x, int64_t ld_x, T *patches,
                  cudaStream_t stream)
{
    const int64_t spans = p->ld / kSpan<T>;
    const Weight<T> w = {static_cast<const T *>(p->w), static_cast<T *>(p->padded_w), p->shape.out,
                         p->ld_w};
    spans_kernel<T><<<hn_grid(p->rows, kThreads / spans, kSpanBlocks), kThreads, 0, stream>>>(
        window_of(p->shape), x, ld_x, patches, p->first, p->rows, p->ld, hn_divisor_of(spans), w);
}

template <class T>
void launch_patches(const hn_conv2d_patches *p, const void *x, int64_t ld_x, void *patches,
                    cudaStream_t stream)
{
    const bool packs =
        p->shape.in / p->shape.groups % HN_VEC == 0 && hn_vectors_fit(x, ld_x, p->dtype) &&
        hn_vectors_fit(patches, p->ld, p->dtype) && p->group_stride * (int64_t)sizeof(T) % 16 == 0;
    const T *const from = static_cast<const T *>(x);
    T *const to = static_cast<T *>(patches);
    if (hn_conv2d_patches_are_padded(&p->shape, ld_x, p->dtype))
        launch_spans<T>(p, from, ld_x, to, stream);
    else if (packs)
        launch_patches<T, HN_VEC>(p, from, ld_x, to, stream);
    else
        launch_patches<T, 1>(p, from, ld_x, to, stream);
}

template <class T>
void launch_sum(const hn_conv2d_patches *p, const float *patches, const void *add, int64_t ld_add,
                void *dx, int64_t ld_dx, cudaStream_t stream)
{
    const Window k = window_of(p->shape);
    const int64_t per_image = (int64_t)k.out_h * k.out_w, in_image = p->shape.h * p->shape.w;
    const int64_t pixels = p->rows / per_image * in_image;
    patches_sum_kernel<T><<<hn_grid(pixels, kWarps, kMaxBlocks), kThreads, 0, stream>>>(
        k, patches, p->first / per_image * in_image, pixels, p->ld, p->group_stride,
        static_cast<const T *>(add), ld_add, static_cast<T *>(dx), ld_dx);
}

} // namespace

/* A block has whole rows, and counts in 32 bits how far taps are apart. */
bool hn_conv2d_patches_are_padded(const hn_conv2d_shape *s, int64_t ld_x, hn_dtype t)
{
    const int64_t ld = hn_gemm_cuda_padded(hn_conv2d_taps(s), t);
    const int64_t down = s->dilation * (s->kh - 1), across = s->dilation * (s->kw - 1);
    return s->groups == 1 && s->in % HN_VEC != 0 &&
           ld * (int64_t)hn_dtype_size(t) / 16 <= kThreads &&
           down * s->w + across < INT32_MAX / ld_x;
}

hn_status hn_conv2d_patches_of(const hn_conv2d_patches *p, const void *x, int64_t ld_x,
                               void *patches, hn_stream stream)
{
    HN_CUDA_REAL(p->dtype, T, launch_patches<T>(p, x, ld_x, patches, stream));
    return HN_CUDA_LAUNCHED("conv2d: patches");
}

hn_status hn_conv2d_patches_sum(const hn_conv2d_patches *p, const float *patches, const void *add,
                                int64_t ld_add, void *dx, int64_t ld_dx, hn_stream stream)
{
    HN_CUDA_REAL(p->dtype, T, launch_sum<T>(p, patches, add, ld_add, dx, ld_dx, stream));
    return HN_CUDA_LAUNCHED("conv2d: sum of patches");
}
