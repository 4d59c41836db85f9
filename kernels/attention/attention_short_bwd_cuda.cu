/* Backward of sequences of at most 256 rows (images in patches): a block has a head of one sequence
 * and keeps its q, k, v and dout in shared memory; each warp takes strips of 16 keys (dk, dv), then
 * strips of 16 queries (dq), without a word to the others. No atomics, no delta from another
 * kernel, no memory that grows with the square of a length.
 *
 * 197 rows, heads of 64: p and dt are made once for the keys and once for the queries, 7 products
 * of 208 x 208 x 64 or 39 MFLOP a block; tiles of 16 x 16 pad 197 rows to 208, those of 64 of wgmma
 * to 256, half as much work again. A strip's own rows lie in registers, but v's, for which there
 * are none left: a step of 16 x 16 reads 10 KB of shared memory for keys and 6 KB for queries, 80
 * and 48 clocks of it, where its 32 and 24 mma take about 64 and 48. That is 22,000 clocks a block.
 * 4 tiles of 26 KB, lse and delta are 106 KB, 256 threads with 128 registers half of an SM's: two
 * blocks share it, so that one computes while the other waits for its rows. */
#include "kernels/attention/cuda_attention_mma.h"
#include "kernels/attention/cuda_attention_short.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kStrip = 16; /* rows of an mma */
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kLoads = 4; /* pieces of dout and o that a thread has under way */
constexpr float kLog2e = 1.4426950408889634f;

/* Rows of q, k, v and dout, a float of lse and one of delta for each: 130 KB for 256 rows of heads
 * of 64, 226 KB for 224 rows of 128. */
template <int kDim>
constexpr int kRowBytes = 4 * kDim *(int)sizeof(__nv_bfloat16) + 2 * (int)sizeof(float);
template <int kDim>
constexpr int kMostRows =
    kDim == 128 ? 224 : 256; /* a block has 227 KB of shared memory on sm_90 */

/* What a block works on. Query i sees the keys j < n with j - i <= ahead and i - j < window. */
struct Sequence {
    int start, n, head; /* rows start .. start + n */
    int ahead, window;
    uint32_t q, k, v, g; /* addresses of tiles; g: dout */
    float *lse, *delta;  /* lse times log2 e */
};

/* Where a tile has piece c (16 bytes) of a row: turned about, so that the same piece of 8
 * neighbouring rows, which ldmatrix reads at once, lies in different banks. */
template <int kDim>
__device__ __forceinline__ int place(int row, int piece)
{
    const int turn = kDim == 32 ? row / 2 % 4 : row % 8;
    return row * kDim + (piece ^ turn) * 8;
}

/* Bytes from a strip of a tile to the row that this lane names to ldmatrix, whose four matrices of
 * 8 x 8 are taken down the columns first (A, and B[k][n] = x[k][n]) or across the rows first
 * (B[k][n] = x[n][k]). Strips are aligned, so that the columns from c on are at this ^ 2 c. */
template <int kDim>
__device__ __forceinline__ uint32_t down_first()
{
    const int lane = (int)threadIdx.x % 32;
    return 2u * (uint32_t)place<kDim>(lane % 16, lane / 16);
}

