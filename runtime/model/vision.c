#include "runtime/model/vision.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "kernels/conv/pool2d.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"
#include "runtime/model/vision_impl.h"

/* ---- sizes and names ---- */

const char *hn_vision_head(const hn_vision_config *c)
{
    switch (c->family) {
    case HN_VISION_RESNET:
        if (c->names == HN_NAMES_HUGGING_FACE) return "classifier.1";
        return c->names == HN_NAMES_CIFAR ? "linear" : "fc";
    case HN_VISION_SEPARABLE: return "linear";
    case HN_VISION_VIT: return c->names == HN_NAMES_HUGGING_FACE ? "classifier" : "head";
    case HN_VISION_CNN: break;
    }
    return "fc2";
}

int64_t hn_vision_layers(const hn_vision_config *c)
{
    int64_t n = 0;
    switch (c->family) {
    case HN_VISION_RESNET:
        for (int64_t s = 0; s < c->resnet.stages; s++) n += c->resnet.depth[s];
        return n;
    case HN_VISION_SEPARABLE: return c->separable.steps;
    case HN_VISION_VIT: return c->vit.layers;
    case HN_VISION_CNN: return c->cnn.steps;
    }
    return n;
}

int64_t hn_vision_width(const hn_vision_config *c)
{
    switch (c->family) {
    case HN_VISION_RESNET: return c->resnet.width[c->resnet.stages - 1];
    case HN_VISION_SEPARABLE: return c->separable.width[c->separable.steps - 1];
    case HN_VISION_VIT: return c->vit.hidden;
    case HN_VISION_CNN: break;
    }
    return c->cnn.hidden;
}

bool hn_vision_has_batch_norm(const hn_vision_config *c)
{
    return c->family == HN_VISION_RESNET || c->family == HN_VISION_SEPARABLE;
}

/* ---- declaring ---- */

static void start(hn_params *p, const char *module, const char *suffix, hn_init init, double scale)
{
    char name[HN_MODULE_NAME + 16];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    hn_param *q = hn_params_find(p, name);
    if (q == NULL) return; /* no bias */
    q->init = init;
    q->init_scale = scale;
}

static void start_layer(hn_params *p, const char *module, double fan_in, double fan_out,
                        hn_vision_start how)
{
    if (how == HN_START_UNIFORM)
        start(p, module, "weight", HN_INIT_UNIFORM, 1 / sqrt(fan_in));
    else
        start(p, module, "weight", HN_INIT_NORMAL,
              sqrt(2 / (how == HN_START_FAN_OUT ? fan_out : fan_in)));
    if (how != HN_START_FAN_OUT) start(p, module, "bias", HN_INIT_UNIFORM, 1 / sqrt(fan_in));
}

hn_status hn_vision_declare_conv(hn_params *p, const char *module, const hn_vision_conv *s,
                                 bool bias, hn_vision_start how)
{
    const double taps = (double)(s->kernel * s->kernel);
    const hn_conv_shape shape = {.in = s->in,
                                 .out = s->out,
                                 .kh = s->kernel,
                                 .kw = s->kernel,
                                 .groups = s->groups,
                                 .bias = bias};
    HN_TRY(hn_params_conv(p, module, &shape));
    start_layer(p, module, taps * (double)(s->in / s->groups), taps * (double)s->out, how);
    return HN_OK;
}

hn_status hn_vision_declare_linear(hn_params *p, const char *module, int64_t in, int64_t out,
                                   hn_vision_start how)
{
    HN_TRY(hn_params_linear(p, module, in, out, true, 0));
    start_layer(p, module, (double)in, (double)out, how);
    return HN_OK;
}

hn_status hn_vision_declare_ln(hn_params *p, const char *module, int64_t cols)
{
    char name[HN_MODULE_NAME + 16];
    snprintf(name, sizeof name, "%s.weight", module);
    HN_TRY(hn_params_declare(p, name, 0, cols, HN_INIT_ONE, 0));
    snprintf(name, sizeof name, "%s.bias", module);
    return hn_params_declare(p, name, 0, cols, HN_INIT_ZERO, 0);
}

