/* Depthwise: bound by memory. A block takes 64 channels and keeps their kernels in shared memory; a
 * thread takes 8 neighbouring channels (1 where alignment forbids 16-byte accesses) of one pixel
 * after the other. Forward and the gradient of x are one kernel that looks up other pixels. The
 * gradient of w is summed by runs of rows first, then over the runs in order. */
#include "kernels/conv/cuda_conv2d.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kStrip = 64;                /* channels a block */
constexpr int kMaxTaps = 192;             /* 192 * 64 floats: 48 KiB of shared memory */
constexpr int kPasses = 8;                /* pixels a thread: 256 or 32 a block */
constexpr int64_t kMaxBlocks = 1ll << 20; /* blocks loop over what is left */

/* What the kernels know of a convolution; `from` is what is read (x, or dy for dx), `to` what is
 * written. */
struct Geometry {
    int64_t channels, strips, blocks; /* blocks: of pixels, a replica */
    int64_t rows, from_rows;          /* pixels a replica */
    int64_t from_h, from_w, to_h, to_w;
    int64_t ld_from, ld_to, ld_w, ld_add, w_stride, bias_stride, replicas;
    int32_t kh, kw, stride, pad, dilation;
    hn_divisor by_to_w, by_to_h;
    bool bias_f32, relu;
};

/* Of the pixel `at` of a replica. */
struct Pixel {
    int64_t image, i, j;
};

__device__ __forceinline__ Pixel pixel_of(uint32_t at, int64_t h, int64_t w, hn_divisor by_h,
                                          hn_divisor by_w)
{
    const uint32_t line = hn_divide(at, by_w), image = hn_divide(line, by_h);
    return {image, line - image * h, at - line * w};
}

/* Row or column that tap r of target row or column i reads; -1: outside. */
template <bool kGradient>
__device__ __forceinline__ int64_t source_of(const Geometry &g, int64_t i, int32_t r, int64_t size)
{
    int64_t at;
    if (kGradient) {
        at = i + g.pad - (int64_t)r * g.dilation;
        if (at < 0) return -1;
        if (g.stride > 1) {
            if (at % g.stride != 0) return -1;
            at /= g.stride;
        }
    } else {
        at = i * g.stride - g.pad + (int64_t)r * g.dilation;
        if (at < 0) return -1;
    }
    return at < size ? at : -1;
}

/* kernel[tap][channel] of this strip; zeros behind the last channel. */
template <class T>
__device__ void load_kernels(const Geometry &g, const T *w, int64_t c0, float *kernel)
{
    const int taps = g.kh * g.kw;
    for (int t = (int)threadIdx.x; t < taps * kStrip; t += kThreads) {
        const int64_t tap = t / kStrip, c = c0 + t % kStrip;
        kernel[t] = c < g.channels ? hn_f32(w[c * g.ld_w + tap]) : 0.0f;
    }
}

__device__ __forceinline__ float bias_at(const Geometry &g, const void *bias, int64_t at)
{
    return g.bias_f32 ? static_cast<const float *>(bias)[at]
                      : hn_f32(static_cast<const __nv_bfloat16 *>(bias)[at]);
}

