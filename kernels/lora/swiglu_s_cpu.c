/* The two operations one after the other, plain or fast. */
#include "kernels/lora/swiglu_s.h"

#include "runtime/base/check.h"

hn_lowrank_linear_args hn_swiglu_s_rest(const hn_swiglu_s_args *a)
{
    return (hn_lowrank_linear_args){
        .x = a->swiglu.y,
        .a = a->a,
        .s = a->s,
        .rows = a->swiglu.rows,
        .in = a->swiglu.cols,
        .rank = a->rank,
        .ld_x = a->swiglu.ld_y,
        .ld_a = a->ld_a,
        .ld_s = a->ld_s,
        .x_tail = a->tail,
        .dtype = a->swiglu.dtype,
        .bias_dtype = a->swiglu.dtype,
        .scale = a->scale,
    };
}

hn_status hn_swiglu_s_check(const hn_swiglu_s_args *a)
{
    HN_TRY(hn_check_pointer("swiglu_s", "args", a));
    const hn_lowrank_linear_args rest = hn_swiglu_s_rest(a);
    HN_TRY(hn_swiglu_check(&a->swiglu));
    return hn_lowrank_linear_check(&rest);
}

hn_status hn_swiglu_s_cpu(const hn_swiglu_s_args *a)
{
    HN_TRY(hn_swiglu_s_check(a));
    const hn_lowrank_linear_args rest = hn_swiglu_s_rest(a);
    HN_TRY(hn_swiglu_fwd_cpu(&a->swiglu));
    return hn_lowrank_linear_fwd_cpu(&rest);
}

size_t hn_swiglu_s_fast_scratch(const hn_swiglu_s_args *a)
{
    const hn_lowrank_linear_args rest = hn_swiglu_s_rest(a);
    return hn_lowrank_linear_fwd_fast_scratch(&rest);
}

hn_status hn_swiglu_s_fast(const hn_swiglu_s_args *a, void *scratch)
{
    HN_TRY(hn_swiglu_s_check(a));
    const hn_lowrank_linear_args rest = hn_swiglu_s_rest(a);
    HN_TRY(hn_swiglu_fwd_fast(&a->swiglu));
    return hn_lowrank_linear_fwd_fast(&rest, scratch);
}
