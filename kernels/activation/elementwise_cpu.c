#include "kernels/activation/elementwise.h"

#include "runtime/base/check.h"

hn_status hn_binary_check(const hn_binary_args *a)
{
    HN_TRY(hn_check_pointer("elementwise", "args", a));
    HN_TRY(hn_check_float("elementwise", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("elementwise", "a", a->a, a->rows, a->cols, a->ld_a));
    HN_TRY(hn_check_matrix("elementwise", "b", a->b, a->rows, a->cols, a->ld_b));
    HN_TRY(hn_check_matrix("elementwise", "y", a->y, a->rows, a->cols, a->ld_y));
    HN_TRY(hn_check_in_place("elementwise", a->a, a->ld_a, a->y, a->ld_y));
    return hn_check_in_place("elementwise", a->b, a->ld_b, a->y, a->ld_y);
}

hn_status hn_scale_check(const hn_scale_args *a)
{
    HN_TRY(hn_check_pointer("scale", "args", a));
    HN_TRY(hn_check_float("scale", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("scale", "a", a->a, a->rows, a->cols, a->ld_a));
    HN_TRY(hn_check_matrix("scale", "y", a->y, a->rows, a->cols, a->ld_y));
    return hn_check_in_place("scale", a->a, a->ld_a, a->y, a->ld_y);
}

static hn_status check_cast_type(const char *name, hn_dtype t)
{
    return t == HN_F16 ? HN_OK : hn_check_float("cast", name, t);
}

hn_status hn_cast_check(const hn_cast_args *a)
{
    HN_TRY(hn_check_pointer("cast", "args", a));
    HN_TRY(check_cast_type("dtype", a->dtype));
    HN_TRY(check_cast_type("y_dtype", a->y_dtype));
    HN_TRY(hn_check_matrix("cast", "a", a->a, a->rows, a->cols, a->ld_a));
    HN_TRY(hn_check_matrix("cast", "y", a->y, a->rows, a->cols, a->ld_y));
    if (a->a == a->y && a->dtype != a->y_dtype)
        return HN_FAIL(HN_ERR_ARG, "cast: in place needs one dtype");
    return hn_check_in_place("cast", a->a, a->ld_a, a->y, a->ld_y);
}

hn_status hn_add_cpu(const hn_binary_args *a)
{
    HN_TRY(hn_binary_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++)
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j,
                       hn_get_f32(a->a, a->dtype, i * a->ld_a + j) +
                           hn_get_f32(a->b, a->dtype, i * a->ld_b + j));
    return HN_OK;
}

hn_status hn_mul_cpu(const hn_binary_args *a)
{
    HN_TRY(hn_binary_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++)
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j,
                       hn_get_f32(a->a, a->dtype, i * a->ld_a + j) *
                           hn_get_f32(a->b, a->dtype, i * a->ld_b + j));
    return HN_OK;
}

hn_status hn_scale_cpu(const hn_scale_args *a)
{
    HN_TRY(hn_scale_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++)
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j,
                       a->factor * hn_get_f32(a->a, a->dtype, i * a->ld_a + j));
    return HN_OK;
}

hn_status hn_cast_cpu(const hn_cast_args *a)
{
    HN_TRY(hn_cast_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++)
            hn_set_f32(a->y, a->y_dtype, i * a->ld_y + j,
                       hn_get_f32(a->a, a->dtype, i * a->ld_a + j));
    return HN_OK;
}