/* add and to may be the same memory: an element is read and then written by one thread. */
template <class T, int kWidth, bool kGradient>
__global__ void __launch_bounds__(kThreads)
    depthwise_kernel(const Geometry g, const T *__restrict__ from, const T *__restrict__ w,
                     const void *__restrict__ bias, const T *add, T *to)
{
    extern __shared__ __align__(16) float kernel[];
    constexpr int kLanes = kStrip / kWidth, kPixels = kThreads / kLanes;
    const int lane = (int)threadIdx.x % kLanes, first = (int)threadIdx.x / kLanes;
    const int64_t n = g.replicas * g.blocks * g.strips;
    for (int64_t b = blockIdx.x; b < n; b += gridDim.x) {
        const int64_t strip = b % g.strips, block = b / g.strips % g.blocks;
        const int64_t replica = b / g.strips / g.blocks;
        const int64_t c0 = strip * kStrip, c = c0 + lane * kWidth, left = g.channels - c;
        __syncthreads(); /* the block before has read its kernels */
        load_kernels(g, w + replica * g.w_stride, c0, kernel);
        __syncthreads();
        if (left <= 0) continue; /* all threads meet again at the next barrier */
        for (int k = 0; k < kPasses; k++) {
            const int64_t at = (block * kPasses + k) * kPixels + first;
            if (at >= g.rows) break;
            const Pixel p = pixel_of((uint32_t)at, g.to_h, g.to_w, g.by_to_h, g.by_to_w);
            const T *const image =
                from + (replica * g.from_rows + p.image * g.from_h * g.from_w) * g.ld_from;
            float sum[kWidth] = {};
            for (int32_t r = 0; r < g.kh; r++) {
                const int64_t i = source_of<kGradient>(g, p.i, r, g.from_h);
                if (i < 0) continue;
                for (int32_t s = 0; s < g.kw; s++) {
                    const int64_t j = source_of<kGradient>(g, p.j, s, g.from_w);
                    if (j < 0) continue;
                    const float *const tap = kernel + (r * g.kw + s) * kStrip + lane * kWidth;
                    float v[kWidth];
                    hn_load_span<kWidth>(image + (i * g.from_w + j) * g.ld_from + c, left, v);
#pragma unroll
                    for (int e = 0; e < kWidth; e++) sum[e] += v[e] * tap[e];
                }
            }
            const int64_t row = replica * g.rows + at;
            if (bias != nullptr) {
#pragma unroll
                for (int e = 0; e < kWidth; e++)
                    if (e < left) sum[e] += bias_at(g, bias, replica * g.bias_stride + c + e);
            }
            if (add != nullptr) {
                float v[kWidth];
                hn_load_span<kWidth>(add + row * g.ld_add + c, left, v);
#pragma unroll
                for (int e = 0; e < kWidth; e++) sum[e] += v[e];
            }
            if (g.relu) {
#pragma unroll
                for (int e = 0; e < kWidth; e++)
                    if (sum[e] < 0.0f) sum[e] = 0.0f; /* NaN stays */
            }
            hn_store_span<kWidth>(to + row * g.ld_to + c, left, sum);
        }
    }
}

Geometry geometry_of(const hn_conv2d_shape *s, int64_t replicas, bool gradient)
{
    Geometry g = {};
    const int64_t out_h = hn_conv2d_out_h(s), out_w = hn_conv2d_out_w(s);
    g.replicas = hn_replica_count(replicas);
    g.channels = s->in;
    g.strips = (s->in + kStrip - 1) / kStrip;
    g.from_h = gradient ? out_h : s->h, g.from_w = gradient ? out_w : s->w;
    g.to_h = gradient ? s->h : out_h, g.to_w = gradient ? s->w : out_w;
    g.rows = s->n / g.replicas * g.to_h * g.to_w;
    g.from_rows = s->n / g.replicas * g.from_h * g.from_w;
    g.kh = (int32_t)s->kh, g.kw = (int32_t)s->kw;
    g.stride = (int32_t)s->stride, g.pad = (int32_t)s->pad, g.dilation = (int32_t)s->dilation;
    g.by_to_h = hn_divisor_of(g.to_h), g.by_to_w = hn_divisor_of(g.to_w);
    return g;
}

template <class T, int kWidth, bool kGradient>
void launch(Geometry g, const void *from, const void *w, const void *bias, const void *add,
            void *to, cudaStream_t stream)
{
    constexpr int64_t kPixels = (int64_t)kPasses * kThreads / (kStrip / kWidth);
    const size_t shared = (size_t)(g.kh * g.kw * kStrip) * sizeof(float);
    g.blocks = (g.rows + kPixels - 1) / kPixels;
    const int64_t n = g.replicas * g.blocks * g.strips;
    depthwise_kernel<T, kWidth, kGradient><<<hn_grid(n, 1, kMaxBlocks), kThreads, shared, stream>>>(
        g, static_cast<const T *>(from), static_cast<const T *>(w), bias,
        static_cast<const T *>(add), static_cast<T *>(to));
}

template <bool kGradient>
void launch(const Geometry &g, hn_dtype dtype, bool packs, const void *from, const void *w,
            const void *bias, const void *add, void *to, cudaStream_t stream)
{
    if (packs)
        HN_CUDA_REAL(dtype, T, launch<T, HN_VEC, kGradient>(g, from, w, bias, add, to, stream));
    else
        HN_CUDA_REAL(dtype, T, launch<T, 1, kGradient>(g, from, w, bias, add, to, stream));
}

