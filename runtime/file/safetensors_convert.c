/* Conversion goes through blocks of floats or of 64-bit integers: one loop per source type and one
 * per target type instead of one per pair, each simple enough to be vectorised. Sources may be
 * unaligned, hence the memcpy. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "runtime/base/convert.h"
#include "runtime/file/safetensors.h"

enum { BLOCK = 512 };

/* The float nearest to d, except that an inexact one gets an odd last bit: rounding that to 16 bits
 * gives what rounding d itself would (two roundings to nearest would not). */
static float to_odd(double d)
{
    const float f = (float)d;
    if (isnan(d) || (double)f == d) return f;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (fabs((double)f) > fabs(d)) bits--;
    bits |= 1;
    float odd;
    memcpy(&odd, &bits, sizeof odd);
    return odd;
}

static void load_floats(const unsigned char *p, hn_st_dtype from, bool narrow, int n, float *out)
{
    if (from == HN_ST_F32) {
        memcpy(out, p, (size_t)n * 4);
    } else if (from == HN_ST_F64) {
        double d[BLOCK];
        memcpy(d, p, (size_t)n * 8);
        for (int i = 0; i < n; i++) out[i] = narrow ? to_odd(d[i]) : (float)d[i];
    } else {
        uint16_t aligned[BLOCK];
        memcpy(aligned, p, (size_t)n * 2);
        hn_to_f32(aligned, from == HN_ST_BF16 ? HN_BF16 : HN_F16, 0, n, out);
    }
}

/* Index of the first finite value that became infinite in `out`; -1: none. */
static int first_overflow(const unsigned char *p, hn_st_dtype from, const float *v, hn_dtype to,
                          const void *out, int64_t at, int n)
{
    for (int i = 0; i < n; i++) {
        double d = (double)v[i];
        if (from == HN_ST_F64) memcpy(&d, p + (size_t)i * 8, 8);
        if (isfinite(d) && isinf(hn_get_f32(out, to, at + i))) return i;
    }
    return -1;
}

static hn_status convert_floats(const hn_st_tensor *t, hn_dtype to, void *out)
{
    const int64_t n = hn_st_elements(t);
    const size_t size = (size_t)hn_st_dtype_bits(t->dtype) / 8;
    float v[BLOCK];
    for (int64_t at = 0; at < n; at += BLOCK) {
        const unsigned char *p = (const unsigned char *)t->data + (size_t)at * size;
        const int count = n - at < BLOCK ? (int)(n - at) : BLOCK;
        load_floats(p, t->dtype, to != HN_F32, count, v);
        hn_from_f32(v, count, out, to, at);
        if (to != HN_F16 && t->dtype != HN_ST_F64 && t->dtype != HN_ST_F32) continue; /* cannot */
        const int bad = first_overflow(p, t->dtype, v, to, out, at, count);
        if (bad >= 0)
            return HN_FAIL(HN_ERR_NUMERIC,
                           "tensor '%.200s' (%s): element %" PRId64 " is too large for %s", t->name,
                           hn_st_dtype_name(t->dtype), at + bad, hn_dtype_name(to));
    }
    return HN_OK;
}

/* False when a value is beyond int64. */
static bool load_integer(const unsigned char *p, hn_st_dtype from, int64_t *out)
{
    switch (from) {
#define CASE(name, type)         \
    case HN_ST_##name: {         \
        type v;                  \
        memcpy(&v, p, sizeof v); \
        *out = (int64_t)v;       \
        return true;             \
    }
        CASE(BOOL, uint8_t)
        CASE(U8, uint8_t)
        CASE(I8, int8_t)
        CASE(I16, int16_t)
        CASE(U16, uint16_t)
        CASE(I32, int32_t)
        CASE(U32, uint32_t)
        CASE(I64, int64_t)
#undef CASE
    default: {
        uint64_t v;
        assert(from == HN_ST_U64);
        memcpy(&v, p, sizeof v);
        *out = (int64_t)v;
        return v <= (uint64_t)INT64_MAX;
    }
    }
}

static hn_status convert_integers(const hn_st_tensor *t, hn_dtype to, void *out)
{
    const int64_t n = hn_st_elements(t);
    const size_t size = (size_t)hn_st_dtype_bits(t->dtype) / 8;
    const int64_t min = to == HN_I32 ? INT32_MIN : to == HN_I64 ? INT64_MIN : 0;
    const int64_t max = to == HN_I32 ? INT32_MAX : to == HN_I64 ? INT64_MAX : UINT8_MAX;
    const unsigned char *p = t->data;
    for (int64_t i = 0; i < n; i++, p += size) {
        int64_t v;
        if (!load_integer(p, t->dtype, &v) || v < min || v > max)
            return HN_FAIL(HN_ERR_NUMERIC,
                           "tensor '%.200s' (%s): element %" PRId64 " does not fit %s", t->name,
                           hn_st_dtype_name(t->dtype), i, hn_dtype_name(to));
        if (to == HN_I32)
            ((int32_t *)out)[i] = (int32_t)v;
        else if (to == HN_I64)
            ((int64_t *)out)[i] = v;
        else
            ((uint8_t *)out)[i] = (uint8_t)v;
    }
    return HN_OK;
}

static bool is_float(hn_st_dtype t)
{
    return t == HN_ST_F64 || t == HN_ST_F32 || t == HN_ST_BF16 || t == HN_ST_F16;
}

static bool is_integer(hn_st_dtype t)
{
    return t == HN_ST_BOOL || t == HN_ST_U8 || t == HN_ST_I8 || t == HN_ST_I16 || t == HN_ST_U16 ||
           t == HN_ST_I32 || t == HN_ST_U32 || t == HN_ST_I64 || t == HN_ST_U64;
}

hn_status hn_st_convert(const hn_st_tensor *t, hn_dtype to, void *out)
{
    if (hn_st_dtype_of(to) == t->dtype) {
        if (t->n_bytes > 0) memcpy(out, t->data, t->n_bytes);
        return HN_OK;
    }
    if (is_float(t->dtype) && (to == HN_F32 || to == HN_BF16 || to == HN_F16))
        return convert_floats(t, to, out);
    if (is_integer(t->dtype) && (to == HN_I32 || to == HN_I64 || to == HN_U8))
        return convert_integers(t, to, out);
    return HN_FAIL(HN_ERR_UNSUPPORTED, "tensor '%.200s': no conversion from %s to %s", t->name,
                   hn_st_dtype_name(t->dtype), hn_dtype_name(to));
}
