/* conv3d.h - three-dimensional convolution: forward, and the gradients of its input and its weight.
 *
 *   y[n,p,q,v,o]   = round(sum_{r,s,t,c} x[n, i(p,r), i(q,s), i(v,t), c] w[o,r,s,t,c] + bias[o])
 *   dx[n,i,j,k,c]  = round(sum of dy[n,p,q,v,o] w[o,r,s,t,c] over all (o,p,q,v,r,s,t) that read it
 *                          (+ add[n,i,j,k,c]))
 *   dw[o,r,s,t,c] += sum_{n,p,q,v} dy[n,p,q,v,o] x[n, i(p,r), i(q,s), i(v,t), c]
 *
 *   i(p,r) = p stride - pad + r dilation on each axis; x is 0 outside the volume
 *   out_d = (d + 2 pad - dilation (kd - 1) - 1) / stride + 1, rounded down; out_h, out_w likewise
 *
 * PyTorch's conv3d (a cross-correlation) with zero padding and one group, and the two halves of its
 * backward; its weight [out, in, kd, kh, kw] with the channel moved to the end. The gradient of the
 * bias is hn_linear_db_* (kernels/linear/linear_dw.h) with a row a voxel.
 *
 * Shapes     x, dx, add [n, d, h, w, in]; y, dy [n, out_d, out_h, out_w, out]; w, dw [out, kd kh kw
 *            in] in the order plane, row, column of the kernel, channel; bias [out]. Channels last:
 *            voxels of a volume, and volumes, follow each other ld_* elements apart without other
 *            gaps. w and dw: rows ld_* elements apart. With `replicas` = G > 1 the n volumes are G
 *            equal groups in order, and group g uses the w and bias (adds to the dw) that start
 *            w_stride and bias_stride (dw_stride) elements after those of group g - 1; for w and
 *            bias 0 means that all groups share them.
 * Precision  x, w, y (dy, w, dx; dy, x) all f32 or all bf16, bias either, dw f32; fp32 arithmetic
 *            and sums, one rounding at the store, after the last addition. f32 means no TF32.
 * Limits     every dimension, the voxels of x and y, the columns of w, and each padded side
 *            1 to 2^31 - 1; stride and dilation from 1, pad from 0; any width and alignment
 *            (fastest when voxels start on 16-byte boundaries).
 * Aliasing   add may be dx with the same leading dimension; no other overlap.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Cost       2 n out_d out_h out_w out kd kh kw in flops. Fast: a thread turns the lines of x that
 *            a line of y sees into planes of one channel, and keeps them for the next line: the
 *            scratch is a few lines a thread and does not grow with the volume. A stride costs dx
 *            as much as if y had as many voxels as x.
 * CUDA       direct kernels, which see x (dy) through the caches, without scratch, where up to 64
 *            channels are read and up to 32 made, and dx has stride 1; dw of up to 32 channels on
 *            both sides by sums of blocks, added in order. bf16, 3 x 3 x 3, stride and dilation 1,
 *            voxels on 16-byte boundaries: the same on the tensor cores (forward and dx from 48
 *            channels to 32, from 16 products of channels on; dw of 64 and 32). Else products by
 *            kernels/linear/gemm_cuda.h (what it says of bias and C0 goes for bias and `add`) of
 *            patches, 64 MiB of them at a time. Sums in fp32.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_CONV3D_H
#define HN_CONV3D_H

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
    int64_t n, d, h, w;            /* volumes, and their planes, rows and columns */
    int64_t in, out;               /* channels of x and of y */
    int64_t kd, kh, kw;            /* of the kernel */
    int64_t stride, pad, dilation; /* of all axes; dilation 1: none */
} hn_conv3d_shape;

static inline int64_t hn_conv3d_out_(const hn_conv3d_shape *s, int64_t size, int64_t kernel)
{
    const int64_t room = size + 2 * s->pad - s->dilation * (kernel - 1) - 1;
    return room < 0 ? 0 : room / s->stride + 1;
}

/* Planes, rows and columns of y; 0 where the kernel is larger than the padded volume. */
static inline int64_t hn_conv3d_out_d(const hn_conv3d_shape *s)
{
    return hn_conv3d_out_(s, s->d, s->kd);
}
static inline int64_t hn_conv3d_out_h(const hn_conv3d_shape *s)
{
    return hn_conv3d_out_(s, s->h, s->kh);
}
static inline int64_t hn_conv3d_out_w(const hn_conv3d_shape *s)
{
    return hn_conv3d_out_(s, s->w, s->kw);
}
/* Voxels of x and of y. */
static inline int64_t hn_conv3d_voxels_in(const hn_conv3d_shape *s)
{
    return s->n * s->d * s->h * s->w;
}
static inline int64_t hn_conv3d_voxels_out(const hn_conv3d_shape *s)
{
    return s->n * hn_conv3d_out_d(s) * hn_conv3d_out_h(s) * hn_conv3d_out_w(s);
}
/* Columns of w: values that one element of y sums over. */
static inline int64_t hn_conv3d_taps(const hn_conv3d_shape *s)
{
    return s->kd * s->kh * s->kw * s->in;
}

