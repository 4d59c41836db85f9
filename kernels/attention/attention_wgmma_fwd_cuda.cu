/* Forward on the tensor cores of sm_90a: a block has 128 queries of a head, a warpgroup 64 of them;
 * keys and values pass through shared memory, which wgmma reads itself, the next tile being copied
 * while one is used. Scores, weights and outputs stay in registers.
 *
 * With heads of 64 a thread needs about 110 registers, so that two blocks share an SM: one does its
 * softmax while the other multiplies. Heads of 128 leave room for one block, which takes 128 keys
 * at a time to wait less often. Products fill 256 (1024) clocks of the tensor cores a warpgroup and
 * tile, exponentials 256 (512) of the special function units. */
#include <math.h>

#include "kernels/attention/cuda_attention_wgmma.h"

namespace {

constexpr int kGroups = 2; /* warpgroups of a block */
constexpr int kQueries = 64 * kGroups;
constexpr int kThreads = 128 * kGroups;

template <int kDim>
constexpr int kKeys = kDim == 64 ? 64 : 128; /* at a time */
template <int kDim>
constexpr int kBlocks = kDim == 64 ? 2 : 1; /* of an SM */

/* q; two buffers of k; two of v: 49 KB for heads of 64, 161 KB for 128. */
template <int kDim>
constexpr int kSharedBytes =
    kHnTileBytes_<kQueries, kDim> + 4 * kHnTileBytes_<kKeys<kDim>, kDim> + kHnSwizzle_;

#if HN_WGMMA_CODE_
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

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

/* What a lane knows of its two rows, r (0) and r + 8 (1) of its warp's 16. Maxima are of products
 * q k, before the scale; sums are of this lane's keys. */
struct RowState {
    int first[2], last[2];
    float most[2], sum[2];
};

/* A row that saw nothing but masked keys so far: any finite number will do. */
__device__ __forceinline__ float base_of(float most, float scale)
{
    return most == -INFINITY ? 0.0f : most * scale;
}

/* t becomes weights relative to the new maxima, o is scaled to them. scale: times log2 e. */
template <int kTiles, int kDim>
__device__ __forceinline__ void softmax_step(float (*t)[4], float (*o)[4], RowState &s, float scale)
{
    float base[2], shrink[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float most = -INFINITY;
#pragma unroll
        for (int n = 0; n < kTiles; n++) most = fmaxf(most, fmaxf(t[n][2 * i], t[n][2 * i + 1]));
        most = fmaxf(s.most[i], row_max(most));
        base[i] = base_of(most, scale);
        shrink[i] = hn_exp2_(fmaf(s.most[i], scale, -base[i]));
        s.most[i] = most;
        s.sum[i] *= shrink[i];
    }
#pragma unroll
    for (int n = 0; n < kTiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            t[n][e] = hn_exp2_(fmaf(t[n][e], scale, -base[e / 2]));
            s.sum[e / 2] += t[n][e];
        }
#pragma unroll
    for (int n = 0; n < kDim / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] *= shrink[e / 2];
}
#endif

template <int kDim>
__global__ void __launch_bounds__(kThreads, kBlocks<kDim>)
    attention_fwd_wgmma(const hn_attention_args a)
{
#if HN_WGMMA_CODE_
    constexpr int kK = kKeys<kDim>;
    extern __shared__ char shared[];
    const uint32_t q_tile = hn_shared_address_(hn_swizzle_boundary_(shared));
    const uint32_t k_tiles = q_tile + kHnTileBytes_<kQueries, kDim>;
    const uint32_t v_tiles = k_tiles + 2 * kHnTileBytes_<kK, kDim>;
    const int64_t slots = a.q_rows / kQueries + a.sequences + 2, head = blockIdx.x % a.heads;
    /* Last tiles first: under a causal mask they are the long ones. Heads that share keys run side
     * by side. */
    const hn_tile_span_ s = hn_tile_span_of_(a, slots - 1 - blockIdx.x / a.heads, kQueries, false);
    if (s.first >= s.n_q) return;
    const int rows = min(kQueries, s.n_q - s.first), warp_row = (int)threadIdx.x / 32 * 16;
    const int64_t group = head / (a.heads / a.kv_heads), row = s.q_start + s.first;
    const auto *k = (const __nv_bfloat16 *)a.k + s.kv_start * a.ld_k + group * kDim;
    const auto *v = (const __nv_bfloat16 *)a.v + s.kv_start * a.ld_v + group * kDim;
    const auto copy_keys = [&](int j0, int buffer) {
        hn_copy_swizzled_<kK, kDim, kThreads>(k_tiles + buffer * kHnTileBytes_<kK, kDim>,
                                              k + j0 * a.ld_k, a.ld_k, s.n_kv - j0);
        hn_copy_swizzled_<kK, kDim, kThreads>(v_tiles + buffer * kHnTileBytes_<kK, kDim>,
                                              v + j0 * a.ld_v, a.ld_v, s.n_kv - j0);
    };

    const int begin = hn_first_key_(a, s, s.first) / kK * kK;
    const int end = hn_last_key_(a, s, s.first + rows - 1);
    /* Of the warpgroup's rows some see keys of [my_begin, my_end), all see those of
     * [clear_first, clear_last). */
    const int warpgroup = hn_warpgroup_(), my_row = s.first + 64 * warpgroup;
    const int my_last_row = min(my_row + 63, s.n_q - 1);
    const int my_begin = hn_first_key_(a, s, my_row);
    const int my_end = my_row < s.n_q ? hn_last_key_(a, s, my_last_row) : 0;
    const int clear_first = hn_first_key_(a, s, my_last_row);
    const int clear_last = hn_last_key_(a, s, my_row);
    const uint32_t my_q = q_tile + warpgroup * 64 * kHnPanelRow_;
    const float scale = a.scale * kLog2e;
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
        hn_copy_swizzled_<kQueries, kDim, kThreads>(
            q_tile, (const __nv_bfloat16 *)a.q + row * a.ld_q + head * kDim, a.ld_q, rows);
        copy_keys(begin, 0);
        hn_copy_commit_();
    }
    for (int j0 = begin, buffer = 0; j0 < end; j0 += kK, buffer ^= 1) {
        hn_copy_wait_<0>();
        hn_copies_to_wgmma_();
        __syncthreads(); /* all copies of this tile are there, the one before is done with */
        if (j0 + kK < end) copy_keys(j0 + kK, buffer ^ 1);
        hn_copy_commit_();
        if (j0 + kK <= my_begin || j0 >= my_end) continue;
        float t[kK / 8][4];
        uint32_t w[kK / 16][4];
        hn_wgmma_hold_<kK / 8>(t);
        hn_wgmma_begin_();
        hn_wgmma_nt_<kK, kDim, kQueries>(t, my_q, k_tiles + buffer * kHnTileBytes_<kK, kDim>);
        hn_wgmma_commit_();
        hn_wgmma_wait_<0>();
        hn_wgmma_hold_<kK / 8>(t);
        if (j0 < clear_first || j0 + kK > clear_last)
            hn_mask_columns_<kK / 8>(t, j0, state.first, state.last, -INFINITY);
        softmax_step<kK / 8, kDim>(t, o, state, scale);
        hn_wgmma_pack_<kK / 8>(w, t);
        hn_wgmma_hold_<kK / 16>(w);
        hn_wgmma_hold_<kDim / 8>(o);
        hn_wgmma_begin_();
        hn_wgmma_weighted_<kK, kDim>(o, w, v_tiles + buffer * kHnTileBytes_<kK, kDim>);
        hn_wgmma_commit_();
        hn_wgmma_wait_<0>();
        hn_wgmma_hold_<kDim / 8>(o);
        hn_wgmma_hold_<kK / 16>(w);
    }

    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float total = row_sum(state.sum[i]);
        const bool sees = state.first[i] < state.last[i];
        const int r = warp_row + (int)threadIdx.x % 32 / 4 + 8 * i;
        factor[i] = sees ? 1.0f / total : 0.0f;
        if (threadIdx.x % 4 == 0 && r < rows)
            a.lse[(row + r) * a.heads + head] =
                sees ? base_of(state.most[i], scale) * kLn2 + logf(total) : 0.0f;
    }
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.o + (row + warp_row) * a.ld_o + head * kDim, a.ld_o,
                        rows - warp_row, o, factor[0], factor[1]);
#else
    __trap();
#endif
}

template <int kDim>
hn_status launch(const hn_attention_args *a, hn_stream stream)
{
    unsigned grid = 0;
    HN_TRY(hn_attention_grid_(hn_tile_slots_(a->q_rows, a->sequences, kQueries) * a->heads, &grid));
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(attention_fwd_wgmma<kDim>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        kSharedBytes<kDim>)));
    attention_fwd_wgmma<kDim><<<grid, kThreads, kSharedBytes<kDim>, stream>>>(*a);
    return HN_CUDA_LAUNCHED("attention_fwd_wgmma");
}

} // namespace

hn_status hn_attention_fwd_wgmma_(const hn_attention_args *a, hn_stream stream)
{
    return a->head_dim == 64 ? launch<64>(a, stream) : launch<128>(a, stream);
}
