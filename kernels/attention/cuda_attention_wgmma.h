/* cuda_attention_wgmma.h - bf16 tiles in shared memory for the asynchronous tensor core
 * instructions of sm_90a. For the .cu files of this folder only.
 *
 * wgmma.m64nNk16: a warpgroup (4 warps) multiplies A [64, 16] by B [16, N] and adds to C [64, N].
 * Warp w of the group holds rows 16 w .. 16 w + 15 of C, and of A if that is in registers, in the
 * pieces of mma.m16n8k16 (cuda_attention_mma.h). B, and A otherwise, come from shared memory, which
 * the tensor cores read themselves: no loads, no registers, and all warps share one reading.
 *
 * A tile is cut in panels of 64 columns: rows of 128 bytes, of which piece c (16 bytes) lies at
 * c ^ (row % 8). That is the layout the instruction calls 128-byte swizzle, and serves both
 * products: x y^T, where columns are summed over, and w y, where rows are.
 */
#ifndef HN_CUDA_ATTENTION_WGMMA_H
#define HN_CUDA_ATTENTION_WGMMA_H
#include "kernels/attention/cuda_attention_mma.h"

/* Under the conditions of hn_attention_fwd_mma_, without softcap, with scale > 0, where this
 * program has code for sm_90a and the device runs it. */
hn_status hn_attention_fwd_wgmma_(const hn_attention_args *a, hn_stream stream);
hn_status hn_attention_bwd_wgmma_(const hn_attention_args *a, const float *delta, hn_stream stream);

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HN_WGMMA_CODE_ 1 /* elsewhere these kernels are empty and never launched */
#else
#define HN_WGMMA_CODE_ 0
#endif

constexpr int kHnPanel_ = 64;        /* columns of a panel */
constexpr int kHnPanelRow_ = 128;    /* its bytes a row */
constexpr int kHnSwizzle_ = 8 * 128; /* bytes after which the swizzle repeats: tiles begin on such
                                      * boundaries, and a kernel asks for that much more */

template <int kRows, int kDim>
constexpr int kHnTileBytes_ = kRows *kDim *(int)sizeof(__nv_bfloat16);

static __device__ __forceinline__ char *hn_swizzle_boundary_(char *shared)
{
    return shared + (-hn_shared_address_(shared) & (kHnSwizzle_ - 1));
}

/* Starts copying kRows rows of kDim values; rows from `rows` on become zeros. */
template <int kRows, int kDim, int kThreads>
static __device__ __forceinline__ void hn_copy_swizzled_(uint32_t tile, const __nv_bfloat16 *x,
                                                         int64_t ld, int rows)
{
    constexpr int kVecs = kDim / 8;
    static_assert(kRows * kVecs % kThreads == 0, "every thread copies the same number of pieces");
#pragma unroll
    for (int n = 0; n < kRows * kVecs / kThreads; n++) {
        const int at = n * kThreads + (int)threadIdx.x, r = at / kVecs, c = at % kVecs;
        hn_copy16_(tile + c / 8 * (kRows * kHnPanelRow_) + r * kHnPanelRow_ +
                       ((c % 8) ^ (r % 8)) * 16,
                   x + (r < rows ? r : 0) * ld + c * 8, r < rows);
    }
}

/* What this thread copied becomes visible to the tensor cores (after the next barrier, all). */
static __device__ __forceinline__ void hn_copies_to_wgmma_()
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

/* The same number in all lanes, and the compiler knows. */
static __device__ __forceinline__ int hn_warpgroup_()
{
    return __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
}

/* Before products whose registers were written by other instructions. */
static __device__ __forceinline__ void hn_wgmma_begin_()
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

static __device__ __forceinline__ void hn_wgmma_commit_()
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

/* Until at most kLeft of the groups of products are under way. */
template <int kLeft>
static __device__ __forceinline__ void hn_wgmma_wait_()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
}

/* The compiler must not move reads or writes of these registers across this place: products
 * under way use them, and it does not know. */
template <int kTiles>
static __device__ __forceinline__ void hn_wgmma_hold_(float (*c)[4])
{
#pragma unroll
    for (int n = 0; n < kTiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) asm volatile("" : "+f"(c[n][e])::"memory");
}

template <int kTiles>
static __device__ __forceinline__ void hn_wgmma_hold_(uint32_t (*w)[4])
{
#pragma unroll
    for (int n = 0; n < kTiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) asm volatile("" : "+r"(w[n][e])::"memory");
}

/* Describes a matrix at an address of shared memory, in 16-byte units: 8 rows are 1024 bytes
 * further each time, panels panel_bytes (which only matters where columns are not summed over). */
static __device__ __forceinline__ uint64_t hn_wgmma_matrix_(uint32_t address, uint32_t panel_bytes)
{
    const uint32_t low = (address & 0x3ffffu) >> 4 | panel_bytes >> 4 << 16;
    constexpr uint32_t kHigh = kHnSwizzle_ >> 4 | 1u << 30; /* 1: 128-byte swizzle */
    return (uint64_t)kHigh << 32 | low;
}

