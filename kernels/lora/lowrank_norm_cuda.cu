/* Two products of cuBLASLt, w A^T and A A^T, into fp32; then a warp takes a row of B. The products
 * with the row's own update stay in the caches: A A^T is small. */
#include "kernels/lora/lowrank_norm.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kWarp = 32, kThreads = 256, kRows = kThreads / kWarp;

/* A lane adds up every 32nd column of b . p and of b . (b G). */
template <class T>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const T *b, int64_t ld_b, const float *p, int64_t ld_p, const float *gram,
                int64_t ld_g, const float *squares, float *norm, int64_t out, int64_t rank,
                float scale)
{
    const int64_t o = (int64_t)blockIdx.x * kRows + threadIdx.x / kWarp;
    if (o >= out) return; /* the same for the whole warp */
    const T *const row = b + o * ld_b;
    float cross = 0.0f, own = 0.0f;
    for (int64_t r = threadIdx.x % kWarp; r < rank; r += kWarp) {
        const float mine = hn_f32(row[r]);
        float sum = 0.0f;
        for (int64_t q = 0; q < rank; q++) sum += hn_f32(row[q]) * gram[q * ld_g + r];
        cross += mine * p[o * ld_p + r];
        own += mine * sum;
    }
    cross = 2.0f * scale * hn_warp_sum(cross);
    own = scale * scale * hn_warp_sum(own);
    if (threadIdx.x % kWarp != 0) return;
    const float w = squares[o], sum = w + cross + own;
    const float least = HN_LOWRANK_NORM_LEAST * (w + fabsf(cross) + fabsf(own));
    norm[o] = sqrtf(sum < least ? least : sum); /* NaN stays */
}

/* p and A A^T in the scratch, one behind the other. */
int64_t columns(const hn_lowrank_norm_args *a) { return hn_gemm_cuda_padded(a->rank, HN_F32); }

template <class T>
void launch(const hn_lowrank_norm_args *a, const float *p, const float *gram, cudaStream_t stream)
{
    const int64_t blocks = (a->out + kRows - 1) / kRows;
    norm_kernel<T><<<(unsigned)blocks, kThreads, 0, stream>>>(
        static_cast<const T *>(a->b), a->ld_b, p, columns(a), gram, columns(a), a->squares, a->norm,
        a->out, a->rank, a->scale);
}

} // namespace

size_t hn_lowrank_norm_cuda_scratch(const hn_lowrank_norm_args *a)
{
    return (size_t)((a->out + a->rank) * columns(a)) * sizeof(float);
}

hn_status hn_lowrank_norm_cuda(const hn_lowrank_norm_args *a, hn_gemm_cuda *gemm, void *scratch,
                               hn_stream stream)
{
    HN_TRY(hn_lowrank_norm_check(a));
    HN_TRY(hn_check_pointer("lowrank_norm", "scratch", scratch));
    float *const p = static_cast<float *>(scratch), *const gram = p + a->out * columns(a);
    hn_gemm_cuda_args g = {};
    g.batch = 1, g.m = a->out, g.n = a->rank, g.k = a->in;
    g.a = a->w, g.ld_a = a->ld_w;
    g.b = a->a, g.ld_b = a->ld_a, g.trans_b = true;
    g.c = p, g.ld_c = columns(a);
    g.dtype = a->dtype, g.c_dtype = HN_F32, g.alpha = 1.0f;
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    g.m = a->rank, g.a = a->a, g.ld_a = a->ld_a, g.c = gram;
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, p, gram, stream));
    return HN_CUDA_LAUNCHED("lowrank_norm");
}
