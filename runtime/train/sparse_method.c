/* hone-sparse as a method: what is trained, and how much room the blocks get. */
#include "runtime/train/sparse_method.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/sparse_loop.h"
#include "runtime/train/sparse_run.h"

const char *const hn_sparse_adapter_options[] = {
    "block",      "budget",     "share",      "targets",  "exclude", "lora-rank",
    "lora-alpha", "lora-steps", "train-head", "new-head", "mask",    NULL};

const char *hn_sparse_idle_option(const void *config, const char *option)
{
    const hn_sparse_config *c = config;
    return hn_sparse_idle(&c->knobs, option);
}

static hn_status settle(void *config, const hn_option *row, size_t n, const hn_options_store *given)
{
    const hn_sparse_config *c = config;
    return c->preset ? hn_sparse_preset_apply(c->preset, row, n, given, config) : HN_OK;
}

/* ---- what is trained ---- */

static hn_status add_names(hn_text_list from, hn_names *to)
{
    char name[256];
    for (int64_t i = 0;; i++) {
        const int64_t n = hn_text_list_item(from, i, name, sizeof name);
        if (n < 0) return HN_OK;
        if (n >= (int64_t)sizeof name)
            return HN_FAIL(HN_ERR_ARG, "module name of %lld bytes, at most %zu", (long long)n,
                           sizeof name - 1);
        HN_TRY(hn_names_add(to, name));
    }
}

hn_status hn_sparse_choose(const void *config, const hn_model *m, hn_peft_config *out)
{
    const hn_sparse_config *c = config;
    out->r = c->knobs.lora_rank;
    out->alpha = c->lora_alpha;
    if (strcmp(c->knobs.targets.joined, "all-linear") == 0)
        HN_TRY(hn_lora_every_layer(m, &out->targets.list));
    else
        HN_TRY(add_names(c->knobs.targets, &out->targets.list));
    HN_TRY(add_names(c->exclude, &out->exclude.list));
    return c->train_head ? hn_lora_save_head(m, "--targets", out) : HN_OK;
}

static bool is_target(const hn_sparse_run *r, const char *module, hn_status *st)
{
    bool matches = false;
    *st = hn_peft_matches(r->s->peft, module, &matches);
    return *st == HN_OK && matches && !hn_peft_saves(r->s->peft, module);
}

static hn_adapt_kind parameter(const void *context, const char *name)
{
    const hn_sparse_run *r = context;
    return r->lora.parameter(r->lora.context, name);
}

static hn_status linear(const void *context, const char *module, int64_t in, int64_t out,
                        hn_lowrank *choice)
{
    const hn_sparse_run *r = context;
    return r->rank > 0 ? r->lora.linear(r->lora.context, module, in, out, choice) : HN_OK;
}

/* Blocks as a loaded pack has them. */
static hn_block_shape packed_shape(const hn_sparse_run *r, const char *module)
{
    char weight[512];
    snprintf(weight, sizeof weight, "%s.weight", module);
    const hn_pack_matrix *m = hn_sparse_run_packed(r, weight);
    return m ? (hn_block_shape){m->br, m->bc} : (hn_block_shape){0, 0};
}

static hn_status sparse(const void *context, const char *module, int64_t in, int64_t out,
                        hn_block_shape *choice)
{
    const hn_sparse_run *r = context;
    hn_status st;
    if (!is_target(r, module, &st)) return st;
    if (r->loaded) {
        *choice = packed_shape(r, module);
        return HN_OK;
    }
    return hn_sparse_block_of(r->block, r->parameters, module, out, in, hn_coupled_columns(module),
                              choice);
}

/* ---- --block auto, largest ---- */

/* The first matrix that blocks of side x side do not divide; NULL: none. */
static const hn_linear_layer *undivided(const hn_sparse_run *r, const hn_params *p, int64_t side)
{
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        hn_status st;
        if (is_target(r, l->module, &st) && (l->in % side != 0 || l->out % side != 0)) return l;
    }
    return NULL;
}

/* The parts of a diagonal that a matrix is to have as blocks; otherwise 1. */
static int64_t parts_of(const hn_sparse_knobs *k)
{
    hn_budget b;
    if (strcmp(k->score, "diagonal") != 0 || hn_budget_parse(k->budget, &b) != HN_OK) return 1;
    return b.kind == HN_BUDGET_DENSITY ? llround(1 / b.amount) : 1;
}

/* The side that was asked for, or the next smaller one that divides all matrices (each of the parts
 * of their diagonals). */