/* ---- gradient of w ---- */

constexpr int kTaps = 4;           /* of a kernel, a block: 32 sums a thread */
constexpr int64_t kLeastRun = 512; /* rows of dy a block */
constexpr int64_t kMostRuns = 256; /* a replica */

struct Runs {
    Geometry g;           /* from: x, to: dy */
    int64_t length, runs; /* rows a run, runs a replica */
    int64_t tap_groups;
};

Runs runs_of(const hn_conv2d_shape *s, int64_t replicas)
{
    Runs r = {};
    r.g = geometry_of(s, replicas, false);
    r.length = (r.g.rows + kMostRuns - 1) / kMostRuns;
    if (r.length < kLeastRun) r.length = kLeastRun;
    r.runs = (r.g.rows + r.length - 1) / r.length;
    r.tap_groups = (s->kh * s->kw + kTaps - 1) / kTaps;
    return r;
}

/* part[replica][run][tap][channel] = sum of dy x over the run's rows. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    depthwise_runs_kernel(const Runs r, const T *__restrict__ dy, const T *__restrict__ x,
                          float *__restrict__ part)
{
    constexpr int kLanes = kStrip / kWidth, kPixels = kThreads / kLanes;
    __shared__ float lane_sum[kPixels][kStrip];
    const Geometry &g = r.g;
    const int lane = (int)threadIdx.x % kLanes, first = (int)threadIdx.x / kLanes;
    const int32_t taps = g.kh * g.kw;
    const int64_t n = g.replicas * r.runs * g.strips * r.tap_groups;
    for (int64_t b = blockIdx.x; b < n; b += gridDim.x) {
        const int64_t strip = b % g.strips, tap0 = b / g.strips % r.tap_groups * kTaps;
        const int64_t run = b / g.strips / r.tap_groups % r.runs;
        const int64_t replica = b / g.strips / r.tap_groups / r.runs;
        const int64_t c = strip * kStrip + lane * kWidth, left = g.channels - c;
        const int64_t start = run * r.length;
        const int64_t end = start + r.length < g.rows ? start + r.length : g.rows;
        float sum[kTaps][kWidth] = {};
        for (int64_t at = start + first; at < end && left > 0; at += kPixels) {
            const Pixel p = pixel_of((uint32_t)at, g.to_h, g.to_w, g.by_to_h, g.by_to_w);
            const T *const image =
                x + (replica * g.from_rows + p.image * g.from_h * g.from_w) * g.ld_from;
            float d[kWidth];
            hn_load_span<kWidth>(dy + (replica * g.rows + at) * g.ld_to + c, left, d);
#pragma unroll
            for (int t = 0; t < kTaps; t++) {
                const int32_t tap = (int32_t)tap0 + t;
                if (tap >= taps) continue;
                const int64_t i = source_of<false>(g, p.i, tap / g.kw, g.from_h);
                const int64_t j = source_of<false>(g, p.j, tap % g.kw, g.from_w);
                if (i < 0 || j < 0) continue;
                float v[kWidth];
                hn_load_span<kWidth>(image + (i * g.from_w + j) * g.ld_from + c, left, v);
#pragma unroll
                for (int e = 0; e < kWidth; e++) sum[t][e] += d[e] * v[e];
            }
        }
#pragma unroll
        for (int t = 0; t < kTaps; t++) { /* the same for all threads: barriers inside */
            __syncthreads();              /* the sums before have been read */
#pragma unroll
            for (int e = 0; e < kWidth; e++) lane_sum[first][lane * kWidth + e] = sum[t][e];
            __syncthreads();
            const int64_t channel = strip * kStrip + threadIdx.x;
            if (threadIdx.x >= kStrip || channel >= g.channels || tap0 + t >= taps) continue;
            float total = 0.0f;
            for (int p = 0; p < kPixels; p++) total += lane_sum[p][threadIdx.x];
            part[((replica * r.runs + run) * taps + tap0 + t) * g.channels + channel] = total;
        }
    }
}

