#include "kernels/optim/adamw.h"

#include "kernels/optim/adamw_values.h"
#include "kernels/optim/optim_range.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

hn_status hn_adamw_check(const hn_adamw_args *a)
{
    static const char op[] = "adamw";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "p", a->p));
    HN_TRY(hn_check_pointer(op, "grad", a->grad));
    HN_TRY(hn_check_pointer(op, "m", a->m));
    HN_TRY(hn_check_pointer(op, "v", a->v));
    HN_TRY(hn_check_pointer(op, "step", a->step));
    HN_TRY(hn_optim_check_range_(op, a->n, a->n_zero, a->replicas, a->stride, a->grad_stride,
                                 a->step_stride));
    HN_TRY(hn_optim_check_adam_(op, a->beta1, a->beta2, a->eps));
    return hn_optim_check_rates_(op, a->weight_decay, a->lr_scale);
}

static void update_twin(const hn_adamw_args *a, int64_t r)
{
    const hn_step_block *s = a->step + r * a->step_stride;
    const double lr = (double)s->lr * (a->lr_scale != 0.0f ? (double)a->lr_scale : 1.0);
    const double c1 = (double)s->bias_correction1, c2 = sqrt((double)s->bias_correction2);
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2;
    for (int64_t i = r * a->stride; i < r * a->stride + a->n; i++) {
        const double g =
            (double)a->grad[r * a->grad_stride + i - r * a->stride] * (double)s->grad_scale;
        const double m = (double)a->m[i] + (1.0 - beta1) * (g - (double)a->m[i]);
        const double v = beta2 * (double)a->v[i] + (1.0 - beta2) * g * g;
        const double p = (double)a->p[i] * (1.0 - lr * (double)a->weight_decay) -
                         lr / c1 * m / (sqrt(v) / c2 + (double)a->eps);
        a->m[i] = (float)m;
        a->v[i] = (float)v;
        a->p[i] = (float)p;
        if (a->work) a->work[i] = hn_bf16_from_f32(a->p[i]);
    }
}

hn_status hn_adamw_cpu(const hn_adamw_args *a)
{
    HN_TRY(hn_adamw_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        if (hn_optim_updates_(a->step + r * a->step_stride)) update_twin(a, r);
        for (int64_t i = 0; i < a->n_zero; i++) a->grad[r * a->grad_stride + i] = 0.0f;
    }
    return HN_OK;
}

hn_adamw_factors_ hn_adamw_factors_of_(const hn_adamw_args *a, const hn_step_block *s,
                                       float correction1, float correction2)
{
    const double lr = (double)s->lr * (a->lr_scale != 0.0f ? (double)a->lr_scale : 1.0);
    return (hn_adamw_factors_){.scale = s->grad_scale,
                               .keep = (float)(1.0 - lr * (double)a->weight_decay),
                               .beta1 = a->beta1,
                               .beta2 = a->beta2,
                               .step = (float)(lr / (double)correction1),
                               .denominator = (float)(1.0 / sqrt((double)correction2)),
                               .eps = a->eps};
}

HN_MULTIVERSION void hn_adamw_values_(float *restrict p, const float *restrict grad,
                                      float *restrict m, float *restrict v, int64_t n,
                                      hn_adamw_factors_ f)
{
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * f.scale;
        const float m1 = m[i] + (1.0f - f.beta1) * (g - m[i]);
        const float v1 = f.beta2 * v[i] + (1.0f - f.beta2) * g * g;
        p[i] = p[i] * f.keep - f.step * m1 / (sqrtf(v1) * f.denominator + f.eps);
        m[i] = m1;
        v[i] = v1;
    }
}

static void update_fast(const hn_adamw_args *a, int64_t r)
{
    const hn_step_block *s = a->step + r * a->step_stride;
    const hn_adamw_factors_ f =
        hn_adamw_factors_of_(a, s, s->bias_correction1, s->bias_correction2);
    float *const grad = a->grad + r * a->grad_stride;
#pragma omp parallel for schedule(static) if (a->n > HN_OMP_MIN)
    for (int64_t b = 0; b < a->n; b += HN_OPTIM_BLOCK_) {
        const int64_t n = a->n - b < HN_OPTIM_BLOCK_ ? a->n - b : HN_OPTIM_BLOCK_;
        const int64_t i = r * a->stride + b;
        hn_adamw_values_(a->p + i, grad + b, a->m + i, a->v + i, n, f);
        if (a->work) hn_from_f32(a->p + i, n, a->work, HN_BF16, i);
    }
}

hn_status hn_adamw_fast(const hn_adamw_args *a)
{
    HN_TRY(hn_adamw_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        if (hn_optim_updates_(a->step + r * a->step_stride)) update_fast(a, r);
        memset(a->grad + r * a->grad_stride, 0, (size_t)a->n_zero * sizeof(float));
    }
    return HN_OK;
}
