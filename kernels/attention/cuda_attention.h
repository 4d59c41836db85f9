/* cuda_attention.h - how a block of the attention kernels finds its rows, and which keys a query
 * sees. For the .cu files of this folder only.
 *
 * Grids depend on shapes alone, the lengths of the sequences lie in device memory: a grid has
 * tile slots, and span i of the packed rows begins at slot boundary(i) / tile + i. That leaves
 * every span as many slots as it has tiles, sometimes one more, which stays idle. Spans are the
 * sequences, the rows before the first (span 0) and the rows behind the last: those two have no
 * partner on the other side, so their outputs come out as zeros.
 */
#ifndef HN_CUDA_ATTENTION_H
#define HN_CUDA_ATTENTION_H
#include "kernels/attention/attention.h"
#include "runtime/base/cuda_math.h"
#include "runtime/base/stream.h"

/* Launchers for arguments that have been checked, value_dim not 0. delta: [q_rows, heads]. */
hn_status hn_attention_fwd_simt_(const hn_attention_args *a, hn_stream stream);
hn_status hn_attention_bwd_simt_(const hn_attention_args *a, const float *delta, hn_stream stream);

static inline int64_t hn_tile_slots_(int64_t rows, int64_t sequences, int64_t tile)
{
    return rows / tile + sequences + 2;
}

/* Blocks as the x dimension of a grid, which ends at 2^31 - 1. */
static inline hn_status hn_attention_grid_(int64_t blocks, unsigned *grid)
{
    if (blocks > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "attention: %lld blocks of work are too many for CUDA",
                       (long long)blocks);
    *grid = (unsigned)blocks;
    return HN_OK;
}

/* The rows of one tile's sequence, and the tile's first row in it. */
typedef struct {
    int64_t q_start, kv_start; /* rows of the packed operands */
    int n_q, n_kv;
    int first; /* >= n_q (for tiles of keys: n_kv) in an idle slot */
} hn_tile_span_;

static __device__ __forceinline__ int64_t hn_span_boundary_(const int32_t *offsets,
                                                            int64_t sequences, int64_t rows,
                                                            int64_t i)
{
    return i == 0 ? 0 : i == sequences + 2 ? rows : offsets[i - 1];
}

/* The span of slot `slot` of a grid over tiles of queries (or of keys, with by_keys). */
static __device__ __forceinline__ hn_tile_span_ hn_tile_span_of_(const hn_attention_args &a,
                                                                 int64_t slot, int tile,
                                                                 bool by_keys)
{
    const int32_t *kv_offsets = a.kv_offsets ? a.kv_offsets : a.q_offsets;
    const int32_t *offsets = by_keys ? kv_offsets : a.q_offsets;
    const int64_t rows = by_keys ? a.kv_rows : a.q_rows;
    int64_t low = 0, high = a.sequences + 2; /* the span is in [low, high) */
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (hn_span_boundary_(offsets, a.sequences, rows, middle) / tile + middle <= slot)
            low = middle;
        else
            high = middle;
    }
    hn_tile_span_ s;
    s.q_start = s.kv_start = hn_span_boundary_(offsets, a.sequences, rows, low);
    s.first = (int)(slot - s.q_start / tile - low) * tile;
    s.n_q = s.n_kv = (int)(hn_span_boundary_(offsets, a.sequences, rows, low + 1) - s.q_start);
    const bool sequence = low > 0 && low <= a.sequences;
    const int32_t *other = by_keys ? a.q_offsets : kv_offsets;
    const int64_t start = sequence ? other[low - 1] : 0;
    const int n = sequence ? (int)(other[low] - start) : 0;
    if (by_keys) {
        s.q_start = start;
        s.n_q = n;
    } else {
        s.kv_start = start;
        s.n_kv = n;
    }
    return s;
}

static __device__ __forceinline__ int hn_clamp_(int64_t v, int most)
{
    return v < 0 ? 0 : v > most ? most : (int)v;
}

/* Query i of the sequence sees the keys first <= j < last; none when i is not one of its rows. */
static __device__ __forceinline__ int hn_first_key_(const hn_attention_args &a,
                                                    const hn_tile_span_ &s, int i)
{
    return a.window > 0 ? hn_clamp_((int64_t)i + s.n_kv - s.n_q - a.window + 1, s.n_kv) : 0;
}

static __device__ __forceinline__ int hn_last_key_(const hn_attention_args &a,
                                                   const hn_tile_span_ &s, int i)
{
    if (i >= s.n_q) return 0;
    return a.causal ? hn_clamp_((int64_t)i + s.n_kv - s.n_q + 1, s.n_kv) : s.n_kv;
}

/* Only the queries first <= i < last see any of the keys [j0, j1). */
static __device__ __forceinline__ int hn_first_query_(const hn_attention_args &a,
                                                      const hn_tile_span_ &s, int j0)
{
    return a.causal ? hn_clamp_((int64_t)j0 - s.n_kv + s.n_q, s.n_q) : 0;
}

static __device__ __forceinline__ int hn_last_query_(const hn_attention_args &a,
                                                     const hn_tile_span_ &s, int j1)
{
    return a.window > 0 ? hn_clamp_((int64_t)j1 - 1 + a.window - s.n_kv + s.n_q, s.n_q) : s.n_q;
}

/* Every one of `queries` queries from i0 on exists and sees all of `keys` keys from j0 on. */
static __device__ __forceinline__ bool hn_all_visible_(const hn_attention_args &a,
                                                       const hn_tile_span_ &s, int i0, int queries,
                                                       int j0, int keys)
{
    return s.n_q - i0 >= queries && hn_first_key_(a, s, i0 + queries - 1) <= j0 &&
           hn_last_key_(a, s, i0) - j0 >= keys;
}
#endif
