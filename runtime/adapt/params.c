#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/adapt/params_impl.h"
#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/graph/shards.h"
#include "runtime/graph/tensor.h"

hn_status hn_params_new(const hn_adapt *adapt, hn_params **out)
{
    hn_params *p = hn_calloc(1, sizeof *p);
    if (p == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for parameters", sizeof *p);
    if (adapt != NULL) p->adapt = *adapt;
    *out = p;
    return HN_OK;
}

void hn_params_free(hn_params *p)
{
    if (p == NULL) return;
    hn_free(p->param);
    hn_free(p->linear);
    hn_free(p->group);
    hn_sparse_free(p->sparse);
    hn_free(p->shard);
    hn_arena_free(&p->arena);
    hn_free(p);
}

void hn_params_layer(hn_params *p, int64_t n) { p->layer = n + 1; }

hn_status hn_param_add(hn_params *p, const hn_param *what, const char *name, hn_param **out)
{
    if (what->dim[0] < 1 || (what->ndim == 2 && what->dim[1] < 1))
        return HN_FAIL(HN_ERR_SHAPE, "%s: a dimension below 1", name);
    hn_param *q = hn_arena_take(&p->arena, sizeof *q);
    char *copy = hn_arena_text(&p->arena, "%s", name);
    if (q == NULL || copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", name);
    HN_TRY(hn_grow(&p->param, &p->cap, p->n, sizeof *p->param));
    *q = *what;
    q->name = copy;
    q->layer = p->layer;
    if (q->file_ndim == 0) {
        q->file_ndim = q->ndim;
        for (int i = 0; i < q->ndim; i++) q->file_dim[i] = q->dim[i];
    }
    if (q->key == 0) q->key = hn_hash_name(copy);
    p->param[p->n++] = q;
    if (out != NULL) *out = q;
    return HN_OK;
}

static hn_status declare_base(hn_params *p, const char *name, int64_t rows, int64_t cols,
                              hn_init init, double init_scale, hn_param **out)
{
    const hn_adapt_kind kind =
        p->adapt.parameter ? p->adapt.parameter(p->adapt.context, name) : HN_ADAPT_FROZEN;
    const hn_param q = {
        .ndim = rows ? 2 : 1,
        .dim = {rows ? rows : cols, rows ? cols : 0},
        .trained = kind == HN_ADAPT_FULL,
        .given = kind == HN_ADAPT_GIVEN,
        .decay = rows > 0,
        .init = init,
        .init_scale = init_scale,
    };
    if (q.given && rows > 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: a matrix that is given, only vectors can be", name);
    return hn_param_add(p, &q, name, out);
}

hn_status hn_params_declare(hn_params *p, const char *name, int64_t rows, int64_t cols,
                            hn_init init, double init_scale)
{
    return declare_base(p, name, rows, cols, init, init_scale, NULL);
}

hn_status hn_params_buffer(hn_params *p, const char *name, int64_t n, hn_init init)
{
    const hn_param q = {.ndim = 1, .dim = {n}, .buffer = true, .init = init};
    return hn_param_add(p, &q, name, NULL);
}

hn_status hn_params_file_shape(hn_params *p, const char *name, int ndim, const int64_t *dim)
{
    hn_param *q = hn_params_find(p, name);
    int64_t n = 1;
    if (q == NULL) return HN_FAIL(HN_ERR_ARG, "%s: no such parameter", name);
    for (int i = 0; i < ndim && i < HN_PARAM_DIMS; i++) n *= q->file_dim[i] = dim[i];
    q->file_ndim = ndim;
    if (ndim <= HN_PARAM_DIMS && n == hn_param_values(q)) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " values in files, %" PRId64 " here", name, n,
                   hn_param_values(q));
}

hn_status hn_params_file_transposed(hn_params *p, const char *name)
{
    hn_param *q = hn_params_find(p, name);
    if (q == NULL || q->ndim != 2) return HN_FAIL(HN_ERR_ARG, "%s: no such matrix", name);
    const int64_t dim[] = {q->dim[1], q->dim[0]};
    q->order = HN_ORDER_TRANSPOSED;
    return hn_params_file_shape(p, name, 2, dim);
}

/* Of a convolution: the shape of what has a column for each value under the kernel. */
static void set_taps(const hn_linear_layer *l, hn_param *q)
{
    if (l->kh == 0) return;
    const int64_t taps = (l->kd ? l->kd : 1) * l->kh * l->kw;
    const int64_t image[] = {q->dim[0], l->in / taps, l->kh, l->kw};
    const int64_t volume[] = {q->dim[0], l->in / taps, l->kd, l->kh, l->kw};
    q->order = HN_ORDER_TAPS;
    q->taps = taps;
    q->file_ndim = l->kd ? 5 : 4;
    memcpy(q->file_dim, l->kd ? volume : image, (size_t)q->file_ndim * sizeof *volume);
}

static hn_status declare_lowrank(hn_params *p, hn_linear_layer *l)
{
    char name[512];
    snprintf(name, sizeof name, "%s.lora_A", l->module);
    hn_param a = {.key = hn_hash_name(name),
                  .ndim = 2,
                  .dim = {l->lowrank.rank, l->in},
                  .trained = true,
                  .decay = true,
                  .adapter = true,
                  .init = HN_INIT_UNIFORM,
                  .init_scale = 1.0 / sqrt((double)l->in)};
    set_taps(l, &a);
    snprintf(name, sizeof name, "%s.lora_A.weight", l->module);
    HN_TRY(hn_param_add(p, &a, name, &l->a));
    hn_param b = {.ndim = 2,
                  .dim = {l->out, l->lowrank.rank},
                  .trained = true,
                  .decay = true,
                  .adapter = true,
                  .init = HN_INIT_ZERO};
    if (l->kh > 0) {
        b.file_ndim = 4;
        for (int i = 0; i < b.file_ndim; i++) b.file_dim[i] = i < 2 ? b.dim[i] : 1;
    }
    snprintf(name, sizeof name, "%s.lora_B.weight", l->module);
    HN_TRY(hn_param_add(p, &b, name, &l->b));
    return l->lowrank.magnitude ? hn_magnitude_declare(p, l) : HN_OK;
}

/* Columns of A lie beside those of a group of channels: only the sum W + B A has a meaning there.
 */
static hn_status settle_lowrank(hn_linear_layer *l)
{
    l->lowrank.materialise |= l->groups > 1;
    if (l->lowrank.rank == 0 || !l->lowrank.materialise || !(l->lowrank.dropout > 0)) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: dropout %g in front of a low-rank update that is added to the weight%s",
                   l->module, (double)l->lowrank.dropout,
                   l->groups > 1 ? " (a convolution in groups)" : "");
}

/* What the hook wants of the weight besides. */
static hn_status settle_sparse(hn_params *p, hn_linear_layer *l)
{
    if (p->adapt.sparse == NULL) return HN_OK;
    HN_TRY(p->adapt.sparse(p->adapt.context, l->module, l->in, l->out, &l->sparse));
    if (l->sparse.br == 0 && l->sparse.bc == 0) return HN_OK;
    HN_TRY(hn_block_shape_check(l->module, l->sparse, l->out, l->in));
    if (l->lowrank.rank == 0 || !l->lowrank.materialise) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: blocks of a weight to which a low-rank update is added",
                   l->module);
}

