/* cuda_attention_mma.h - bf16 tiles in shared memory and on the tensor cores (sm_80 and later).
 * For the .cu files of this folder only.
 *
 * Products are mma.m16n8k16: a warp multiplies A [16, 16] by B [16, 8] and adds to C [16, 8].
 * With r = lane / 4 and c = 2 (lane % 4), a lane holds
 *   A  rows r and r + 8, columns c, c + 1, c + 8, c + 9, as 4 pairs: a[0] row r columns c and
 *      c + 1; a[1] row r + 8; a[2] row r columns c + 8 and c + 9; a[3] row r + 8
 *   B  column r, rows c, c + 1 (b[0]) and c + 8, c + 9 (b[1])
 *   C  rows r (c[0], c[1]) and r + 8 (c[2], c[3]), columns c and c + 1
 * so that two neighbouring C tiles, rounded to bf16, are an A tile.
 */
#ifndef HN_CUDA_ATTENTION_MMA_H
#define HN_CUDA_ATTENTION_MMA_H
#include <string.h>

#include "kernels/attention/cuda_attention.h"

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

static __device__ __forceinline__ uint32_t hn_shared_address_(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes to an address of shared memory, zeros unless `there` (then nothing is read). */
static __device__ __forceinline__ void hn_copy16_(uint32_t to, const __nv_bfloat16 *from,
                                                  bool there)
{
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

/* The same for one float. */
static __device__ __forceinline__ void hn_copy4_(float *to, const float *from, bool there)
{
    const int bytes = there ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(hn_shared_address_(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void hn_copy_commit_()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Until at most kLeft of this thread's groups of copies are under way. */
template <int kLeft>
static __device__ __forceinline__ void hn_copy_wait_()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

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

static __device__ __forceinline__ void hn_ldmatrix_(uint32_t r[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

static __device__ __forceinline__ void hn_ldmatrix_(uint32_t r[4], const __nv_bfloat16 *p)
{
    hn_ldmatrix_(r, hn_shared_address_(p));
}

static __device__ __forceinline__ void hn_ldmatrix_trans_(uint32_t r[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

static __device__ __forceinline__ void hn_ldmatrix_trans_(uint32_t r[4], const __nv_bfloat16 *p)
{
    hn_ldmatrix_trans_(r, hn_shared_address_(p));
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

static __device__ __forceinline__ void hn_mma_(float c[4], const uint32_t a[4], uint32_t b0,
                                               uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ uint32_t hn_pack_bf16_(float low, float high)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    uint32_t w;
    memcpy(&w, &v, sizeof w);
    return w;
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
