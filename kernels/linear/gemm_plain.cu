/* The product for shapes that cuBLASLt has no algorithm for: a block computes a 16 x 16 tile of C,
 * an element a thread, with tiles of A and B in shared memory. Right for every shape, not fast. */
#include "kernels/linear/cuda_gemm_plan.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kTile = 16;                 /* 256 threads; 2 tiles of 16 x 17 floats, 2.1 KiB */
constexpr int64_t kMaxBlocks = 1ll << 20; /* blocks loop over what is left */

struct Product {
    int64_t m, n, k, batch;
    int64_t a_row, a_col, b_row, b_col; /* distances of op(A)[i,k] and op(B)[k,j] */
    int64_t ld_c0, ld_c, a_stride, b_stride, bias_stride, c0_stride, c_stride;
    float alpha, beta;
};

template <class T, class C>
__global__ void __launch_bounds__(kTile *kTile)
    gemm_plain_kernel(const Product p, const T *a, const T *b, const C *bias, const C *c0, C *c)
{
    __shared__ float ta[kTile][kTile + 1], tb[kTile][kTile + 1];
    const int x = (int)threadIdx.x % kTile, y = (int)threadIdx.x / kTile;
    const int64_t tiles_m = (p.m + kTile - 1) / kTile, tiles_n = (p.n + kTile - 1) / kTile;
    const int64_t tiles = tiles_m * tiles_n * p.batch;
    for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
        const int64_t z = t / (tiles_m * tiles_n), in_batch = t % (tiles_m * tiles_n);
        const int64_t i = in_batch / tiles_n * kTile + y, j = in_batch % tiles_n * kTile + x;
        const T *const az = a + z * p.a_stride, *const bz = b + z * p.b_stride;
        float sum = 0.0f;
        for (int64_t k0 = 0; k0 < p.k; k0 += kTile) {
            ta[y][x] = i < p.m && k0 + x < p.k ? hn_f32(az[i * p.a_row + (k0 + x) * p.a_col]) : 0;
            tb[y][x] = k0 + y < p.k && j < p.n ? hn_f32(bz[(k0 + y) * p.b_row + j * p.b_col]) : 0;
            __syncthreads();
            float part = 0.0f; /* a short sum first: long rows lose less */
            for (int k = 0; k < kTile; k++) part += ta[y][k] * tb[k][x];
            sum += part;
            __syncthreads(); /* before the next tiles overwrite these */
        }
        if (i >= p.m || j >= p.n) continue; /* all threads meet again at the next barrier */
        float v = p.alpha * sum;
        if (p.beta != 0.0f) v += p.beta * hn_f32(c0[z * p.c0_stride + i * p.ld_c0 + j]);
        if (bias != nullptr) v += hn_f32(bias[z * p.bias_stride + j]);
        c[z * p.c_stride + i * p.ld_c + j] = hn_round<C>(v);
    }
}

template <class T, class C>
void launch(const Product &p, const hn_gemm_cuda_args *a, cudaStream_t stream)
{
    const int64_t tiles = (p.m + kTile - 1) / kTile * ((p.n + kTile - 1) / kTile) * p.batch;
    gemm_plain_kernel<T, C><<<hn_grid(tiles, 1, kMaxBlocks), kTile * kTile, 0, stream>>>(
        p, static_cast<const T *>(a->a), static_cast<const T *>(a->b),
        static_cast<const C *>(a->bias), static_cast<const C *>(a->c0 ? a->c0 : a->c),
        static_cast<C *>(a->c));
}

} // namespace

hn_status hn_gemm_plain(const hn_gemm_cuda_args *a, hn_stream stream)
{
    Product p = {};
    p.m = a->m, p.n = a->n, p.k = a->k, p.batch = a->batch > 1 ? a->batch : 1;
    p.a_row = a->trans_a ? 1 : a->ld_a, p.a_col = a->trans_a ? a->ld_a : 1;
    p.b_row = a->trans_b ? 1 : a->ld_b, p.b_col = a->trans_b ? a->ld_b : 1;
    p.ld_c = a->ld_c, p.ld_c0 = a->c0 ? a->ld_c0 : a->ld_c;
    p.a_stride = a->a_stride, p.b_stride = a->b_stride, p.bias_stride = a->bias_stride;
    p.c_stride = a->c_stride, p.c0_stride = a->c0 ? a->c0_stride : a->c_stride;
    p.alpha = a->alpha, p.beta = a->beta;
    HN_CUDA_REAL(a->dtype, T, HN_CUDA_REAL(a->c_dtype, C, launch<T, C>(p, a, stream)));
    return HN_CUDA_LAUNCHED("gemm_plain");
}
