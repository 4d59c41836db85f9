/* Tiles of 64 queries and 64 keys, plain fp32 arithmetic, any width: scores are summed over
 * chunks of 16 columns, outputs are computed 64 columns at a time (one block each).
 *
 * A block is 16 x 16 threads; thread (ty, tx) holds rows 4 ty .. and columns 4 tx .. of a tile. */
#include <math.h>

#include "kernels/attention/cuda_attention.h"

namespace {

constexpr int kTile = 64;
constexpr int kStep = 16;      /* columns (or rows) of a product that are staged at a time */
constexpr int kThreads = 256;  /* 16 x 16, 4 x 4 elements of a tile each */
constexpr int kLd = kTile + 4; /* rows stay on 16-byte boundaries, and few banks collide */

/* Rows of a packed operand from some row and column on; rows: how many there are. */
template <class T>
struct Rows {
    const T *x;
    int64_t ld;
    int rows;
};

/* tile[c][r] = x[r, c], zeros outside. */
template <class T>
__device__ void load_transposed(float (*tile)[kLd], const Rows<T> &x, int64_t c0, int64_t cols)
{
    const int c = threadIdx.x % kStep;
#pragma unroll
    for (int r = threadIdx.x / kStep; r < kTile; r += kThreads / kStep)
        tile[c][r] = r < x.rows && c0 + c < cols ? hn_f32(x.x[r * x.ld + c0 + c]) : 0.0f;
}

/* tile[r][c] = x[r0 + r, c], zeros outside. */
template <class T>
__device__ void load_rows(float (*tile)[kLd], const Rows<T> &x, int r0, int64_t cols)
{
    const int c = threadIdx.x % kTile;
#pragma unroll
    for (int r = threadIdx.x / kTile; r < kStep; r += kThreads / kTile)
        tile[r][c] = r0 + r < x.rows && c < cols ? hn_f32(x.x[(r0 + r) * x.ld + c]) : 0.0f;
}

/* acc[i][j] += sum_k a[k][4 ty + i] b[k][4 tx + j] */
__device__ __forceinline__ void tile_product(float acc[4][4], const float (*a)[kLd],
                                             const float (*b)[kLd])
{
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll 4 /* all 16 would spill registers */
    for (int k = 0; k < kStep; k++) {
        const float4 x = *reinterpret_cast<const float4 *>(&a[k][4 * ty]);
        const float4 y = *reinterpret_cast<const float4 *>(&b[k][4 * tx]);
        const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) acc[i][j] += xs[i] * ys[j];
    }
}

struct __align__(16) Staged { float a[kStep][kLd], b[kStep][kLd]; };

/* acc[i][j] += sum_c x[i, c] y[j, c]. Begins with a barrier. */
template <class T>
__device__ void scores(float acc[4][4], Staged &s, const Rows<T> &x, const Rows<T> &y, int64_t cols)
{
    for (int64_t c0 = 0; c0 < cols; c0 += kStep) {
        __syncthreads(); /* the staged values of the product before are no longer read */
        load_transposed(s.a, x, c0, cols);
        load_transposed(s.b, y, c0, cols);
        __syncthreads();
        tile_product(acc, s.a, s.b);
    }
}

/* acc[i][c] += sum_r w[r][i] y[r, c] over the rows of y. Begins with a barrier if there are any. */
template <class T>
__device__ void weighted_rows(float acc[4][4], Staged &s, const float (*w)[kLd], const Rows<T> &y,
                              int64_t cols)
{
    for (int r0 = 0; r0 < kTile && r0 < y.rows; r0 += kStep) {
        __syncthreads();
        load_rows(s.b, y, r0, cols);
        __syncthreads();
        tile_product(acc, w + r0, s.b);
    }
}

