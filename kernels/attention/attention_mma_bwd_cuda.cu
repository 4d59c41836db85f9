/* Backward on the tensor cores, without atomics: one kernel has 64 keys a block and walks over
 * the queries of all heads of their group (dk, dv), one has 64 queries and walks over the keys
 * (dq). Both compute p and dt again, transposed in the first, so that what a warp multiplies next
 * is in its registers already; the sides that pass by are copied a tile ahead. */
#include <math.h>

#include "kernels/attention/cuda_attention_mma.h"

namespace {

constexpr int kTile = 64;     /* rows that a block keeps */
constexpr int kThreads = 128; /* 4 warps of 16 rows */
constexpr float kLog2e = 1.4426950408889634f;

/* Rows that pass by at a time: with heads of 128 two accumulators of 16 x 128 leave registers
 * for scores of 16 x 32 only. */
template <int kDim>
constexpr int kPass = kDim == 64 ? 64 : 32;

/* Two tiles that stay, two buffers of two that pass, lse and delta of two buffers: 56 KB for heads
 * of 64, 70 KB for 128. */
template <int kDim>
constexpr int kStayElems = kTile *HnTile_<kDim>::kLd;
template <int kDim>
constexpr int kPassElems = kPass<kDim> *HnTile_<kDim>::kLd;
template <int kDim>
constexpr int kSharedBytes = (2 * kStayElems<kDim> +
                              4 * kPassElems<kDim>)*(int)sizeof(__nv_bfloat16) +
                             4 * kPass<kDim> *(int)sizeof(float);

/* From the products t = q k and g = dout v of a visible pair: t becomes p, g becomes dt / scale. */
__device__ __forceinline__ void pair(const hn_attention_args &a, bool visible, float lse,
                                     float delta, float &t, float &g)
{
    float s = a.scale * t, slope = 1.0f;
    if (a.softcap > 0.0f) {
        const float u = tanhf(s / a.softcap);
        s = a.softcap * u;
        slope = 1.0f - u * u;
    }
    t = visible ? exp2f((s - lse) * kLog2e) : 0.0f;
    g = visible ? t * (g - delta) * slope : 0.0f;
}

__device__ __forceinline__ bool sees(const hn_attention_args &a, const hn_tile_span_ &s, int query,
                                     int key)
{
    const int pos = query + s.n_kv - s.n_q; /* above -2^31: both lengths are below 2^31 */
    return query < s.n_q && key < s.n_kv && (!a.causal || key <= pos) &&
           (a.window <= 0 || key > pos - a.window);
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    attention_bwd_keys_mma(const hn_attention_args a, const float *delta)
{
    constexpr int kQ = kPass<kDim>;
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    __nv_bfloat16 *const k_tile = shared, *const v_tile = shared + kStayElems<kDim>;
    __nv_bfloat16 *const q_tiles = shared + 2 * kStayElems<kDim>;
    __nv_bfloat16 *const g_tiles = q_tiles + 2 * kPassElems<kDim>; /* dout */
    float *const lse_tiles = reinterpret_cast<float *>(g_tiles + 2 * kPassElems<kDim>);
    float *const delta_tiles = lse_tiles + 2 * kQ;

    const int64_t slots = a.kv_rows / kTile + a.sequences + 2, group = blockIdx.x / slots;
    /* First tiles first: under a causal mask they are seen by most queries. */
    const hn_tile_span_ s = hn_tile_span_of_(a, blockIdx.x % slots, kTile, true);
    if (s.first >= s.n_kv) return;
    const int keys = min(kTile, s.n_kv - s.first), warp_row = (int)threadIdx.x / 32 * 16;
    const int lane_row = (int)threadIdx.x % 32 / 4, lane_col = (int)threadIdx.x % 4 * 2;
    const int64_t heads = a.heads / a.kv_heads, row = s.kv_start + s.first;
    const int begin = hn_first_query_(a, s, s.first) / kQ * kQ;
    const int end = hn_last_query_(a, s, s.first + keys);
    const int tiles = end > begin ? (end - begin + kQ - 1) / kQ : 0;
    const int64_t rounds = heads * tiles;

    const auto copy_queries = [&](int64_t round, int buffer) {
        const int64_t h = group * heads + round / tiles;
        const int i0 = begin + (int)(round % tiles) * kQ, t = (int)threadIdx.x;
        const int64_t q_row = s.q_start + i0;
        hn_copy_tile_<kQ, kDim, kThreads>(q_tiles + buffer * kPassElems<kDim>,
                                          (const __nv_bfloat16 *)a.q + q_row * a.ld_q + h * kDim,
                                          a.ld_q, s.n_q - i0);
        hn_copy_tile_<kQ, kDim, kThreads>(
            g_tiles + buffer * kPassElems<kDim>,
            (const __nv_bfloat16 *)a.dout + q_row * a.ld_dout + h * kDim, a.ld_dout, s.n_q - i0);
        if (t < 2 * kQ) {
            const bool there = i0 + t % kQ < s.n_q;
            const float *from = t < kQ ? a.lse : delta;
            hn_copy4_((t < kQ ? lse_tiles : delta_tiles) + buffer * kQ + t % kQ,
                      from + (there ? (q_row + t % kQ) * a.heads + h : 0), there);
        }
    };

    float dk[kDim / 8][4], dv[kDim / 8][4];
    hn_mma_clear_<kDim / 8>(dk);
    hn_mma_clear_<kDim / 8>(dv);
    if (rounds > 0) {
        hn_copy_tile_<kTile, kDim, kThreads>(
            k_tile, (const __nv_bfloat16 *)a.k + row * a.ld_k + group * kDim, a.ld_k, keys);
        hn_copy_tile_<kTile, kDim, kThreads>(
            v_tile, (const __nv_bfloat16 *)a.v + row * a.ld_v + group * kDim, a.ld_v, keys);
        copy_queries(0, 0);
        hn_copy_commit_();
    }
    for (int64_t round = 0; round < rounds; round++) {
        const int buffer = (int)(round % 2), i0 = begin + (int)(round % tiles) * kQ;
        if (round + 1 < rounds) copy_queries(round + 1, buffer ^ 1);
        hn_copy_commit_(); /* an empty group in the last round keeps the count */
        hn_copy_wait_<1>();
        __syncthreads(); /* everybody's copies of this tile are there */
        const __nv_bfloat16 *q_tile = q_tiles + buffer * kPassElems<kDim>;
        const __nv_bfloat16 *g_tile = g_tiles + buffer * kPassElems<kDim>;
        float p[kQ / 8][4], dt[kQ / 8][4]; /* rows are keys, columns queries */
        hn_mma_clear_<kQ / 8>(p);
        hn_mma_clear_<kQ / 8>(dt);
        hn_mma_nt_<kQ, kDim>(p, k_tile + warp_row * HnTile_<kDim>::kLd, q_tile);
        hn_mma_nt_<kQ, kDim>(dt, v_tile + warp_row * HnTile_<kDim>::kLd, g_tile);
        const bool masked = !hn_all_visible_(a, s, i0, kQ, s.first, kTile);
#pragma unroll
        for (int n = 0; n < kQ / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int i = 8 * n + lane_col + e % 2;
                const int key = s.first + warp_row + lane_row + e / 2 * 8;
                pair(a, !masked || sees(a, s, i0 + i, key), lse_tiles[buffer * kQ + i],
                     delta_tiles[buffer * kQ + i], p[n][e], dt[n][e]);
            }
        hn_mma_weighted_<kQ, kDim>(dv, p, g_tile);
        hn_mma_weighted_<kQ, kDim>(dk, dt, q_tile);
        __syncthreads(); /* the next round copies over this tile */
    }
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dk + (row + warp_row) * a.ld_dk + group * kDim, a.ld_dk,
                        keys - warp_row, dk, a.scale, a.scale);
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dv + (row + warp_row) * a.ld_dv + group * kDim, a.ld_dv,
                        keys - warp_row, dv, 1.0f, 1.0f);
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    attention_bwd_queries_mma(const hn_attention_args a, const float *delta)
{
    constexpr int kK = kPass<kDim>;
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    __nv_bfloat16 *const q_tile = shared, *const g_tile = shared + kStayElems<kDim>; /* g: dout */
    __nv_bfloat16 *const k_tiles = shared + 2 * kStayElems<kDim>;
    __nv_bfloat16 *const v_tiles = k_tiles + 2 * kPassElems<kDim>;

    const int64_t slots = a.q_rows / kTile + a.sequences + 2, head = blockIdx.x / slots;
    /* Last tiles first: under a causal mask they are the long ones. */
    const hn_tile_span_ s = hn_tile_span_of_(a, slots - 1 - blockIdx.x % slots, kTile, false);
    if (s.first >= s.n_q) return;
    const int rows = min(kTile, s.n_q - s.first), warp_row = (int)threadIdx.x / 32 * 16;
    const int lane_row = (int)threadIdx.x % 32 / 4, lane_col = (int)threadIdx.x % 4 * 2;
    const int64_t group = head / (a.heads / a.kv_heads), row = s.q_start + s.first;
    const auto *k = (const __nv_bfloat16 *)a.k + s.kv_start * a.ld_k + group * kDim;
    const auto *v = (const __nv_bfloat16 *)a.v + s.kv_start * a.ld_v + group * kDim;
    const auto copy_keys = [&](int j0, int buffer) {
        hn_copy_tile_<kK, kDim, kThreads>(k_tiles + buffer * kPassElems<kDim>, k + j0 * a.ld_k,
                                          a.ld_k, s.n_kv - j0);
        hn_copy_tile_<kK, kDim, kThreads>(v_tiles + buffer * kPassElems<kDim>, v + j0 * a.ld_v,
                                          a.ld_v, s.n_kv - j0);
    };

    const int begin = hn_first_key_(a, s, s.first) / kK * kK;
    const int end = hn_last_key_(a, s, s.first + rows - 1);
    float dq[kDim / 8][4], lse[2], base[2];
    hn_mma_clear_<kDim / 8>(dq);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = warp_row + lane_row + 8 * i;
        lse[i] = r < rows ? a.lse[(row + r) * a.heads + head] : 0.0f;
        base[i] = r < rows ? delta[(row + r) * a.heads + head] : 0.0f;
    }
    if (begin < end) {
        hn_copy_tile_<kTile, kDim, kThreads>(
            q_tile, (const __nv_bfloat16 *)a.q + row * a.ld_q + head * kDim, a.ld_q, rows);
        hn_copy_tile_<kTile, kDim, kThreads>(
            g_tile, (const __nv_bfloat16 *)a.dout + row * a.ld_dout + head * kDim, a.ld_dout, rows);
        copy_keys(begin, 0);
        hn_copy_commit_();
    }
    for (int j0 = begin, buffer = 0; j0 < end; j0 += kK, buffer ^= 1) {
        if (j0 + kK < end) copy_keys(j0 + kK, buffer ^ 1);
        hn_copy_commit_();
        hn_copy_wait_<1>();
        __syncthreads();
        const __nv_bfloat16 *k_tile = k_tiles + buffer * kPassElems<kDim>;
        const __nv_bfloat16 *v_tile = v_tiles + buffer * kPassElems<kDim>;
        float p[kK / 8][4], dt[kK / 8][4]; /* rows are queries, columns keys */
        hn_mma_clear_<kK / 8>(p);
        hn_mma_clear_<kK / 8>(dt);
        hn_mma_nt_<kK, kDim>(p, q_tile + warp_row * HnTile_<kDim>::kLd, k_tile);
        hn_mma_nt_<kK, kDim>(dt, g_tile + warp_row * HnTile_<kDim>::kLd, v_tile);
        const bool masked = !hn_all_visible_(a, s, s.first, kTile, j0, kK);
#pragma unroll
        for (int n = 0; n < kK / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int query = s.first + warp_row + lane_row + e / 2 * 8;
                const int key = j0 + 8 * n + lane_col + e % 2;
                pair(a, !masked || sees(a, s, query, key), lse[e / 2], base[e / 2], p[n][e],
                     dt[n][e]);
            }
        hn_mma_weighted_<kK, kDim>(dq, dt, k_tile);
        __syncthreads(); /* the next round copies over this tile */
    }
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dq + (row + warp_row) * a.ld_dq + head * kDim, a.ld_dq,
                        rows - warp_row, dq, a.scale, a.scale);
}

template <int kDim>
hn_status launch(const hn_attention_args *a, const float *delta, hn_stream stream)
{
    unsigned keys = 0, queries = 0;
    HN_TRY(
        hn_attention_grid_(hn_tile_slots_(a->kv_rows, a->sequences, kTile) * a->kv_heads, &keys));
    HN_TRY(hn_attention_grid_(hn_tile_slots_(a->q_rows, a->sequences, kTile) * a->heads, &queries));
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(attention_bwd_keys_mma<kDim>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        kSharedBytes<kDim>)));
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(attention_bwd_queries_mma<kDim>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        kSharedBytes<kDim>)));
    attention_bwd_keys_mma<kDim><<<keys, kThreads, kSharedBytes<kDim>, stream>>>(*a, delta);
    attention_bwd_queries_mma<kDim><<<queries, kThreads, kSharedBytes<kDim>, stream>>>(*a, delta);
    return HN_CUDA_LAUNCHED("attention_bwd_mma");
}

} // namespace

hn_status hn_attention_bwd_mma_(const hn_attention_args *a, const float *delta, hn_stream stream)
{
    return a->head_dim == 64 ? launch<64>(a, delta, stream) : launch<128>(a, delta, stream);
}
