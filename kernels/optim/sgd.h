/* sgd.h - one SGD update of a flat range, as torch.optim.SGD (dampening 0, coupled weight decay).
 *
 *   g   = grad * step->grad_scale + weight_decay * p          lr = step->lr * lr_scale
 *   buf = momentum * buf + g                                  (momentum > 0; buf starts at 0)
 *   u   = nesterov ? g + momentum * buf : buf                 (momentum 0: u = g)
 *   p  -= lr * u
 *
 * work, when given, receives p rounded to bf16. Then grad[0 .. n_zero) = 0. With grad_scale 0 or
 * frozen not 0, p, buf and work stay as they are; the gradient is zeroed all the same.
 *
 * Shapes     p, grad, buf f32 and work bf16 [replicas][n]; replicas lie `stride` elements apart in
 *            p, buf, work and grad_stride in grad. One step block, or one a replica.
 * Precision  fp32; the twin in double, rounded once at each store. The step block is device memory
 *            for CUDA.
 * Limits     n >= 1; n_zero as in adamw.h. nesterov needs momentum > 0.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads: element by element.
 * Cost       reads 12 and writes 12 bytes an element with momentum.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_SGD_H
#define HN_SGD_H
#include <stdbool.h>
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
    float *buf;                /* i/o [replicas][n]; may be NULL with momentum 0 */
    hn_bf16 *work;             /* out [replicas][n]; NULL: none */
    const hn_step_block *step; /* in  [1] or [replicas] */
    int64_t n, n_zero;
    int64_t replicas; /* 0: 1 */
    int64_t stride, grad_stride;
    int64_t step_stride; /* 1: a step block a replica; 0: one for all */
    float momentum;      /* 0 <= momentum < 1 */
    float weight_decay;  /* >= 0 */
    float lr_scale;      /* of this range; 0: not given, 1 */
    bool nesterov;
} hn_sgd_args;

HN_NODISCARD hn_status hn_sgd_check(const hn_sgd_args *a);
HN_NODISCARD hn_status hn_sgd_cpu(const hn_sgd_args *a);
HN_NODISCARD hn_status hn_sgd_fast(const hn_sgd_args *a); /* no scratch */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_sgd_cuda(const hn_sgd_args *a, hn_stream stream);
/* n updates, 1 to HN_OPTIM_MANY, of ranges that do not overlap, in one launch: the same bits. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_sgd_many_cuda(const hn_sgd_args *a, int64_t n,
                                                         hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
