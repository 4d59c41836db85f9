#include "kernels/lora/swiglu_ds.h"

#include <math.h>

#include "runtime/base/check.h"

static const char op[] = "swiglu_ds";

hn_status hn_swiglu_ds_check(const hn_swiglu_ds_args *a)
{
    HN_TRY(hn_check_pointer(op, "args", a));
    const hn_swiglu_bwd_args *s = &a->swiglu;
    HN_TRY(hn_swiglu_bwd_check(s));
    HN_TRY(hn_check_matrix(op, "B", a->b, 2 * s->cols, a->rank, a->ld_b));
    HN_TRY(hn_check_matrix(op, "ds", a->ds, s->rows, a->rank, a->ld_ds));
    if (a->tail < 0 || a->tail > s->ld_dup - s->cols)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %lld elements behind a row of dup, rows of %lld lie %lld apart", op,
                       (long long)a->tail, (long long)s->cols, (long long)s->ld_dup);
    if (!isfinite(a->scale) || a->scale == 0.0f)
        return HN_FAIL(HN_ERR_ARG, "%s: scale %g must be finite and not 0", op, (double)a->scale);
    return HN_OK;
}

/* ds[i,r], from the rounded gradients. */
static double product(const hn_swiglu_ds_args *a, int64_t i, int64_t r)
{
    const hn_swiglu_bwd_args *s = &a->swiglu;
    double sum = 0.0;
    for (int64_t j = 0; j < s->cols; j++)
        sum += (double)hn_get_f32(s->dgate, s->dtype, i * s->ld_dgate + j) *
               (double)hn_get_f32(a->b, s->dtype, j * a->ld_b + r);
    for (int64_t j = 0; j < s->cols; j++)
        sum += (double)hn_get_f32(s->dup, s->dtype, i * s->ld_dup + j) *
               (double)hn_get_f32(a->b, s->dtype, (s->cols + j) * a->ld_b + r);
    return (double)a->scale * sum;
}

hn_status hn_swiglu_ds_cpu(const hn_swiglu_ds_args *a)
{
    HN_TRY(hn_swiglu_ds_check(a));
    HN_TRY(hn_swiglu_bwd_cpu(&a->swiglu));
    for (int64_t i = 0; i < a->swiglu.rows; i++)
        for (int64_t r = 0; r < a->rank; r++)
            hn_set_f32(a->ds, a->swiglu.dtype, i * a->ld_ds + r, (float)product(a, i, r));
    return HN_OK;
}
