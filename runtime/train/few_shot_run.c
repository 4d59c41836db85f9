/* A group of episodes from start to end. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/label.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/few_shot_head.h"
#include "runtime/train/few_shot_tune_impl.h"

/* ---- tasks ---- */

static hn_status check_task(const hn_few_shot_tuner *t, const hn_few_shot_task *task)
{
    const hn_episode *e = task->episode;
    const bool queries = t->eval != NULL;
    if (e->n_support < 1 || e->n_support > t->o.support || e->way > t->o.ways ||
        (queries && (e->n_query < 0 || e->n_query > t->o.queries)))
        return HN_FAIL(HN_ERR_ARG,
                       "episode %" PRId64 ": %" PRId32 " ways, %" PRId32 " support and %" PRId32
                       " query images; there is room for %" PRId64 ", %" PRId64 " and %" PRId64,
                       e->number, e->way, e->n_support, e->n_query, t->o.ways, t->o.support,
                       t->o.queries);
    if (!(task->lr >= 0) || isinf(task->lr))
        return HN_FAIL(HN_ERR_ARG, "episode %" PRId64 ": a learning rate of %g", e->number,
                       task->lr);
    if (task->theta != NULL && t->theta.count == 0)
        return HN_FAIL(HN_ERR_ARG, "episode %" PRId64 ": a theta, but the set has none", e->number);
    return HN_OK;
}

static bool takes_steps(const hn_few_shot_tuner *t, int64_t g)
{
    return t->tune != NULL && t->slot[g].task->lr > 0;
}

static bool any_steps(const hn_few_shot_tuner *t, int64_t n)
{
    for (int64_t g = 0; g < n; g++)
        if (takes_steps(t, g)) return true;
    return false;
}

/* ---- micro-batches ---- */

static void put_rows(const int32_t *image, const int32_t *label, int64_t n, int64_t rows,
                     int32_t *index, int32_t *to)
{
    for (int64_t i = 0; i < rows; i++) {
        index[i] = i < n ? image[i] : -1;
        to[i] = i < n && image[i] >= 0 ? label[i] : HN_LABEL_IGNORED;
    }
}

/* Support rows of n episodes, and query rows behind those of each where `queries` is not 0; the
 * rest is padding. */
static hn_status put_batch(const hn_few_shot_tuner *t, hn_engine *e, int64_t n, int64_t queries)
{
    const int64_t support = t->o.support, rows = support + queries;
    hn_engine_input in;
    HN_TRY(hn_engine_batch(e, &in));
    const hn_few_shot_batch b = hn_few_shot_batch_of(&in);
    for (int64_t g = 0; g < t->o.at_once; g++) {
        const hn_episode *ep = g < n ? t->slot[g].task->episode : NULL;
        int32_t *const index = b.index + g * rows, *const label = b.label + g * rows;
        put_rows(ep ? ep->support : NULL, ep ? ep->support_label : NULL, ep ? ep->n_support : 0,
                 support, index, label);
        put_rows(ep ? ep->query : NULL, ep ? ep->query_label : NULL, ep ? ep->n_query : 0, queries,
                 index + support, label + support);
    }
    return HN_OK;
}

static hn_status evaluate(hn_few_shot_tuner *t, hn_engine *e, int64_t n, int64_t queries,
                          hn_eval_sums *out)
{
    HN_TRY(hn_engine_eval_begin(e));
    HN_TRY(put_batch(t, e, n, queries));
    HN_TRY(hn_engine_eval_batch(e));
    return hn_engine_eval_sums(e, out);
}

/* ---- steps ---- */

/* Takes what is there, and waits where more than `most` are outstanding. */
static hn_status take_reports(hn_few_shot_tuner *t, int64_t n, int64_t *outstanding, int64_t most)
{
    for (;;) {
        bool there;
        HN_TRY(hn_engine_report(t->tune, *outstanding > most, &there, t->report));
        if (!there) return HN_OK;
        --*outstanding;
        for (int64_t g = 0; g < n; g++)
            t->slot[g].skipped += takes_steps(t, g) && t->report[g].skipped != HN_STEP_DONE;
    }
}

static hn_status steps(hn_few_shot_tuner *t, int64_t n)
{
    const int64_t every = t->o.knot_every;
    int64_t outstanding = 0;
    for (int64_t g = 0; g < t->o.at_once; g++)
        t->how[g] = (hn_replica_step){.seed = g < n ? t->slot[g].task->seed : 0,
                                      .lr_scale = g < n ? t->slot[g].task->lr : 0,
                                      .frozen = g >= n || !takes_steps(t, g)};
    hn_engine_set_replicas(t->tune, t->how);
    for (int64_t k = 0; k < t->o.steps; k++) {
        hn_few_shot_tuner_at(t, t->phase, t->number);
        HN_TRY(put_batch(t, t->tune, n, 0));
        HN_TRY(hn_engine_step(t->tune, k, 1, NULL));
        outstanding++;
        if (every > 0 && (k + 1) % every == 0) HN_TRY(hn_few_shot_values_knot(t, (k + 1) / every));
        HN_TRY(take_reports(t, n, &outstanding, HN_ENGINE_AHEAD - 1));
    }
    return take_reports(t, n, &outstanding, 0);
}

static hn_status tune(hn_few_shot_tuner *t, int64_t n)
{
    HN_TRY(hn_few_shot_values_start(t, t->tune, n));
    if (t->o.knot_every > 0) HN_TRY(hn_few_shot_values_knot(t, 0));
    HN_TRY(evaluate(t, t->tune, n, 0, t->first));
    HN_TRY(steps(t, n));
    return evaluate(t, t->tune, n, 0, t->last); /* waits: knots have arrived */
}

