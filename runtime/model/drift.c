#include "runtime/model/drift.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "kernels/activation/activation.h"
#include "kernels/conv/pool2d.h"
#include "kernels/hyperflow/support_context.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

enum { NAME = 96 };

static const double init_range = 0.02;

/* Modulated norms: three a block, and the last one. Each has a scale and a shift. */
enum { SELF, CROSS, MLP, NORMS };

static int64_t modulation_cols(const hn_drift_config *c)
{
    return 2 * (NORMS * c->blocks + 1) * c->width;
}

/* ---- declaring ---- */

static hn_status declare_norm(hn_params *p, const char *module, int64_t cols)
{
    char name[NAME];
    snprintf(name, sizeof name, "%s.weight", module);
    HN_TRY(hn_params_declare(p, name, 0, cols, HN_INIT_ONE, 0));
    snprintf(name, sizeof name, "%s.bias", module);
    return hn_params_declare(p, name, 0, cols, HN_INIT_ZERO, 0);
}

/* Learned vectors take no weight decay. */
static hn_status declare_vectors(hn_params *p, const char *name, int64_t rows, int64_t cols)
{
    HN_TRY(hn_params_declare(p, name, rows, cols, HN_INIT_NORMAL, init_range));
    hn_params_find(p, name)->decay = false;
    return HN_OK;
}

static hn_status declare_linear(hn_params *p, const char *module, int64_t in, int64_t out)
{
    return hn_params_linear(p, module, in, out, true, init_range);
}

static const char *in_block(int64_t i, const char *suffix, char *name)
{
    snprintf(name, NAME, "drift.blocks.%" PRId64 ".%s", i, suffix);
    return name;
}

static hn_status declare_block(const hn_drift_config *c, hn_params *p, int64_t i)
{
    const int64_t w = c->width, m = c->intermediate;
    char name[NAME];
    HN_TRY(declare_linear(p, in_block(i, "attn.qkv", name), w, 3 * w));
    HN_TRY(declare_linear(p, in_block(i, "attn.proj", name), w, w));
    HN_TRY(declare_linear(p, in_block(i, "cross.q", name), w, w));
    HN_TRY(declare_linear(p, in_block(i, "cross.proj", name), w, w));
    HN_TRY(declare_linear(p, in_block(i, "mlp.fc1", name), w, m));
    return declare_linear(p, in_block(i, "mlp.fc2", name), m, w);
}

static hn_status declare_support(const hn_drift_config *c, hn_params *p)
{
    const int64_t w = c->width;
    HN_TRY(declare_linear(p, "drift.support.input", hn_support_context_cols(c->features), w));
    HN_TRY(declare_norm(p, "drift.support.norm", w));
    HN_TRY(declare_vectors(p, "drift.support.queries", c->queries, w));
    HN_TRY(declare_linear(p, "drift.support.q", w, w));
    HN_TRY(declare_linear(p, "drift.support.kv", w, 2 * w));
    HN_TRY(declare_linear(p, "drift.support.proj", w, w));
    return declare_norm(p, "drift.support.out_norm", w);
}

hn_status hn_drift_declare(const hn_drift_config *c, hn_params *p)
{
    const int64_t w = c->width;
    HN_TRY(hn_drift_config_check(c, "drift network"));
    HN_TRY(declare_support(c, p));
    HN_TRY(declare_linear(p, "drift.time.0", c->time, w));
    HN_TRY(declare_linear(p, "drift.time.2", w, w));
    HN_TRY(hn_params_linear(p, "drift.modulation", w, modulation_cols(c), true, 0));
    HN_TRY(declare_linear(p, "drift.cross.kv", w, 2 * c->blocks * w));
    HN_TRY(declare_linear(p, "drift.input", c->token_width, w));
    HN_TRY(declare_vectors(p, "drift.tokens", c->tokens, w));
    for (int64_t i = 0; i < c->blocks; i++) HN_TRY(declare_block(c, p, i));
    return hn_params_linear(p, "drift.output", w, c->token_width, true, 0);
}

/* ---- tables ---- */

static int64_t points_of(const hn_drift_tables *t) { return t->rows.tasks * t->rows.points; }

static hn_status table(hn_program *p, const char *name, int64_t n, hn_tensor **out)
{
    const hn_type type = hn_type_1d(HN_I32, n);
    return hn_program_tensor(p, HN_MEM_STATE, name, &type, out);
}

