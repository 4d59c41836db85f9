/* The twin: plain loops, sums in double. */
#include "kernels/lora/lowrank_weight.h"

#include "runtime/base/check.h"

static const char fwd[] = "lowrank_weight", bwd[] = "lowrank_weight_bwd";

hn_status hn_lowrank_weight_check(const hn_lowrank_weight_args *a)
{
    HN_TRY(hn_check_pointer(fwd, "args", a));
    HN_TRY(hn_check_float(fwd, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(fwd, "w", a->w, a->out, a->in, a->ld_w));
    HN_TRY(hn_check_matrix(fwd, "A", a->a, a->rank, a->in, a->ld_a));
    HN_TRY(hn_check_matrix(fwd, "B", a->b, a->out, a->rank, a->ld_b));
    HN_TRY(hn_check_matrix(fwd, "y", a->y, a->out, a->in, a->ld_y));
    return hn_check_in_place(fwd, a->w, a->ld_w, a->y, a->ld_y);
}

hn_status hn_lowrank_weight_bwd_check(const hn_lowrank_weight_bwd_args *a)
{
    HN_TRY(hn_check_pointer(bwd, "args", a));
    HN_TRY(hn_check_float(bwd, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(bwd, "dy", a->dy, a->out, a->in, a->ld_dy));
    HN_TRY(hn_check_matrix(bwd, "A", a->a, a->rank, a->in, a->ld_a));
    HN_TRY(hn_check_matrix(bwd, "B", a->b, a->out, a->rank, a->ld_b));
    if (a->da) HN_TRY(hn_check_matrix(bwd, "dA", a->da, a->rank, a->in, a->ld_da));
    return a->db ? hn_check_matrix(bwd, "dB", a->db, a->out, a->rank, a->ld_db) : HN_OK;
}

static double at(const void *p, hn_dtype t, int64_t i) { return (double)hn_get_f32(p, t, i); }

hn_status hn_lowrank_weight_fwd_cpu(const hn_lowrank_weight_args *a)
{
    HN_TRY(hn_lowrank_weight_check(a));
    for (int64_t i = 0; i < a->out; i++)
        for (int64_t j = 0; j < a->in; j++) {
            double low = 0;
            for (int64_t r = 0; r < a->rank; r++)
                low += at(a->b, a->dtype, i * a->ld_b + r) * at(a->a, a->dtype, r * a->ld_a + j);
            const double y = at(a->w, a->dtype, i * a->ld_w + j) + (double)a->scale * low;
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j, (float)y);
        }
    return HN_OK;
}

static void add_da(const hn_lowrank_weight_bwd_args *a, int64_t r, int64_t j)
{
    double sum = 0;
    for (int64_t i = 0; i < a->out; i++)
        sum += at(a->b, a->dtype, i * a->ld_b + r) * (double)a->dy[i * a->ld_dy + j];
    a->da[r * a->ld_da + j] += (float)((double)a->scale * sum);
}

static void add_db(const hn_lowrank_weight_bwd_args *a, int64_t i, int64_t r)
{
    double sum = 0;
    for (int64_t j = 0; j < a->in; j++)
        sum += (double)a->dy[i * a->ld_dy + j] * at(a->a, a->dtype, r * a->ld_a + j);
    a->db[i * a->ld_db + r] += (float)((double)a->scale * sum);
}

hn_status hn_lowrank_weight_bwd_cpu(const hn_lowrank_weight_bwd_args *a)
{
    HN_TRY(hn_lowrank_weight_bwd_check(a));
    for (int64_t r = 0; r < a->rank; r++) {
        for (int64_t j = 0; a->da != NULL && j < a->in; j++) add_da(a, r, j);
        for (int64_t i = 0; a->db != NULL && i < a->out; i++) add_db(a, i, r);
    }
    return HN_OK;
}
