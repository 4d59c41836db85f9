/* What swiglu_bwd writes is multiplied by B before it is written. A warp has 16 rows; a lane works
 * out 8 neighbouring columns of two of them at a time, loading the next ones meanwhile. Rounded,
 * these values already lie in the lanes as an operand of the tensor cores if the 32 columns of a
 * step are counted in another order, which only B, coming through shared memory, has to follow.
 *
 * Half of the traffic is reads, so that 13 KB under way an SM keep memory busy (skinny_cuda.cu); a
 * warp has 3, and 16 of them fit into the registers of an SM. B is read once a block: with 64 rows
 * 256 times 1 MB at 16384 rows of 2 * 8192, from L2, against 805 MB of gate, up and dy. Products
 * are 5 % of the instructions. */
#include "kernels/activation/cuda_swiglu.h"
#include "kernels/lora/swiglu_ds.h"
#include "runtime/base/cuda_mma.h"

namespace {

using Bf16 = __nv_bfloat16;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kStep = 32; /* columns of a warp at a time: 4 lanes with 8 */
constexpr int kMostRank = 64;
constexpr int kMostBytes = 227 << 10; /* of shared memory a block of sm_90 */
constexpr int64_t kMost = 1 << 30;    /* rows or columns: leaves room to count past the end */

/* 16 rows times kRowWarps of a block, 16 columns of ds times kTiles. */
template <int kRowWarps, int kTiles>
struct Layout {
    static constexpr int kRows = 16 * kRowWarps, kColWarps = kWarps / kRowWarps;
    static constexpr int kRank = 16 * kTiles, kLd = kRank + 8; /* 8 rows lie in different banks */
    /* Columns for which B is there at a time, once for gate and once for up: two of these tiles,
     * and two blocks, fit in an SM, except where one warp has all rows of a rank above 32. */
    static constexpr int kCols = kRowWarps == 1 || kTiles <= 2 ? 256 : 128;
    static constexpr int kSteps = kCols / kStep / kColWarps;
    static constexpr int kTile = 2 * kCols * kLd;
    static constexpr int kSumLd = kRank + 4;
    static constexpr int kBytes = 2 * kTile * (int)sizeof(Bf16);
    static_assert(kSteps >= 1 && kBytes <= kMostBytes, "every warp has work, and B fits");
    static_assert(kColWarps * kRows * kSumLd * (int)sizeof(float) <= kBytes, "so do the sums");
};

struct Rows {
    const Bf16 *gate, *up, *dy;
    Bf16 *dgate, *dup, *h;                                 /* h: nullptr: not wanted */
    int rows, cols, ld_gate, ld_up, ld_dy, ld_dgate, ld_h; /* all below 2^31 */
};

/* Where column col of a row lies. One wide product: the two dozen registers that the addresses of
 * all operands would take from step to step are worth more than the instructions. */
__device__ __forceinline__ int64_t at(int row, int ld, int col) { return (int64_t)row * ld + col; }

struct Product {
    const Bf16 *b;
    Bf16 *ds, *tail; /* tail: nullptr: not wanted; rows ld_dgate apart */
    int ld_b, ld_ds, rank;
    float scale;
};

/* What a lane reads at a time: 8 columns of rows r and r + 8. */
struct Values {
    hn_pack<Bf16> gate[2], up[2], dy[2];
};

__device__ __forceinline__ hn_pack<Bf16> load(const Bf16 *p, bool there)
{
    hn_pack<Bf16> v = {};
    if (there) v = hn_load_pack(p);
    return v;
}

__device__ __forceinline__ Values load(const Rows &a, int row, int col)
{
    Values v;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = row + 8 * i;
        const bool there = r < a.rows && col < a.cols;
        v.gate[i] = load(a.gate + at(r, a.ld_gate, col), there);
        v.up[i] = load(a.up + at(r, a.ld_up, col), there);
        v.dy[i] = load(a.dy + at(r, a.ld_dy, col), there);
    }
    return v;
}

/* v.gate becomes dgate, v.up dup, and all are written. */
__device__ __forceinline__ void work_out(const Rows &a, int row, int col, Values &v)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = row + 8 * i;
        float gate[HN_VEC], up[HN_VEC], dy[HN_VEC];
        hn_unpack(v.gate[i], gate);
        hn_unpack(v.up[i], up);
        hn_unpack(v.dy[i], dy);
