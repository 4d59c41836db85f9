/* Scores of blocks by the weights as they are, or by nothing: for hone-sparse. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/sparse_run.h"

/* ---- lists ---- */

hn_status hn_scores_new(int64_t n, hn_scores *out)
{
    *out = (hn_scores){.list = hn_calloc((size_t)n, sizeof *out->list), .n = n};
    return out->list ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", n);
}

hn_status hn_scores_room(hn_scores *s, int64_t i, int64_t k, int32_t **id, float **score)
{
    *id = hn_malloc((size_t)k * sizeof **id + 1);
    *score = hn_malloc((size_t)k * sizeof **score + 1);
    s->list[i] = (hn_score_list){*id, *score, k};
    return *id && *score ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "scores of %" PRId64 " blocks", k);
}

void hn_scores_free(hn_scores *s)
{
    for (int64_t i = 0; s->list && i < s->n; i++) {
        hn_free((void *)(size_t)s->list[i].id);
        hn_free((void *)(size_t)s->list[i].score);
    }
    hn_free(s->list);
    *s = (hn_scores){NULL, 0};
}

/* ---- one matrix after the other ---- */

/* W of matrix i as it is now, in fp32; *out is new. */
static hn_status weights_of(const hn_sparse_run *r, int64_t i, float **out)
{
    const hn_sparse_matrix *m = hn_sparse_at(hn_sparse_run_blocks(r), i);
    *out = hn_malloc((size_t)(m->out * m->in) * sizeof **out);
    if (*out == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the weights of %s", m->name);
    return hn_tensor_get(m->w, *out);
}

static hn_status score_lift(const hn_sparse_run *r, const hn_select_matrix *m, const float *w,
                            float *f)
{
    const int64_t most = m->out < m->in ? m->out : m->in, rank = r->rules.lift_rank;
    hn_lift_args a = {.w = w, .rank = rank < most ? rank : most, .seed = (uint64_t)r->c->run.seed};
    hn_device *cpu = NULL;
    if (!r->c->knobs.lift_exact) return hn_score_lift(m, &a, f);
    HN_TRY(hn_device_open("cpu", &cpu));
    hn_status st = hn_spectrum_open(cpu, &a.exact);
    if (st == HN_OK) st = hn_score_lift(m, &a, f);
    hn_spectrum_close(a.exact);
    hn_device_close(cpu);
    return st;
}

/* The share of a matrix is one part of its diagonal. f: NULL: only looked at */
static hn_status score_diagonal(const hn_sparse_run *r, const hn_select_matrix *m, float *f)
{
    const int64_t parts = m->share > 0 ? m->blocks / m->share : 0;
    if (parts * m->share != m->blocks || m->share == 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "--score diagonal: --budget %s is %" PRId64 " of the %" PRId64
                       " blocks of %s, which is no 1/n of them",
                       r->c->knobs.budget, m->share, m->blocks, m->name);
    return hn_score_diagonal(m, parts, f);
}

hn_status hn_sparse_check_diagonal(const hn_sparse_run *r)
{
    for (int64_t i = 0; i < r->n; i++) HN_TRY(score_diagonal(r, &r->matrix[i], NULL));
    return HN_OK;
}

static hn_status score_one(const hn_sparse_run *r, hn_score_rule rule, int64_t i, float *f)
{
    const hn_select_matrix *m = &r->matrix[i];
    float *w = NULL;
    if (rule == HN_BY_RANDOM) return hn_score_random(m, (uint64_t)r->c->run.seed, f);
    if (rule == HN_BY_DIAGONAL) return score_diagonal(r, m, f);
    hn_status st = weights_of(r, i, &w);
    if (st == HN_OK) st = rule == HN_BY_LIFT ? score_lift(r, m, w, f) : hn_score_magnitude(m, w, f);
    hn_free(w);
    return st;
}

/* ---- channels and heads that belong together ---- */

static const char *const readers[] = {"down_proj", "c_proj", "fc2", "w2", "o_proj"};

static const char *last_part(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? dot + 1 : module;
}

bool hn_coupled_columns(const char *module)
{
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (strcmp(last_part(module), readers[i]) == 0) return true;
    return false;
}

/* Length of the path above a weight's module: "model.layers.0.mlp" of "...mlp.up_proj.weight". */
static size_t parent_length(const char *weight)
{
    size_t n = strlen(weight);
    for (int dots = 0; n > 0 && dots < 2;) dots += weight[--n] == '.';
    return n;
}

static bool same_parent(const char *a, const char *b)
{
    const size_t n = parent_length(a);
    return n == parent_length(b) && strncmp(a, b, n) == 0;
}

static bool is_layer(const char *weight, const char *layer)
{
    const char *part = weight + parent_length(weight);
    const size_t n = strlen(layer);
    part += *part == '.';
    return strncmp(part, layer, n) == 0 && part[n] == '.';
}

/* Matrices of one module that share their channels, or heads. */
typedef struct {
    int64_t *member; /* [n] */
    int64_t n;
    int64_t units, k; /* channels or heads there are; that are chosen */
    bool heads, columns;
} coupled_set;

/* Heads that share keys and values stand together: where those are trained, too, they are one. */
static void count_units(const hn_sparse_run *r, coupled_set *set)
{
    const hn_decoder *d = &r->s->model.decoder;
    bool shared = false;
    for (int64_t j = 0; j < set->n; j++) {
        const char *name = r->matrix[set->member[j]].name;
        shared |= is_layer(name, "k_proj") || is_layer(name, "v_proj");
        set->heads |= shared || is_layer(name, "q_proj") || is_layer(name, "o_proj");
    }
    set->units = shared ? d->kv_heads : set->heads ? d->heads : r->matrix[set->member[0]].blocks;
}

/* As many units as every member's share has room for. */
static hn_status count_chosen(const hn_sparse_run *r, coupled_set *set)
{
    const char *first = r->matrix[set->member[0]].name;
    for (int64_t j = 0; j < set->n; j++) {
        const hn_select_matrix *m = &r->matrix[set->member[j]];
        if (!set->heads && m->blocks != set->units)
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "--block coupled: %s has %" PRId64 " channels, %s %" PRId64
                           "; --targets may leave one of them out",
                           first, set->units, m->name, m->blocks);
        const int64_t k = m->share * set->units / m->blocks;
        if (j == 0 || k < set->k) set->k = k;
        if (k == 0)
            return HN_FAIL(
                HN_ERR_ARG, "--budget %s: less than one %s of %s, which has %" PRId64 " of them",
                r->c->knobs.budget, set->heads ? "head" : "channel", m->name, set->units);
    }
    return HN_OK;
}

