/* Vision transformers (Dosovitskiy et al., 2020): patches and a class token, pre-norm blocks, the
 * class token behind the last norm.
 *
 *   x   = [class token; patches W + b] + positions
 *   for each layer:  x += proj( attention( q(n), k(n), v(n) ) )   n = layer norm(x)
 *                    x += fc2( gelu( fc1(n) ) )                   n = layer norm(x)
 *
 * Behind the last attention only the class tokens are wanted, so nothing else is computed there. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "kernels/activation/activation.h"
#include "runtime/model/vision_impl.h"

typedef struct {
    const char *patch, *cls, *pos;
    const char *layers; /* before the number of a layer */
    const char *qkv;    /* one linear layer, columns q | k | v; NULL: the next three */
    const char *q, *k, *v;
    const char *norm1, *proj, *norm2, *fc1, *fc2;
    const char *norm;
} names;

/* clang-format off */
static const names timm = {
    .patch = "patch_embed.proj", .cls = "cls_token", .pos = "pos_embed", .layers = "blocks",
    .qkv = "attn.qkv", .norm1 = "norm1", .proj = "attn.proj", .norm2 = "norm2", .fc1 = "mlp.fc1",
    .fc2 = "mlp.fc2", .norm = "norm"};
static const names hugging_face = {
    .patch = "vit.embeddings.patch_embeddings.projection", .cls = "vit.embeddings.cls_token",
    .pos = "vit.embeddings.position_embeddings", .layers = "vit.encoder.layer",
    .q = "attention.attention.query", .k = "attention.attention.key",
    .v = "attention.attention.value", .norm1 = "layernorm_before", .proj = "attention.output.dense",
    .norm2 = "layernorm_after", .fc1 = "intermediate.dense", .fc2 = "output.dense",
    .norm = "vit.layernorm"};
/* clang-format on */

static const names *names_of(const hn_vision_config *c)
{
    return c->names == HN_NAMES_HUGGING_FACE ? &hugging_face : &timm;
}

static int64_t patches_of(const hn_vision_config *c)
{
    const int64_t side = c->image / c->vit.patch;
    return side * side;
}

static const char *in_layer(const names *n, int64_t layer, const char *suffix, char *name)
{
    snprintf(name, HN_MODULE_NAME, "%s.%" PRId64 ".%s", n->layers, layer, suffix);
    return name;
}

static hn_vision_conv patch_of(const hn_vision_config *c)
{
    return (hn_vision_conv){c->channels, c->vit.hidden, c->vit.patch, c->vit.patch, 0, 1};
}

/* ---- declaring ---- */

static hn_status declare_qkv(const hn_vision_config *c, hn_params *p, int64_t layer)
{
    const names *n = names_of(c);
    const hn_vit_sizes *s = &c->vit;
    char name[3][HN_MODULE_NAME];
    if (n->qkv != NULL)
        return hn_params_linear(p, in_layer(n, layer, n->qkv, name[0]), s->hidden, 3 * s->hidden,
                                s->qkv_bias, s->init_range);
    const char *const suffix[] = {n->q, n->k, n->v};
    const char *modules[3];
    for (int k = 0; k < 3; k++) {
        modules[k] = in_layer(n, layer, suffix[k], name[k]);
        HN_TRY(hn_params_linear(p, modules[k], s->hidden, s->hidden, s->qkv_bias, s->init_range));
    }
    return hn_params_group(p, 3, modules);
}

static hn_status declare_layer(const hn_vision_config *c, hn_params *p, int64_t layer)
{
    const names *n = names_of(c);
    const hn_vit_sizes *s = &c->vit;
    const double sd = s->init_range;
    char name[HN_MODULE_NAME];
    HN_TRY(hn_vision_declare_ln(p, in_layer(n, layer, n->norm1, name), s->hidden));
    HN_TRY(declare_qkv(c, p, layer));
    HN_TRY(hn_params_linear(p, in_layer(n, layer, n->proj, name), s->hidden, s->hidden, true, sd));
    HN_TRY(hn_vision_declare_ln(p, in_layer(n, layer, n->norm2, name), s->hidden));
    HN_TRY(hn_params_linear(p, in_layer(n, layer, n->fc1, name), s->hidden, s->intermediate, true,
                            sd));
    return hn_params_linear(p, in_layer(n, layer, n->fc2, name), s->intermediate, s->hidden, true,
                            sd);
}

