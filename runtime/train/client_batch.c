/* Clients of a group are replicas of one engine.
 *
 * While a group trains the results of the one before are handed over. Behind its last step they
 * are copied on the device, out of the way of the next one (the stage); from there they come to the
 * host part by part, beside the steps, and a part that has come is handed over between two steps:
 * the device has others to do meanwhile. The last group of a round has nobody to make way for. */
#include "runtime/train/client_batch.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/convert.h"
#include "runtime/graph/tensor.h"

enum {
    BUFFERS = 2,  /* results on their way: some come while those before are taken */
    BLOCK = 4096, /* values that a thread puts in order at a time */
    CHOSEN = 16   /* steps whose rows are chosen at a time */
};

/* A client of the group. */
typedef struct {
    const hn_fed_task *task;
    hn_fed_loss loss;
} client;

/* Results of a group on their way. Part k is that of its tasks k together .. (k + 1) together - 1.
 */
typedef struct {
    const char *from;              /* on the device, that of task 0: the others lie behind it */
    const hn_fed_task *task;       /* [n] */
    int64_t n, first;              /* the first is that task of the round */
    int64_t parts, fetched, given; /* given <= fetched <= parts */
    double step_s;                 /* seconds of a client's step */
    float *loss;                   /* [at_once] */
} results;

typedef struct {
    hn_fed_sim sim;
    hn_fed_sim_options o;
    bool streams;
    hn_classifier_job job;
    hn_engine *engine;
    client *client;         /* [at_once] */
    hn_replica_step *how;   /* [at_once] */
    hn_step_report *report; /* [at_once] */
    int32_t *image;         /* [CHOSEN][at_once][batch]; padding: -1 */
    int64_t taken;          /* reports of the running group */
    /* Values that travel, and where in a replica's trained values each one lies; -1: it is a
     * buffer, which clients share and do not change. */
    int32_t *place;
    int64_t together;        /* results that come, are put in order and handed over at a time */
    float *value;            /* [together][n_values] */
    hn_fed_trained *trained; /* [together] */
    size_t bytes;            /* of a replica's trained values */
    float *start;            /* host memory for those that a round begins with, */
    hn_bf16 *work;           /* for their working copies; NULL: there are none, */
    float *back[BUFFERS];    /* and for [together] results, one behind the other: part k in */
    hn_device_fence *there[BUFFERS]; /* back[k % BUFFERS], when this has been passed */
    void *stage; /* on the device: [at_once] results; NULL: no round had several groups so far */
    results out;
    /* of the running round */
    const float *global;
    hn_fed_take take;
    void *context;
} batch;

static hn_device *device_of(const batch *b)
{
    return hn_program_device(hn_engine_program(b->engine));
}

/* Nothing is on its way any more. */
static void settle(batch *b)
{
    (void)!hn_device_wait(device_of(b));
    for (int i = 0; i < BUFFERS; i++)
        if (b->there[i]) (void)!hn_device_fence_wait(b->there[i]);
    b->out.parts = b->out.fetched = b->out.given = 0;
}

static void free_memory(batch *b)
{
    hn_device *d = device_of(b);
    settle(b);
    for (int i = 0; i < BUFFERS; i++) {
        hn_device_fence_free(b->there[i]);
        hn_device_release_host(d, b->back[i]);
    }
    hn_device_release_host(d, b->start);
    hn_device_release_host(d, b->work);
    hn_device_release(d, b->stage);
}

static void free_batch(hn_fed_sim *s)
{
    batch *b = (batch *)s;
    if (b->engine) free_memory(b);
    hn_engine_free(b->engine);
    hn_free(b->out.loss);
    hn_free(b->client);
    hn_free(b->how);
    hn_free(b->report);
    hn_free(b->image);
    hn_free(b->place);
    hn_free(b->value);
    hn_free(b->trained);
    hn_free(b);
}

/* ---- opening ---- */

