/* attention_choice.h - whose kernels the attention nodes of a plan run on. */
#ifndef HN_ATTENTION_CHOICE_H
#define HN_ATTENTION_CHOICE_H
#include "kernels/attention/attention.h"
#include "runtime/graph/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Settles n->attr.attention.impl to anything but HN_ATTENTION_AUTO, and library_scratch; the node's
 * note says what was taken, or why cuDNN was not.
 * a       the node's arguments; pointers are not read (kv_offsets: NULL or not)
 * Errors  HN_ERR_UNSUPPORTED when cuDNN was asked for by name and cannot do it; others of
 *         hn_attention_cudnn_plan */
HN_NODISCARD hn_status hn_attention_choose(hn_node *n, hn_device *d, const hn_attention_args *a,
                                           bool backward);

/* Whether the node was settled on cuDNN. */
static inline bool hn_attention_is_cudnn(const hn_node *n)
{
    const hn_attention_impl impl = n->attr.attention.impl;
    return impl == HN_ATTENTION_CUDNN || impl == HN_ATTENTION_CUDNN_FAST;
}

#ifdef __cplusplus
}
#endif
#endif
