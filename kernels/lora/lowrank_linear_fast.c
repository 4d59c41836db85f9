/* Three products each way: down to rank columns, the base, and up again, added to the base. */
#include "kernels/linear/gemm.h"
#include "kernels/lora/lowrank_linear.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* The operands and their places in the scratch, in floats. y and s stand for dy and ds, and
 * dropped for the low-rank part of dx, on the way back. */
typedef struct {
    hn_matrices x, w, bias, a, b, y, s;
    int64_t x_at, dropped_at, w_at, bias_at, a_at, b_at, y_at, s_at, n;
} layout;

static layout lay_out_fwd(const hn_lowrank_linear_args *a)
{
    const hn_dtype t = a->dtype;
    const int64_t rep = a->replicas;
    layout l = {.x = hn_activations(t, a->rows, rep, a->in, a->ld_x),
                .w = hn_parameter(t, rep, a->w_stride, a->out, a->in, a->ld_w),
                .bias = hn_parameter(a->bias_dtype, rep, a->bias_stride, 1, a->out, a->out),
                .a = hn_parameter(t, rep, a->a_stride, a->rank, a->in, a->ld_a),
                .b = hn_parameter(t, rep, a->b_stride, a->out, a->rank, a->ld_b),
                .y = hn_activations(t, a->rows, rep, a->out, a->ld_y),
                .s = hn_activations(t, a->rows, rep, a->rank, a->ld_s)};
    const bool copy = t != HN_F32, copy_bias = a->bias_dtype != HN_F32;
    l.x_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.x));
    l.dropped_at = hn_reserve(&l.n, a->drop.p > 0.0, hn_matrices_count(&l.x));
    l.w_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.w));
    l.bias_at = hn_reserve(&l.n, copy_bias, hn_matrices_count(&l.bias));
    l.a_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.a));
    l.b_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.b));
    l.y_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.y));
    l.s_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.s));
    return l;
}

size_t hn_lowrank_linear_fwd_fast_scratch(const hn_lowrank_linear_args *a)
{
    return (size_t)lay_out_fwd(a).n * sizeof(float);
}

/* s, scaled and rounded, as the operand of the way up. */
static hn_operand way_down(const hn_lowrank_linear_args *a, const layout *l, void *scratch,
                           hn_operand x, hn_gemm_args g)
{
    g.n = a->rank;
    g.k = a->in;
    g.alpha = a->scale;
    g.a = x;
    if (a->drop.p > 0.0) {
        float *const dropped = hn_at(scratch, l->dropped_at);
        hn_dropout_matrix_f32(&a->drop, a->x, a->dtype, a->rows, a->in, a->ld_x, dropped);
        g.a = (hn_operand){dropped, a->in, l->x.rows * a->in};
    }
    g.b = hn_matrices_load(&l->a, a->a, hn_at(scratch, l->a_at));
    g.c = hn_matrices_begin(&l->s, a->s, hn_at(scratch, l->s_at), NULL, 0);
    hn_gemm(&g);
    hn_matrices_end(&l->s, g.c, a->s);
    return hn_matrices_load(&l->s, a->s, hn_at(scratch, l->s_at));
}

hn_status hn_lowrank_linear_fwd_fast(const hn_lowrank_linear_args *a, void *scratch)
{
    HN_TRY(hn_lowrank_linear_check(a));
    const layout l = lay_out_fwd(a);
    if (l.n > 0) HN_TRY(hn_check_pointer("lowrank_linear", "scratch", scratch));
    hn_gemm_args g = {.batch = l.x.batch, .m = l.x.rows, .trans_b = true, .alpha = 1.0f};
    const hn_operand x = hn_matrices_load(&l.x, a->x, hn_at(scratch, l.x_at));
    const hn_operand s = way_down(a, &l, scratch, x, g);

    g.n = a->out;
    g.k = a->in;
    g.a = x;
    g.b = hn_matrices_load(&l.w, a->w, hn_at(scratch, l.w_at));
    if (a->bias) g.bias = hn_matrices_load(&l.bias, a->bias, hn_at(scratch, l.bias_at));
    g.c = hn_matrices_begin(&l.y, a->y, hn_at(scratch, l.y_at), a->add, a->ld_add);
    g.beta = a->add ? 1.0f : 0.0f;
    hn_gemm(&g);

    g.k = a->rank;
    g.a = s;
    g.b = hn_matrices_load(&l.b, a->b, hn_at(scratch, l.b_at));
    g.bias = (hn_operand){0};
    g.beta = 1.0f;
    hn_gemm(&g);
    hn_matrices_end(&l.y, g.c, a->y);
    return HN_OK;
}

