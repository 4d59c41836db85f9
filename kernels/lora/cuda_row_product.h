/* cuda_row_product.h - a kernel that works out rows and multiplies them by a narrow matrix before
 * they leave its registers (bf16; for the .cu files of this folder only).
 *
 *   ds[i,r] = round(scale * sum_k v[i,k] b[k,r])                     b[r,k] unless Op::kByColumns
 *
 * A warp has 16 rows; a lane works out 8 neighbouring columns of two of them at a time, loading the
 * next ones meanwhile. Rounded, these values already lie in the lanes as an operand of the tensor
 * cores if the 32 columns of a step are counted in another order, which only b, coming through
 * shared memory, has to follow.
 *
 * Of the traffic at most two thirds are reads, so that 13 to 17 KB under way an SM keep memory busy
 * (skinny_cuda.cu); a warp has 2 or 3, and 16 of them fit into the registers of an SM. b is read
 * once a block, from L2.
 *
 * Op says what is worked out:
 *   kHalves        v is so many matrices [rows, cols] side by side
 *   kByColumns     how b lies
 *   rows, cols     below 2^30
 *   Values         what a lane reads at a time, of rows row and row + 8, columns col .. col + 7
 *   load           reads it; zeros where there is no such row or column
 *   work_out       writes all results; half(values, h) is then half h of v, rounded
 */
#ifndef HN_CUDA_ROW_PRODUCT_H
#define HN_CUDA_ROW_PRODUCT_H
#include "runtime/base/cuda_mma.h"
#include "runtime/base/cuda_vec.h"

constexpr int kHnRowThreads_ = 256;
constexpr int kHnRowWarps_ = kHnRowThreads_ / 32;
constexpr int kHnRowStep_ = 32; /* columns of a warp at a time: 4 lanes with 8 */
constexpr int kHnMostRank_ = 64;
constexpr int kHnMostBytes_ = 227 << 10; /* of shared memory a block of sm_90 */

struct hn_row_product {
    const __nv_bfloat16 *b;
    __nv_bfloat16 *s, *tail; /* tail: nullptr: not wanted */
    int ld_b, ld_s, ld_tail, rank;
    float scale;
};

/* Where column col of a row lies. One wide product: the two dozen registers that the addresses of
 * all operands would take from step to step are worth more than the instructions. */
static __device__ __forceinline__ int64_t hn_row_at_(int row, int ld, int col)
{
    return (int64_t)row * ld + col;
}

static __device__ __forceinline__ hn_pack<__nv_bfloat16> hn_row_load_(const __nv_bfloat16 *p,
                                                                      bool there)
{
    hn_pack<__nv_bfloat16> v = {};
    if (there) v = hn_load_pack(p);
    return v;
}

/* 16 rows times kWarpsDown of a block, 16 columns of s times kTiles. */
template <class Op, int kWarpsDown, int kTiles>
struct HnRowLayout_ {
    static constexpr int kRows = 16 * kWarpsDown, kWarpsAcross = kHnRowWarps_ / kWarpsDown;
    static constexpr int kRank = 16 * kTiles;
    /* Columns for which b is there at a time: two of these tiles, and two blocks, fit in an SM,
     * except where one warp has all rows of a rank above 32. */
    static constexpr int kCols = kWarpsDown == 1 || kTiles <= 2 || !Op::kByColumns ? 256 : 128;
    /* Lanes that read together find their rows in different banks. */
    static constexpr int kLd = Op::kByColumns ? kRank + 8 : kCols + 32;
    static constexpr int kNext = Op::kByColumns ? kLd : 1; /* from one column of v to the next */
    static constexpr int kTile = Op::kByColumns ? Op::kHalves * kCols * kLd : kRank * kLd;
    static constexpr int kPieces = Op::kHalves * kCols * kRank / 8; /* of 16 bytes */
    static constexpr int kStride = kHnRowStep_ * kWarpsAcross; /* from a warp's step to its next */
    static constexpr int kSteps = kCols / kStride;
    static constexpr int kSumLd = kRank + 4;
    static constexpr int kBytes = 2 * kTile * (int)sizeof(__nv_bfloat16);
    static constexpr int kSumBytes = kWarpsAcross * kRows * kSumLd * (int)sizeof(float);
    static_assert(Op::kByColumns || Op::kHalves == 1, "rows of b are one matrix");
    static_assert(kSteps >= 1 && kBytes <= kHnMostBytes_, "every warp has work, and b fits");
    static_assert(kPieces % kHnRowThreads_ == 0, "every thread copies the same number of pieces");
    static constexpr int kShared = kBytes > kSumBytes ? kBytes : kSumBytes;
};

/* Row k of 32 rows of b goes here: with k = 8 q + 4 s + 2 h + e, lane q of a row has the values for
 * it in word 2 s + h of its 8 columns, which is the place of row 8 h + 2 q + e of product s. */
static __device__ __forceinline__ uint32_t hn_row_place_(uint32_t k)
{
    const uint32_t q = k / 8, s = k / 4 % 2, h = k / 2 % 2, e = k % 2;
    return 16 * s + 8 * h + 2 * q + e;
}

