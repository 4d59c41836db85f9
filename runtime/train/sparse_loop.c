/* Selections of hone-sparse: the first one, and those inside training. */
#include "runtime/train/sparse_loop.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/signals.h"
#include "runtime/train/sparse_map.h"
#include "runtime/train/sparse_run.h"
#include "runtime/train/team.h"

/* ---- what a step gathers ---- */

/* Candidates: as many as the pool has room for, by matrix and in all. */
static hn_status choose_candidates(const hn_sparse_run *r, const hn_scores *f,
                                   const hn_active_list *active, hn_support *out)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    const int64_t factor = r->c->knobs.candidates;
    int64_t *room = hn_malloc((size_t)r->n * sizeof *room);
    if (room == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " matrices", r->n);
    for (int64_t i = 0; i < r->n; i++) room[i] = hn_sparse_at(s, i)->kept;
    const hn_status st = hn_select_candidates(r->matrix, r->n, f->list, active, factor, room, out);
    hn_free(room);
    return st;
}

/* The support as lists of ids alone. */
static hn_active_list *active_ids(const hn_sparse_run *r)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    hn_active_list *a = hn_calloc((size_t)r->n, sizeof *a);
    for (int64_t i = 0; a && i < r->n; i++)
        a[i] = (hn_active_list){.id = hn_sparse_ids(s, HN_BLOCKS_TRAINED, i),
                                .n = hn_sparse_count(s, HN_BLOCKS_TRAINED, i)};
    return a;
}

typedef struct {
    int64_t *first;
    int32_t *id;
} owned_lists;

static void free_lists(owned_lists *l)
{
    hn_free(l->first);
    hn_free(l->id);
}

static hn_status take_lists(int64_t n, int64_t blocks, owned_lists *l)
{
    l->first = hn_calloc((size_t)n + 1, sizeof *l->first);
    l->id = hn_malloc((size_t)blocks * sizeof *l->id + 1);
    return l->first && l->id ? HN_OK
                             : HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " blocks", blocks);
}

static hn_status lists_of(const hn_support *p, owned_lists *l)
{
    HN_TRY(take_lists(p->n, p->blocks, l));
    for (int64_t i = 0; i < p->n; i++) {
        l->first[i + 1] = l->first[i] + p->list[i].n;
        if (p->list[i].n > 0)
            memcpy(l->id + l->first[i], p->list[i].id, (size_t)p->list[i].n * sizeof *l->id);
    }
    return HN_OK;
}

/* Every block that is not trained. */
static hn_status lists_of_others(const hn_sparse_run *r, owned_lists *l)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    int64_t blocks = 0;
    for (int64_t i = 0; i < r->n; i++) blocks += r->matrix[i].blocks;
    HN_TRY(take_lists(r->n, blocks, l));
    for (int64_t i = 0; i < r->n; i++) {
        const int32_t *id = hn_sparse_ids(s, HN_BLOCKS_TRAINED, i);
        const int64_t n = hn_sparse_count(s, HN_BLOCKS_TRAINED, i);
        int64_t at = l->first[i], k = 0;
        for (int64_t b = 0; b < r->matrix[i].blocks; b++) {
            if (k < n && id[k] == b)
                k++;
            else
                l->id[at++] = (int32_t)b;
        }
        l->first[i + 1] = at;
    }
    return HN_OK;
}

/* Which blocks are watched: the candidates by their scores, or all. */
static hn_status watch(const hn_sparse_run *r)
{
    hn_sparse *s = hn_sparse_run_blocks(r);
    hn_scores f = {0};
    hn_support p = {0};
    owned_lists l = {0};
    hn_status st = HN_OK;
    hn_active_list *active = active_ids(r);
    if (active == NULL) return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", r->n);
    if (r->rules.schedule.score_share == 0) {
        HN_TRY_GOTO(st, lists_of_others(r, &l), done);
    } else {
        HN_TRY_GOTO(st, hn_gathered_scores(r, &f), done);
        HN_TRY_GOTO(st, choose_candidates(r, &f, active, &p), done);
        HN_TRY_GOTO(st, lists_of(&p, &l), done);
    }
    const hn_block_lists lists = {l.first, l.id};
    st = hn_sparse_watch(s, &lists);

done:
    free_lists(&l);
    hn_support_free(&p);
    hn_scores_free(&f);
    hn_free(active);
    return st;
}

