/* Three steps, each linear in the number of blocks: the lists of all matrices are brought into the
 * order (matrix, id), the best are marked, the marked ones become lists again. */
#include "runtime/train/sparse_select.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/alloc.h"
#include "runtime/train/sparse_order.h"

/* ---- lists in the order of ids ---- */

/* Blocks of one matrix by ascending id. */
typedef struct {
    int32_t *place; /* [n] in the caller's list */
    float *score;   /* [n] times the weight of the matrix */
    uint8_t *mark;  /* [n] 0: not chosen */
    int64_t n;
} row;

static void row_free(row *r)
{
    hn_free(r->place);
    hn_free(r->score);
    hn_free(r->mark);
    *r = (row){0};
}

static void rows_free(row *r, int64_t n)
{
    for (int64_t i = 0; r != NULL && i < n; i++) row_free(&r[i]);
    hn_free(r);
}

/* place: where the ids lie in ascending order. */
static hn_status order_ids(const hn_select_matrix *m, const int32_t *id, int64_t n, int32_t *place)
{
    bool ascending = true;
    if (n < 0 || n > m->blocks)
        return HN_FAIL(HN_ERR_ARG, "%s: a list of %" PRId64 " blocks, the matrix has %" PRId64,
                       m->name, n, m->blocks);
    for (int64_t i = 0; i < n; i++) {
        if (id[i] < 0 || id[i] >= m->blocks)
            return HN_FAIL(HN_ERR_ARG, "%s: block %d, the matrix has %" PRId64, m->name, (int)id[i],
                           m->blocks);
        if (i > 0 && id[i] <= id[i - 1]) ascending = false;
        place[i] = (int32_t)i;
    }
    if (ascending) return HN_OK;
    uint32_t *key = hn_malloc((size_t)n * sizeof *key);
    if (key == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: no memory to order its blocks", m->name);
    for (int64_t i = 0; i < n; i++) key[i] = (uint32_t)id[i];
    const hn_status st = hn_order_by_key(key, n, place);
    hn_free(key);
    if (st != HN_OK) return st;
    for (int64_t i = 1; i < n; i++)
        if (id[place[i]] == id[place[i - 1]])
            return HN_FAIL(HN_ERR_ARG, "%s: block %d is in a list twice", m->name,
                           (int)id[place[i]]);
    return HN_OK;
}

static hn_status row_new(const hn_select_matrix *m, int64_t n, row *r)
{
    const size_t room = n > 0 ? (size_t)n : 0;
    r->place = hn_malloc(room * sizeof *r->place);
    r->score = hn_malloc(room * sizeof *r->score);
    r->mark = hn_calloc(room, sizeof *r->mark);
    r->n = n;
    if (r->place != NULL && r->score != NULL && r->mark != NULL) return HN_OK;
    return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " blocks", m->name, n);
}

static hn_status weigh(const hn_select_matrix *m, int32_t id, float score, double factor,
                       float *out)
{
    *out = (float)((double)score * factor);
    if (isfinite(*out)) return HN_OK;
    return HN_FAIL(HN_ERR_NUMERIC, "%s: the score of block %d is %g", m->name, (int)id,
                   (double)score);
}

/* The scores of one matrix, without the blocks of `old` (NULL: with all). */
static hn_status read_scores(const hn_select_matrix *m, const hn_score_list *list,
                             const hn_active_list *list_old, const row *old, row *r)
{
    int64_t kept = 0, k = 0;
    HN_TRY(row_new(m, list->n, r));
    HN_TRY(order_ids(m, list->id, list->n, r->place));
    for (int64_t i = 0; i < list->n; i++) {
        const int32_t at = r->place[i], id = list->id[at];
        while (old != NULL && k < old->n && list_old->id[old->place[k]] < id) k++;
        if (old != NULL && k < old->n && list_old->id[old->place[k]] == id) continue;
        r->place[kept] = at;
        HN_TRY(weigh(m, id, list->score[at], m->weight, &r->score[kept]));
        kept++;
    }
    r->n = kept;
    return HN_OK;
}

