/* One pass over the range (cuda_range.h), in the fp32 formulas of the fast CPU function. */
#include "kernels/optim/sgd.h"

#include "kernels/optim/cuda_range.h"

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
        for (int k = 0; k < kWidth; k++) u[k] = grad[k] * f.scale + weight_decay * p[k];
        if (momentum > 0.0f) {
            float b[kWidth];
            hn_load_span<kWidth>(buf + at, n, b);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                b[k] = momentum * b[k] + u[k];
                u[k] = direct * u[k] + carried * b[k];
            }
            hn_store_span<kWidth>(buf + at, n, b);
        }
#pragma unroll
        for (int k = 0; k < kWidth; k++) p[k] -= f.lr * u[k];
    }
};

} // namespace

hn_status hn_sgd_cuda(const hn_sgd_args *a, hn_stream stream)
{
    HN_TRY(hn_sgd_check(a));
    const hn_optim::Range r = hn_optim::range_of(a);
    float *const buf = a->momentum > 0.0f ? a->buf : nullptr;
    const Sgd update = {buf,
                        a->momentum,
                        a->weight_decay,
                        a->lr_scale,
                        a->nesterov ? 1.0f : 0.0f,
                        a->nesterov ? a->momentum : 1.0f};
    hn_optim::launch_range(r, update, hn_optim::range_is_wide(r, buf, nullptr), stream);
    return HN_CUDA_LAUNCHED("sgd");
}