static int64_t largest_side(const hn_sparse_run *r, const hn_params *p, int64_t first)
{
    static const int64_t sides[] = {256, 128, 64, 32, 16, 4, 1};
    const int64_t parts = parts_of(&r->c->knobs);
    const hn_linear_layer *odd = undivided(r, p, first * parts);
    int k = 0;
    while (sides[k] > first) k++;
    while (sides[k] > 1 && undivided(r, p, sides[k] * parts) != NULL) k++;
    if (odd != NULL)
        hn_info(&r->s->log,
                "blocks: %" PRId64 "x%" PRId64 ", as %" PRId64 "x%" PRId64
                " does not divide %s%s [%" PRId64 ", %" PRId64 "]",
                sides[k], sides[k], first, first, parts > 1 ? "the parts of " : "", odd->module,
                odd->out, odd->in);
    else
        hn_info(&r->s->log, "blocks: %" PRId64 "x%" PRId64, first, first);
    return sides[k];
}

static hn_status settle_block(hn_sparse_run *r)
{
    enum { LARGE = 1000000000 };
    const char *wanted = r->c->knobs.block;
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_model_declare(&r->s->model, p);
    snprintf(r->block, sizeof r->block, "%s", wanted);
    if (st == HN_OK) r->parameters = hn_params_total(p);
    const bool largest = strcmp(wanted, "largest") == 0;
    if (st == HN_OK && (largest || strcmp(wanted, "auto") == 0)) {
        const int first = largest ? 256 : r->parameters < LARGE ? 16 : 32;
        const int side = (int)largest_side(r, p, first);
        snprintf(r->block, sizeof r->block, "%dx%d", side, side);
    }
    hn_params_free(p);
    return st;
}

hn_status hn_sparse_run_new(hn_session *s, hn_sparse_run **out)
{
    hn_sparse_run *r = hn_calloc(1, sizeof *r);
    if (r == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a run");
    *r = (hn_sparse_run){.s = s, .c = s->config};
    s->extra = *out = r;
    return HN_OK;
}

static hn_status open_run(hn_session *s, bool training)
{
    hn_sparse_run *r = s->extra;
    if (s->peft == NULL) return HN_OK; /* the model alone */
    if (r == NULL) HN_TRY(hn_sparse_run_new(s, &r));
    r->lora = s->adapt;
    if (training && !r->loaded) {
        r->rank = r->c->knobs.lora_rank;
        HN_TRY(settle_block(r));
        if (r->c->mask[0] != '\0') HN_TRY(hn_sparse_open_mask(r));
    }
    s->adapt = (hn_adapt){.parameter = parameter, .linear = linear, .sparse = sparse, .context = r};
    return HN_OK;
}

static void close_run(hn_session *s)
{
    hn_sparse_run *r = s->extra;
    hn_params_free(r->declared);
    hn_free(r->matrix);
    hn_pack_free(&r->pack);
    hn_free(r);
}

/* ---- how much ---- */

/* Matrices with blocks, in the order in which the pool has them. */
static hn_status list_matrices(hn_sparse_run *r)
{
    hn_params_free(r->declared);
    hn_free(r->matrix);
    r->declared = NULL;
    r->n = 0;
    r->matrix = NULL;
    HN_TRY(hn_params_new(&r->s->adapt, &r->declared));
    HN_TRY(hn_model_declare(&r->s->model, r->declared));
    const int64_t layers = hn_params_linears(r->declared);
    r->matrix = hn_calloc((size_t)layers + 1, sizeof *r->matrix);
    if (r->matrix == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " layers", layers);
    for (int64_t i = 0; i < layers; i++) {
        const hn_linear_layer *l = hn_params_linear_at(r->declared, i);
        hn_select_matrix *m = &r->matrix[r->n];
        if (l->sparse.br == 0) continue;
        *m = (hn_select_matrix){.name = l->weight->name, .out = l->out, .in = l->in};
        m->shape = l->sparse;
        HN_TRY(hn_select_weight(r->c->knobs.type_weights, m->name, &m->weight));
        r->n++;
    }
    return r->n > 0 ? HN_OK : HN_FAIL(HN_ERR_ARG, "--targets, --exclude: no layer is left");
}

/* Room for dense gradients where a step has several micro-batches. */
static hn_status dense_memory(const hn_sparse_run *r, size_t *out)
{
    const double given = r->c->select_memory * 0x1p30;
    double all = 0, most = 0;
    *out = 0;
    if (hn_session_per_step(r->s) == 1 || r->rules.schedule.score_share == 0) return HN_OK;
    for (int64_t i = 0; i < r->n; i++) {
        const hn_select_matrix *m = &r->matrix[i];
        const double bytes = (double)((m->out * m->in + 63) / 64 * 64) * (double)sizeof(float);
        all += bytes;
        if (bytes > most) most = bytes;
    }
    if (given < most)
        return HN_FAIL(HN_ERR_ARG,
                       "--select-memory %g: with %" PRId64
                       " micro-batches a step scores of the largest matrix need %.3g GiB",
                       r->c->select_memory, hn_session_per_step(r->s), most / 0x1p30);
    *out = (size_t)(all < given ? all : given);
    return HN_OK;
}

/* Most blocks of a matrix, and the candidates that are kept of it, in its shares by size. */
static void size_pool(const hn_sparse_run *r, hn_sparse_options *o)
{
    double all = 0, values = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const hn_select_matrix *m = &r->matrix[i];
        all += (double)m->out * (double)m->in;
        values += (double)(m->share * hn_block_values(m->shape));
    }
    o->values = (int64_t)values;
    o->ceiling = 1;
    for (int64_t i = 0; i < r->n; i++) {
        const hn_select_matrix *m = &r->matrix[i];
        const double by_size = values / all * (double)m->blocks;
        const double most = (double)(m->most > 2 * m->share ? m->most : 2 * m->share);
        if (most / by_size > o->ceiling) o->ceiling = most / by_size;
    }
    o->ceiling *= 1 + 1e-9; /* what is rounded up stays */
    o->candidates = (double)r->c->knobs.candidates;
    if (o->candidates == 0 || r->rules.schedule.score_share == 0)
        o->candidates = 2 * all / values; /* all blocks */
}

