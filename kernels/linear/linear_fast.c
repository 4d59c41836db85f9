/* Each product is one GEMM, batched over the replicas; 16-bit operands become f32 first. */
#include "kernels/linear/gemm.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_dw.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

static float alpha_of(float alpha) { return alpha == 0.0f ? 1.0f : alpha; }

/* The operands and their places in the scratch, in floats. */
typedef struct {
    hn_matrices x, w, bias, y;
    int64_t x_at, w_at, bias_at, y_at, n;
} layout;

static layout lay_out_fwd(const hn_linear_args *a)
{
    const hn_dtype t = a->dtype;
    layout l = {.x = hn_activations(t, a->rows, a->replicas, a->in, a->ld_x),
                .w = hn_parameter(t, a->replicas, a->w_stride, a->out, a->in, a->ld_w),
                .bias = hn_parameter(a->bias_dtype, a->replicas, a->bias_stride, 1, a->out, a->out),
                .y = hn_activations(t, a->rows, a->replicas, a->out, a->ld_y)};
    const bool copy = t != HN_F32, copy_bias = a->bias_dtype != HN_F32;
    l.x_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.x));
    l.w_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.w));
    l.bias_at = hn_reserve(&l.n, copy_bias, hn_matrices_count(&l.bias));
    l.y_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.y));
    return l;
}

size_t hn_linear_fwd_fast_scratch(const hn_linear_args *a)
{
    return (size_t)lay_out_fwd(a).n * sizeof(float);
}

hn_status hn_linear_fwd_fast(const hn_linear_args *a, void *scratch)
{
    HN_TRY(hn_linear_check(a));
    const layout l = lay_out_fwd(a);
    if (l.n > 0) HN_TRY(hn_check_pointer("linear", "scratch", scratch));
    hn_gemm_args g = {.batch = l.x.batch,
                      .m = l.x.rows,
                      .n = a->out,
                      .k = a->in,
                      .trans_b = true,
                      .alpha = alpha_of(a->alpha),
                      .beta = a->add ? 1.0f : 0.0f};
    g.a = hn_matrices_load(&l.x, a->x, hn_at(scratch, l.x_at));
    g.b = hn_matrices_load(&l.w, a->w, hn_at(scratch, l.w_at));
    if (a->bias) g.bias = hn_matrices_load(&l.bias, a->bias, hn_at(scratch, l.bias_at));
    g.c = hn_matrices_begin(&l.y, a->y, hn_at(scratch, l.y_at), a->add, a->ld_add);
    hn_gemm(&g);
    hn_matrices_end(&l.y, g.c, a->y);
    return HN_OK;
}

static layout lay_out_dx(const hn_linear_dx_args *a)
{
    const hn_dtype t = a->dtype;
    layout l = {.x = hn_activations(t, a->rows, a->replicas, a->in, a->ld_dx),
                .w = hn_parameter(t, a->replicas, a->w_stride, a->out, a->in, a->ld_w),
                .y = hn_activations(t, a->rows, a->replicas, a->out, a->ld_dy)};
    l.x_at = hn_reserve(&l.n, t != HN_F32, hn_matrices_count(&l.x));
    l.w_at = hn_reserve(&l.n, t != HN_F32, hn_matrices_count(&l.w));
    l.y_at = hn_reserve(&l.n, t != HN_F32, hn_matrices_count(&l.y));
    return l;
}

size_t hn_linear_dx_fast_scratch(const hn_linear_dx_args *a)
{
    return (size_t)lay_out_dx(a).n * sizeof(float);
}

hn_status hn_linear_dx_fast(const hn_linear_dx_args *a, void *scratch)
{
    HN_TRY(hn_linear_dx_check(a));
    const layout l = lay_out_dx(a);
    if (l.n > 0) HN_TRY(hn_check_pointer("linear_dx", "scratch", scratch));
    hn_gemm_args g = {.batch = l.y.batch,
                      .m = l.y.rows,
                      .n = a->in,
                      .k = a->out,
                      .alpha = alpha_of(a->alpha),
                      .beta = a->add ? 1.0f : 0.0f};
    g.a = hn_matrices_load(&l.y, a->dy, hn_at(scratch, l.y_at));
    g.b = hn_matrices_load(&l.w, a->w, hn_at(scratch, l.w_at));
    g.c = hn_matrices_begin(&l.x, a->dx, hn_at(scratch, l.x_at), a->add, a->ld_add);
    hn_gemm(&g);
    hn_matrices_end(&l.x, g.c, a->dx);
    return HN_OK;
}

