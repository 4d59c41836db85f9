/* The gradient of the activation, then a product of each half, the second added to the first. */
#include "kernels/linear/gemm.h"
#include "kernels/lora/swiglu_ds.h"
#include "runtime/base/check.h"

/* The operands and their places in the scratch, in floats; dgate and dup take turns. */
typedef struct {
    hn_matrices dgate, dup, b, ds;
    int64_t dy_at, b_at, ds_at, n;
} layout;

static layout lay_out(const hn_swiglu_ds_args *a)
{
    const hn_swiglu_bwd_args *s = &a->swiglu;
    const hn_dtype t = s->dtype;
    layout l = {.dgate = hn_activations(t, s->rows, 0, s->cols, s->ld_dgate),
                .dup = hn_activations(t, s->rows, 0, s->cols, s->ld_dup),
                .b = hn_parameter(t, 0, 0, s->cols, a->rank, a->ld_b),
                .ds = hn_activations(t, s->rows, 0, a->rank, a->ld_ds)};
    const bool copy = t != HN_F32;
    l.dy_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.dgate));
    l.b_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.b));
    l.ds_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.ds));
    return l;
}

size_t hn_swiglu_ds_fast_scratch(const hn_swiglu_ds_args *a)
{
    return (size_t)lay_out(a).n * sizeof(float);
}

hn_status hn_swiglu_ds_fast(const hn_swiglu_ds_args *a, void *scratch)
{
    HN_TRY(hn_swiglu_ds_check(a));
    const hn_swiglu_bwd_args *s = &a->swiglu;
    const layout l = lay_out(a);
    if (l.n > 0) HN_TRY(hn_check_pointer("swiglu_ds", "scratch", scratch));
    HN_TRY(hn_swiglu_bwd_fast(s));
    const size_t half = (size_t)(s->cols * a->ld_b) * hn_dtype_size(s->dtype);
    hn_gemm_args g = {.batch = 1, .m = s->rows, .n = a->rank, .k = s->cols, .alpha = a->scale};
    g.a = hn_matrices_load(&l.dgate, s->dgate, hn_at(scratch, l.dy_at));
    g.b = hn_matrices_load(&l.b, a->b, hn_at(scratch, l.b_at));
    g.c = hn_matrices_begin(&l.ds, a->ds, hn_at(scratch, l.ds_at), NULL, 0);
    hn_gemm(&g);
    g.a = hn_matrices_load(&l.dup, s->dup, hn_at(scratch, l.dy_at));
    g.b = hn_matrices_load(&l.b, (const char *)a->b + half, hn_at(scratch, l.b_at));
    g.beta = 1.0f;
    hn_gemm(&g);
    hn_matrices_end(&l.ds, g.c, a->ds);
    return HN_OK;
}