static hn_status check_rows(const hn_drift_config *c, const hn_drift_rows *r)
{
    if (r->tasks < 1 || r->support < 1 || r->support > HN_SUPPORT_ROWS || r->points < 1)
        return HN_FAIL(HN_ERR_SHAPE,
                       "drift network: %" PRId64 " tasks of %" PRId64 " support rows (1 to %d) and "
                       "%" PRId64 " points",
                       r->tasks, r->support, HN_SUPPORT_ROWS, r->points);
    const int64_t most = INT32_MAX / r->tasks;
    if (r->support > most || c->queries > most || r->points > most / c->tokens)
        return HN_FAIL(HN_ERR_SHAPE, "drift network: %" PRId64 " tasks are too many", r->tasks);
    return HN_OK;
}

hn_status hn_drift_tables_new(const hn_drift_config *c, hn_program *p, hn_dtype dtype,
                              const hn_drift_rows *rows, hn_drift_tables *out)
{
    HN_TRY(hn_drift_config_check(c, "drift network"));
    HN_TRY(check_rows(c, rows));
    hn_drift_tables t = {.rows = *rows};
    const hn_type zeros = hn_type_2d(dtype, rows->tasks, c->width);
    HN_TRY(table(p, "drift.token_ids", points_of(&t) * c->tokens, &t.token));
    HN_TRY(table(p, "drift.query_ids", rows->tasks * c->queries, &t.query));
    HN_TRY(table(p, "drift.point_offsets", points_of(&t) + 1, &t.point_offsets));
    HN_TRY(table(p, "drift.asked_by", 2 * rows->tasks + 1, &t.asked_by));
    HN_TRY(table(p, "drift.task_offsets", rows->tasks + 1, &t.task_offsets));
    HN_TRY(table(p, "drift.query_offsets", rows->tasks + 1, &t.query_offsets));
    HN_TRY(hn_program_tensor(p, HN_MEM_STATE, "drift.zeros", &zeros, &t.zeros));
    HN_TRY(hn_program_view(p, "drift.zero", t.zeros, 0, 1, 0, c->width, &t.zero));
    *out = t;
    return HN_OK;
}

/* Value i of the tensor is (i / divide) mod period * times; period 0: no mod. */
static hn_status fill_counted(const hn_tensor *t, int64_t divide, int64_t period, int64_t times)
{
    const int64_t n = hn_type_elements(&t->type);
    int32_t *v = hn_malloc((size_t)n * sizeof *v);
    if (v == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: %" PRId64 " numbers", t->name, n);
    for (int64_t i = 0; i < n; i++) {
        const int64_t k = i / divide;
        v[i] = (int32_t)((period ? k % period : k) * times);
    }
    const hn_status st = hn_tensor_write(t, 0, v, (size_t)n * sizeof *v);
    hn_free(v);
    return st;
}

hn_status hn_drift_tables_fill(const hn_drift_config *c, const hn_drift_tables *t)
{
    HN_TRY(fill_counted(t->token, 1, c->tokens, 1));
    HN_TRY(fill_counted(t->query, 1, c->queries, 1));
    HN_TRY(fill_counted(t->point_offsets, 1, 0, c->tokens));
    HN_TRY(fill_counted(t->task_offsets, 1, 0, t->rows.points * c->tokens));
    HN_TRY(fill_counted(t->query_offsets, 1, 0, c->queries));
    int32_t *v = hn_malloc((size_t)(2 * t->rows.tasks + 1) * sizeof *v);
    if (v == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: no memory", t->asked_by->name);
    for (int64_t i = 0; i <= 2 * t->rows.tasks; i++) v[i] = (int32_t)((i + 1) / 2 * c->queries);
    const hn_status st =
        hn_tensor_write(t->asked_by, 0, v, (size_t)(2 * t->rows.tasks + 1) * sizeof *v);
    hn_free(v);
    return st;
}

/* Two runs of rows a task: its images, which all queries see, and padding, which none does. */
void hn_drift_support_offsets(const hn_drift_rows *rows, const int32_t *n, int32_t *out)
{
    for (int64_t e = 0; e < rows->tasks; e++) {
        out[2 * e] = (int32_t)(e * rows->support);
        out[2 * e + 1] = (int32_t)(e * rows->support + n[e]);
    }
    out[2 * rows->tasks] = (int32_t)(rows->tasks * rows->support);
}

void hn_drift_time_row(const hn_drift_config *c, double t, float *out)
{
    const int64_t half = c->time / 2;
    const double ratio = pow(10000, -1.0 / (double)half);
    double angle = 1000 * t;
    for (int64_t i = 0; i < half; i++, angle *= ratio) {
        out[i] = (float)sin(angle);
        out[half + i] = (float)cos(angle);
    }
}

/* ---- recording ---- */

static hn_tensor *value_of(const hn_drift_build *b, const char *name)
{
    const hn_param *q = hn_params_find(b->params, name);
    return q ? q->value : NULL;
}

static hn_status linear(const hn_drift_build *b, hn_graph *g, const char *module, hn_tensor *x,
                        hn_tensor **y)
{
    return hn_params_linear_fwd(b->params, g, module, x, y);
}

/* *y = norm(x + res); res NULL: norm(x). */
static hn_status norm(const hn_drift_build *b, hn_graph *g, const char *module, hn_tensor *x,
                      hn_tensor *res, hn_tensor **y)
{
    char weight[NAME], bias[NAME];
    snprintf(weight, sizeof weight, "%s.weight", module);
    snprintf(bias, sizeof bias, "%s.bias", module);
    hn_tensor *const in[] = {x, res, value_of(b, weight), value_of(b, bias)};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.norm = {.eps = (float)b->config->norm_eps}};
    HN_TRY(hn_emit(g, HN_OP_LAYER_NORM, module, in, &attr, out));
    *y = out[1];
    return HN_OK;
}

static hn_status activate(hn_graph *g, const char *name, int kind, hn_tensor *x, hn_tensor **y)
{
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.act = {.kind = kind}};
    HN_TRY(hn_emit(g, HN_OP_ACTIVATION, name, &x, &attr, out));
    *y = out[0];
    return HN_OK;
}

