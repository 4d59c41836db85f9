/* The launchers of attention: kernels on the tensor cores where shapes and alignment allow (on
 * sm_90 those for wgmma, unless a softcap or a scale asks for more than they do; backward of short
 * sequences one of its own), plain ones for the rest; and delta[i, h] = sum_c dout[i, c] o[i, c], a
 * warp for each row and head, or with heads of the tensor cores as many lanes as the head has
 * pieces of 16 bytes. */
#include <string.h>

#include "kernels/attention/cuda_attention_short.h"
#include "kernels/attention/cuda_attention_wgmma.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;           /* 8 warps */
constexpr int64_t kMaxBlocks = 1 << 20; /* then a warp takes several rows */

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

/* kLanes * 8 = value_dim; 8 or 16 divide the threads, so no lane of a sum is missing. */
template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    attention_delta_wide(const hn_attention_args a, float *delta)
{
    const int lane = threadIdx.x % kLanes;
    const int64_t rounds = (a.q_rows * a.heads * kLanes + gridDim.x * (int64_t)kThreads - 1) /
                           (gridDim.x * (int64_t)kThreads);
    for (int64_t n = 0; n < rounds; n++) { /* as often in all threads: they shuffle */
        const int64_t w = ((n * gridDim.x + blockIdx.x) * kThreads + threadIdx.x) / kLanes;
        const bool there = w < a.q_rows * a.heads;
        const int64_t i = there ? w / a.heads : 0;
        const int64_t col = (there ? w - i * a.heads : 0) * (kLanes * 8) + lane * 8;
        float g[8], o[8], sum = 0.0f;
        hn_load_whole<8>((const __nv_bfloat16 *)a.dout + i * a.ld_dout + col, g);
        hn_load_whole<8>((const __nv_bfloat16 *)a.o + i * a.ld_o + col, o);
#pragma unroll
        for (int k = 0; k < 8; k++) sum += g[k] * o[k];
#pragma unroll
        for (int d = kLanes / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (there && lane == 0) delta[w] = sum;
    }
}

hn_attention_args with_value_dim(const hn_attention_args *a)
{
    hn_attention_args b = *a;
    if (b.value_dim == 0) b.value_dim = b.head_dim;
    return b;
}

bool aligned(const void *p, int64_t ld) { return (uintptr_t)p % 16 == 0 && ld % 8 == 0; }

/* bf16, values as wide as keys, rows of 16-byte pieces. */
bool in_pieces(const hn_attention_args *a, bool backward)
{
    if (a->dtype != HN_BF16 || a->head_dim != a->value_dim) return false;
    if (!aligned(a->q, a->ld_q) || !aligned(a->k, a->ld_k) || !aligned(a->v, a->ld_v)) return false;
    if (!backward) return aligned(a->o, a->ld_o);
    return aligned(a->dout, a->ld_dout) && aligned(a->dq, a->ld_dq) && aligned(a->dk, a->ld_dk) &&
           aligned(a->dv, a->ld_dv);
}

bool fits_tensor_cores(const hn_attention_args *a, bool backward)
{
    return (a->head_dim == 64 || a->head_dim == 128) && in_pieces(a, backward);
}

/* Whether backward runs as that of short sequences. */
hn_status fits_short(const hn_attention_args *a, bool *fits)
{
    *fits = false;
    return in_pieces(a, true) && aligned(a->o, a->ld_o) ? hn_attention_bwd_fits_short_(a, fits)
                                                        : HN_OK;
}

/* Whether the kernels for wgmma, of which only the code for sm_90a has any, do what is asked. */
hn_status fits_wgmma(const hn_attention_args *a, bool *fits)
{
    int device = 0, major = 0;
    *fits = false;
    if (a->softcap > 0.0f || !(a->scale > 0.0f) || !strstr(HONE_CUDA_CODE, "90a")) return HN_OK;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    HN_TRY(HN_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)));
    *fits = major == 9;
    return HN_OK;
}

} // namespace

hn_status hn_attention_cuda_wgmma(const hn_attention_args *a, bool backward, bool *out)
{
    const hn_attention_args b = with_value_dim(a);
    bool is_short = false;
    *out = false;
    if (backward) HN_TRY(fits_short(&b, &is_short));
    return fits_tensor_cores(&b, backward) && !is_short ? fits_wgmma(&b, out) : HN_OK;
}

hn_status hn_attention_cuda_short(const hn_attention_args *a, bool *out)
{
    const hn_attention_args b = with_value_dim(a);
    return fits_short(&b, out);
}

namespace {

hn_status fwd_tensor_cores(const hn_attention_args *a, hn_stream stream)
{
    bool wgmma = false;
    HN_TRY(fits_wgmma(a, &wgmma));
    return wgmma ? hn_attention_fwd_wgmma_(a, stream) : hn_attention_fwd_mma_(a, stream);
}

hn_status bwd_tensor_cores(const hn_attention_args *a, const float *delta, hn_stream stream)
{
    bool wgmma = false;
    HN_TRY(fits_wgmma(a, &wgmma));
    return wgmma ? hn_attention_bwd_wgmma_(a, delta, stream)
                 : hn_attention_bwd_mma_(a, delta, stream);
}

hn_status launch_delta(const hn_attention_args *a, float *delta, hn_stream stream)
{
    const int64_t sums = a->q_rows * a->heads;
    if (fits_tensor_cores(a, true) && aligned(a->o, a->ld_o)) {
        const int lanes = (int)(a->value_dim / 8);
        const unsigned grid = hn_grid(sums, kThreads / lanes, kMaxBlocks);
        if (lanes == 8)
            attention_delta_wide<8><<<grid, kThreads, 0, stream>>>(*a, delta);
        else
            attention_delta_wide<16><<<grid, kThreads, 0, stream>>>(*a, delta);
    } else {
        const unsigned grid = hn_grid(sums, kThreads / 32, kMaxBlocks);
        HN_CUDA_REAL(a->dtype, T, attention_delta<T><<<grid, kThreads, 0, stream>>>(*a, delta));
    }
    return HN_CUDA_LAUNCHED("attention_delta");
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
    return fits_tensor_cores(&b, false) ? fwd_tensor_cores(&b, stream)
                                        : hn_attention_fwd_simt_(&b, stream);
}

hn_status hn_attention_bwd_cuda(const hn_attention_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_attention_check(a, true));
    HN_TRY(hn_check_pointer("attention", "scratch", scratch));
    const hn_attention_args b = with_value_dim(a);
    bool is_short = false;
    HN_TRY(fits_short(&b, &is_short));
    if (is_short) return hn_attention_bwd_short_(&b, stream);
    float *delta = (float *)scratch;
    HN_TRY(launch_delta(&b, delta, stream));
    return fits_tensor_cores(&b, true) ? bwd_tensor_cores(&b, delta, stream)
                                       : hn_attention_bwd_simt_(&b, delta, stream);
}
