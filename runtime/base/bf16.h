/* bf16.h - host-side 16-bit floats.
 *
 * bfloat16 is the top half of an fp32; binary16 is IEEE half precision. Both are
 * rounded to nearest even; NaN stays NaN, too large becomes infinity. */
#ifndef HN_BF16_H
#define HN_BF16_H
#include <stdint.h>
#include <string.h>

typedef struct {
    uint16_t bits;
} hn_bf16;

typedef struct {
    uint16_t bits;
} hn_f16;

static inline float hn_f32_from_bits_(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t hn_bits_from_f32_(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float hn_bf16_to_f32(hn_bf16 b) { return hn_f32_from_bits_((uint32_t)b.bits << 16); }

static inline hn_bf16 hn_bf16_from_f32(float f)
{
    const uint32_t u = hn_bits_from_f32_(f);
    hn_bf16 b;
    if ((u & 0x7fffffffu) > 0x7f800000u)
        b.bits = (uint16_t)(u >> 16 | 0x40u); /* keep NaN a NaN */
    else
        b.bits = (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
    return b;
}

static inline float hn_f16_to_f32(hn_f16 h)
{
    const uint32_t sign = (uint32_t)(h.bits & 0x8000u) << 16, rest = h.bits & 0x7fffu;
    if (rest >= 0x7c00u) return hn_f32_from_bits_(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest < 0x400u) { /* zero or subnormal: rest * 2^-24, exact in fp32 */
        const float f = (float)rest * 0x1p-24f;
        return sign ? -f : f;
    }
    return hn_f32_from_bits_(sign | ((rest << 13) + 0x38000000u));
}

static inline hn_f16 hn_f16_from_f32(float f)
{
    const uint32_t u = hn_bits_from_f32_(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    uint32_t r;
    if (a > 0x7f800000u)
        r = 0x7e00u | (a >> 13 & 0x3ffu); /* NaN */
    else if (a >= 0x477ff000u)
        r = 0x7c00u;          /* 65520 and above round to infinity */
    else if (a < 0x38800000u) /* below 2^-14: adding 0.5 rounds to a multiple of 2^-24 */
        r = hn_bits_from_f32_(hn_f32_from_bits_(a) + 0.5f) - 0x3f000000u;
    else
        r = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
    return (hn_f16){(uint16_t)(sign | r)};
}
#endif