/* What of the bias stays. */
static hn_status settle_still(const hn_params *p, const hn_linear_layer *l)
{
    hn_param *b = l->bias;
    if (p->adapt.still == NULL || b == NULL || !b->trained) return HN_OK;
    p->adapt.still(p->adapt.context, l->module, l->out, &b->still, &b->n_still);
    if (b->still >= 0 && b->n_still >= 0 && b->n_still <= l->out && b->still <= l->out - b->n_still)
        return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " elements from %" PRId64 " on are to stay",
                   b->name, b->n_still, b->still);
}

static hn_status declare_layer(hn_params *p, const char *module, const hn_linear_layer *what,
                               bool bias, double init_scale)
{
    char name[512];
    hn_linear_layer *l = hn_arena_take(&p->arena, sizeof *l);
    char *copy = hn_arena_text(&p->arena, "%s", module);
    if (l == NULL || copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", module);
    *l = *what;
    l->module = copy;
    l->key = hn_hash_name(module);
    if (p->adapt.linear)
        HN_TRY(p->adapt.linear(p->adapt.context, module, l->in, l->out, &l->lowrank));
    HN_TRY(settle_lowrank(l));
    HN_TRY(settle_sparse(p, l));
    if (l->kd > 0 && (l->lowrank.rank > 0 || l->sparse.br > 0))
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: a convolution of volumes is trained as a whole or not at all", module);
    snprintf(name, sizeof name, "%s.weight", module);
    HN_TRY(declare_base(p, name, l->out, l->in, HN_INIT_NORMAL, init_scale, &l->weight));
    if (l->weight->trained && l->sparse.br > 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: blocks of a weight that is trained as a whole",
                       name);
    set_taps(l, l->weight);
    snprintf(name, sizeof name, "%s.bias", module);
    if (bias) HN_TRY(declare_base(p, name, 0, l->out, HN_INIT_ZERO, 0, &l->bias));
    HN_TRY(settle_still(p, l));
    if (l->lowrank.rank > 0) HN_TRY(declare_lowrank(p, l));
    HN_TRY(hn_grow(&p->linear, &p->cap_linear, p->n_linear, sizeof *p->linear));
    p->linear[p->n_linear++] = l;
    return HN_OK;
}

hn_status hn_params_linear(hn_params *p, const char *module, int64_t in, int64_t out, bool bias,
                           double init_scale)
{
    const hn_linear_layer l = {.in = in, .out = out};
    return declare_layer(p, module, &l, bias, init_scale);
}

hn_status hn_params_conv(hn_params *p, const char *module, const hn_conv_shape *s)
{
    if (s->groups < 1 || s->in % s->groups != 0 || s->out % s->groups != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " groups of %" PRId64 " and %" PRId64 " channels", module,
                       s->groups, s->in, s->out);
    if (s->kd > 0 && s->groups != 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: a convolution of volumes in groups", module);
    const hn_linear_layer l = {.in = (s->kd ? s->kd : 1) * s->kh * s->kw * (s->in / s->groups),
                               .out = s->out,
                               .kh = s->kh,
                               .kw = s->kw,
                               .groups = s->groups,
                               .kd = s->kd};
    return declare_layer(p, module, &l, s->bias, s->init_scale);
}

static hn_linear_layer *find_linear(const hn_params *p, const char *module)
{
    for (int64_t i = 0; i < p->n_linear; i++)
        if (strcmp(p->linear[i]->module, module) == 0) return p->linear[i];
    return NULL;
}

hn_status hn_params_file_flattened(hn_params *p, const char *module, int64_t taps)
{
    hn_linear_layer *l = find_linear(p, module);
    if (l == NULL || l->kh > 0) return HN_FAIL(HN_ERR_ARG, "%s: no such linear layer", module);
    if (taps < 1 || l->in % taps != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " inputs are no images of %" PRId64 " pixels",
                       module, l->in, taps);
    hn_param *const q[] = {l->weight, l->a};
    for (int k = 0; k < 2; k++) {
        if (q[k] == NULL) continue;
        q[k]->order = HN_ORDER_TAPS;
        q[k]->taps = taps;
    }
    return HN_OK;
}

/* "model.layers.0.self_attn.q_proj+k_proj+v_proj" */
static const char *group_name(hn_params *p, const hn_group *g)
{
    char text[512];
    int at = snprintf(text, sizeof text, "%s", g->part[0]->module);
    for (int k = 1; k < g->n && at > 0 && (size_t)at < sizeof text; k++) {
        const char *module = g->part[k]->module, *dot = strrchr(module, '.');
        at += snprintf(text + at, sizeof text - (size_t)at, "+%s", dot ? dot + 1 : module);
    }
    return hn_arena_text(&p->arena, "%s", text);
}

hn_status hn_params_group(hn_params *p, int n, const char *const *modules)
{
    if (n < 1 || n > HN_MAX_PARTS) return HN_FAIL(HN_ERR_ARG, "%d layers in a group", n);
    hn_group *g = hn_arena_take(&p->arena, sizeof *g);
    if (g == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the group of %s", modules[0]);
    for (g->n = 0; g->n < n; g->n++) {
        hn_linear_layer *l = find_linear(p, modules[g->n]);
        if (l == NULL) return HN_FAIL(HN_ERR_ARG, "%s: no such linear layer", modules[g->n]);
        if (l->in != find_linear(p, modules[0])->in)
            return HN_FAIL(HN_ERR_SHAPE, "%s reads another width than %s", l->module, modules[0]);
        g->part[g->n] = l;
    }
    g->name = group_name(p, g);
    if (g->name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the group of %s", modules[0]);
    HN_TRY(hn_grow(&p->group, &p->cap_group, p->n_group, sizeof *p->group));
    p->group[p->n_group++] = g;
    return HN_OK;
}

/* Trained tensors have one layout in all five classes, so the pitch is counted in elements. */
static hn_type type_of(const hn_param *q, hn_dtype dtype)
{
    hn_type t = {.dtype = dtype, .ndim = q->ndim, .dim = {q->dim[0], q->dim[1]}};
    if (q->ndim == 2) t.pitch = (q->dim[1] + 7) / 8 * 8;
    return t;
}

static hn_status create(hn_program *program, hn_mem mem, const char *prefix, const hn_param *q,
                        hn_dtype dtype, hn_tensor **out)
{
    char name[600];
    const hn_type type = type_of(q, dtype);
    snprintf(name, sizeof name, "%s%s", prefix, q->name);
    return hn_program_tensor(program, mem, name, &type, out);
}

/* Every trained class has the same layout, so that flat passes serve them all; `work`: the flat
 * working copies exist. A value that storage.c has placed elsewhere stays there. */
static hn_status create_trained(hn_program *program, hn_param *q, const hn_params_options *o,
                                bool work)
{
    hn_tensor *copy = NULL;
    if (q->split == NULL || !work)
        HN_TRY(create(program, HN_MEM_TRAINED, "", q, HN_F32, &q->master));
    if (work) HN_TRY(create(program, HN_MEM_WORK, "work:", q, o->dtype, &copy));
    if (q->value == NULL) q->value = copy && !q->wide ? copy : q->master;
    if (!o->gradients) return HN_OK;
    HN_TRY(create(program, HN_MEM_GRAD, "grad:", q, HN_F32, &q->grad));
    const int moments = q->split ? 0 : o->moments; /* else shares: hn_split_close */
    if (moments > 0) HN_TRY(create(program, HN_MEM_MOMENT1, "m:", q, HN_F32, &q->moment1));
    if (moments > 1) HN_TRY(create(program, HN_MEM_MOMENT2, "v:", q, HN_F32, &q->moment2));
    if (o->average) HN_TRY(create(program, HN_MEM_AVERAGE, "average:", q, HN_F32, &q->average));
    q->value->needs_grad = true;
    q->value->grad = q->grad;
    q->grad->still = q->still;
    q->grad->n_still = q->n_still;
    return HN_OK;
}

/* The same for the A of a fused group, whose tensors are rows of one tensor in every class. */
static hn_status create_stack(hn_program *program, hn_group *g, const hn_params_options *o,
                              bool work)
{
    hn_tensor *all, *copy = NULL, *view[HN_MAX_PARTS], *copies[HN_MAX_PARTS] = {NULL};
    if (o->average)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "averages of low-rank updates of a fused group");
    HN_TRY(hn_storage_stack(g, program, HN_MEM_TRAINED, "", HN_F32, &g->a_master, view));
    if (work) HN_TRY(hn_storage_stack(g, program, HN_MEM_WORK, "work:", o->dtype, &copy, copies));
    if (g->a == NULL) g->a = copy ? copy : g->a_master;
    for (int k = 0; k < g->n; k++) {
        hn_param *q = g->part[k]->a;
        if (q == NULL) continue;
        q->master = view[k];
        if (q->value == NULL) q->value = copy ? copies[k] : q->master;
    }
    if (!o->gradients) return HN_OK;
    HN_TRY(hn_storage_stack(g, program, HN_MEM_GRAD, "grad:", HN_F32, &all, view));
    g->a->grad = all;
    g->a->needs_grad = g->b->needs_grad = true;
    for (int k = 0; k < g->n; k++) {
        hn_param *q = g->part[k]->a;
        if (q == NULL) continue;
        q->grad = q->value->grad = view[k];
        q->value->needs_grad = true;
    }
    if (o->moments > 0)
        HN_TRY(hn_storage_stack(g, program, HN_MEM_MOMENT1, "m:", HN_F32, &all, view));
    for (int k = 0; o->moments > 0 && k < g->n; k++)
        if (view[k] != NULL) g->part[k]->a->moment1 = view[k];
    if (o->moments > 1)
        HN_TRY(hn_storage_stack(g, program, HN_MEM_MOMENT2, "v:", HN_F32, &all, view));
    for (int k = 0; o->moments > 1 && k < g->n; k++)
        if (view[k] != NULL) g->part[k]->a->moment2 = view[k];
    return HN_OK;
}

static hn_status create_frozen(hn_params *p, hn_program *program, hn_param *q,
                               const hn_params_options *o)
{
    char name[600];
    const hn_type type = type_of(q, o->dtype);
    snprintf(name, sizeof name, "%s%s", o->prefix ? o->prefix : "", q->name);
    return hn_shared_tensor(p, program, q->layer, name, &type, &q->value);
}

static hn_status create_param(hn_params *p, hn_program *program, hn_param *q,
                              const hn_params_options *o, bool work)
{
    if (q->trained && q->stack == NULL) return create_trained(program, q, o, work);
    if (q->trained) return q->master ? HN_OK : create_stack(program, q->stack, o, work);
    if (q->value != NULL) return HN_OK;
    const char *prefix = o->prefix ? o->prefix : "";
    if (q->given) return create(program, HN_MEM_WORK, prefix, q, o->dtype, &q->value);
    if (q->buffer) return create(program, HN_MEM_STATE, prefix, q, HN_F32, &q->value);
    return create_frozen(p, program, q, o);
}

/* The blocks of all layers of which the hook wants some. */
static hn_status create_sparse(hn_params *p, hn_program *program, const hn_params_options *o)
{
    int64_t n = 0;
    hn_sparse_weight *weight = hn_calloc((size_t)p->n_linear, sizeof *weight);
    if (weight == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " layers", p->n_linear);
    for (int64_t i = 0; i < p->n_linear; i++) {
        const hn_linear_layer *l = p->linear[i];
        if (l->sparse.br > 0)
            weight[n++] = (hn_sparse_weight){l->weight->name, l->weight->value, l->sparse};
    }
    const hn_status st = o->moments == 2
                             ? hn_sparse_new(program, weight, n, &o->sparse, &p->sparse)
                             : HN_FAIL(HN_ERR_UNSUPPORTED, "blocks are trained by AdamW alone");
    hn_free(weight);
    return st;
}

hn_status hn_params_create(hn_params *p, hn_program *program, const hn_params_options *o)
{
    if (o->dtype != HN_F32 && o->dtype != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "computing in %s, only f32 and bf16",
                       hn_dtype_name(o->dtype));
    if (o->prefix && (hn_params_trained(p) > 0 || o->fuse != HN_FUSE_NEVER || o->border))
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "parameters beside others (%s) that are trained, fused or bordered",
                       o->prefix);
    HN_TRY(hn_shared_open(p, program, o));
    HN_TRY(hn_storage_place(p, program, o));
    HN_TRY(hn_split_open(p, program, o));
    /* the class whose layout is that of the flat range */
    const hn_mem flat = p->split.ranks > 0 ? HN_MEM_GRAD : HN_MEM_TRAINED;
    for (int64_t i = 0; i < p->n; i++)
        p->flat.work |= o->dtype != HN_F32 && p->param[i]->trained && p->param[i]->value == NULL;
    for (int decayed = 1; decayed >= 0; decayed--) {
        for (int64_t i = 0; i < p->n; i++) {
            hn_param *q = p->param[i];
            if (q->given) continue;
            if (q->trained ? q->decay == (decayed == 1) : decayed == 1)
                HN_TRY(create_param(p, program, q, o, p->flat.work));
        }
        if (decayed) p->flat.n_decay = hn_program_class_elements(program, flat, HN_F32);
    }
    p->flat.n = p->flat.n_dense = hn_program_class_elements(program, flat, HN_F32);
    HN_TRY(hn_split_close(p, program, o));
    for (int64_t i = 0; i < p->n; i++) /* behind the working copies, which lie as the masters do */
        if (p->param[i]->given) HN_TRY(create_param(p, program, p->param[i], o, p->flat.work));
    HN_TRY(hn_magnitude_create(p, program, o));
    HN_TRY(hn_shared_close(p));
    if (!o->gradients) return HN_OK;
    if (hn_params_in_blocks(p)) {
        HN_TRY(create_sparse(p, program, o));
        p->flat.n = hn_program_class_elements(program, HN_MEM_TRAINED, HN_F32);
    }
    const hn_type one = hn_type_1d(HN_F32, 1);
    return hn_program_tensor(program, HN_MEM_GRAD, "trained_tokens", &one, &p->flat.count);
}

static hn_status refresh(hn_graph *g, hn_tensor *master, hn_tensor *value)
{
    hn_tensor *const in[] = {master, value};
    if (master == value || value->mem == HN_MEM_WORK) return HN_OK;
    if (value->mem == HN_MEM_GATHERED) return HN_OK; /* stored behind every gather */
    return hn_emit(g, HN_OP_STORE, value->name, in, NULL, NULL);
}

hn_status hn_params_refresh(const hn_params *p, hn_graph *g)
{
    for (int64_t i = 0; i < p->n; i++)
        if (p->param[i]->trained && p->param[i]->stack == NULL)
            HN_TRY(refresh(g, p->param[i]->master, p->param[i]->value));
    for (int64_t i = 0; i < p->n_group; i++)
        if (p->group[i]->a_master != NULL)
            HN_TRY(refresh(g, p->group[i]->a_master, p->group[i]->a));
    return HN_OK;
}

int64_t hn_params_count(const hn_params *p) { return p->n; }
hn_param *hn_params_at(const hn_params *p, int64_t i) { return p->param[i]; }
int64_t hn_params_linears(const hn_params *p) { return p->n_linear; }
const hn_linear_layer *hn_params_linear_at(const hn_params *p, int64_t i) { return p->linear[i]; }
const hn_flat *hn_params_flat(const hn_params *p) { return &p->flat; }

hn_param *hn_params_find(const hn_params *p, const char *name)
{
    for (int64_t i = 0; i < p->n; i++)
        if (strcmp(p->param[i]->name, name) == 0) return p->param[i];
    return NULL;
}

int64_t hn_param_values(const hn_param *q)
{
    return q->ndim == 2 ? q->dim[0] * q->dim[1] : q->dim[0];
}

int64_t hn_params_trained(const hn_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++)
        if (p->param[i]->trained) n += hn_param_values(p->param[i]);
    return n + (p->sparse ? hn_sparse_pool_values(p->sparse) : 0);
}

bool hn_params_in_blocks(const hn_params *p)
{
    for (int64_t i = 0; i < p->n_linear; i++)
        if (p->linear[i]->sparse.br > 0) return true;
    return false;
}

hn_sparse *hn_params_sparse(const hn_params *p) { return p->sparse; }

int64_t hn_params_total(const hn_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++)
        if (!p->param[i]->adapter && !p->param[i]->buffer) n += hn_param_values(p->param[i]);
    return n;
}