static hn_status rows_of(hn_graph *g, const char *name, hn_tensor *vectors, hn_tensor *ids,
                         hn_tensor **y)
{
    hn_tensor *const in[] = {vectors, ids};
    hn_tensor *out[HN_MAX_OUT];
    HN_TRY(hn_emit(g, HN_OP_EMBEDDING, name, in, NULL, out));
    *y = out[0];
    return HN_OK;
}

/* Between sequences of their own offsets; kv_offsets NULL: within those of the queries, which are
 * all of `longest` rows. longest: rows of the longest sequence on either side. */
static hn_status attend(const hn_drift_build *b, hn_graph *g, const char *name, hn_tensor *q,
                        hn_tensor *k, hn_tensor *v, hn_tensor *q_offsets, hn_tensor *kv_offsets,
                        int64_t longest, hn_tensor **o)
{
    const int64_t heads = b->config->heads, head_dim = b->config->width / heads;
    const hn_attr attr = {.attention = {.heads = heads,
                                        .kv_heads = heads,
                                        .head_dim = head_dim,
                                        .longest = longest,
                                        .even = kv_offsets == NULL,
                                        .scale = (float)(1.0 / sqrt((double)head_dim)),
                                        .impl = kv_offsets ? HN_ATTENTION_OWN : b->attention}};
    hn_tensor *const in[] = {q, k, v, q_offsets, kv_offsets};
    hn_tensor *out[HN_MAX_OUT];
    HN_TRY(hn_emit(g, HN_OP_ATTENTION, name, in, &attr, out));
    *o = out[0];
    return HN_OK;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Learned queries ask the support images: x + proj(attention), the sum left to the norm. */
static hn_status ask_support(const hn_drift_build *b, hn_graph *g, hn_tensor *context,
                             hn_tensor *offsets, hn_tensor **tokens)
{
    const hn_drift_config *c = b->config;
    const hn_drift_tables *t = b->tables;
    hn_tensor *s, *n, *kv, *k, *v, *x, *q, *o;
    HN_TRY(linear(b, g, "drift.support.input", context, &s));
    HN_TRY(norm(b, g, "drift.support.norm", s, NULL, &n));
    HN_TRY(linear(b, g, "drift.support.kv", n, &kv));
    HN_TRY(hn_view_columns(g, kv, 0, c->width, &k));
    HN_TRY(hn_view_columns(g, kv, c->width, c->width, &v));
    HN_TRY(rows_of(g, "drift.support.queries", value_of(b, "drift.support.queries"), t->query, &x));
    HN_TRY(linear(b, g, "drift.support.q", x, &q));
    HN_TRY(attend(b, g, "drift.support", q, k, v, t->asked_by, offsets,
                  larger(c->queries, t->rows.support), &o));
    HN_TRY(linear(b, g, "drift.support.proj", o, &o));
    return norm(b, g, "drift.support.out_norm", o, x, tokens);
}

/* The mean of the task tokens of each task. */
static hn_status pool(const hn_drift_build *b, hn_graph *g, hn_tensor *tokens, hn_tensor **pooled)
{
    const hn_drift_config *c = b->config;
    const int64_t tasks = b->tables->rows.tasks;
    const int64_t as_images[] = {tasks, 1, c->queries, c->width};
    hn_tensor *out[HN_MAX_OUT], *x;
    const hn_attr attr = {.pool = {.kind = HN_POOL_AVG}};
    HN_TRY(hn_view_shape(g, tokens, 4, as_images, &x));
    HN_TRY(hn_emit(g, HN_OP_POOL2D, "drift.pool", &x, &attr, out));
    *pooled = out[0];
    return HN_OK;
}

hn_status hn_drift_task_of(const hn_drift_build *b, hn_graph *g, hn_tensor *context,
                           hn_tensor *support_offsets, hn_drift_task *out)
{
    const hn_drift_config *c = b->config;
    const hn_drift_rows *r = &b->tables->rows;
    const int64_t cols = hn_support_context_cols(c->features);
    char text[128];
    if (context->type.ndim != 2 || context->type.dim[0] != r->tasks * r->support ||
        context->type.dim[1] != cols)
        return HN_FAIL(HN_ERR_SHAPE,
                       "drift network: the support context is %s, not [%" PRId64 ", %" PRId64 "]",
                       hn_type_text(&context->type, text, sizeof text), r->tasks * r->support,
                       cols);
    HN_TRY(ask_support(b, g, context, support_offsets, &out->tokens));
    HN_TRY(pool(b, g, out->tokens, &out->pooled));
    HN_TRY(linear(b, g, "drift.cross.kv", out->tokens, &out->keys));
    return rows_of(g, "drift.tokens", value_of(b, "drift.tokens"), b->tables->token,
                   &out->embedded);
}

hn_status hn_drift_times(const hn_drift_build *b, hn_graph *g, hn_tensor *sinusoids,
                         hn_tensor **out)
{
    const hn_tensor *w = value_of(b, "drift.tokens");
    hn_tensor *x = sinusoids, *cast[HN_MAX_OUT];
    const hn_attr attr = {.cast = {.to = w->type.dtype}};
    if (x->type.dtype != w->type.dtype) {
        HN_TRY(hn_emit(g, HN_OP_CAST, "drift.time", &x, &attr, cast));
        x = cast[0];
    }
    HN_TRY(linear(b, g, "drift.time.0", x, &x));
    HN_TRY(activate(g, "drift.time.1", HN_ACT_SILU, x, &x));
    return linear(b, g, "drift.time.2", x, out);
}

/* *y = norm(x + res) (1 + scale) + shift, *sum = x + res; eps 0: without the norm. res NULL: x. */
static hn_status modulate(hn_graph *g, const char *name, double eps, hn_tensor *x, hn_tensor *res,
                          hn_tensor *scale, hn_tensor *shift, hn_tensor **sum, hn_tensor **y)
{
    hn_tensor *const in[] = {x, res, scale, shift};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.modulate = {.eps = (float)eps}};
    HN_TRY(hn_emit(g, HN_OP_MODULATE, name, in, &attr, out));
    if (sum != NULL) *sum = out[0];
    *y = out[1];
    return HN_OK;
}

