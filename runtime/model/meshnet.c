/* MeshNet (Fedorov et al., 2017, "End-to-end learning of brain tissue segmentation from imperfect
 * labeling"), as brainchop has it: convolutions with dilation, each but the last with an activation
 * behind it, all at full size. */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/model/seg_impl.h"

static const char *conv_name(int64_t i, char *name, size_t size)
{
    snprintf(name, size, "conv%" PRId64, i);
    return name;
}

hn_status hn_meshnet_declare(const hn_seg_config *c, hn_params *p)
{
    const hn_meshnet_sizes *const m = &c->meshnet;
    char name[HN_SEG_MODULE];
    for (int64_t i = 0; i < m->layers; i++)
        HN_TRY(hn_seg_declare_conv(p, conv_name(i, name, sizeof name),
                                   i > 0 ? m->width[i - 1] : c->channels, m->width[i], m->kernel[i],
                                   true));
    return HN_OK;
}

hn_status hn_meshnet_logits(hn_seg_pass *v, hn_tensor *x, hn_tensor **logits)
{
    const hn_meshnet_sizes *const m = &v->c->meshnet;
    char name[HN_SEG_MODULE];
    for (int64_t i = 0; i < m->layers; i++) {
        conv_name(i, name, sizeof name);
        hn_seg_block_begin(v);
        HN_TRY(hn_seg_conv_fwd(v, name, m->kernel[i], m->dilation[i], x, &x));
        if (i < m->layers - 1) HN_TRY(hn_seg_act_fwd(v, name, m->activation, x, &x));
        hn_seg_block_end(v);
    }
    *logits = x;
    return HN_OK;
}
