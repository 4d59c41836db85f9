/* Depthwise: bound by memory. A block takes 64 channels and keeps their kernels in shared memory; a
 * thread takes 8 neighbouring channels (1 where alignment forbids 16-byte accesses) of one pixel
 * after the other. Forward and the gradient of x are one kernel that looks up other pixels. The
 * gradient of w is summed by runs of rows first, then over the runs in order. */
#include "kernels/conv/cuda_conv2d.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kStrip = 64;          /* channels a block */
constexpr int kMaxTaps = 192;       /* 192 * 64 floats: 48 KiB of shared memory */
constexpr int kPasses = 8;          /* pixels a thread: 256 or 32 a block */
constexpr int64_t kMaxGrid = 65535; /* blocks in y and z */

/* What the kernels know of a convolution; `from` is what is read (x, or dy for dx), `to` what is
 * written. */
struct Geometry {
    int64_t rows, from_rows; /* pixels a replica */
    int64_t ld_from, ld_to, ld_w, ld_add, w_stride, bias_stride;
    int32_t channels, from_h, from_w, to_h, to_w;
    int32_t kh, kw, stride, pad, dilation;
    hn_divisor by_to_w, by_to_h, by_stride;
    bool bias_f32, relu;
};

/* Of the pixel `at` of a replica. */
struct Pixel {
    int32_t image, i, j;
};

__device__ __forceinline__ Pixel pixel_of(const Geometry &g, int64_t at)
{
    const uint32_t line = hn_divide((uint32_t)at, g.by_to_w), image = hn_divide(line, g.by_to_h);
    return {(int32_t)image, (int32_t)(line - image * (uint32_t)g.to_h),
            (int32_t)((uint32_t)at - line * (uint32_t)g.to_w)};
}

/* Row or column that tap r of target row or column i reads; -1: outside. */
template <bool kGradient>
__device__ __forceinline__ int32_t source_of(const Geometry &g, int32_t i, int32_t r, int32_t size)
{
    if (!kGradient) {
        const int32_t at = i * g.stride - g.pad + r * g.dilation;
        return at < size ? at : -1; /* or below 0 */
    }
    const int32_t t = i + g.pad - r * g.dilation;
    if (t < 0) return -1;
    const int32_t at = (int32_t)hn_divide((uint32_t)t, g.by_stride);
    return at < size && at * g.stride == t ? at : -1;
}

/* kernel[tap][channel] of this strip; zeros behind the last channel. */
template <class T>
__device__ void load_kernels(const Geometry &g, const T *w, int32_t c0, float *kernel)
{
    const int taps = g.kh * g.kw;
    for (int t = (int)threadIdx.x; t < taps * kStrip; t += kThreads) {
        const int tap = t / kStrip, c = c0 + t % kStrip;
        kernel[t] = c < g.channels ? hn_f32(w[(int64_t)c * g.ld_w + tap]) : 0.0f;
    }
}

/* What comes to the sums of channels from `at` (in bias) on: bias, add, relu. */
template <class T, int kWidth>
__device__ __forceinline__ void finish(const Geometry &g, const void *bias, int64_t at,
                                       const T *add, int32_t left, float (&sum)[kWidth])
{
    float v[kWidth];
    if (bias != nullptr) {
#pragma unroll
        for (int e = 0; e < kWidth; e++)
            if (e < left)
                sum[e] += g.bias_f32 ? static_cast<const float *>(bias)[at + e]
                                     : hn_f32(static_cast<const __nv_bfloat16 *>(bias)[at + e]);
    }
    if (add != nullptr) {
        hn_load_span<kWidth>(add, left, v);
#pragma unroll
        for (int e = 0; e < kWidth; e++) sum[e] += v[e];
    }
    if (g.relu) {
#pragma unroll
        for (int e = 0; e < kWidth; e++)
            if (sum[e] < 0.0f) sum[e] = 0.0f; /* NaN stays */
    }
}

/* One block a strip (blockIdx.y) of kPasses passes over the pixels of a replica (blockIdx.z). add
 * and to may be the same memory: an element is read and then written by one thread. */