/* ---- queries ---- */

static hn_status read_predictions(hn_few_shot_tuner *t)
{
    const size_t n = (size_t)(t->o.at_once * t->o.queries);
    return hn_tensor_read(t->eval_job.prediction, 0, t->prediction, n * sizeof *t->prediction);
}

/* Of episode g, on its features: predictions and support losses. */
static hn_status tune_head(hn_few_shot_tuner *t, int64_t g, double *first, double *last)
{
    const hn_few_shot_task *task = t->slot[g].task;
    const hn_episode *e = task->episode;
    const int64_t rows = t->o.support + t->o.queries;
    const int64_t width = hn_vision_width(&t->o.model->vision);
    for (int64_t i = 0; i < t->o.support; i++)
        t->label[i] = i < e->n_support ? e->support_label[i] : HN_LABEL_IGNORED;
    hn_few_shot_head h = {.feature = t->feature + g * rows * width,
                          .label = t->label,
                          .prediction = t->prediction + g * t->o.queries,
                          .support = t->o.support,
                          .queries = t->o.queries,
                          .width = width,
                          .ways = t->o.ways,
                          .steps = task->lr > 0 ? t->o.steps : 0,
                          .lr = task->lr,
                          .scale = t->o.scale,
                          .offset = t->o.offset};
    HN_TRY(hn_few_shot_head_tune(&h));
    *first = h.loss_first;
    *last = h.loss_last;
    return HN_OK;
}

static void count_hits(hn_few_shot_tuner *t, int64_t g)
{
    const hn_episode *e = t->slot[g].task->episode;
    t->sums[g].rows = t->sums[g].hits = 0;
    for (int64_t i = 0; i < e->n_query; i++) {
        if (e->query_label[i] < 0) continue;
        t->sums[g].rows++;
        t->sums[g].hits += t->prediction[g * t->o.queries + i] == e->query_label[i];
    }
}

static hn_status answer(hn_few_shot_tuner *t, int64_t n, bool tuned)
{
    if (tuned)
        HN_TRY(hn_few_shot_values_pass(t));
    else
        HN_TRY(hn_few_shot_values_start(t, t->eval, n));
    HN_TRY(evaluate(t, t->eval, n, t->o.queries, t->sums));
    HN_TRY(read_predictions(t));
    return t->feature ? hn_tensor_get(t->eval_job.features, t->feature) : HN_OK;
}

/* ---- results ---- */

static hn_status give(hn_few_shot_tuner *t, int64_t g, bool tuned, int64_t i, hn_few_shot_take take,
                      void *context)
{
    hn_few_shot_result r = {.loss_first = NAN, .loss_last = NAN, .skipped = t->slot[g].skipped};
    if (tuned) {
        r.loss_first = t->first[g].loss / (double)t->first[g].rows;
        r.loss_last = t->last[g].loss / (double)t->last[g].rows;
        r.knot = hn_few_shot_values_knots(t, g);
    }
    if (t->feature) {
        HN_TRY(tune_head(t, g, &r.loss_first, &r.loss_last));
        count_hits(t, g);
    }
    if (t->eval) {
        r.queries = t->sums[g].rows;
        r.hits = t->sums[g].hits;
        r.prediction = t->prediction + g * t->o.queries;
    }
    return take(context, i, &r);
}

static hn_status run_group(hn_few_shot_tuner *t, const hn_few_shot_task *task, int64_t n,
                           int64_t first, hn_few_shot_take take, void *context)
{
    if (t->o.stop && t->o.stop() != 0)
        return HN_FAIL(HN_ERR_STOPPED, "asked to stop in front of task %" PRId64, first);
    for (int64_t g = 0; g < n; g++) t->slot[g] = (hn_few_shot_slot){.task = &task[g]};
    const bool tuned = any_steps(t, n);
    if (tuned) HN_TRY(tune(t, n));
    if (t->eval) HN_TRY(answer(t, n, tuned));
    for (int64_t g = 0; g < n; g++) HN_TRY(give(t, g, tuned, first + g, take, context));
    return HN_OK;
}

/* So many of the tasks go together: those that take steps are not mixed with those that take none.
 */
static int64_t group_of(const hn_few_shot_tuner *t, const hn_few_shot_task *task, int64_t n)
{
    int64_t k = 1;
    while (k < n && k < t->o.at_once && (task[k].lr > 0) == (task[0].lr > 0)) k++;
    return k;
}

hn_status hn_few_shot_tune_part(hn_few_shot_tuner *t, const hn_few_shot_task *task, int64_t n,
                                int rank, int ranks, hn_few_shot_take take, void *context)
{
    hn_status st = HN_OK;
    for (int64_t i = 0; i < n; i++) HN_TRY(check_task(t, &task[i]));
    for (int64_t i = 0, k, group = 0; i < n && st == HN_OK; i += k, group++) {
        k = group_of(t, task + i, n - i);
        hn_few_shot_tuner_at(t, t->phase, t->number);
        if (group % ranks == rank) st = run_group(t, task + i, k, i, take, context);
    }
    /* What is on its way would meet the values of the next call. */
    if (st != HN_OK) (void)!hn_device_wait(hn_few_shot_device(t));
    return st;
}

hn_status hn_few_shot_tune(hn_few_shot_tuner *t, const hn_few_shot_task *task, int64_t n,
                           hn_few_shot_take take, void *context)
{
    return hn_few_shot_tune_part(t, task, n, 0, 1, take, context);
}
