#define _POSIX_C_SOURCE 200809L
#include "runtime/adapt/params.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"

struct hn_params {
    hn_arena arena;
    hn_adapt adapt;
    hn_param **param;
    int64_t n, cap;
    hn_linear_layer **linear;
    int64_t n_linear, cap_linear;
    hn_flat flat;
};

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
    hn_arena_free(&p->arena);
    hn_free(p);
}

static hn_status declare(hn_params *p, const hn_param *what, const char *name, hn_param **out)
{
    if (what->dim[0] < 1 || (what->ndim == 2 && what->dim[1] < 1))
        return HN_FAIL(HN_ERR_SHAPE, "%s: a dimension below 1", name);
    hn_param *q = hn_arena_take(&p->arena, sizeof *q);
    char *copy = hn_arena_text(&p->arena, "%s", name);
    if (q == NULL || copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", name);
    HN_TRY(hn_grow(&p->param, &p->cap, p->n, sizeof *p->param));
    *q = *what;
    q->name = copy;
    if (q->key == 0) q->key = hn_hash_name(copy);
    p->param[p->n++] = q;
    if (out != NULL) *out = q;
    return HN_OK;
}

static hn_status declare_base(hn_params *p, const char *name, int64_t rows, int64_t cols,
                              hn_init init, double init_scale, hn_param **out)
{
    const hn_param q = {
        .ndim = rows ? 2 : 1,
        .dim = {rows ? rows : cols, rows ? cols : 0},
        .trained =
            p->adapt.parameter && p->adapt.parameter(p->adapt.context, name) == HN_ADAPT_FULL,
        .decay = rows > 0,
        .init = init,
        .init_scale = init_scale,
    };
    return declare(p, &q, name, out);
}

hn_status hn_params_declare(hn_params *p, const char *name, int64_t rows, int64_t cols,
                            hn_init init, double init_scale)
{
    return declare_base(p, name, rows, cols, init, init_scale, NULL);
}

static hn_status declare_lowrank(hn_params *p, hn_linear_layer *l)
{
    char name[512];
    snprintf(name, sizeof name, "%s.lora_A", l->module);
    const hn_param a = {.key = hn_hash_name(name),
                        .ndim = 2,
                        .dim = {l->lowrank.rank, l->in},
                        .trained = true,
                        .decay = true,
                        .adapter = true,
                        .init = HN_INIT_UNIFORM,
                        .init_scale = 1.0 / sqrt((double)l->in)};
    snprintf(name, sizeof name, "%s.lora_A.weight", l->module);
    HN_TRY(declare(p, &a, name, &l->a));
    const hn_param b = {.ndim = 2,
                        .dim = {l->out, l->lowrank.rank},
                        .trained = true,
                        .decay = true,
                        .adapter = true,
                        .init = HN_INIT_ZERO};
    snprintf(name, sizeof name, "%s.lora_B.weight", l->module);
    return declare(p, &b, name, &l->b);
}

hn_status hn_params_linear(hn_params *p, const char *module, int64_t in, int64_t out, bool bias,
                           double init_scale)
{
    char name[512];
    hn_linear_layer *l = hn_arena_take(&p->arena, sizeof *l);
    char *copy = hn_arena_text(&p->arena, "%s", module);
    if (l == NULL || copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", module);
    *l = (hn_linear_layer){.module = copy, .in = in, .out = out, .key = hn_hash_name(module)};
    if (p->adapt.linear) HN_TRY(p->adapt.linear(p->adapt.context, module, in, out, &l->lowrank));
    snprintf(name, sizeof name, "%s.weight", module);
    HN_TRY(declare_base(p, name, out, in, HN_INIT_NORMAL, init_scale, &l->weight));
    snprintf(name, sizeof name, "%s.bias", module);
    if (bias) HN_TRY(declare_base(p, name, 0, out, HN_INIT_ZERO, 0, &l->bias));
    if (l->lowrank.rank > 0) HN_TRY(declare_lowrank(p, l));
    HN_TRY(hn_grow(&p->linear, &p->cap_linear, p->n_linear, sizeof *p->linear));
    p->linear[p->n_linear++] = l;
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

static hn_status create_trained(hn_program *program, hn_param *q, const hn_params_options *o)
{
    HN_TRY(create(program, HN_MEM_TRAINED, "", q, HN_F32, &q->master));
    q->value = q->master;
    if (o->dtype != HN_F32) HN_TRY(create(program, HN_MEM_WORK, "work:", q, o->dtype, &q->value));
    if (!o->gradients) return HN_OK;
    HN_TRY(create(program, HN_MEM_GRAD, "grad:", q, HN_F32, &q->grad));
    if (o->moments > 0) HN_TRY(create(program, HN_MEM_MOMENT1, "m:", q, HN_F32, &q->moment1));
    if (o->moments > 1) HN_TRY(create(program, HN_MEM_MOMENT2, "v:", q, HN_F32, &q->moment2));
    q->value->needs_grad = true;
    q->value->grad = q->grad;
    return HN_OK;
}

hn_status hn_params_create(hn_params *p, hn_program *program, const hn_params_options *o)
{
    if (o->dtype != HN_F32 && o->dtype != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "computing in %s, only f32 and bf16",
                       hn_dtype_name(o->dtype));
    for (int decayed = 1; decayed >= 0; decayed--) {
        for (int64_t i = 0; i < p->n; i++) {
            hn_param *q = p->param[i];
            if (q->trained && q->decay == (decayed == 1)) HN_TRY(create_trained(program, q, o));
            if (!q->trained && decayed)
                HN_TRY(create(program, HN_MEM_WEIGHT, "", q, o->dtype, &q->value));
        }
        if (decayed) p->flat.n_decay = hn_program_class_elements(program, HN_MEM_TRAINED, HN_F32);
    }
    p->flat.n = hn_program_class_elements(program, HN_MEM_TRAINED, HN_F32);
    if (!o->gradients) return HN_OK;
    const hn_type one = hn_type_1d(HN_F32, 1);
    return hn_program_tensor(program, HN_MEM_GRAD, "trained_tokens", &one, &p->flat.count);
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

static int64_t values(const hn_param *q)
{
    return q->ndim == 2 ? q->dim[0] * q->dim[1] : q->dim[0];
}

int64_t hn_params_trained(const hn_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++)
        if (p->param[i]->trained) n += values(p->param[i]);
    return n;
}

int64_t hn_params_total(const hn_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++)
        if (!p->param[i]->adapter) n += values(p->param[i]);
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

/* Master and working copy, or the frozen value. */
static hn_status set_rows(const hn_param *p, int64_t first, int64_t rows, const float *dense)
{
    if (p->master != NULL && p->master != p->value)
        HN_TRY(hn_tensor_set_rows(p->master, first, rows, dense));
    return hn_tensor_set_rows(p->value, first, rows, dense);
}

hn_status hn_param_init(const hn_param *p, uint64_t seed)
{
    const hn_type *t = &storage(p)->type;
    const hn_rng r = hn_rng_make(seed, 0, p->key);
    const int64_t rows = hn_type_rows(t), cols = hn_type_cols(t);
    const int64_t most = INIT_ELEMENTS / cols > 1 ? INIT_ELEMENTS / cols : 1;
    const int64_t step = most < rows ? most : rows;
    hn_status st = HN_OK;
    float *dense = hn_malloc((size_t)(step * cols) * sizeof *dense);
    if (dense == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of %s", step * cols, p->name);
    for (int64_t first = 0; st == HN_OK && first < rows; first += step) {
        const int64_t n = rows - first < step ? rows - first : step;
#pragma omp parallel for schedule(static) if (n * cols > 1 << 14)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < cols; j++)
                dense[i * cols + j] = (float)draw(p, r, first + i, j);
        st = set_rows(p, first, n, dense);
    }
    hn_free(dense);
    return st;
}

hn_status hn_param_set(const hn_param *p, const float *dense)
{
    return set_rows(p, 0, hn_type_rows(&storage(p)->type), dense);
}

hn_status hn_param_get(const hn_param *p, float *dense) { return hn_tensor_get(storage(p), dense); }

static const hn_linear_layer *find_linear(const hn_params *p, const char *module)
{
    for (int64_t i = 0; i < p->n_linear; i++)
        if (strcmp(p->linear[i]->module, module) == 0) return p->linear[i];
    return NULL;
}

hn_status hn_params_linear_fwd(const hn_params *p, hn_graph *g, const char *module, hn_tensor *x,
                               hn_tensor **y)
{
    const hn_linear_layer *l = find_linear(p, module);
    if (l == NULL) return HN_FAIL(HN_ERR_ARG, "%s: no such linear layer", module);
    hn_tensor *out[HN_MAX_OUT];
    hn_tensor *bias = l->bias ? l->bias->value : NULL;
    if (l->a == NULL) {
        hn_tensor *in[] = {x, l->weight->value, bias};
        const hn_attr attr = {.linear = {.alpha = 1.0f}};
        HN_TRY(hn_emit(g, HN_OP_LINEAR, module, in, &attr, out));
    } else {
        hn_tensor *in[] = {x, l->weight->value, bias, l->a->value, l->b->value};
        const hn_attr attr = {.linear = {.alpha = l->lowrank.scale,
                                         .dropout = hn_graph_training(g) ? l->lowrank.dropout : 0,
                                         .key = l->key}};
        HN_TRY(hn_emit(g, HN_OP_LOWRANK_LINEAR, module, in, &attr, out));
    }
    *y = out[0];
    return HN_OK;
}
