/* cuda_adamw.h - the arithmetic of adamw's kernels, for adamw and sparse_adamw (for .cu files of
 * this folder and of kernels/sparse only). Every rounding is written out: left to the compiler,
 * products are fused with sums differently from kernel to kernel, and the two must have the same
 * bits. */
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

/* 1 / x and 1 / sqrt(x) of a positive fp32 number, right to the last bits of a double: sparse_adamw
 * needs them for every other age, and division and root in double take five times as long. Of a
 * first guess r with error e the series 1 + e + e^2 and 1 + e/2 + 3/8 e^2 correct all but e^3. */
__device__ __forceinline__ double reciprocal(float x)
{
    const double r = __frcp_rn(x), e = fma(-(double)x, r, 1.0);
    return fma(r, fma(e, e, e), r);
}

__device__ __forceinline__ double reciprocal_root(float x)
{
    const double r = __frsqrt_rn(x), e = fma(-__dmul_rn(x, r), r, 1.0);
    return fma(r, __dmul_rn(e, fma(0.375, e, 0.5)), r);
}

__device__ __forceinline__ AdamWFactors adamw_factors(const AdamWRates &a, const hn_step_block *s,
                                                      float correction1, float correction2)
{
    const double lr = (double)s->lr * (a.lr_scale != 0.0f ? (double)a.lr_scale : 1.0);
    return {s->grad_scale, (float)fma(-lr, (double)a.weight_decay, 1.0),
            (float)__dmul_rn(lr, reciprocal(correction1)), (float)reciprocal_root(correction2)};
}

__device__ __forceinline__ void adamw_value(const AdamWRates &a, const AdamWFactors &f, float grad,
                                            float &p, float &m, float &v)
{
    const float g = __fmul_rn(grad, f.scale);
    m = fmaf(__fsub_rn(1.0f, a.beta1), __fsub_rn(g, m), m);
    v = fmaf(g, __fmul_rn(__fsub_rn(1.0f, a.beta2), g), __fmul_rn(a.beta2, v));
    const float root = fmaf(__fsqrt_rn(v), f.denominator, a.eps);
    p = __fsub_rn(__fmul_rn(p, f.keep), __fdiv_rn(__fmul_rn(f.step, m), root));
}

} // namespace hn_optim
#endif
