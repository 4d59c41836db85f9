#include "runtime/model/seg.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "runtime/model/seg_impl.h"

hn_status hn_seg_declare(const hn_seg_config *c, hn_params *p)
{
    HN_TRY(hn_seg_config_check(c, c->architecture));
    return c->family == HN_SEG_UNET3D ? hn_unet3d_declare(c, p) : hn_meshnet_declare(c, p);
}

int64_t hn_seg_layers(const hn_seg_config *c)
{
    return c->family == HN_SEG_UNET3D ? 2 * c->unet3d.levels - 1 : c->meshnet.layers;
}

int64_t hn_seg_least_side(const hn_seg_config *c)
{
    return c->family == HN_SEG_UNET3D ? (int64_t)1 << (c->unet3d.levels - 1) : 1;
}

const char *hn_seg_head(const hn_seg_config *c, char *name, size_t size)
{
    if (c->family == HN_SEG_UNET3D)
        snprintf(name, size, "final_conv");
    else
        snprintf(name, size, "conv%" PRId64, c->meshnet.layers - 1);
    return name;
}

hn_status hn_seg_logits(const hn_seg_build *b, hn_graph *g, hn_tensor *volumes, hn_tensor **logits)
{
    const hn_seg_config *c = b->config;
    const hn_type *t = &volumes->type;
    const int64_t least = hn_seg_least_side(c);
    hn_seg_pass v = {.b = b, .c = c, .g = g};
    char text[128];
    if (t->ndim != 5 || t->dim[4] != c->channels || t->dim[1] < least || t->dim[2] < least ||
        t->dim[3] < least)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: volumes are %s, the model reads [n, d, h, w, %" PRId64
                       "] with sides from %" PRId64,
                       c->architecture, hn_type_text(t, text, sizeof text), c->channels, least);
    return c->family == HN_SEG_UNET3D ? hn_unet3d_logits(&v, volumes, logits)
                                      : hn_meshnet_logits(&v, volumes, logits);
}

/* ---- what the families share ---- */

static void start_uniform(hn_params *p, const char *module, const char *suffix, double scale)
{
    char name[HN_SEG_MODULE + 16];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    hn_param *q = hn_params_find(p, name);
    if (q == NULL) return; /* no bias */
    q->init = HN_INIT_UNIFORM;
    q->init_scale = scale;
}

hn_status hn_seg_declare_conv(hn_params *p, const char *module, int64_t in, int64_t out,
                              int64_t kernel, bool bias)
{
    const hn_conv_shape shape = {
        .in = in, .out = out, .kd = kernel, .kh = kernel, .kw = kernel, .groups = 1, .bias = bias};
    const double scale = 1 / sqrt((double)(in * kernel * kernel * kernel));
    HN_TRY(hn_params_conv(p, module, &shape));
    start_uniform(p, module, "weight", scale);
    start_uniform(p, module, "bias", scale);
    return HN_OK;
}

hn_status hn_seg_declare_norm(hn_params *p, const char *module, int64_t channels)
{
    char name[HN_SEG_MODULE + 16];
    snprintf(name, sizeof name, "%s.weight", module);
    HN_TRY(hn_params_declare(p, name, 0, channels, HN_INIT_ONE, 0));
    snprintf(name, sizeof name, "%s.bias", module);
    return hn_params_declare(p, name, 0, channels, HN_INIT_ZERO, 0);
}

hn_status hn_seg_conv_fwd(const hn_seg_pass *v, const char *module, int64_t kernel,
                          int64_t dilation, hn_tensor *x, hn_tensor **y)
{
    return hn_params_conv3d_fwd(v->b->params, v->g, module, 1, dilation * (kernel - 1) / 2,
                                dilation, x, y);
}

static hn_tensor *value_of(const hn_seg_pass *v, const char *module, const char *suffix)
{
    char name[HN_SEG_MODULE + 16];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    const hn_param *q = hn_params_find(v->b->params, name);
    return q ? q->value : NULL;
}

hn_status hn_seg_norm_fwd(const hn_seg_pass *v, const char *module, int64_t groups, double eps,
                          hn_tensor *x, hn_tensor **y)
{
    hn_tensor *in[] = {x, value_of(v, module, "weight"), value_of(v, module, "bias")};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.channel_norm = {.eps = (float)eps, .groups = groups}};
    HN_TRY(hn_emit(v->g, HN_OP_GROUP_NORM, module, in, &attr, out));
    *y = out[0];
    return HN_OK;
}

hn_status hn_seg_act_fwd(const hn_seg_pass *v, const char *name, int kind, hn_tensor *x,
                         hn_tensor **y)
{
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.act = {.kind = kind}};
    HN_TRY(hn_emit(v->g, HN_OP_ACTIVATION, name, &x, &attr, out));
    *y = out[0];
    return HN_OK;
}

void hn_seg_block_begin(hn_seg_pass *v)
{
    if (v->begun++ < v->b->recompute) hn_segment_begin(v->g);
}

void hn_seg_block_end(hn_seg_pass *v) { hn_segment_end(v->g); }
