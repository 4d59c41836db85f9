/* The twin: plain loops, sums in double. */
#include <math.h>

#include "kernels/lora/lowrank_norm.h"
#include "runtime/base/check.h"

static const char name[] = "lowrank_norm";

hn_status hn_lowrank_norm_check(const hn_lowrank_norm_args *a)
{
    HN_TRY(hn_check_pointer(name, "args", a));
    HN_TRY(hn_check_float(name, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(name, "w", a->w, a->out, a->in, a->ld_w));
    HN_TRY(hn_check_matrix(name, "A", a->a, a->rank, a->in, a->ld_a));
    HN_TRY(hn_check_matrix(name, "B", a->b, a->out, a->rank, a->ld_b));
    HN_TRY(hn_check_pointer(name, "squares", a->squares));
    return hn_check_pointer(name, "norm", a->norm);
}

static double dot(const void *x, int64_t at_x, const void *y, int64_t at_y, int64_t n, hn_dtype t)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += (double)hn_get_f32(x, t, at_x + k) * (double)hn_get_f32(y, t, at_y + k);
    return sum;
}

hn_status hn_lowrank_norm_cpu(const hn_lowrank_norm_args *a)
{
    HN_TRY(hn_lowrank_norm_check(a));
    const double s = (double)a->scale;
    for (int64_t o = 0; o < a->out; o++) {
        double cross = 0, own = 0;
        for (int64_t r = 0; r < a->rank; r++) {
            const double b = (double)hn_get_f32(a->b, a->dtype, o * a->ld_b + r);
            cross += b * dot(a->w, o * a->ld_w, a->a, r * a->ld_a, a->in, a->dtype);
            for (int64_t q = 0; q < a->rank; q++)
                own += b * (double)hn_get_f32(a->b, a->dtype, o * a->ld_b + q) *
                       dot(a->a, r * a->ld_a, a->a, q * a->ld_a, a->in, a->dtype);
        }
        const double w = (double)a->squares[o], x = 2 * s * cross, y = s * s * own;
        const double sum = w + x + y;
        const double least = (double)HN_LOWRANK_NORM_LEAST * (w + fabs(x) + fabs(y));
        a->norm[o] = (float)sqrt(sum < least ? least : sum);
    }
    return HN_OK;
}