/* The set that begins with matrix `first`. */
static hn_status find_members(const hn_sparse_run *r, int64_t first, coupled_set *set)
{
    *set = (coupled_set){.member = set->member};
    for (int64_t i = first; i < r->n; i++) {
        const hn_select_matrix *m = &r->matrix[i];
        if (!same_parent(r->matrix[first].name, m->name)) continue;
        set->columns |= m->shape.bc == 1;
        set->member[set->n++] = i;
    }
    count_units(r, set);
    HN_TRY(count_chosen(r, set));
    if (set->n > 1 && set->columns) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "--block coupled: beside %s there is no %s among the targets",
                   r->matrix[first].name,
                   set->columns ? "layer that makes its input"
                   : set->heads ? "o_proj"
                                : "down_proj");
}

static hn_status choose_members(const hn_sparse_run *r, const coupled_set *set, hn_scores *out)
{
    const int64_t n = set->n;
    hn_coupled *c = hn_calloc((size_t)n, sizeof *c);
    int32_t **ids = hn_calloc((size_t)n, sizeof *ids);
    hn_status st = c && ids ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "sets of %" PRId64 " matrices", n);
    for (int64_t j = 0; st == HN_OK && j < n; j++) {
        const hn_select_matrix *m = &r->matrix[set->member[j]];
        const int64_t lines = set->k * (m->blocks / set->units);
        float *score;
        c[j].matrix = m;
        st = hn_scores_room(out, set->member[j], lines, &ids[j], &score);
        for (int64_t b = 0; st == HN_OK && b < lines; b++) score[b] = 1;
    }
    if (st == HN_OK)
        st = hn_coupled_choose(c[0].matrix->name, set->units, (uint64_t)r->c->run.seed, c, n,
                               set->k, ids);
    hn_free(ids);
    hn_free(c);
    return st;
}