__device__ __forceinline__ void clear(float acc[4][4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = 0.0f;
}

/* y[4 ty + i, 4 tx + j] = acc[i][j] * factor[i], where the row and the column exist. */
template <class T>
__device__ void store(T *y, int64_t ld, int rows, int64_t cols, const float acc[4][4],
                      const float factor[4])
{
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (4 * ty + i < rows && 4 * tx + j < cols)
                y[(4 * ty + i) * ld + 4 * tx + j] = hn_round<T>(acc[i][j] * factor[i]);
}

/* Over the 16 threads that share a row of a tile. */
__device__ __forceinline__ float row_max(float v)
{
    for (int d = 8; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

__device__ __forceinline__ float row_sum(float v)
{
    for (int d = 8; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

__device__ __forceinline__ float score_of(const hn_attention_args &a, float product)
{
    const float t = a.scale * product;
    return a.softcap > 0.0f ? a.softcap * tanhf(t / a.softcap) : t;
}

/* What a block works on: tile slot (fastest; last tiles first: under a causal mask they are the
 * long ones where tiles are of queries), then head, then 64 columns of the output. */
struct Item {
    int64_t slot, head, col;
};

__device__ __forceinline__ Item item_of(int64_t slots, int64_t heads)
{
    const int64_t b = blockIdx.x, rest = b / slots;
    return {slots - 1 - b % slots, rest % heads, rest / heads * kTile};
}

template <class T>
__global__ void __launch_bounds__(kThreads) attention_fwd_simt(const hn_attention_args a)
{
    __shared__ Staged staged;
    __shared__ __align__(16) float p[kTile][kLd]; /* [key][query] */
    const Item item = item_of(a.q_rows / kTile + a.sequences + 2, a.heads);
    const hn_tile_span_ s = hn_tile_span_of_(a, item.slot, kTile, false);
    if (s.first >= s.n_q) return;
    const int rows = min(kTile, s.n_q - s.first);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int64_t group = item.head / (a.heads / a.kv_heads), row = s.q_start + s.first;
    const int64_t cols = a.value_dim - item.col; /* at most kTile are taken */
    const Rows<T> q = {(const T *)a.q + row * a.ld_q + item.head * a.head_dim, a.ld_q, rows};
    const T *k = (const T *)a.k + s.kv_start * a.ld_k + group * a.head_dim;
    const T *v = (const T *)a.v + s.kv_start * a.ld_v + group * a.value_dim + item.col;

    int first[4], last[4];
    float o[4][4], most[4], sum[4]; /* sum: of this thread's keys */
    clear(o);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        first[i] = hn_first_key_(a, s, s.first + 4 * ty + i);
        last[i] = hn_last_key_(a, s, s.first + 4 * ty + i);
        most[i] = -INFINITY;
        sum[i] = 0.0f;
    }
    const int end = hn_last_key_(a, s, s.first + rows - 1);
    for (int j0 = hn_first_key_(a, s, s.first) / kTile * kTile; j0 < end; j0 += kTile) {
        const int keys = min(kTile, s.n_kv - j0);
        float t[4][4];
        clear(t);
        scores(t, staged, q, Rows<T>{k + j0 * a.ld_k, a.ld_k, keys}, a.head_dim);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float tile_most = -INFINITY;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = j0 + 4 * tx + j;
                t[i][j] = score_of(a, t[i][j]);
                if (key >= first[i] && key < last[i]) tile_most = fmaxf(tile_most, t[i][j]);
            }
            const float now = fmaxf(most[i], row_max(tile_most));
            /* Rows that saw nothing but masked keys so far: any finite number will do. */
            const float base = now == -INFINITY ? 0.0f : now;
            const float shrink = expf(most[i] - base);
            most[i] = now;
            sum[i] *= shrink;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = j0 + 4 * tx + j;
                const bool visible = key >= first[i] && key < last[i];
                t[i][j] = visible ? expf(t[i][j] - base) : 0.0f;
                sum[i] += t[i][j];
                o[i][j] *= shrink;
            }
        }
        /* p was read before the barriers in scores(), and is read after that in weighted_rows() */
#pragma unroll
        for (int j = 0; j < 4; j++)
            *reinterpret_cast<float4 *>(&p[4 * tx + j][4 * ty]) =
                make_float4(t[0][j], t[1][j], t[2][j], t[3][j]);
        weighted_rows(o, staged, p, Rows<T>{v + j0 * a.ld_v, a.ld_v, keys}, cols);
    }

    float factor[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float total = row_sum(sum[i]);
        const bool sees = first[i] < last[i];
        factor[i] = sees ? 1.0f / total : 0.0f;
        if (tx == 0 && item.col == 0 && 4 * ty + i < rows)
            a.lse[(row + 4 * ty + i) * a.heads + item.head] = sees ? most[i] + logf(total) : 0.0f;
    }
    store((T *)a.o + row * a.ld_o + item.head * a.value_dim + item.col, a.ld_o, rows, cols, o,
          factor);
}

/* p and scale * dt of a tile: queries i0 .. i0 + 63 of head `head` against keys j0 .. j0 + 63. */
template <class T>
__device__ void backward_tile(const hn_attention_args &a, const hn_tile_span_ &s,
                              const float *delta, int64_t head, int i0, int j0, Staged &staged,
                              float p[4][4], float dt[4][4])
{
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int64_t group = head / (a.heads / a.kv_heads);
    const int64_t row = s.q_start + i0, key0 = s.kv_start + j0;
    const int rows = min(kTile, s.n_q - i0), keys = min(kTile, s.n_kv - j0);
    clear(p);
    clear(dt);
    scores(p, staged, Rows<T>{(const T *)a.q + row * a.ld_q + head * a.head_dim, a.ld_q, rows},
           Rows<T>{(const T *)a.k + key0 * a.ld_k + group * a.head_dim, a.ld_k, keys}, a.head_dim);
    scores(dt, staged,
           Rows<T>{(const T *)a.dout + row * a.ld_dout + head * a.value_dim, a.ld_dout, rows},
           Rows<T>{(const T *)a.v + key0 * a.ld_v + group * a.value_dim, a.ld_v, keys},
           a.value_dim);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int query = i0 + 4 * ty + i;
        const int first = hn_first_key_(a, s, query), last = hn_last_key_(a, s, query);
        const int64_t at = (s.q_start + query) * a.heads + head;
        const float lse = query < s.n_q ? a.lse[at] : 0.0f;
        const float base = query < s.n_q ? delta[at] : 0.0f;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int key = j0 + 4 * tx + j;
            const bool visible = key >= first && key < last;
            const float score = score_of(a, p[i][j]);
            const float slope =
                a.softcap > 0.0f ? 1.0f - score / a.softcap * (score / a.softcap) : 1.0f;
            p[i][j] = visible ? expf(score - lse) : 0.0f;
            dt[i][j] = visible ? a.scale * p[i][j] * (dt[i][j] - base) * slope : 0.0f;
        }
    }
}

