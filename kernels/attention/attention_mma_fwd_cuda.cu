/* Forward on the tensor cores: a block has 64 queries of a head, a warp 16 of them; keys and
 * values pass through shared memory, 64 at a time, the next tile being copied while one is used.
 * Scores, weights and outputs stay in registers. */
#include <math.h>

#include "kernels/attention/cuda_attention_mma.h"

namespace {

constexpr int kTile = 64;     /* queries of a block; keys at a time */
constexpr int kThreads = 128; /* 4 warps of 16 queries */
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

/* q; two buffers of k; two of v: 46 KB for heads of 64, 87 KB for 128 (sm_86 has 99). */
template <int kDim>
constexpr int kTileElems = kTile *HnTile_<kDim>::kLd;
template <int kDim>
constexpr int kSharedBytes = 5 * kTileElems<kDim> *(int)sizeof(__nv_bfloat16);

/* Over the 4 lanes that share a row. */
__device__ __forceinline__ float row_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

__device__ __forceinline__ float row_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* What a lane knows of its two rows, r (0) and r + 8 (1) of the warp's 16. Maxima are of scores
 * times log2 e; sums are of this lane's keys. */
struct RowState {
    int first[2], last[2];
    float most[2], sum[2];
};

/* t[16, 64] becomes scores times log2 e, -inf where a key is masked. */
__device__ __forceinline__ void mask_scores(const hn_attention_args &a, float (*t)[4],
                                            const RowState &s, int j0, bool masked)
{
    const float scale = a.softcap > 0.0f ? a.scale : a.scale * kLog2e;
#pragma unroll
    for (int n = 0; n < kTile / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            t[n][e] *= scale;
            if (a.softcap > 0.0f) t[n][e] = a.softcap * tanhf(t[n][e] / a.softcap) * kLog2e;
            const int key = j0 + 8 * n + (int)threadIdx.x % 4 * 2 + e % 2;
            if (masked && (key < s.first[e / 2] || key >= s.last[e / 2])) t[n][e] = -INFINITY;
        }
}

/* t becomes weights relative to the new maxima, o is scaled to them. */
template <int kDim>
__device__ __forceinline__ void softmax_step(float (*t)[4], float (*o)[4], RowState &s)
{
    float base[2], shrink[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float most = -INFINITY;
#pragma unroll
        for (int n = 0; n < kTile / 8; n++) most = fmaxf(most, fmaxf(t[n][2 * i], t[n][2 * i + 1]));
        most = fmaxf(s.most[i], row_max(most));
        /* A row that saw nothing but masked keys so far: any finite number will do. */
        base[i] = most == -INFINITY ? 0.0f : most;
        shrink[i] = exp2f(s.most[i] - base[i]);
        s.most[i] = most;
        s.sum[i] *= shrink[i];
    }
#pragma unroll
    for (int n = 0; n < kTile / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            t[n][e] = exp2f(t[n][e] - base[e / 2]);
            s.sum[e / 2] += t[n][e];
        }
#pragma unroll
    for (int n = 0; n < kDim / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] *= shrink[e / 2];
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2) attention_fwd_mma(const hn_attention_args a)
{
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    __nv_bfloat16 *const q_tile = shared, *const k_tiles = shared + kTileElems<kDim>,
                         *const v_tiles = shared + 3 * kTileElems<kDim>;
    const int64_t slots = a.q_rows / kTile + a.sequences + 2, head = blockIdx.x / slots;
    /* Last tiles first: under a causal mask they are the long ones. */
    const hn_tile_span_ s = hn_tile_span_of_(a, slots - 1 - blockIdx.x % slots, kTile, false);
    if (s.first >= s.n_q) return;
    const int rows = min(kTile, s.n_q - s.first), warp_row = (int)threadIdx.x / 32 * 16;
    const int64_t group = head / (a.heads / a.kv_heads), row = s.q_start + s.first;
    const auto *k = (const __nv_bfloat16 *)a.k + s.kv_start * a.ld_k + group * kDim;
    const auto *v = (const __nv_bfloat16 *)a.v + s.kv_start * a.ld_v + group * kDim;
    const auto copy_keys = [&](int j0, int buffer) {
        hn_copy_tile_<kTile, kDim, kThreads>(k_tiles + buffer * kTileElems<kDim>, k + j0 * a.ld_k,
                                             a.ld_k, s.n_kv - j0);
        hn_copy_tile_<kTile, kDim, kThreads>(v_tiles + buffer * kTileElems<kDim>, v + j0 * a.ld_v,
                                             a.ld_v, s.n_kv - j0);
    };

    const int begin = hn_first_key_(a, s, s.first) / kTile * kTile;
    const int end = hn_last_key_(a, s, s.first + rows - 1);
    /* All rows of the block see the keys clear_first <= j < clear_last. */
    const int clear_first = hn_first_key_(a, s, s.first + rows - 1);
    const int clear_last = hn_last_key_(a, s, s.first);
    RowState state;
    float o[kDim / 8][4];
    hn_mma_clear_<kDim / 8>(o);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int query = s.first + warp_row + (int)threadIdx.x % 32 / 4 + 8 * i;
        state.first[i] = hn_first_key_(a, s, query);
        state.last[i] = hn_last_key_(a, s, query);
        state.most[i] = -INFINITY;
        state.sum[i] = 0.0f;
    }