#pragma unroll
        for (int k = 0; k < HN_VEC; k++) hn_swiglu_back<Bf16>(gate[k], up[k], dy[k]);
        v.gate[i] = hn_pack_of<Bf16>(up); /* hn_swiglu_back leaves dgate where up was */
        v.up[i] = hn_pack_of<Bf16>(gate);
        if (r >= a.rows || col >= a.cols) continue;
        hn_store_pack(a.dgate + at(r, a.ld_dgate, col), v.gate[i]);
        hn_store_pack(a.dup + at(r, a.ld_dgate, col), v.up[i]);
        if (a.h != nullptr) hn_store_pack(a.h + at(r, a.ld_h, col), hn_pack_of<Bf16>(dy));
    }
}

/* Row k of 32 rows of B goes here: with k = 8 q + 4 s + 2 h + e, lane q of a row has the values for
 * it in word 2 s + h of its 8 columns, which is the place of row 8 h + 2 q + e of product s. */
__device__ __forceinline__ uint32_t place_of(uint32_t k)
{
    const uint32_t q = k / 8, s = k / 4 % 2, h = k / 2 % 2, e = k % 2;
    return 16 * s + 8 * h + 2 * q + e;
}

/* Starts copying the rows of B for columns col0 .. col0 + kCols - 1 of gate, then those of up;
 * zeros where there is no column. */
template <class L>
__device__ __forceinline__ void copy_b(const Product &p, int cols, Bf16 *tile, int col0)
{
    constexpr uint32_t kPieces = L::kRank / 8, kAll = 2 * L::kCols * kPieces;
    static_assert(kAll % kThreads == 0, "every thread copies the same number of pieces");
    const uint32_t to = hn_shared_address_(tile), left = (uint32_t)(cols - col0);
#pragma unroll 4
    for (uint32_t n = 0; n < kAll / kThreads; n++) {
        const uint32_t piece = n * kThreads + threadIdx.x;
        const uint32_t row = piece / kPieces, r = piece % kPieces * 8;
        const uint32_t k = row % L::kCols, half = row / L::kCols;
        const bool there = k < left && r < (uint32_t)p.rank;
        const uint32_t place = half * L::kCols + k / kStep * kStep + place_of(k % kStep);
        hn_copy16_(to + (place * L::kLd + r) * 2,
                   there ? p.b + at((int)half * cols + col0 + (int)k, p.ld_b, (int)r) : p.b, there);
    }
}

/* c += v[16, 32] b[32, kRank] */
template <class L, int kTiles>
__device__ __forceinline__ void multiply(const hn_pack<Bf16> (&v)[2], const Bf16 *b,
                                         float (&c)[2 * kTiles][4])
{
    const uint4 one = v[0].word[0], other = v[1].word[0];
    const uint32_t x[2][4] = {{one.x, other.x, one.y, other.y}, {one.z, other.z, one.w, other.w}};
#pragma unroll
    for (int s = 0; s < 2; s++)
#pragma unroll
        for (int n = 0; n < kTiles; n++) {
            uint32_t y[4];
            hn_ldmatrix_b_cols_<L::kLd>(y, b + 16 * s * L::kLd + 16 * n);
            hn_mma_(c[2 * n], x[s], y[0], y[1]);
            hn_mma_(c[2 * n + 1], x[s], y[2], y[3]);
        }
}

/* The sums of the warps that share rows, in order, times scale, rounded. */
template <class L>
__device__ __forceinline__ void store(const Product &p, const float *sums, int row0, int rows,
                                      int ld_tail)
{
    const int pieces = p.rank / 8;
    for (int piece = (int)threadIdx.x; piece < L::kRows * pieces; piece += kThreads) {
        const int r = piece / pieces, col = piece % pieces * 8;
        if (row0 + r >= rows) return;
        float v[HN_VEC] = {};
        for (int g = 0; g < L::kColWarps; g++)
#pragma unroll
            for (int j = 0; j < HN_VEC; j++) v[j] += sums[(g * L::kRows + r) * L::kSumLd + col + j];
#pragma unroll
        for (int j = 0; j < HN_VEC; j++) v[j] *= p.scale;
        const hn_pack<Bf16> ds = hn_pack_of<Bf16>(v);
        hn_store_pack(p.ds + at(row0 + r, p.ld_ds, col), ds);
        if (p.tail != nullptr) hn_store_pack(p.tail + at(row0 + r, ld_tail, col), ds);
    }
}

