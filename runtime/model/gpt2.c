#include "runtime/model/gpt2.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "kernels/activation/activation.h"

enum { NAME = 128 };

/* "transformer.wte.weight", or "wte.weight" in files of the bare model. */
static const char *top(const hn_gpt2_config *c, const char *name)
{
    enum { PREFIX = sizeof "transformer." - 1 };
    return c->bare ? name + PREFIX : name;
}

static const char *place_name(const hn_gpt2_config *c) { return top(c, "transformer.wpe.weight"); }

const char *hn_gpt2_embedding(const hn_gpt2_config *c) { return top(c, "transformer.wte.weight"); }

const char *hn_gpt2_head(const hn_gpt2_config *c)
{
    return c->tied ? hn_gpt2_embedding(c) : "lm_head.weight";
}

static const char *in_layer(const hn_gpt2_config *c, int64_t layer, const char *suffix, char *name)
{
    snprintf(name, NAME, "%s.%" PRId64 ".%s", top(c, "transformer.h"), layer, suffix);
    return name;
}

/* ---- declaring ---- */

static hn_status declare_norm(hn_params *p, const char *module, int64_t cols)
{
    char name[NAME + 16];
    snprintf(name, sizeof name, "%s.weight", module);
    HN_TRY(hn_params_declare(p, name, 0, cols, HN_INIT_ONE, 0));
    snprintf(name, sizeof name, "%s.bias", module);
    return hn_params_declare(p, name, 0, cols, HN_INIT_ZERO, 0);
}

/* Hugging Face's Conv1D has [in, out]. */
static hn_status declare_linear(const hn_gpt2_config *c, hn_params *p, const char *module,
                                int64_t in, int64_t out, double sd)
{
    char name[NAME + 16];
    HN_TRY(hn_params_linear(p, module, in, out, true, sd));
    if (c->mingpt) return HN_OK;
    snprintf(name, sizeof name, "%s.weight", module);
    return hn_params_file_transposed(p, name);
}

static hn_status declare_layer(const hn_gpt2_config *c, hn_params *p, int64_t layer)
{
    const int64_t d = c->hidden, h = c->intermediate;
    const double sd = c->init_range, joins = sd / sqrt(2.0 * (double)c->layers);
    char name[NAME];
    HN_TRY(declare_norm(p, in_layer(c, layer, "ln_1", name), d));
    HN_TRY(declare_linear(c, p, in_layer(c, layer, "attn.c_attn", name), d, 3 * d, sd));
    HN_TRY(declare_linear(c, p, in_layer(c, layer, "attn.c_proj", name), d, d, joins));
    HN_TRY(declare_norm(p, in_layer(c, layer, "ln_2", name), d));
    HN_TRY(declare_linear(c, p, in_layer(c, layer, "mlp.c_fc", name), d, h, sd));
    return declare_linear(c, p, in_layer(c, layer, "mlp.c_proj", name), h, d, joins);
}

hn_status hn_gpt2_declare(const hn_gpt2_config *c, hn_params *p)
{
    const double sd = c->init_range;
    HN_TRY(hn_params_declare(p, hn_gpt2_embedding(c), c->vocab, c->hidden, HN_INIT_NORMAL, sd));
    HN_TRY(hn_params_declare(p, place_name(c), c->positions, c->hidden, HN_INIT_NORMAL, sd));
    for (int64_t i = 0; i < c->layers; i++) {
        hn_params_layer(p, i);
        HN_TRY(declare_layer(c, p, i));
    }
    hn_params_layer(p, -1);
    HN_TRY(declare_norm(p, top(c, "transformer.ln_f"), c->hidden));
    if (c->tied) return HN_OK;
    return hn_params_declare(p, hn_gpt2_head(c), c->vocab, c->hidden, HN_INIT_NORMAL, sd);
}

/* ---- recording ---- */

/* What the recording of one forward pass carries along. */
typedef struct {
    const hn_gpt2_build *b;
    const hn_gpt2_config *c;
    hn_graph *g;
    const hn_llama_input *in;
    int64_t layer;
    char name[NAME];
} recorder;

static const char *name_of(recorder *r, const char *suffix)
{
    return in_layer(r->c, r->layer, suffix, r->name);
}

static hn_tensor *value_of(const recorder *r, const char *name)
{
    return hn_params_find(r->b->params, name)->value;
}

static hn_status linear(recorder *r, const char *suffix, hn_tensor *x, hn_tensor **y)
{
    return hn_params_linear_fwd(r->b->params, r->g, name_of(r, suffix), x, y);
}

/* y = layer norm(x + res); *sum becomes x + res. res NULL: y = layer norm(x). */
static hn_status norm(recorder *r, const char *module, hn_tensor *x, hn_tensor *res,
                      hn_tensor **sum, hn_tensor **y)
{
    char gain[NAME + 16], bias[NAME + 16];
    snprintf(gain, sizeof gain, "%s.weight", module);
    snprintf(bias, sizeof bias, "%s.bias", module);
    hn_tensor *in[] = {x, res, value_of(r, gain), value_of(r, bias)}, *out[HN_MAX_OUT];
    const hn_attr attr = {.norm = {.eps = (float)r->c->ln_eps}};
    HN_TRY(hn_emit(r->g, HN_OP_LAYER_NORM, module, in, &attr, out));
    if (sum != NULL) *sum = res ? out[0] : x;
    *y = out[1];
    return HN_OK;
}

static hn_status look_up(recorder *r, const char *table, hn_tensor *ids, hn_tensor **y)
{
    hn_tensor *in[] = {value_of(r, table), ids}, *out[HN_MAX_OUT];
    HN_TRY(hn_emit(r->g, HN_OP_EMBEDDING, table, in, NULL, out));
    *y = out[0];
    return HN_OK;
}