/* All scales and shifts of all points, [points, modulation_cols]. */
static hn_status modulation(const hn_drift_build *b, hn_graph *g, hn_tensor *pooled,
                            hn_tensor *time, hn_tensor **out)
{
    const hn_drift_tables *t = b->tables;
    hn_tensor *c;
    if (hn_type_rows(&time->type) == points_of(t))
        HN_TRY(modulate(g, "drift.condition", 0, time, NULL, t->zeros, pooled, NULL, &c));
    else if (hn_type_rows(&time->type) == 1 && t->rows.points == 1)
        HN_TRY(modulate(g, "drift.condition", 0, pooled, NULL, t->zero, time, NULL, &c));
    else
        return HN_FAIL(HN_ERR_SHAPE, "drift network: %" PRId64 " times of %" PRId64 " points",
                       hn_type_rows(&time->type), points_of(t));
    HN_TRY(activate(g, "drift.condition.silu", HN_ACT_SILU, c, &c));
    return linear(b, g, "drift.modulation", c, out);
}

/* What the stream of a pass carries from norm to norm: it is res + branch. */
typedef struct {
    const hn_drift_build *b;
    hn_graph *g;
    const hn_drift_task *task;
    hn_tensor *all; /* of modulation */
    hn_tensor *res, *branch;
} stream;

