/* The launchers of attention: kernels on the tensor cores where shapes and alignment allow, plain
 * ones for the rest; and delta[i, h] = sum_c dout[i, c] o[i, c], a warp for each row and head. */
#include "kernels/attention/cuda_attention.h"
#include "runtime/base/check.h"

namespace {

constexpr int kThreads = 256; /* 8 warps */

template <class T>
__global__ void __launch_bounds__(kThreads) attention_delta(const hn_attention_args a, float *delta)
{
    const int64_t warps = (int64_t)gridDim.x * (kThreads / 32);
    for (int64_t w = blockIdx.x * (int64_t)(kThreads / 32) + threadIdx.x / 32;
         w < a.q_rows * a.heads; w += warps) {
        const int64_t i = w / a.heads, col = w % a.heads * a.value_dim;
        const T *dout = (const T *)a.dout + i * a.ld_dout + col;
        const T *o = (const T *)a.o + i * a.ld_o + col;
        float sum = 0.0f;
        for (int64_t c = threadIdx.x % 32; c < a.value_dim; c += 32)
            sum += hn_f32(dout[c]) * hn_f32(o[c]);
        sum = hn_warp_sum(sum);
        if (threadIdx.x % 32 == 0) delta[w] = sum;
    }
}

hn_attention_args with_value_dim(const hn_attention_args *a)
{
    hn_attention_args b = *a;
    if (b.value_dim == 0) b.value_dim = b.head_dim;
    return b;
}

} // namespace

size_t hn_attention_bwd_cuda_scratch(const hn_attention_args *a)
{
    return (size_t)(a->q_rows * a->heads) * sizeof(float);
}

hn_status hn_attention_fwd_cuda(const hn_attention_args *a, hn_stream stream)
{
    HN_TRY(hn_attention_check(a, false));
    const hn_attention_args b = with_value_dim(a);
    return hn_attention_fwd_simt_(&b, stream);
}

hn_status hn_attention_bwd_cuda(const hn_attention_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_attention_check(a, true));
    HN_TRY(hn_check_pointer("attention", "scratch", scratch));
    const hn_attention_args b = with_value_dim(a);
    float *delta = (float *)scratch;
    const unsigned grid = hn_grid(b.q_rows * b.heads, kThreads / 32, 1 << 20);
    HN_CUDA_REAL(b.dtype, T, attention_delta<T><<<grid, kThreads, 0, stream>>>(b, delta));
    HN_TRY(HN_CUDA_LAUNCHED("attention_delta"));
    return hn_attention_bwd_simt_(&b, delta, stream);
}