static hn_status open_engine(batch *b)
{
    const hn_fed_local *l = &b->o.local;
    const hn_classifier_options co = {.config = &b->o.model->vision,
                                      .batch = b->o.at_once * l->batch,
                                      .train = b->o.images,
                                      .stream_train = b->streams,
                                      .augment = l->augment,
                                      .smoothing = l->smoothing,
                                      .frozen_norm = l->frozen_norm,
                                      .dtype = b->o.model->dtype};
    hn_classifier_job_init(&b->job, &co);
    const hn_engine_options o = {.device = b->o.device,
                                 .executor = b->o.executor,
                                 .job = &b->job.job,
                                 .adapt = b->o.adapt,
                                 .dtype = b->o.model->dtype,
                                 .train = true,
                                 .replicas = b->o.at_once,
                                 .recompute = HN_RECOMPUTE_AUTO,
                                 .optimizer = l->optimizer,
                                 .anchor = {.weight = l->mu},
                                 .seed = b->o.seed};
    HN_TRY(hn_engine_new(&o, &b->engine));
    HN_TRY(hn_engine_allocate(b->engine));
    return hn_model_load(b->o.model, hn_engine_params(b->engine), b->o.seed);
}

/* Places of the values of q, in the order of files. */
static void place_param(const hn_param *q, const char *begin, int32_t *place)
{
    const int64_t n = hn_param_values(q);
    const int64_t cols = q->master ? hn_type_cols(&q->master->type) : 1;
    const int64_t first = q->master ? ((const char *)q->master->data - begin) / 4 : 0;
    for (int64_t i = 0; i < n; i++)
        place[hn_param_place(q, i)] =
            q->master ? (int32_t)(first + i / cols * hn_type_ld(&q->master->type) + i % cols) : -1;
}

static hn_status open_values(batch *b)
{
    const hn_params *p = hn_engine_params(b->engine);
    const hn_program *program = hn_engine_program(b->engine);
    const char *const begin = hn_program_replica(program, HN_MEM_TRAINED, 0, &b->bytes);
    size_t work;
    b->sim.n_values = hn_fed_values_count(&b->o.local, p);
    if (b->bytes / sizeof(float) > INT32_MAX)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%zu bytes of trained values a client", b->bytes);
    b->place = hn_calloc((size_t)b->sim.n_values, sizeof *b->place);
    b->together = hn_fed_together(&b->o, b->sim.n_values);
    b->value = hn_calloc((size_t)(b->together * b->sim.n_values), sizeof *b->value);
    b->trained = hn_calloc((size_t)b->together, sizeof *b->trained);
    if (b->place == NULL || b->value == NULL || b->trained == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a client", b->sim.n_values);
    for (int64_t i = 0, at = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!hn_fed_travels(&b->o.local, q)) continue;
        place_param(q, begin, b->place + at);
        at += hn_param_values(q);
    }
    for (int i = 0; i < BUFFERS; i++) {
        const size_t all = b->bytes * (size_t)b->together;
        HN_TRY(hn_device_alloc_host(device_of(b), all, (void **)&b->back[i]));
        HN_TRY(hn_device_fence_new(device_of(b), &b->there[i]));
    }
    HN_TRY(hn_device_alloc_host(device_of(b), b->bytes, (void **)&b->start));
    memset(b->start, 0, b->bytes); /* padding is 0 */
    (void)hn_program_replica(program, HN_MEM_WORK, 0, &work);
    return work > 0 ? hn_device_alloc_host(device_of(b), work, (void **)&b->work) : HN_OK;
}

static hn_status open(batch *b)
{
    const size_t n = (size_t)b->o.at_once;
    if (b->o.at_once < 2)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " clients at once as replicas, at least 2",
                       b->o.at_once);
    if (b->o.images == NULL) return HN_FAIL(HN_ERR_ARG, "clients without images to train on");
    HN_TRY(hn_fed_check_dense(&b->o.local, "replicas"));
    HN_TRY(hn_fed_check_images(&b->o, b->o.images));
    HN_TRY(hn_fed_check_padding(&b->o));
    b->streams = hn_fed_streams(&b->o, b->o.images);
    b->client = hn_calloc(n, sizeof *b->client);
    b->how = hn_calloc(n, sizeof *b->how);
    b->report = hn_calloc(n, sizeof *b->report);
    b->image = hn_calloc(CHOSEN * n * (size_t)b->o.local.batch, sizeof *b->image);
    b->out.loss = hn_calloc(n, sizeof *b->out.loss);
    if (!b->client || !b->how || !b->report || !b->image || !b->out.loss)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %zu clients at once", n);
    HN_TRY(open_engine(b));
    return open_values(b);
}

