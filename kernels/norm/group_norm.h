/* group_norm.h - group normalisation of channels-last images (torch.nn.functional.group_norm);
 * forward and backward. Wu and He, 2018.
 *
 *   mean, var  of the pixels and channels of a group, image by image; var is the biased one
 *   rstd       = 1 / sqrt(var + eps)
 *   y[n,p,j]   = round((x[n,p,j] - mean[n,g]) * rstd[n,g] * gain[j] + bias[j])
 *                with the group g = j / (cols / groups)
 *
 * Backward, with z = (x - mean) * rstd, h = dy * gain, and means over the image's pixels and
 * channels of the group:
 *   dx[n,p,j] = round(rstd[n,g] * (h[n,p,j] - mean(h) - z[n,p,j] mean(h z)))
 *   dgain[j] += sum_{n,p} dy[n,p,j] * z[n,p,j]        dbias[j] += sum_{n,p} dy[n,p,j]
 *
 * Shapes     row-major [images * pixels, cols], rows ld_* elements apart; mean, rstd [images *
 *            groups]; gain, bias [cols]. groups 1: layer norm over whole images; groups = cols:
 *            instance norm. With `replicas` = G > 1 the images are G equal groups in order, and
 *            gain, bias, dgain, dbias of replica r start *_stride elements after those of r - 1.
 * Precision  x, y, dy, dx all f32 or all bf16; gain and bias either; mean, rstd, dgain, dbias
 *            f32; fp32 arithmetic; sums about a value of the group, or double: accurate where the
 *            mean is large beside the deviation.
 * Limits     every dimension and images * pixels 1 to 2^31 - 1; groups divides cols; any width and
 *            alignment; eps > 0; two values a group at least, as PyTorch wants.
 * Aliasing   forward: y may be x. Backward: dx may be dy or x. In place means the same pointer and
 *            the same leading dimension.
 * Repeats    bit for bit on one machine, fast also for any number of threads.
 * CUDA       the order of sums depends on shapes, and on whether every operand is aligned for
 *            16-byte accesses.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_GROUP_NORM_H
#define HN_GROUP_NORM_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;    /* in  [images * pixels, cols] */
    const void *gain; /* in  [replicas][cols] */
    const void *bias; /* in  [replicas][cols] */
    void *y;          /* out same shape as x */
    float *mean;      /* out [images * groups], kept for backward */
    float *rstd;      /* out [images * groups], kept for backward */
    int64_t images, pixels, cols, groups;
    int64_t ld_x, ld_y;
    int64_t replicas;                 /* 0: no replica axis */
    int64_t gain_stride, bias_stride; /* 0: shared by the replicas */
    hn_dtype dtype, gain_dtype, bias_dtype;
    float eps; /* typically 1e-5 */
} hn_group_norm_args;

HN_NODISCARD hn_status hn_group_norm_check(const hn_group_norm_args *a);
HN_NODISCARD hn_status hn_group_norm_fwd_cpu(const hn_group_norm_args *a);
/* scratch: hn_group_norm_fwd_fast_scratch bytes, aligned for double. */
size_t hn_group_norm_fwd_fast_scratch(const hn_group_norm_args *a);
HN_NODISCARD hn_status hn_group_norm_fwd_fast(const hn_group_norm_args *a, void *scratch);
/* scratch: hn_group_norm_fwd_cuda_scratch bytes, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_group_norm_fwd_cuda_scratch(const hn_group_norm_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_group_norm_fwd_cuda(const hn_group_norm_args *a,
                                                               void *scratch, hn_stream stream);

typedef struct {
    const void *x;     /* in  [images * pixels, cols] */
    const void *gain;  /* in  [replicas][cols] */
    const float *mean; /* in  [images * groups] as forward wrote them */
    const float *rstd; /* in  [images * groups] */
    const void *dy;    /* in  same shape as x */
    void *dx;          /* out same shape; NULL: not wanted */
    float *dgain;      /* in/out [replicas][cols]; NULL: not wanted */
    float *dbias;      /* in/out [replicas][cols]; NULL: not wanted */
    int64_t images, pixels, cols, groups;
    int64_t ld_x, ld_dy, ld_dx;
    int64_t replicas;    /* 0: no replica axis */
    int64_t gain_stride; /* 0: shared by the replicas */
    int64_t dgain_stride, dbias_stride;
    hn_dtype dtype, gain_dtype;
} hn_group_norm_bwd_args;

HN_NODISCARD hn_status hn_group_norm_bwd_check(const hn_group_norm_bwd_args *a);
HN_NODISCARD hn_status hn_group_norm_bwd_cpu(const hn_group_norm_bwd_args *a);
/* scratch: hn_group_norm_bwd_fast_scratch bytes, aligned for double. */
size_t hn_group_norm_bwd_fast_scratch(const hn_group_norm_bwd_args *a);
HN_NODISCARD hn_status hn_group_norm_bwd_fast(const hn_group_norm_bwd_args *a, void *scratch);
/* scratch: hn_group_norm_bwd_cuda_scratch bytes, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_group_norm_bwd_cuda_scratch(const hn_group_norm_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_group_norm_bwd_cuda(const hn_group_norm_bwd_args *a,
                                                               void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
