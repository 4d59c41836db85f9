/* A block has some rows of x and all columns of s; tiles of 128 columns of x and of a pass through
 * a ring in shared memory, all but one of its stages being copied while one is used. The products
 * run on the tensor cores. Where the rows of a block are too few for its warps, warps share rows
 * and split every tile by columns; their sums are added in order at the end.
 *
 * What counts is bytes under way: memory answers after 0.7 to 1 us, so that 4.3 TB/s take 3 to 4.3
 * MB, 24 to 33 KB an SM. Three stages of 128 rows are 96 KB, five of 64 are 80, seven of 16 are 28,
 * and as much of a as it takes. 256 bytes of a row at a time are two whole lines; few, tall blocks
 * read a less often: 128 times 1 MB at 16384 rows, against 537 MB of x. */
#include "kernels/lora/cuda_skinny.h"

#include "runtime/base/cuda_math.h"
#include "runtime/base/cuda_mma.h"

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kCols = 128;      /* of x, at a time */
constexpr int kXLd = kCols + 8; /* 16 bytes more: 8 rows lie in different banks */
constexpr int kMostRank = 64;
constexpr int kMostBytes = 227 << 10; /* of shared memory a block of sm_90 */

/* Rows of a block, 16 columns of s times kTiles, and which way a lies. */
template <int kRows, int kTiles, bool kByColumns>
struct Layout {
    static constexpr int kRank = 16 * kTiles;
    static constexpr int kALd = kByColumns ? kRank + 8 : kXLd;
    static constexpr int kX = kRows * kXLd; /* values of a stage: x, then a */
    static constexpr int kStage = kX + (kByColumns ? kCols : kRank) * kALd;
    static constexpr int kStages = kRows == 128 ? 4 : kRows == 64 ? 6 : 8;
    static constexpr int kRowWarps = kRows / 16, kGroups = kWarps / kRowWarps;
    static constexpr int kSumLd = kRank + 4;
    static constexpr int kBytes = kStages * kStage * (int)sizeof(__nv_bfloat16);
    static_assert(kBytes <= kMostBytes, "the ring fits");
    static_assert(kGroups * kRows * kSumLd * (int)sizeof(float) <= kBytes, "so do the sums");
};

/* This thread's pieces of 16 bytes of a stage; zeros where there is no row or column. */
template <int kRows, int kTiles, bool kByColumns>
__device__ __forceinline__ void copy_stage(const hn_skinny_args &a, __nv_bfloat16 *stage,
                                           int64_t row0, int64_t col0)
{
    using L = Layout<kRows, kTiles, kByColumns>;
    constexpr int kPieces = kCols / 8, kRowsAtOnce = kThreads / kPieces;
    const int row = (int)threadIdx.x / kPieces, col = (int)threadIdx.x % kPieces * 8;
    const bool inside = col0 + col < a.cols;
    const uint32_t to = hn_shared_address_(stage);
#pragma unroll
    for (int n = 0; n < kRows / kRowsAtOnce; n++) {
        const int r = n * kRowsAtOnce + row;
        const bool there = inside && row0 + r < a.rows;
        hn_copy16_(to + (uint32_t)(r * kXLd + col) * 2,
                   there ? a.x + (row0 + r) * a.ld_x + col0 + col : a.x, there);
    }
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
        if constexpr (kByColumns) {
            const int p = n * kThreads + (int)threadIdx.x, k = p / (2 * kTiles),
                      r = p % (2 * kTiles) * 8;
            const bool there = col0 + k < a.cols && r < a.rank;
            hn_copy16_(to + (uint32_t)(L::kX + k * L::kALd + r) * 2,
                       there ? a.a + (col0 + k) * a.ld_a + r : a.a, there);
        } else {
            const int r = n * kRowsAtOnce + row;
            const bool there = inside && r < a.rank;
            hn_copy16_(to + (uint32_t)(L::kX + r * L::kALd + col) * 2,
                       there ? a.a + r * a.ld_a + col0 + col : a.a, there);
        }
    }
}

/* c += this warp's part of the stage: 16 rows, every kGroups-th step of 16 columns. */
template <int kRows, int kTiles, bool kByColumns>
__device__ __forceinline__ void multiply(const __nv_bfloat16 *stage, int row, int group,
                                         float (&c)[2 * kTiles][4])
{
    using L = Layout<kRows, kTiles, kByColumns>;
#pragma unroll
    for (int step = 0; step < kCols / 16 / L::kGroups; step++) {
        const int k = (step * L::kGroups + group) * 16;
        uint32_t x[4], b[4];
        hn_ldmatrix_a_<kXLd>(x, stage + row * kXLd + k);
#pragma unroll
        for (int n = 0; n < kTiles; n++) {
            if constexpr (kByColumns)
                hn_ldmatrix_b_cols_<L::kALd>(b, stage + L::kX + k * L::kALd + n * 16);
            else
                hn_ldmatrix_b_rows_<L::kALd>(b, stage + L::kX + n * 16 * L::kALd + k);
            hn_mma_(c[2 * n], x, b[0], b[1]);
            hn_mma_(c[2 * n + 1], x, b[2], b[3]);
        }
    }
}

