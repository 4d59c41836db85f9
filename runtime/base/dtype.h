/* dtype.h - element types of tensors, and element access for the plain twins. */
#ifndef HN_DTYPE_H
#define HN_DTYPE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/bf16.h"

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
#define HN_DTYPE_LIST(X)      \
    X(F32,     "f32",     4)  \
    X(BF16,    "bf16",    2)  \
    X(F16,     "f16",     2)  \
    X(F8_E4M3, "f8_e4m3", 1)  \
    X(I32,     "i32",     4)  \
    X(I64,     "i64",     8)  \
    X(U8,      "u8",      1)

typedef enum {
#define X(name, text, size) HN_##name,
    HN_DTYPE_LIST(X)
#undef X
    HN_DTYPE_COUNT
} hn_dtype;
/* clang-format on */

const char *hn_dtype_name(hn_dtype t); /* "bf16"; "?" when out of range */
size_t hn_dtype_size(hn_dtype t);      /* bytes of one element; 0 when out of range */

/* Element i of an array of f32, bf16 or f16 (the caller has checked the dtype). */
static inline float hn_get_f32(const void *p, hn_dtype t, int64_t i)
{
    if (t == HN_F32) return ((const float *)p)[i];
    if (t == HN_BF16) return hn_bf16_to_f32(((const hn_bf16 *)p)[i]);
    return hn_f16_to_f32(((const hn_f16 *)p)[i]);
}

/* Rounds v to the array's type, to nearest even. */
static inline void hn_set_f32(void *p, hn_dtype t, int64_t i, float v)
{
    if (t == HN_F32)
        ((float *)p)[i] = v;
    else if (t == HN_BF16)
        ((hn_bf16 *)p)[i] = hn_bf16_from_f32(v);
    else
        ((hn_f16 *)p)[i] = hn_f16_from_f32(v);
}

/* v after a store to and a load from an array of type t. */
static inline float hn_round_f32(hn_dtype t, float v)
{
    if (t == HN_F32) return v;
    if (t == HN_BF16) return hn_bf16_to_f32(hn_bf16_from_f32(v));
    return hn_f16_to_f32(hn_f16_from_f32(v));
}

#ifdef __cplusplus
}
#endif
#endif
