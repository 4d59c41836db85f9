#include "kernels/linear/linear.h"

#include <inttypes.h>

#include "kernels/linear/linear_dw.h"
#include "runtime/base/check.h"

hn_status hn_linear_check(const hn_linear_args *a)
{
    HN_TRY(hn_check_pointer("linear", "args", a));
    HN_TRY(hn_check_float("linear", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("linear", "x", a->x, a->rows, a->in, a->ld_x));
    HN_TRY(hn_check_matrix("linear", "w", a->w, a->out, a->in, a->ld_w));
    HN_TRY(hn_check_matrix("linear", "y", a->y, a->rows, a->out, a->ld_y));
    HN_TRY(hn_check_replicas("linear", a->rows, a->replicas));
    HN_TRY(hn_check_read_stride("linear", "w", a->replicas, a->w_stride, a->out * a->ld_w));
    if (a->add) HN_TRY(hn_check_matrix("linear", "add", a->add, a->rows, a->out, a->ld_add));
    HN_TRY(hn_check_in_place("linear", a->add, a->ld_add, a->y, a->ld_y));
    if (a->bias == NULL) return HN_OK;
    HN_TRY(hn_check_float("linear", "bias_dtype", a->bias_dtype));
    return hn_check_read_stride("linear", "bias", a->replicas, a->bias_stride, a->out);
}

hn_status hn_linear_dx_check(const hn_linear_dx_args *a)
{
    HN_TRY(hn_check_pointer("linear_dx", "args", a));
    HN_TRY(hn_check_float("linear_dx", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("linear_dx", "dy", a->dy, a->rows, a->out, a->ld_dy));
    HN_TRY(hn_check_matrix("linear_dx", "w", a->w, a->out, a->in, a->ld_w));
    HN_TRY(hn_check_matrix("linear_dx", "dx", a->dx, a->rows, a->in, a->ld_dx));
    if (a->add) HN_TRY(hn_check_matrix("linear_dx", "add", a->add, a->rows, a->in, a->ld_add));
    HN_TRY(hn_check_in_place("linear_dx", a->add, a->ld_add, a->dx, a->ld_dx));
    HN_TRY(hn_check_replicas("linear_dx", a->rows, a->replicas));
    return hn_check_read_stride("linear_dx", "w", a->replicas, a->w_stride, a->out * a->ld_w);
}

hn_status hn_linear_dw_check(const hn_linear_dw_args *a)
{
    HN_TRY(hn_check_pointer("linear_dw", "args", a));
    HN_TRY(hn_check_float("linear_dw", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("linear_dw", "dy", a->dy, a->rows, a->out, a->ld_dy));
    HN_TRY(hn_check_matrix("linear_dw", "x", a->x, a->rows, a->in, a->ld_x));
    HN_TRY(hn_check_matrix("linear_dw", "dw", a->dw, a->out, a->in, a->ld_dw));
    HN_TRY(hn_check_replicas("linear_dw", a->rows, a->replicas));
    HN_TRY(hn_check_stride("linear_dw", "dw", a->replicas, a->dw_stride, a->out * a->ld_dw));
    return hn_dropout_check_key("linear_dw", &a->drop);
}

hn_status hn_linear_db_check(const hn_linear_db_args *a)
{
    HN_TRY(hn_check_pointer("linear_db", "args", a));
    HN_TRY(hn_check_float("linear_db", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("linear_db", "dy", a->dy, a->rows, a->out, a->ld_dy));
    HN_TRY(hn_check_pointer("linear_db", "db", a->db));
    HN_TRY(hn_check_replicas("linear_db", a->rows, a->replicas));
    if (a->still < 0 || a->n_still < 0 || a->n_still > a->out || a->still > a->out - a->n_still)
        return HN_FAIL(HN_ERR_SHAPE,
                       "linear_db: %" PRId64 " columns from %" PRId64 " on stay, of %" PRId64,
                       a->n_still, a->still, a->out);
    return hn_check_stride("linear_db", "db", a->replicas, a->db_stride, a->out);
}

static double alpha_of(float alpha) { return alpha == 0.0f ? 1.0 : (double)alpha; }

hn_status hn_linear_fwd_cpu(const hn_linear_args *a)
{
    HN_TRY(hn_linear_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t g = i / group;
        for (int64_t o = 0; o < a->out; o++) {
            double sum = 0.0;
            for (int64_t k = 0; k < a->in; k++)
                sum += (double)hn_get_f32(a->x, a->dtype, i * a->ld_x + k) *
                       (double)hn_get_f32(a->w, a->dtype, g * a->w_stride + o * a->ld_w + k);
            double y = alpha_of(a->alpha) * sum;
            if (a->bias) y += (double)hn_get_f32(a->bias, a->bias_dtype, g * a->bias_stride + o);
            if (a->add) y += (double)hn_get_f32(a->add, a->dtype, i * a->ld_add + o);
            hn_set_f32(a->y, a->dtype, i * a->ld_y + o, (float)y);
        }
    }
    return HN_OK;
}

hn_status hn_linear_dx_cpu(const hn_linear_dx_args *a)
{
    HN_TRY(hn_linear_dx_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t g = i / group;
        for (int64_t k = 0; k < a->in; k++) {
            double sum = 0.0;
            for (int64_t o = 0; o < a->out; o++)
                sum += (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + o) *
                       (double)hn_get_f32(a->w, a->dtype, g * a->w_stride + o * a->ld_w + k);
            double dx = alpha_of(a->alpha) * sum;
            if (a->add) dx += (double)hn_get_f32(a->add, a->dtype, i * a->ld_add + k);
            hn_set_f32(a->dx, a->dtype, i * a->ld_dx + k, (float)dx);
        }
    }
    return HN_OK;
}

/* x'[i,k]: dropped, and rounded to the storage type as in forward. */
static double operand(const hn_linear_dw_args *a, const hn_dropout_now *d, int64_t i, int64_t k)
{
    const float x = hn_get_f32(a->x, a->dtype, i * a->ld_x + k);
    if (a->drop.p == 0.0) return (double)x;
    return (double)hn_round_f32(a->dtype, hn_dropout_element(d, i, k, x));
}

hn_status hn_linear_dw_cpu(const hn_linear_dw_args *a)
{
    HN_TRY(hn_linear_dw_check(a));
    const int64_t replicas = hn_replica_count(a->replicas), group = a->rows / replicas;
    const hn_dropout_now d = hn_dropout_read(&a->drop);
    for (int64_t g = 0; g < replicas; g++)
        for (int64_t o = 0; o < a->out; o++)
            for (int64_t k = 0; k < a->in; k++) {
                double sum = 0.0;
                for (int64_t i = g * group; i < (g + 1) * group; i++)
                    sum += (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + o) *
                           operand(a, &d, i, k);
                float *const dw = a->dw + g * a->dw_stride + o * a->ld_dw + k;
                *dw = (float)((double)*dw + alpha_of(a->alpha) * sum);
            }
    return HN_OK;
}

hn_status hn_linear_db_cpu(const hn_linear_db_args *a)
{
    HN_TRY(hn_linear_db_check(a));
    const int64_t replicas = hn_replica_count(a->replicas), group = a->rows / replicas;
    for (int64_t g = 0; g < replicas; g++)
        for (int64_t o = 0; o < a->out; o++) {
            double sum = 0.0;
            if (hn_linear_db_is_still(a, o)) continue;
            for (int64_t i = g * group; i < (g + 1) * group; i++)
                sum += (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + o);
            float *const db = a->db + g * a->db_stride + o;
            *db = (float)((double)*db + alpha_of(a->alpha) * sum);
        }
    return HN_OK;
}
