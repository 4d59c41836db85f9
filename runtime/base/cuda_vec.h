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

/* Eight values as they are stored: half the registers of fp32 where T is a 16-bit float. */
template <class T>
struct hn_pack {
    uint4 word[sizeof(T) / 2];
};

template <class T>
static __device__ __forceinline__ hn_pack<T> hn_load_pack(const T *p)
{
    hn_pack<T> a;
#pragma unroll
    for (size_t w = 0; w < sizeof(T) / 2; w++) a.word[w] = reinterpret_cast<const uint4 *>(p)[w];
    return a;
}

template <class T>
static __device__ __forceinline__ void hn_store_pack(T *p, const hn_pack<T> &a)
{
#pragma unroll
    for (size_t w = 0; w < sizeof(T) / 2; w++) reinterpret_cast<uint4 *>(p)[w] = a.word[w];
}

static __device__ __forceinline__ void hn_unpack(const hn_pack<float> &a, float (&v)[HN_VEC])
{
    memcpy(v, &a, sizeof a);
}

static __device__ __forceinline__ void hn_unpack(const hn_pack<__half> &a, float (&v)[HN_VEC])
{
    __half t[HN_VEC];
    memcpy(t, &a, sizeof a);
#pragma unroll
    for (int k = 0; k < HN_VEC; k++) v[k] = hn_f32(t[k]);
}

/* A bf16 is the upper half of its fp32. */
static __device__ __forceinline__ void hn_unpack(const hn_pack<__nv_bfloat16> &a,
                                                 float (&v)[HN_VEC])
{
    const uint32_t pair[HN_VEC / 2] = {a.word[0].x, a.word[0].y, a.word[0].z, a.word[0].w};
#pragma unroll
    for (int k = 0; k < HN_VEC / 2; k++) {
        v[2 * k] = __uint_as_float(pair[k] << 16);
        v[2 * k + 1] = __uint_as_float(pair[k] & 0xffff0000u);
    }
}

static __device__ __forceinline__ __nv_bfloat162 hn_round_pair(float a, float b, __nv_bfloat16)
{
    return __floats2bfloat162_rn(a, b);
}
static __device__ __forceinline__ __half2 hn_round_pair(float a, float b, __half)
{
    return __floats2half2_rn(a, b);
}

/* Rounded, two values by one instruction (one by one they take four times as long). */
template <class T>
static __device__ __forceinline__ hn_pack<T> hn_pack_of(const float (&v)[HN_VEC])
{
    hn_pack<T> a;
    if constexpr (sizeof(T) == sizeof(float)) {
        memcpy(&a, v, sizeof a);
    } else {
        decltype(hn_round_pair(0.0f, 0.0f, T())) pair[HN_VEC / 2];
#pragma unroll
        for (int k = 0; k < HN_VEC / 2; k++) pair[k] = hn_round_pair(v[2 * k], v[2 * k + 1], T());
        memcpy(&a, pair, sizeof a);
    }
    return a;
}

/* From here on the compiler must unpack again, instead of keeping fp32 values from before. */
template <class T>
static __device__ __forceinline__ void hn_forget_unpacked(hn_pack<T> &a)
{
    if constexpr (sizeof(T) == 2)
        asm volatile(""
                     : "+r"(a.word[0].x), "+r"(a.word[0].y), "+r"(a.word[0].z), "+r"(a.word[0].w));
}

/* v = p[0 .. kWidth): without a branch, so that the loads of several operands go out together. */
template <int kWidth, class T>
static __device__ __forceinline__ void hn_load_whole(const T *p, float (&v)[kWidth])
{
    static_assert(kWidth == 1 || kWidth == HN_VEC, "scalar or vector");
    if constexpr (kWidth == HN_VEC)
        hn_unpack(hn_load_pack(p), v);
    else
        v[0] = hn_f32(p[0]);
}

/* p[0 .. kWidth) = v, rounded. */
template <int kWidth, class T>
static __device__ __forceinline__ void hn_store_whole(T *p, const float (&v)[kWidth])
{
    if constexpr (kWidth == HN_VEC)
        hn_store_pack(p, hn_pack_of<T>(v));
    else
        p[0] = hn_round<T>(v[0]);
}

/* v = p[0 .. n) with n at most kWidth; zeros behind. */
template <int kWidth, class T>
static __device__ __forceinline__ void hn_load_span(const T *p, int64_t n, float (&v)[kWidth])
{
    if constexpr (kWidth == HN_VEC) {
        if (n >= kWidth) {
            hn_unpack(hn_load_pack(p), v);
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
            hn_store_pack(p, hn_pack_of<T>(v));
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++)
        if (k < n) p[k] = hn_round<T>(v[k]);
}

/* The same, with what is known of n when the kernel is compiled. */
template <int kWidth, bool kWhole, class T>
static __device__ __forceinline__ void hn_load_part(const T *p, int64_t n, float (&v)[kWidth])
{
    if constexpr (kWhole)
        hn_load_whole<kWidth>(p, v);
    else
        hn_load_span<kWidth>(p, n, v);
}

template <int kWidth, bool kWhole, class T>
static __device__ __forceinline__ void hn_store_part(T *p, int64_t n, const float (&v)[kWidth])
{
    if constexpr (kWhole)
        hn_store_whole<kWidth>(p, v);
    else
        hn_store_span<kWidth>(p, n, v);
}

/* The spans of a matrix, numbered row by row. A launch takes a band of rows whose spans have
 * numbers below 2^31; launchers loop over the bands, of which there is nearly always one. */
struct hn_spans {
    int64_t rows; /* of this band */
    uint32_t n, in_row;
    hn_divisor by;
};

static inline int64_t hn_band_rows(int64_t spans) { return INT32_MAX / spans; }

/* The band of `rows` rows or fewer, each of `spans` spans. */
static inline hn_spans hn_spans_of(int64_t rows, int64_t spans)
{
    const int64_t most = hn_band_rows(spans), band = rows < most ? rows : most;
    return {band, (uint32_t)(band * spans), (uint32_t)spans, hn_divisor_of(spans)};
}

/* Where a span lies. */
struct hn_span_at {
    int64_t row;
    uint32_t span;
};

static __device__ __forceinline__ hn_span_at hn_span_place(const hn_spans &s, uint32_t i)
{
    const uint32_t row = hn_divide(i, s.by);
    return {row, i - row * s.in_row};
}
#endif
