/* One pass over the range (cuda_range.h), in the fp32 formulas of the fast CPU function. */
#include "kernels/optim/adamw.h"

#include "kernels/optim/cuda_adamw.h"
#include "kernels/optim/cuda_range.h"

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

hn_status hn_adamw_cuda(const hn_adamw_args *a, hn_stream stream)
{
    HN_TRY(hn_adamw_check(a));
    const hn_optim::Range r = hn_optim::range_of(a);
    const AdamW update = {a->m, a->v, {a->beta1, a->beta2, a->eps, a->weight_decay, a->lr_scale}};
    hn_optim::launch_range(r, update, hn_optim::range_is_wide(r, a->m, a->v), stream);
    return HN_CUDA_LAUNCHED("adamw");
}