/* ---- values to the device ---- */

/* For all groups of a round: buffers, which all clients share, and what replica 0 begins with. */
static hn_status begin_round(batch *b)
{
    const hn_params *p = hn_engine_params(b->engine);
    size_t bytes;
    for (int64_t i = 0, at = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!hn_fed_travels(&b->o.local, q)) continue;
        if (q->buffer) HN_TRY(hn_param_set(q, b->global + at));
        at += hn_param_values(q);
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < b->sim.n_values; i++)
        if (b->place[i] >= 0) b->start[b->place[i]] = b->global[i];
    if (b->work == NULL) return HN_OK;
    (void)hn_program_replica(hn_engine_program(b->engine), HN_MEM_WORK, 0, &bytes);
    hn_from_f32(b->start, (int64_t)(bytes / sizeof *b->work), b->work, HN_BF16, 0);
    return HN_OK;
}

static hn_status send_start(batch *b)
{
    const hn_program *program = hn_engine_program(b->engine);
    size_t bytes;
    void *to = hn_program_replica(program, HN_MEM_TRAINED, 0, &bytes);
    HN_TRY(hn_device_send(device_of(b), to, b->start, bytes));
    if (b->work == NULL) return HN_OK;
    to = hn_program_replica(program, HN_MEM_WORK, 0, &bytes);
    return hn_device_send(device_of(b), to, b->work, bytes);
}

/* ---- results ---- */

/* How many results are in part k. */
static int64_t in_part(const batch *b, int64_t k)
{
    const int64_t left = b->out.n - k * b->together;
    return left < b->together ? left : b->together;
}

/* The next part: one transfer. */
static hn_status fetch(batch *b)
{
    const int64_t k = b->out.fetched++;
    return hn_device_fetch_beside(device_of(b), b->back[k % BUFFERS],
                                  b->out.from + b->bytes * (size_t)(k * b->together),
                                  b->bytes * (size_t)in_part(b, k), b->there[k % BUFFERS]);
}

/* The group has been trained; the results before it have all been given. last: nobody will train
 * where these lie. */
static hn_status begin_results(batch *b, const hn_fed_task *task, int64_t n, int64_t first,
                               double step_s, bool last)
{
    results *r = &b->out;
    size_t bytes;
    void *from = hn_program_replica(hn_engine_program(b->engine), HN_MEM_TRAINED, 0, &bytes);
    if (!last) HN_TRY(hn_device_copy(device_of(b), b->stage, from, bytes * (size_t)n));
    for (int64_t g = 0; g < n; g++) r->loss[g] = hn_fed_loss_mean(&b->client[g].loss);
    *r = (results){.from = last ? from : b->stage,
                   .task = task,
                   .n = n,
                   .first = first,
                   .parts = (n + b->together - 1) / b->together,
                   .step_s = step_s,
                   .loss = r->loss};
    HN_TRY(hn_device_fetch_behind(device_of(b)));
    while (r->fetched < r->parts && r->fetched < BUFFERS) HN_TRY(fetch(b));
    return HN_OK;
}

/* b->value: those of part k, which has come; buffers are the global ones. Block by block, so that a
 * block of places serves all of them, and threads meet once a part: on a machine that has other
 * work, too, they wait for each other longer than the copies take. */