/* Neither the class token nor positions take weight decay (timm's no_weight_decay). */
static hn_status declare_tokens(const hn_vision_config *c, hn_params *p)
{
    const names *n = names_of(c);
    const int64_t d = c->vit.hidden, tokens = patches_of(c) + 1;
    const int64_t cls[] = {1, 1, d}, pos[] = {1, tokens, d};
    const double sd = c->vit.init_range;
    HN_TRY(hn_params_declare(p, n->cls, 0, d, HN_INIT_NORMAL, n == &timm ? 1e-6 : sd));
    HN_TRY(hn_params_file_shape(p, n->cls, 3, cls));
    HN_TRY(hn_params_declare(p, n->pos, tokens, d, HN_INIT_NORMAL, sd));
    hn_params_find(p, n->pos)->decay = false;
    return hn_params_file_shape(p, n->pos, 3, pos);
}

hn_status hn_vit_declare(const hn_vision_config *c, hn_params *p)
{
    const names *n = names_of(c);
    const hn_vision_conv patch = patch_of(c);
    HN_TRY(declare_tokens(c, p));
    HN_TRY(hn_vision_declare_conv(p, n->patch, &patch, true, HN_START_UNIFORM));
    for (int64_t i = 0; i < c->vit.layers; i++) HN_TRY(declare_layer(c, p, i));
    return hn_vision_declare_ln(p, n->norm, c->vit.hidden);
}

/* ---- biases by place ---- */

static const char *suffix_of(const names *n, hn_vit_bias b)
{
    switch (b) {
    case HN_VIT_NORM1: return n->norm1;
    case HN_VIT_QUERY: return n->qkv ? n->qkv : n->q;
    case HN_VIT_KEY: return n->qkv ? n->qkv : n->k;
    case HN_VIT_VALUE: return n->qkv ? n->qkv : n->v;
    case HN_VIT_PROJ: return n->proj;
    case HN_VIT_NORM2: return n->norm2;
    case HN_VIT_FC1: return n->fc1;
    default: return n->fc2;
    }
}

hn_status hn_vision_vit_bias(const hn_vision_config *c, int64_t layer, hn_vit_bias b,
                             hn_vit_bias_place *out)
{
    const hn_vit_sizes *s = &c->vit;
    const names *n = names_of(c);
    const bool of_qkv = b == HN_VIT_QUERY || b == HN_VIT_KEY || b == HN_VIT_VALUE;
    char name[HN_MODULE_NAME];
    if (c->family != HN_VISION_VIT)
        return HN_FAIL(HN_ERR_ARG, "%s: no vision transformer", c->architecture);
    if (layer < 0 || layer >= s->layers || (unsigned)b >= HN_VIT_BIASES)
        return HN_FAIL(HN_ERR_ARG, "%s: bias %d of block %" PRId64 " of %" PRId64, c->architecture,
                       (int)b, layer, s->layers);
    if (of_qkv && !s->qkv_bias)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: queries, keys and values have no biases",
                       c->architecture);
    out->n = b == HN_VIT_FC1 ? s->intermediate : s->hidden;
    out->first = of_qkv && n->qkv != NULL ? (b - HN_VIT_QUERY) * s->hidden : 0;
    snprintf(out->name, sizeof out->name, "%s.bias", in_layer(n, layer, suffix_of(n, b), name));
    return HN_OK;
}

/* ---- recording ---- */

static hn_status linear(const hn_vision_pass *v, int64_t layer, const char *suffix, hn_tensor *x,
                        hn_tensor **y)
{
    char name[HN_MODULE_NAME];
    return hn_params_linear_fwd(v->b->params, v->g, in_layer(names_of(v->c), layer, suffix, name),
                                x, y);
}

static hn_status norm(const hn_vision_pass *v, int64_t layer, const char *suffix, hn_tensor *x,
                      hn_tensor *res, hn_tensor **sum, hn_tensor **y)
{
    char name[HN_MODULE_NAME];
    in_layer(names_of(v->c), layer, suffix, name);
    return hn_vision_ln_fwd(v, name, v->c->vit.ln_eps, x, res, sum, y);
}