static row *rows_new(int64_t n)
{
    row *r = hn_calloc((size_t)n, sizeof *r);
    if (r == NULL) (void)HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", n);
    return r;
}

/* The active blocks; `score` gets -keep: the largest are those to go first. */
static hn_status read_active(const hn_select_matrix *m, int64_t n, const hn_active_list *active,
                             bool with_keep, row **out)
{
    row *r = rows_new(n);
    if (r == NULL) return HN_ERR_MEMORY;
    hn_status st = HN_OK;
    for (int64_t l = 0; l < n && st == HN_OK; l++) {
        st = row_new(&m[l], active[l].n, &r[l]);
        if (st == HN_OK) st = order_ids(&m[l], active[l].id, active[l].n, r[l].place);
        for (int64_t i = 0; with_keep && i < active[l].n && st == HN_OK; i++) {
            const int32_t at = r[l].place[i];
            st = weigh(&m[l], active[l].id[at], active[l].keep[at], -1.0, &r[l].score[i]);
        }
    }
    if (st != HN_OK) {
        rows_free(r, n);
        return st;
    }
    *out = r;
    return HN_OK;
}

/* ---- results ---- */

void hn_support_free(hn_support *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        hn_free(s->list[i].id);
        hn_free(s->list[i].from);
    }
    hn_free(s->list);
    *s = (hn_support){0};
}

static hn_status support_new(int64_t n, hn_support *s)
{
    *s = (hn_support){.list = hn_calloc((size_t)n, sizeof *s->list), .n = n};
    if (s->list != NULL) return HN_OK;
    s->n = 0;
    return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", n);
}

static hn_status list_new(const hn_select_matrix *m, int64_t n, hn_support_list *to)
{
    to->id = hn_malloc((size_t)n * sizeof *to->id);
    to->from = hn_malloc((size_t)n * sizeof *to->from);
    to->n = n;
    if (to->id != NULL && to->from != NULL) return HN_OK;
    return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " blocks", m->name, n);
}

static int64_t count_marks(const row *r)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->n; i++) n += r->mark[i] != 0;
    return n;
}

/* The marked blocks of r; those that are in `old`, too, come from there. */
static hn_status list_marked(const hn_select_matrix *m, const row *r, const hn_score_list *list,
                             const row *old, const hn_active_list *list_old, hn_support_list *to)
{
    int64_t n = 0, k = 0;
    HN_TRY(list_new(m, count_marks(r), to));
    for (int64_t i = 0; i < r->n; i++) {
        if (r->mark[i] == 0) continue;
        const int32_t id = list->id[r->place[i]];
        while (old != NULL && k < old->n && list_old->id[old->place[k]] < id) k++;
        const bool survives = old != NULL && k < old->n && list_old->id[old->place[k]] == id;
        to->id[n] = id;
        to->from[n++] = survives ? old->place[k] : -1 - r->place[i];
    }
    return HN_OK;
}

/* ---- filling ---- */

enum { OPEN = 1, TAKEN = 2 };

typedef struct {
    int64_t factor;      /* of least, most and k */
    bool exactly;        /* too few blocks are an error */
    const int64_t *room; /* NULL, or [n]: and at most so many of a matrix */
} fill_rule;

/* OPEN: the `most` best of a matrix; TAKEN: its `least` best. Sums up both. */
static hn_status mark_bounds(const hn_select_matrix *m, fill_rule rule, int64_t room, row *r,
                             int64_t *open, int64_t *taken)
{
    int64_t least = rule.factor * m->least, most = rule.factor * m->most;
    if (most > room) most = room;
    if (least > r->n && rule.exactly)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: scores of %" PRId64 " blocks, at least %" PRId64 " are to be chosen",
                       m->name, r->n, least);
    if (most > r->n) most = r->n;
    if (least > most) least = most;
    hn_mark_largest(r->score, r->n, most, OPEN, r->mark);
    hn_mark_largest(r->score, r->n, least, TAKEN, r->mark);
    *open += most - least;
    *taken += least;
    return HN_OK;
}

