/* op_conv2d.h - what the three rows of the convolution share. */
#ifndef HN_OP_CONV2D_H
#define HN_OP_CONV2D_H
#include "kernels/conv/conv2d.h"
#include "runtime/graph/op_util.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Images of a type [n, h, w, channels] and `out` output channels by the node's attributes. */
static inline hn_conv2d_shape hn_conv2d_shape_of(const hn_attr *attr, const hn_type *x, int64_t out)
{
    return (hn_conv2d_shape){
        .n = x->dim[0],
        .h = x->dim[1],
        .w = x->dim[2],
        .in = x->dim[3],
        .out = out,
        .kh = attr->conv.kh,
        .kw = attr->conv.kw,
        .stride = attr->conv.stride ? attr->conv.stride : 1,
        .pad = attr->conv.pad,
        .dilation = attr->conv.dilation ? attr->conv.dilation : 1,
        .groups = attr->conv.groups ? attr->conv.groups : 1,
    };
}

/* f32 or bf16 of four axes. */
static inline bool hn_is_images(const hn_type *t) { return hn_is_real(t) && t->ndim == 4; }

/* [n, h, w, channels] with the pitch of hn_type_2d. */
static inline hn_type hn_images_type(hn_dtype dtype, int64_t n, int64_t h, int64_t w,
                                     int64_t channels)
{
    hn_type t = hn_type_2d(dtype, n, channels);
    t.ndim = 4;
    t.dim[0] = n, t.dim[1] = h, t.dim[2] = w, t.dim[3] = channels;
    return t;
}

#ifdef __cplusplus
}
#endif
#endif
