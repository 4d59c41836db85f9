#include "runtime/base/check.h"

#include <inttypes.h>

hn_status hn_check_pointer(const char *op, const char *name, const void *p)
{
    return p ? HN_OK : HN_FAIL(HN_ERR_ARG, "%s: %s is NULL", op, name);
}

hn_status hn_check_matrix(const char *op, const char *name, const void *p, int64_t rows,
                          int64_t cols, int64_t ld)
{
    HN_TRY(hn_check_pointer(op, name, p));
    if (rows < 1 || cols < 1 || rows > INT32_MAX || cols > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %s is [%" PRId64 ", %" PRId64 "], each must be 1 to 2^31 - 1", op, name,
                       rows, cols);
    if (ld < cols || ld > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: leading dimension %" PRId64 " of %s must be %" PRId64 " to 2^31 - 1",
                       op, ld, name, cols);
    return HN_OK;
}

hn_status hn_check_float(const char *op, const char *name, hn_dtype t)
{
    if (t == HN_F32 || t == HN_BF16) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %s is %s, supported are f32 and bf16", op, name,
                   hn_dtype_name(t));
}

hn_status hn_check_replicas(const char *op, int64_t rows, int64_t replicas)
{
    if (replicas < 0 || (replicas > 1 && rows % replicas != 0))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " rows do not split into %" PRId64 " replicas",
                       op, rows, replicas);
    return HN_OK;
}

hn_status hn_check_stride(const char *op, const char *name, int64_t replicas, int64_t stride,
                          int64_t least)
{
    if (replicas > 1 && stride < least)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: replicas of %s are %" PRId64 " elements apart, at least %" PRId64
                       " are needed",
                       op, name, stride, least);
    return HN_OK;
}

hn_status hn_check_read_stride(const char *op, const char *name, int64_t replicas, int64_t stride,
                               int64_t least)
{
    return stride == 0 ? HN_OK : hn_check_stride(op, name, replicas, stride, least);
}

hn_status hn_check_in_place(const char *op, const void *in, int64_t ld_in, const void *out,
                            int64_t ld_out)
{
    if (in != out || in == NULL || ld_in == ld_out) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "%s: in place needs one leading dimension, here are %" PRId64 " and %" PRId64,
                   op, ld_in, ld_out);
}
