/* One pass over the ranges (cuda_range.h), in the fp32 formulas of the fast CPU function. */
#include "kernels/optim/adamw.h"

#include "kernels/optim/cuda_range.h"
#include "kernels/optim/optim_range.h"

namespace {

struct AdamW {
    float *m, *v;
    float beta1, beta2, eps, weight_decay, lr_scale;

    /* Numbers of one replica, ready to multiply with. */
    struct Factors {
        float scale, keep, step, denominator;
    };

    __device__ Factors factors_of(const hn_step_block *s) const
    {
        const double lr = (double)s->lr * (lr_scale != 0.0f ? (double)lr_scale : 1.0);
        return {s->grad_scale, (float)(1.0 - lr * (double)weight_decay),
                (float)(lr / (double)s->bias_correction1),
                (float)(1.0 / sqrt((double)s->bias_correction2))};
    }

    template <int kWidth>
    __device__ __forceinline__ void span(const Factors &f, int64_t at, int64_t n,
                                         float (&p)[kWidth], const float (&grad)[kWidth]) const
    {
        float m1[kWidth], v1[kWidth];
        hn_load_span<kWidth>(m + at, n, m1);
        hn_load_span<kWidth>(v + at, n, v1);
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            const float g = grad[k] * f.scale;
            m1[k] = m1[k] + (1.0f - beta1) * (g - m1[k]);
            v1[k] = beta2 * v1[k] + (1.0f - beta2) * g * g;
            p[k] = p[k] * f.keep - f.step * m1[k] / (sqrtf(v1[k]) * f.denominator + eps);
        }
        hn_store_span<kWidth>(m + at, n, m1);
        hn_store_span<kWidth>(v + at, n, v1);
    }
};

} // namespace

hn_status hn_adamw_many_cuda(const hn_adamw_args *a, int64_t n, hn_stream stream)
{
    hn_optim::Parts<AdamW> parts = {};
    HN_TRY(hn_optim_check_many_("adamw", n));
    for (int64_t i = 0; i < n; i++) {
        HN_TRY(hn_adamw_check(&a[i]));
        const hn_optim::Range r = hn_optim::range_of(&a[i]);
        const AdamW update = {
            a[i].m, a[i].v, a[i].beta1, a[i].beta2, a[i].eps, a[i].weight_decay, a[i].lr_scale};
        hn_optim::add_part(&parts, r, update, hn_optim::range_is_wide(r, a[i].m, a[i].v));
    }
    hn_optim::launch_parts(parts, stream);
    return HN_CUDA_LAUNCHED("adamw");
}

hn_status hn_adamw_cuda(const hn_adamw_args *a, hn_stream stream)
{
    return hn_adamw_many_cuda(a, 1, stream);
}