template <int kDim>
__device__ __forceinline__ uint32_t across_first()
{
    const int lane = (int)threadIdx.x % 32;
    return 2u * (uint32_t)place<kDim>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

template <int kDim>
__device__ __forceinline__ uint32_t strip_of(uint32_t tile, int row)
{
    return tile + 2u * (uint32_t)(row * kDim);
}

/* All A of a strip. */
template <int kDim>
__device__ __forceinline__ void load_strip(uint32_t (*a)[4], uint32_t x)
{
    const uint32_t from = x + down_first<kDim>();
#pragma unroll
    for (int k = 0; k < kDim; k += 16) hn_ldmatrix_(a[k / 16], from ^ 2u * k);
}

/* c[16, 16] = x[16, kDim] y[16, kDim]^T; x: loaded, or the address of a strip. */
template <int kDim>
__device__ __forceinline__ void multiply(float (*c)[4], const uint32_t (*x)[4], uint32_t y)
{
    const uint32_t from = y + across_first<kDim>();
    hn_mma_clear_<2>(c);
#pragma unroll
    for (int k = 0; k < kDim; k += 16) {
        uint32_t b[4];
        hn_ldmatrix_(b, from ^ 2u * k);
        hn_mma_(c[0], x[k / 16], b[0], b[1]);
        hn_mma_(c[1], x[k / 16], b[2], b[3]);
    }
}

template <int kDim>
__device__ __forceinline__ void multiply(float (*c)[4], uint32_t x, uint32_t y)
{
    const uint32_t a_from = x + down_first<kDim>(), b_from = y + across_first<kDim>();
    hn_mma_clear_<2>(c);
#pragma unroll
    for (int k = 0; k < kDim; k += 16) {
        uint32_t a[4], b[4];
        hn_ldmatrix_(a, a_from ^ 2u * k);
        hn_ldmatrix_(b, b_from ^ 2u * k);
        hn_mma_(c[0], a, b[0], b[1]);
        hn_mma_(c[1], a, b[2], b[3]);
    }
}

/* c[16, kDim] += bf16(w)[16, 16] x[16, kDim] */
template <int kDim>
__device__ __forceinline__ void add_weighted(float (*c)[4], const float (*w)[4], uint32_t x)
{
    const uint32_t a[4] = {hn_pack_bf16_(w[0][0], w[0][1]), hn_pack_bf16_(w[0][2], w[0][3]),
                           hn_pack_bf16_(w[1][0], w[1][1]), hn_pack_bf16_(w[1][2], w[1][3])};
    const uint32_t from = x + down_first<kDim>();
#pragma unroll
    for (int n = 0; n < kDim; n += 16) {
        uint32_t b[4];
        hn_ldmatrix_trans_(b, from ^ 2u * n);
        hn_mma_(c[n / 8], a, b[0], b[1]);
        hn_mma_(c[n / 8 + 1], a, b[2], b[3]);
    }
}

__device__ __forceinline__ bool sees(const Sequence &s, int i, int j)
{
    return i < s.n && j < s.n && j - i <= s.ahead && i - j < s.window;
}

/* Whether all of 16 queries from i0 on see all of 16 keys from j0 on. */
__device__ __forceinline__ bool all_see(const Sequence &s, int i0, int j0)
{
    constexpr int kLast = kStrip - 1;
    return sees(s, i0 + kLast, j0) && sees(s, i0, j0 + kLast);
}

/* p = 0 where query and key do not see each other; rows of p are keys, or queries. */
template <bool kRowsAreKeys>
__device__ __forceinline__ void mask(const Sequence &s, float (*p)[4], int i0, int j0)
{
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int row = (int)threadIdx.x % 32 / 4 + e / 2 * 8;
            const int col = (int)threadIdx.x % 4 * 2 + e % 2 + 8 * t;
            if (!sees(s, i0 + (kRowsAreKeys ? col : row), j0 + (kRowsAreKeys ? row : col)))
                p[t][e] = 0.0f;
        }
}

