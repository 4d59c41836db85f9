/* shortcut_a.h - the shortcut without weights of residual networks for CIFAR; forward and backward.
 *
 *   y[n,p,q,k]  = x[n, p stride, q stride, k - (co - ci) / 2], or 0 where x has no such channel
 *   dx[n,i,j,k] = dy[n, i / stride, j / stride, k + (co - ci) / 2] where stride divides i and j,
 *                 else 0
 * Option A of He et al., "Deep Residual Learning for Image Recognition", 2015, with as many zero
 * channels before as behind. In PyTorch, [n, c, h, w]: pad(x[:, :, ::stride, ::stride],
 * (0, 0, 0, 0, (co - ci) / 2, (co - ci) / 2)).
 *
 * Shapes     x, dx [n, h, w, ci]; y, dy [n, out_h, out_w, co] with out_h = ceil(h / stride), out_w
 *            too; pixels ld_* elements apart, images behind each other.
 * Precision  all f32 or all bf16; bits are copied.
 * Limits     pixels 1 to 2^31 - 1, channels too; co - ci even and not negative. Any alignment.
 * Aliasing   none.
 * Repeats    the same bits everywhere.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_SHORTCUT_A_H
#define HN_SHORTCUT_A_H

#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t n, h, w, ci; /* of x */
    int64_t co, stride;
    hn_dtype dtype;
} hn_shortcut_a_shape;

/* Output pixels along an axis of `length`. */
static inline int64_t hn_shortcut_a_out(int64_t length, int64_t stride)
{
    return (length + stride - 1) / stride;
}

typedef struct {
    hn_shortcut_a_shape s;
    const void *x; /* in  [n, h, w, ci] */
    void *y;       /* out [n, out_h, out_w, co] */
    int64_t ld_x, ld_y;
} hn_shortcut_a_args;

HN_NODISCARD hn_status hn_shortcut_a_check(const hn_shortcut_a_args *a);
HN_NODISCARD hn_status hn_shortcut_a_fwd_cpu(const hn_shortcut_a_args *a);
HN_NODISCARD hn_status hn_shortcut_a_fwd_fast(const hn_shortcut_a_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_shortcut_a_fwd_cuda(const hn_shortcut_a_args *a,
                                                               hn_stream stream);

typedef struct {
    hn_shortcut_a_shape s;
    const void *dy; /* in  [n, out_h, out_w, co] */
    void *dx;       /* out [n, h, w, ci] */
    int64_t ld_dy, ld_dx;
} hn_shortcut_a_bwd_args;

HN_NODISCARD hn_status hn_shortcut_a_bwd_check(const hn_shortcut_a_bwd_args *a);
HN_NODISCARD hn_status hn_shortcut_a_bwd_cpu(const hn_shortcut_a_bwd_args *a);
HN_NODISCARD hn_status hn_shortcut_a_bwd_fast(const hn_shortcut_a_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_shortcut_a_bwd_cuda(const hn_shortcut_a_bwd_args *a,
                                                               hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
