/* convert.h - rows of f32, bf16 or f16 as rows of f32 and back, for the fast CPU functions.
 *
 * A fast function walks a row in blocks of HN_BLOCK elements and computes in f32 only. For an
 * f32 tensor load and target hand out the tensor's own memory and store does nothing; for a
 * 16-bit tensor they go through the caller's buffer of HN_BLOCK floats. Offsets are in elements.
 */
#ifndef HN_CONVERT_H
#define HN_CONVERT_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_BLOCK = 512 };

/* dst[0..n) = src[offset..offset+n); no overlap. */
void hn_to_f32(const void *src, hn_dtype t, int64_t offset, int64_t n, float *dst);
/* dst[offset..offset+n) = src[0..n), rounded to nearest even; no overlap. */
void hn_from_f32(const float *src, int64_t n, void *dst, hn_dtype t, int64_t offset);

static inline const float *hn_load_f32(const void *p, hn_dtype t, int64_t offset, int64_t n,
                                       float *buffer)
{
    if (t == HN_F32) return (const float *)p + offset;
    hn_to_f32(p, t, offset, n, buffer);
    return buffer;
}

/* Where to compute elements that hn_store_f32 then puts into p. */
static inline float *hn_target_f32(void *p, hn_dtype t, int64_t offset, float *buffer)
{
    return t == HN_F32 ? (float *)p + offset : buffer;
}

static inline void hn_store_f32(const float *target, int64_t n, void *p, hn_dtype t, int64_t offset)
{
    if (t != HN_F32) hn_from_f32(target, n, p, t, offset);
}

/* Elements in the block that starts at `start` of n. */
static inline int64_t hn_block_len(int64_t start, int64_t n)
{
    return n - start < HN_BLOCK ? n - start : (int64_t)HN_BLOCK;
}

#ifdef __cplusplus
}
#endif
#endif