static hn_status prepare(const hn_sparse_run *r, const hn_select_step *t)
{
    static const hn_gather gather[] = {
        [HN_SELECT_NONE] = HN_GATHER_NOTHING,
        [HN_SELECT_SCORE] = HN_GATHER_SCORES,
        [HN_SELECT_WINDOW] = HN_GATHER_WINDOW,
    };
    const bool watches = t->first && t->phase == HN_SELECT_WINDOW;
    const bool begins = t->first && (t->phase == HN_SELECT_SCORE ||
                                     (watches && r->rules.schedule.score_share == 0));
    if (begins) HN_TRY(hn_sparse_begin(hn_sparse_run_blocks(r)));
    if (watches) HN_TRY(watch(r));
    return hn_engine_gather(r->s->engine, gather[t->phase]);
}

/* ---- a new support ---- */

/* Moments of new blocks of one matrix: `m`, `v` and `age` of its list. */
static hn_status start_matrix(const hn_sparse_run *r, int64_t i, const hn_support_list *l, float *m,
                              float *v, uint16_t *age)
{
    hn_sparse *s = hn_sparse_run_blocks(r);
    const hn_run_config *c = &r->c->run;
    const int64_t size = hn_sparse_at(s, i)->values, steps = hn_sparse_progress_of(s)->window_steps;
    const int64_t n = hn_sparse_count(s, HN_BLOCKS_WATCHED, i) * size;
    float *sum = hn_malloc((size_t)(2 * n) * sizeof *sum + 1), *square = sum + n;
    hn_status st = sum ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of blocks", 2 * n);
    if (st == HN_OK) st = hn_sparse_get(s, HN_SPARSE_WATCHED_SUM, i, sum);
    if (st == HN_OK) st = hn_sparse_get(s, HN_SPARSE_WATCHED_SQUARE, i, square);
    for (int64_t b = 0; st == HN_OK && b < l->n; b++) {
        const int64_t from = -1 - (int64_t)l->from[b];
        if (from < 0) continue; /* it was trained before */
        age[b] = hn_select_moments(sum + from * size, square + from * size, size, steps, c->beta1,
                                   c->beta2, m + b * size, v + b * size);
    }
    hn_free(sum);
    return st;
}

/* seeded: the new blocks' moments begin with the sums of the window. */
static hn_status install(const hn_sparse_run *r, const hn_support *p, bool seeded, bool keep)
{
    hn_sparse *s = hn_sparse_run_blocks(r);
    owned_lists l = {0};
    float *m = NULL, *v = NULL;
    uint16_t *age = NULL;
    hn_status st = lists_of(p, &l);
    const size_t values = (size_t)hn_sparse_pool_values(s);
    if (st == HN_OK && seeded) {
        m = hn_calloc(values, sizeof *m);
        v = hn_calloc(values, sizeof *v);
        age = hn_calloc((size_t)p->blocks + 1, sizeof *age);
        if (m == NULL || v == NULL || age == NULL)
            st = HN_FAIL(HN_ERR_MEMORY, "moments of %zu values", values);
    }
    for (int64_t i = 0, at = 0; st == HN_OK && seeded && i < r->n; i++) {
        st = start_matrix(r, i, &p->list[i], m + at, v + at, age + l.first[i]);
        at += p->list[i].n * hn_sparse_at(s, i)->values;
    }
    const hn_block_lists lists = {l.first, l.id};
    const hn_block_start start = {m, v, age};
    if (st == HN_OK) st = hn_sparse_select(s, &lists, seeded ? &start : NULL, keep);
    hn_free(m);
    hn_free(v);
    hn_free(age);
    free_lists(&l);
    return st;
}

/* Whether scores come out of a window's sums. */
static bool has_sums(const hn_sparse_run *r, hn_score_rule rule)
{
    return hn_score_has_gradient(rule) && r->rules.schedule.score_share < 1;
}

