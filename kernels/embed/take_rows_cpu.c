#include "kernels/embed/take_rows.h"

#include <inttypes.h>

#include "runtime/base/check.h"

static hn_status check_places(const char *op, int64_t rows, int64_t stride, int64_t offset)
{
    if (rows < 1 || rows > INT32_MAX || stride < 1 || stride > INT32_MAX || offset < 0 ||
        offset >= stride)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: row %" PRId64 " of every %" PRId64 " of %" PRId64 " groups of rows", op,
                       offset, stride, rows);
    return HN_OK;
}

hn_status hn_take_rows_check(const hn_take_rows_args *a)
{
    static const char op[] = "take_rows";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(check_places(op, a->rows, a->stride, a->offset));
    HN_TRY(hn_check_matrix(op, "x", a->x, a->rows * a->stride, a->cols, a->ld_x));
    return hn_check_matrix(op, "y", a->y, a->rows, a->cols, a->ld_y);
}

hn_status hn_take_rows_bwd_check(const hn_take_rows_bwd_args *a)
{
    static const char op[] = "take_rows_bwd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(check_places(op, a->rows, a->stride, a->offset));
    HN_TRY(hn_check_matrix(op, "dy", a->dy, a->rows, a->cols, a->ld_dy));
    return hn_check_matrix(op, "dx", a->dx, a->rows * a->stride, a->cols, a->ld_dx);
}

hn_status hn_take_rows_fwd_cpu(const hn_take_rows_args *a)
{
    HN_TRY(hn_take_rows_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++)
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j,
                       hn_get_f32(a->x, a->dtype, (i * a->stride + a->offset) * a->ld_x + j));
    return HN_OK;
}

hn_status hn_take_rows_bwd_cpu(const hn_take_rows_bwd_args *a)
{
    HN_TRY(hn_take_rows_bwd_check(a));
    for (int64_t i = 0; i < a->rows * a->stride; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            const float dy = i % a->stride == a->offset
                                 ? hn_get_f32(a->dy, a->dtype, i / a->stride * a->ld_dy + j)
                                 : 0.0f;
            hn_set_f32(a->dx, a->dtype, i * a->ld_dx + j, dy);
        }
    return HN_OK;
}
