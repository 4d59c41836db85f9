#include "kernels/attention/kv_append.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/check.h"

hn_status hn_kv_check_positions(const char *op, const int32_t *positions, int64_t batch,
                                int64_t tokens, int64_t capacity)
{
    for (int64_t b = 0; b < batch; b++)
        if (positions[b] < 0 || positions[b] + tokens > capacity)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: batch row %" PRId64 " at position %" PRId32 " with %" PRId64
                           " new tokens, the cache holds %" PRId64,
                           op, b, positions[b], tokens, capacity);
    return HN_OK;
}

hn_status hn_kv_append_check(const hn_kv_append_args *a)
{
    static const char op[] = "kv_append";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_pointer(op, "positions", a->positions));
    if (a->batch < 1 || a->tokens < 1 || a->capacity < a->tokens || a->batch > INT32_MAX ||
        a->capacity > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: batch %" PRId64 ", %" PRId64 " new tokens, capacity %" PRId64, op,
                       a->batch, a->tokens, a->capacity);
    HN_TRY(hn_check_matrix(op, "k", a->k, a->batch * a->tokens, a->k_cols, a->ld_k));
    HN_TRY(hn_check_matrix(op, "v", a->v, a->batch * a->tokens, a->v_cols, a->ld_v));
    HN_TRY(hn_check_matrix(op, "k_cache", a->k_cache, a->batch * a->capacity, a->k_cols,
                           a->ld_k_cache));
    return hn_check_matrix(op, "v_cache", a->v_cache, a->batch * a->capacity, a->v_cols,
                           a->ld_v_cache);
}

static void append(const hn_kv_append_args *a, const void *x, int64_t ld, void *cache,
                   int64_t ld_cache, int64_t cols)
{
    const int64_t size = (int64_t)hn_dtype_size(a->dtype);
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t t = 0; t < a->tokens; t++)
            memcpy((char *)cache + (b * a->capacity + a->positions[b] + t) * ld_cache * size,
                   (const char *)x + (b * a->tokens + t) * ld * size, (size_t)(cols * size));
}

hn_status hn_kv_append_cpu(const hn_kv_append_args *a)
{
    HN_TRY(hn_kv_append_check(a));
    HN_TRY(hn_kv_check_positions("kv_append", a->positions, a->batch, a->tokens, a->capacity));
    append(a, a->k, a->ld_k, a->k_cache, a->ld_k_cache, a->k_cols);
    append(a, a->v, a->ld_v, a->v_cache, a->ld_v_cache, a->v_cols);
    return HN_OK;
}