static layout lay_out_dw(const hn_linear_dw_args *a)
{
    layout l = {.x = hn_activations(a->dtype, a->rows, a->replicas, a->in, a->ld_x),
                .y = hn_activations(a->dtype, a->rows, a->replicas, a->out, a->ld_dy)};
    const bool copy = a->dtype != HN_F32;
    l.x_at = hn_reserve(&l.n, copy || a->drop.p > 0.0, hn_matrices_count(&l.x));
    l.y_at = hn_reserve(&l.n, copy, hn_matrices_count(&l.y));
    return l;
}

size_t hn_linear_dw_fast_scratch(const hn_linear_dw_args *a)
{
    return (size_t)lay_out_dw(a).n * sizeof(float);
}

hn_status hn_linear_dw_fast(const hn_linear_dw_args *a, void *scratch)
{
    HN_TRY(hn_linear_dw_check(a));
    const layout l = lay_out_dw(a);
    if (l.n > 0) HN_TRY(hn_check_pointer("linear_dw", "scratch", scratch));
    hn_gemm_args g = {.batch = l.y.batch,
                      .m = a->out,
                      .n = a->in,
                      .k = l.y.rows,
                      .trans_a = true,
                      .alpha = alpha_of(a->alpha),
                      .beta = 1.0f,
                      .c = {a->dw, a->ld_dw, a->dw_stride}};
    g.a = hn_matrices_load(&l.y, a->dy, hn_at(scratch, l.y_at));
    if (a->drop.p > 0.0) {
        float *const x = hn_at(scratch, l.x_at);
        hn_dropout_matrix_f32(&a->drop, a->x, a->dtype, a->rows, a->in, a->ld_x, x);
        g.b = (hn_operand){x, a->in, l.x.rows * a->in};
    } else {
        g.b = hn_matrices_load(&l.x, a->x, hn_at(scratch, l.x_at));
    }
    hn_gemm(&g);
    return HN_OK;
}

HN_MULTIVERSION static void add_to(const float *restrict x, int64_t n, float *restrict sum)
{
    for (int64_t j = 0; j < n; j++) sum[j] += x[j];
}

/* Sums over runs of RUN rows first, so that a long column loses no more than a short one. */
enum { RUN = 64, WIDTH = 64 };

static void sum_columns(const hn_linear_db_args *a, int64_t g, int64_t o, int64_t n)
{
    const int64_t group = a->rows / hn_replica_count(a->replicas), end = (g + 1) * group;
    float total[WIDTH] = {0}, buffer[HN_BLOCK];
    for (int64_t start = g * group; start < end; start += RUN) {
        float part[WIDTH] = {0};
        for (int64_t i = start; i < end && i < start + RUN; i++)
            add_to(hn_load_f32(a->dy, a->dtype, i * a->ld_dy + o, n, buffer), n, part);
        add_to(part, n, total);
    }
    float *const db = a->db + g * a->db_stride + o;
    for (int64_t j = 0; j < n; j++)
        if (!hn_linear_db_is_still(a, o + j)) db[j] += alpha_of(a->alpha) * total[j];
}

hn_status hn_linear_db_fast(const hn_linear_db_args *a)
{
    HN_TRY(hn_linear_db_check(a));
    const int64_t pieces = (a->out + WIDTH - 1) / WIDTH;
    const int64_t n = pieces * hn_replica_count(a->replicas);
#pragma omp parallel for schedule(static) if (a->rows * a->out > HN_OMP_MIN)
    for (int64_t i = 0; i < n; i++) {
        const int64_t o = i % pieces * WIDTH;
        sum_columns(a, i / pieces, o, a->out - o < WIDTH ? a->out - o : WIDTH);
    }
    return HN_OK;
}