/* clang-format off */
#define HN_WGMMA_TILE_(c, n) "+f"((c)[n][0]), "+f"((c)[n][1]), "+f"((c)[n][2]), "+f"((c)[n][3])
#define HN_WGMMA_8_TILES_(c, n)                                                     \
    HN_WGMMA_TILE_(c, n), HN_WGMMA_TILE_(c, n + 1), HN_WGMMA_TILE_(c, n + 2),       \
    HN_WGMMA_TILE_(c, n + 3), HN_WGMMA_TILE_(c, n + 4), HN_WGMMA_TILE_(c, n + 5),   \
    HN_WGMMA_TILE_(c, n + 6), HN_WGMMA_TILE_(c, n + 7)

#define HN_WGMMA_C64_ \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define HN_WGMMA_C128_ \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
/* clang-format on */

/* c[64, N] = A B + (keep ? c : 0). ss: A from shared memory; rs: from registers. B[k][n] = y[n][k],
 * with kColumns y[k][n]. */
template <int kN>
struct HnWgmma_;

template <>
struct HnWgmma_<64> {
    template <int kColumns>
    static __device__ __forceinline__ void ss(float (*c)[4], uint64_t a, uint64_t b, int keep)
    {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; "
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " HN_WGMMA_C64_
                     "%32, %33, p, 1, 1, 0, %35;}\n"
                     : HN_WGMMA_8_TILES_(c, 0)
                     : "l"(a), "l"(b), "r"(keep), "n"(kColumns));
    }

    template <int kColumns>
    static __device__ __forceinline__ void rs(float (*c)[4], const uint32_t a[4], uint64_t b,
                                              int keep)
    {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0; "
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " HN_WGMMA_C64_
                     "{%32, %33, %34, %35}, %36, p, 1, 1, %38;}\n"
                     : HN_WGMMA_8_TILES_(c, 0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep),
                       "n"(kColumns));
    }
};

template <>
struct HnWgmma_<128> {
    template <int kColumns>
    static __device__ __forceinline__ void ss(float (*c)[4], uint64_t a, uint64_t b, int keep)
    {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; "
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " HN_WGMMA_C128_
                     "%64, %65, p, 1, 1, 0, %67;}\n"
                     : HN_WGMMA_8_TILES_(c, 0), HN_WGMMA_8_TILES_(c, 8)
                     : "l"(a), "l"(b), "r"(keep), "n"(kColumns));
    }

    template <int kColumns>
    static __device__ __forceinline__ void rs(float (*c)[4], const uint32_t a[4], uint64_t b,
                                              int keep)
    {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0; "
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " HN_WGMMA_C128_
                     "{%64, %65, %66, %67}, %68, p, 1, 1, %70;}\n"
                     : HN_WGMMA_8_TILES_(c, 0), HN_WGMMA_8_TILES_(c, 8)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep),
                       "n"(kColumns));
    }
};

/* Begins c[64, kN] = x[64, kDim] y[kN, kDim]^T. x: 64 rows of a tile of kXRows; y: a tile. */
template <int kN, int kDim, int kXRows>
static __device__ __forceinline__ void hn_wgmma_nt_(float (*c)[4], uint32_t x, uint32_t y)
{
#pragma unroll
    for (int k = 0; k < kDim; k += 16) {
        const int panel = k / kHnPanel_ * kHnPanelRow_, in_panel = k % kHnPanel_ * 2;
        HnWgmma_<kN>::template ss<0>(c, hn_wgmma_matrix_(x + panel * kXRows + in_panel, 0),
                                     hn_wgmma_matrix_(y + panel * kN + in_panel, 0), k > 0);
    }
}

/* Begins c[64, kDim] += w[64, kRows] y[kRows, kDim]; y: a tile. */
template <int kRows, int kDim>
static __device__ __forceinline__ void hn_wgmma_weighted_(float (*c)[4], const uint32_t (*w)[4],
                                                          uint32_t y)
{
#pragma unroll
    for (int k = 0; k < kRows; k += 16)
        HnWgmma_<kDim>::template rs<1>(
            c, w[k / 16], hn_wgmma_matrix_(y + k * kHnPanelRow_, kRows * kHnPanelRow_), 1);
}

/* Two neighbouring tiles of C, rounded, are one of A. */
template <int kTiles>
static __device__ __forceinline__ void hn_wgmma_pack_(uint32_t (*w)[4], const float (*c)[4])
{
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
        w[n / 2][0] = hn_pack_bf16_(c[n][0], c[n][1]);
        w[n / 2][1] = hn_pack_bf16_(c[n][2], c[n][3]);
        w[n / 2][2] = hn_pack_bf16_(c[n + 1][0], c[n + 1][1]);
        w[n / 2][3] = hn_pack_bf16_(c[n + 1][2], c[n + 1][3]);
    }
}

/* c = value outside first[i] <= column < last[i], in the lane's rows r (i = 0) and r + 8 (1) of the
 * warp's 16; c begins at column j0. */
template <int kTiles>
static __device__ __forceinline__ void hn_mask_columns_(float (*c)[4], int j0, const int first[2],
                                                        const int last[2], float value)
{
#pragma unroll
    for (int n = 0; n < kTiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int j = j0 + 8 * n + (int)threadIdx.x % 4 * 2 + e % 2;
            if (j < first[e / 2] || j >= last[e / 2]) c[n][e] = value;
        }
}
#endif
