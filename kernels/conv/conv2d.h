/* conv2d.h - two-dimensional convolution: forward, and the gradients of its input and its weight.
 *
 *   y[n,p,q,o]    = round(sum_{r,s,c} x[n, i(p,r), j(q,s), first(o) + c] w[o,r,s,c] + bias[o])
 *                   (relu: max(0, .) of the sum before it is rounded)
 *   dx[n,i,j,k]   = round(sum over all (o,p,q,r,s,c) that read it of dy[n,p,q,o] w[o,r,s,c])
 *                   (+ add[n,i,j,k])
 *   dw[o,r,s,c]  += sum_{n,p,q} dy[n,p,q,o] x[n, i(p,r), j(q,s), first(o) + c]
 *
 *   i(p,r) = p stride - pad + r dilation, j(q,s) likewise; x is 0 outside the image
 *   c < in / groups; first(o) = o / (out / groups) * (in / groups)
 *   out_h = (h + 2 pad - dilation (kh - 1) - 1) / stride + 1, rounded down; out_w likewise
 *
 * PyTorch's conv2d (a cross-correlation, no flipped kernel) with zero padding, and the two halves
 * of its backward; its weight [out, in / groups, kh, kw] with the channel moved to the end.
 * groups = 1 is the usual convolution, groups = in a depthwise one. The gradient of the bias is
 * hn_linear_db_* (kernels/linear/linear_dw.h) with a row a pixel. dx and dw take dy as it arrives
 * at the sum: with relu the caller masks it by y > 0 first.
 *
 * Shapes     x, dx, add [n, h, w, in]; y, dy [n, out_h, out_w, out]; w, dw [out, kh kw in/groups]
 *            in the order kernel row, kernel column, channel; bias [out]. Channels last: a pixel's
 *            channels are adjacent; pixels of an image, and images, follow each other ld_*
 *            elements apart without other gaps. w and dw: rows ld_* elements apart. With
 *            `replicas` = G > 1 the n images are G equal groups in order, and group g uses the w
 *            and bias (adds to the dw) that start w_stride and bias_stride (dw_stride) elements
 *            after those of group g - 1; for w and bias 0 means that all groups share them.
 * Precision  x, w, y (dy, w, dx; dy, x) all f32 or all bf16, bias either, dw f32; fp32 arithmetic
 *            and sums, one rounding at the store, after the last addition. f32 means no TF32.
 * Limits     every dimension, and the rows n h w and n out_h out_w, 1 to 2^31 - 1; groups divides
 *            in and out; stride and dilation from 1, pad from 0; any width and alignment (fastest
 *            when pixels start on 16-byte boundaries).
 * Aliasing   add may be dx with the same leading dimension; no other overlap.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Cost       2 n out_h out_w out kh kw in/groups flops. Fast: patches of x (of dy for dx) are laid
 *            out in the scratch, a few hundred pixels at a time, and multiplied as matrices;
 *            kernels of 1 x 1 that move by 1 need no patches in f32, depthwise ones are computed
 *            where they lie.
 * CUDA       depthwise kernels of up to 192 taps as they lie, and forward and dw of up to 28 taps
 *            and 64 filters (3 x 3 pixels of 3 channels, 5 x 5 of one) over up to 131072 pixels of
 *            y a replica; else products by kernels/linear/gemm_cuda.h (what it says of bias and C0
 *            goes for bias and for `add` of 1 x 1 kernels) of x itself or of patches, 64 MiB of
 *            them at a time. Replicas are one batch of products, and their patches one launch, up
 *            to 1 GiB of them; with groups they go one by one. In bf16 without replicas, and where
 *            a row of patches is no multiple of 16 bytes (7 x 7 pixels of 3 channels), forward
 *            multiplies rows with zeros up to the next one by a copy of w that has zeros there,
 *            too. Sums in fp32; relu is a pass of its own, which rounds nothing. Limit: kh kw in,
 *            h + 2 pad and w + 2 pad below 2^31. conv2d_cudnn.h is the same through cuDNN.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_CONV2D_H
#define HN_CONV2D_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/linear/gemm_cuda.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t n, h, w;     /* images, and their height and width */
    int64_t in, out;     /* channels of x and of y */
    int64_t kh, kw;      /* of the kernel */
    int64_t stride, pad; /* of both axes */
    int64_t dilation;    /* of both axes; 1: none */
    int64_t groups;      /* 1: every output channel reads every input channel */
} hn_conv2d_shape;

static inline int64_t hn_conv2d_out_(const hn_conv2d_shape *s, int64_t size, int64_t kernel)
{
    const int64_t room = size + 2 * s->pad - s->dilation * (kernel - 1) - 1;
    return room < 0 ? 0 : room / s->stride + 1;
}

