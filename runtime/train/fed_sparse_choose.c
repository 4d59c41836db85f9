/* Which blocks: shares of a budget and the best blocks by the weights, or those of a pack. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/classifier_job.h"
#include "runtime/train/engine.h"
#include "runtime/train/fed_sparse.h"
#include "runtime/train/sparse_export.h"
#include "runtime/train/sparse_presets.h"
#include "runtime/train/sparse_score.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

typedef struct {
    const hn_fed_sparse_options *o;
    const hn_model *m;
    const hn_peft_config *targets;
    hn_pack pack; /* of the mask */
    hn_params *declared;
    hn_select_matrix *matrix; /* [n]; names are those of `declared` */
    int64_t n;
    hn_classifier_job job;
    hn_engine *engine; /* whose weights are looked at; NULL: they decide nothing */
    hn_fed_support *out;
} choosing;

/* ---- shapes ---- */

static const hn_pack_matrix *packed(const choosing *c, const char *module)
{
    const size_t n = strlen(module);
    for (int64_t i = 0; i < c->pack.n; i++) {
        const hn_pack_matrix *m = &c->pack.matrix[i];
        if (!m->set && strncmp(m->name, module, n) == 0 && is(m->name + n, ".weight")) return m;
    }
    return NULL;
}

/* hn_adapt.sparse */
static hn_status shape_of(const void *context, const char *module, int64_t in, int64_t out,
                          hn_block_shape *choice)
{
    static const char *const sides[] = {"16x16", "4x4", "1x1"};
    const choosing *c = context;
    bool matches = false;
    if (c->pack.n > 0) {
        const hn_pack_matrix *p = packed(c, module);
        if (p != NULL) *choice = (hn_block_shape){p->br, p->bc};
        return HN_OK;
    }
    HN_TRY(hn_peft_matches(c->targets, module, &matches));
    if (!matches || hn_peft_saves(c->targets, module)) return HN_OK;
    if (!is(c->o->block, "auto"))
        return hn_sparse_block_of(c->o->block, 0, module, out, in, false, choice);
    const char *const *side = sides;
    while (!is(*side, "1x1") && (in % strtol(*side, NULL, 10) || out % strtol(*side, NULL, 10)))
        side++;
    return hn_sparse_block_of(*side, 0, module, out, in, false, choice);
}

static hn_status list_matrices(choosing *c)
{
    const hn_adapt adapt = {.sparse = shape_of, .context = c};
    HN_TRY(hn_params_new(&adapt, &c->declared));
    HN_TRY(hn_model_declare(c->m, c->declared));
    const int64_t layers = hn_params_linears(c->declared);
    c->matrix = hn_calloc((size_t)layers + 1, sizeof *c->matrix);
    if (c->matrix == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " layers", layers);
    for (int64_t i = 0; i < layers; i++) {
        const hn_linear_layer *l = hn_params_linear_at(c->declared, i);
        if (l->sparse.br > 0)
            c->matrix[c->n++] = (hn_select_matrix){.name = l->weight->name,
                                                   .out = l->out,
                                                   .in = l->in,
                                                   .shape = l->sparse,
                                                   .weight = 1};
    }
    if (c->n > 0) return HN_OK;
    return c->pack.n > 0
               ? HN_FAIL(HN_ERR_ARG, "--sparse-mask %s: the model has none of its matrices",
                         c->o->mask)
               : HN_FAIL(HN_ERR_ARG, "--sparse-targets: no layer is left");
}

/* ---- by the weights ---- */

/* An engine without a graph, on the CPU: its parameters are what files or seed say. */
static hn_status load_weights(choosing *c)
{
    const hn_classifier_options co = {.config = &c->m->vision, .dtype = c->m->dtype};
    hn_classifier_job_init(&c->job, &co);
    const hn_engine_options o = {
        .executor = HN_EXECUTOR_CPU, .job = &c->job.job, .dtype = c->m->dtype, .seed = c->o->seed};
    HN_TRY(hn_engine_new(&o, &c->engine));
    HN_TRY(hn_engine_allocate(c->engine));
    return hn_model_load(c->m, hn_engine_params(c->engine), c->o->seed);
}

