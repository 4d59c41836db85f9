/* op_conv3d.h - what the three rows of the convolution of volumes share. */
#ifndef HN_OP_CONV3D_H
#define HN_OP_CONV3D_H
#include "kernels/conv/conv3d.h"
#include "runtime/graph/op_util.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Volumes of a type [n, d, h, w, channels] and `out` output channels by the node's attributes. */
static inline hn_conv3d_shape hn_conv3d_shape_of(const hn_attr *attr, const hn_type *x, int64_t out)
{
    return (hn_conv3d_shape){
        .n = x->dim[0],
        .d = x->dim[1],
        .h = x->dim[2],
        .w = x->dim[3],
        .in = x->dim[4],
        .out = out,
        .kd = attr->conv3d.kd,
        .kh = attr->conv3d.kh,
        .kw = attr->conv3d.kw,
        .stride = attr->conv3d.stride ? attr->conv3d.stride : 1,
        .pad = attr->conv3d.pad,
        .dilation = attr->conv3d.dilation ? attr->conv3d.dilation : 1,
    };
}

static inline bool hn_conv3d_makes(const hn_conv3d_shape *s, const hn_type *y)
{
    return y->dim[0] == s->n && y->dim[1] == hn_conv3d_out_d(s) &&
           y->dim[2] == hn_conv3d_out_h(s) && y->dim[3] == hn_conv3d_out_w(s) &&
           y->dim[4] == s->out;
}

#ifdef __cplusplus
}
#endif
#endif
