/* sparse_select.h - which blocks of which matrices are trained: budget, schedule, selection.
 *
 * Pure functions on host arrays: the same choice on a run of the CPU and of a GPU. The design is
 * section 6 of spec/sparse.md (budget and ranking 6.2, drop 6.3, schedule 6.4, moments 6.5).
 * Scores come from the device (block_score, window_add) or from sparse_score.h.
 *
 * Use, for n matrices with `name`, `out`, `in`, `shape` and `weight` filled in:
 *
 *   hn_budget_parse("lora:16", &rule.budget);
 *   hn_select_budget(m, n, &rule, &k);            share, least, most of each; k blocks in all
 *   for (batch = 0; batch < schedule.first; batch++)  hn_select_before(&schedule, batch)
 *       phase SCORE: sum up f of every block;  before the first WINDOW batch:
 *       hn_select_candidates(m, n, f, NULL, 2, NULL, &pool);   WINDOW: sum up the pool's gradients
 *   hn_select_fill(m, n, scores of the pool, NULL, k, &support);
 *   step t of the run:  hn_select_at(&schedule, t)   the same two phases inside training steps; at
 *       `change`, behind the update:  hn_select_change(m, n, active, pool, &rule, &support);
 *
 * Order      matrices as given; the ids of a list in any order (that of the pool is by tile); the
 *            ids of a result ascend. Of equal scores the lower (matrix, id) wins.
 * Scores     finite; multiplied by the weight of their matrix, in fp64, and rounded to fp32.
 * Cost       linear in the number of blocks (radix selection and sort); one thread.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE naming the matrix; HN_ERR_NUMERIC for a score that is not
 *            finite; HN_ERR_MEMORY. Results change only on success.
 */
#ifndef HN_SPARSE_SELECT_H
#define HN_SPARSE_SELECT_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/sparse/sparse_pool.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name;
    int64_t out, in;
    hn_block_shape shape;
    double weight; /* w(type): its scores are multiplied by it; above 0 */
    /* out of hn_select_budget */
    int64_t blocks; /* there are */
    int64_t share;  /* blocks by size alone */
    int64_t least, most;
} hn_select_matrix;

/* ---- budget (sparse_budget.c) ---- */

typedef enum {
    HN_BUDGET_DENSITY, /* share of all values of the matrices, in (0, 1] */
    HN_BUDGET_VALUES,
    HN_BUDGET_BLOCKS,
    HN_BUDGET_LORA /* as many values as low-rank pairs of that rank on the matrices have */
} hn_budget_kind;

typedef struct {
    hn_budget_kind kind;
    double amount;
} hn_budget;

/* "0.01", "1%", "lora:16", "values:1e6" or "blocks:4096". Errors: HN_ERR_ARG, also for nothing. */
HN_NODISCARD hn_status hn_budget_parse(const char *text, hn_budget *out);

typedef enum {
    HN_SHARE_SIZE, /* in proportion to out * in */
    HN_SHARE_LORA  /* to out + in, as low-rank pairs of one rank (LIFT, SHiRA) */
} hn_share_rule;

typedef struct {
    hn_budget budget;
    hn_share_rule share;
    bool each;      /* every matrix has exactly its share */
    double floor;   /* else least and most are these multiples of the share: 0.25 */
    double ceiling; /* and 4; 0: no ceiling */
} hn_budget_rule;

/* Shares the budget out. A share that its matrix cannot hold goes to the others in proportion
 * (water-filling); fractions of blocks by largest remainder, so that with blocks of one size
 *   k = floor(values / (br bc)) = sum of share
 * exactly. least <= share <= most <= blocks; most is what the pool must be able to hold of a
 * matrix (its capacity).
 * Errors  HN_ERR_ARG: a budget of less than one block or of more than there is; blocks of several
 *         sizes without `each`. HN_ERR_SHAPE: hn_block_shape_check */
HN_NODISCARD hn_status hn_select_budget(hn_select_matrix *m, int64_t n, const hn_budget_rule *rule,
                                        int64_t *k);

/* w(type) of a matrix by its name: "uniform": 1; "vodu": 0.25 for a query or key projection, else
 * 1 (spec 6.2; fused projections count as 1). Errors: HN_ERR_ARG for another scheme */
HN_NODISCARD hn_status hn_select_weight(const char *scheme, const char *name, double *out);

/* ---- schedule (sparse_schedule.c) ---- */

typedef enum { HN_DECAY_COSINE, HN_DECAY_LINEAR, HN_DECAY_CONSTANT } hn_rate_decay;

/* Steps are counted from 0; a reselection "at t" takes place behind the update of step t - 1, and
 * the `window` steps before t gather for it. */
