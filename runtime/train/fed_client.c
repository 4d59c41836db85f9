#include "runtime/train/fed_client.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/fed_sparse.h"

struct hn_fed_client {
    hn_fed_sim_options o;
    const hn_images *eval;
    bool stream_train, stream_eval;
    hn_classifier_job job;
    hn_engine *engine;
    hn_fed_sparse *blocks;     /* NULL: none travel */
    int64_t n_dense, n_values; /* without changes of blocks; in all */
    int32_t *image;            /* [batch] of the micro-batch that is made */
    /* The task that is under way. */
    hn_fed_task task;
    hn_fed_loss loss;
    int64_t step, begun; /* steps that are enqueued; when it began */
    /* Held-out images. */
    int32_t *prediction; /* host memory for whole batches of them */
    int64_t *class_rows, *class_hits;
    char *part; /* [HN_FED_EVAL_PARTS] records */
};

static hn_device *device_of(const hn_fed_client *c)
{
    return hn_program_device(hn_engine_program(c->engine));
}

void hn_fed_client_free(hn_fed_client *c)
{
    if (c == NULL) return;
    hn_fed_sparse_free(c->blocks);
    if (c->prediction) {
        (void)!hn_device_wait(device_of(c)); /* nothing may be on its way */
        hn_device_release_host(device_of(c), c->prediction);
    }
    hn_engine_free(c->engine);
    hn_free(c->image);
    hn_free(c->class_rows);
    hn_free(c->class_hits);
    hn_free(c->part);
    hn_free(c);
}

/* ---- opening ---- */

static hn_status check(const hn_fed_client *c)
{
    const hn_images *sets[] = {c->o.images, c->eval};
    if (sets[0] == NULL && sets[1] == NULL)
        return HN_FAIL(HN_ERR_ARG, "a client without images to train on or to be evaluated on");
    for (int i = 0; i < 2; i++)
        if (sets[i]) HN_TRY(hn_fed_check_images(&c->o, sets[i]));
    return sets[0] ? hn_fed_check_padding(&c->o) : HN_OK;
}

static hn_status open_engine(hn_fed_client *c)
{
    const hn_fed_local *l = &c->o.local;
    const hn_classifier_options co = {.config = &c->o.model->vision,
                                      .batch = l->batch,
                                      .train = c->o.images,
                                      .eval = c->eval,
                                      .stream_train = c->stream_train,
                                      .stream_eval = c->stream_eval,
                                      .augment = l->augment,
                                      .smoothing = l->smoothing,
                                      .frozen_norm = l->frozen_norm,
                                      .dtype = c->o.model->dtype,
                                      .predictions = c->eval != NULL};
    hn_classifier_job_init(&c->job, &co);
    hn_sparse_options room = {0};
    if (l->support) room = hn_fed_sparse_room(l->support);
    const hn_engine_options o = {.device = c->o.device,
                                 .executor = c->o.executor,
                                 .job = &c->job.job,
                                 .adapt = c->o.adapt,
                                 .dtype = c->o.model->dtype,
                                 .train = c->o.images != NULL,
                                 .eval = c->eval != NULL,
                                 .recompute = HN_RECOMPUTE_AUTO,
                                 .optimizer = l->optimizer,
                                 .anchor = {.weight = c->o.images ? l->mu : 0},
                                 .sparse = room,
                                 .seed = c->o.seed};
    return hn_engine_new(&o, &c->engine);
}

static hn_status make_tables(hn_fed_client *c)
{
    const hn_images *s = c->eval;
    const int64_t batches = hn_fed_epoch_steps(&c->o.local, s->count);
    const size_t classes = (size_t)c->o.model->vision.classes;
    const size_t bytes = (size_t)(batches * c->o.local.batch) * sizeof *c->prediction;
    c->class_rows = hn_calloc(classes, sizeof *c->class_rows);
    c->class_hits = hn_calloc(classes, sizeof *c->class_hits);
    c->part = hn_calloc(HN_FED_EVAL_PARTS, hn_fed_client_part_bytes(c));
    if (!c->class_rows || !c->class_hits || !c->part)
        return HN_FAIL(HN_ERR_MEMORY, "tables of %zu classes", classes);
    for (int64_t i = 0; i < s->count; i++) c->class_rows[s->label[i]]++;
    return hn_device_alloc_host(device_of(c), bytes, (void **)&c->prediction);
}

