/* One pass over the ranges (cuda_range.h), in the fp32 formulas of the fast CPU function. Every
 * rounding is written out: the same bits for any width of a thread. */
#include "kernels/optim/sgd.h"

#include "kernels/optim/cuda_range.h"
#include "kernels/optim/optim_range.h"

namespace {

struct Sgd {
    float *buf; /* nullptr with momentum 0 */
    float momentum, weight_decay, lr_scale;
    float direct, carried; /* weights of g and of the new buf */

    /* Numbers of one replica, ready to multiply with. */
    struct Factors {
        float scale, lr;
    };

    __device__ Factors factors_of(const hn_step_block *s) const
    {
        return {s->grad_scale, s->lr * (lr_scale != 0.0f ? lr_scale : 1.0f)};
    }

    template <int kWidth>
    __device__ __forceinline__ void span(const Factors &f, int64_t at, int64_t n,
                                         float (&p)[kWidth], const float (&grad)[kWidth]) const
    {
        float u[kWidth];
#pragma unroll
        for (int k = 0; k < kWidth; k++)
            u[k] = __fmaf_rn(grad[k], f.scale, __fmul_rn(weight_decay, p[k]));
        if (momentum > 0.0f) {
            float b[kWidth];
            hn_load_span<kWidth>(buf + at, n, b);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                b[k] = __fmaf_rn(momentum, b[k], u[k]);
                u[k] = __fmaf_rn(direct, u[k], __fmul_rn(carried, b[k]));
            }
            hn_store_span<kWidth>(buf + at, n, b);
        }
#pragma unroll
        for (int k = 0; k < kWidth; k++) p[k] = __fmaf_rn(-f.lr, u[k], p[k]);
    }
};

} // namespace

hn_status hn_sgd_many_cuda(const hn_sgd_args *a, int64_t n, hn_stream stream)
{
    hn_optim::Parts<Sgd> parts = {};
    HN_TRY(hn_optim_check_many_("sgd", n));
    for (int64_t i = 0; i < n; i++) {
        HN_TRY(hn_sgd_check(&a[i]));
        const hn_optim::Range r = hn_optim::range_of(&a[i]);
        float *const buf = a[i].momentum > 0.0f ? a[i].buf : nullptr;
        const Sgd update = {buf,
                            a[i].momentum,
                            a[i].weight_decay,
                            a[i].lr_scale,
                            a[i].nesterov ? 1.0f : 0.0f,
                            a[i].nesterov ? a[i].momentum : 1.0f};
        hn_optim::add_part(&parts, r, update, hn_optim::range_is_wide(r, buf, nullptr));
    }
    hn_optim::launch_parts(&parts, stream);
    return HN_CUDA_LAUNCHED("sgd");
}

hn_status hn_sgd_cuda(const hn_sgd_args *a, hn_stream stream)
{
    return hn_sgd_many_cuda(a, 1, stream);
}