static hn_status weight_of(const choosing *c, const hn_select_matrix *m, float **out)
{
    float *w = hn_malloc((size_t)(m->out * m->in) * sizeof *w);
    if (w == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the weights of %s", m->name);
    *out = w;
    return hn_tensor_get(hn_params_find(hn_engine_params(c->engine), m->name)->value, w);
}

static hn_status score_diagonal(const hn_select_matrix *m, float *f)
{
    if (m->blocks % m->share != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "--sparse-score diagonal: the budget is %" PRId64 " of the %" PRId64
                       " blocks of %s, which is no 1/n of them",
                       m->share, m->blocks, m->name);
    const hn_status st = hn_score_diagonal(m, m->blocks / m->share, f);
    return st == HN_OK ? st : HN_FAIL(st, "--sparse-score diagonal: %s", hn_last_text());
}

static hn_status score(const choosing *c, const hn_select_matrix *m, float *f)
{
    const hn_fed_sparse_options *o = c->o;
    float *w = NULL;
    if (is(o->score, "random")) return hn_score_random(m, o->seed, f);
    if (is(o->score, "diagonal")) return score_diagonal(m, f);
    hn_status st = weight_of(c, m, &w);
    if (st == HN_OK && is(o->score, "lift")) {
        const int64_t most = m->out < m->in ? m->out : m->in;
        const hn_lift_args a = {
            .w = w, .rank = o->lift_rank < most ? o->lift_rank : most, .seed = o->seed};
        st = hn_score_lift(m, &a, f);
    } else if (st == HN_OK) {
        st = hn_score_magnitude(m, w, f);
    }
    hn_free(w);
    return st;
}

static hn_status add_best(choosing *c, const hn_select_matrix *m)
{
    if (m->share == 0) return HN_OK;
    float *f = hn_malloc((size_t)(m->blocks + m->share) * sizeof *f);
    int32_t *id = hn_malloc((size_t)m->share * sizeof *id);
    hn_status st = f && id ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "scores of %s", m->name);
    if (st == HN_OK) st = score(c, m, f);
    if (st == HN_OK) st = hn_score_top(f, m->blocks, m->share, id, f + m->blocks);
    const hn_fed_matrix best = {.name = m->name,
                                .out = m->out,
                                .in = m->in,
                                .br = m->shape.br,
                                .bc = m->shape.bc,
                                .n = m->share,
                                .id = id};
    if (st == HN_OK) st = hn_fed_support_add(c->out, &best);
    hn_free(f);
    hn_free(id);
    return st;
}

static hn_status choose_best(choosing *c)
{
    hn_budget_rule rule = {.share = HN_SHARE_SIZE, .each = true};
    int64_t k;
    hn_status st = hn_budget_parse(c->o->budget, &rule.budget);
    if (st == HN_OK) st = hn_select_budget(c->matrix, c->n, &rule, &k);
    if (st != HN_OK) return HN_FAIL(st, "--sparse-budget %s: %s", c->o->budget, hn_last_text());
    if (is(c->o->score, "magnitude") || is(c->o->score, "lift")) HN_TRY(load_weights(c));
    for (int64_t i = 0; i < c->n; i++) HN_TRY(add_best(c, &c->matrix[i]));
    return HN_OK;
}

/* ---- those of a pack ---- */

static hn_status take_mask(choosing *c)
{
    int64_t wanted = 0;
    for (int64_t i = 0; i < c->pack.n; i++)
        wanted += !c->pack.matrix[i].set && c->pack.matrix[i].n > 0;
    for (int64_t i = 0; i < c->n; i++) {
        const hn_select_matrix *m = &c->matrix[i];
        char module[HN_FED_SUPPORT_NAME + 1];
        snprintf(module, sizeof module, "%.*s", (int)(strlen(m->name) - strlen(".weight")),
                 m->name);
        const hn_pack_matrix *p = packed(c, module);
        if (p->n == 0) continue;
        if (p->out != m->out || p->in != m->in)
            return HN_FAIL(HN_ERR_SHAPE,
                           "--sparse-mask %s: %s [%" PRId64 ", %" PRId64 "], the model's is "
                           "[%" PRId64 ", %" PRId64 "]",
                           c->o->mask, m->name, p->out, p->in, m->out, m->in);
        const hn_fed_matrix all = {.name = m->name,
                                   .out = m->out,
                                   .in = m->in,
                                   .br = p->br,
                                   .bc = p->bc,
                                   .n = p->n,
                                   .id = p->id};
        HN_TRY(hn_fed_support_add(c->out, &all));
    }
    if (c->out->count == wanted && wanted > 0) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE,
                   "--sparse-mask %s: %" PRId64 " matrices with blocks, the model has %" PRId64
                   " of them",
                   c->o->mask, wanted, c->out->count);
}

static hn_status choose(choosing *c)
{
    if (c->o->mask != NULL) HN_TRY(hn_sparse_read_pack(c->o->mask, &c->pack, NULL));
    if (c->o->mask != NULL && c->pack.n == 0)
        return HN_FAIL(HN_ERR_ARG, "--sparse-mask %s: has no blocks", c->o->mask);
    HN_TRY(list_matrices(c));
    return c->pack.n > 0 ? take_mask(c) : choose_best(c);
}

hn_status hn_fed_sparse_choose(const hn_fed_sparse_options *o, const hn_model *m,
                               const hn_peft_config *targets, hn_fed_support *out)
{
    hn_fed_support s = {0};
    choosing c = {.o = o, .m = m, .targets = targets, .out = &s};
    const hn_status st = choose(&c);
    hn_engine_free(c.engine);
    hn_params_free(c.declared);
    hn_free(c.matrix);
    hn_pack_free(&c.pack);
    if (st == HN_OK)
        *out = s;
    else
        hn_fed_support_free(&s);
    return st;
}
