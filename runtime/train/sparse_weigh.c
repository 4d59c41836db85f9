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

/* The share of a matrix is one part of its diagonal. */
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

/* ---- channels that belong together ---- */

static const char *const readers[] = {"down_proj", "c_proj", "fc2", "w2"};

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

/* The members of the set that begins with matrix `first`; all have the same channels. */
static hn_status find_members(const hn_sparse_run *r, int64_t first, int64_t *member, int64_t *n,
                              int64_t *units, int64_t *k)
{
    bool columns = false;
    *n = 0;
    *units = *k = 0;
    for (int64_t i = first; i < r->n; i++) {
        const hn_select_matrix *m = &r->matrix[i];
        if (!same_parent(r->matrix[first].name, m->name)) continue;
        if (*n > 0 && m->blocks != *units)
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "--block coupled: %s has %" PRId64 " channels, %s %" PRId64
                           "; --targets may leave one of them out",
                           r->matrix[first].name, *units, m->name, m->blocks);
        *units = m->blocks;
        if (*n == 0 || m->share < *k) *k = m->share;
        columns |= m->shape.bc == 1;
        member[(*n)++] = i;
    }
    if (*n > 1 && columns) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "--block coupled: beside %s there is no %s among the targets",
                   r->matrix[first].name, columns ? "layer that makes its input" : "down_proj");
}

static hn_status choose_members(const hn_sparse_run *r, const int64_t *member, int64_t n,
                                int64_t units, int64_t k, hn_scores *out)
{
    hn_coupled *c = hn_calloc((size_t)n, sizeof *c);
    int32_t **ids = hn_calloc((size_t)n, sizeof *ids);
    hn_status st = c && ids ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "sets of %" PRId64 " matrices", n);
    for (int64_t j = 0; st == HN_OK && j < n; j++) {
        float *score;
        c[j].matrix = &r->matrix[member[j]];
        st = hn_scores_room(out, member[j], k, &ids[j], &score);
        for (int64_t b = 0; st == HN_OK && b < k; b++) score[b] = 1;
    }
    if (st == HN_OK)
        st = hn_coupled_choose(r->matrix[member[0]].name, units, (uint64_t)r->c->run.seed, c, n, k,
                               ids);
    hn_free(ids);
    hn_free(c);
    return st;
}

static hn_status weigh_coupled(const hn_sparse_run *r, hn_scores *out)
{
    hn_status st = HN_OK;
    int64_t *member = hn_calloc((size_t)r->n, sizeof *member);
    if (member == NULL) return HN_FAIL(HN_ERR_MEMORY, "sets of %" PRId64 " matrices", r->n);
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) {
        int64_t n, units, k;
        if (out->list[i].id != NULL) continue; /* of a set that is done */
        st = find_members(r, i, member, &n, &units, &k);
        if (st == HN_OK && k == 0)
            st = HN_FAIL(HN_ERR_ARG, "--budget %s: less than one channel of %s", r->c->knobs.budget,
                         r->matrix[i].name);
        if (st == HN_OK) st = choose_members(r, member, n, units, k, out);
    }
    hn_free(member);
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
