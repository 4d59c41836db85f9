/* activation.h - functions of one value; forward and backward.
 *
 *   y[i,j]  = round(f(x[i,j]))
 *   dx[i,j] = round(dy[i,j] * f'(x[i,j]))
 * and, where backward is asked for it, y once more with forward's bits: then nobody keeps y.
 *
 *   kind        f(v)                                    PyTorch, Transformers
 *   RELU        max(v, 0); f'(0) = 0                    relu
 *   GELU        v P(v)                                  gelu, "gelu"
 *   GELU_TANH   v (1 + tanh(u)) / 2 = v sigmoid(2 u),   gelu(approximate="tanh"), "gelu_new",
 *               u = sqrt(2 / pi) (v + 0.044715 v^3)     "gelu_pytorch_tanh"
 *   SILU        v sigmoid(v)                            silu
 *   QUICK_GELU  v sigmoid(1.702 v)                      "quick_gelu"
 *   ELU         v where v > 0, else exp(v) - 1          elu (alpha 1)
 * P is the normal distribution, P(v) = (1 + erf(v / sqrt(2))) / 2 (Hendrycks and Gimpel,
 * "Gaussian Error Linear Units", 2016).
 *
 * Shapes     [rows, cols], row-major, rows ld_* elements apart.
 * Precision  all f32 or all bf16; fp32 arithmetic, one rounding. fast: P within 1e-7, sigmoid
 *            within 4 ulp. CUDA in f32: within a few ulp; in bf16: P within 2e-7, sigmoid within
 *            2^-16 of itself, then the rounding to bf16. NaN stays NaN.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * RELU       backward reads y in place of x where it is given that: the sign is the same. So y may
 *            take over x.
 * Aliasing   y may be x; dx and backward's y may each be x or dy, but not the same one. In place
 *            means the same pointer and the same leading dimension.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype, kind), before the first write.
 */
#ifndef HN_ACTIVATION_H
#define HN_ACTIVATION_H

#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_ACT_RELU,
    HN_ACT_GELU,
    HN_ACT_GELU_TANH,
    HN_ACT_SILU,
    HN_ACT_QUICK_GELU,
    HN_ACT_ELU,
    HN_ACT_COUNT
} hn_activation_kind;

const char *hn_activation_name(int kind); /* "relu"; "?" behind the last */

typedef struct {
    const void *x; /* in  [rows, cols] */
    void *y;       /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_x, ld_y;
    hn_dtype dtype;
    int kind; /* hn_activation_kind */
} hn_activation_args;

HN_NODISCARD hn_status hn_activation_check(const hn_activation_args *a);
HN_NODISCARD hn_status hn_activation_fwd_cpu(const hn_activation_args *a);
HN_NODISCARD hn_status hn_activation_fwd_fast(const hn_activation_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_activation_fwd_cuda(const hn_activation_args *a,
                                                               hn_stream stream);

typedef struct {
    const void *x;  /* in  [rows, cols]; RELU: x or y */
    const void *dy; /* in  [rows, cols] */
    void *dx;       /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_x, ld_dy, ld_dx;
    hn_dtype dtype;
    int kind;
    void *y; /* out [rows, cols]; NULL: not wanted */
    int64_t ld_y;
} hn_activation_bwd_args;

HN_NODISCARD hn_status hn_activation_bwd_check(const hn_activation_bwd_args *a);
HN_NODISCARD hn_status hn_activation_bwd_cpu(const hn_activation_bwd_args *a);
HN_NODISCARD hn_status hn_activation_bwd_fast(const hn_activation_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_activation_bwd_cuda(const hn_activation_bwd_args *a,
                                                               hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
