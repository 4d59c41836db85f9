#include "runtime/base/convert.h"

#include <string.h>

#include "runtime/base/multiversion.h"

HN_MULTIVERSION static void bf16_to_f32(const hn_bf16 *restrict src, int64_t n, float *restrict dst)
{
    for (int64_t i = 0; i < n; i++) dst[i] = hn_bf16_to_f32(src[i]);
}

HN_MULTIVERSION static void f32_to_bf16(const float *restrict src, int64_t n, hn_bf16 *restrict dst)
{
    for (int64_t i = 0; i < n; i++) dst[i] = hn_bf16_from_f32(src[i]);
}

void hn_to_f32(const void *src, hn_dtype t, int64_t offset, int64_t n, float *dst)
{
    if (t == HN_F32)
        memcpy(dst, (const float *)src + offset, (size_t)n * sizeof *dst);
    else if (t == HN_BF16)
        bf16_to_f32((const hn_bf16 *)src + offset, n, dst);
    else
        for (int64_t i = 0; i < n; i++) dst[i] = hn_f16_to_f32(((const hn_f16 *)src)[offset + i]);
}

void hn_from_f32(const float *src, int64_t n, void *dst, hn_dtype t, int64_t offset)
{
    if (t == HN_F32)
        memcpy((float *)dst + offset, src, (size_t)n * sizeof *src);
    else if (t == HN_BF16)
        f32_to_bf16(src, n, (hn_bf16 *)dst + offset);
    else
        for (int64_t i = 0; i < n; i++) ((hn_f16 *)dst)[offset + i] = hn_f16_from_f32(src[i]);
}
