/* conv2d_depthwise.h - the fast convolutions with one channel a group, in and out. Part of
 * conv2d_fast.c and conv2d_dw_fast.c, which have checked the arguments; contract in conv2d.h. */
#ifndef HN_CONV2D_DEPTHWISE_H
#define HN_CONV2D_DEPTHWISE_H

#include "kernels/conv/conv2d.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline bool hn_conv2d_is_depthwise_(const hn_conv2d_shape *s)
{
    return s->groups > 1 && s->groups == s->in && s->groups == s->out;
}

size_t hn_conv2d_depthwise_fwd_scratch_(const hn_conv2d_args *a); /* bytes */
void hn_conv2d_depthwise_fwd_(const hn_conv2d_args *a, float *scratch);
size_t hn_conv2d_depthwise_dx_scratch_(const hn_conv2d_dx_args *a);
void hn_conv2d_depthwise_dx_(const hn_conv2d_dx_args *a, float *scratch);
size_t hn_conv2d_depthwise_dw_scratch_(const hn_conv2d_dw_args *a);
void hn_conv2d_depthwise_dw_(const hn_conv2d_dw_args *a, float *scratch);

#ifdef __cplusplus
}
#endif
#endif
