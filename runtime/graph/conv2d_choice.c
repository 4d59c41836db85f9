#include "runtime/graph/conv2d_choice.h"

#include <stdio.h>

#include "runtime/graph/graph_impl.h"
#include "runtime/graph/op_util.h"

static hn_status put_note(hn_node *n, char *text)
{
    n->note = text;
    return text ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a line of the plan");
}

static hn_status take_own(hn_node *n, const char *why)
{
    n->attr.conv.impl = HN_CONV2D_OWN;
    return put_note(n, hn_arena_text(&n->graph->program->arena, "convolution: hone (%s)", why));
}

/* Of bf16 in 16 bytes: cuDNN wants as many a pixel, and no gaps between rows of weights. */
enum { FEW_CHANNELS = 8 };

static bool has_replicas(const hn_node *n)
{
    bool any = false;
    for (int k = 0; k < hn_op(n->op)->n_in; k++) any |= hn_replicas_of(n->in[k]) > 0;
    return any;
}

/* What our own kernels are made for: cuDNN is slower there, or does the same. */
static const char *own_is_better(const hn_node *n, const hn_conv2d_shape *s)
{
    if (has_replicas(n)) return "replicas"; /* a call each, through cuDNN */
    if (s->groups == s->in && s->out == s->in && s->in > 1) return "depthwise";
    if (s->in < FEW_CHANNELS) return "few channels";
    if (s->kh == 1 && s->kw == 1 && s->stride == 1 && s->pad == 0) return "a product as it lies";
    return NULL;
}

/* The views among a node's inputs must begin where cuDNN can read them. */
static hn_status check_places(const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    const hn_tensor *root;
    for (int k = 0; k < def->n_in; k++)
        if (n->in[k] != NULL && hn_place_in_root(n->in[k], &root) % 16 != 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "input %d begins off 16-byte boundaries", k);
    return HN_OK;
}

static hn_status open_library(const hn_node *n, hn_device *d)
{
    if (hn_device_kind_of(d) != HN_DEVICE_CUDA)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "convolution through cuDNN needs a GPU; the device is %s",
                       hn_device_text(d));
    HN_TRY(check_places(n));
    return hn_device_open_cudnn(d);
}

/* cuDNN cannot do it: our own kernels can, unless it was asked for by name. */
static hn_status without(hn_node *n, hn_status st)
{
    char why[384];
    if (st != HN_ERR_UNSUPPORTED || n->attr.conv.impl != HN_CONV2D_AUTO) return st;
    snprintf(why, sizeof why, "%s", hn_last_text());
    return take_own(n, why);
}

hn_status hn_conv2d_library(hn_node *n, hn_device *d, const hn_conv2d_shape *s,
                            hn_conv2d_cudnn **out)
{
    const hn_conv2d_impl asked = n->attr.conv.impl;
    *out = NULL;
    if (asked == HN_CONV2D_OWN) return HN_OK;
    if (asked == HN_CONV2D_AUTO && hn_device_kind_of(d) == HN_DEVICE_CPU) {
        n->attr.conv.impl = HN_CONV2D_OWN;
        return HN_OK;
    }
    const char *const why = own_is_better(n, s);
    if (asked == HN_CONV2D_AUTO && why != NULL) return take_own(n, why);
    const hn_status st = open_library(n, d);
    if (st != HN_OK) return without(n, st);
    *out = hn_device_conv2d(d);
    return HN_OK;
}

hn_status hn_conv2d_settle(hn_node *n, const hn_conv2d_cudnn *c, hn_status planned, size_t scratch)
{
    if (planned != HN_OK) return without(n, planned);
    n->attr.conv.impl = HN_CONV2D_CUDNN;
    n->attr.conv.library_scratch = scratch;
    return put_note(n, hn_arena_text(&n->graph->program->arena, "convolution: cuDNN %s",
                                     hn_conv2d_cudnn_version(c)));
}