/* The `want` best of all open ones are taken, the others are not. */
static hn_status mark_best(row *r, int64_t n, int64_t open, int64_t want)
{
    float *score = hn_malloc((size_t)open * sizeof *score);
    uint8_t *mark = hn_calloc((size_t)open, sizeof *mark);
    hn_status st = HN_OK;
    if (score == NULL || mark == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to choose from %" PRId64 " blocks", open);
        goto done;
    }
    int64_t at = 0;
    for (int64_t l = 0; l < n; l++)
        for (int64_t i = 0; i < r[l].n; i++)
            if (r[l].mark[i] == OPEN) score[at++] = r[l].score[i];
    hn_mark_largest(score, open, want, TAKEN, mark);
    at = 0;
    for (int64_t l = 0; l < n; l++)
        for (int64_t i = 0; i < r[l].n; i++)
            if (r[l].mark[i] == OPEN) r[l].mark[i] = mark[at++];

done:
    hn_free(score);
    hn_free(mark);
    return st;
}

static hn_status mark_rows(const hn_select_matrix *m, int64_t n, int64_t k, fill_rule rule, row *r)
{
    int64_t open = 0, taken = 0;
    for (int64_t l = 0; l < n; l++)
        HN_TRY(
            mark_bounds(&m[l], rule, rule.room ? rule.room[l] : INT64_MAX, &r[l], &open, &taken));
    if (rule.exactly && (k < taken || k > taken + open))
        return HN_FAIL(HN_ERR_ARG,
                       "%" PRId64 " blocks are to be chosen, the lists and bounds allow %" PRId64
                       " to %" PRId64,
                       k, taken, taken + open);
    const int64_t want = k - taken < open ? k - taken : open;
    return mark_best(r, n, open, want > 0 ? want : 0);
}

static hn_status fill(const hn_select_matrix *m, int64_t n, const hn_score_list *scores,
                      const hn_active_list *active, int64_t k, fill_rule rule, hn_support *out)
{
    hn_status st = HN_OK;
    hn_support s = {0};
    row *old = NULL, *r = rows_new(n);
    if (r == NULL) return HN_ERR_MEMORY;
    if (active != NULL) HN_TRY_GOTO(st, read_active(m, n, active, false, &old), done);
    for (int64_t l = 0; l < n; l++) {
        const row *without = rule.exactly || old == NULL ? NULL : &old[l];
        HN_TRY_GOTO(st, read_scores(&m[l], &scores[l], active ? &active[l] : NULL, without, &r[l]),
                    done);
    }
    HN_TRY_GOTO(st, mark_rows(m, n, k, rule, r), done);
    HN_TRY_GOTO(st, support_new(n, &s), done);
    for (int64_t l = 0; l < n; l++) {
        HN_TRY_GOTO(st,
                    list_marked(&m[l], &r[l], &scores[l], old ? &old[l] : NULL,
                                active ? &active[l] : NULL, &s.list[l]),
                    done);
        s.blocks += s.list[l].n;
    }
    hn_support_free(out);
    *out = s;
    s = (hn_support){0};

done:
    hn_support_free(&s);
    rows_free(old, n);
    rows_free(r, n);
    return st;
}

hn_status hn_select_fill(const hn_select_matrix *m, int64_t n, const hn_score_list *scores,
                         const hn_active_list *active, int64_t k, hn_support *out)
{
    return fill(m, n, scores, active, k, (fill_rule){.factor = 1, .exactly = true}, out);
}

hn_status hn_select_candidates(const hn_select_matrix *m, int64_t n, const hn_score_list *scores,
                               const hn_active_list *active, int64_t factor, const int64_t *room,
                               hn_support *out)
{
    int64_t k = 0;
    if (factor < 1 || factor > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "candidates: %" PRId64 " times the support", factor);
    for (int64_t l = 0; l < n; l++) k += factor * m[l].share;
    return fill(m, n, scores, active, k, (fill_rule){.factor = factor, .room = room}, out);
}