/* HN_ERR_SHAPE, with the operation's name before the reason, unless the limits above hold. */
HN_NODISCARD hn_status hn_conv3d_check_shape(const char *op, const hn_conv3d_shape *s);

typedef struct {
    const void *x;    /* in  [n, d, h, w, in] */
    const void *w;    /* in  [replicas][out, kd kh kw in] */
    const void *bias; /* in  [replicas][out], NULL: none */
    void *y;          /* out [n, out_d, out_h, out_w, out] */
    hn_conv3d_shape shape;
    int64_t ld_x, ld_w, ld_y;
    int64_t replicas;              /* 0: no replica axis */
    int64_t w_stride, bias_stride; /* 0: shared by the replicas */
    hn_dtype dtype, bias_dtype;    /* bias_dtype: give dtype where there is no bias */
} hn_conv3d_args;

HN_NODISCARD hn_status hn_conv3d_check(const hn_conv3d_args *a);
HN_NODISCARD hn_status hn_conv3d_fwd_cpu(const hn_conv3d_args *a);
/* scratch: hn_conv3d_fwd_fast_scratch bytes, aligned for double. */
size_t hn_conv3d_fwd_fast_scratch(const hn_conv3d_args *a);
HN_NODISCARD hn_status hn_conv3d_fwd_fast(const hn_conv3d_args *a, void *scratch);
/* scratch: that many bytes, 64-byte aligned; may be NULL when that is 0. */
HN_CUDA_FUNCTION size_t hn_conv3d_fwd_cuda_scratch(const hn_conv3d_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv3d_fwd_cuda(const hn_conv3d_args *a,
                                                           hn_gemm_cuda *gemm, void *scratch,
                                                           hn_stream stream);

typedef struct {
    const void *dy;  /* in  [n, out_d, out_h, out_w, out] */
    const void *w;   /* in  [replicas][out, kd kh kw in] */
    const void *add; /* in  [n, d, h, w, in], NULL: none */
    void *dx;        /* out [n, d, h, w, in] */
    hn_conv3d_shape shape;
    int64_t ld_dy, ld_w, ld_add, ld_dx;
    int64_t replicas; /* 0: no replica axis */
    int64_t w_stride; /* 0: shared by the replicas */
    hn_dtype dtype;
} hn_conv3d_dx_args;

HN_NODISCARD hn_status hn_conv3d_dx_check(const hn_conv3d_dx_args *a);
HN_NODISCARD hn_status hn_conv3d_dx_cpu(const hn_conv3d_dx_args *a);
size_t hn_conv3d_dx_fast_scratch(const hn_conv3d_dx_args *a);
HN_NODISCARD hn_status hn_conv3d_dx_fast(const hn_conv3d_dx_args *a, void *scratch);
HN_CUDA_FUNCTION size_t hn_conv3d_dx_cuda_scratch(const hn_conv3d_dx_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv3d_dx_cuda(const hn_conv3d_dx_args *a,
                                                          hn_gemm_cuda *gemm, void *scratch,
                                                          hn_stream stream);

typedef struct {
    const void *dy; /* in     [n, out_d, out_h, out_w, out] */
    const void *x;  /* in     [n, d, h, w, in] */
    float *dw;      /* in/out [replicas][out, kd kh kw in] */
    hn_conv3d_shape shape;
    int64_t ld_dy, ld_x, ld_dw;
    int64_t replicas; /* 0: no replica axis */
    int64_t dw_stride;
    hn_dtype dtype; /* of dy and x */
} hn_conv3d_dw_args;

HN_NODISCARD hn_status hn_conv3d_dw_check(const hn_conv3d_dw_args *a);
HN_NODISCARD hn_status hn_conv3d_dw_cpu(const hn_conv3d_dw_args *a);
size_t hn_conv3d_dw_fast_scratch(const hn_conv3d_dw_args *a);
HN_NODISCARD hn_status hn_conv3d_dw_fast(const hn_conv3d_dw_args *a, void *scratch);
HN_CUDA_FUNCTION size_t hn_conv3d_dw_cuda_scratch(const hn_conv3d_dw_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv3d_dw_cuda(const hn_conv3d_dw_args *a,
                                                          hn_gemm_cuda *gemm, void *scratch,
                                                          hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
