/* Backward on the tensor cores of sm_90a, without atomics: one kernel has 128 keys a block and
 * walks over the queries of all heads of their group (dk, dv), one has 128 queries and walks over
 * the keys (dq), 64 rows at a time, which are copied a tile ahead. Both compute p and dt,
 * transposed in the first, so that what wgmma multiplies next is in registers or in shared memory
 * already.
 *
 * A warpgroup has 64 of the rows that stay. Its 4 (3) products of a tile take 512 (384) clocks of
 * the tensor cores with heads of 64, 1024 (768) with 128; the exponentials 256 of the special
 * function units. Accumulators, p and dt need up to 240 registers a thread: one block an SM, but
 * two for dq with heads of 64. */
#include <math.h>

#include "kernels/attention/cuda_attention_wgmma.h"

namespace {

constexpr int kGroups = 2;          /* warpgroups of a block */
constexpr int kStay = 64 * kGroups; /* rows that a block keeps */
constexpr int kPass = 64;           /* rows that pass by at a time */
constexpr int kThreads = 128 * kGroups;

template <int kDim>
constexpr int kStayBytes = kHnTileBytes_<kStay, kDim>;
template <int kDim>
constexpr int kPassBytes = kHnTileBytes_<kPass, kDim>;
/* Two tiles that stay, two buffers of two that pass, lse and delta of two buffers: 66 KB for heads
 * of 64, 130 KB for 128. */
template <int kDim>
constexpr int kSharedBytes = 2 * kStayBytes<kDim> + 4 * kPassBytes<kDim> +
                             4 * kPass *(int)sizeof(float) + kHnSwizzle_;

#if HN_WGMMA_CODE_
constexpr float kLog2e = 1.4426950408889634f;

/* Keys of the accumulators' rows, queries of their columns: lse and delta vary along a row. */
__device__ __forceinline__ void weigh_columns(float (*p)[4], float scale, const float *lse)
{
#pragma unroll
    for (int n = 0; n < kPass / 8; n++) {
        const float2 l = *reinterpret_cast<const float2 *>(lse + 8 * n + threadIdx.x % 4 * 2);
        const float l0 = l.x * kLog2e, l1 = l.y * kLog2e;
        p[n][0] = hn_exp2_(fmaf(p[n][0], scale, -l0));
        p[n][1] = hn_exp2_(fmaf(p[n][1], scale, -l1));
        p[n][2] = hn_exp2_(fmaf(p[n][2], scale, -l0));
        p[n][3] = hn_exp2_(fmaf(p[n][3], scale, -l1));
    }
}

__device__ __forceinline__ void slope_columns(float (*dt)[4], const float (*p)[4],
                                              const float *delta)
{
#pragma unroll
    for (int n = 0; n < kPass / 8; n++) {
        const float2 d = *reinterpret_cast<const float2 *>(delta + 8 * n + threadIdx.x % 4 * 2);
        dt[n][0] = p[n][0] * (dt[n][0] - d.x);
        dt[n][1] = p[n][1] * (dt[n][1] - d.y);
        dt[n][2] = p[n][2] * (dt[n][2] - d.x);
        dt[n][3] = p[n][3] * (dt[n][3] - d.y);
    }
}
#endif

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    attention_bwd_keys_wgmma(const hn_attention_args a, const float *delta)
{
#if HN_WGMMA_CODE_
    extern __shared__ char shared[];
    char *const boundary = hn_swizzle_boundary_(shared);
    const uint32_t k_tile = hn_shared_address_(boundary), v_tile = k_tile + kStayBytes<kDim>;
    const uint32_t q_tiles = v_tile + kStayBytes<kDim>;
    const uint32_t g_tiles = q_tiles + 2 * kPassBytes<kDim>; /* dout */
    float *const lse_tiles =
        reinterpret_cast<float *>(boundary + 2 * kStayBytes<kDim> + 4 * kPassBytes<kDim>);
    float *const delta_tiles = lse_tiles + 2 * kPass;

    /* First tiles first: under a causal mask they are seen by most queries. */
    const int64_t group = blockIdx.x % a.kv_heads;
    const hn_tile_span_ s = hn_tile_span_of_(a, blockIdx.x / a.kv_heads, kStay, true);
    if (s.first >= s.n_kv) return;
    const int keys = min(kStay, s.n_kv - s.first), warp_row = (int)threadIdx.x / 32 * 16;
    const int lane_row = (int)threadIdx.x % 32 / 4;
    const int64_t heads = a.heads / a.kv_heads, row = s.kv_start + s.first;
    const int begin = hn_first_query_(a, s, s.first) / kPass * kPass;
    const int end = hn_last_query_(a, s, s.first + keys);
    /* Of the warpgroup's keys only the queries my_begin <= i < my_end see any. */
    const int warpgroup = hn_warpgroup_(), my_key = s.first + 64 * warpgroup;
    const int my_begin = hn_first_query_(a, s, my_key);
    const int my_end = my_key < s.n_kv ? hn_last_query_(a, s, min(my_key + 64, s.n_kv)) : 0;
    const uint32_t my_k = k_tile + warpgroup * 64 * kHnPanelRow_;
    const uint32_t my_v = v_tile + warpgroup * 64 * kHnPanelRow_;
    const float scale = a.scale * kLog2e;

    const auto copy_queries = [&](int64_t h, int i0, int buffer) {
        const int t = (int)threadIdx.x;
        const int64_t q_row = s.q_start + i0;
        hn_copy_swizzled_<kPass, kDim, kThreads>(
            q_tiles + buffer * kPassBytes<kDim>,
            (const __nv_bfloat16 *)a.q + q_row * a.ld_q + h * kDim, a.ld_q, s.n_q - i0);
        hn_copy_swizzled_<kPass, kDim, kThreads>(
            g_tiles + buffer * kPassBytes<kDim>,
            (const __nv_bfloat16 *)a.dout + q_row * a.ld_dout + h * kDim, a.ld_dout, s.n_q - i0);
        if (t < 2 * kPass) {
            const bool there = i0 + t % kPass < s.n_q;
            const float *from = t < kPass ? a.lse : delta;
            hn_copy4_((t < kPass ? lse_tiles : delta_tiles) + buffer * kPass + t % kPass,
                      from + (there ? (q_row + t % kPass) * a.heads + h : 0), there);
        }
    };

    float dk[kDim / 8][4], dv[kDim / 8][4];
    hn_mma_clear_<kDim / 8>(dk);
    hn_mma_clear_<kDim / 8>(dv);
    int64_t head = group * heads;
    const int64_t end_head = head + heads;
    int i0 = begin;
    bool more = begin < end;
    if (more) {
        hn_copy_swizzled_<kStay, kDim, kThreads>(
            k_tile, (const __nv_bfloat16 *)a.k + row * a.ld_k + group * kDim, a.ld_k, keys);
        hn_copy_swizzled_<kStay, kDim, kThreads>(
            v_tile, (const __nv_bfloat16 *)a.v + row * a.ld_v + group * kDim, a.ld_v, keys);
        copy_queries(head, i0, 0);
        hn_copy_commit_();
    }
    for (int buffer = 0; more; buffer ^= 1) {
        hn_copy_wait_<0>();
        hn_copies_to_wgmma_();
        __syncthreads(); /* all copies of this tile are there, the one before is done with */
        const int now = i0;
        i0 += kPass;
        if (i0 >= end) {
            i0 = begin;
            head++;
        }
        more = head < end_head;
        if (more) copy_queries(head, i0, buffer ^ 1);
        hn_copy_commit_();
        if (now + kPass <= my_begin || now >= my_end) continue;
        const uint32_t q_tile = q_tiles + buffer * kPassBytes<kDim>;
        const uint32_t g_tile = g_tiles + buffer * kPassBytes<kDim>;
        float p[kPass / 8][4], dt[kPass / 8][4]; /* rows are keys, columns queries */
        uint32_t wp[kPass / 16][4], wt[kPass / 16][4];
        hn_wgmma_hold_<kPass / 8>(p);
        hn_wgmma_hold_<kPass / 8>(dt);
        hn_wgmma_begin_();
        hn_wgmma_nt_<kPass, kDim, kStay>(p, my_k, q_tile);
        hn_wgmma_commit_();
        hn_wgmma_nt_<kPass, kDim, kStay>(dt, my_v, g_tile);
        hn_wgmma_commit_();
        hn_wgmma_wait_<1>();
        hn_wgmma_hold_<kPass / 8>(p);
        weigh_columns(p, scale, lse_tiles + buffer * kPass);
        if (!hn_all_visible_(a, s, now, kPass, my_key, 64)) {
            int first[2], last[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int key = s.first + warp_row + lane_row + 8 * i;
                first[i] = hn_first_query_(a, s, key);
                last[i] = key < s.n_kv ? hn_last_query_(a, s, key + 1) : 0;
            }
            hn_mask_columns_<kPass / 8>(p, now, first, last, 0.0f);
        }
        hn_wgmma_pack_<kPass / 8>(wp, p);
        hn_wgmma_hold_<kPass / 16>(wp);
        hn_wgmma_hold_<kDim / 8>(dv);
        hn_wgmma_begin_();
        hn_wgmma_weighted_<kPass, kDim>(dv, wp, g_tile);
        hn_wgmma_commit_();
        hn_wgmma_wait_<1>();
        hn_wgmma_hold_<kPass / 8>(dt);
        slope_columns(dt, p, delta_tiles + buffer * kPass);
        hn_wgmma_pack_<kPass / 8>(wt, dt);
        hn_wgmma_hold_<kPass / 16>(wt);
        hn_wgmma_hold_<kDim / 8>(dk);
        hn_wgmma_begin_();
        hn_wgmma_weighted_<kPass, kDim>(dk, wt, q_tile);
        hn_wgmma_commit_();
        hn_wgmma_wait_<0>();
        hn_wgmma_hold_<kDim / 8>(dv);
        hn_wgmma_hold_<kDim / 8>(dk);
        hn_wgmma_hold_<kPass / 16>(wp);
        hn_wgmma_hold_<kPass / 16>(wt);
    }
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dk + (row + warp_row) * a.ld_dk + group * kDim, a.ld_dk,
                        keys - warp_row, dk, a.scale, a.scale);
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dv + (row + warp_row) * a.ld_dv + group * kDim, a.ld_dv,
                        keys - warp_row, dv, 1.0f, 1.0f);
