/* adamw.h - one AdamW update of a flat range, as torch.optim.AdamW (decoupled weight decay).
 *
 *   g  = grad * step->grad_scale                  lr = step->lr * lr_scale
 *   p  = p (1 - lr * weight_decay)
 *   m  = m + (1 - beta1) (g - m)                  v = beta2 v + (1 - beta2) g^2
 *   p -= lr / bias_correction1 * m / (sqrt(v) / sqrt(bias_correction2) + eps)
 *
 * work, when given, receives p rounded to bf16. Then grad[0 .. n_zero) = 0. lr, the bias
 * corrections, grad_scale and frozen come from the step block. With grad_scale 0 (grad_norm found
 * the gradient not finite, or no trained token) or frozen not 0, p, m, v and work stay as they
 * are; the gradient is zeroed all the same.
 *
 * Shapes     p, grad, m, v f32 and work bf16 [replicas][n]; replicas lie `stride` elements apart
 *            in p, m, v, work and grad_stride in grad. One step block, or one a replica.
 * Precision  fp32; the twin in double, rounded once at each store. The step block is device memory
 *            for CUDA.
 * Limits     n >= 1. n_zero is 0 (grad is kept), n, or more (what lies behind, like the token
 *            count); at most grad_stride with several replicas.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads: element by element.
 * Cost       reads 16 and writes 16 bytes an element (18 with work).
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_ADAMW_H
#define HN_ADAMW_H
#include <stdint.h>

#include "kernels/optim/optim_many.h"
#include "runtime/base/bf16.h"
#include "runtime/base/step_block.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float *p;                  /* i/o [replicas][n] trained values */
    float *grad;               /* i/o [replicas][n] sums over tokens */
    float *m, *v;              /* i/o [replicas][n] first and second moments */
    hn_bf16 *work;             /* out [replicas][n]; NULL: none */
    const hn_step_block *step; /* in  [1] or [replicas] */
    int64_t n, n_zero;
    int64_t replicas; /* 0: 1 */
    int64_t stride, grad_stride;
    int64_t step_stride; /* 1: a step block a replica; 0: one for all */
    float beta1, beta2;  /* 0 <= beta < 1 */
    float eps;           /* > 0 */
    float weight_decay;  /* >= 0 */
    float lr_scale;      /* of this range; 0: not given, 1 */
} hn_adamw_args;

HN_NODISCARD hn_status hn_adamw_check(const hn_adamw_args *a);
HN_NODISCARD hn_status hn_adamw_cpu(const hn_adamw_args *a);
HN_NODISCARD hn_status hn_adamw_fast(const hn_adamw_args *a); /* no scratch */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_adamw_cuda(const hn_adamw_args *a, hn_stream stream);
/* n updates, 1 to HN_OPTIM_MANY, of ranges that do not overlap, in one launch: the same bits. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_adamw_many_cuda(const hn_adamw_args *a, int64_t n,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
