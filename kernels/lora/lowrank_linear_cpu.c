#include "kernels/lora/lowrank_linear.h"

#include <math.h>

#include "runtime/base/check.h"

static const char fwd[] = "lowrank_linear", bwd[] = "lowrank_linear_dx";

static hn_status check_scale(const char *op, float scale)
{
    if (isfinite(scale) && scale != 0.0f) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "%s: scale %g must be finite and not 0", op, (double)scale);
}

static hn_status check_tail(const char *op, const char *name, int64_t cols, int64_t tail,
                            int64_t ld)
{
    if (tail >= 0 && tail <= ld - cols) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE,
                   "%s: %lld elements behind a row of %s, rows of %lld lie %lld apart", op,
                   (long long)tail, name, (long long)cols, (long long)ld);
}

hn_status hn_lowrank_linear_check(const hn_lowrank_linear_args *a)
{
    HN_TRY(hn_check_pointer(fwd, "args", a));
    HN_TRY(hn_check_float(fwd, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(fwd, "x", a->x, a->rows, a->in, a->ld_x));
    HN_TRY(hn_check_matrix(fwd, "w", a->w, a->out, a->in, a->ld_w));
    HN_TRY(hn_check_matrix(fwd, "A", a->a, a->rank, a->in, a->ld_a));
    HN_TRY(hn_check_matrix(fwd, "B", a->b, a->out, a->rank, a->ld_b));
    HN_TRY(hn_check_matrix(fwd, "y", a->y, a->rows, a->out, a->ld_y));
    HN_TRY(hn_check_matrix(fwd, "s", a->s, a->rows, a->rank, a->ld_s));
    if (a->add) HN_TRY(hn_check_matrix(fwd, "add", a->add, a->rows, a->out, a->ld_add));
    HN_TRY(hn_check_in_place(fwd, a->add, a->ld_add, a->y, a->ld_y));
    HN_TRY(hn_check_replicas(fwd, a->rows, a->replicas));
    HN_TRY(hn_check_read_stride(fwd, "w", a->replicas, a->w_stride, a->out * a->ld_w));
    HN_TRY(hn_check_read_stride(fwd, "A", a->replicas, a->a_stride, a->rank * a->ld_a));
    HN_TRY(hn_check_read_stride(fwd, "B", a->replicas, a->b_stride, a->out * a->ld_b));
    HN_TRY(check_tail(fwd, "x", a->in, a->x_tail, a->ld_x));
    HN_TRY(check_scale(fwd, a->scale));
    HN_TRY(hn_dropout_check_key(fwd, &a->drop));
    if (a->bias == NULL) return HN_OK;
    HN_TRY(hn_check_float(fwd, "bias_dtype", a->bias_dtype));
    return hn_check_read_stride(fwd, "bias", a->replicas, a->bias_stride, a->out);
}

hn_status hn_lowrank_linear_dx_check(const hn_lowrank_linear_dx_args *a)
{
    HN_TRY(hn_check_pointer(bwd, "args", a));
    HN_TRY(hn_check_float(bwd, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(bwd, "dy", a->dy, a->rows, a->out, a->ld_dy));
    HN_TRY(hn_check_matrix(bwd, "B", a->b, a->out, a->rank, a->ld_b));
    HN_TRY(hn_check_matrix(bwd, "ds", a->ds, a->rows, a->rank, a->ld_ds));
    HN_TRY(hn_check_replicas(bwd, a->rows, a->replicas));
    HN_TRY(hn_check_read_stride(bwd, "B", a->replicas, a->b_stride, a->out * a->ld_b));
    HN_TRY(check_tail(bwd, "dy", a->out, a->dy_tail, a->ld_dy));
    HN_TRY(check_scale(bwd, a->scale));
    HN_TRY(hn_dropout_check_key(bwd, &a->drop));
    if (a->dx == NULL) return HN_OK;
    HN_TRY(hn_check_matrix(bwd, "w", a->w, a->out, a->in, a->ld_w));
    HN_TRY(hn_check_matrix(bwd, "A", a->a, a->rank, a->in, a->ld_a));
    HN_TRY(hn_check_matrix(bwd, "dx", a->dx, a->rows, a->in, a->ld_dx));
    if (a->add) HN_TRY(hn_check_matrix(bwd, "add", a->add, a->rows, a->in, a->ld_add));
    HN_TRY(hn_check_in_place(bwd, a->add, a->ld_add, a->dx, a->ld_dx));
    HN_TRY(hn_check_read_stride(bwd, "w", a->replicas, a->w_stride, a->out * a->ld_w));
    return hn_check_read_stride(bwd, "A", a->replicas, a->a_stride, a->rank * a->ld_a);
}

/* Row i of s. */
static void make_s(const hn_lowrank_linear_args *a, const hn_dropout_now *d, int64_t i, int64_t g)
{
    for (int64_t r = 0; r < a->rank; r++) {
        double sum = 0.0;
        for (int64_t k = 0; k < a->in; k++) {
            float x = hn_get_f32(a->x, a->dtype, i * a->ld_x + k);
            if (a->drop.p > 0.0) x = hn_round_f32(a->dtype, hn_dropout_element(d, i, k, x));
            const float w = hn_get_f32(a->a, a->dtype, g * a->a_stride + r * a->ld_a + k);
            sum += (double)x * (double)w;
        }
        hn_set_f32(a->s, a->dtype, i * a->ld_s + r, (float)((double)a->scale * sum));
    }
}

hn_status hn_lowrank_linear_fwd_cpu(const hn_lowrank_linear_args *a)
{
    HN_TRY(hn_lowrank_linear_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    const hn_dropout_now d = hn_dropout_read(&a->drop);
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t g = i / group;
        make_s(a, &d, i, g);
        for (int64_t o = 0; o < a->out; o++) {
            double base = 0.0, low = 0.0;
            for (int64_t k = 0; k < a->in; k++)
                base += (double)hn_get_f32(a->x, a->dtype, i * a->ld_x + k) *
                        (double)hn_get_f32(a->w, a->dtype, g * a->w_stride + o * a->ld_w + k);
            for (int64_t r = 0; r < a->rank; r++)
                low += (double)hn_get_f32(a->s, a->dtype, i * a->ld_s + r) *
                       (double)hn_get_f32(a->b, a->dtype, g * a->b_stride + o * a->ld_b + r);
            double y = base + low;
            if (a->bias) y += (double)hn_get_f32(a->bias, a->bias_dtype, g * a->bias_stride + o);
            if (a->add) y += (double)hn_get_f32(a->add, a->dtype, i * a->ld_add + o);
            hn_set_f32(a->y, a->dtype, i * a->ld_y + o, (float)y);
        }
    }
    return HN_OK;
}

/* Row i of ds. */
static void make_ds(const hn_lowrank_linear_dx_args *a, int64_t i, int64_t g)
{
    for (int64_t r = 0; r < a->rank; r++) {
        double sum = 0.0;
        for (int64_t o = 0; o < a->out; o++)
            sum += (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + o) *
                   (double)hn_get_f32(a->b, a->dtype, g * a->b_stride + o * a->ld_b + r);
        hn_set_f32(a->ds, a->dtype, i * a->ld_ds + r, (float)((double)a->scale * sum));
    }
}

hn_status hn_lowrank_linear_dx_cpu(const hn_lowrank_linear_dx_args *a)
{
    HN_TRY(hn_lowrank_linear_dx_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    const hn_dropout_now d = hn_dropout_read(&a->drop);
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t g = i / group;
        make_ds(a, i, g);
        for (int64_t k = 0; a->dx != NULL && k < a->in; k++) {
            double base = 0.0, low = 0.0;
            for (int64_t o = 0; o < a->out; o++)
                base += (double)hn_get_f32(a->dy, a->dtype, i * a->ld_dy + o) *
                        (double)hn_get_f32(a->w, a->dtype, g * a->w_stride + o * a->ld_w + k);
            for (int64_t r = 0; r < a->rank; r++)
                low += (double)hn_get_f32(a->ds, a->dtype, i * a->ld_ds + r) *
                       (double)hn_get_f32(a->a, a->dtype, g * a->a_stride + r * a->ld_a + k);
            if (a->drop.p > 0.0) low *= (double)hn_dropout_element(&d, i, k, 1.0f);
            double dx = base + low;
            if (a->add) dx += (double)hn_get_f32(a->add, a->dtype, i * a->ld_add + k);
            hn_set_f32(a->dx, a->dtype, i * a->ld_dx + k, (float)dx);
        }
    }
    return HN_OK;
}