/* dk and dv of 16 keys from j0 on: rows of the accumulators are keys, columns queries. */
template <int kDim>
__device__ __forceinline__ void strip_of_keys(const hn_attention_args &a, const Sequence &s, int j0)
{
    const int lane_col = (int)threadIdx.x % 4 * 2;
    const int begin = max(j0 - s.ahead, 0) / kStrip * kStrip;
    const int end = min(j0 + kStrip - 1 + s.window, s.n);
    const float scale = a.scale * kLog2e;
    uint32_t k[kDim / 16][4];
    float dk[kDim / 8][4], dv[kDim / 8][4];
    const uint32_t v = strip_of<kDim>(s.v, j0);
    load_strip<kDim>(k, strip_of<kDim>(s.k, j0));
    hn_mma_clear_<kDim / 8>(dk);
    hn_mma_clear_<kDim / 8>(dv);
    for (int i0 = begin; i0 < end; i0 += kStrip) {
        float p[2][4], dt[2][4];
        const uint32_t q = strip_of<kDim>(s.q, i0), g = strip_of<kDim>(s.g, i0);
        multiply<kDim>(p, k, q);
        multiply<kDim>(dt, v, g);
#pragma unroll
        for (int t = 0; t < 2; t++) {
            const float2 lse = *reinterpret_cast<const float2 *>(s.lse + i0 + 8 * t + lane_col);
#pragma unroll
            for (int e = 0; e < 4; e++)
                p[t][e] = hn_exp2_(fmaf(p[t][e], scale, e % 2 ? -lse.y : -lse.x));
        }
        if (!all_see(s, i0, j0)) mask<true>(s, p, i0, j0);
#pragma unroll
        for (int t = 0; t < 2; t++) {
            const float2 delta = *reinterpret_cast<const float2 *>(s.delta + i0 + 8 * t + lane_col);
#pragma unroll
            for (int e = 0; e < 4; e++)
                dt[t][e] = p[t][e] * (dt[t][e] - (e % 2 ? delta.y : delta.x));
        }
        add_weighted<kDim>(dv, p, g);
        add_weighted<kDim>(dk, dt, q);
    }
    const int64_t row = s.start + j0, col = (int64_t)s.head * kDim;
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dk + row * a.ld_dk + col, a.ld_dk, s.n - j0, dk, a.scale,
                        a.scale);
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dv + row * a.ld_dv + col, a.ld_dv, s.n - j0, dv, 1.0f,
                        1.0f);
}

/* dq of 16 queries from i0 on: rows of the accumulators are queries, columns keys. */
template <int kDim>
__device__ __forceinline__ void strip_of_queries(const hn_attention_args &a, const Sequence &s,
                                                 int i0)
{
    const int lane_row = (int)threadIdx.x % 32 / 4;
    const int begin = max(i0 + 1 - s.window, 0) / kStrip * kStrip;
    const int end = min(i0 + kStrip + s.ahead, s.n);
    const float scale = a.scale * kLog2e;
    const float lse[2] = {s.lse[i0 + lane_row], s.lse[i0 + lane_row + 8]};
    const float delta[2] = {s.delta[i0 + lane_row], s.delta[i0 + lane_row + 8]};
    uint32_t q[kDim / 16][4], g[kDim / 16][4];
    float dq[kDim / 8][4];
    load_strip<kDim>(q, strip_of<kDim>(s.q, i0));
    load_strip<kDim>(g, strip_of<kDim>(s.g, i0));
    hn_mma_clear_<kDim / 8>(dq);
    for (int j0 = begin; j0 < end; j0 += kStrip) {
        float p[2][4], dt[2][4];
        const uint32_t k = strip_of<kDim>(s.k, j0);
        multiply<kDim>(p, q, k);
        multiply<kDim>(dt, g, strip_of<kDim>(s.v, j0));
#pragma unroll
        for (int t = 0; t < 2; t++)
#pragma unroll
            for (int e = 0; e < 4; e++) p[t][e] = hn_exp2_(fmaf(p[t][e], scale, -lse[e / 2]));
        if (!all_see(s, i0, j0)) mask<false>(s, p, i0, j0);
#pragma unroll
        for (int t = 0; t < 2; t++)
#pragma unroll
            for (int e = 0; e < 4; e++) dt[t][e] = p[t][e] * (dt[t][e] - delta[e / 2]);
        add_weighted<kDim>(dq, dt, k);
    }
    const int64_t row = s.start + i0, col = (int64_t)s.head * kDim;
    hn_mma_store_<kDim>((__nv_bfloat16 *)a.dq + row * a.ld_dq + col, a.ld_dq, s.n - i0, dq, a.scale,
                        a.scale);
}

/* Starts copying the n rows of a head from x on; those behind them, up to `rows`, become zeros. */
template <int kDim>
__device__ __forceinline__ void copy_rows(uint32_t tile, const void *x, int64_t ld,
                                          const Sequence &s, int rows)
{
    constexpr int kPieces = kDim / 8;
    const int n = s.n;
    const auto *from = (const __nv_bfloat16 *)x + s.start * ld + (int64_t)s.head * kDim;
    for (int at = (int)threadIdx.x; at < rows * kPieces; at += kThreads) {
        const int r = at / kPieces, c = at % kPieces;
        hn_copy16_(tile + 2u * (uint32_t)place<kDim>(r, c), from + (r < n ? r : 0) * ld + c * 8,
                   r < n);
    }
}