static const hn_tensor *storage(const hn_param *p) { return p->master ? p->master : p->value; }

/* Normal numbers by Box and Muller from two words of the same counter block. */
static double draw(const hn_param *p, hn_rng r, int64_t row, int64_t col)
{
    uint32_t w[4];
    switch (p->init) {
    case HN_INIT_ONE: return 1.0;
    case HN_INIT_UNIFORM: {
        const float u = hn_rng_unit(hn_rng_u32(r, (uint64_t)row, (uint32_t)col));
        return (double)((2.0f * u - 1.0f) * (float)p->init_scale);
    }
    case HN_INIT_NORMAL: {
        hn_rng_block(r, (uint64_t)row, (uint32_t)col, w);
        const double u = ((double)w[0] + 1.0) * 0x1p-32, v = (double)w[1] * 0x1p-32;
        return p->init_scale * sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
    }
    default: return 0.0;
    }
}

enum { INIT_ELEMENTS = 1 << 22 }; /* drawn at a time, at least a row */

static hn_status set_rows_of(const hn_tensor *t, int64_t first, int64_t rows, const float *dense)
{
    const int64_t replicas = t->type.replicas > 1 ? t->type.replicas : 1;
    for (int64_t g = 0; g < replicas; g++) {
        const hn_tensor one = hn_tensor_replica(t, g);
        HN_TRY(hn_tensor_set_rows(&one, first, rows, dense));
    }
    return HN_OK;
}