static hn_status weigh_coupled(const hn_sparse_run *r, hn_scores *out)
{
    hn_status st = HN_OK;
    coupled_set set = {.member = hn_calloc((size_t)r->n, sizeof *set.member)};
    if (set.member == NULL) return HN_FAIL(HN_ERR_MEMORY, "sets of %" PRId64 " matrices", r->n);
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) {
        if (out->list[i].id != NULL) continue; /* of a set that is done */
        st = find_members(r, i, &set);
        if (st == HN_OK) st = choose_members(r, &set, out);
    }
    hn_free(set.member);
    return st;
}

/* ---- all matrices ---- */

static hn_status weigh_all(const hn_sparse_run *r, hn_score_rule rule, hn_scores *out)
{
    if (rule == HN_BY_COUPLED) return weigh_coupled(r, out);
    for (int64_t i = 0; i < r->n; i++) {
        const hn_select_matrix *m = &r->matrix[i];
        int32_t *id;
        float *score, *f = hn_malloc((size_t)m->blocks * sizeof *f);
        hn_status st = f ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "scores of %s", m->name);
        if (st == HN_OK) st = score_one(r, rule, i, f);
        if (st == HN_OK) st = hn_scores_room(out, i, m->most, &id, &score);
        if (st == HN_OK) st = hn_score_top(f, m->blocks, m->most, id, score);
        hn_free(f);
        HN_TRY(st);
    }
    return HN_OK;
}

hn_status hn_weigh(const hn_sparse_run *r, hn_score_rule rule, hn_scores *out)
{
    hn_scores s;
    HN_TRY(hn_scores_new(r->n, &s));
    const hn_status st = weigh_all(r, rule, &s);
    if (st == HN_OK)
        *out = s;
    else
        hn_scores_free(&s);
    return st;
}

/* ---- the prior ---- */

/* |rank-r weight| of the listed blocks; adds that of all blocks to *sum. */
static hn_status prior_of(const hn_sparse_run *r, int64_t i, const hn_score_list *l, float *prior,
                          double *sum)
{
    const hn_select_matrix *m = &r->matrix[i];
    float *f = hn_malloc((size_t)m->blocks * sizeof *f);
    hn_status st = f ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "scores of %s", m->name);
    if (st == HN_OK) st = score_one(r, HN_BY_LIFT, i, f);
    for (int64_t b = 0; st == HN_OK && b < m->blocks; b++) *sum += (double)f[b];
    for (int64_t b = 0; st == HN_OK && b < l->n; b++) prior[b] = f[l->id[b]];
    hn_free(f);
    return st;
}

hn_status hn_weigh_prior(const hn_sparse_run *r, const hn_scores *s)
{
    const double gamma = r->c->knobs.lift_gamma;
    double sum = 0, blocks = 0;
    hn_status st = HN_OK;
    int64_t all = 0, at = 0;
    if (gamma == 0) return HN_OK;
    for (int64_t i = 0; i < r->n; i++) all += s->list[i].n;
    float *prior = hn_malloc((size_t)all * sizeof *prior + 1);
    if (prior == NULL) return HN_FAIL(HN_ERR_MEMORY, "priors of %" PRId64 " blocks", all);
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) {
        st = prior_of(r, i, &s->list[i], prior + at, &sum);
        at += s->list[i].n;
        blocks += (double)r->matrix[i].blocks;
    }
    at = 0;
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) {
        const hn_score_list *l = &s->list[i];
        hn_score_prior(prior + at, l->n, sum / blocks, gamma, (float *)(size_t)l->score);
        at += l->n;
    }
    hn_free(prior);
    return st;
}
