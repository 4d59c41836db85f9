#include "kernels/lora/swiglu_ds.h"

#include "runtime/base/check.h"

hn_lowrank_linear_dx_args hn_swiglu_ds_rest(const hn_swiglu_ds_args *a)
{
    return (hn_lowrank_linear_dx_args){
        .dy = a->swiglu.dgate,
        .b = a->b,
        .ds = a->ds,
        .rows = a->swiglu.rows,
        .out = 2 * a->swiglu.cols,
        .rank = a->rank,
        .ld_dy = a->swiglu.ld_dgate,
        .ld_b = a->ld_b,
        .ld_ds = a->ld_ds,
        .dy_tail = a->tail,
        .dtype = a->swiglu.dtype,
        .scale = a->scale,
    };
}

hn_status hn_swiglu_ds_check(const hn_swiglu_ds_args *a)
{
    HN_TRY(hn_check_pointer("swiglu_ds", "args", a));
    const hn_swiglu_bwd_args *s = &a->swiglu;
    const hn_lowrank_linear_dx_args rest = hn_swiglu_ds_rest(a);
    HN_TRY(hn_swiglu_bwd_check(s));
    if ((const char *)s->dup !=
            (const char *)s->dgate + (size_t)s->cols * hn_dtype_size(s->dtype) ||
        s->ld_dup != s->ld_dgate)
        return HN_FAIL(HN_ERR_ARG, "swiglu_ds: dup does not lie right of dgate");
    return hn_lowrank_linear_dx_check(&rest);
}

hn_status hn_swiglu_ds_cpu(const hn_swiglu_ds_args *a)
{
    HN_TRY(hn_swiglu_ds_check(a));
    const hn_lowrank_linear_dx_args rest = hn_swiglu_ds_rest(a);
    HN_TRY(hn_swiglu_bwd_cpu(&a->swiglu));
    return hn_lowrank_linear_dx_cpu(&rest);
}

size_t hn_swiglu_ds_fast_scratch(const hn_swiglu_ds_args *a)
{
    const hn_lowrank_linear_dx_args rest = hn_swiglu_ds_rest(a);
    return hn_lowrank_linear_dx_fast_scratch(&rest);
}

hn_status hn_swiglu_ds_fast(const hn_swiglu_ds_args *a, void *scratch)
{
    HN_TRY(hn_swiglu_ds_check(a));
    const hn_lowrank_linear_dx_args rest = hn_swiglu_ds_rest(a);
    HN_TRY(hn_swiglu_bwd_fast(&a->swiglu));
    return hn_lowrank_linear_dx_fast(&rest, scratch);
}
