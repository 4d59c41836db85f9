/* One pass over the ranges (cuda_range.h), in the fp32 formulas of the fast CPU function. */
#include "kernels/optim/adamw.h"

#include "kernels/optim/cuda_adamw.h"
#include "kernels/optim/cuda_range.h"
#include "kernels/optim/optim_range.h"

namespace {

struct AdamW {
    float *m, *v;
    hn_optim::AdamWRates rates;

    using Factors = hn_optim::AdamWFactors; /* of one replica */

    __device__ Factors factors_of(const hn_step_block *s) const
    {
        return hn_optim::adamw_factors(rates, s, s->bias_correction1, s->bias_correction2);
    }

    template <int kWidth>
    __device__ __forceinline__ void span(const Factors &f, int64_t at, int64_t n,
                                         float (&p)[kWidth], const float (&grad)[kWidth]) const
    {
        float m1[kWidth], v1[kWidth];
        hn_load_span<kWidth>(m + at, n, m1);
        hn_load_span<kWidth>(v + at, n, v1);
#pragma unroll
        for (int k = 0; k < kWidth; k++)
            hn_optim::adamw_value(rates, f, grad[k], p[k], m1[k], v1[k]);
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
            a[i].m, a[i].v, {a[i].beta1, a[i].beta2, a[i].eps, a[i].weight_decay, a[i].lr_scale}};
        hn_optim::add_part(&parts, r, update, hn_optim::range_is_wide(r, a[i].m, a[i].v));
    }
    hn_optim::launch_parts(&parts, stream);
    return HN_CUDA_LAUNCHED("adamw");
}

hn_status hn_adamw_cuda(const hn_adamw_args *a, hn_stream stream)
{
    return hn_adamw_many_cuda(a, 1, stream);
}
