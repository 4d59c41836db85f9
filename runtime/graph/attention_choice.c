#include "runtime/graph/attention_choice.h"

#include <stdint.h>
#include <stdio.h>

#include "runtime/graph/graph_impl.h"

/* What cuDNN's deterministic backward may work in when nobody asked for it by name: a share of the
 * device's memory. Behind it our own backward, deterministic without such memory, is the better
 * bargain: 8.7 GiB of an H200, where 8 sequences of 2048 tokens and 32 heads take 2.1. */
enum { SHARE_OF_DEVICE = 16 };

static hn_status scratch_limit(const hn_device *d, const hn_node *n, size_t *out)
{
    size_t free_bytes, total_bytes;
    *out = SIZE_MAX;
    if (n->attr.attention.impl != HN_ATTENTION_AUTO) return HN_OK;
    HN_TRY(hn_device_memory(d, &free_bytes, &total_bytes));
    *out = total_bytes / SHARE_OF_DEVICE;
    return HN_OK;
}

static hn_status make_plan(const hn_node *n, hn_device *d, const hn_attention_args *a,
                           hn_cudnn_pass pass, size_t *scratch)
{
    size_t limit = 0;
    if (hn_device_kind_of(d) != HN_DEVICE_CUDA)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "attention through cuDNN needs a GPU; the device is %s",
                       hn_device_text(d));
    if (a->dtype != HN_BF16) /* without opening a library for nothing */
        return HN_FAIL(HN_ERR_UNSUPPORTED, "cuDNN computes attention in bf16 only, not in %s",
                       hn_dtype_name(a->dtype));
    HN_TRY(hn_device_open_cudnn(d));
    HN_TRY(scratch_limit(d, n, &limit));
    return hn_attention_cudnn_plan(hn_device_attention(d), a, pass, limit, scratch);
}

/* Heads of 64: our own backward takes 1.25 ms where cuDNN's deterministic one takes 1.34 (even
 * sequences) or 1.52 (packed; 8 x 2048, 32/8 heads), and needs no memory that grows with the square
 * of a length. Heads of 128: 1.09 ms against 0.99 and 1.06. */
enum { OWN_BACKWARD_HEAD = 64 };

/* Short sequences: 69 us a layer with our backward for any length where 64 images of 197 tokens
 * have 3 heads of 64. That of short sequences reads and writes every operand once and is taken for
 * all its head sizes; its own figure is to be measured. why: what is better, NULL where cuDNN comes
 * first. */
static hn_status own_is_better(hn_device *d, const hn_attention_args *a, bool backward,
                               const char **why)
{
    bool yes = false;
    *why = NULL;
    if (hn_device_kind_of(d) != HN_DEVICE_CUDA || hn_device_gemm(d) == NULL) return HN_OK;
    if (!backward) return HN_OK;
    HN_TRY(hn_attention_cuda_short(a, &yes));
    if (yes) *why = "deterministic, one kernel for short sequences";
    if (yes || a->head_dim > OWN_BACKWARD_HEAD) return HN_OK;
    HN_TRY(hn_attention_cuda_wgmma(a, backward, &yes));
    if (yes) *why = "deterministic, as fast as cuDNN's";
    return HN_OK;
}

static hn_status put_note(hn_node *n, char *text)
{
    n->note = text;
    return text ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a line of the plan");
}

static hn_status take_own(hn_node *n, bool backward, const char *why)
{
    n->attr.attention.impl = HN_ATTENTION_OWN;
    return put_note(n, hn_arena_text(&n->graph->program->arena, "attention: hone, %s (%s)",
                                     backward ? "backward" : "forward", why));
}

static hn_status take_cudnn(hn_node *n, const hn_device *d, hn_cudnn_pass pass, size_t scratch)
{
    static const char *const name[] = {"forward", "deterministic backward",
                                       "fast backward, not the same bits on every run"};
    const bool fast = n->attr.attention.impl == HN_ATTENTION_CUDNN_FAST;
    n->attr.attention.impl = fast ? HN_ATTENTION_CUDNN_FAST : HN_ATTENTION_CUDNN;
    n->attr.attention.library_scratch = scratch;
    return put_note(n,
                    hn_arena_text(&n->graph->program->arena, "attention: cuDNN %s, %s",
                                  hn_attention_cudnn_version(hn_device_attention(d)), name[pass]));
}

hn_status hn_attention_choose(hn_node *n, hn_device *d, const hn_attention_args *a, bool backward)
{
    const hn_attention_impl asked = n->attr.attention.impl;
    const hn_cudnn_pass pass = !backward                          ? HN_CUDNN_FWD
                               : asked == HN_ATTENTION_CUDNN_FAST ? HN_CUDNN_BWD_FAST
                                                                  : HN_CUDNN_BWD;
    size_t scratch = 0;
    char why[384];
    if (asked == HN_ATTENTION_OWN) return HN_OK;
    if (asked == HN_ATTENTION_AUTO && hn_device_kind_of(d) == HN_DEVICE_CPU) {
        n->attr.attention.impl = HN_ATTENTION_OWN;
        return HN_OK;
    }
    if (asked == HN_ATTENTION_AUTO) {
        const char *better;
        HN_TRY(own_is_better(d, a, backward, &better));
        if (better != NULL) return take_own(n, backward, better);
    }
    const hn_status st = make_plan(n, d, a, pass, &scratch);
    if (st == HN_OK) return take_cudnn(n, d, pass, scratch);
    snprintf(why, sizeof why, "%s", hn_last_text());
    if (asked == HN_ATTENTION_AUTO && st == HN_ERR_UNSUPPORTED) return take_own(n, backward, why);
    return HN_FAIL(st, "%s; --attention auto or hone goes without", why);
}