template <class T, int kWidth, bool kGradient>
__global__ void __launch_bounds__(kThreads)
    depthwise_kernel(const Geometry g, const T *__restrict__ from, const T *__restrict__ w,
                     const void *__restrict__ bias, const T *add, T *to)
{
    extern __shared__ __align__(16) float kernel[];
    constexpr int kLanes = kStrip / kWidth, kPixels = kThreads / kLanes;
    const int lane = (int)threadIdx.x % kLanes, first = (int)threadIdx.x / kLanes;
    const int32_t c0 = (int32_t)blockIdx.y * kStrip, c = c0 + lane * kWidth, left = g.channels - c;
    const int64_t replica = blockIdx.z;
    load_kernels(g, w + replica * g.w_stride, c0, kernel);
    __syncthreads();
    if (left <= 0) return;
    for (int k = 0; k < kPasses; k++) {
        const int64_t at = ((int64_t)blockIdx.x * kPasses + k) * kPixels + first;
        if (at >= g.rows) return;
        const Pixel p = pixel_of(g, at);
        const T *const image =
            from + (replica * g.from_rows + (int64_t)p.image * g.from_h * g.from_w) * g.ld_from + c;
        float sum[kWidth] = {};
        for (int32_t r = 0; r < g.kh; r++) {
            const int32_t i = source_of<kGradient>(g, p.i, r, g.from_h);
            if (i < 0) continue;
            for (int32_t s = 0; s < g.kw; s++) {
                const int32_t j = source_of<kGradient>(g, p.j, s, g.from_w);
                if (j < 0) continue;
                const float *const tap = kernel + (r * g.kw + s) * kStrip + lane * kWidth;
                float v[kWidth];
                hn_load_span<kWidth>(image + ((int64_t)i * g.from_w + j) * g.ld_from, left, v);
#pragma unroll
                for (int e = 0; e < kWidth; e++) sum[e] += v[e] * tap[e];
            }
        }
        const int64_t row = replica * g.rows + at;
        finish<T, kWidth>(g, bias, replica * g.bias_stride + c,
                          add != nullptr ? add + row * g.ld_add + c : nullptr, left, sum);
        hn_store_span<kWidth>(to + row * g.ld_to + c, left, sum);
    }
}

Geometry geometry_of(const hn_conv2d_shape *s, int64_t replicas, bool gradient)
{
    Geometry g = {};
    const int64_t out_h = hn_conv2d_out_h(s), out_w = hn_conv2d_out_w(s);
    const int64_t images = s->n / hn_replica_count(replicas);
    g.channels = (int32_t)s->in;
    g.from_h = (int32_t)(gradient ? out_h : s->h), g.from_w = (int32_t)(gradient ? out_w : s->w);
    g.to_h = (int32_t)(gradient ? s->h : out_h), g.to_w = (int32_t)(gradient ? s->w : out_w);
    g.rows = images * g.to_h * g.to_w;
    g.from_rows = images * g.from_h * g.from_w;
    g.kh = (int32_t)s->kh, g.kw = (int32_t)s->kw;
    g.stride = (int32_t)s->stride, g.pad = (int32_t)s->pad, g.dilation = (int32_t)s->dilation;
    g.by_to_h = hn_divisor_of(g.to_h), g.by_to_w = hn_divisor_of(g.to_w);
    g.by_stride = hn_divisor_of(s->stride);
    return g;
}

unsigned strips_of(const Geometry &g) { return (unsigned)((g.channels + kStrip - 1) / kStrip); }

template <class T, int kWidth, bool kGradient>
void launch(const Geometry &g, int64_t replicas, const void *from, const void *w, const void *bias,
            const void *add, void *to, cudaStream_t stream)
{
    constexpr int64_t kPixels = (int64_t)kPasses * kThreads / (kStrip / kWidth);
    const size_t shared = (size_t)(g.kh * g.kw * kStrip) * sizeof(float);
    const dim3 grid((unsigned)((g.rows + kPixels - 1) / kPixels), strips_of(g), (unsigned)replicas);
    depthwise_kernel<T, kWidth, kGradient><<<grid, kThreads, shared, stream>>>(
        g, static_cast<const T *>(from), static_cast<const T *>(w), bias,
        static_cast<const T *>(add), static_cast<T *>(to));
}