typedef struct {
    int64_t steps;      /* T */
    bool fixed;         /* selection 0 only ("static") */
    int64_t first;      /* A_0: batches of selection 0, without updates; 0: it needs no gradients */
    int64_t every;      /* S; 0: max(100, T / 10) */
    int64_t start;      /* the first reselection; 0: at S */
    int64_t window;     /* A; 0: reselections need no gradients (random, LIFT) */
    double score_share; /* of a window's steps, rounded up, are phase SCORE: 0.5. 0: every block is
                         * a candidate; 1: block scores alone decide */
    double until;       /* the last reselection is at t <= until T: 0.7 */
    double rate;        /* p0: 0.2 */
    double first_rate;  /* p of the first reselection; 0: as the others */
    hn_rate_decay decay; /* cosine p0 (1 + cos(pi t / (until T))) / 2; linear p0 (1 - t / (until
                          * T)); constant p0 */
} hn_select_schedule;

typedef enum { HN_SELECT_NONE, HN_SELECT_SCORE, HN_SELECT_WINDOW } hn_select_phase;

typedef struct {
    hn_select_phase phase; /* what this step or batch gathers */
    bool first;            /* the first one of its phase: clear the sums; of WINDOW: choose the
                            * candidates before it */
    int64_t gathered;      /* steps of this phase behind it, this one included */
    bool change;           /* reselect behind this step's update (selection 0: behind this batch) */
    double rate;           /* p, where change is set */
} hn_select_step;

/* Errors: HN_ERR_ARG naming the value that is out of range, or a window longer than S. */
HN_NODISCARD hn_status hn_select_schedule_check(const hn_select_schedule *s);
int64_t hn_select_interval(const hn_select_schedule *s); /* S */
/* Batch 0..first-1 of selection 0; step 0..steps-1. */
hn_select_step hn_select_before(const hn_select_schedule *s, int64_t batch);
hn_select_step hn_select_at(const hn_select_schedule *s, int64_t step);

/* ---- selection (sparse_select.c) ---- */

/* Blocks of one matrix. */
typedef struct {
    const int32_t *id;  /* [n] each once */
    const float *score; /* [n] */
    int64_t n;
} hn_score_list;

/* The blocks of one matrix that are trained now. */
typedef struct {
    const int32_t *id;   /* [n] each once */
    const float *keep;   /* [n] d_B: the smallest go first */
    const float *score;  /* [n] in the units of the candidates' scores; NULL without hysteresis */
    const uint16_t *age; /* [n] updates; NULL: nobody is protected */
    int64_t n;
} hn_active_list;

/* The result for one matrix. */
typedef struct {
    int32_t *id; /* [n] ascending */
    int32_t
        *from; /* [n] i >= 0: it was block i of the active list; -1 - i: block i of the scores */
    int64_t n;
} hn_support_list;

/* Zero before the first use. */
typedef struct {
    hn_support_list *list; /* [n] */
    int64_t n, blocks;     /* matrices; blocks of all */
    int64_t replaced;      /* hn_select_change: blocks that others have replaced */
    int64_t held;          /* that were to go, but no candidate beat them */
    int64_t young;         /* too young */
} hn_support;

void hn_support_free(hn_support *s); /* accepts an empty one */

/* The k best blocks with least <= n_l <= most in every matrix, those of the highest sum of scores.
 * active  NULL, or where survivors come from: `from` says it (LIFT: the whole support anew)
 * Errors  HN_ERR_ARG also where the lists hold too few blocks for k or for a matrix's least */
HN_NODISCARD hn_status hn_select_fill(const hn_select_matrix *m, int64_t n,
                                      const hn_score_list *scores, const hn_active_list *active,
                                      int64_t k, hn_support *out);

/* Candidates: the factor * k best with factor * least and factor * most (k the sum of shares), or
 * as many as there are; blocks of `active` (NULL: none) are left out.
 * room    NULL, or [n]: and at most so many of a matrix */
HN_NODISCARD hn_status hn_select_candidates(const hn_select_matrix *m, int64_t n,
                                            const hn_score_list *scores,
                                            const hn_active_list *active, int64_t factor,
                                            const int64_t *room, hn_support *out);

typedef struct {
    double rate;       /* p: floor(p blocks) are to go, those with the least `keep` */
    bool each;         /* floor(p n_l) of every matrix, replaced in the same one */
    double hysteresis; /* h: the newcomer's score is above h times the old one's; 0: always */
    int64_t protect; /* blocks of fewer updates stay (S; at most 65535, where ages end); 0: none */
} hn_change_rule;

/* Drop and grow. Blocks that are to go, least `keep` first, meet the best candidate that the
 * bounds allow: its own matrix's, or another's where that one is below most and its own above
 * least. Whoever is not beaten stays, and the candidate meets the next. Candidates that are active
 * are left out. Every count stays as it was in sum. */
HN_NODISCARD hn_status hn_select_change(const hn_select_matrix *m, int64_t n,
                                        const hn_active_list *active,
                                        const hn_score_list *candidates, const hn_change_rule *rule,
                                        hn_support *out);

/* Moments of a new block from the sums over `steps` whole-batch gradients (spec 6.5):
 *   m = sum / steps (1 - beta1^steps)    v = square / steps (1 - beta2^steps)    age = steps
 * n values; m, v  out, may be sum and square. Returns the age, at most 65535; steps 0: zeros. */
uint16_t hn_select_moments(const float *sum, const float *square, int64_t n, int64_t steps,
                           double beta1, double beta2, float *m, float *v);

#ifdef __cplusplus
}
#endif
#endif