/* dout on its way to its tile, and delta[i] = sum_c dout[i, c] o[i, c]: as many lanes a row as it
 * has pieces, which divide the 32 of a warp. */
template <int kDim>
__device__ __forceinline__ void load_dout(const hn_attention_args &a, const Sequence &s,
                                          __nv_bfloat16 *tile, int rows)
{
    constexpr int kPieces = kDim / 8, kRound = kThreads / kPieces; /* rows at a time */
    const int n = s.n, c = (int)threadIdx.x % kPieces;
    const int64_t col = (int64_t)s.head * kDim + c * 8;
    const auto *dout = (const __nv_bfloat16 *)a.dout + s.start * a.ld_dout + col;
    const auto *o = (const __nv_bfloat16 *)a.o + s.start * a.ld_o + col;
    for (int first = 0; first < rows; first += kLoads * kRound) { /* all threads: they shuffle */
        hn_pack<__nv_bfloat16> g_pack[kLoads], o_pack[kLoads];
#pragma unroll
        for (int l = 0; l < kLoads; l++) {
            const int r = first + l * kRound + (int)threadIdx.x / kPieces, there = r < n ? r : 0;
            g_pack[l] = hn_load_pack(dout + there * a.ld_dout);
            o_pack[l] = hn_load_pack(o + there * a.ld_o);
            if (r >= n) g_pack[l] = hn_pack<__nv_bfloat16>{};
        }
#pragma unroll
        for (int l = 0; l < kLoads; l++) {
            const int r = first + l * kRound + (int)threadIdx.x / kPieces;
            float x[8], y[8], sum = 0.0f;
            hn_unpack(g_pack[l], x);
            hn_unpack(o_pack[l], y);
#pragma unroll
            for (int k = 0; k < 8; k++) sum += x[k] * y[k];
#pragma unroll
            for (int d = kPieces / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
            if (r < rows) hn_store_pack(tile + place<kDim>(r, c), g_pack[l]);
            if (r < rows && c == 0) s.delta[r] = r < n ? sum : 0.0f;
        }
    }
}

/* Rows of no sequence: zeros for one head. */
template <int kDim>
__device__ __forceinline__ void clear_rows(const hn_attention_args &a, int64_t start, int64_t rows,
                                           int64_t head)
{
    constexpr int kPieces = kDim / 8;
    for (int64_t at = threadIdx.x; at < rows * kPieces; at += kThreads) {
        const int64_t r = start + at / kPieces, c = head * kDim + at % kPieces * 8;
        hn_store_pack((__nv_bfloat16 *)a.dq + r * a.ld_dq + c, hn_pack<__nv_bfloat16>{});
        hn_store_pack((__nv_bfloat16 *)a.dk + r * a.ld_dk + c, hn_pack<__nv_bfloat16>{});
        hn_store_pack((__nv_bfloat16 *)a.dv + r * a.ld_dv + c, hn_pack<__nv_bfloat16>{});
    }
}

/* Blocks that share a multiprocessor: with the 100 KB of sm_86 and sm_89 one. */
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890)
constexpr int kShare = 1;
#else
constexpr int kShare = 2;
#endif

