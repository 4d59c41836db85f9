/* cuda_attention_mma.h - bf16 tiles in shared memory and on the tensor cores (sm_80 and later).
 * For the .cu files of this folder only.
 *
 * Products are mma.m16n8k16 (runtime/base/cuda_mma.h says what a lane holds of A, B and C), so that
 * two neighbouring C tiles, rounded to bf16, are an A tile.
 */
#ifndef HN_CUDA_ATTENTION_MMA_H
#define HN_CUDA_ATTENTION_MMA_H
#include "kernels/attention/cuda_attention.h"
#include "runtime/base/cuda_mma.h"

/* For checked bf16 arguments with head_dim = value_dim = 64 or 128, pointers on 16-byte boundaries
 * and leading dimensions that are multiples of 8. */
hn_status hn_attention_fwd_mma_(const hn_attention_args *a, hn_stream stream);
hn_status hn_attention_bwd_mma_(const hn_attention_args *a, const float *delta, hn_stream stream);

/* Tiles in shared memory: rows of kDim values and 8 more, so that 8 rows lie in different banks. */
template <int kDim>
struct HnTile_ {
    static constexpr int kLd = kDim + 8;
    static constexpr int kVecs = kDim / 8; /* 16-byte pieces of a row */
};

/* Starts copying kRows rows of kDim values; rows from `rows` on become zeros. */
template <int kRows, int kDim, int kThreads>
static __device__ __forceinline__ void hn_copy_tile_(__nv_bfloat16 *tile, const __nv_bfloat16 *x,
                                                     int64_t ld, int rows)
{
    constexpr int kVecs = HnTile_<kDim>::kVecs;
    static_assert(kRows * kVecs % kThreads == 0, "every thread copies the same number of pieces");
#pragma unroll
    for (int n = 0; n < kRows * kVecs / kThreads; n++) {
        const int at = n * kThreads + (int)threadIdx.x, r = at / kVecs, c = at % kVecs * 8;
        hn_copy16_(hn_shared_address_(tile + r * HnTile_<kDim>::kLd + c),
                   x + (r < rows ? r : 0) * ld + c, r < rows);
    }
}

/* A: rows 0 .. 15, columns 0 .. 15 of the tile at p. */
template <int kDim>
static __device__ __forceinline__ void hn_load_a_(uint32_t a[4], const __nv_bfloat16 *p)
{
    const int lane = threadIdx.x % 32;
    hn_ldmatrix_(a, p + lane % 16 * HnTile_<kDim>::kLd + lane / 16 * 8);
}

/* Two B tiles (b[0], b[1] and b[2], b[3]) with B[k][n] = x[n][k]: rows 0 .. 15, columns 0 .. 15. */
template <int kDim>
static __device__ __forceinline__ void hn_load_b_rows_(uint32_t b[4], const __nv_bfloat16 *x)
{
    const int lane = threadIdx.x % 32;
    hn_ldmatrix_(b, x + (lane % 8 + lane / 16 * 8) * HnTile_<kDim>::kLd + lane / 8 % 2 * 8);
}

/* The same with B[k][n] = x[k][n]. */
template <int kDim>
static __device__ __forceinline__ void hn_load_b_cols_(uint32_t b[4], const __nv_bfloat16 *x)
{
    const int lane = threadIdx.x % 32;
    hn_ldmatrix_trans_(b, x + lane % 16 * HnTile_<kDim>::kLd + lane / 16 * 8);
}

/* c[16, kRows] += x[16, kDim] y[kRows, kDim]^T; x: the warp's 16 rows of a tile. */
template <int kRows, int kDim>
static __device__ __forceinline__ void hn_mma_nt_(float (*c)[4], const __nv_bfloat16 *x,
                                                  const __nv_bfloat16 *y)
{
#pragma unroll
    for (int k = 0; k < kDim; k += 16) {
        uint32_t a[4], b[4];
        hn_load_a_<kDim>(a, x + k);
#pragma unroll
        for (int n = 0; n < kRows; n += 16) {
            hn_load_b_rows_<kDim>(b, y + n * HnTile_<kDim>::kLd + k);
            hn_mma_(c[n / 8], a, b[0], b[1]);
            hn_mma_(c[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

/* c[16, kDim] += bf16(w)[16, kRows] y[kRows, kDim]; w: as another product left it. */
template <int kRows, int kDim>
static __device__ __forceinline__ void hn_mma_weighted_(float (*c)[4], const float (*w)[4],
                                                        const __nv_bfloat16 *y)
{
#pragma unroll
    for (int k = 0; k < kRows; k += 16) {
        const float *w0 = w[k / 8], *w1 = w[k / 8 + 1];
        const uint32_t a[4] = {hn_pack_bf16_(w0[0], w0[1]), hn_pack_bf16_(w0[2], w0[3]),
                               hn_pack_bf16_(w1[0], w1[1]), hn_pack_bf16_(w1[2], w1[3])};
        uint32_t b[4];
#pragma unroll
        for (int n = 0; n < kDim; n += 16) {
            hn_load_b_cols_<kDim>(b, y + k * HnTile_<kDim>::kLd + n);
            hn_mma_(c[n / 8], a, b[0], b[1]);
            hn_mma_(c[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

/* 2^x of the special function unit: 2 ulp, and 0 below 2^-126. */
static __device__ __forceinline__ float hn_exp2_(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

template <int kTiles>
static __device__ __forceinline__ void hn_mma_clear_(float (*c)[4])
{
#pragma unroll
    for (int n = 0; n < kTiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) c[n][e] = 0.0f;
}

/* The warp's 16 rows of kDim columns, of which `rows` exist; row r times factor0, r + 8 times
 * factor1 (r = lane / 4). */
template <int kDim>
static __device__ __forceinline__ void hn_mma_store_(__nv_bfloat16 *y, int64_t ld, int rows,
                                                     const float (*c)[4], float factor0,
                                                     float factor1)
{
    const int r = threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < kDim / 8; n++) {
        if (r < rows)
            *reinterpret_cast<uint32_t *>(y + r * ld + 8 * n + col) =
                hn_pack_bf16_(c[n][0] * factor0, c[n][1] * factor0);
        if (r + 8 < rows)
            *reinterpret_cast<uint32_t *>(y + (r + 8) * ld + 8 * n + col) =
                hn_pack_bf16_(c[n][2] * factor1, c[n][3] * factor1);
    }
}
#endif