    if (begin < end) {
        hn_copy_tile_<kTile, kDim, kThreads>(
            q_tile, (const __nv_bfloat16 *)a.q + row * a.ld_q + head * kDim, a.ld_q, rows);
        copy_keys(begin, 0);
        hn_copy_commit_();
    }
    for (int j0 = begin, buffer = 0; j0 < end; j0 += kTile, buffer ^= 1) {
        if (j0 + kTile < end) copy_keys(j0 + kTile, buffer ^ 1);
        hn_copy_commit_(); /* an empty group in the last round keeps the count */
        hn_copy_wait_<1>();
        __syncthreads(); /* everybody's copies of this tile are there */
        float t[kTile / 8][4];
        hn_mma_clear_<kTile / 8>(t);
        hn_mma_nt_<kTile, kDim>(t, q_tile + warp_row * HnTile_<kDim>::kLd,
                                k_tiles + buffer * kTileElems<kDim>);
        mask_scores(a, t, state, j0, j0 < clear_first || j0 + kTile > clear_last);
        softmax_step<kDim>(t, o, state);
        hn_mma_weighted_<kTile, kDim>(o, t, v_tiles + buffer * kTileElems<kDim>);
        __syncthreads(); /* the next round copies over this tile */
    }

    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float total = row_sum(state.sum[i]);
        const bool sees = state.first[i] < state.last[i];
        const int r = warp_row + (int)threadIdx.x % 32 / 4 + 8 * i;
        factor[i] = sees ? 1.0f / total : 0.0f;
        if (threadIdx.x % 4 == 0 && r < rows)
            a.lse[(row + r) * a.heads + head] = sees ? state.most[i] * kLn2 + logf(total) : 0.0f;
    }
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.o + (row + warp_row) * a.ld_o + head * kDim, a.ld_o,
                        rows - warp_row, o, factor[0], factor[1]);
}

template <int kDim>
hn_status launch(const hn_attention_args *a, hn_stream stream)
{
    unsigned grid = 0;
    HN_TRY(hn_attention_grid_(hn_tile_slots_(a->q_rows, a->sequences, kTile) * a->heads, &grid));
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(
        attention_fwd_mma<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<kDim>)));
    attention_fwd_mma<kDim><<<grid, kThreads, kSharedBytes<kDim>, stream>>>(*a);
    return HN_CUDA_LAUNCHED("attention_fwd_mma");
}

} // namespace

hn_status hn_attention_fwd_mma_(const hn_attention_args *a, hn_stream stream)
{
    return a->head_dim == 64 ? launch<64>(a, stream) : launch<128>(a, stream);
}