template <int kRowWarps, int kTiles>
__global__ void __launch_bounds__(kThreads, 2) swiglu_ds_kernel(const Rows a, const Product p)
{
    using L = Layout<kRowWarps, kTiles>;
    extern __shared__ __align__(16) Bf16 tiles[];
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int warp_row = warp % kRowWarps * 16, group = warp / kRowWarps;
    const int row0 = (int)blockIdx.x * L::kRows; /* below rows */
    int row = row0 + warp_row + lane / 4;
    constexpr int kStride = kStep * L::kColWarps; /* from one step of a warp to its next */
    int col = group * kStep + lane % 4 * 8;
    float c[2 * kTiles][4] = {};

    copy_b<L>(p, a.cols, tiles, 0);
    hn_copy_commit_();
    Values next = load(a, row, col);
    int now = 0;
    for (int col0 = 0; col0 < a.cols; col0 += L::kCols, now ^= 1) {
        hn_copy_wait_<0>();
        __syncthreads(); /* everybody's copies are there, and the other tile is done with */
        if (col0 + L::kCols < a.cols)
            copy_b<L>(p, a.cols, tiles + (now ^ 1) * L::kTile, col0 + L::kCols);
        hn_copy_commit_();
        const Bf16 *b = tiles + now * L::kTile + group * kStep * L::kLd;
#pragma unroll 1
        for (int step = 0; step < L::kSteps; step++) {
            asm volatile("" : "+r"(row)); /* addresses are made anew: see at() */
            Values v = next;
            next = load(a, row, col + kStride); /* ahead of stores: outputs may lie on inputs */
            work_out(a, row, col, v);
            multiply<L, kTiles>(v.gate, b, c);
            multiply<L, kTiles>(v.up, b + L::kCols * L::kLd, c);
            col += kStride;
            b += kStride * L::kLd;
        }
    }

    __syncthreads(); /* the sums lie where B was */
    float *const sums = reinterpret_cast<float *>(tiles);
    float *const mine = sums + (group * L::kRows + warp_row + lane / 4) * L::kSumLd + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < 2 * kTiles; n++) {
        *reinterpret_cast<float2 *>(mine + 8 * n) = make_float2(c[n][0], c[n][1]);
        *reinterpret_cast<float2 *>(mine + 8 * L::kSumLd + 8 * n) = make_float2(c[n][2], c[n][3]);
    }
    __syncthreads();
    store<L>(p, sums, row0, a.rows, a.ld_dgate);
}

template <int kRowWarps, int kTiles>
hn_status launch(const Rows &a, const Product &p, hn_stream stream)
{
    using L = Layout<kRowWarps, kTiles>;
    const auto kernel = swiglu_ds_kernel<kRowWarps, kTiles>;
    HN_TRY(HN_CUDA(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes)));
    kernel<<<hn_grid(a.rows, L::kRows, INT32_MAX), kThreads, L::kBytes, stream>>>(a, p);
    return HN_CUDA_LAUNCHED("swiglu_ds");
}

template <int kRowWarps>
hn_status launch(const Rows &a, const Product &p, hn_stream stream)
{
    switch ((p.rank + 15) / 16) {
    case 1: return launch<kRowWarps, 1>(a, p, stream);
    case 2: return launch<kRowWarps, 2>(a, p, stream);
    case 3: return launch<kRowWarps, 3>(a, p, stream);
    default: return launch<kRowWarps, 4>(a, p, stream);
    }
}

hn_status attribute(cudaDeviceAttr what, int *out)
{
    int device = 0;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    return HN_CUDA(cudaDeviceGetAttribute(out, what, device));
}

bool aligned(const void *p, int64_t ld) { return hn_vectors_fit(p, ld, HN_BF16); }

