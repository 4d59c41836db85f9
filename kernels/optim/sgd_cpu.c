#include "kernels/optim/sgd.h"

#include "kernels/optim/optim_range.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

hn_status hn_sgd_check(const hn_sgd_args *a)
{
    static const char op[] = "sgd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "p", a->p));
    HN_TRY(hn_check_pointer(op, "grad", a->grad));
    HN_TRY(hn_check_pointer(op, "step", a->step));
    HN_TRY(hn_optim_check_range_(op, a->n, a->n_zero, a->replicas, a->stride, a->grad_stride,
                                 a->step_stride));
    if (!(a->momentum >= 0.0f && a->momentum < 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: momentum %g must be in [0, 1)", op, (double)a->momentum);
    if (a->momentum > 0.0f) HN_TRY(hn_check_pointer(op, "buf", a->buf));
    if (a->nesterov && a->momentum == 0.0f)
        return HN_FAIL(HN_ERR_ARG, "%s: nesterov needs momentum", op);
    return hn_optim_check_rates_(op, a->weight_decay, a->lr_scale);
}

static void update_twin(const hn_sgd_args *a, int64_t r)
{
    const hn_step_block *s = a->step + r * a->step_stride;
    const double lr = (double)s->lr * (a->lr_scale != 0.0f ? (double)a->lr_scale : 1.0);
    const double momentum = (double)a->momentum;
    for (int64_t i = r * a->stride; i < r * a->stride + a->n; i++) {
        double u = (double)a->grad[r * a->grad_stride + i - r * a->stride] * (double)s->grad_scale +
                   (double)a->weight_decay * (double)a->p[i];
        if (momentum > 0.0) {
            const double buf = momentum * (double)a->buf[i] + u;
            u = a->nesterov ? u + momentum * buf : buf;
            a->buf[i] = (float)buf;
        }
        a->p[i] = (float)((double)a->p[i] - lr * u);
        if (a->work) a->work[i] = hn_bf16_from_f32(a->p[i]);
    }
}

hn_status hn_sgd_cpu(const hn_sgd_args *a)
{
    HN_TRY(hn_sgd_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        if (hn_optim_updates_(a->step + r * a->step_stride)) update_twin(a, r);
        for (int64_t i = 0; i < a->n_zero; i++) a->grad[r * a->grad_stride + i] = 0.0f;
    }
    return HN_OK;
}

/* Numbers of one replica, ready to multiply with. direct and carried weigh g and the new buf. */
typedef struct {
    float scale, decay, momentum, lr, direct, carried;
} factors;

HN_MULTIVERSION static void momentum_block(float *restrict p, const float *restrict grad,
                                           float *restrict buf, int64_t n, factors f)
{
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * f.scale + f.decay * p[i];
        buf[i] = f.momentum * buf[i] + g;
        p[i] -= f.lr * (f.direct * g + f.carried * buf[i]);
    }
}

HN_MULTIVERSION static void plain_block(float *restrict p, const float *restrict grad, int64_t n,
                                        factors f)
{
    for (int64_t i = 0; i < n; i++) p[i] -= f.lr * (grad[i] * f.scale + f.decay * p[i]);
}

static void update_fast(const hn_sgd_args *a, int64_t r)
{
    const hn_step_block *s = a->step + r * a->step_stride;
    const factors f = {.scale = s->grad_scale,
                       .decay = a->weight_decay,
                       .momentum = a->momentum,
                       .lr = s->lr * (a->lr_scale != 0.0f ? a->lr_scale : 1.0f),
                       .direct = a->nesterov ? 1.0f : 0.0f,
                       .carried = a->nesterov ? a->momentum : 1.0f};
    float *const grad = a->grad + r * a->grad_stride;
#pragma omp parallel for schedule(static) if (a->n > HN_OMP_MIN)
    for (int64_t b = 0; b < a->n; b += HN_OPTIM_BLOCK_) {
        const int64_t n = a->n - b < HN_OPTIM_BLOCK_ ? a->n - b : HN_OPTIM_BLOCK_;
        const int64_t i = r * a->stride + b;
        if (a->momentum > 0.0f)
            momentum_block(a->p + i, grad + b, a->buf + i, n, f);
        else
            plain_block(a->p + i, grad + b, n, f);
        if (a->work) hn_from_f32(a->p + i, n, a->work, HN_BF16, i);
    }
}

hn_status hn_sgd_fast(const hn_sgd_args *a)
{
    HN_TRY(hn_sgd_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        if (hn_optim_updates_(a->step + r * a->step_stride)) update_fast(a, r);
        memset(a->grad + r * a->grad_stride, 0, (size_t)a->n_zero * sizeof(float));
    }
    return HN_OK;
}
