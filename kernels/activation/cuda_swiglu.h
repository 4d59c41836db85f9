/* cuda_swiglu.h - the arithmetic of swiglu.h, one element (for .cu files only). */
#ifndef HN_CUDA_SWIGLU_H
#define HN_CUDA_SWIGLU_H
#include "runtime/base/cuda_vec.h"

/* f = sigmoid(v) and rest = 1 - f, both without cancellation; the exponential cannot overflow. */
static __device__ __forceinline__ void hn_sigmoid(float v, float *f, float *rest)
{
    const float e = expf(-fabsf(v)), large = 1.0f / (1.0f + e), small = e * large;
    *f = v < 0.0f ? small : large;
    *rest = v < 0.0f ? large : small;
}

/* The same where the result is rounded to bf16: f within 2^-16 of itself, rest within 2^-22 of 1.
 * Where the exponential overflows (v < -88), f is 0. */
static __device__ __forceinline__ void hn_sigmoid_near(float v, float *f, float *rest)
{
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v * -1.44269504f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.0f + e));
    *f = r;
    *rest = 1.0f - r;
}

template <class T>
static __device__ __forceinline__ void hn_sigmoid_for(float v, float *f, float *rest)
{
    if constexpr (sizeof(T) == sizeof(float))
        hn_sigmoid(v, f, rest);
    else
        hn_sigmoid_near(v, f, rest);
}

template <class T>
static __device__ __forceinline__ float hn_swiglu_of(float v, float u)
{
    float f, rest;
    hn_sigmoid_for<T>(v, &f, &rest);
    const float silu = v * f;
    return silu * u;
}

/* gate, up and dy become dup, dgate and h. */
template <class T>
static __device__ __forceinline__ void hn_swiglu_back(float &v, float &u, float &d)
{
    float f, rest;
    hn_sigmoid_for<T>(v, &f, &rest);
    const float silu = v * f, h = silu * u;
    u = d * u * (f + silu * rest);
    v = d * silu;
    d = h;
}
#endif