/* ---- drop and grow ---- */

/* Candidates of a matrix from the best on. */
typedef struct {
    int32_t *order; /* [n] places in the row */
    int64_t n, at;
} queue;

typedef struct {
    const hn_select_matrix *m;
    int64_t n;
    const hn_change_rule *rule;
    row *candidate, *old;
    queue *queue;
    int64_t *count; /* blocks that each matrix has */
    /* A tree of matrices, as a heap lies: node i has the winner of 2 i and 2 i + 1; -1: none. A
     * leaf plays while its matrix has a candidate and room for it. */
    int32_t *winner;
    int64_t leaves;
} change;

static bool has_candidate(const change *c, int64_t l) { return c->queue[l].at < c->queue[l].n; }

static float head_of(const change *c, int64_t l)
{
    return c->candidate[l].score[c->queue[l].order[c->queue[l].at]];
}

/* Of equals the lower matrix. */
static int32_t better(const change *c, int32_t a, int32_t b)
{
    if (a < 0 || b < 0) return a < 0 ? b : a;
    const float x = head_of(c, a), y = head_of(c, b);
    if (x != y) return x > y ? a : b;
    return a < b ? a : b;
}

static void replay(change *c, int64_t l)
{
    int64_t i = c->leaves + l;
    c->winner[i] = has_candidate(c, l) && c->count[l] < c->m[l].most ? (int32_t)l : -1;
    for (i /= 2; i >= 1; i /= 2) c->winner[i] = better(c, c->winner[2 * i], c->winner[2 * i + 1]);
}

static hn_status queue_new(const row *r, queue *q)
{
    hn_status st = HN_OK;
    uint32_t *key = hn_malloc((size_t)r->n * sizeof *key);
    q->order = hn_malloc((size_t)r->n * sizeof *q->order);
    q->n = r->n;
    if (key == NULL || q->order == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to order %" PRId64 " candidates", r->n);
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) key[i] = ~hn_float_key(r->score[i]);
    if (st == HN_OK) st = hn_order_by_key(key, r->n, q->order);
    hn_free(key);
    return st;
}

static void change_free(change *c)
{
    for (int64_t l = 0; c->queue != NULL && l < c->n; l++) hn_free(c->queue[l].order);
    hn_free(c->queue);
    hn_free(c->count);
    hn_free(c->winner);
    rows_free(c->candidate, c->n);
    rows_free(c->old, c->n);
}