static hn_status scores_of(const hn_sparse_run *r, hn_score_rule rule, hn_scores *out)
{
    if (!hn_score_has_gradient(rule)) return hn_weigh(r, rule, out);
    if (has_sums(r, rule)) return hn_gathered_sums(r, HN_BLOCKS_WATCHED, out);
    HN_TRY(hn_gathered_scores(r, out));
    const hn_status st = hn_weigh_prior(r, out);
    if (st != HN_OK) hn_scores_free(out);
    return st;
}

/* Coupled channels are chosen already. */
static hn_status fill_coupled(const hn_scores *f, hn_support *out)
{
    hn_support p = {.list = hn_calloc((size_t)f->n, sizeof *p.list), .n = f->n};
    hn_status st = p.list ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " lists", f->n);
    for (int64_t i = 0; st == HN_OK && i < f->n; i++) {
        hn_support_list *l = &p.list[i];
        const int64_t n = f->list[i].n;
        l->id = hn_malloc((size_t)n * sizeof *l->id + 1);
        l->from = hn_malloc((size_t)n * sizeof *l->from + 1);
        if (l->id == NULL || l->from == NULL)
            st = HN_FAIL(HN_ERR_MEMORY, "a list of %" PRId64 " blocks", n);
        for (int64_t b = 0; st == HN_OK && b < n; b++) {
            l->id[b] = f->list[i].id[b];
            l->from[b] = (int32_t)(-1 - b);
        }
        l->n = n;
        p.blocks += n;
    }
    if (st == HN_OK)
        *out = p;
    else
        hn_support_free(&p);
    return st;
}

/* The whole support by scores; `from` says who was there before. */
static hn_status fill(const hn_sparse_run *r, hn_score_rule rule, const hn_active_list *active,
                      hn_support *out)
{
    hn_scores f = {0};
    HN_TRY(scores_of(r, rule, &f));
    const hn_status st = rule == HN_BY_COUPLED
                             ? fill_coupled(&f, out)
                             : hn_select_fill(r->matrix, r->n, f.list, active, r->k, out);
    hn_scores_free(&f);
    return st;
}

/* ---- reselection ---- */

/* Trained blocks with what decides about them; lists own their memory. */
typedef struct {
    hn_active_list *list;
    float **keep;
    uint16_t **age;
    hn_scores score;
    int64_t n;
} trained;

static void free_trained(trained *t)
{
    for (int64_t i = 0; i < t->n; i++) {
        if (t->keep) hn_free(t->keep[i]);
        if (t->age) hn_free(t->age[i]);
    }
    hn_free(t->keep);
    hn_free(t->age);
    hn_free(t->list);
    hn_scores_free(&t->score);
}

/* d_B: the norm of the change, or |change gradient|. */
static hn_status keep_of(const hn_sparse_run *r, int64_t i, int64_t n, float *keep)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    const int64_t size = hn_sparse_at(s, i)->values;
    const bool sensitive = strcmp(r->c->knobs.drop, "sensitivity") == 0;
    float *delta = hn_malloc((size_t)(2 * n * size) * sizeof *delta + 1), *sum = delta + n * size;
    hn_status st = delta ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values", 2 * n * size);
    if (st == HN_OK) st = hn_sparse_get(s, HN_SPARSE_DELTA, i, delta);
    if (st == HN_OK && sensitive) st = hn_sparse_get(s, HN_SPARSE_SUM, i, sum);
    if (st == HN_OK && sensitive)
        hn_score_product(delta, sum, n, size, keep);
    else if (st == HN_OK)
        hn_score_norm(delta, n, size, keep);
    hn_free(delta);
    return st;
}

/* Scores of trained blocks among those of all; one that is not among the kept ones has less than
 * each of them, here 0. */
static hn_status scores_among(const hn_sparse_run *r, hn_scores *out)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    hn_scores all = {0}, own = {0};
    HN_TRY(scores_of(r, r->rules.score, &all));
    hn_status st = hn_scores_new(r->n, &own);
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) {
        const int64_t n = hn_sparse_count(s, HN_BLOCKS_TRAINED, i);
        const int32_t *trained_id = hn_sparse_ids(s, HN_BLOCKS_TRAINED, i);
        const hn_score_list *l = &all.list[i];
        int32_t *id;
        float *score;
        st = hn_scores_room(&own, i, n, &id, &score);
        for (int64_t b = 0, k = 0; st == HN_OK && b < n; b++) {
            id[b] = trained_id[b];
            while (k < l->n && l->id[k] < id[b]) k++;
            score[b] = k < l->n && l->id[k] == id[b] ? l->score[k] : 0;
        }
    }
    hn_scores_free(&all);
    if (st == HN_OK)
        *out = own;
    else
        hn_scores_free(&own);
    return st;
}