/* Master and working copy (but for one that is stored behind gathers), or the frozen value. */
static hn_status set_rows(const hn_param *p, int64_t first, int64_t rows, const float *dense)
{
    const int64_t cols = hn_type_cols(&storage(p)->type);
    if (p->split != NULL && p->split->master != NULL)
        HN_TRY(hn_param_set_kept(p, HN_KEPT_MASTER, first * cols, rows * cols, dense));
    if (p->master != NULL && p->master != p->value)
        HN_TRY(set_rows_of(p->master, first, rows, dense));
    if (p->master != NULL && p->value->mem == HN_MEM_GATHERED) return HN_OK;
    return set_rows_of(p->value, first, rows, dense);
}

void hn_param_own_rows(const hn_param *p, int64_t *first, int64_t *rows)
{
    hn_tensor_own_rows(storage(p), first, rows);
}

hn_status hn_param_set_rows(const hn_param *p, int64_t first, int64_t rows, const float *dense)
{
    if (p->order == HN_ORDER_SAME) return set_rows(p, first, rows, dense);
    return HN_FAIL(HN_ERR_ARG, "%s: files have its values in another order", p->name);
}

hn_status hn_param_init(const hn_param *p, uint64_t seed)
{
    const hn_type *t = &storage(p)->type;
    const hn_rng r = hn_rng_make(seed, 0, p->key);
    const int64_t cols = hn_type_cols(t),
                  most = INIT_ELEMENTS / cols > 1 ? INIT_ELEMENTS / cols : 1;
    int64_t from, rows;
    hn_param_own_rows(p, &from, &rows);
    const int64_t step = most < rows ? most : rows;
    if (rows == 0) return HN_OK;
    hn_status st = HN_OK;
    float *dense = hn_malloc((size_t)(step * cols) * sizeof *dense);
    if (dense == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of %s", step * cols, p->name);
    for (int64_t first = from; st == HN_OK && first < from + rows; first += step) {
        const int64_t n = from + rows - first < step ? from + rows - first : step;
#pragma omp parallel for schedule(static) if (n * cols > 1 << 14)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < cols; j++)
                dense[i * cols + j] = (float)draw(p, r, first + i, j);
        st = set_rows(p, first, n, dense);
    }
    hn_free(dense);
    return st;
}

/* ---- the order of files ---- */

int64_t hn_param_place(const hn_param *p, int64_t i)
{
    if (p->order == HN_ORDER_SAME) return i;
    const int64_t row = i / p->dim[1], col = i % p->dim[1];
    if (p->order == HN_ORDER_TRANSPOSED) return col * p->dim[0] + row;
    const int64_t channels = p->dim[1] / p->taps;
    return row * p->dim[1] + col % channels * p->taps + col / channels;
}

static hn_status reordered(const hn_param *p, float **out)
{
    *out = hn_malloc((size_t)hn_param_values(p) * sizeof **out);
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to reorder %s", p->name);
}

/* Values in the order of files to that of storage, or back: hn_param_place without divisions. */
static void reorder(const hn_param *p, bool to_storage, const float *from, float *to)
{
    const bool transposed = p->order == HN_ORDER_TRANSPOSED;
    if (p->order == HN_ORDER_SAME) {
        memcpy(to, from, (size_t)hn_param_values(p) * sizeof *to);
        return;
    }
    const int64_t rows = p->dim[0], cols = p->dim[1], taps = transposed ? 1 : p->taps;
    const int64_t channels = cols / taps;
#pragma omp parallel for schedule(static) if (rows * cols > 1 << 16)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t tap = 0, stored = row * cols; tap < taps; tap++)
            for (int64_t c = 0; c < channels; c++, stored++) {
                const int64_t filed = transposed ? c * rows + row : row * cols + c * taps + tap;
                if (to_storage)
                    to[stored] = from[filed];
                else
                    to[filed] = from[stored];
            }
}

void hn_param_to_storage(const hn_param *p, const float *filed, float *stored)
{
    reorder(p, true, filed, stored);
}

void hn_param_to_file(const hn_param *p, const float *stored, float *filed)
{
    reorder(p, false, stored, filed);
}

/* dense in the order of storage: dense itself, or *own, which is new. */
static hn_status to_storage(const hn_param *p, const float **dense, float **own)
{
    *own = NULL;
    if (p->order == HN_ORDER_SAME) return HN_OK;
    HN_TRY(reordered(p, own));
    reorder(p, true, *dense, *own);
    *dense = *own;
    return HN_OK;
}

hn_status hn_param_set(const hn_param *p, const float *dense)
{
    float *own;
    HN_TRY(to_storage(p, &dense, &own));
    const hn_status st = set_rows(p, 0, hn_type_rows(&storage(p)->type), dense);
    hn_free(own);
    return st;
}

hn_status hn_param_set_stored(const hn_param *p, const float *stored)
{
    return set_rows(p, 0, hn_type_rows(&storage(p)->type), stored);
}

hn_status hn_param_write(const hn_param *p, hn_tensor *t, const float *dense)
{
    float *own;
    HN_TRY(to_storage(p, &dense, &own));
    const hn_status st = hn_tensor_set(t, dense);
    hn_free(own);
    return st;
}

hn_status hn_param_read(const hn_param *p, const hn_tensor *t, float *dense)
{
    float *own;
    if (p->order == HN_ORDER_SAME) return hn_tensor_get(t, dense);
    HN_TRY(reordered(p, &own));
    const hn_status st = hn_tensor_get(t, own);
    if (st == HN_OK) reorder(p, false, own, dense);
    hn_free(own);
    return st;
}

hn_status hn_param_get(const hn_param *p, float *dense)
{
    HN_TRY(hn_split_check_whole(p));
    return hn_param_read(p, storage(p), dense);
}

hn_status hn_param_get_replica(const hn_param *p, int64_t g, float *dense)
{
    HN_TRY(hn_split_check_whole(p));
    const hn_tensor one = hn_tensor_replica(storage(p), g);
    return hn_param_read(p, &one, dense);
}

/* ---- recording ---- */

hn_status hn_layer_weight(const hn_linear_layer *l, hn_graph *g, hn_tensor **w)
{
    *w = l->weight->value;
    if (!hn_layer_materialised(l)) return HN_OK;
    hn_tensor *const in[] = {*w, l->a->value, l->b->value};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.linear = {.alpha = l->lowrank.scale}};
    HN_TRY(hn_emit(g, HN_OP_LOWRANK_WEIGHT, l->module, in, &attr, out));
    *w = out[0];
    return HN_OK;
}

