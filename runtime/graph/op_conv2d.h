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

#ifdef __cplusplus
}
#endif
#endif
