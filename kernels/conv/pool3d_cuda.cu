/* A thread makes up to 8 channels of one voxel of the result: forward all that its cube holds,
 * backward what its cube's index says. Values are only copied, through fp32. */
#include "kernels/conv/pool3d.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1ll << 20; /* blocks loop over what is left */

struct Shape {
    uint32_t d, h, w, out_d, out_h, out_w, size;
    hn_divisor by_w, by_h, by_d, by_size; /* of the result's sides */
    int64_t spans, n, c;                  /* of a voxel; of all; channels */
};

Shape shape_of(const hn_pool3d_shape &s, int64_t rows, bool backward, int width)
{
    Shape k = {};
    k.d = (uint32_t)s.d, k.h = (uint32_t)s.h, k.w = (uint32_t)s.w, k.size = (uint32_t)s.size;
    k.out_d = k.d / k.size, k.out_h = k.h / k.size, k.out_w = k.w / k.size;
    k.by_w = hn_divisor_of(backward ? k.w : k.out_w);
    k.by_h = hn_divisor_of(backward ? k.h : k.out_h);
    k.by_d = hn_divisor_of(backward ? k.d : k.out_d);
    k.by_size = hn_divisor_of(s.size);
    k.spans = (s.c + width - 1) / width, k.n = rows * k.spans, k.c = s.c;
    return k;
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    max_kernel(const Shape k, const T *__restrict__ x, int64_t ld_x, T *__restrict__ y,
               int64_t ld_y, uint8_t *__restrict__ index, int64_t ld_index)
{
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < k.n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t row = at / k.spans, c = (at - row * k.spans) * kWidth, n = k.c - c;
        const uint32_t line = hn_divide((uint32_t)row, k.by_w), plane = hn_divide(line, k.by_h);
        const uint32_t volume = hn_divide(plane, k.by_d);
        const int64_t i = (plane - volume * k.out_d) * k.size,
                      j = (line - plane * k.out_h) * k.size;
        const int64_t first = (((int64_t)volume * k.d + i) * k.h + j) * k.w +
                              ((uint32_t)row - line * k.out_w) * k.size;
        float best[kWidth];
        int best_e[kWidth] = {}, e = 0;
        for (uint32_t r = 0; r < k.size; r++)
            for (uint32_t s = 0; s < k.size; s++)
                for (uint32_t t = 0; t < k.size; t++, e++) {
                    float v[kWidth];
                    const int64_t from = first + ((int64_t)r * k.h + s) * k.w + t;
                    hn_load_span<kWidth>(x + from * ld_x + c, n, v);
#pragma unroll
                    for (int m = 0; m < kWidth; m++)
                        if (e == 0 || v[m] > best[m] || v[m] != v[m]) best[m] = v[m], best_e[m] = e;
                }
        hn_store_span<kWidth>(y + row * ld_y + c, n, best);
        if (index == nullptr) continue;
#pragma unroll
        for (int m = 0; m < kWidth; m++)
            if (m < n) index[row * ld_index + c + m] = (uint8_t)best_e[m];
    }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    spread_kernel(const Shape k, const T *__restrict__ dy, int64_t ld_dy,
                  const uint8_t *__restrict__ index, int64_t ld_index, T *__restrict__ dx,
                  int64_t ld_dx)
{
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < k.n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t voxel = at / k.spans, c = (at - voxel * k.spans) * kWidth, n = k.c - c;
        const uint32_t line = hn_divide((uint32_t)voxel, k.by_w), plane = hn_divide(line, k.by_h);
        const uint32_t volume = hn_divide(plane, k.by_d);
        const uint32_t i = plane - volume * k.d, j = line - plane * k.h;
        const uint32_t l = (uint32_t)voxel - line * k.w;
        const uint32_t p = hn_divide(i, k.by_size), q = hn_divide(j, k.by_size);
        const uint32_t v = hn_divide(l, k.by_size);
        float d[kWidth] = {};
        if (p < k.out_d && q < k.out_h && v < k.out_w) {
            const uint32_t place =
                ((i - p * k.size) * k.size + (j - q * k.size)) * k.size + (l - v * k.size);
            const int64_t row = (((int64_t)volume * k.out_d + p) * k.out_h + q) * k.out_w + v;
            hn_load_span<kWidth>(dy + row * ld_dy + c, n, d);
#pragma unroll
            for (int m = 0; m < kWidth; m++)
                if (m < n && index[row * ld_index + c + m] != place) d[m] = 0.0f;
        }
        hn_store_span<kWidth>(dx + voxel * ld_dx + c, n, d);
    }
}

template <class T, int kWidth>
void launch(const hn_pool3d_args *a, cudaStream_t stream)
{
    const Shape k = shape_of(a->s, hn_pool3d_rows_out(&a->s), false, kWidth);
    max_kernel<T, kWidth><<<hn_grid(k.n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        k, static_cast<const T *>(a->x), a->ld_x, static_cast<T *>(a->y), a->ld_y, a->index,
        a->ld_index);
}

template <class T, int kWidth>
void launch(const hn_pool3d_bwd_args *a, cudaStream_t stream)
{
    const hn_pool3d_shape &s = a->s;
    const Shape k = shape_of(s, s.n * s.d * s.h * s.w, true, kWidth);
    spread_kernel<T, kWidth><<<hn_grid(k.n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        k, static_cast<const T *>(a->dy), a->ld_dy, a->index, a->ld_index, static_cast<T *>(a->dx),
        a->ld_dx);
}

} // namespace

hn_status hn_pool3d_fwd_cuda(const hn_pool3d_args *a, hn_stream stream)
{
    HN_TRY(hn_pool3d_check(a));
    const bool wide =
        hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype);
    HN_CUDA_REAL(a->dtype, T, wide ? launch<T, HN_VEC>(a, stream) : launch<T, 1>(a, stream));
    return HN_CUDA_LAUNCHED("pool3d");
}

hn_status hn_pool3d_bwd_cuda(const hn_pool3d_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_pool3d_bwd_check(a));
    const bool wide =
        hn_vectors_fit(a->dy, a->ld_dy, a->dtype) && hn_vectors_fit(a->dx, a->ld_dx, a->dtype);
    HN_CUDA_REAL(a->dtype, T, wide ? launch<T, HN_VEC>(a, stream) : launch<T, 1>(a, stream));
    return HN_CUDA_LAUNCHED("pool3d_bwd");
}