hn_status hn_vision_declare_bn(hn_params *p, const char *module, int64_t channels)
{
    char name[HN_MODULE_NAME + 16];
    HN_TRY(hn_vision_declare_ln(p, module, channels));
    snprintf(name, sizeof name, "%s.running_mean", module);
    HN_TRY(hn_params_buffer(p, name, channels, HN_INIT_ZERO));
    snprintf(name, sizeof name, "%s.running_var", module);
    return hn_params_buffer(p, name, channels, HN_INIT_ONE);
}

/* The head begins as the family's linear layers do. */
static hn_status declare_head(const hn_vision_config *c, hn_params *p)
{
    const char *head = hn_vision_head(c);
    const int64_t in = hn_vision_width(c);
    if (c->classes == 0) return HN_OK;
    if (c->family == HN_VISION_VIT)
        return hn_params_linear(p, head, in, c->classes, true, c->vit.init_range);
    const bool normal = c->family == HN_VISION_RESNET && c->names == HN_NAMES_CIFAR;
    return hn_vision_declare_linear(p, head, in, c->classes,
                                    normal ? HN_START_FAN_IN : HN_START_UNIFORM);
}

hn_status hn_vision_declare(const hn_vision_config *c, hn_params *p)
{
    HN_TRY(hn_vision_config_check(c, c->architecture));
    switch (c->family) {
    case HN_VISION_RESNET: HN_TRY(hn_resnet_declare(c, p)); break;
    case HN_VISION_SEPARABLE: HN_TRY(hn_sepconv_declare(c, p)); break;
    case HN_VISION_VIT: HN_TRY(hn_vit_declare(c, p)); break;
    case HN_VISION_CNN: HN_TRY(hn_cnn_declare(c, p)); break;
    }
    return declare_head(c, p);
}

/* ---- tables ---- */

static int64_t tokens_of(const hn_vision_config *c)
{
    const int64_t side = c->image / c->vit.patch;
    return side * side + 1;
}

hn_status hn_vision_tables_new(const hn_vision_config *c, hn_program *p, int64_t images,
                               hn_vision_tables *out)
{
    char name[64];
    hn_vision_tables t = {.images = images};
    if (c->family == HN_VISION_VIT) {
        const hn_type type = hn_type_1d(HN_I32, images + 1);
        snprintf(name, sizeof name, "tokens.offsets.%" PRId64, images);
        t.offsets = hn_program_find(p, name);
        if (images > INT32_MAX / tokens_of(c))
            return HN_FAIL(HN_ERR_SHAPE, "%" PRId64 " images have too many tokens", images);
        if (t.offsets == NULL) HN_TRY(hn_program_tensor(p, HN_MEM_STATE, name, &type, &t.offsets));
    }
    *out = t;
    return HN_OK;
}

hn_status hn_vision_tables_fill(const hn_vision_config *c, const hn_vision_tables *t)
{
    if (t->offsets == NULL) return HN_OK;
    const size_t n = (size_t)t->images + 1;
    int32_t *offset = hn_malloc(n * sizeof *offset);
    if (offset == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu offsets", n);
    for (size_t i = 0; i < n; i++) offset[i] = (int32_t)((int64_t)i * tokens_of(c));
    const hn_status st = hn_tensor_write(t->offsets, 0, offset, n * sizeof *offset);
    hn_free(offset);
    return st;
}

/* ---- recording ---- */

hn_status hn_vision_conv_fwd(const hn_vision_pass *v, const char *module, const hn_vision_conv *s,
                             hn_tensor *x, hn_tensor **y)
{
    return hn_params_conv_fwd(v->b->params, v->g, module, s->stride, s->pad, x, y);
}

static hn_tensor *value_of(const hn_vision_pass *v, const char *module, const char *suffix)
{
    char name[HN_MODULE_NAME + 16];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    const hn_param *q = hn_params_find(v->b->params, name);
    return q ? q->value : NULL;
}

hn_status hn_vision_bn_fwd(const hn_vision_pass *v, const char *module, hn_tensor *x,
                           hn_tensor *res, bool relu, hn_tensor **y)
{
    hn_tensor *in[] = {x,
                       res,
                       value_of(v, module, "weight"),
                       value_of(v, module, "bias"),
                       value_of(v, module, "running_mean"),
                       value_of(v, module, "running_var")};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.channel_norm = {.eps = (float)v->c->bn_eps,
                                           .momentum = (float)v->c->bn_momentum,
                                           .frozen = v->b->frozen_norm || !hn_graph_training(v->g),
                                           .relu = relu}};
    HN_TRY(hn_emit(v->g, HN_OP_BATCH_NORM, module, in, &attr, out));
    *y = out[0];
    return HN_OK;
}

