/* Few taps and few filters: stems, of 3 x 3 pixels of 3 channels or 5 x 5 of one. A thread keeps
 * what a pixel of y sees of x in registers and multiplies it by kFilters filters at a time, which
 * lie in shared memory as fp32: one launch, no patches. */
#include "kernels/conv/cuda_conv2d.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 128; /* few, so that 32 small images still reach all multiprocessors */
constexpr int kTaps = 28;     /* 3 x 3 x 3 and 5 x 5, rounded up to 4 */
constexpr int kMostOut = 64;  /* beyond that tensor cores make up for the patches */
constexpr int kFilters = 16;  /* sums of a thread; two stores of 16 bytes in bf16 */
static_assert(kMostOut % kFilters == 0 && kFilters % HN_VEC == 0, "whole groups, whole stores");

template <class T>
struct Direct {
    const T *x, *w;
    const void *bias; /* nullptr: none */
    T *y;
    int64_t ld_x, ld_w, ld_y;
    uint32_t rows; /* of y */
    int32_t h, width, out_h, out_w, in, out, kw, stride, pad, dilation, taps;
    hn_divisor by_out_w, by_out_h;
    bool bias_is_bf16, relu, wide;
};

/* w[o][tap] as filter[tap][o], with zeros where there is none; the last row is the bias. */
template <class T>
__device__ __forceinline__ void load_filters(const Direct<T> &a, float (*filter)[kMostOut])
{
    for (int o = threadIdx.x; o < kMostOut; o += kThreads) {
        const T *const w = a.w + o * a.ld_w;
#pragma unroll
        for (int t = 0; t < kTaps; t++)
            filter[t][o] = o < a.out && t < a.taps ? hn_f32(w[t]) : 0.0f;
        float bias = 0.0f;
        if (a.bias != nullptr && o < a.out)
            bias = a.bias_is_bf16 ? hn_f32(static_cast<const __nv_bfloat16 *>(a.bias)[o])
                                  : static_cast<const float *>(a.bias)[o];
        filter[kTaps][o] = bias;
    }
    __syncthreads();
}

/* What pixel `row` of y sees, in the order of w; zeros outside the image and behind the taps. */
template <class T>
__device__ __forceinline__ void load_patch(const Direct<T> &a, uint32_t row, float (&v)[kTaps])
{
    const uint32_t line = hn_divide(row, a.by_out_w), image = hn_divide(line, a.by_out_h);
    /* unsigned: what lies above or to the left of the image is far behind it */
    uint32_t i = (line - image * (uint32_t)a.out_h) * (uint32_t)a.stride - (uint32_t)a.pad;
    const uint32_t j0 = (row - line * (uint32_t)a.out_w) * (uint32_t)a.stride - (uint32_t)a.pad;
    const T *const x = a.x + (int64_t)image * a.h * a.width * a.ld_x;
    uint32_t j = j0;
    int32_t column = 0, channel = 0;
#pragma unroll
    for (int t = 0; t < kTaps; t++) {
        const bool inside = t < a.taps && i < (uint32_t)a.h && j < (uint32_t)a.width;
        v[t] = inside ? hn_f32(x[((int64_t)i * a.width + j) * a.ld_x + channel]) : 0.0f;
        if (++channel < a.in) continue;
        channel = 0, j += (uint32_t)a.dilation;
        if (++column < a.kw) continue;
        column = 0, j = j0, i += (uint32_t)a.dilation;
    }
}

/* y[0 .. n) of a pixel: up to kFilters sums. */
template <class T>
__device__ __forceinline__ void store_sums(const Direct<T> &a, T *y, int n,
                                           const float (&sum)[kFilters])
{
#pragma unroll
    for (int k = 0; k < kFilters; k += HN_VEC) {
        float part[HN_VEC];
#pragma unroll
        for (int e = 0; e < HN_VEC; e++) part[e] = sum[k + e];
        if (a.wide) {
            hn_store_span<HN_VEC>(y + k, n - k, part);
            continue;
        }
#pragma unroll
        for (int e = 0; e < HN_VEC; e++)
            if (k + e < n) y[k + e] = hn_round<T>(part[e]);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) direct_kernel(const Direct<T> a)
{
    __shared__ __align__(16) float filter[kTaps + 1][kMostOut];
    const uint32_t row = blockIdx.x * kThreads + threadIdx.x;
    load_filters(a, filter);
    if (row >= a.rows) return;
    float v[kTaps];
    load_patch(a, row, v);
#pragma unroll 1
    for (int first = 0; first < a.out; first += kFilters) {
        float sum[kFilters] = {};
#pragma unroll
        for (int t = 0; t < kTaps; t++)
#pragma unroll
            for (int k = 0; k < kFilters; k += 4) {
                const float4 f = *reinterpret_cast<const float4 *>(&filter[t][first + k]);
                sum[k] = fmaf(v[t], f.x, sum[k]);
                sum[k + 1] = fmaf(v[t], f.y, sum[k + 1]);
                sum[k + 2] = fmaf(v[t], f.z, sum[k + 2]);
                sum[k + 3] = fmaf(v[t], f.w, sum[k + 3]);
            }
#pragma unroll
        for (int k = 0; k < kFilters; k++) {
            sum[k] += filter[kTaps][first + k];
            if (a.relu && sum[k] < 0.0f) sum[k] = 0.0f; /* NaN stays */
        }
        store_sums(a, a.y + row * a.ld_y + first, a.out - first, sum);
    }
}

template <class T>
void launch(const hn_conv2d_args *a, cudaStream_t stream)
{
    const hn_conv2d_shape *const s = &a->shape;
    Direct<T> d = {};
    d.x = static_cast<const T *>(a->x), d.w = static_cast<const T *>(a->w);
    d.bias = a->bias, d.y = static_cast<T *>(a->y);
    d.ld_x = a->ld_x, d.ld_w = a->ld_w, d.ld_y = a->ld_y;
    d.h = (int32_t)s->h, d.width = (int32_t)s->w;
    d.out_h = (int32_t)hn_conv2d_out_h(s), d.out_w = (int32_t)hn_conv2d_out_w(s);
    d.rows = (uint32_t)(s->n * d.out_h * d.out_w);
    d.in = (int32_t)s->in, d.out = (int32_t)s->out, d.kw = (int32_t)s->kw;
    d.stride = (int32_t)s->stride, d.pad = (int32_t)s->pad, d.dilation = (int32_t)s->dilation;
    d.taps = (int32_t)hn_conv2d_taps(s);
    d.by_out_w = hn_divisor_of(d.out_w), d.by_out_h = hn_divisor_of(d.out_h);
    d.bias_is_bf16 = a->bias_dtype == HN_BF16, d.relu = a->relu;
    d.wide = hn_vectors_fit(a->y, a->ld_y, a->dtype);
    direct_kernel<T><<<hn_grid(d.rows, kThreads, INT32_MAX), kThreads, 0, stream>>>(d);
}

} // namespace

bool hn_conv2d_direct_fits(const hn_conv2d_shape *s, int64_t replicas)
{
    return s->groups == 1 && replicas <= 1 && s->out <= kMostOut && hn_conv2d_taps(s) <= kTaps &&
           !hn_conv2d_is_product(s);
}

hn_status hn_conv2d_direct_fwd(const hn_conv2d_args *a, hn_stream stream)
{
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, stream));
    return HN_CUDA_LAUNCHED("conv2d: few taps");
}
