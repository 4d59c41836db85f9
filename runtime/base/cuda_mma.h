/* cuda_mma.h - the instructions that bf16 products on the tensor cores are made of (sm_80 and
 * later; for .cu files only).
 *
 * mma.m16n8k16: a warp multiplies A [16, 16] by B [16, 8] and adds to C [16, 8]. With r = lane / 4
 * and c = 2 (lane % 4), a lane holds
 *   A  rows r and r + 8, columns c, c + 1, c + 8, c + 9, as 4 pairs: a[0] row r columns c and
 *      c + 1; a[1] row r + 8; a[2] row r columns c + 8 and c + 9; a[3] row r + 8
 *   B  column r, rows c, c + 1 (b[0]) and c + 8, c + 9 (b[1])
 *   C  rows r (c[0], c[1]) and r + 8 (c[2], c[3]), columns c and c + 1
 */
#ifndef HN_CUDA_MMA_H
#define HN_CUDA_MMA_H
#include <string.h>

#include "runtime/base/cuda_math.h"

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

#endif
