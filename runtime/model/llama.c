#include "runtime/model/llama.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

static const char EMBED[] = "model.embed_tokens.weight";
static const char NORM[] = "model.norm.weight";

const char *hn_llama_head(const hn_llama_config *c) { return c->tied ? EMBED : "lm_head.weight"; }

/* Layers that read the same input: the first names the group. */
static const char *const qkv[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
static const char *const gate_up[] = {"mlp.gate_proj", "mlp.up_proj"};

static hn_status declare_group(hn_params *p, int64_t layer, int n, const char *const *suffixes)
{
    char name[3][128];
    const char *modules[3];
    for (int k = 0; k < n; k++) {
        snprintf(name[k], sizeof name[k], "model.layers.%" PRId64 ".%s", layer, suffixes[k]);
        modules[k] = name[k];
    }
    return hn_params_group(p, n, modules);
}

static hn_status declare_layer(const hn_llama_config *c, hn_params *p, int64_t layer)
{
    char name[128];
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const double sd = c->init_range;
#define NAME(suffix) \
    (snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s", layer, (suffix)), name)
    HN_TRY(hn_params_declare(p, NAME("input_layernorm.weight"), 0, c->hidden, HN_INIT_ONE, 0));
    HN_TRY(hn_params_linear(p, NAME("self_attn.q_proj"), c->hidden, q, c->qkv_bias, sd));
    HN_TRY(hn_params_linear(p, NAME("self_attn.k_proj"), c->hidden, kv, c->qkv_bias, sd));
    HN_TRY(hn_params_linear(p, NAME("self_attn.v_proj"), c->hidden, kv, c->qkv_bias, sd));
    HN_TRY(hn_params_linear(p, NAME("self_attn.o_proj"), q, c->hidden, c->o_bias, sd));
    if (c->qk_norm) {
        HN_TRY(
            hn_params_declare(p, NAME("self_attn.q_norm.weight"), 0, c->head_dim, HN_INIT_ONE, 0));
        HN_TRY(
            hn_params_declare(p, NAME("self_attn.k_norm.weight"), 0, c->head_dim, HN_INIT_ONE, 0));
    }
    HN_TRY(hn_params_declare(p, NAME("post_attention_layernorm.weight"), 0, c->hidden, HN_INIT_ONE,
                             0));
    HN_TRY(hn_params_linear(p, NAME("mlp.gate_proj"), c->hidden, c->intermediate, c->mlp_bias, sd));
    HN_TRY(hn_params_linear(p, NAME("mlp.up_proj"), c->hidden, c->intermediate, c->mlp_bias, sd));
    HN_TRY(hn_params_linear(p, NAME("mlp.down_proj"), c->intermediate, c->hidden, c->mlp_bias, sd));
#undef NAME
    HN_TRY(declare_group(p, layer, 3, qkv));
    return declare_group(p, layer, 2, gate_up);
}

hn_status hn_llama_declare(const hn_llama_config *c, hn_params *p)
{
    HN_TRY(hn_params_declare(p, EMBED, c->vocab, c->hidden, HN_INIT_NORMAL, c->init_range));
    for (int64_t i = 0; i < c->layers; i++) {
        hn_params_layer(p, i);
        HN_TRY(declare_layer(c, p, i));
    }
    hn_params_layer(p, -1);
    HN_TRY(hn_params_declare(p, NORM, 0, c->hidden, HN_INIT_ONE, 0));
    if (c->tied) return HN_OK;
    return hn_params_declare(p, hn_llama_head(c), c->vocab, c->hidden, HN_INIT_NORMAL,
                             c->init_range);
}

hn_status hn_llama_tables_new(const hn_llama_config *c, hn_program *p, int64_t positions,
                              hn_llama_tables *out)
{
    const hn_type type = {.dtype = HN_F32, .ndim = 2, .dim = {positions, c->rope.rotary_dim / 2}};
    HN_TRY(hn_program_tensor(p, HN_MEM_STATE, "rope.cos", &type, &out->cos));
    HN_TRY(hn_program_tensor(p, HN_MEM_STATE, "rope.sin", &type, &out->sin));
    out->positions = positions;
    return HN_OK;
}

hn_status hn_llama_tables_fill(const hn_llama_config *c, const hn_llama_tables *t)
{
    const int64_t half = c->rope.rotary_dim / 2, n = t->positions * half;
    float *cos = hn_malloc((size_t)n * sizeof *cos), *sin = hn_malloc((size_t)n * sizeof *sin);
    hn_status st = cos && sin ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " angles", n);
    if (st == HN_OK) st = hn_rope_table(&c->rope, t->positions, t->positions, half, cos, sin);
    if (st == HN_OK) st = hn_tensor_set(t->cos, cos);
    if (st == HN_OK) st = hn_tensor_set(t->sin, sin);
    hn_free(cos);
    hn_free(sin);
    return st;
}

/* What the recording of one forward pass carries along. */
typedef struct {
    const hn_llama_build *b;
    const hn_llama_config *c;
    hn_graph *g;
    const hn_llama_input *in;
    int64_t layer;
    char name[128];
} recorder;

static const char *name_of(recorder *r, const char *suffix)
{
    snprintf(r->name, sizeof r->name, "model.layers.%" PRId64 ".%s", r->layer, suffix);
    return r->name;
}

static hn_status linear(recorder *r, const char *suffix, hn_tensor *x, hn_tensor **y)
{
    return hn_params_linear_fwd(r->b->params, r->g, name_of(r, suffix), x, y);
}

/* The layers of a group, all of x. */
static hn_status linears(recorder *r, const char *const *group, hn_tensor *x, hn_tensor **y)
{
    return hn_params_group_fwd(r->b->params, r->g, name_of(r, group[0]), x, y);
}

/* y = rmsnorm(x + res); *sum becomes x + res. res NULL: y = rmsnorm(x). */
static hn_status norm(recorder *r, const char *gain, int64_t heads, hn_tensor *x, hn_tensor *res,
                      hn_tensor **sum, hn_tensor **y)
{
    const hn_param *w = hn_params_find(r->b->params, gain);
    hn_tensor *in[] = {x, res, w->value}, *out[HN_MAX_OUT];
    const hn_attr attr = {.norm = {.eps = (float)r->c->rms_eps, .heads = heads}};
    HN_TRY(hn_emit(r->g, HN_OP_ADD_RMSNORM, gain, in, &attr, out));
    if (sum != NULL) *sum = res ? out[0] : x;
    *y = out[1];
    return HN_OK;
}

static hn_status rope(recorder *r, int64_t heads, hn_tensor **x)
{
    hn_tensor *in[] = {*x, r->in->positions, r->b->tables->cos, r->b->tables->sin};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {
        .rope = {.heads = heads, .head_dim = r->c->head_dim, .rotary_dim = r->c->rope.rotary_dim}};
    HN_TRY(hn_emit(r->g, HN_OP_ROPE, name_of(r, "self_attn.rope"), in, &attr, out));
    *x = out[0];
    return HN_OK;
}

/* The norm of each head (qwen3), then the rotation: at once where k lies right of q. */
static hn_status norm_and_turn(recorder *r, hn_tensor **q, hn_tensor **k)
{
    const hn_llama_config *c = r->c;
    if (c->qk_norm) {
        HN_TRY(norm(r, name_of(r, "self_attn.q_norm.weight"), c->heads, *q, NULL, NULL, q));
        HN_TRY(norm(r, name_of(r, "self_attn.k_norm.weight"), c->kv_heads, *k, NULL, NULL, k));
    }
    const int64_t q_cols = hn_type_cols(&(*q)->type), k_cols = hn_type_cols(&(*k)->type);
    const size_t size = hn_dtype_size((*q)->type.dtype);
    if ((*q)->base == NULL || (*q)->base != (*k)->base ||
        (*k)->offset != (*q)->offset + (size_t)q_cols * size) {
        HN_TRY(rope(r, c->heads, q));
        return rope(r, c->kv_heads, k);
    }
    hn_tensor *both;
    const int64_t first = (int64_t)((*q)->offset / size);
    HN_TRY(hn_view_columns(r->g, (*q)->base, first, q_cols + k_cols, &both));
    HN_TRY(rope(r, c->heads + c->kv_heads, &both));
    HN_TRY(hn_view_columns(r->g, both, 0, q_cols, q));
    return hn_view_columns(r->g, both, q_cols, k_cols, k);
}

static hn_status append_cache(recorder *r, hn_tensor *k, hn_tensor *v)
{
    const hn_llama_cache *cache = &r->b->cache[r->layer];
    hn_tensor *in[] = {cache->k, cache->v, k, v, r->in->cache_position};
    return hn_emit(r->g, HN_OP_KV_APPEND, name_of(r, "self_attn.cache"), in, NULL, NULL);
}

static hn_status attend(recorder *r, hn_tensor *q, hn_tensor *k, hn_tensor *v, hn_tensor **o)
{
    const hn_llama_config *c = r->c;
    const hn_attr attr = {.attention = {.heads = c->heads,
                                        .kv_heads = c->kv_heads,
                                        .head_dim = c->head_dim,
                                        .window = hn_llama_window(c, r->layer),
                                        .longest = r->b->longest,
                                        .even = r->b->even,
                                        .scale = (float)(1.0 / sqrt((double)c->head_dim)),
                                        .causal = true,
                                        .impl = r->b->attention}};
    hn_tensor *out[HN_MAX_OUT];
    if (r->b->cache != NULL) HN_TRY(append_cache(r, k, v));
    if (r->b->decode) {
        const hn_llama_cache *cache = &r->b->cache[r->layer];
        hn_tensor *in[] = {q, cache->k, cache->v, r->in->cache_position};
        HN_TRY(hn_emit(r->g, HN_OP_ATTENTION_DECODE, name_of(r, "self_attn"), in, &attr, out));
    } else {
        hn_tensor *in[] = {q, k, v, r->in->offsets, NULL};
        HN_TRY(hn_emit(r->g, HN_OP_ATTENTION, name_of(r, "self_attn"), in, &attr, out));
    }
    *o = out[0];
    return HN_OK;
}

static hn_status attention(recorder *r, hn_tensor *x, hn_tensor **y)
{
    hn_tensor *part[3], *o; /* q, k, v */
    HN_TRY(linears(r, qkv, x, part));
    HN_TRY(norm_and_turn(r, &part[0], &part[1]));
    HN_TRY(attend(r, part[0], part[1], part[2], &o));
    return linear(r, "self_attn.o_proj", o, y);
}

static hn_status mlp(recorder *r, hn_tensor *x, hn_tensor **y)
{
    hn_tensor *in[2], *out[HN_MAX_OUT]; /* gate, up */
    HN_TRY(linears(r, gate_up, x, in));
    HN_TRY(hn_emit(r->g, HN_OP_SWIGLU, name_of(r, "mlp.act"), in, NULL, out));
    return linear(r, "mlp.down_proj", out[0], y);
}

hn_status hn_llama_hidden(const hn_llama_build *b, hn_graph *g, const hn_llama_input *input,
                          hn_tensor **hidden)
{
    recorder r = {.b = b, .c = b->config, .g = g, .in = input};
    hn_tensor *in[] = {hn_params_find(b->params, EMBED)->value, input->tokens};
    hn_tensor *out[HN_MAX_OUT], *normed;
    HN_TRY(hn_emit(g, HN_OP_EMBEDDING, EMBED, in, NULL, out));
    hn_tensor *res = out[0], *branch = NULL; /* the residual stream, and what joins it next */
    for (r.layer = 0; r.layer < r.c->layers; r.layer++) {
        if (r.layer < b->recompute) hn_segment_begin(g);
        HN_TRY(norm(&r, name_of(&r, "input_layernorm.weight"), 0, branch ? branch : res,
                    branch ? res : NULL, &res, &normed));
        HN_TRY(attention(&r, normed, &branch));
        HN_TRY(norm(&r, name_of(&r, "post_attention_layernorm.weight"), 0, branch, res, &res,
                    &normed));
        HN_TRY(mlp(&r, normed, &branch));
        hn_segment_end(g);
    }
    if (hidden == NULL) return HN_OK;
    return norm(&r, NORM, 0, branch, res, NULL, hidden);
}

hn_status hn_llama_logits(const hn_llama_build *b, hn_graph *g, hn_tensor *hidden,
                          hn_tensor **logits)
{
    hn_tensor *in[] = {hidden, hn_params_find(b->params, hn_llama_head(b->config))->value, NULL,
                       NULL};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.linear = {.alpha = 1.0f}};
    HN_TRY(hn_emit(g, HN_OP_LINEAR, "lm_head", in, &attr, out));
    *logits = out[0];
    return HN_OK;
}

hn_status hn_llama_loss(const hn_llama_build *b, hn_graph *g, hn_tensor *hidden, hn_tensor *labels,
                        hn_tensor *loss, hn_tensor *count, hn_tensor **row_loss)
{
    const hn_param *head = hn_params_find(b->params, hn_llama_head(b->config));
    hn_tensor *dw = hn_graph_training(g) ? head->grad : NULL;
    hn_tensor *in[] = {hidden, head->value, labels, loss, count, dw}, *out[HN_MAX_OUT];
    const hn_attr attr = {.ce = {.chunk_rows = b->loss_chunk_rows,
                                 .want_dx = hn_graph_training(g) && hidden->needs_grad,
                                 .want_row_loss = row_loss != NULL}};
    HN_TRY(hn_emit(g, HN_OP_LINEAR_CE, "loss", in, &attr, out));
    if (row_loss != NULL) *row_loss = out[4];
    return HN_OK;
}
