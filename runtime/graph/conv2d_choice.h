/* conv2d_choice.h - whose kernels the convolutions of a plan run on. */
#ifndef HN_CONV2D_CHOICE_H
#define HN_CONV2D_CHOICE_H
#include "kernels/conv/conv2d.h"
#include "runtime/graph/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The two halves of a row's `prepare`, round hn_conv2d_cudnn_plan_*; the second settles
 * n->attr.conv.impl to anything but HN_CONV2D_AUTO, and library_scratch. The node's note says what
 * was taken, or why cuDNN was not.
 *
 * *out     NULL: our own kernels were taken, and the row is done
 * planned  what became of the plan, with `scratch` bytes
 * Errors   HN_ERR_UNSUPPORTED when cuDNN was asked for by name and cannot do it; others of
 *          hn_device_open_cudnn, and `planned` */
HN_NODISCARD hn_status hn_conv2d_library(hn_node *n, hn_device *d, const hn_conv2d_shape *s,
                                         hn_conv2d_cudnn **out);
HN_NODISCARD hn_status hn_conv2d_settle(hn_node *n, const hn_conv2d_cudnn *c, hn_status planned,
                                        size_t scratch);

#ifdef __cplusplus
}
#endif
#endif