static hn_status read_trained(const hn_sparse_run *r, trained *t)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    *t = (trained){.list = active_ids(r),
                   .keep = hn_calloc((size_t)r->n, sizeof *t->keep),
                   .age = hn_calloc((size_t)r->n, sizeof *t->age),
                   .n = r->n};
    if (t->list == NULL || t->keep == NULL || t->age == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", r->n);
    HN_TRY(has_sums(r, r->rules.score) ? hn_gathered_sums(r, HN_BLOCKS_TRAINED, &t->score)
                                       : scores_among(r, &t->score));
    for (int64_t i = 0; i < r->n; i++) {
        hn_active_list *l = &t->list[i];
        t->keep[i] = hn_malloc((size_t)l->n * sizeof **t->keep + 1);
        t->age[i] = hn_malloc((size_t)l->n * sizeof **t->age + 1);
        if (t->keep[i] == NULL || t->age[i] == NULL)
            return HN_FAIL(HN_ERR_MEMORY, "a list of %" PRId64 " blocks", l->n);
        HN_TRY(keep_of(r, i, l->n, t->keep[i]));
        HN_TRY(hn_sparse_get_ages(s, i, t->age[i]));
        l->keep = t->keep[i];
        l->age = t->age[i];
        l->score = t->score.list[i].score;
    }
    return HN_OK;
}

static hn_status change(const hn_sparse_run *r, double rate, hn_support *out)
{
    hn_change_rule rule = r->rules.change;
    hn_scores candidates = {0};
    trained t = {0};
    rule.rate = rate;
    hn_status st = scores_of(r, r->rules.score, &candidates);
    if (st == HN_OK) st = read_trained(r, &t);
    if (st == HN_OK) st = hn_select_change(r->matrix, r->n, t.list, candidates.list, &rule, out);
    free_trained(&t);
    hn_scores_free(&candidates);
    return st;
}

/* All of them anew, by the weights as they are now. */
static hn_status refill(const hn_sparse_run *r, hn_support *out)
{
    hn_active_list *active = active_ids(r);
    if (active == NULL) return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", r->n);
    const hn_status st = fill(r, r->rules.score, active, out);
    for (int64_t i = 0; st == HN_OK && i < out->n; i++)
        for (int64_t b = 0; b < out->list[i].n; b++) out->replaced += out->list[i].from[b] < 0;
    hn_free(active);
    return st;
}

/* ---- what is said ---- */

/* "q_proj 12 %, up_proj 40 %": parts of the trained values, by the last part of the names. */
static void shares_text(const hn_sparse_run *r, const hn_support *p, char *text, size_t size)
{
    enum { TYPES = 24 };
    struct {
        const char *name;
        int length;
        double values;
    } type[TYPES];
    int n = 0;
    double all = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const char *name = r->matrix[i].name, *end = strrchr(name, '.'); /* ".weight" */
        const char *begin = end ? end : name;
        while (begin > name && begin[-1] != '.') begin--;
        const int length = (int)(end - begin);
        const double v = (double)(p->list[i].n * hn_block_values(r->matrix[i].shape));
        int k = 0;
        while (k < n &&
               !(type[k].length == length && strncmp(type[k].name, begin, (size_t)length) == 0))
            k++;
        all += v;
        if (k == TYPES) continue; /* what follows goes unnamed */
        if (k == n) {
            type[n].name = begin;
            type[n].length = length;
            type[n++].values = 0;
        }
        type[k].values += v;
    }
    size_t at = 0;
    text[0] = '\0';
    for (int k = 0; k < n && at < size; k++)
        at += (size_t)snprintf(text + at, size - at, "%s%.*s %.3g %%", k ? ", " : "",
                               type[k].length, type[k].name, 100 * type[k].values / all);
}