static hn_status change_new(const hn_active_list *active, const hn_score_list *candidates,
                            change *c)
{
    const int64_t n = c->n;
    for (c->leaves = 1; c->leaves < n;) c->leaves *= 2;
    HN_TRY(read_active(c->m, n, active, true, &c->old));
    c->candidate = rows_new(n);
    c->queue = hn_calloc((size_t)n, sizeof *c->queue);
    c->count = hn_calloc((size_t)n, sizeof *c->count);
    c->winner = hn_malloc(2 * (size_t)c->leaves * sizeof *c->winner);
    if (c->candidate == NULL || c->queue == NULL || c->count == NULL || c->winner == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", n);
    for (int64_t i = 0; i < 2 * c->leaves; i++) c->winner[i] = -1;
    for (int64_t l = 0; l < n; l++) {
        HN_TRY(read_scores(&c->m[l], &candidates[l], &active[l], &c->old[l], &c->candidate[l]));
        HN_TRY(queue_new(&c->candidate[l], &c->queue[l]));
        c->count[l] = active[l].n;
        replay(c, l);
    }
    return HN_OK;
}

static bool is_protected(const hn_change_rule *rule, const hn_active_list *a, int32_t place)
{
    const int64_t age = rule->protect < UINT16_MAX ? rule->protect : UINT16_MAX;
    return a->age != NULL && a->age[place] < age;
}

/* An active block that is to go. */
typedef struct {
    int32_t matrix, at; /* place in the row of its matrix */
} leaver;

/* The floor(p n) unprotected blocks of matrices first..first+n_matrices-1 with the least `keep`,
 * behind the leavers that there are. */
static hn_status add_leavers(const change *c, const hn_active_list *active, int64_t first,
                             int64_t n_matrices, leaver *to, int64_t *n_leavers, hn_support *s)
{
    int64_t all = 0, n = 0;
    for (int64_t l = first; l < first + n_matrices; l++) all += c->old[l].n;
    if (all > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " active blocks, at most 2^31 - 1", all);
    hn_status st = HN_OK;
    float *keep = hn_malloc((size_t)all * sizeof *keep);
    leaver *who = hn_malloc((size_t)all * sizeof *who);
    uint8_t *mark = hn_calloc((size_t)all, sizeof *mark);
    if (keep == NULL || who == NULL || mark == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to choose from %" PRId64 " blocks", all);
        goto done;
    }
    for (int64_t l = first; l < first + n_matrices; l++)
        for (int64_t i = 0; i < c->old[l].n; i++) {
            if (is_protected(c->rule, &active[l], c->old[l].place[i])) {
                s->young++;
                continue;
            }
            keep[n] = c->old[l].score[i];
            who[n++] = (leaver){(int32_t)l, (int32_t)i};
        }
    int64_t go = (int64_t)floor(c->rule->rate * (double)all * (1 + 1e-12));
    if (go > n) go = n;
    hn_mark_largest(keep, n, go, 1, mark);
    for (int64_t i = 0; i < n; i++)
        if (mark[i]) to[(*n_leavers)++] = who[i];

done:
    hn_free(keep);
    hn_free(who);
    hn_free(mark);
    return st;
}

/* The least `keep` first. */
static hn_status sort_leavers(const change *c, leaver *who, int64_t n)
{
    hn_status st = HN_OK;
    uint32_t *key = hn_malloc((size_t)n * sizeof *key);
    int32_t *order = hn_malloc((size_t)n * sizeof *order);
    leaver *copy = hn_malloc((size_t)n * sizeof *copy);
    if (key == NULL || order == NULL || copy == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to order %" PRId64 " blocks", n);
        goto done;
    }
    for (int64_t i = 0; i < n; i++) {
        copy[i] = who[i];
        key[i] = ~hn_float_key(c->old[who[i].matrix].score[who[i].at]);
    }
    HN_TRY_GOTO(st, hn_order_by_key(key, n, order), done);
    for (int64_t i = 0; i < n; i++) who[i] = copy[order[i]];

done:
    hn_free(key);
    hn_free(order);
    hn_free(copy);
    return st;
}

/* The matrix whose best candidate may take a place of matrix l; -1: there is none. */
static int32_t best_for(const change *c, int32_t l)
{
    const int32_t own = has_candidate(c, l) ? l : -1;
    if (c->rule->each || c->count[l] <= c->m[l].least) return own;
    return better(c, own, c->winner[1]);
}

/* One meeting; the leaver's mark says that it is gone, the candidate's that it is in. */
static hn_status meet(change *c, const hn_active_list *active, leaver who, hn_support *s)
{
    const int32_t l = who.matrix, from = best_for(c, l);
    const int32_t place = c->old[l].place[who.at];
    if (from < 0) {
        s->held++;
        return HN_OK;
    }
    if (c->rule->hysteresis > 0) {
        float mine;
        HN_TRY(weigh(&c->m[l], active[l].id[place], active[l].score[place], c->m[l].weight, &mine));
        if (!((double)head_of(c, from) > c->rule->hysteresis * (double)mine)) {
            s->held++;
            return HN_OK;
        }
    }
    queue *const q = &c->queue[from];
    c->candidate[from].mark[q->order[q->at++]] = 1;
    c->old[l].mark[who.at] = 1;
    c->count[l]--;
    c->count[from]++;
    replay(c, from); /* first: its queue may have ended, and no other leaf is behind its own */
    if (from != l) replay(c, l);
    s->replaced++;
    return HN_OK;
}

/* The old blocks that are not gone and the new ones, by id. */
static hn_status merge(const change *c, int64_t l, const hn_active_list *active,
                       const hn_score_list *scores, hn_support_list *to)
{
    const row *const old = &c->old[l], *const new = &c->candidate[l];
    int64_t i = 0, j = 0, n = 0;
    HN_TRY(list_new(&c->m[l], c->count[l], to));
    for (;;) {
        while (i < old->n && old->mark[i]) i++;
        while (j < new->n && !new->mark[j]) j++;
        if (i == old->n && j == new->n) return HN_OK;
        const int32_t a = i < old->n ? active->id[old->place[i]] : INT32_MAX;
        const int32_t b = j < new->n ? scores->id[new->place[j]] : INT32_MAX;
        to->id[n] = a < b ? a : b;
        to->from[n++] = a < b ? old->place[i++] : -1 - new->place[j++];
    }
}

static hn_status run_change(change *c, const hn_active_list *active,
                            const hn_score_list *candidates, hn_support *s)
{
    int64_t all = 0, n_leavers = 0;
    HN_TRY(change_new(active, candidates, c));
    for (int64_t l = 0; l < c->n; l++) all += active[l].n;
    leaver *who = hn_malloc((size_t)all * sizeof *who);
    if (who == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " blocks", all);
    hn_status st = HN_OK;
    const int64_t step = c->rule->each ? 1 : c->n;
    for (int64_t l = 0; l < c->n && st == HN_OK; l += step)
        st = add_leavers(c, active, l, step, who, &n_leavers, s);
    if (st == HN_OK) st = sort_leavers(c, who, n_leavers);
    for (int64_t i = 0; i < n_leavers && st == HN_OK; i++) st = meet(c, active, who[i], s);
    hn_free(who);
    for (int64_t l = 0; l < c->n && st == HN_OK; l++) {
        st = merge(c, l, &active[l], &candidates[l], &s->list[l]);
        s->blocks += s->list[l].n;
    }
    return st;
}

hn_status hn_select_change(const hn_select_matrix *m, int64_t n, const hn_active_list *active,
                           const hn_score_list *candidates, const hn_change_rule *rule,
                           hn_support *out)
{
    change c = {.m = m, .n = n, .rule = rule};
    hn_support s = {0};
    if (!(rule->rate >= 0 && rule->rate <= 1) || !(rule->hysteresis >= 0) || rule->protect < 0)
        return HN_FAIL(HN_ERR_ARG, "reselection: rate %g, hysteresis %g, protection %" PRId64,
                       rule->rate, rule->hysteresis, rule->protect);
    for (int64_t l = 0; l < n && rule->hysteresis > 0; l++)
        if (active[l].n > 0 && active[l].score == NULL)
            return HN_FAIL(HN_ERR_ARG, "%s: hysteresis needs the scores of the active blocks",
                           m[l].name);
    HN_TRY(support_new(n, &s));
    const hn_status st = run_change(&c, active, candidates, &s);
    change_free(&c);
    if (st == HN_OK) {
        hn_support_free(out);
        *out = s;
    } else {
        hn_support_free(&s);
    }
    return st;
}

/* ---- moments ---- */

uint16_t hn_select_moments(const float *sum, const float *square, int64_t n, int64_t steps,
                           double beta1, double beta2, float *m, float *v)
{
    const double f1 = steps > 0 ? (1 - pow(beta1, (double)steps)) / (double)steps : 0;
    const double f2 = steps > 0 ? (1 - pow(beta2, (double)steps)) / (double)steps : 0;
    for (int64_t i = 0; i < n; i++) {
        m[i] = (float)(f1 * (double)sum[i]);
        v[i] = (float)(f2 * (double)square[i]);
    }
    return (uint16_t)(steps < UINT16_MAX ? steps : UINT16_MAX);
}