static bool selects_by_gradient(const hn_sparse_run *r)
{
    const hn_select_schedule *t = &r->rules.schedule;
    const bool first = t->first > 0 && r->pack.n == 0;
    return first || (!t->fixed && t->window > 0);
}

/* What selections read of the gradients. */
static void choose_stages(const hn_sparse_run *r, hn_sparse_options *o)
{
    const hn_select_schedule *t = &r->rules.schedule;
    if (t->score_share == 0) o->stages = HN_STAGES_SUMS;
    if (t->score_share == 1) o->stages = HN_STAGES_SCORES;
    o->once = t->fixed;
    o->squares = !t->fixed && r->c->knobs.seed_moments && o->stages != HN_STAGES_SCORES;
}

/* Places in the sums of gradients are 32-bit numbers. */
static hn_status check_sums(const hn_sparse_run *r, const hn_sparse_options *o)
{
    double all = 0, sums = (double)o->values * o->candidates;
    for (int64_t i = 0; i < r->n; i++) all += (double)r->matrix[i].out * (double)r->matrix[i].in;
    if (sums > all) sums = all;
    if (o->stages == HN_STAGES_SCORES || sums <= INT32_MAX) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "--score %s, --candidates %" PRId64
                   ": sums of the gradients of %.0f values, at most 2^31 - 1: fewer --targets, or "
                   "--score gradient with fewer --candidates",
                   r->c->knobs.score, r->c->knobs.candidates, sums);
}

static hn_status plan_run(hn_session *s, hn_engine_options *o)
{
    enum { SOME_STEPS = 1000 }; /* of a plan without data: they change nothing of it */
    hn_sparse_run *r = s->extra;
    int64_t steps;
    if (o->optimizer.kind != HN_OPTIMIZER_ADAMW)
        return HN_FAIL(HN_ERR_ARG, "--optimizer %s: blocks are trained by adamw",
                       r->c->run.optimizer);
    HN_TRY(list_matrices(r));
    HN_TRY(hn_session_steps(s, &steps));
    HN_TRY(hn_sparse_rules_of(&r->c->knobs, steps ? steps : SOME_STEPS,
                              r->c->run.batch_size * hn_session_per_step(s), &r->rules));
    if (r->loaded)
        HN_TRY(hn_sparse_pack_budget(r));
    else
        HN_TRY(hn_select_budget(r->matrix, r->n, &r->rules.budget, &r->k));
    if (!r->loaded && r->pack.n > 0) HN_TRY(hn_sparse_check_mask(r));
    if (!r->loaded && r->rules.score == HN_BY_DIAGONAL) HN_TRY(hn_sparse_check_diagonal(r));
    size_pool(r, &o->sparse);
    if (!selects_by_gradient(r)) {
        o->sparse.candidates = 0;
        return HN_OK;
    }
    choose_stages(r, &o->sparse);
    HN_TRY(check_sums(r, &o->sparse));
    o->sparse.score = r->rules.score == HN_BY_ABS ? HN_SCORE_ABS : HN_SCORE_SQUARE;
    return dense_memory(r, &o->sparse.select_memory);
}

hn_sparse *hn_sparse_run_blocks(const hn_sparse_run *r)
{
    return hn_params_sparse(hn_engine_params(r->s->engine));
}

const hn_method_hooks hn_sparse_hooks = {.settle = settle,
                                         .adapter = hn_sparse_open_adapter,
                                         .open = open_run,
                                         .plan = plan_run,
                                         .load = hn_sparse_load_adapter,
                                         .begin = hn_sparse_loop_begin,
                                         .before = hn_sparse_loop_before,
                                         .looks = hn_sparse_loop_looks,
                                         .behind = hn_sparse_loop_behind,
                                         .end = hn_sparse_loop_end,
                                         .close = close_run};
