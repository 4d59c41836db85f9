/* All four products are one batched GEMM over the replicas; 16-bit operands become f32 first. */
#include "kernels/linear/gemm.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_dw.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

static float alpha_of(float alpha) { return alpha == 0.0f ? 1.0f : alpha; }

/* Places in the scratch, in floats. */
typedef struct {
    int64_t x, w, bias, y, n;
} layout;

static layout lay_out_fwd(const hn_linear_args *a)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    const bool copy = a->dtype != HN_F32;
    layout l = {0};
    l.x = hn_reserve(&l.n, copy, a->rows * a->in);
    l.w = hn_reserve(&l.n, copy, replicas * a->out * a->in);
    l.bias = hn_reserve(&l.n, a->bias != NULL && a->bias_dtype != HN_F32, replicas * a->out);
    l.y = hn_reserve(&l.n, copy, a->rows * a->out);
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
    const int64_t replicas = hn_replica_count(a->replicas), group = a->rows / replicas;
    const hn_operand x =
        hn_operand_f32(a->x, a->dtype, 1, 0, a->rows, a->in, a->ld_x, hn_at(scratch, l.x));
    const hn_operand w = hn_operand_f32(a->w, a->dtype, replicas, a->w_stride, a->out, a->in,
                                        a->ld_w, hn_at(scratch, l.w));
    hn_operand bias = {0};
    if (a->bias != NULL)
        bias = hn_operand_f32(a->bias, a->bias_dtype, replicas, a->bias_stride, 1, a->out, a->out,
                              hn_at(scratch, l.bias));
    const bool copy = a->dtype != HN_F32;
    float *const y = copy ? hn_at(scratch, l.y) : a->y;
    const int64_t ld_y = copy ? a->out : a->ld_y;
    if (copy && a->accumulate)
        (void)hn_operand_f32(a->y, a->dtype, 1, 0, a->rows, a->out, a->ld_y, y);
    hn_gemm(&(hn_gemm_args){.a = x.p,
                            .b = w.p,
                            .bias = bias.p,
                            .c = y,
                            .m = group,
                            .n = a->out,
                            .k = a->in,
                            .ld_a = x.ld,
                            .ld_b = w.ld,
                            .ld_c = ld_y,
                            .trans_b = true,
                            .alpha = alpha_of(a->alpha),
                            .beta = a->accumulate ? 1.0f : 0.0f,
                            .batch = replicas,
                            .stride_a = group * x.ld,
                            .stride_b = w.stride,
                            .stride_c = group * ld_y,
                            .stride_bias = bias.stride});
    if (copy) hn_matrix_from_f32(y, a->rows, a->out, a->y, a->dtype, a->ld_y);
    return HN_OK;
}

static layout lay_out_dx(const hn_linear_dx_args *a)
{
    const bool copy = a->dtype != HN_F32;
    layout l = {0};
    l.y = hn_reserve(&l.n, copy, a->rows * a->out);
    l.w = hn_reserve(&l.n, copy, hn_replica_count(a->replicas) * a->out * a->in);
    l.x = hn_reserve(&l.n, copy, a->rows * a->in);
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
    const int64_t replicas = hn_replica_count(a->replicas), group = a->rows / replicas;
    const hn_operand dy =
        hn_operand_f32(a->dy, a->dtype, 1, 0, a->rows, a->out, a->ld_dy, hn_at(scratch, l.y));
    const hn_operand w = hn_operand_f32(a->w, a->dtype, replicas, a->w_stride, a->out, a->in,
                                        a->ld_w, hn_at(scratch, l.w));
    const bool copy = a->dtype != HN_F32;
    float *const dx = copy ? hn_at(scratch, l.x) : a->dx;
    const int64_t ld_dx = copy ? a->in : a->ld_dx;
    if (copy && a->accumulate)
        (void)hn_operand_f32(a->dx, a->dtype, 1, 0, a->rows, a->in, a->ld_dx, dx);
    hn_gemm(&(hn_gemm_args){.a = dy.p,
                            .b = w.p,
                            .c = dx,
                            .m = group,
                            .n = a->in,
                            .k = a->out,
                            .ld_a = dy.ld,
                            .ld_b = w.ld,
                            .ld_c = ld_dx,
                            .alpha = alpha_of(a->alpha),
                            .beta = a->accumulate ? 1.0f : 0.0f,
                            .batch = replicas,
                            .stride_a = group * dy.ld,
                            .stride_b = w.stride,
                            .stride_c = group * ld_dx});
    if (copy) hn_matrix_from_f32(dx, a->rows, a->in, a->dx, a->dtype, a->ld_dx);
    return HN_OK;
}

static layout lay_out_dw(const hn_linear_dw_args *a)
{
    layout l = {0};
    l.y = hn_reserve(&l.n, a->dtype != HN_F32, a->rows * a->out);
    l.x = hn_reserve(&l.n, a->dtype != HN_F32 || a->drop.p > 0.0, a->rows * a->in);
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
    const int64_t replicas = hn_replica_count(a->replicas), group = a->rows / replicas;
    const hn_operand dy =
        hn_operand_f32(a->dy, a->dtype, 1, 0, a->rows, a->out, a->ld_dy, hn_at(scratch, l.y));
    hn_operand x = {hn_at(scratch, l.x), a->in, 0};
    if (a->drop.p > 0.0)
        hn_dropout_matrix_f32(&a->drop, 0, a->x, a->dtype, a->rows, a->in, a->ld_x,
                              hn_at(scratch, l.x));
    else
        x = hn_operand_f32(a->x, a->dtype, 1, 0, a->rows, a->in, a->ld_x, hn_at(scratch, l.x));
    hn_gemm(&(hn_gemm_args){.a = dy.p,
                            .b = x.p,
                            .c = a->dw,
                            .m = a->out,
                            .n = a->in,
                            .k = group,
                            .ld_a = dy.ld,
                            .ld_b = x.ld,
                            .ld_c = a->ld_dw,
                            .trans_a = true,
                            .alpha = alpha_of(a->alpha),
                            .beta = 1.0f,
                            .batch = replicas,
                            .stride_a = group * dy.ld,
                            .stride_b = group * x.ld,
                            .stride_c = a->dw_stride});
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
    for (int64_t j = 0; j < n; j++) db[j] += alpha_of(a->alpha) * total[j];
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