/* One block: 64 keys of a kv head, 64 columns of dk and dv; sums over the heads of the group and
 * their queries in order. */
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    attention_bwd_keys_simt(const hn_attention_args a, const float *delta)
{
    __shared__ Staged staged;
    __shared__ __align__(16) float p[kTile][kLd], dt[kTile][kLd]; /* [query][key] */
    const Item item = item_of(a.kv_rows / kTile + a.sequences + 2, a.kv_heads);
    const hn_tile_span_ s = hn_tile_span_of_(a, item.slot, kTile, true);
    if (s.first >= s.n_kv) return;
    const int keys = min(kTile, s.n_kv - s.first);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int64_t heads = a.heads / a.kv_heads;
    const int64_t k_cols = a.head_dim - item.col, v_cols = a.value_dim - item.col;

    float dk[4][4], dv[4][4];
    clear(dk);
    clear(dv);
    const int begin = hn_first_query_(a, s, s.first) / kTile * kTile;
    const int end = hn_last_query_(a, s, s.first + keys);
    for (int64_t h = item.head * heads; h < (item.head + 1) * heads; h++)
        for (int i0 = begin; i0 < end; i0 += kTile) {
            const int rows = min(kTile, s.n_q - i0);
            const int64_t row = s.q_start + i0;
            float w[4][4], dw[4][4];
            backward_tile<T>(a, s, delta, h, i0, s.first, staged, w, dw);
#pragma unroll
            for (int i = 0; i < 4; i++) { /* last read before the barriers in backward_tile() */
                *reinterpret_cast<float4 *>(&p[4 * ty + i][4 * tx]) =
                    make_float4(w[i][0], w[i][1], w[i][2], w[i][3]);
                *reinterpret_cast<float4 *>(&dt[4 * ty + i][4 * tx]) =
                    make_float4(dw[i][0], dw[i][1], dw[i][2], dw[i][3]);
            }
            if (v_cols > 0)
                weighted_rows(
                    dv, staged, p,
                    Rows<T>{(const T *)a.dout + row * a.ld_dout + h * a.value_dim + item.col,
                            a.ld_dout, rows},
                    v_cols);
            if (k_cols > 0)
                weighted_rows(dk, staged, dt,
                              Rows<T>{(const T *)a.q + row * a.ld_q + h * a.head_dim + item.col,
                                      a.ld_q, rows},
                              k_cols);
        }
    const float one[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    const int64_t row = s.kv_start + s.first;
    store((T *)a.dk + row * a.ld_dk + item.head * a.head_dim + item.col, a.ld_dk, keys, k_cols, dk,
          one);
    store((T *)a.dv + row * a.ld_dv + item.head * a.value_dim + item.col, a.ld_dv, keys, v_cols, dv,
          one);
}

/* One block: 64 queries of a head, 64 columns of dq; sums over the keys in order. */
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    attention_bwd_queries_simt(const hn_attention_args a, const float *delta)
{
    __shared__ Staged staged;
    __shared__ __align__(16) float dt[kTile][kLd]; /* [key][query] */
    const Item item = item_of(a.q_rows / kTile + a.sequences + 2, a.heads);
    const hn_tile_span_ s = hn_tile_span_of_(a, item.slot, kTile, false);
    if (s.first >= s.n_q) return;
    const int rows = min(kTile, s.n_q - s.first);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int64_t group = item.head / (a.heads / a.kv_heads), cols = a.head_dim - item.col;
    const T *k = (const T *)a.k + s.kv_start * a.ld_k + group * a.head_dim + item.col;

    float dq[4][4];
    clear(dq);
    const int end = hn_last_key_(a, s, s.first + rows - 1);
    for (int j0 = hn_first_key_(a, s, s.first) / kTile * kTile; j0 < end; j0 += kTile) {
        float w[4][4], dw[4][4];
        backward_tile<T>(a, s, delta, item.head, s.first, j0, staged, w, dw);
#pragma unroll
        for (int j = 0; j < 4; j++) /* last read before the barriers in backward_tile() */
            *reinterpret_cast<float4 *>(&dt[4 * tx + j][4 * ty]) =
                make_float4(dw[0][j], dw[1][j], dw[2][j], dw[3][j]);
        weighted_rows(dq, staged, dt, Rows<T>{k + j0 * a.ld_k, a.ld_k, min(kTile, s.n_kv - j0)},
                      cols);
    }
    const float one[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    const int64_t row = s.q_start + s.first;
    store((T *)a.dq + row * a.ld_dq + item.head * a.head_dim + item.col, a.ld_dq, rows, cols, dq,
          one);
}

int64_t chunks(int64_t cols) { return (cols + kTile - 1) / kTile; }

} // namespace

hn_status hn_attention_fwd_simt_(const hn_attention_args *a, hn_stream stream)
{
    unsigned grid = 0;
    HN_TRY(hn_attention_grid_(
        hn_tile_slots_(a->q_rows, a->sequences, kTile) * a->heads * chunks(a->value_dim), &grid));
    HN_CUDA_REAL(a->dtype, T, attention_fwd_simt<T><<<grid, kThreads, 0, stream>>>(*a));
    return HN_CUDA_LAUNCHED("attention_fwd_simt");
}

hn_status hn_attention_bwd_simt_(const hn_attention_args *a, const float *delta, hn_stream stream)
{
    unsigned keys = 0, queries = 0;
    const int64_t widest = a->head_dim > a->value_dim ? a->head_dim : a->value_dim;
    HN_TRY(hn_attention_grid_(
        hn_tile_slots_(a->kv_rows, a->sequences, kTile) * a->kv_heads * chunks(widest), &keys));
    HN_TRY(hn_attention_grid_(
        hn_tile_slots_(a->q_rows, a->sequences, kTile) * a->heads * chunks(a->head_dim), &queries));
    HN_CUDA_REAL(a->dtype, T, attention_bwd_keys_simt<T><<<keys, kThreads, 0, stream>>>(*a, delta));
    HN_CUDA_REAL(a->dtype, T,
                 attention_bwd_queries_simt<T><<<queries, kThreads, 0, stream>>>(*a, delta));
    return HN_CUDA_LAUNCHED("attention_bwd_simt");
}