static hn_status embed(recorder *r, hn_tensor **x)
{
    hn_tensor *in[2], *out[HN_MAX_OUT];
    HN_TRY(look_up(r, hn_gpt2_embedding(r->c), r->in->tokens, &in[0]));
    HN_TRY(look_up(r, place_name(r->c), r->in->positions, &in[1]));
    HN_TRY(hn_emit(r->g, HN_OP_ADD, top(r->c, "transformer.embed"), in, NULL, out));
    *x = out[0];
    return HN_OK;
}

static float scale_of(const recorder *r)
{
    const double head_dim = (double)(r->c->hidden / r->c->heads);
    const double scale = r->c->scaled ? 1.0 / sqrt(head_dim) : 1.0;
    return (float)(r->c->scaled_by_layer ? scale / (double)(r->layer + 1) : scale);
}

static hn_status attend(recorder *r, hn_tensor *const *qkv, hn_tensor **o)
{
    const hn_gpt2_config *c = r->c;
    const hn_attr attr = {.attention = {.heads = c->heads,
                                        .kv_heads = c->heads,
                                        .head_dim = c->hidden / c->heads,
                                        .longest = r->b->longest,
                                        .even = r->b->even,
                                        .scale = scale_of(r),
                                        .causal = true,
                                        .impl = r->b->attention}};
    const hn_llama_cache *cache = r->b->cache ? &r->b->cache[r->layer] : NULL;
    hn_tensor *out[HN_MAX_OUT];
    if (cache != NULL) {
        hn_tensor *in[] = {cache->k, cache->v, qkv[1], qkv[2], r->in->cache_position};
        HN_TRY(hn_emit(r->g, HN_OP_KV_APPEND, name_of(r, "attn.cache"), in, NULL, NULL));
    }
    if (r->b->decode) {
        hn_tensor *in[] = {qkv[0], cache->k, cache->v, r->in->cache_position};
        HN_TRY(hn_emit(r->g, HN_OP_ATTENTION_DECODE, name_of(r, "attn"), in, &attr, out));
    } else {
        hn_tensor *in[] = {qkv[0], qkv[1], qkv[2], r->in->offsets, NULL};
        HN_TRY(hn_emit(r->g, HN_OP_ATTENTION, name_of(r, "attn"), in, &attr, out));
    }
    *o = out[0];
    return HN_OK;
}

static hn_status attention(recorder *r, hn_tensor *x, hn_tensor **y)
{
    const int64_t d = r->c->hidden;
    hn_tensor *all, *part[3], *o; /* q, k, v */
    HN_TRY(linear(r, "attn.c_attn", x, &all));
    for (int k = 0; k < 3; k++) HN_TRY(hn_view_columns(r->g, all, k * d, d, &part[k]));
    HN_TRY(attend(r, part, &o));
    return linear(r, "attn.c_proj", o, y);
}

static hn_status mlp(recorder *r, hn_tensor *x, hn_tensor **y)
{
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.act = {.kind = r->c->activation}};
    HN_TRY(linear(r, "mlp.c_fc", x, &x));
    HN_TRY(hn_emit(r->g, HN_OP_ACTIVATION, name_of(r, "mlp.act"), &x, &attr, out));
    return linear(r, "mlp.c_proj", out[0], y);
}

hn_status hn_gpt2_hidden(const hn_gpt2_build *b, hn_graph *g, const hn_llama_input *input,
                         hn_tensor **hidden)
{
    recorder r = {.b = b, .c = b->config, .g = g, .in = input};
    hn_tensor *res, *branch = NULL, *normed; /* the residual stream, and what joins it next */
    HN_TRY(embed(&r, &res));
    for (r.layer = 0; r.layer < r.c->layers; r.layer++) {
        if (r.layer < b->recompute) hn_segment_begin(g);
        HN_TRY(norm(&r, name_of(&r, "ln_1"), branch ? branch : res, branch ? res : NULL, &res,
                    &normed));
        HN_TRY(attention(&r, normed, &branch));
        HN_TRY(norm(&r, name_of(&r, "ln_2"), branch, res, &res, &normed));
        HN_TRY(mlp(&r, normed, &branch));
        hn_segment_end(g);
    }
    if (hidden == NULL) return HN_OK;
    return norm(&r, top(r.c, "transformer.ln_f"), branch, res, NULL, hidden);
}

hn_status hn_gpt2_logits(const hn_gpt2_build *b, hn_graph *g, hn_tensor *hidden, hn_tensor **logits)
{
    hn_tensor *in[] = {hidden, hn_params_find(b->params, hn_gpt2_head(b->config))->value, NULL,
                       NULL};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.linear = {.alpha = 1.0f}};
    HN_TRY(hn_emit(g, HN_OP_LINEAR, "lm_head", in, &attr, out));
    *logits = out[0];
    return HN_OK;
}

hn_status hn_gpt2_loss(const hn_gpt2_build *b, hn_graph *g, hn_tensor *hidden, hn_tensor *labels,
                       hn_tensor *loss, hn_tensor *count, hn_tensor **row_loss)
{
    const hn_param *head = hn_params_find(b->params, hn_gpt2_head(b->config));
    hn_tensor *dw = hn_graph_training(g) ? head->grad : NULL;
    hn_tensor *in[] = {hidden, head->value, labels, loss, count, dw}, *out[HN_MAX_OUT];
    const hn_attr attr = {.ce = {.chunk_rows = b->loss_chunk_rows,
                                 .want_dx = hn_graph_training(g) && hidden->needs_grad,
                                 .want_row_loss = row_loss != NULL}};
    HN_TRY(hn_emit(g, HN_OP_LINEAR_CE, "loss", in, &attr, out));
    if (row_loss != NULL) *row_loss = out[4];
    return HN_OK;
}