static layout lay_out_dx(const hn_lowrank_linear_dx_args *a)
{
    const hn_dtype t = a->dtype;
    const int64_t rep = a->replicas;
    layout l = {.x = hn_activations(t, a->rows, rep, a->in, a->ld_dx),
                .w = hn_parameter(t, rep, a->w_stride, a->out, a->in, a->ld_w),
                .a = hn_parameter(t, rep, a->a_stride, a->rank, a->in, a->ld_a),
                .b = hn_parameter(t, rep, a->b_stride, a->out, a->rank, a->ld_b),
                .y = hn_activations(t, a->rows, rep, a->out, a->ld_dy),
                .s = hn_activations(t, a->rows, rep, a->rank, a->ld_ds)};
    const bool copy = t != HN_F32;
    l.x_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.x));
    l.dropped_at = hn_reserve(&l.n, a->drop.p > 0.0, hn_matrices_count(&l.x));
    l.w_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.w));
    l.a_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.a));
    l.b_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.b));
    l.y_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.y));
    l.s_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.s));
    return l;
}

size_t hn_lowrank_linear_dx_fast_scratch(const hn_lowrank_linear_dx_args *a)
{
    return (size_t)lay_out_dx(a).n * sizeof(float);
}

HN_MULTIVERSION static void add_to(const float *restrict x, int64_t n, float *restrict sum)
{
    for (int64_t j = 0; j < n; j++) sum[j] += x[j];
}

/* dx += mask' * low, for which low [rows, in] without gaps is overwritten. */
static void add_dropped(const hn_lowrank_linear_dx_args *a, float *low, hn_result dx)
{
    const hn_dropout_now d = hn_dropout_read(&a->drop);
#pragma omp parallel for schedule(static) if (a->rows * a->in > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float *const row = low + i * a->in;
        hn_dropout_span(&d, i, 0, a->in, row, row);
        add_to(row, a->in, dx.p + i * dx.ld);
    }
}

hn_status hn_lowrank_linear_dx_fast(const hn_lowrank_linear_dx_args *a, void *scratch)
{
    HN_TRY(hn_lowrank_linear_dx_check(a));
    const layout l = lay_out_dx(a);
    if (l.n > 0) HN_TRY(hn_check_pointer("lowrank_linear_dx", "scratch", scratch));
    const hn_operand dy = hn_matrices_load(&l.y, a->dy, hn_at(scratch, l.y_at));
    hn_gemm_args g = {.a = dy, .batch = l.y.batch, .m = l.y.rows, .n = a->rank, .k = a->out};
    g.b = hn_matrices_load(&l.b, a->b, hn_at(scratch, l.b_at));
    g.c = hn_matrices_begin(&l.s, a->ds, hn_at(scratch, l.s_at), NULL, 0);
    g.alpha = a->scale;
    hn_gemm(&g);
    hn_matrices_end(&l.s, g.c, a->ds);
    if (a->dx == NULL) return HN_OK;

    g.n = a->in;
    g.b = hn_matrices_load(&l.w, a->w, hn_at(scratch, l.w_at));
    g.c = hn_matrices_begin(&l.x, a->dx, hn_at(scratch, l.x_at), a->add, a->ld_add);
    g.alpha = 1.0f;
    g.beta = a->add ? 1.0f : 0.0f;
    hn_gemm(&g);

    const hn_result dx = g.c;
    g.k = a->rank;
    g.a = hn_matrices_load(&l.s, a->ds, hn_at(scratch, l.s_at));
    g.b = hn_matrices_load(&l.a, a->a, hn_at(scratch, l.a_at));
    if (a->drop.p > 0.0) {
        float *const low = hn_at(scratch, l.dropped_at);
        g.c = (hn_result){low, a->in, l.x.rows * a->in};
        g.beta = 0.0f;
        hn_gemm(&g);
        add_dropped(a, low, dx); /* rows of all replicas: dx.ld apart throughout */
    } else {
        g.beta = 1.0f;
        hn_gemm(&g);
    }
    hn_matrices_end(&l.x, dx, a->dx);
    return HN_OK;
}