/* Height and width of y; 0 where the kernel is larger than the padded image. */
static inline int64_t hn_conv2d_out_h(const hn_conv2d_shape *s)
{
    return hn_conv2d_out_(s, s->h, s->kh);
}
static inline int64_t hn_conv2d_out_w(const hn_conv2d_shape *s)
{
    return hn_conv2d_out_(s, s->w, s->kw);
}
/* Columns of w: values that one element of y sums over. */
static inline int64_t hn_conv2d_taps(const hn_conv2d_shape *s)
{
    return s->kh * s->kw * (s->in / s->groups);
}

/* HN_ERR_SHAPE, with the operation's name before the reason, unless the limits above hold. */
HN_NODISCARD hn_status hn_conv2d_check_shape(const char *op, const hn_conv2d_shape *s);

typedef struct {
    const void *x;    /* in  [n, h, w, in] */
    const void *w;    /* in  [replicas][out, kh kw in/groups] */
    const void *bias; /* in  [replicas][out], NULL: none */
    void *y;          /* out [n, out_h, out_w, out] */
    hn_conv2d_shape shape;
    int64_t ld_x, ld_w, ld_y;
    int64_t replicas;              /* 0: no replica axis */
    int64_t w_stride, bias_stride; /* 0: shared by the replicas */
    hn_dtype dtype, bias_dtype;    /* bias_dtype: give dtype where there is no bias */
    bool relu;
} hn_conv2d_args;

HN_NODISCARD hn_status hn_conv2d_check(const hn_conv2d_args *a);
HN_NODISCARD hn_status hn_conv2d_fwd_cpu(const hn_conv2d_args *a);
/* scratch: hn_conv2d_fwd_fast_scratch bytes, float-aligned; may be NULL when that is 0. */
size_t hn_conv2d_fwd_fast_scratch(const hn_conv2d_args *a);
HN_NODISCARD hn_status hn_conv2d_fwd_fast(const hn_conv2d_args *a, void *scratch);
/* scratch: that many bytes, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_conv2d_fwd_cuda_scratch(const hn_conv2d_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_fwd_cuda(const hn_conv2d_args *a,
                                                           hn_gemm_cuda *gemm, void *scratch,
                                                           hn_stream stream);

typedef struct {
    const void *dy;  /* in  [n, out_h, out_w, out] */
    const void *w;   /* in  [replicas][out, kh kw in/groups] */
    const void *add; /* in  [n, h, w, in], NULL: none */
    void *dx;        /* out [n, h, w, in] */
    hn_conv2d_shape shape;
    int64_t ld_dy, ld_w, ld_add, ld_dx;
    int64_t replicas; /* 0: no replica axis */
    int64_t w_stride; /* 0: shared by the replicas */
    hn_dtype dtype;
} hn_conv2d_dx_args;

HN_NODISCARD hn_status hn_conv2d_dx_check(const hn_conv2d_dx_args *a);
HN_NODISCARD hn_status hn_conv2d_dx_cpu(const hn_conv2d_dx_args *a);
size_t hn_conv2d_dx_fast_scratch(const hn_conv2d_dx_args *a);
HN_NODISCARD hn_status hn_conv2d_dx_fast(const hn_conv2d_dx_args *a, void *scratch);
HN_CUDA_FUNCTION size_t hn_conv2d_dx_cuda_scratch(const hn_conv2d_dx_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_dx_cuda(const hn_conv2d_dx_args *a,
                                                          hn_gemm_cuda *gemm, void *scratch,
                                                          hn_stream stream);

typedef struct {
    const void *dy; /* in     [n, out_h, out_w, out] */
    const void *x;  /* in     [n, h, w, in] */
    float *dw;      /* in/out [replicas][out, kh kw in/groups] */
    hn_conv2d_shape shape;
    int64_t ld_dy, ld_x, ld_dw;
    int64_t replicas; /* 0: no replica axis */
    int64_t dw_stride;
    hn_dtype dtype; /* of dy and x */
} hn_conv2d_dw_args;

HN_NODISCARD hn_status hn_conv2d_dw_check(const hn_conv2d_dw_args *a);
HN_NODISCARD hn_status hn_conv2d_dw_cpu(const hn_conv2d_dw_args *a);
size_t hn_conv2d_dw_fast_scratch(const hn_conv2d_dw_args *a);
HN_NODISCARD hn_status hn_conv2d_dw_fast(const hn_conv2d_dw_args *a, void *scratch);
HN_CUDA_FUNCTION size_t hn_conv2d_dw_cuda_scratch(const hn_conv2d_dw_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_dw_cuda(const hn_conv2d_dw_args *a,
                                                          hn_gemm_cuda *gemm, void *scratch,
                                                          hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