/* dw[replica][channel][tap] += sum of the runs, in order. */
__global__ void __launch_bounds__(kThreads)
    depthwise_add_kernel(const Runs r, const float *__restrict__ part, float *__restrict__ dw,
                         int64_t ld_dw, int64_t dw_stride)
{
    const int64_t taps = r.g.kh * r.g.kw, cols = taps * r.g.channels, n = r.g.replicas * cols;
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t replica = at / cols, in = at % cols;
        float sum = 0.0f;
        for (int64_t run = 0; run < r.runs; run++)
            sum += part[(replica * r.runs + run) * cols + in];
        dw[replica * dw_stride + in % r.g.channels * ld_dw + in / r.g.channels] += sum;
    }
}

template <class T, int kWidth>
void launch_runs(const Runs &r, const hn_conv2d_dw_args *a, float *part, cudaStream_t stream)
{
    const int64_t n = r.g.replicas * r.runs * r.g.strips * r.tap_groups;
    depthwise_runs_kernel<T, kWidth><<<hn_grid(n, 1, kMaxBlocks), kThreads, 0, stream>>>(
        r, static_cast<const T *>(a->dy), static_cast<const T *>(a->x), part);
}

} // namespace

bool hn_conv2d_depthwise_fits(const hn_conv2d_shape *s)
{
    return s->groups == s->in && s->out == s->in && s->in > 1 && s->kh <= kMaxTaps &&
           s->kw <= kMaxTaps / s->kh;
}

hn_status hn_conv2d_depthwise_fwd(const hn_conv2d_args *a, hn_stream stream)
{
    Geometry g = geometry_of(&a->shape, a->replicas, false);
    g.ld_from = a->ld_x, g.ld_to = a->ld_y, g.ld_w = a->ld_w;
    g.w_stride = g.replicas > 1 ? a->w_stride : 0;
    g.bias_stride = g.replicas > 1 ? a->bias_stride : 0;
    g.bias_f32 = a->bias_dtype == HN_F32, g.relu = a->relu;
    const bool packs =
        hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype);
    launch<false>(g, a->dtype, packs, a->x, a->w, a->bias, nullptr, a->y, stream);
    return HN_CUDA_LAUNCHED("conv2d: depthwise");
}

hn_status hn_conv2d_depthwise_dx(const hn_conv2d_dx_args *a, hn_stream stream)
{
    Geometry g = geometry_of(&a->shape, a->replicas, true);
    g.ld_from = a->ld_dy, g.ld_to = a->ld_dx, g.ld_w = a->ld_w, g.ld_add = a->ld_add;
    g.w_stride = g.replicas > 1 ? a->w_stride : 0;
    const bool packs = hn_vectors_fit(a->dy, a->ld_dy, a->dtype) &&
                       hn_vectors_fit(a->dx, a->ld_dx, a->dtype) &&
                       hn_vectors_fit(a->add, a->ld_add, a->dtype);
    launch<true>(g, a->dtype, packs, a->dy, a->w, nullptr, a->add, a->dx, stream);
    return HN_CUDA_LAUNCHED("conv2d: gradient of a depthwise input");
}

size_t hn_conv2d_depthwise_dw_scratch(const hn_conv2d_dw_args *a)
{
    const Runs r = runs_of(&a->shape, a->replicas);
    const int64_t n = r.g.replicas * r.runs * r.g.kh * r.g.kw * r.g.channels;
    return (size_t)n * sizeof(float);
}

hn_status hn_conv2d_depthwise_dw(const hn_conv2d_dw_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_check_pointer("conv2d_dw", "scratch", scratch));
    Runs r = runs_of(&a->shape, a->replicas);
    r.g.ld_from = a->ld_x, r.g.ld_to = a->ld_dy;
    float *const part = static_cast<float *>(scratch);
    const bool packs =
        hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->dy, a->ld_dy, a->dtype);
    if (packs)
        HN_CUDA_REAL(a->dtype, T, launch_runs<T, HN_VEC>(r, a, part, stream));
    else
        HN_CUDA_REAL(a->dtype, T, launch_runs<T, 1>(r, a, part, stream));
    const int64_t n = r.g.replicas * r.g.kh * r.g.kw * r.g.channels;
    depthwise_add_kernel<<<hn_grid(n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        r, part, a->dw, a->ld_dw, r.g.replicas > 1 ? a->dw_stride : 0);
    return HN_CUDA_LAUNCHED("conv2d: gradient of a depthwise weight");
}
