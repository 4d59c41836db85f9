/* cuda_vec.h - eight neighbouring values of a row as fp32, in 16-byte accesses (for .cu files
 * only).
 *
 * Kernels that walk rows are templates on kWidth: 8 where hn_vectors_fit says so of every operand,
 * else 1. A span at the end of a row holds fewer values; what lies behind it is neither read nor
 * written.
 */
#ifndef HN_CUDA_VEC_H
#define HN_CUDA_VEC_H
#include "runtime/base/cuda_math.h"

enum { HN_VEC = 8 };

/* Whether every multiple of 8 columns in every row begins on 16 bytes; NULL operands always fit. */
static inline bool hn_vectors_fit(const void *p, int64_t ld, hn_dtype t)
{
    return p == nullptr || ((uintptr_t)p % 16 == 0 && ld * (int64_t)hn_dtype_size(t) % 16 == 0);
}

static __device__ __forceinline__ void hn_load8_(const float *p, float *v)
{
    const float4 a = reinterpret_cast<const float4 *>(p)[0];
    const float4 b = reinterpret_cast<const float4 *>(p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

static __device__ __forceinline__ void hn_store8_(float *p, const float *v)
{
    reinterpret_cast<float4 *>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4 *>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

/* T is a 16-bit float. */
template <class T>
static __device__ __forceinline__ void hn_load8_(const T *p, float *v)
{
    union {
        uint4 words;
        uint16_t bits[8];
    } u;
    static_assert(sizeof(T) == 2, "a 16-bit float");
    u.words = *reinterpret_cast<const uint4 *>(p);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        T t;
        memcpy(&t, &u.bits[k], sizeof t);
        v[k] = hn_f32(t);
    }
}

template <class T>
static __device__ __forceinline__ void hn_store8_(T *p, const float *v)
{
    union {
        uint4 words;
        uint16_t bits[8];
    } u;
    static_assert(sizeof(T) == 2, "a 16-bit float");
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const T t = hn_round<T>(v[k]);
        memcpy(&u.bits[k], &t, sizeof t);
    }
    *reinterpret_cast<uint4 *>(p) = u.words;
}

/* v = p[0 .. n) with n at most kWidth; zeros behind. */
template <int kWidth, class T>
static __device__ __forceinline__ void hn_load_span(const T *p, int64_t n, float (&v)[kWidth])
{
    static_assert(kWidth == 1 || kWidth == HN_VEC, "scalar or vector");
    if constexpr (kWidth == HN_VEC) {
        if (n >= kWidth) {
            hn_load8_(p, v);
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++) v[k] = k < n ? hn_f32(p[k]) : 0.0f;
}

/* p[0 .. n) = v, rounded. */
template <int kWidth, class T>
static __device__ __forceinline__ void hn_store_span(T *p, int64_t n, const float (&v)[kWidth])
{
    if constexpr (kWidth == HN_VEC) {
        if (n >= kWidth) {
            hn_store8_(p, v);
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++)
        if (k < n) p[k] = hn_round<T>(v[k]);
}
#endif