static hn_status record_qkv(const hn_vision_pass *v, int64_t layer, hn_tensor *x, hn_tensor **part)
{
    const names *n = names_of(v->c);
    const int64_t d = v->c->vit.hidden;
    char name[HN_MODULE_NAME];
    hn_tensor *all;
    if (n->qkv == NULL)
        return hn_params_group_fwd(v->b->params, v->g, in_layer(n, layer, n->q, name), x, part);
    HN_TRY(linear(v, layer, n->qkv, x, &all));
    for (int k = 0; k < 3; k++) HN_TRY(hn_view_columns(v->g, all, k * d, d, &part[k]));
    return HN_OK;
}

static hn_status attend(const hn_vision_pass *v, int64_t layer, hn_tensor *x, hn_tensor **o)
{
    const hn_vit_sizes *s = &v->c->vit;
    const int64_t head_dim = s->hidden / s->heads;
    const hn_attr attr = {.attention = {.heads = s->heads,
                                        .kv_heads = s->heads,
                                        .head_dim = head_dim,
                                        .longest = patches_of(v->c) + 1,
                                        .even = true,
                                        .scale = (float)(1.0 / sqrt((double)head_dim)),
                                        .impl = v->b->attention}};
    char name[HN_MODULE_NAME];
    hn_tensor *part[3], *out[HN_MAX_OUT];
    HN_TRY(record_qkv(v, layer, x, part));
    hn_tensor *in[] = {part[0], part[1], part[2], v->b->tables->offsets, NULL};
    in_layer(names_of(v->c), layer, "attn", name);
    HN_TRY(hn_emit(v->g, HN_OP_ATTENTION, name, in, &attr, out));
    *o = out[0];
    return HN_OK;
}

/* The class token of each image. */
static hn_status take_tokens(const hn_vision_pass *v, hn_tensor **x)
{
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.rows = {.stride = patches_of(v->c) + 1}};
    HN_TRY(hn_emit(v->g, HN_OP_TAKE_ROWS, names_of(v->c)->cls, x, &attr, out));
    *x = out[0];
    return HN_OK;
}

/* The stream is res + branch, which the next norm adds up. */
static hn_status record_layer(hn_vision_pass *v, int64_t layer, hn_tensor **res, hn_tensor **branch)
{
    const names *n = names_of(v->c);
    char name[HN_MODULE_NAME];
    hn_tensor *x;
    HN_TRY(norm(v, layer, n->norm1, *branch ? *branch : *res, *branch ? *res : NULL, res, &x));
    hn_vision_block_made(v, *res);
    HN_TRY(attend(v, layer, x, &x));
    if (layer + 1 == v->c->vit.layers) {
        HN_TRY(take_tokens(v, &x));
        HN_TRY(take_tokens(v, res));
    }
    HN_TRY(linear(v, layer, n->proj, x, branch));
    HN_TRY(norm(v, layer, n->norm2, *branch, *res, res, &x));
    HN_TRY(linear(v, layer, n->fc1, x, &x));
    HN_TRY(hn_vision_act_fwd(v, in_layer(n, layer, "act", name), HN_ACT_GELU, x, &x));
    return linear(v, layer, n->fc2, x, branch);
}

hn_status hn_vit_features(hn_vision_pass *v, hn_tensor *x, hn_tensor **features)
{
    const names *n = names_of(v->c);
    const hn_vision_conv patch = patch_of(v->c);
    hn_tensor *out[HN_MAX_OUT];
    HN_TRY(hn_vision_conv_fwd(v, n->patch, &patch, x, &x));
    hn_tensor *in[] = {x, hn_params_find(v->b->params, n->cls)->value,
                       hn_params_find(v->b->params, n->pos)->value};
    HN_TRY(hn_emit(v->g, HN_OP_CLASS_TOKEN, n->cls, in, NULL, out));
    hn_tensor *res = out[0], *branch = NULL;
    for (int64_t i = 0; i < v->c->vit.layers; i++) {
        hn_vision_block_begin(v);
        HN_TRY(record_layer(v, i, &res, &branch));
        hn_vision_block_end(v);
    }
    HN_TRY(hn_vision_ln_fwd(v, n->norm, v->c->vit.ln_eps, branch, res, &res, features));
    hn_vision_block_made(v, res);
    return HN_OK;
}