static hn_status open(hn_fed_client *c)
{
    HN_TRY(check(c));
    c->stream_train = c->o.images && hn_fed_streams(&c->o, c->o.images);
    c->stream_eval = c->eval && hn_fed_streams(&c->o, c->eval);
    c->image = hn_calloc((size_t)c->o.local.batch, sizeof *c->image);
    if (c->image == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " numbers of images", c->o.local.batch);
    HN_TRY(open_engine(c));
    HN_TRY(hn_engine_allocate(c->engine));
    if (c->eval) HN_TRY(make_tables(c));
    const hn_params *p = hn_engine_params(c->engine);
    const hn_fed_support *support = c->o.local.support;
    c->n_dense = c->n_values = hn_fed_values_count(&c->o.local, p);
    HN_TRY(hn_model_load(c->o.model, p, c->o.seed));
    if (support == NULL) return HN_OK;
    c->n_values += support->values;
    return hn_fed_sparse_new(support, p, &c->blocks);
}

hn_status hn_fed_client_new(const hn_fed_sim_options *o, const hn_images *eval, hn_fed_client **out)
{
    hn_fed_client *c = hn_calloc(1, sizeof *c);
    if (c == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a client", sizeof *c);
    *c = (hn_fed_client){.o = *o, .eval = eval};
    const hn_status st = open(c);
    if (st != HN_OK)
        hn_fed_client_free(c);
    else
        *out = c;
    return st;
}

hn_engine *hn_fed_client_engine(const hn_fed_client *c) { return c->engine; }
int64_t hn_fed_client_values(const hn_fed_client *c) { return c->n_values; }

hn_status hn_fed_client_set(hn_fed_client *c, const float *value)
{
    HN_TRY(hn_fed_values_set(&c->o.local, hn_engine_params(c->engine), value));
    return c->blocks ? hn_fed_sparse_set(c->blocks, value + c->n_dense) : HN_OK;
}

hn_status hn_fed_client_get(const hn_fed_client *c, float *value)
{
    HN_TRY(hn_fed_values_get(&c->o.local, hn_engine_params(c->engine), value));
    return c->blocks ? hn_fed_sparse_get(c->blocks, value + c->n_dense) : HN_OK;
}

/* ---- micro-batches ---- */

/* c->image as the engine's next micro-batch. */
static hn_status put_batch(hn_fed_client *c, const hn_images *s, bool stream)
{
    hn_engine_input in;
    HN_TRY(hn_engine_batch(c->engine, &in));
    const hn_classifier_batch b = hn_classifier_batch_of(&c->job, &in);
    hn_fed_put_rows(s, stream, c->image, 0, c->o.local.batch, &b);
    return HN_OK;
}

/* ---- training ---- */

static hn_status check_task(const hn_fed_client *c, const hn_fed_task *t)
{
    if (c->o.images == NULL)
        return HN_FAIL(HN_ERR_ARG, "client %" PRId64 ": made to evaluate only", t->client);
    return hn_fed_check_task(&c->o, t);
}

/* Takes what is there, and waits where more than `most` of the enqueued steps are outstanding. */
static hn_status take_reports(hn_fed_client *c, int64_t most)
{
    for (;;) {
        bool there;
        hn_step_report r;
        HN_TRY(hn_engine_report(c->engine, c->step - c->loss.taken > most, &there, &r));
        if (!there) return HN_OK;
        hn_fed_loss_add(&c->loss, &r);
    }
}

hn_status hn_fed_client_begin(hn_fed_client *c, const hn_fed_task *t)
{
    c->begun = hn_clock_ns();
    c->step = 0;
    c->task = (hn_fed_task){0};
    HN_TRY(check_task(c, t));
    c->loss = hn_fed_loss_begin(&c->o.local, t);
    HN_TRY(hn_engine_restart(c->engine, t->seed));
    c->task = *t;
    return HN_OK;
}

hn_status hn_fed_client_advance(hn_fed_client *c, bool wait, hn_fed_progress *out)
{
    const bool steps = c->step < c->task.steps;
    if (steps) {
        (void)hn_fed_rows(&c->o.local, &c->task, c->step, c->image);
        HN_TRY(put_batch(c, c->o.images, c->stream_train));
        HN_TRY(hn_engine_step(c->engine, c->step, c->task.lr, NULL));
        c->step++;
        HN_TRY(take_reports(c, HN_ENGINE_AHEAD - 1));
    } else {
        HN_TRY(take_reports(c, wait ? 0 : c->step));
    }
    *out = steps ? HN_FED_STEPPED : c->loss.taken < c->task.steps ? HN_FED_WAITS : HN_FED_DONE;
    return HN_OK;
}

void hn_fed_client_end(const hn_fed_client *c, hn_fed_trained *out)
{
    *out = (hn_fed_trained){.loss = hn_fed_loss_mean(&c->loss),
                            .seconds = (double)(hn_clock_ns() - c->begun) * 1e-9};
}

hn_status hn_fed_client_train(hn_fed_client *c, const hn_fed_task *t, hn_fed_trained *out)
{
    hn_fed_progress p = HN_FED_WAITS;
    HN_TRY(hn_fed_client_begin(c, t));
    while (p != HN_FED_DONE) HN_TRY(hn_fed_client_advance(c, true, &p));
    hn_fed_client_end(c, out);
    return HN_OK;
}

/* ---- evaluation ---- */

/* The record of a part: the loss is a sum over its images. */
typedef struct {
    double loss;
    int64_t class_hits[]; /* [classes] */
} eval_part;

size_t hn_fed_client_part_bytes(const hn_fed_client *c)
{
    return sizeof(eval_part) + (size_t)c->o.model->vision.classes * sizeof(int64_t);
}

static int64_t eval_batches(const hn_fed_client *c)
{
    return hn_fed_epoch_steps(&c->o.local, c->eval->count);
}

int64_t hn_fed_client_parts(const hn_fed_client *c)
{
    if (c->eval == NULL) return 0;
    const int64_t batches = eval_batches(c);
    return batches < HN_FED_EVAL_PARTS ? batches : HN_FED_EVAL_PARTS;
}

/* The first image of a part; of the part behind the last: of none. */
static int64_t part_begin(const hn_fed_client *c, int64_t part)
{
    const int64_t batch = c->o.local.batch, n = c->eval->count;
    const int64_t at = eval_batches(c) * part / hn_fed_client_parts(c) * batch;
    return at < n ? at : n;
}

/* Images from first on, in order; the predictions of a batch are on their way while the next one is
 * made, and all is waited for once. */
static hn_status run_eval(hn_fed_client *c, int64_t first, int64_t end, hn_eval_sums *sums)
{
    const int64_t batch = c->o.local.batch;
    const size_t bytes = (size_t)batch * sizeof *c->prediction;
    HN_TRY(hn_engine_eval_begin(c->engine));
    for (int64_t at = first; at < end; at += batch) {
        for (int64_t i = 0; i < batch; i++) c->image[i] = at + i < end ? (int32_t)(at + i) : -1;
        HN_TRY(put_batch(c, c->eval, c->stream_eval));
        HN_TRY(hn_engine_eval_batch(c->engine));
        HN_TRY(hn_device_fetch(device_of(c), c->prediction + at, c->job.prediction->data, bytes));
    }
    return hn_engine_eval_sums(c->engine, sums); /* behind all of them */
}

hn_status hn_fed_client_measure(hn_fed_client *c, int64_t part, void *record)
{
    hn_eval_sums sums;
    eval_part *const to = record;
    const hn_images *set = c->eval;
    if (part < 0 || part >= hn_fed_client_parts(c))
        return HN_FAIL(HN_ERR_ARG, "part %" PRId64 " of an evaluation in %" PRId64, part,
                       hn_fed_client_parts(c));
    const int64_t first = part_begin(c, part), end = part_begin(c, part + 1);
    HN_TRY(run_eval(c, first, end, &sums));
    memset(to, 0, hn_fed_client_part_bytes(c));
    to->loss = sums.loss;
    for (int64_t i = first; i < end; i++)
        to->class_hits[set->label[i]] += c->prediction[i] == set->label[i];
    return HN_OK;
}

void hn_fed_client_score(hn_fed_client *c, const void *record, hn_fed_scores *out)
{
    hn_fed_scores s = {
        .rows = c->eval->count, .class_rows = c->class_rows, .class_hits = c->class_hits};
    const int64_t classes = c->o.model->vision.classes, parts = hn_fed_client_parts(c);
    const size_t bytes = hn_fed_client_part_bytes(c);
    double loss = 0;
    memset(c->class_hits, 0, (size_t)classes * sizeof *c->class_hits);
    for (int64_t p = 0; p < parts; p++) {
        const eval_part *from = (const eval_part *)((const char *)record + (size_t)p * bytes);
        loss += from->loss;
        for (int64_t k = 0; k < classes; k++) c->class_hits[k] += from->class_hits[k];
    }
    for (int64_t k = 0; k < classes; k++) s.hits += c->class_hits[k];
    s.accuracy = s.rows > 0 ? (double)s.hits / (double)s.rows : NAN;
    s.loss = s.rows > 0 ? loss / (double)s.rows : NAN;
    *out = s;
}

hn_status hn_fed_client_evaluate(hn_fed_client *c, hn_fed_scores *out)
{
    const size_t bytes = hn_fed_client_part_bytes(c);
    if (c->eval == NULL)
        return HN_FAIL(HN_ERR_ARG, "evaluation of a client without held-out images");
    for (int64_t p = 0; p < hn_fed_client_parts(c); p++)
        HN_TRY(hn_fed_client_measure(c, p, c->part + (size_t)p * bytes));
    hn_fed_client_score(c, c->part, out);
    return HN_OK;
}