/* Starts copying b for columns col0 .. col0 + kCols - 1 of every half; zeros where there is none.
 */
template <class Op, class L>
static __device__ __forceinline__ void hn_row_copy_b_(const hn_row_product &p, int cols,
                                                      __nv_bfloat16 *tile, int col0)
{
    const uint32_t to = hn_shared_address_(tile), left = (uint32_t)(cols - col0);
#pragma unroll 4
    for (uint32_t n = 0; n < L::kPieces / kHnRowThreads_; n++) {
        const uint32_t piece = n * kHnRowThreads_ + threadIdx.x;
        if constexpr (Op::kByColumns) {
            const uint32_t row = piece / (L::kRank / 8), r = piece % (L::kRank / 8) * 8;
            const uint32_t k = row % L::kCols, half = row / L::kCols;
            const bool there = k < left && r < (uint32_t)p.rank;
            const uint32_t place =
                half * L::kCols + k / kHnRowStep_ * kHnRowStep_ + hn_row_place_(k % kHnRowStep_);
            const int from = (int)half * cols + col0 + (int)k;
            hn_copy16_(to + (place * L::kLd + r) * 2,
                       there ? p.b + hn_row_at_(from, p.ld_b, (int)r) : p.b, there);
        } else {
            const uint32_t r = piece / (L::kCols / 8), k = piece % (L::kCols / 8) * 8;
            const bool there = k < left && r < (uint32_t)p.rank;
            hn_copy16_(to + (r * L::kLd + k) * 2,
                       there ? p.b + hn_row_at_((int)r, p.ld_b, col0 + (int)k) : p.b, there);
        }
    }
}

/* c += v[16, 32] b[32, kRank] */
template <class Op, class L, int kTiles>
static __device__ __forceinline__ void hn_row_multiply_(const hn_pack<__nv_bfloat16> (&v)[2],
                                                        const __nv_bfloat16 *b,
                                                        float (&c)[2 * kTiles][4])
{
    const uint4 one = v[0].word[0], other = v[1].word[0];
    const uint32_t x[2][4] = {{one.x, other.x, one.y, other.y}, {one.z, other.z, one.w, other.w}};
    if constexpr (Op::kByColumns) {
#pragma unroll
        for (int s = 0; s < 2; s++)
#pragma unroll
            for (int n = 0; n < kTiles; n++) {
                uint32_t y[4];
                hn_ldmatrix_b_cols_<L::kLd>(y, b + 16 * s * L::kLd + 16 * n);
                hn_mma_(c[2 * n], x[s], y[0], y[1]);
                hn_mma_(c[2 * n + 1], x[s], y[2], y[3]);
            }
    } else {
        /* The lane of column n of s with the same 8 columns of b's row n as it has of v. */
        const int lane = (int)threadIdx.x % 32;
        const __nv_bfloat16 *const row = b + lane / 4 * L::kLd + lane % 4 * 8;
#pragma unroll
        for (int n = 0; n < 2 * kTiles; n++) {
            const uint4 y = *reinterpret_cast<const uint4 *>(row + 8 * n * L::kLd);
            hn_mma_(c[n], x[0], y.x, y.y);
            hn_mma_(c[n], x[1], y.z, y.w);
        }
    }
}

/* The sums of the warps that share rows, in order, times scale, rounded. */
template <class L>
static __device__ __forceinline__ void hn_row_store_(const hn_row_product &p, const float *sums,
                                                     int row0, int rows)
{
    const int pieces = p.rank / 8;
    for (int piece = (int)threadIdx.x; piece < L::kRows * pieces; piece += kHnRowThreads_) {
        const int r = piece / pieces, col = piece % pieces * 8;
        if (row0 + r >= rows) return;
        float v[HN_VEC] = {};
        for (int g = 0; g < L::kWarpsAcross; g++)
#pragma unroll
            for (int j = 0; j < HN_VEC; j++) v[j] += sums[(g * L::kRows + r) * L::kSumLd + col + j];
#pragma unroll
        for (int j = 0; j < HN_VEC; j++) v[j] *= p.scale;
        const hn_pack<__nv_bfloat16> s = hn_pack_of<__nv_bfloat16>(v);
        hn_store_pack(p.s + hn_row_at_(row0 + r, p.ld_s, col), s);
        if (p.tail != nullptr) hn_store_pack(p.tail + hn_row_at_(row0 + r, p.ld_tail, col), s);
    }
}

