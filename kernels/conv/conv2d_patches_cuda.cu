/* Patches: a warp lays out one row, lanes side by side in it. Their gradients: a thread gathers
 * what every patch holds of its pixel, kernel row by kernel row, so that the order is fixed. */
#include "kernels/conv/cuda_conv2d.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kMaxBlocks = 1ll << 16; /* blocks loop over what is left */

struct Window {
    int64_t h, w, out_h, out_w;
    int32_t in, group_in, kh, kw, stride, pad, dilation;
    hn_divisor by_out_w, by_out_h, by_w, by_h, by_group_in, by_kw;
};

Window window_of(const hn_conv2d_shape &s)
{
    Window w = {};
    w.h = s.h, w.w = s.w, w.out_h = hn_conv2d_out_h(&s), w.out_w = hn_conv2d_out_w(&s);
    w.in = (int32_t)s.in, w.group_in = (int32_t)(s.in / s.groups);
    w.kh = (int32_t)s.kh, w.kw = (int32_t)s.kw;
    w.stride = (int32_t)s.stride, w.pad = (int32_t)s.pad, w.dilation = (int32_t)s.dilation;
    w.by_out_w = hn_divisor_of(w.out_w), w.by_out_h = hn_divisor_of(w.out_h);
    w.by_w = hn_divisor_of(s.w), w.by_h = hn_divisor_of(s.h);
    w.by_group_in = hn_divisor_of(w.group_in), w.by_kw = hn_divisor_of(s.kw);
    return w;
}

struct Pixel {
    int64_t image;
    int64_t i, j; /* row and column */
};

__device__ __forceinline__ Pixel pixel_of(uint32_t at, int64_t h, int64_t w, hn_divisor by_h,
                                          hn_divisor by_w)
{
    const uint32_t line = hn_divide(at, by_w), image = hn_divide(line, by_h);
    return {image, line - image * h, at - line * w};
}

/* Where a group's row of patches begins. */
__host__ __device__ __forceinline__ int64_t patch_at(int64_t row, int64_t ld, int64_t group,
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
    const int lane = (int)threadIdx.x % 32;
    const int32_t spans = k.in / kWidth; /* of a pixel */
    const int64_t n = (int64_t)k.kh * k.kw * spans;
    for (int64_t row = (int64_t)blockIdx.x * kWarps + threadIdx.x / 32; row < rows;
         row += (int64_t)gridDim.x * kWarps) {
        const Pixel at =
            pixel_of((uint32_t)(first + row), k.out_h, k.out_w, k.by_out_h, k.by_out_w);
        const int64_t i0 = at.i * k.stride - k.pad, j0 = at.j * k.stride - k.pad;
        for (int64_t v = lane; v < n; v += 32) {
            const uint32_t tap = hn_divide((uint32_t)v, by_spans), r = hn_divide(tap, k.by_kw);
            const uint32_t c = ((uint32_t)v - tap * (uint32_t)spans) * kWidth;
            const uint32_t group = hn_divide(c, k.by_group_in);
            const int64_t i = i0 + (int64_t)r * k.dilation;
            const int64_t j = j0 + (int64_t)(tap - r * (uint32_t)k.kw) * k.dilation;
            T *const to = patches + patch_at(row, ld, group, group_stride) +
                          (int64_t)tap * k.group_in + (c - group * (uint32_t)k.group_in);
            float value[kWidth] = {};
            if (i >= 0 && i < k.h && j >= 0 && j < k.w)
                hn_load_whole<kWidth>(x + ((at.image * k.h + i) * k.w + j) * ld_x + c, value);
            hn_store_whole<kWidth>(to, value); /* to and from fp32: the same bits */
        }
    }
}

/* The row or column of y that a kernel's row or column r reads pixel i for; -1: none. */
__device__ __forceinline__ int64_t reader_of(int64_t i, int32_t r, const Window &k, int64_t out)
{
    const int64_t t = i + k.pad - (int64_t)r * k.dilation;
    if (t < 0 || (k.stride > 1 && t % k.stride != 0)) return -1;
    return t / k.stride < out ? t / k.stride : -1;
}

/* add and dx may be the same memory: an element is read and then written by one thread. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    patches_sum_kernel(const Window k, const float *__restrict__ patches, int64_t first_image,
                       int64_t images, int64_t ld, int64_t group_stride, const T *add,
                       int64_t ld_add, T *dx, int64_t ld_dx)
{
    const int64_t n = images * k.h * k.w * k.in;
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t pixel = at / k.in, c = at - pixel * k.in, group = c / k.group_in;
        const Pixel p = pixel_of((uint32_t)pixel, k.h, k.w, k.by_h, k.by_w);
        float sum = 0.0f;
        for (int32_t r = 0; r < k.kh; r++) {
            const int64_t i = reader_of(p.i, r, k, k.out_h);
            if (i < 0) continue;
            for (int32_t s = 0; s < k.kw; s++) {
                const int64_t j = reader_of(p.j, s, k, k.out_w);
                if (j < 0) continue;
                const int64_t row = (p.image * k.out_h + i) * k.out_w + j;
                sum += patches[patch_at(row, ld, group, group_stride) +
                               (int64_t)(r * k.kw + s) * k.group_in + (c - group * k.group_in)];
            }
        }
        const int64_t to = first_image * k.h * k.w + pixel;
        if (add != nullptr) sum += hn_f32(add[to * ld_add + c]);
        dx[to * ld_dx + c] = hn_round<T>(sum);
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
void launch_patches(const hn_conv2d_patches *p, const void *x, int64_t ld_x, void *patches,
                    cudaStream_t stream)
{
    const bool packs =
        p->shape.in / p->shape.groups % HN_VEC == 0 && hn_vectors_fit(x, ld_x, p->dtype) &&
        hn_vectors_fit(patches, p->ld, p->dtype) && p->group_stride * (int64_t)sizeof(T) % 16 == 0;
    const T *const from = static_cast<const T *>(x);
    T *const to = static_cast<T *>(patches);
    if (packs)
        launch_patches<T, HN_VEC>(p, from, ld_x, to, stream);
    else
        launch_patches<T, 1>(p, from, ld_x, to, stream);
}

template <class T>
void launch_sum(const hn_conv2d_patches *p, const float *patches, const void *add, int64_t ld_add,
                void *dx, int64_t ld_dx, cudaStream_t stream)
{
    const Window k = window_of(p->shape);
    const int64_t per_image = k.out_h * k.out_w, images = p->rows / per_image;
    patches_sum_kernel<T>
        <<<hn_grid(images * k.h * k.w * k.in, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
            k, patches, p->first / per_image, images, p->ld, p->group_stride,
            static_cast<const T *>(add), ld_add, static_cast<T *>(dx), ld_dx);
}

} // namespace

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
