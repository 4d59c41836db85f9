/* cuda_adamw.h - the arithmetic of adamw's kernels, for adamw and sparse_adamw (for .cu files of
 * this folder and of kernels/sparse only). */
#ifndef HN_CUDA_ADAMW_H
#define HN_CUDA_ADAMW_H
#include "runtime/base/cuda_math.h"
#include "runtime/base/step_block.h"

namespace hn_optim {

struct AdamWRates {
    float beta1, beta2, eps, weight_decay, lr_scale;
};

/* Numbers of one update, ready to multiply with. */
struct AdamWFactors {
    float scale, keep, step, denominator;
};

__device__ __forceinline__ AdamWFactors adamw_factors(const AdamWRates &a, const hn_step_block *s,
                                                      float correction1, float correction2)
{
    const double lr = (double)s->lr * (a.lr_scale != 0.0f ? (double)a.lr_scale : 1.0);
    return {s->grad_scale, (float)(1.0 - lr * (double)a.weight_decay),
            (float)(lr / (double)correction1), (float)(1.0 / sqrt((double)correction2))};
}

__device__ __forceinline__ void adamw_value(const AdamWRates &a, const AdamWFactors &f, float grad,
                                            float &p, float &m, float &v)
{
    const float g = grad * f.scale;
    m = m + (1.0f - a.beta1) * (g - m);
    v = a.beta2 * v + (1.0f - a.beta2) * g * g;
    p = p * f.keep - f.step * m / (sqrtf(v) * f.denominator + a.eps);
}

} // namespace hn_optim
#endif