hn_status hn_params_linear_fwd(const hn_params *p, hn_graph *g, const char *module, hn_tensor *x,
                               hn_tensor **y)
{
    const hn_linear_layer *l = find_linear(p, module);
    if (l == NULL) return HN_FAIL(HN_ERR_ARG, "%s: no such linear layer", module);
    hn_tensor *out[HN_MAX_OUT];
    hn_tensor *bias = l->bias && l->m == NULL ? l->bias->value : NULL;
    if (l->a == NULL || hn_layer_materialised(l)) {
        hn_tensor *in[] = {x, NULL, bias, NULL};
        HN_TRY(hn_layer_weight(l, g, &in[1]));
        const hn_attr attr = {.linear = {.alpha = 1.0f}};
        HN_TRY(hn_emit(g, HN_OP_LINEAR, module, in, &attr, out));
    } else {
        hn_tensor *in[] = {x, l->weight->value, bias, l->a->value, l->b->value, NULL};
        const hn_attr attr = {.linear = {.alpha = l->lowrank.scale,
                                         .dropout = hn_graph_training(g) ? l->lowrank.dropout : 0,
                                         .key = l->key}};
        HN_TRY(hn_emit(g, HN_OP_LOWRANK_LINEAR, module, in, &attr, out));
    }
    if (l->m != NULL) return hn_magnitude_record(l, g, out[0], y);
    *y = out[0];
    return HN_OK;
}