hn_status hn_vision_ln_fwd(const hn_vision_pass *v, const char *module, double eps, hn_tensor *x,
                           hn_tensor *res, hn_tensor **sum, hn_tensor **y)
{
    hn_tensor *in[] = {x, res, value_of(v, module, "weight"), value_of(v, module, "bias")};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.norm = {.eps = (float)eps}};
    HN_TRY(hn_emit(v->g, HN_OP_LAYER_NORM, module, in, &attr, out));
    if (sum != NULL) *sum = res ? out[0] : x;
    *y = out[1];
    return HN_OK;
}

hn_status hn_vision_act_fwd(const hn_vision_pass *v, const char *name, int kind, hn_tensor *x,
                            hn_tensor **y)
{
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.act = {.kind = kind}};
    HN_TRY(hn_emit(v->g, HN_OP_ACTIVATION, name, &x, &attr, out));
    *y = out[0];
    return HN_OK;
}

hn_status hn_vision_max_fwd(const hn_vision_pass *v, const char *name, int64_t size, int64_t stride,
                            int64_t pad, bool relu, hn_tensor *x, hn_tensor **y)
{
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {
        .pool = {.kind = HN_POOL_MAX, .size = size, .stride = stride, .pad = pad, .relu = relu}};
    HN_TRY(hn_emit(v->g, HN_OP_POOL2D, name, &x, &attr, out));
    *y = out[0];
    return HN_OK;
}

hn_status hn_vision_mean_fwd(const hn_vision_pass *v, hn_tensor *x, hn_tensor **y)
{
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.pool = {.kind = HN_POOL_AVG}};
    HN_TRY(hn_emit(v->g, HN_OP_POOL2D, "pool", &x, &attr, out));
    *y = out[0];
    return HN_OK;
}

void hn_vision_block_begin(hn_vision_pass *v)
{
    if (v->begun++ < v->b->recompute) hn_segment_begin(v->g);
}

void hn_vision_block_end(hn_vision_pass *v) { hn_segment_end(v->g); }

void hn_vision_block_made(hn_vision_pass *v, hn_tensor *x)
{
    if (v->b->blocks == NULL) return;
    v->b->blocks[v->made++] = x;
    hn_graph_keep(x);
}

static hn_status check_images(const hn_vision_build *b, const hn_tensor *images)
{
    const hn_vision_config *c = b->config;
    const hn_type *t = &images->type;
    char text[128];
    if (t->ndim != 4 || t->dim[1] != c->image || t->dim[2] != c->image || t->dim[3] != c->channels)
        return HN_FAIL(
            HN_ERR_SHAPE,
            "%s: images are %s, the model reads [n, %" PRId64 ", %" PRId64 ", %" PRId64 "]",
            c->architecture, hn_type_text(t, text, sizeof text), c->image, c->image, c->channels);
    if (c->family == HN_VISION_VIT &&
        (b->tables == NULL || b->tables->offsets == NULL || b->tables->images != t->dim[0]))
        return HN_FAIL(HN_ERR_ARG, "%s: no tables of %" PRId64 " images", c->architecture,
                       t->dim[0]);
    return HN_OK;
}

hn_status hn_vision_features(const hn_vision_build *b, hn_graph *g, hn_tensor *images,
                             hn_tensor **features)
{
    hn_vision_pass v = {.b = b, .c = b->config, .g = g};
    HN_TRY(check_images(b, images));
    switch (v.c->family) {
    case HN_VISION_RESNET: return hn_resnet_features(&v, images, features);
    case HN_VISION_SEPARABLE: return hn_sepconv_features(&v, images, features);
    case HN_VISION_VIT: return hn_vit_features(&v, images, features);
    case HN_VISION_CNN: return hn_cnn_features(&v, images, features);
    }
    return HN_FAIL(HN_ERR_ARG, "there is no family %d", (int)v.c->family);
}

hn_status hn_vision_logits(const hn_vision_build *b, hn_graph *g, hn_tensor *features,
                           hn_tensor **logits)
{
    return hn_params_linear_fwd(b->params, g, hn_vision_head(b->config), features, logits);
}