static void tell_first(const hn_sparse_run *r, const hn_support *p, const char *by)
{
    char shares[512];
    double values = 0, all = 0;
    for (int64_t i = 0; i < r->n; i++) {
        values += (double)(p->list[i].n * hn_block_values(r->matrix[i].shape));
        all += (double)r->matrix[i].out * (double)r->matrix[i].in;
    }
    shares_text(r, p, shares, sizeof shares);
    hn_info(&r->s->log,
            "selection: %" PRId64 " blocks by %s, %.4g %% of %" PRId64 " matrices; of them %s",
            p->blocks, by, 100 * values / all, r->n, shares);
}

/* ---- the first support ---- */

/* *stop: whether the run is to end */
static hn_status gather_batch(const hn_sparse_run *r, int64_t batch, const hn_select_step *t,
                              bool *stop)
{
    hn_session *s = r->s;
    const int64_t micro = hn_session_per_step(s), ranks = hn_team_size(&s->team);
    hn_step_report report;
    hn_team_at(&s->team, HN_HUB_AT_STEP, batch); /* also a rank that has no micro-batch of it */
    HN_TRY(prepare(r, t));
    HN_TRY(hn_engine_begin(s->engine, batch));
    for (int64_t a = s->team.ranks.rank; a < micro; a += ranks) {
        hn_engine_input in;
        int64_t units;
        hn_team_at(&s->team, HN_HUB_AT_STEP, batch);
        HN_TRY(hn_engine_batch(s->engine, &in));
        HN_TRY(s->train->fill(s->train, batch * micro + a, &in, &units));
        HN_TRY(hn_engine_micro(s->engine, a));
    }
    hn_engine_want_stop(s->engine, hn_signals_caught() != 0);
    HN_TRY(hn_engine_discard(s->engine, &report));
    *stop = hn_team_stops(&s->team, &report);
    if (report.skipped != HN_STEP_NONFINITE && isfinite(report.loss)) return HN_OK;
    return report.skipped == HN_STEP_EMPTY
               ? HN_OK
               : HN_FAIL(HN_ERR_NUMERIC,
                         "selection, batch %" PRId64 ": loss %g, gradient's norm %g", batch,
                         report.loss, report.grad_norm);
}

/* Batches of gradients that move nothing, running values of batch norms included.
 * *whole: false when a signal has come, to any rank */
static hn_status gather_first(const hn_sparse_run *r, bool *whole)
{
    const hn_params *p = hn_engine_params(r->s->engine);
    const hn_select_schedule *t = &r->rules.schedule;
    float *buffers = NULL;
    bool stop = false;
    HN_TRY(hn_params_get_buffers(p, &buffers));
    hn_status st = HN_OK;
    hn_session_progress(r->s, "selection batch", hn_session_unit(r->s), t->first);
    for (int64_t b = 0; st == HN_OK && b < t->first && !stop; b++) {
        const hn_select_step step = hn_select_before(t, b);
        st = gather_batch(r, b, &step, &stop);
        if (st == HN_OK) hn_session_show(r->s, b + 1, 0);
    }
    *whole = !stop;
    if (st == HN_OK && buffers) st = hn_params_put_buffers(p, buffers);
    hn_free(buffers);
    return st == HN_OK ? hn_engine_gather(r->s->engine, HN_GATHER_NOTHING) : st;
}

/* Matrices that take turns must all have their turn. */
static hn_status check_turns(const hn_sparse_run *r)
{
    const hn_select_schedule *t = &r->rules.schedule;
    const int64_t groups = hn_sparse_groups(hn_sparse_run_blocks(r));
    const int64_t batches[] = {t->first, t->fixed ? 0 : t->window};
    for (int k = 0; k < 2; k++) {
        const int64_t scored = (int64_t)ceil(t->score_share * (double)batches[k] - 1e-9);
        if (batches[k] > 0 && scored > 0 && scored < groups)
            return HN_FAIL(HN_ERR_ARG,
                           "--select-memory %g: the matrices take turns in %" PRId64
                           " groups, but only %" PRId64 " of --%s %" PRId64 " score them",
                           r->c->select_memory, groups, scored,
                           k ? "select-window" : "select-batches", batches[k]);
    }
    return HN_OK;
}

static hn_status select_mask(const hn_sparse_run *r)
{
    hn_support p = {0};
    hn_status st = hn_sparse_mask_support(r, &p);
    if (st == HN_OK) st = install(r, &p, false, false);
    if (st == HN_OK) tell_first(r, &p, "mask");
    hn_support_free(&p);
    return st;
}