template <bool kGradient>
void launch(const Geometry &g, int64_t replicas, hn_dtype dtype, bool packs, const void *from,
            const void *w, const void *bias, const void *add, void *to, cudaStream_t stream)
{
    if (packs)
        HN_CUDA_REAL(dtype, T,
                     launch<T, HN_VEC, kGradient>(g, replicas, from, w, bias, add, to, stream));
    else
        HN_CUDA_REAL(dtype, T,
                     launch<T, 1, kGradient>(g, replicas, from, w, bias, add, to, stream));
}

/* ---- gradient of w ---- */

constexpr int kTaps = 4;           /* of a kernel, a block: 32 sums a thread */
constexpr int64_t kLeastRun = 512; /* rows of dy a block */
constexpr int64_t kMostRuns = 256; /* a replica */

struct Runs {
    Geometry g;               /* from: x, to: dy */
    int64_t replicas, length; /* length: rows a run */
    int32_t runs, taps;       /* runs: a replica */
    uint32_t tap_groups;
};

Runs runs_of(const hn_conv2d_shape *s, int64_t replicas)
{
    Runs r = {};
    r.g = geometry_of(s, replicas, false);
    r.replicas = hn_replica_count(replicas);
    r.length = (r.g.rows + kMostRuns - 1) / kMostRuns;
    if (r.length < kLeastRun) r.length = kLeastRun;
    r.runs = (int32_t)((r.g.rows + r.length - 1) / r.length);
    r.taps = r.g.kh * r.g.kw;
    r.tap_groups = (uint32_t)((r.taps + kTaps - 1) / kTaps);
    return r;
}

/* part[replica][run][tap][channel] = sum of dy x over the run's rows. One block kTaps taps of a run
 * (blockIdx.x), a strip (y) and a replica (z). */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    depthwise_runs_kernel(const Runs r, const T *__restrict__ dy, const T *__restrict__ x,
                          float *__restrict__ part)
{
    constexpr int kLanes = kStrip / kWidth, kPixels = kThreads / kLanes;
    __shared__ float lane_sum[kPixels][kStrip];
    const Geometry &g = r.g;
    const int lane = (int)threadIdx.x % kLanes, first = (int)threadIdx.x / kLanes;
    const int32_t run = (int32_t)(blockIdx.x / r.tap_groups);
    const int32_t tap0 = (int32_t)(blockIdx.x % r.tap_groups) * kTaps;
    const int32_t c0 = (int32_t)blockIdx.y * kStrip, c = c0 + lane * kWidth, left = g.channels - c;
    const int64_t replica = blockIdx.z, start = run * r.length;
    const int64_t end = start + r.length < g.rows ? start + r.length : g.rows;
    float sum[kTaps][kWidth] = {};
    for (int64_t at = start + first; at < end && left > 0; at += kPixels) {
        const Pixel p = pixel_of(g, at);
        const T *const image =
            x + (replica * g.from_rows + (int64_t)p.image * g.from_h * g.from_w) * g.ld_from + c;
        float d[kWidth];
        hn_load_span<kWidth>(dy + (replica * g.rows + at) * g.ld_to + c, left, d);
#pragma unroll
        for (int t = 0; t < kTaps; t++) {
            const int32_t tap = tap0 + t, row = tap / g.kw;
            const int32_t i = source_of<false>(g, p.i, row, g.from_h);
            const int32_t j = source_of<false>(g, p.j, tap - row * g.kw, g.from_w);
            if (tap >= r.taps || i < 0 || j < 0) continue;
            float v[kWidth];
            hn_load_span<kWidth>(image + ((int64_t)i * g.from_w + j) * g.ld_from, left, v);
#pragma unroll
            for (int e = 0; e < kWidth; e++) sum[t][e] += d[e] * v[e];
        }
    }
#pragma unroll
    for (int t = 0; t < kTaps; t++) { /* by all threads: barriers inside */
        __syncthreads();              /* the sums before have been read */
#pragma unroll
        for (int e = 0; e < kWidth; e++) lane_sum[first][lane * kWidth + e] = sum[t][e];
        __syncthreads();
        const int32_t channel = c0 + (int32_t)threadIdx.x;
        if (threadIdx.x >= kStrip || channel >= g.channels || tap0 + t >= r.taps) continue;
        float total = 0.0f;
        for (int p = 0; p < kPixels; p++) total += lane_sum[p][threadIdx.x];
        part[((replica * r.runs + run) * r.taps + tap0 + t) * g.channels + channel] = total;
    }
}