static const hn_group *find_group(const hn_params *p, const char *module)
{
    for (int64_t i = 0; i < p->n_group; i++)
        if (strcmp(p->group[i]->part[0]->module, module) == 0) return p->group[i];
    return NULL;
}

/* The scale of the parts that have one: the same (storage.c). */
static float scale_of(const hn_group *q)
{
    for (int k = 0; k < q->n; k++)
        if (q->part[k]->a != NULL) return q->part[k]->lowrank.scale;
    return 1.0f;
}

/* With magnitudes all parts have them, or there is no bias (storage.c): it comes behind them. */
static hn_status fused_fwd(const hn_group *q, hn_graph *g, hn_tensor *x, hn_tensor **y)
{
    bool scaled = false;
    for (int k = 0; k < q->n; k++) scaled |= q->part[k]->m != NULL;
    hn_tensor *lowrank[] = {x, q->w, scaled ? NULL : q->bias, q->a, q->b, NULL};
    hn_tensor *plain[] = {x, q->w, q->bias, NULL}, *out[HN_MAX_OUT];
    const hn_attr attr = {.linear = {.alpha = scale_of(q)}};
    if (q->a != NULL)
        HN_TRY(hn_emit(g, HN_OP_LOWRANK_LINEAR, q->name, lowrank, &attr, out));
    else
        HN_TRY(hn_emit(g, HN_OP_LINEAR, q->name, plain, &attr, out));
    int64_t first = 0;
    for (int k = 0; k < q->n; k++) {
        HN_TRY(hn_view_columns(g, out[0], first, q->part[k]->out, &y[k]));
        if (q->part[k]->m != NULL) HN_TRY(hn_magnitude_record(q->part[k], g, y[k], &y[k]));
        first += q->part[k]->out;
    }
    return HN_OK;
}

hn_status hn_params_group_fwd(const hn_params *p, hn_graph *g, const char *module, hn_tensor *x,
                              hn_tensor **y)
{
    const hn_group *q = find_group(p, module);
    if (q == NULL) return HN_FAIL(HN_ERR_ARG, "%s: begins no group of linear layers", module);
    if (q->fused) return fused_fwd(q, g, x, y);
    for (int k = 0; k < q->n; k++) HN_TRY(hn_params_linear_fwd(p, g, q->part[k]->module, x, &y[k]));
    return HN_OK;
}