template <class Op, int kWarpsDown, int kTiles>
__global__ void __launch_bounds__(kHnRowThreads_, 2)
    hn_row_kernel_(const Op op, const hn_row_product p)
{
    using L = HnRowLayout_<Op, kWarpsDown, kTiles>;
    extern __shared__ __align__(16) __nv_bfloat16 hn_row_shared_[];
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int warp_row = warp % kWarpsDown * 16, group = warp / kWarpsDown;
    const int row0 = (int)blockIdx.x * L::kRows; /* below rows */
    int row = row0 + warp_row + lane / 4, col = group * kHnRowStep_ + lane % 4 * 8;
    float c[2 * kTiles][4] = {};

    hn_row_copy_b_<Op, L>(p, op.cols, hn_row_shared_, 0);
    hn_copy_commit_();
    typename Op::Values next = op.load(row, col);
    int now = 0;
    for (int col0 = 0; col0 < op.cols; col0 += L::kCols, now ^= 1) {
        hn_copy_wait_<0>();
        __syncthreads(); /* everybody's copies are there, and the other tile is done with */
        if (col0 + L::kCols < op.cols)
            hn_row_copy_b_<Op, L>(p, op.cols, hn_row_shared_ + (now ^ 1) * L::kTile,
                                  col0 + L::kCols);
        hn_copy_commit_();
        const __nv_bfloat16 *b = hn_row_shared_ + now * L::kTile + group * kHnRowStep_ * L::kNext;
#pragma unroll 1
        for (int step = 0; step < L::kSteps; step++) {
            asm volatile("" : "+r"(row)); /* addresses are made anew: see hn_row_at_ */
            typename Op::Values v = next;
            next = op.load(row, col + L::kStride); /* first: outputs may lie on inputs */
            op.work_out(row, col, v);
#pragma unroll
            for (int h = 0; h < Op::kHalves; h++)
                hn_row_multiply_<Op, L, kTiles>(Op::half(v, h), b + h * L::kCols * L::kLd, c);
            col += L::kStride;
            b += L::kStride * L::kNext;
        }
    }

    __syncthreads(); /* the sums lie where b was */
    float *const sums = reinterpret_cast<float *>(hn_row_shared_);
    float *const mine = sums + (group * L::kRows + warp_row + lane / 4) * L::kSumLd + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < 2 * kTiles; n++) {
        *reinterpret_cast<float2 *>(mine + 8 * n) = make_float2(c[n][0], c[n][1]);
        *reinterpret_cast<float2 *>(mine + 8 * L::kSumLd + 8 * n) = make_float2(c[n][2], c[n][3]);
    }
    __syncthreads();
    hn_row_store_<L>(p, sums, row0, op.rows);
}

template <class Op, int kWarpsDown, int kTiles>
static hn_status hn_row_launch_(const Op &op, const hn_row_product &p, cudaStream_t stream)
{
    using L = HnRowLayout_<Op, kWarpsDown, kTiles>;
    const auto kernel = hn_row_kernel_<Op, kWarpsDown, kTiles>;
    HN_TRY(HN_CUDA(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kShared)));
    kernel<<<hn_grid(op.rows, L::kRows, INT32_MAX), kHnRowThreads_, L::kShared, stream>>>(op, p);
    return HN_CUDA_LAUNCHED("row product");
}

template <class Op, int kWarpsDown>
static hn_status hn_row_launch_(const Op &op, const hn_row_product &p, cudaStream_t stream)
{
    switch ((p.rank + 15) / 16) {
    case 1: return hn_row_launch_<Op, kWarpsDown, 1>(op, p, stream);
    case 2: return hn_row_launch_<Op, kWarpsDown, 2>(op, p, stream);
    case 3: return hn_row_launch_<Op, kWarpsDown, 3>(op, p, stream);
    default: return hn_row_launch_<Op, kWarpsDown, 4>(op, p, stream);
    }
}

static inline hn_status hn_device_number_(cudaDeviceAttr what, int *out)
{
    int device = 0;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    return HN_CUDA(cudaDeviceGetAttribute(out, what, device));
}

/* Whether the kernel takes these shapes on this GPU; alignment is the caller's business. Below 8
 * rows an SM too few blocks would wait for memory: two kernels are faster. */
static inline hn_status hn_row_product_fits_(int64_t rows, int64_t cols, int64_t rank, bool *fits)
{
    const int64_t most = 1 << 30; /* leaves room to count past the end */
    int sms = 0, bytes = 0;
    *fits = false;
    if (rank % 8 != 0 || rank > kHnMostRank_ || cols % 8 != 0 || rows > most || cols > most)
        return HN_OK;
    HN_TRY(hn_device_number_(cudaDevAttrMultiProcessorCount, &sms));
    HN_TRY(hn_device_number_(cudaDevAttrMaxSharedMemoryPerBlockOptin, &bytes));
    *fits = rows >= (int64_t)sms * 8 && bytes >= kHnMostBytes_;
    return HN_OK;
}

/* The tallest blocks of which there is one an SM, at least. */
template <class Op>
static hn_status hn_row_product_(const Op &op, const hn_row_product &p, cudaStream_t stream)
{
    int sms = 0;
    HN_TRY(hn_device_number_(cudaDevAttrMultiProcessorCount, &sms));
    if (op.rows > (int64_t)sms * 64) return hn_row_launch_<Op, 4>(op, p, stream);
    return op.rows > (int64_t)sms * 32 ? hn_row_launch_<Op, 2>(op, p, stream)
                                       : hn_row_launch_<Op, 1>(op, p, stream);
}
#endif