/* Below 8 rows an SM too few blocks would wait for memory: two kernels are faster. */
hn_status fits(const hn_swiglu_ds_args *a, int sms, bool *out)
{
    const hn_swiglu_bwd_args *s = &a->swiglu;
    int bytes = 0;
    *out = false;
    if (s->dtype != HN_BF16 || a->rank % 8 != 0 || a->rank > kMostRank || s->cols % 8 != 0 ||
        s->rows < (int64_t)sms * 8 || s->rows > kMost || s->cols > kMost)
        return HN_OK;
    if (!aligned(s->gate, s->ld_gate) || !aligned(s->up, s->ld_up) || !aligned(s->dy, s->ld_dy) ||
        !aligned(s->dgate, s->ld_dgate) || !aligned(s->h, s->ld_h) || !aligned(a->b, a->ld_b) ||
        !aligned(a->ds, a->ld_ds))
        return HN_OK;
    HN_TRY(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &bytes));
    *out = bytes >= kMostBytes;
    return HN_OK;
}

Rows rows_of(const hn_swiglu_bwd_args *s)
{
    Rows r = {};
    r.gate = static_cast<const Bf16 *>(s->gate), r.ld_gate = (int)s->ld_gate;
    r.up = static_cast<const Bf16 *>(s->up), r.ld_up = (int)s->ld_up;
    r.dy = static_cast<const Bf16 *>(s->dy), r.ld_dy = (int)s->ld_dy;
    r.dgate = static_cast<Bf16 *>(s->dgate), r.dup = static_cast<Bf16 *>(s->dup);
    r.ld_dgate = (int)s->ld_dgate;
    r.h = static_cast<Bf16 *>(s->h), r.ld_h = (int)s->ld_h;
    r.rows = (int)s->rows, r.cols = (int)s->cols;
    return r;
}

Product product_of(const hn_swiglu_ds_args *a)
{
    Product p = {};
    p.b = static_cast<const Bf16 *>(a->b), p.ld_b = (int)a->ld_b;
    p.ds = static_cast<Bf16 *>(a->ds), p.ld_ds = (int)a->ld_ds;
    if (a->tail >= a->rank) p.tail = static_cast<Bf16 *>(a->swiglu.dup) + a->swiglu.cols;
    p.rank = (int)a->rank, p.scale = a->scale;
    return p;
}

/* The second half by itself: ds alone, of dy = [dgate | dup]. */
hn_lowrank_linear_dx_args rest_of(const hn_swiglu_ds_args *a)
{
    hn_lowrank_linear_dx_args l = {};
    l.dy = a->swiglu.dgate, l.ld_dy = a->swiglu.ld_dgate, l.dy_tail = a->tail;
    l.b = a->b, l.ld_b = a->ld_b, l.ds = a->ds, l.ld_ds = a->ld_ds;
    l.rows = a->swiglu.rows, l.out = 2 * a->swiglu.cols, l.rank = a->rank;
    l.dtype = a->swiglu.dtype, l.scale = a->scale;
    return l;
}

hn_status check_places(const hn_swiglu_bwd_args *s)
{
    const char *right =
        static_cast<const char *>(s->dgate) + (size_t)s->cols * hn_dtype_size(s->dtype);
    if (s->dup == right && s->ld_dup == s->ld_dgate && s->ld_dup >= 2 * s->cols) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "swiglu_ds: on CUDA dup has to lie right of dgate");
}

} // namespace

/* The tallest blocks of which there is one an SM, at least. */
hn_status hn_swiglu_ds_cuda(const hn_swiglu_ds_args *a, hn_gemm_cuda *gemm, hn_stream stream)
{
    HN_TRY(hn_swiglu_ds_check(a));
    HN_TRY(check_places(&a->swiglu));
    const hn_swiglu_bwd_args *s = &a->swiglu;
    int sms = 0;
    bool one_kernel = false;
    HN_TRY(attribute(cudaDevAttrMultiProcessorCount, &sms));
    HN_TRY(fits(a, sms, &one_kernel));
    if (!one_kernel) {
        const hn_lowrank_linear_dx_args rest = rest_of(a);
        HN_TRY(hn_swiglu_bwd_cuda(s, stream));
        return hn_lowrank_linear_dx_cuda(&rest, gemm, nullptr, stream);
    }
    const Rows rows = rows_of(s);
    const Product product = product_of(a);
    if (s->rows > (int64_t)sms * 64) return launch<4>(rows, product, stream);
    return s->rows > (int64_t)sms * 32 ? launch<2>(rows, product, stream)
                                       : launch<1>(rows, product, stream);
}
