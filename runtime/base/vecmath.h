/* vecmath.h - elementary functions that a compiler can vectorise.
 *
 * Plain arithmetic without branches or tables: gcc -O3 turns loops over them into vector code,
 * which it cannot do with libm's expf (the build says -fno-trapping-math for it).
 */
#ifndef HN_VECMATH_H
#define HN_VECMATH_H
#include <stdint.h>

#include "runtime/base/bf16.h"
#include "runtime/base/multiversion.h"

#ifdef __cplusplus
extern "C" {
#endif

/* e^x within 1 ulp for every x: 0 below -104, infinity above 88.73, NaN for NaN, subnormal
 * results included. With n = round(x / ln 2) and |r| <= 0.347: e^x = 2^n e^r, where the Taylor
 * sum to r^7 leaves r^8 / 8! < 6e-9. */
HN_INLINE float hn_expf(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    const float t = x * 1.44269504f + shift;
    const float n = t - shift;
    /* ln 2 in two parts, the first exact in 9 bits so that n times it is exact */
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = (p * r) * r + r + 1.0f;
    /* 2^n as a product of two, since n may reach -150 or 128; n + 256 > 0 keeps it unsigned */
    const uint32_t m = hn_bits_from_f32_(t) - 0x4b400000u + 256u;
    const uint32_t a = m / 2u, b = m - a;
    return p * hn_f32_from_bits_((a - 1u) << 23) * hn_f32_from_bits_((b - 1u) << 23);
}

/* 1 / (1 + e^-x); 0 and 1 at the infinities. */
HN_INLINE float hn_sigmoidf(float x) { return 1.0f / (1.0f + hn_expf(-x)); }

#ifdef __cplusplus
}
#endif
#endif