static void gather(batch *b, int64_t k)
{
    const int64_t some = in_part(b, k), values = b->sim.n_values;
    const int64_t stride = (int64_t)(b->bytes / sizeof(float));
#pragma omp parallel for schedule(dynamic)
    for (int64_t first = 0; first < values; first += BLOCK) {
        const int64_t end = values - first < BLOCK ? values : first + BLOCK;
        for (int64_t g = 0; g < some; g++) {
            const float *const flat = b->back[k % BUFFERS] + g * stride;
            float *const value = b->value + g * values;
            for (int64_t i = first; i < end; i++)
                value[i] = b->place[i] >= 0 ? flat[b->place[i]] : b->global[i];
        }
    }
}

/* Waits for the next part and hands it over; the buffer that is free then has one to come. */
static hn_status give_part(batch *b)
{
    results *r = &b->out;
    const int64_t k = r->given, from = k * b->together, some = in_part(b, k);
    HN_TRY(hn_device_fence_wait(b->there[k % BUFFERS]));
    gather(b, k);
    r->given++;
    if (r->fetched < r->parts) HN_TRY(fetch(b));
    for (int64_t g = 0; g < some; g++)
        b->trained[g] = (hn_fed_trained){.value = b->value + g * b->sim.n_values,
                                         .loss = r->loss[from + g],
                                         .seconds = r->step_s * (double)r->task[from + g].steps};
    return hn_fed_hand_over(&b->sim, r->first + from, some, b->trained, b->take, b->context);
}

/* One at most: the device goes on with the steps that it has, which are few. */
static hn_status give_what_came(batch *b)
{
    const results *r = &b->out;
    bool came;
    if (r->given == r->parts) return HN_OK;
    HN_TRY(hn_device_fence_passed(b->there[r->given % BUFFERS], &came));
    return came ? give_part(b) : HN_OK;
}

static hn_status give_rest(batch *b)
{
    while (b->out.given < b->out.parts) HN_TRY(give_part(b));
    return HN_OK;
}

/* ---- a group ---- */

/* Takes what is there, and waits where more than `most` of the enqueued steps are outstanding. */
static hn_status take_reports(batch *b, int64_t n, int64_t enqueued, int64_t most)
{
    for (;;) {
        bool there;
        HN_TRY(hn_engine_report(b->engine, enqueued - b->taken > most, &there, b->report));
        if (!there) return HN_OK;
        const int64_t step = b->taken++;
        for (int64_t g = 0; g < n; g++) {
            client *c = &b->client[g];
            if (step < c->task->steps) hn_fed_loss_add(&c->loss, &b->report[g]);
        }
    }
}

static bool works(const batch *b, int64_t g, int64_t n, int64_t step)
{
    return g < n && step < b->client[g].task->steps;
}

/* Images of the CHOSEN steps from `first` on, of n clients; the others', and of clients that are
 * done, are padding. */
static void choose_rows(batch *b, int64_t n, int64_t first)
{
    const int64_t rows = b->o.local.batch;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t k = 0; k < CHOSEN; k++)
        for (int64_t g = 0; g < b->o.at_once; g++) {
            int32_t *const image = b->image + (k * b->o.at_once + g) * rows;
            if (works(b, g, n, first + k))
                (void)hn_fed_rows(&b->o.local, b->client[g].task, first + k, image);
            else
                for (int64_t i = 0; i < rows; i++) image[i] = -1;
        }
}

static hn_status put_batch(batch *b, int64_t n, int64_t step)
{
    const int64_t rows = b->o.local.batch;
    const int32_t *const image = b->image + step % CHOSEN * b->o.at_once * rows;
    hn_engine_input in;
    if (step % CHOSEN == 0) choose_rows(b, n, step);
    HN_TRY(hn_engine_batch(b->engine, &in));
    const hn_classifier_batch to = hn_classifier_batch_of(&b->job, &in);
#pragma omp parallel for schedule(static) if (b->streams)
    for (int64_t g = 0; g < b->o.at_once; g++) {
        hn_fed_put_rows(b->o.images, b->streams, image + g * rows, g * rows, rows, &to);
        b->how[g].frozen = !works(b, g, n, step);
    }
    hn_engine_set_replicas(b->engine, b->how);
    return HN_OK;
}

