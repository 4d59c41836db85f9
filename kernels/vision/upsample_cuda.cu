/* A thread makes up to 8 channels of one voxel: of y, which come from skip or from x, or of dx, to
 * which some neighbouring voxels of dy belong. */
#include "kernels/vision/upsample.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1ll << 20; /* blocks loop over what is left */

struct Side {
    uint32_t in, out;
};

/* The place of x. */
__device__ __forceinline__ uint32_t from(uint32_t at, const Side &s)
{
    return s.in == s.out ? at : (uint32_t)((uint64_t)at * s.in / s.out);
}

/* The first place of y. */
__device__ __forceinline__ uint32_t first(uint32_t at, const Side &s)
{
    return s.in == s.out ? at : (uint32_t)(((uint64_t)at * s.out + s.in - 1) / s.in);
}

struct Shape {
    Side d, h, w;
    hn_divisor by_d, by_h, by_w; /* of the result's sides */
    int64_t spans, n;            /* of a voxel; of all */
};

Shape shape_of(const hn_upsample_shape &s, bool backward, int64_t spans)
{
    Shape k = {};
    k.d = {(uint32_t)s.d, (uint32_t)s.out_d}, k.h = {(uint32_t)s.h, (uint32_t)s.out_h};
    k.w = {(uint32_t)s.w, (uint32_t)s.out_w};
    k.by_d = hn_divisor_of(backward ? s.d : s.out_d);
    k.by_h = hn_divisor_of(backward ? s.h : s.out_h);
    k.by_w = hn_divisor_of(backward ? s.w : s.out_w);
    k.spans = spans;
    k.n = spans * (backward ? hn_upsample_rows_in(&s) : hn_upsample_rows_out(&s));
    return k;
}

/* Where the copies of a voxel of y come from: spans of skip, and then spans of x. */
template <class T>
struct Forward {
    const T *x, *skip;
    T *y;
    int64_t c, c_skip, skip_spans, ld_x, ld_skip, ld_y;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) join_kernel(const Shape k, const Forward<T> a)
{
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < k.n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t row = at / k.spans, span = at - row * k.spans;
        float v[kWidth];
        if (span < a.skip_spans) {
            const int64_t c = span * kWidth;
            hn_load_span<kWidth>(a.skip + row * a.ld_skip + c, a.c_skip - c, v);
            hn_store_span<kWidth>(a.y + row * a.ld_y + c, a.c_skip - c, v);
            continue;
        }
        const uint32_t line = hn_divide((uint32_t)row, k.by_w), plane = hn_divide(line, k.by_h);
        const uint32_t volume = hn_divide(plane, k.by_d);
        const uint32_t i = from(plane - volume * k.d.out, k.d);
        const uint32_t j = from(line - plane * k.h.out, k.h);
        const uint32_t l = from((uint32_t)row - line * k.w.out, k.w);
        const int64_t voxel = (((int64_t)volume * k.d.in + i) * k.h.in + j) * k.w.in + l;
        const int64_t c = (span - a.skip_spans) * kWidth;
        hn_load_span<kWidth>(a.x + voxel * a.ld_x + c, a.c - c, v);
        hn_store_span<kWidth>(a.y + row * a.ld_y + a.c_skip + c, a.c - c, v);
    }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 4)
    sum_kernel(const Shape k, const T *__restrict__ dy, int64_t ld_dy, T *__restrict__ dx,
               int64_t ld_dx, int64_t channels)
{
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < k.n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t row = at / k.spans, c = (at - row * k.spans) * kWidth, n = channels - c;
        const uint32_t line = hn_divide((uint32_t)row, k.by_w), plane = hn_divide(line, k.by_h);
        const uint32_t volume = hn_divide(plane, k.by_d);
        const uint32_t i = plane - volume * k.d.in, j = line - plane * k.h.in;
        const uint32_t l = (uint32_t)row - line * k.w.in;
        const uint32_t end_p = first(i + 1, k.d), end_q = first(j + 1, k.h);
        const uint32_t first_v = first(l, k.w), end_v = first(l + 1, k.w);
        float sum[kWidth] = {};
        for (uint32_t p = first(i, k.d); p < end_p; p++)
            for (uint32_t q = first(j, k.h); q < end_q; q++)
                for (uint32_t v = first_v; v < end_v; v++) {
                    const int64_t voxel =
                        (((int64_t)volume * k.d.out + p) * k.h.out + q) * k.w.out + v;
                    float d[kWidth];
                    hn_load_span<kWidth>(dy + voxel * ld_dy + c, n, d);
#pragma unroll
                    for (int m = 0; m < kWidth; m++) sum[m] += d[m];
                }
        hn_store_span<kWidth>(dx + row * ld_dx + c, n, sum);
    }
}

template <class T, int kWidth>
void launch(const hn_upsample_args *a, cudaStream_t stream)
{
    Forward<T> f = {};
    f.x = static_cast<const T *>(a->x), f.skip = static_cast<const T *>(a->skip);
    f.y = static_cast<T *>(a->y);
    f.c = a->s.c, f.c_skip = a->c_skip, f.skip_spans = (a->c_skip + kWidth - 1) / kWidth;
    f.ld_x = a->ld_x, f.ld_skip = a->ld_skip, f.ld_y = a->ld_y;
    const Shape k = shape_of(a->s, false, f.skip_spans + (a->s.c + kWidth - 1) / kWidth);
    join_kernel<T, kWidth><<<hn_grid(k.n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(k, f);
}

template <class T, int kWidth>
void launch(const hn_upsample_bwd_args *a, cudaStream_t stream)
{
    const Shape k = shape_of(a->s, true, (a->s.c + kWidth - 1) / kWidth);
    sum_kernel<T, kWidth><<<hn_grid(k.n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        k, static_cast<const T *>(a->dy), a->ld_dy, static_cast<T *>(a->dx), a->ld_dx, a->s.c);
}

} // namespace

/* Vectors of x land behind the channels of skip, on 16 bytes where those are a multiple of 8. */
hn_status hn_upsample_fwd_cuda(const hn_upsample_args *a, hn_stream stream)
{
    HN_TRY(hn_upsample_check(a));
    const bool wide = a->c_skip % HN_VEC == 0 && hn_vectors_fit(a->x, a->ld_x, a->dtype) &&
                      hn_vectors_fit(a->skip, a->ld_skip, a->dtype) &&
                      hn_vectors_fit(a->y, a->ld_y, a->dtype);
    HN_CUDA_REAL(a->dtype, T, wide ? launch<T, HN_VEC>(a, stream) : launch<T, 1>(a, stream));
    return HN_CUDA_LAUNCHED("upsample");
}

hn_status hn_upsample_bwd_cuda(const hn_upsample_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_upsample_bwd_check(a));
    const bool wide =
        hn_vectors_fit(a->dy, a->ld_dy, a->dtype) && hn_vectors_fit(a->dx, a->ld_dx, a->dtype);
    HN_CUDA_REAL(a->dtype, T, wide ? launch<T, HN_VEC>(a, stream) : launch<T, 1>(a, stream));
    return HN_CUDA_LAUNCHED("upsample_bwd");
}