/* capacity: rows of a tile, no sequence has more. */
template <int kDim>
__global__ void __launch_bounds__(kThreads, kDim == 128 ? 1 : kShare)
    attention_bwd_short(const hn_attention_args a, const int capacity)
{
    extern __shared__ __align__(256) __nv_bfloat16 shared[];
    const int64_t span = blockIdx.x / a.heads;
    Sequence s;
    s.head = (int)(blockIdx.x % a.heads); /* heads of a sequence share rows: side by side */
    const int64_t start = hn_span_boundary_(a.q_offsets, a.sequences, a.q_rows, span);
    const int64_t length = hn_span_boundary_(a.q_offsets, a.sequences, a.q_rows, span + 1) - start;
    if (span == 0 || span == a.sequences + 1) {
        clear_rows<kDim>(a, start, length, s.head);
        return;
    }
    s.start = (int)start;
    s.n = hn_clamp_(length, capacity);
    s.ahead = a.causal ? 0 : s.n;
    s.window = a.window > 0 ? hn_clamp_(a.window, s.n) : s.n;
    if (s.n == 0) return;
    __nv_bfloat16 *const g_tile = shared + 3 * capacity * kDim;
    s.q = hn_shared_address_(shared);
    s.k = strip_of<kDim>(s.q, capacity);
    s.v = strip_of<kDim>(s.k, capacity);
    s.g = strip_of<kDim>(s.v, capacity);
    s.lse = reinterpret_cast<float *>(g_tile + capacity * kDim);
    s.delta = s.lse + capacity;

    const int strips = (s.n + kStrip - 1) / kStrip, rows = strips * kStrip;
    copy_rows<kDim>(s.k, a.k, a.ld_k, s, rows);
    copy_rows<kDim>(s.q, a.q, a.ld_q, s, rows);
    copy_rows<kDim>(s.v, a.v, a.ld_v, s, rows);
    hn_copy_commit_();
    for (int i = (int)threadIdx.x; i < rows; i += kThreads)
        s.lse[i] = i < s.n ? a.lse[(start + i) * a.heads + s.head] * kLog2e : 0.0f;
    load_dout<kDim>(a, s, g_tile, rows);
    hn_copy_wait_<0>();
    __syncthreads(); /* the only one: from here on nobody writes shared memory */

    for (int strip = (int)threadIdx.x / 32; strip < 2 * strips; strip += kWarps) {
        if (strip < strips)
            strip_of_keys<kDim>(a, s, strip * kStrip);
        else
            strip_of_queries<kDim>(a, s, (strip - strips) * kStrip);
    }
}

int64_t longest_of(const hn_attention_args *a) { return a->longest > 0 ? a->longest : a->q_rows; }

int capacity_of(const hn_attention_args *a)
{
    return (int)((longest_of(a) + kStrip - 1) / kStrip) * kStrip;
}

/* Bytes of shared memory that a block may ask for. */
hn_status most_shared(int *bytes)
{
    int device = 0;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    return HN_CUDA(cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
}

template <int kDim>
hn_status fits(const hn_attention_args *a, bool *out)
{
    int bytes = 0;
    *out = false;
    if (longest_of(a) > kMostRows<kDim>) return HN_OK;
    HN_TRY(most_shared(&bytes));
    *out = capacity_of(a) * kRowBytes<kDim> <= bytes;
    return HN_OK;
}

/* A captured launch keeps what it asked for, the function's limit is for all: never lowered. */
template <int kDim>
hn_status launch(const hn_attention_args *a, hn_stream stream)
{
    int bytes = 0;
    unsigned grid = 0;
    HN_TRY(hn_attention_grid_((a->sequences + 2) * a->heads, &grid));
    HN_TRY(most_shared(&bytes));
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(attention_bwd_short<kDim>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        min(bytes, kMostRows<kDim> * kRowBytes<kDim>))));
    const int capacity = capacity_of(a);
    attention_bwd_short<kDim><<<grid, kThreads, capacity * kRowBytes<kDim>, stream>>>(*a, capacity);
    return HN_CUDA_LAUNCHED("attention_bwd_short");
}

} // namespace

hn_status hn_attention_bwd_fits_short_(const hn_attention_args *a, bool *out)
{
    *out = false;
    if (a->softcap > 0.0f || a->heads != a->kv_heads || a->kv_offsets != nullptr ||
        a->kv_rows != a->q_rows)
        return HN_OK;
    switch (a->head_dim) {
    case 32: return fits<32>(a, out);
    case 64: return fits<64>(a, out);
    case 128: return fits<128>(a, out);
    default: return HN_OK;
    }
}

hn_status hn_attention_bwd_short_(const hn_attention_args *a, hn_stream stream)
{
    switch (a->head_dim) {
    case 32: return launch<32>(a, stream);
    case 64: return launch<64>(a, stream);
    default: return launch<128>(a, stream);
    }
}