/* Moments begin at 0 here, whatever --seed-moments says: all batches were taken at the same
 * weights, and their gradients, which nobody clips, would drive the first steps (held-out loss of
 * babyllama on Shakespeare after 200 steps: 2.08 against 2.01). */
static hn_status select_first(hn_sparse_run *r)
{
    const hn_score_rule rule = r->rules.first;
    const bool gathers = hn_score_has_gradient(rule);
    hn_support p = {0};
    bool whole = true;
    char by[64];
    if (r->pack.n > 0) return select_mask(r);
    if (gathers) HN_TRY(gather_first(r, &whole));
    if (!whole) return HN_OK; /* the run ends before its first step */
    hn_team_at(&r->s->team, HN_HUB_AT_CHOOSE, -1);
    snprintf(by, sizeof by, "%s", rule == HN_BY_RANDOM ? "chance" : r->c->knobs.score);
    if (gathers)
        snprintf(by, sizeof by, "%s of %" PRId64 " batches", r->c->knobs.score,
                 r->rules.schedule.first);
    hn_status st = fill(r, rule, NULL, &p);
    if (st == HN_OK) st = install(r, &p, false, false);
    if (st == HN_OK && gathers) st = hn_sparse_begin(hn_sparse_run_blocks(r));
    if (st == HN_OK) tell_first(r, &p, by);
    hn_support_free(&p);
    return st;
}

/* ---- low-rank pairs alone, before the selection ---- */

/* Trained values as they are, one parameter behind the other. */
static hn_status copy_trained(const hn_params *p, bool back, float *copy, int64_t *n)
{
    int64_t at = 0;
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!q->trained) continue;
        if (copy != NULL) HN_TRY(back ? hn_param_set(q, copy + at) : hn_param_get(q, copy + at));
        at += hn_param_values(q);
    }
    *n = at;
    return HN_OK;
}

static hn_status clear_moments(const hn_params *p, float *zeros)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!q->trained) continue;
        memset(zeros, 0, (size_t)hn_param_values(q) * sizeof *zeros);
        HN_TRY(hn_param_write(q, q->moment1, zeros));
        HN_TRY(hn_param_write(q, q->moment2, zeros));
    }
    return HN_OK;
}

static hn_status train_pairs(const hn_sparse_run *r, const hn_schedule *schedule)
{
    hn_session *s = r->s;
    const int64_t micro = hn_session_per_step(s), ranks = hn_team_size(&s->team);
    const int64_t steps = r->c->knobs.lora_steps;
    bool stop = false;
    hn_session_progress(s, "low-rank step", hn_session_unit(s), steps);
    for (int64_t i = 0; i < steps && !stop; i++) {
        hn_step_report report;
        hn_team_at(&s->team, HN_HUB_AT_STEP, i);
        HN_TRY(hn_engine_begin(s->engine, i));
        for (int64_t a = s->team.ranks.rank; a < micro; a += ranks) {
            hn_engine_input in;
            int64_t units;
            hn_team_at(&s->team, HN_HUB_AT_STEP, i);
            HN_TRY(hn_engine_batch(s->engine, &in));
            HN_TRY(s->train->fill(s->train, i * micro + a, &in, &units));
            HN_TRY(hn_engine_micro(s->engine, a));
        }
        hn_engine_want_stop(s->engine, hn_signals_caught() != 0);
        HN_TRY(hn_engine_update(s->engine, hn_schedule_lr(schedule, i), &report));
        stop = hn_team_stops(&s->team, &report);
        if (report.skipped == HN_STEP_NONFINITE)
            return HN_FAIL(HN_ERR_NUMERIC, "low-rank step %" PRId64 ": loss %g, gradient's norm %g",
                           i + 1, report.loss, report.grad_norm);
        hn_session_show(s, i + 1, 0);
    }
    return HN_OK;
}