/* Norm number k of the block, or the last one: its scale and shift. */
static hn_status next_norm(stream *s, int64_t block, int k, hn_tensor **y)
{
    static const char *const names[] = {"norm1", "norm2", "norm3"};
    const int64_t w = s->b->config->width, first = 2 * (NORMS * block + k) * w;
    const bool last = block == s->b->config->blocks;
    hn_tensor *scale, *shift;
    char name[NAME];
    HN_TRY(hn_view_columns(s->g, s->all, first, w, &scale));
    HN_TRY(hn_view_columns(s->g, s->all, first + w, w, &shift));
    return modulate(s->g, last ? "drift.norm" : in_block(block, names[k], name),
                    s->b->config->norm_eps, s->branch, s->res, scale, shift, &s->res, y);
}

static hn_status within_point(stream *s, int64_t block)
{
    const int64_t w = s->b->config->width;
    char name[NAME];
    hn_tensor *x, *part[3];
    HN_TRY(next_norm(s, block, SELF, &x));
    HN_TRY(linear(s->b, s->g, in_block(block, "attn.qkv", name), x, &x));
    for (int k = 0; k < 3; k++) HN_TRY(hn_view_columns(s->g, x, k * w, w, &part[k]));
    HN_TRY(attend(s->b, s->g, in_block(block, "attn", name), part[0], part[1], part[2],
                  s->b->tables->point_offsets, NULL, s->b->config->tokens, &x));
    return linear(s->b, s->g, in_block(block, "attn.proj", name), x, &s->branch);
}

static hn_status to_task(stream *s, int64_t block)
{
    const hn_drift_config *c = s->b->config;
    const hn_drift_tables *t = s->b->tables;
    const int64_t w = c->width;
    char name[NAME];
    hn_tensor *x, *k, *v;
    HN_TRY(next_norm(s, block, CROSS, &x));
    HN_TRY(linear(s->b, s->g, in_block(block, "cross.q", name), x, &x));
    HN_TRY(hn_view_columns(s->g, s->task->keys, 2 * block * w, w, &k));
    HN_TRY(hn_view_columns(s->g, s->task->keys, (2 * block + 1) * w, w, &v));
    HN_TRY(attend(s->b, s->g, in_block(block, "cross", name), x, k, v, t->task_offsets,
                  t->query_offsets, larger(c->queries, t->rows.points * c->tokens), &x));
    return linear(s->b, s->g, in_block(block, "cross.proj", name), x, &s->branch);
}

static hn_status mlp(stream *s, int64_t block)
{
    char name[NAME];
    hn_tensor *x;
    HN_TRY(next_norm(s, block, MLP, &x));
    HN_TRY(linear(s->b, s->g, in_block(block, "mlp.fc1", name), x, &x));
    HN_TRY(activate(s->g, in_block(block, "mlp.act", name), HN_ACT_GELU, x, &x));
    return linear(s->b, s->g, in_block(block, "mlp.fc2", name), x, &s->branch);
}

hn_status hn_drift_slope(const hn_drift_build *b, hn_graph *g, const hn_drift_task *task,
                         hn_tensor *z, hn_tensor *time, hn_tensor **slope)
{
    const hn_drift_config *c = b->config;
    stream s = {.b = b, .g = g, .task = task, .res = task->embedded};
    hn_tensor *x;
    HN_TRY(modulation(b, g, task->pooled, time, &s.all));
    HN_TRY(linear(b, g, "drift.input", z, &s.branch));
    for (int64_t i = 0; i < c->blocks; i++) {
        HN_TRY(within_point(&s, i));
        HN_TRY(to_task(&s, i));
        HN_TRY(mlp(&s, i));
    }
    HN_TRY(next_norm(&s, c->blocks, SELF, &x));
    return linear(b, g, "drift.output", x, slope);
}

/* ---- how much it is ---- */

double hn_drift_task_flops(const hn_drift_config *c, const hn_drift_rows *r)
{
    const double w = (double)c->width, q = (double)c->queries, n = (double)r->support;
    const double cols = (double)hn_support_context_cols(c->features);
    const double images = 2 * n * w * (cols + 2 * w);
    const double asked = 2 * q * w * (2 * w + 2 * (double)c->blocks * w) + 4 * q * n * w;
    return (double)r->tasks * (images + asked);
}

double hn_drift_slope_flops(const hn_drift_config *c, const hn_drift_rows *r)
{
    const double w = (double)c->width, d = (double)c->token_width, t = (double)c->tokens;
    const double block = 2 * w * (6 * w + 2 * (double)c->intermediate); /* products of a token */
    const double pairs = 4 * w * (t + (double)c->queries);              /* attention of a token */
    const double token = (double)c->blocks * (block + pairs) + 4 * d * w;
    return (double)(r->tasks * r->points) * (t * token + 2 * w * (double)modulation_cols(c));
}