#else
    __trap();
#endif
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, kDim == 64 ? 2 : 1)
    attention_bwd_queries_wgmma(const hn_attention_args a, const float *delta)
{
#if HN_WGMMA_CODE_
    extern __shared__ char shared[];
    const uint32_t q_tile = hn_shared_address_(hn_swizzle_boundary_(shared));
    const uint32_t g_tile = q_tile + kStayBytes<kDim>; /* dout */
    const uint32_t k_tiles = g_tile + kStayBytes<kDim>;
    const uint32_t v_tiles = k_tiles + 2 * kPassBytes<kDim>;

    /* Last tiles first: under a causal mask they are the long ones. Heads that share keys run side
     * by side. */
    const int64_t slots = a.q_rows / kStay + a.sequences + 2, head = blockIdx.x % a.heads;
    const hn_tile_span_ s = hn_tile_span_of_(a, slots - 1 - blockIdx.x / a.heads, kStay, false);
    if (s.first >= s.n_q) return;
    const int rows = min(kStay, s.n_q - s.first), warp_row = (int)threadIdx.x / 32 * 16;
    const int lane_row = (int)threadIdx.x % 32 / 4;
    const int64_t group = head / (a.heads / a.kv_heads), row = s.q_start + s.first;
    const auto *k = (const __nv_bfloat16 *)a.k + s.kv_start * a.ld_k + group * kDim;
    const auto *v = (const __nv_bfloat16 *)a.v + s.kv_start * a.ld_v + group * kDim;
    const auto copy_keys = [&](int j0, int buffer) {
        hn_copy_swizzled_<kPass, kDim, kThreads>(k_tiles + buffer * kPassBytes<kDim>,
                                                 k + j0 * a.ld_k, a.ld_k, s.n_kv - j0);
        hn_copy_swizzled_<kPass, kDim, kThreads>(v_tiles + buffer * kPassBytes<kDim>,
                                                 v + j0 * a.ld_v, a.ld_v, s.n_kv - j0);
    };

    const int begin = hn_first_key_(a, s, s.first) / kPass * kPass;
    const int end = hn_last_key_(a, s, s.first + rows - 1);
    /* The warpgroup's rows see the keys my_begin <= j < my_end, or some of them. */
    const int warpgroup = hn_warpgroup_(), my_row = s.first + 64 * warpgroup;
    const int my_last_row = min(my_row + 63, s.n_q - 1);
    const int my_begin = hn_first_key_(a, s, my_row);
    const int my_end = my_row < s.n_q ? hn_last_key_(a, s, my_last_row) : 0;
    const uint32_t my_q = q_tile + warpgroup * 64 * kHnPanelRow_;
    const uint32_t my_g = g_tile + warpgroup * 64 * kHnPanelRow_;
    const float scale = a.scale * kLog2e;
    float dq[kDim / 8][4], lse[2], base[2]; /* lse times log2 e */
    hn_mma_clear_<kDim / 8>(dq);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = warp_row + lane_row + 8 * i;
        lse[i] = r < rows ? a.lse[(row + r) * a.heads + head] * kLog2e : 0.0f;
        base[i] = r < rows ? delta[(row + r) * a.heads + head] : 0.0f;
    }
    if (begin < end) {
        hn_copy_swizzled_<kStay, kDim, kThreads>(
            q_tile, (const __nv_bfloat16 *)a.q + row * a.ld_q + head * kDim, a.ld_q, rows);
        hn_copy_swizzled_<kStay, kDim, kThreads>(
            g_tile, (const __nv_bfloat16 *)a.dout + row * a.ld_dout + head * kDim, a.ld_dout, rows);
        copy_keys(begin, 0);
        hn_copy_commit_();
    }
    for (int j0 = begin, buffer = 0; j0 < end; j0 += kPass, buffer ^= 1) {
        hn_copy_wait_<0>();
        hn_copies_to_wgmma_();
        __syncthreads(); /* all copies of this tile are there, the one before is done with */
        if (j0 + kPass < end) copy_keys(j0 + kPass, buffer ^ 1);
        hn_copy_commit_();
        if (j0 + kPass <= my_begin || j0 >= my_end) continue;
        const uint32_t k_tile = k_tiles + buffer * kPassBytes<kDim>;
        const uint32_t v_tile = v_tiles + buffer * kPassBytes<kDim>;
        float p[kPass / 8][4], dt[kPass / 8][4]; /* rows are queries, columns keys */
        uint32_t w[kPass / 16][4];
        hn_wgmma_hold_<kPass / 8>(p);
        hn_wgmma_hold_<kPass / 8>(dt);
        hn_wgmma_begin_();
        hn_wgmma_nt_<kPass, kDim, kStay>(p, my_q, k_tile);
        hn_wgmma_commit_();
        hn_wgmma_nt_<kPass, kDim, kStay>(dt, my_g, v_tile);
        hn_wgmma_commit_();
        hn_wgmma_wait_<1>();
        hn_wgmma_hold_<kPass / 8>(p);
#pragma unroll
        for (int n = 0; n < kPass / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) p[n][e] = hn_exp2_(fmaf(p[n][e], scale, -lse[e / 2]));
        if (!hn_all_visible_(a, s, my_row, 64, j0, kPass)) {
            int first[2], last[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int query = s.first + warp_row + lane_row + 8 * i;
                first[i] = hn_first_key_(a, s, query);
                last[i] = hn_last_key_(a, s, query);
            }
            hn_mask_columns_<kPass / 8>(p, j0, first, last, 0.0f);
        }
        hn_wgmma_wait_<0>();
        hn_wgmma_hold_<kPass / 8>(dt);
#pragma unroll
        for (int n = 0; n < kPass / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) dt[n][e] = p[n][e] * (dt[n][e] - base[e / 2]);
        hn_wgmma_pack_<kPass / 8>(w, dt);
        hn_wgmma_hold_<kPass / 16>(w);
        hn_wgmma_hold_<kDim / 8>(dq);
        hn_wgmma_begin_();
        hn_wgmma_weighted_<kPass, kDim>(dq, w, k_tile);
        hn_wgmma_commit_();
        hn_wgmma_wait_<0>();
        hn_wgmma_hold_<kDim / 8>(dq);
        hn_wgmma_hold_<kPass / 16>(w);
    }
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dq + (row + warp_row) * a.ld_dq + head * kDim, a.ld_dq,
                        rows - warp_row, dq, a.scale, a.scale);
