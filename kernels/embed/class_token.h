/* class_token.h - patches of images with a class token before them and positions added: what the
 * blocks of a vision transformer read; forward and backward.
 *
 *   y[n,0]       = round(cls + pos[0])                 with a class token
 *   y[n,has+i]   = round(x[n,i] + pos[has+i])          has = 1 with a class token, else 0
 *   dx[n,i]      = dy[n,has+i]
 *   dcls        += sum of dy[n,0] over the images n
 *   dpos[t]     += sum of dy[n,t] over the images n
 * Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020; cls_token and pos_embed of timm.
 *
 * Shapes     x, dx [images patches, dim]; y, dy [images (patches + has), dim]; cls, dcls [dim];
 *            pos, dpos [patches + has, dim]. Row-major, rows ld_* elements apart. With `replicas`
 *            = G > 1 the images are G equal groups in order, and parameters of group g start
 *            *_stride elements after those of group g - 1.
 * Precision  x and y both f32 or both bf16, cls and pos f32 or bf16 (param_dtype): one fp32
 *            addition, one rounding. dcls and dpos f32, sums in fp32 (twin: fp64).
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   none.
 * Repeats    forward and dx: the same bits everywhere (NaNs may carry others on CUDA). Sums bit for
 *            bit, also for any number of threads: images in order, on CUDA eight interleaved sums
 *            of them, which are then added in order.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_CLASS_TOKEN_H
#define HN_CLASS_TOKEN_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;   /* in  [images * patches, dim] */
    const void *cls; /* in  [replicas][dim]; NULL: no class token */
    const void *pos; /* in  [replicas][patches + has, dim] */
    void *y;         /* out [images * (patches + has), dim] */
    int64_t images, patches, dim;
    int64_t ld_x, ld_pos, ld_y;
    int64_t replicas;               /* 0: no replica axis */
    int64_t cls_stride, pos_stride; /* 0: shared by the replicas */
    hn_dtype dtype, param_dtype;
} hn_class_token_args;

HN_NODISCARD hn_status hn_class_token_check(const hn_class_token_args *a);
HN_NODISCARD hn_status hn_class_token_fwd_cpu(const hn_class_token_args *a);
HN_NODISCARD hn_status hn_class_token_fwd_fast(const hn_class_token_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_class_token_fwd_cuda(const hn_class_token_args *a,
                                                                hn_stream stream);

typedef struct {
    const void *dy; /* in     [images * (patches + has), dim] */
    void *dx;       /* out    [images * patches, dim]; NULL: not wanted */
    float *dcls;    /* in/out [replicas][dim]; NULL: not wanted, or no class token */
    float *dpos;    /* in/out [replicas][patches + has, dim]; NULL: not wanted */
    int64_t images, patches, dim;
    int64_t ld_dy, ld_dx, ld_dpos;
    int64_t replicas;
    int64_t dcls_stride, dpos_stride;
    hn_dtype dtype;
    bool has_cls;
} hn_class_token_bwd_args;

HN_NODISCARD hn_status hn_class_token_bwd_check(const hn_class_token_bwd_args *a);
HN_NODISCARD hn_status hn_class_token_bwd_cpu(const hn_class_token_bwd_args *a);
HN_NODISCARD hn_status hn_class_token_bwd_fast(const hn_class_token_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_class_token_bwd_cuda(const hn_class_token_bwd_args *a,
                                                                hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