static hn_status select_behind_pairs(hn_sparse_run *r, const hn_schedule *schedule)
{
    const hn_params *p = hn_engine_params(r->s->engine);
    int64_t n;
    float *buffers = NULL;
    HN_TRY(copy_trained(p, false, NULL, &n));
    float *copy = hn_malloc((size_t)n * sizeof *copy + 1);
    hn_status st = copy ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " trained values", n);
    if (st == HN_OK) st = copy_trained(p, false, copy, &n);
    if (st == HN_OK) st = hn_params_get_buffers(p, &buffers);
    if (st == HN_OK) st = train_pairs(r, schedule);
    if (st == HN_OK) st = select_first(r);
    if (st == HN_OK) st = copy_trained(p, true, copy, &n);
    if (st == HN_OK && buffers) st = hn_params_put_buffers(p, buffers);
    if (st == HN_OK) st = clear_moments(p, copy);
    if (st == HN_OK)
        hn_info(&r->s->log, "low-rank pairs are back at their beginning: the run starts anew");
    hn_free(buffers);
    hn_free(copy);
    return st;
}

/* ---- hooks ---- */

hn_status hn_sparse_loop_end(hn_session *s, const char *out)
{
    bool drawn = false;
    HN_TRY(hn_sparse_map(hn_sparse_run_blocks(s->extra), out, &drawn));
    hn_info(&s->log, "where the blocks are: %s/support.csv%s%s%s", out, drawn ? ", " : "",
            drawn ? out : "", drawn ? "/support.png" : "");
    return HN_OK;
}

/* By --adapter, or by a checkpoint, also by one in front of the first step: a selection that was
 * made is not made again, one that was left has chosen nothing. (Behind pairs that a signal cut
 * short a rule that sums nothing chooses all the same: it looks at the weights alone, which the
 * pairs do not change.) */
static bool has_support(const hn_sparse_run *r)
{
    for (int64_t i = 0; i < r->n; i++)
        if (hn_sparse_count(hn_sparse_run_blocks(r), HN_BLOCKS_TRAINED, i) > 0) return true;
    return r->loaded;
}

hn_status hn_sparse_loop_begin(hn_session *s, const hn_schedule *schedule, int64_t step)
{
    hn_sparse_run *r = s->extra;
    const bool there = step > 0 || has_support(r);
    HN_TRY(check_turns(r));
    HN_TRY(hn_team_same(&s->team, "blocks", there ? "chosen" : "not chosen yet"));
    if (there) return HN_OK;
    return r->c->knobs.lora_steps > 0 && r->pack.n == 0 ? select_behind_pairs(r, schedule)
                                                        : select_first(r);
}

hn_status hn_sparse_loop_before(hn_session *s, int64_t step)
{
    const hn_sparse_run *r = s->extra;
    const hn_select_schedule *schedule = &r->rules.schedule;
    const hn_select_step t = hn_select_at(schedule, step);
    return schedule->fixed || schedule->window == 0 ? HN_OK : prepare(r, &t);
}

bool hn_sparse_loop_looks(const hn_session *s, int64_t step)
{
    const hn_sparse_run *r = s->extra;
    return step > 0 && hn_select_at(&r->rules.schedule, step - 1).change;
}

hn_status hn_sparse_loop_behind(hn_session *s, int64_t step, const hn_log *log)
{
    const hn_sparse_run *r = s->extra;
    const hn_sparse_knobs *k = &r->c->knobs;
    const hn_select_step t = hn_select_at(&r->rules.schedule, step - 1);
    const bool keep = strcmp(k->on_drop, "keep") == 0;
    const bool seeded = !r->rules.refill && has_sums(r, r->rules.score) && k->seed_moments;
    hn_support p = {0};
    char shares[512];
    hn_team_at(&s->team, HN_HUB_AT_CHOOSE, step);
    hn_status st = r->rules.refill ? refill(r, &p) : change(r, t.rate, &p);
    if (st == HN_OK) st = install(r, &p, seeded, keep);
    if (st == HN_OK && !r->rules.refill) st = hn_sparse_begin(hn_sparse_run_blocks(r));
    if (st == HN_OK) {
        shares_text(r, &p, shares, sizeof shares);
        hn_info(log,
                "selection behind step %" PRId64 ": %" PRId64 " of %" PRId64
                " blocks replaced, %" PRId64 " held, %" PRId64 " too young; now %s",
                step, p.replaced, p.blocks, p.held, p.young, shares);
    }
    hn_support_free(&p);
    return st;
}