/* The sums of the groups in order, times scale, rounded, 8 columns at a time. */
template <class L, int kRows>
__device__ __forceinline__ void store(const hn_skinny_args &a, const float *sums, int64_t row0)
{
    const int pieces = (int)a.rank / 8;
    for (int p = (int)threadIdx.x; p < kRows * pieces; p += kThreads) {
        const int r = p / pieces, col = p % pieces * 8;
        if (row0 + r >= a.rows) return;
        float v[8] = {};
        for (int g = 0; g < L::kGroups; g++)
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] += sums[(g * kRows + r) * L::kSumLd + col + j];
        const uint4 s = {hn_pack_bf16_(a.scale * v[0], a.scale * v[1]),
                         hn_pack_bf16_(a.scale * v[2], a.scale * v[3]),
                         hn_pack_bf16_(a.scale * v[4], a.scale * v[5]),
                         hn_pack_bf16_(a.scale * v[6], a.scale * v[7])};
        *reinterpret_cast<uint4 *>(a.s + (row0 + r) * a.ld_s + col) = s;
        if (a.tail != nullptr)
            *reinterpret_cast<uint4 *>(a.tail + (row0 + r) * a.ld_tail + col) = s;
    }
}

template <int kRows, int kTiles, bool kByColumns>
__global__ void __launch_bounds__(kThreads, 1) skinny_kernel(const hn_skinny_args a)
{
    using L = Layout<kRows, kTiles, kByColumns>;
    extern __shared__ __align__(16) __nv_bfloat16 ring[];
    const int64_t row0 = (int64_t)blockIdx.x * kRows;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int row = warp % L::kRowWarps * 16, group = warp / L::kRowWarps;
    const int tiles = (int)((a.cols + kCols - 1) / kCols);
    float c[2 * kTiles][4] = {};

    /* A commit without copies keeps the count of groups. */
    for (int t = 0; t < L::kStages - 1; t++) {
        if (t < tiles)
            copy_stage<kRows, kTiles, kByColumns>(a, ring + t * L::kStage, row0,
                                                  (int64_t)t * kCols);
        hn_copy_commit_();
    }
    int now = 0, next = L::kStages - 1; /* stages: used, and copied to */
    for (int t = 0; t < tiles; t++) {
        hn_copy_wait_<L::kStages - 2>();
        __syncthreads(); /* everybody's copies of tile t are there, and tile t - 1 is done with */
        if (t + L::kStages - 1 < tiles)
            copy_stage<kRows, kTiles, kByColumns>(a, ring + next * L::kStage, row0,
                                                  (int64_t)(t + L::kStages - 1) * kCols);
        hn_copy_commit_();
        multiply<kRows, kTiles, kByColumns>(ring + now * L::kStage, row, group, c);
        now = now + 1 == L::kStages ? 0 : now + 1;
        next = next + 1 == L::kStages ? 0 : next + 1;
    }

    __syncthreads(); /* the sums lie where the ring was */
    float *const sums = reinterpret_cast<float *>(ring);
    float *const mine = sums + (group * kRows + row + lane / 4) * L::kSumLd + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < 2 * kTiles; n++) {
        *reinterpret_cast<float2 *>(mine + 8 * n) = make_float2(c[n][0], c[n][1]);
        *reinterpret_cast<float2 *>(mine + 8 * L::kSumLd + 8 * n) = make_float2(c[n][2], c[n][3]);
    }
    __syncthreads();
    store<L, kRows>(a, sums, row0);
}

template <int kRows, int kTiles, bool kByColumns>
hn_status launch(const hn_skinny_args *a, hn_stream stream)
{
    constexpr int kBytes = Layout<kRows, kTiles, kByColumns>::kBytes;
    const auto kernel = skinny_kernel<kRows, kTiles, kByColumns>;
    HN_TRY(
        HN_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes)));
    kernel<<<hn_grid(a->rows, kRows, INT32_MAX), kThreads, kBytes, stream>>>(*a);
    return HN_CUDA_LAUNCHED("skinny");
}

template <int kRows, int kTiles>
hn_status launch(const hn_skinny_args *a, hn_stream stream)
{
    return a->by_columns ? launch<kRows, kTiles, true>(a, stream)
                         : launch<kRows, kTiles, false>(a, stream);
}

template <int kRows>
hn_status launch(const hn_skinny_args *a, hn_stream stream)
{
    switch ((a->rank + 15) / 16) {
    case 1: return launch<kRows, 1>(a, stream);
    case 2: return launch<kRows, 2>(a, stream);
    case 3: return launch<kRows, 3>(a, stream);
    default: return launch<kRows, 4>(a, stream);
    }
}

hn_status attribute(cudaDeviceAttr what, int *out)
{
    int device = 0;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    return HN_CUDA(cudaDeviceGetAttribute(out, what, device));
}

bool aligned(const void *p, int64_t ld) { return (uintptr_t)p % 16 == 0 && ld % 8 == 0; }

} // namespace

hn_status hn_skinny_fits_(const hn_skinny_args *a, bool *fits)
{
    int bytes = 0;
    *fits = false;
    if (a->rank % 8 != 0 || a->rank > kMostRank || a->cols % 8 != 0 || !aligned(a->x, a->ld_x) ||
        !aligned(a->a, a->ld_a) || !aligned(a->s, a->ld_s) ||
        (a->tail != nullptr && !aligned(a->tail, a->ld_tail)))
        return HN_OK;
    HN_TRY(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &bytes));
    *fits = bytes >= kMostBytes;
    return HN_OK;
}

/* The tallest blocks of which there is one for every other SM. */
hn_status hn_skinny_(const hn_skinny_args *a, hn_stream stream)
{
    int sms = 0;
    HN_TRY(attribute(cudaDevAttrMultiProcessorCount, &sms));
    if (a->rows > (int64_t)sms * 64) return launch<128>(a, stream);
    return a->rows > (int64_t)sms * 16 ? launch<64>(a, stream) : launch<16>(a, stream);
}
