/* cuda_math.h - what kernels share: element types, sums in a fixed order, grid sizes
 * (for .cu files only).
 */
#ifndef HN_CUDA_MATH_H
#define HN_CUDA_MATH_H
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "runtime/base/cuda_check.h"
#include "runtime/base/dtype.h"

static __device__ __forceinline__ float hn_f32(float v) { return v; }
static __device__ __forceinline__ float hn_f32(__nv_bfloat16 v) { return __bfloat162float(v); }
static __device__ __forceinline__ float hn_f32(__half v) { return __half2float(v); }

/* Rounded to nearest even; NaN stays NaN, too large becomes infinity. */
template <class T>
static __device__ __forceinline__ T hn_round(float v);
template <>
__device__ __forceinline__ float hn_round<float>(float v)
{
    return v;
}
template <>
__device__ __forceinline__ __nv_bfloat16 hn_round<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}
template <>
__device__ __forceinline__ __half hn_round<__half>(float v)
{
    return __float2half_rn(v);
}

/* Sum over the warp, the same value in every lane. */
template <class T>
static __device__ __forceinline__ T hn_warp_sum(T v)
{
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

static __device__ __forceinline__ float hn_warp_max(float v)
{
    for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

/* Sum over a block of kThreads, the same value in every thread; may be called repeatedly. */
template <int kThreads, class T>
static __device__ __forceinline__ T hn_block_sum(T v)
{
    static_assert(kThreads % 32 == 0, "whole warps");
    __shared__ T partial[kThreads / 32];
    v = hn_warp_sum(v);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = partial[0];
    for (int w = 1; w < kThreads / 32; w++) v += partial[w];
    __syncthreads(); /* before the next call writes partial */
    return v;
}

template <int kThreads>
static __device__ __forceinline__ float hn_block_max(float v)
{
    static_assert(kThreads % 32 == 0, "whole warps");
    __shared__ float partial[kThreads / 32];
    v = hn_warp_max(v);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = partial[0];
    for (int w = 1; w < kThreads / 32; w++) v = fmaxf(v, partial[w]);
    __syncthreads();
    return v;
}

/* Blocks for n items, `per_block` a block, at most `most`: loops in the kernel take the rest. */
static inline unsigned hn_grid(int64_t n, int64_t per_block, int64_t most)
{
    const int64_t blocks = (n + per_block - 1) / per_block;
    return (unsigned)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

/* Division of numbers below 2^31 by a constant of the launch: one product and one shift.
 * With 2^(s-1) < by <= 2^s the factor is 2^(31+s) / by rounded up, too large by less than 2^-31. */
struct hn_divisor {
    uint32_t factor;
    int shift;
};

static inline hn_divisor hn_divisor_of(int64_t by)
{
    int s = 0;
    while (((int64_t)1 << s) < by) s++;
    return {(uint32_t)((((uint64_t)1 << (31 + s)) + (uint64_t)by - 1) / (uint64_t)by), 31 + s};
}

static __host__ __device__ __forceinline__ uint32_t hn_divide(uint32_t n, hn_divisor by)
{
    return (uint32_t)(((uint64_t)n * by.factor) >> by.shift);
}

/* Runs the statement with T standing for the element type of `dtype`, f32 or bf16 (which the
 * operation's check has made sure of):  HN_CUDA_REAL(a->dtype, T, launch<T>(a, stream)); */
#define HN_CUDA_REAL(dtype, T, ...)  \
    do {                             \
        if ((dtype) == HN_F32) {     \
            using T = float;         \
            __VA_ARGS__;             \
        } else {                     \
            using T = __nv_bfloat16; \
            __VA_ARGS__;             \
        }                            \
    } while (0)
#endif