#else
    __trap();
#endif
}

template <int kDim>
hn_status launch(const hn_attention_args *a, const float *delta, hn_stream stream)
{
    unsigned keys = 0, queries = 0;
    HN_TRY(
        hn_attention_grid_(hn_tile_slots_(a->kv_rows, a->sequences, kStay) * a->kv_heads, &keys));
    HN_TRY(hn_attention_grid_(hn_tile_slots_(a->q_rows, a->sequences, kStay) * a->heads, &queries));
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(attention_bwd_keys_wgmma<kDim>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        kSharedBytes<kDim>)));
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(attention_bwd_queries_wgmma<kDim>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        kSharedBytes<kDim>)));
    attention_bwd_keys_wgmma<kDim><<<keys, kThreads, kSharedBytes<kDim>, stream>>>(*a, delta);
    attention_bwd_queries_wgmma<kDim><<<queries, kThreads, kSharedBytes<kDim>, stream>>>(*a, delta);
    return HN_CUDA_LAUNCHED("attention_bwd_wgmma");
}

} // namespace

hn_status hn_attention_bwd_wgmma_(const hn_attention_args *a, const float *delta, hn_stream stream)
{
    return a->head_dim == 64 ? launch<64>(a, delta, stream) : launch<128>(a, delta, stream);
}