/* dw[replica][channel][tap] += sum of the runs, in order; a replica: blockIdx.y. */
__global__ void __launch_bounds__(kThreads)
    depthwise_add_kernel(const Runs r, const float *__restrict__ part, float *__restrict__ dw,
                         int64_t ld_dw, int64_t dw_stride)
{
    const uint32_t channels = (uint32_t)r.g.channels, cols = (uint32_t)r.taps * channels;
    const uint32_t at = blockIdx.x * kThreads + threadIdx.x;
    if (at >= cols) return;
    const int64_t replica = blockIdx.y;
    float sum = 0.0f;
    for (int32_t run = 0; run < r.runs; run++) sum += part[(replica * r.runs + run) * cols + at];
    dw[replica * dw_stride + (int64_t)(at % channels) * ld_dw + at / channels] += sum;
}

template <class T, int kWidth>
void launch_runs(const Runs &r, const hn_conv2d_dw_args *a, float *part, cudaStream_t stream)
{
    const dim3 grid((unsigned)r.runs * r.tap_groups, strips_of(r.g), (unsigned)r.replicas);
    depthwise_runs_kernel<T, kWidth><<<grid, kThreads, 0, stream>>>(
        r, static_cast<const T *>(a->dy), static_cast<const T *>(a->x), part);
}

} // namespace

bool hn_conv2d_depthwise_fits(const hn_conv2d_shape *s, int64_t replicas)
{
    return s->groups == s->in && s->out == s->in && s->in > 1 && s->in <= kMaxGrid * kStrip &&
           hn_replica_count(replicas) <= kMaxGrid && s->kh <= kMaxTaps && s->kw <= kMaxTaps / s->kh;
}

hn_status hn_conv2d_depthwise_fwd(const hn_conv2d_args *a, hn_stream stream)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    Geometry g = geometry_of(&a->shape, replicas, false);
    g.ld_from = a->ld_x, g.ld_to = a->ld_y, g.ld_w = a->ld_w;
    g.w_stride = a->w_stride, g.bias_stride = a->bias_stride;
    g.bias_f32 = a->bias_dtype == HN_F32, g.relu = a->relu;
    const bool packs =
        hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype);
    launch<false>(g, replicas, a->dtype, packs, a->x, a->w, a->bias, nullptr, a->y, stream);
    return HN_CUDA_LAUNCHED("conv2d: depthwise");
}

hn_status hn_conv2d_depthwise_dx(const hn_conv2d_dx_args *a, hn_stream stream)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    Geometry g = geometry_of(&a->shape, replicas, true);
    g.ld_from = a->ld_dy, g.ld_to = a->ld_dx, g.ld_w = a->ld_w, g.ld_add = a->ld_add;
    g.w_stride = a->w_stride;
    const bool packs = hn_vectors_fit(a->dy, a->ld_dy, a->dtype) &&
                       hn_vectors_fit(a->dx, a->ld_dx, a->dtype) &&
                       hn_vectors_fit(a->add, a->ld_add, a->dtype);
    launch<true>(g, replicas, a->dtype, packs, a->dy, a->w, nullptr, a->add, a->dx, stream);
    return HN_CUDA_LAUNCHED("conv2d: gradient of a depthwise input");
}

size_t hn_conv2d_depthwise_dw_scratch(const hn_conv2d_dw_args *a)
{
    const Runs r = runs_of(&a->shape, a->replicas);
    return (size_t)(r.replicas * r.runs * r.taps * r.g.channels) * sizeof(float);
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
    const dim3 grid(hn_grid((int64_t)r.taps * r.g.channels, kThreads, INT32_MAX),
                    (unsigned)r.replicas);
    depthwise_add_kernel<<<grid, kThreads, 0, stream>>>(r, part, a->dw, a->ld_dw, a->dw_stride);
    return HN_CUDA_LAUNCHED("conv2d: gradient of a depthwise weight");
}