/* Beside it the results of the group before are given, all of them. */
static hn_status train(batch *b, int64_t n)
{
    int64_t steps = 0;
    for (int64_t g = 0; g < n; g++)
        if (b->client[g].task->steps > steps) steps = b->client[g].task->steps;
    b->taken = 0;
    for (int64_t step = 0; step < steps; step++) {
        HN_TRY(put_batch(b, n, step));
        HN_TRY(hn_engine_step(b->engine, step, 1, NULL));
        HN_TRY(give_what_came(b));
        HN_TRY(take_reports(b, n, step + 1, HN_ENGINE_AHEAD - 1));
        HN_TRY(hn_fed_moved(&b->sim, b->context));
    }
    HN_TRY(give_rest(b)); /* while the last steps run */
    return take_reports(b, n, steps, 0);
}

static void begin_clients(batch *b, const hn_fed_task *task, int64_t n)
{
    memset(b->how, 0, (size_t)b->o.at_once * sizeof *b->how);
    for (int64_t g = 0; g < n; g++) {
        b->client[g] = (client){.task = &task[g], .loss = hn_fed_loss_begin(&b->o.local, &task[g])};
        b->how[g] = (hn_replica_step){.seed = task[g].seed, .lr_scale = task[g].lr};
    }
}

/* The first of them is task number `first` of the round. */
static hn_status run_group(batch *b, const hn_fed_task *task, int64_t n, int64_t first, bool last)
{
    const int64_t begun = hn_clock_ns();
    int64_t steps = 0;
    for (int64_t g = 0; g < n; g++) steps += task[g].steps;
    HN_TRY(send_start(b));
    HN_TRY(hn_engine_restart(b->engine, b->o.seed));
    begin_clients(b, task, n);
    HN_TRY(train(b, n));
    const double seconds = (double)(hn_clock_ns() - begun) * 1e-9;
    return begin_results(b, task, n, first, seconds / (double)steps, last);
}

static hn_status take_stage(batch *b)
{
    if (b->stage != NULL) return HN_OK;
    const hn_status st = hn_device_alloc(device_of(b), hn_fed_replicas_stage(&b->sim), &b->stage);
    if (st == HN_OK) return HN_OK;
    return HN_FAIL(st,
                   "a round of several groups keeps the results of %" PRId64
                   " clients on the device while the next ones train: %s; smaller groups take less",
                   b->o.at_once, hn_last_text());
}

static hn_status run_groups(batch *b, const hn_fed_task *task, int64_t n)
{
    const int64_t most = b->o.at_once;
    for (int64_t i = 0; i < n; i++) HN_TRY(hn_fed_check_task(&b->o, &task[i]));
    if (n > most) HN_TRY(take_stage(b));
    HN_TRY(begin_round(b));
    for (int64_t i = 0; i < n; i += most)
        HN_TRY(run_group(b, task + i, n - i < most ? n - i : most, i, n - i <= most));
    return give_rest(b);
}

static hn_status run_round(hn_fed_sim *s, const float *global, const hn_fed_task *task, int64_t n,
                           hn_fed_take take, void *context)
{
    batch *b = (batch *)s;
    b->global = global;
    b->take = take;
    b->context = context;
    const hn_status st = run_groups(b, task, n);
    if (st != HN_OK) settle(b); /* what is on its way would meet the next round's values */
    return st;
}

hn_status hn_fed_replicas_new(const hn_fed_sim_options *o, hn_fed_sim **out)
{
    batch *b = hn_calloc(1, sizeof *b);
    if (b == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a simulation", sizeof *b);
    *b = (batch){.sim = {.round = run_round, .free = free_batch}, .o = *o};
    const hn_status st = open(b);
    if (st != HN_OK)
        free_batch(&b->sim);
    else
        *out = &b->sim;
    return st;
}

hn_engine *hn_fed_replicas_engine(const hn_fed_sim *s) { return ((const batch *)s)->engine; }

size_t hn_fed_replicas_stage(const hn_fed_sim *s)
{
    const batch *b = (const batch *)s;
    return b->bytes * (size_t)b->o.at_once;
}
