/* pool2d.h - maxima and means over windows of channels-last images; forward and backward.
 *
 * Output pixel (p, q) of an image has the window of input pixels
 *   i = p stride - pad + u, j = q stride - pad + v,   u, v = 0 .. size-1
 * of which those outside the image are left out:
 *   MAX   y[p,q,c] = max x[i,j,c]                index[p,q,c] = u size + v of the first maximum
 *         dx[i,j,c] = sum of dy[p,q,c] over the windows whose index is (i, j)
 *   AVG   y[p,q,c] = round(sum of x[i,j,c] / count)
 *         dx[i,j,c] = round(sum of dy[p,q,c] / count over the windows that hold (i, j))
 *         count = size^2 with count_include_pad, else the pixels that are not left out
 * With relu, MAX only: y[p,q,c] = max(0, max x[i,j,c]), and where that maximum is not positive the
 * index is HN_POOL2D_NONE, which is no pixel's: as relu behind the pool, forward and backward.
 * With size 0 the window is the whole image: y[c] = mean of x, AVG only.
 * PyTorch: max_pool2d and avg_pool2d (whose default is count_include_pad) without ceil_mode and
 * dilation; adaptive_avg_pool2d to 1 x 1.
 *
 * Shapes     x, dx [n, h, w, c], y, dy [n, out_h, out_w, c], index the same with rows ld_index
 *            bytes apart; pixels ld_* elements apart, images behind each other. out_h and out_w
 *            are what hn_pool2d_out gives for h and w; 1 with size 0.
 * Precision  all f32 or all bf16. Sums in fp32 in the order of the windows (twin: fp64), one
 *            rounding. MAX copies bits; a NaN in the window is its maximum, the last one if there
 *            are several, as in PyTorch.
 * Limits     pixels and c 1 to 2^31 - 1, h and w to 2^30; 1 <= stride, 0 <= pad <= size / 2, size
 *            <= 2^15; MAX: size <= 16, so that an index is one byte, with relu <= 15. Any width and
 *            alignment.
 * Aliasing   none.
 * Repeats    bit for bit; fast: also for any number of threads. Each dx gathers what belongs to it.
 * CUDA       dx of AVG sums dy times 1 / count, itself rounded.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype; MAX with size 0 or above 16),
 *            before the first write.
 */
#ifndef HN_POOL2D_H
#define HN_POOL2D_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_POOL_MAX, HN_POOL_AVG } hn_pool_kind;

enum { HN_POOL2D_NONE = 255 };

typedef struct {
    int64_t n, h, w, c;   /* of x */
    int64_t out_h, out_w; /* of y */
    int64_t size, stride, pad;
    int kind; /* hn_pool_kind */
    bool count_include_pad;
    bool relu; /* of maxima; backward reads it in the index */
    hn_dtype dtype;
} hn_pool2d_shape;

/* Output pixels along an axis of `length`; 0 where no window fits. */
int64_t hn_pool2d_out(int64_t length, int64_t size, int64_t stride, int64_t pad);

typedef struct {
    hn_pool2d_shape s;
    const void *x;  /* in  [n, h, w, c] */
    void *y;        /* out [n, out_h, out_w, c] */
    uint8_t *index; /* out, the same; MAX only; NULL: not wanted */
    int64_t ld_x, ld_y, ld_index;
} hn_pool2d_args;

HN_NODISCARD hn_status hn_pool2d_check(const hn_pool2d_args *a);
HN_NODISCARD hn_status hn_pool2d_fwd_cpu(const hn_pool2d_args *a);
HN_NODISCARD hn_status hn_pool2d_fwd_fast(const hn_pool2d_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_pool2d_fwd_cuda(const hn_pool2d_args *a,
                                                           hn_stream stream);

typedef struct {
    hn_pool2d_shape s;
    const void *dy;       /* in  [n, out_h, out_w, c] */
    const uint8_t *index; /* in, the same; MAX: forward's; AVG: NULL */
    void *dx;             /* out [n, h, w, c] */
    int64_t ld_dy, ld_index, ld_dx;
} hn_pool2d_bwd_args;

HN_NODISCARD hn_status hn_pool2d_bwd_check(const hn_pool2d_bwd_args *a);
HN_NODISCARD hn_status hn_pool2d_bwd_cpu(const hn_pool2d_bwd_args *a);
HN_NODISCARD hn_status hn_pool2d_bwd_fast(const hn_pool2d_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_pool2d_bwd_cuda(const hn_pool2d_bwd_args *a,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
