/* Clients of a round on several ranks. fed_ranks_box.c has the memory that results pass through. */
#include "runtime/train/fed_ranks.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/fed_ranks_box.h"

enum { ROUND = 1, END = 2, MEASURE = 3, MOST_IMAGES = INT32_MAX, TOGETHER = 64 };

/* What rank 0 says first. */
typedef struct {
    int64_t command, number, n, n_index;
} order;

/* A task as it travels. */
typedef struct {
    int64_t client, n, steps;
    double lr;
    uint64_t seed;
} sent_task;

/* What became of a task of another rank. */
typedef struct {
    hn_fed_trained trained; /* without values: they are prepared */
    bool there;
} result;

typedef struct {
    hn_fed_sim sim;
    hn_fed_ranks_options o;
    hn_fed_boxes *boxes;
    int rank, size;
    int64_t *first;    /* [size + 1] shares of the round */
    int64_t *received; /* [size] results of each rank in this round, so far */
    int64_t given;     /* ranks but 0: results of this round, so far */
    void *body;        /* a share with room for all tasks; NULL on rank 0 where none stream */
    char *record;      /* [size] shares of a measurement; NULL: there is none */
    hn_fed_task *task; /* [most] ranks but 0: of the round */
    float *value;      /* ranks but 0 that have no box: [n_values] of the global model */
    result *result;    /* [most] rank 0 */
    int signal;
    bool failed; /* a round; the ranks are not where they were */
} ranks;

/* A round on rank 0. */
typedef struct {
    ranks *r;
    int64_t n, taken;
    hn_fed_take take;
    void *context;
} work;

/* ---- shares ---- */

static double cost_of(const hn_fed_shares *how, const hn_fed_task *task, int64_t n)
{
    int64_t most = 0;
    if (how->by_count) return (double)n;
    for (int64_t i = 0; i < n; i++)
        if (task[i].steps > most) most = task[i].steps;
    return (double)most;
}

void hn_fed_ranks_split(const hn_fed_shares *how, int size, const hn_fed_task *task, int64_t n,
                        int64_t *first)
{
    const int64_t unit = how->unit > 1 ? how->unit : 1;
    double total = 0, before = 0;
    int at = 0;
    for (int64_t i = 0; i < n; i += unit)
        total += cost_of(how, task + i, n - i < unit ? n - i : unit);
    first[0] = 0;
    for (int64_t i = 0; i < n; i += unit) { /* to the rank in whose part its middle is */
        const double cost = cost_of(how, task + i, n - i < unit ? n - i : unit);
        const int owner = (int)((before + cost / 2) / total * size);
        while (at < owner && at < size - 1) first[++at] = i;
        before += cost;
    }
    while (at < size) first[++at] = n;
}

/* ---- orders ---- */

/* A share as it travels: tasks first .. first + n - 1 of the round; sent_task[n] and the images
 * follow. In a box it is the rank's own; through the hub come all tasks. */
typedef struct {
    int64_t first, n, n_index;
} share;

static size_t share_bytes(int64_t n, int64_t n_index)
{
    return sizeof(share) + (size_t)n * sizeof(sent_task) + (size_t)n_index * sizeof(int32_t);
}

static hn_status check_tasks(const ranks *r, const hn_fed_task *task, int64_t n, int64_t *n_index)
{
    *n_index = 0;
    if (n > r->o.most)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " tasks of a round, at most %" PRId64, n, r->o.most);
    for (int64_t i = 0; i < n; i++) {
        if (task[i].n < 1 || task[i].n > MOST_IMAGES || task[i].steps < 1)
            return HN_FAIL(HN_ERR_ARG, "client %" PRId64 ": %" PRId64 " images, %" PRId64 " steps",
                           task[i].client, task[i].n, task[i].steps);
        *n_index += task[i].n;
    }
    if (*n_index <= r->o.images) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "%" PRId64 " images of a round's tasks, at most %" PRId64, *n_index,
                   r->o.images);
}

static void pack(void *to, const hn_fed_task *task, int64_t first, int64_t n)
{
    share *const s = to;
    sent_task *const sent = (sent_task *)(s + 1);
    int32_t *const index = (int32_t *)(sent + n);
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        const hn_fed_task *t = &task[first + i];
        sent[i] = (sent_task){
            .client = t->client, .n = t->n, .steps = t->steps, .lr = t->lr, .seed = t->seed};
        memcpy(index + at, t->index, (size_t)t->n * sizeof *index);
        at += t->n;
    }
    *s = (share){.first = first, .n = n, .n_index = at};
}

/* r->task out of r->body, which nobody else sees. */
static hn_status unpack(ranks *r, const share *s)
{
    const sent_task *const sent = (const sent_task *)((const share *)r->body + 1);
    const int32_t *index = (const int32_t *)(sent + s->n);
    int64_t left = s->n_index;
    for (int64_t i = 0; i < s->n; i++) {
        const sent_task *t = &sent[i];
        if (t->n < 1 || t->n > left)
            return HN_FAIL(HN_ERR_COMM,
                           "rank 0 sends a task with %" PRId64 " of %" PRId64 " images", t->n,
                           left);
        r->task[i] = (hn_fed_task){.client = t->client,
                                   .index = index,
                                   .n = t->n,
                                   .steps = t->steps,
                                   .lr = t->lr,
                                   .seed = t->seed};
        index += t->n;
        left -= t->n;
    }
    return HN_OK;
}

/* Tasks and values to those without a box: to all, as the hub does it. */
static hn_status share_tasks(ranks *r, const order *o)
{
    if (!hn_fed_boxes_some_stream(r->boxes)) return HN_OK;
    return hn_hub_share(r->o.hub, r->body, share_bytes(o->n, o->n_index), 0);
}

static hn_status share_values(ranks *r, float *value)
{
    if (!hn_fed_boxes_some_stream(r->boxes)) return HN_OK;
    return hn_hub_share(r->o.hub, value, (size_t)r->sim.n_values * sizeof *value, 0);
}

/* Behind a round: every rank says whether it was asked to stop. */
static hn_status share_signals(ranks *r, int mine)
{
    int32_t own = mine, all[HN_HUB_MAX_RANKS];
    HN_TRY(hn_hub_gather(r->o.hub, &own, sizeof own, all));
    r->signal = 0;
    for (int k = r->size - 1; k >= 0; k--)
        if (all[k] != 0) r->signal = all[k];
    return HN_OK;
}

static void at(const ranks *r) { hn_hub_at(r->o.hub, HN_HUB_AT_CLIENTS, r->sim.number); }

/* Between two tasks: nobody trains for a run that is over. */
static hn_status alive(const ranks *r)
{
    const char *dead = hn_hub_dead(r->o.hub);
    at(r);
    return dead == NULL ? HN_OK : HN_FAIL(HN_ERR_COMM, "%s", dead);
}

/* ---- rank 0 ---- */

static int64_t share_of(const ranks *r, int rank) { return r->first[rank + 1] - r->first[rank]; }

/* Prepares what has come of all ranks, as far as there is some. */
static hn_status prepare_came(work *w, bool *moved)
{
    ranks *r = w->r;
    hn_fed_trained t[TOGETHER];
    int64_t task[TOGETHER];
    int from[TOGETHER];
    int n = 0;
    for (int k = 1; k < r->size; k++) {
        int64_t ready = 0;
        HN_TRY(hn_fed_boxes_ready(r->boxes, k, share_of(r, k) - r->received[k], &ready));
        for (int64_t j = 0; j < ready && n < TOGETHER; j++, n++) {
            task[n] = r->first[k] + r->received[k] + j;
            from[n] = k;
            HN_TRY(hn_fed_boxes_look(r->boxes, k, j, task[n], &t[n]));
        }
    }
    *moved = n > 0;
#pragma omp parallel for schedule(dynamic) if (n > 1)
    for (int i = 0; i < n; i++) r->sim.prepare(w->context, task[i], &t[i]);
    for (int i = 0; i < n; i++) {
        hn_fed_boxes_release(r->boxes, from[i]);
        r->received[from[i]]++;
        t[i].value = t[i].fisher = NULL;
        r->result[task[i]] = (result){.trained = t[i], .there = true};
    }
    return HN_OK;
}

static hn_status own_take(void *context, int64_t i, const hn_fed_trained *t)
{
    work *w = context;
    HN_TRY(alive(w->r));
    w->taken++;
    return w->take(w->context, i, t);
}

static void own_prepare(void *context, int64_t i, const hn_fed_trained *t)
{
    const work *w = context;
    w->r->sim.prepare(w->context, i, t);
}

static hn_status own_moved(void *context)
{
    work *w = context;
    bool moved = w->r->sim.prepare != NULL;
    at(w->r);
    while (moved) HN_TRY(prepare_came(w, &moved));
    return HN_OK;
}

/* Results that were prepared when they came. */
static hn_status take_prepared(work *w)
{
    ranks *r = w->r;
    while (w->taken < w->n) {
        bool moved = false;
        HN_TRY(prepare_came(w, &moved));
        for (; w->taken < w->n && r->result[w->taken].there; w->taken++, moved = true)
            HN_TRY(w->take(w->context, w->taken, &r->result[w->taken].trained));
        if (!moved) HN_TRY(hn_fed_boxes_nap(r->boxes, r->sim.number));
    }
    return HN_OK;
}

/* One after the other, while they are there. */
static hn_status take_in_order(work *w)
{
    ranks *r = w->r;
    int k = 1;
    while (w->taken < w->n) {
        int64_t ready = 0;
        hn_fed_trained t;
        while (w->taken >= r->first[k + 1]) k++;
        HN_TRY(hn_fed_boxes_ready(r->boxes, k, 1, &ready));
        if (ready == 0) {
            HN_TRY(hn_fed_boxes_nap(r->boxes, r->sim.number));
            continue;
        }
        HN_TRY(hn_fed_boxes_look(r->boxes, k, 0, w->taken, &t));
        HN_TRY(w->take(w->context, w->taken, &t));
        hn_fed_boxes_release(r->boxes, k);
        w->taken++;
    }
    return HN_OK;
}

static hn_status announce(ranks *r, const float *global, const hn_fed_task *task, int64_t n)
{
    order o = {.command = ROUND, .number = r->sim.number, .n = n};
    HN_TRY(check_tasks(r, task, n, &o.n_index));
    hn_fed_ranks_split(&r->o.shares, r->size, task, n, r->first);
    for (int k = 1; k < r->size; k++)
        if (!hn_fed_boxes_streams(r->boxes, k))
            pack(hn_fed_boxes_tasks(r->boxes, k), task, r->first[k], share_of(r, k));
    hn_fed_boxes_put_values(r->boxes, global);
    HN_TRY(hn_hub_share(r->o.hub, &o, sizeof o, 0)); /* behind it all that is there */
    if (r->body != NULL) pack(r->body, task, 0, n);
    HN_TRY(share_tasks(r, &o));
    HN_TRY(share_values(r, (float *)global)); /* rank 0's are read only */
    memset(r->received, 0, (size_t)r->size * sizeof *r->received);
    memset(r->result, 0, (size_t)n * sizeof *r->result);
    return HN_OK;
}

static hn_status lead(ranks *r, const float *global, const hn_fed_task *task, work *w)
{
    hn_fed_sim *const own = r->o.sim;
    HN_TRY(announce(r, global, task, w->n));
    at(r);
    own->prepare = r->sim.prepare ? own_prepare : NULL;
    own->moved = own_moved;
    own->number = r->sim.number;
    if (r->first[1] > 0) HN_TRY(own->round(own, global, task, r->first[1], own_take, w));
    HN_TRY(r->sim.prepare ? take_prepared(w) : take_in_order(w));
    return share_signals(r, 0);
}

static hn_status ranks_round(hn_fed_sim *s, const float *global, const hn_fed_task *task, int64_t n,
                             hn_fed_take take, void *context)
{
    ranks *r = (ranks *)s;
    work w = {.r = r, .n = n, .take = take, .context = context};
    if (r->rank != 0) return HN_FAIL(HN_ERR_ARG, "rank %d runs no rounds: it serves", r->rank);
    if (r->failed) return HN_FAIL(HN_ERR_COMM, "a round of several ranks has failed");
    r->failed = true;
    HN_TRY(lead(r, global, task, &w));
    r->failed = false;
    return HN_OK;
}

hn_status hn_fed_ranks_end(hn_fed_sim *s)
{
    ranks *r = (ranks *)s;
    order o = {.command = END};
    return hn_hub_share(r->o.hub, &o, sizeof o, 0);
}

int hn_fed_ranks_signal(const hn_fed_sim *s) { return ((const ranks *)s)->signal; }

/* ---- measurements ---- */

/* Parts that a rank measures at most. */
static int64_t most_parts(const ranks *r)
{
    return (r->o.measurement.parts + r->size - 1) / r->size;
}

static int64_t first_part(const ranks *r, int rank)
{
    return r->o.measurement.parts * rank / r->size;
}

/* This rank's parts, and what all have come to, in r->record. */
static hn_status measure(ranks *r, const float *value)
{
    const hn_fed_measurement *m = &r->o.measurement;
    const int64_t first = first_part(r, r->rank), end = first_part(r, r->rank + 1);
    const size_t bytes = (size_t)most_parts(r) * m->part_bytes;
    char *const own = r->record + (size_t)r->rank * bytes;
    hn_hub_at(r->o.hub, HN_HUB_AT_MEASURE, r->sim.number);
    if (end > first || r->rank == 0) HN_TRY(m->set(m->context, value));
    for (int64_t p = first; p < end; p++) {
        const char *dead = hn_hub_dead(r->o.hub);
        if (dead != NULL) return HN_FAIL(HN_ERR_COMM, "%s", dead);
        hn_hub_at(r->o.hub, HN_HUB_AT_MEASURE, r->sim.number);
        HN_TRY(m->part(m->context, p, own + (size_t)(p - first) * m->part_bytes));
    }
    return hn_hub_gather(r->o.hub, own, bytes, r->record);
}

static hn_status lead_measurement(ranks *r, const float *value, void *record)
{
    const size_t part = r->o.measurement.part_bytes, bytes = (size_t)most_parts(r) * part;
    order o = {.command = MEASURE, .number = r->sim.number};
    hn_fed_boxes_put_values(r->boxes, value);
    HN_TRY(hn_hub_share(r->o.hub, &o, sizeof o, 0)); /* behind it all that is there */
    HN_TRY(share_values(r, (float *)value));         /* rank 0's are read only */
    HN_TRY(measure(r, value));
    for (int k = 0; k < r->size; k++)
        memcpy((char *)record + (size_t)first_part(r, k) * part, r->record + (size_t)k * bytes,
               (size_t)(first_part(r, k + 1) - first_part(r, k)) * part);
    return HN_OK;
}

hn_status hn_fed_ranks_measure(hn_fed_sim *s, int64_t number, const float *value, void *record)
{
    ranks *r = (ranks *)s;
    if (r->rank != 0 || r->record == NULL)
        return HN_FAIL(HN_ERR_ARG, "rank %d measures nothing: it serves, or has nothing to",
                       r->rank);
    if (r->failed) return HN_FAIL(HN_ERR_COMM, "a round of several ranks has failed");
    r->failed = true;
    r->sim.number = number;
    HN_TRY(lead_measurement(r, value, record));
    r->failed = false;
    return HN_OK;
}

/* ---- the others ---- */

static void place(void *context, int64_t i, const hn_fed_trained *t)
{
    const ranks *r = context;
    hn_fed_boxes_place(r->boxes, i - r->given, t);
}

static hn_status give(void *context, int64_t i, const hn_fed_trained *t)
{
    ranks *r = context;
    HN_TRY(alive(r));
    r->given = i + 1;
    return hn_fed_boxes_give(r->boxes, r->sim.number, r->first[r->rank] + i, t);
}

static hn_status served_moved(void *context)
{
    at(context);
    return HN_OK;
}

/* This rank's tasks, in *out, and their places in the round. */
static hn_status own_share(ranks *r, const order *o, const hn_fed_task **out)
{
    share s = {.n = o->n, .n_index = o->n_index};
    const bool boxed = !hn_fed_boxes_streams(r->boxes, r->rank);
    if (boxed) {
        const void *const box = hn_fed_boxes_tasks(r->boxes, r->rank);
        memcpy(&s, box, sizeof s);
        if (s.n < 0 || s.n > o->n || s.first < 0 || s.first > o->n - s.n || s.n_index < s.n ||
            s.n_index > o->n_index)
            return HN_FAIL(HN_ERR_COMM,
                           "rank 0 gives the tasks from %" PRId64 " on, %" PRId64 " of %" PRId64,
                           s.first, s.n, o->n);
        memcpy(r->body, box, share_bytes(s.n, s.n_index));
    }
    HN_TRY(unpack(r, &s));
    *out = r->task;
    if (boxed) {
        r->first[r->rank] = s.first;
        r->first[r->rank + 1] = s.first + s.n;
    } else {
        hn_fed_ranks_split(&r->o.shares, r->size, r->task, o->n, r->first);
        *out += r->first[r->rank];
    }
    return HN_OK;
}

/* The global model's, where they lie. */
static hn_status receive_values(ranks *r, const float **out)
{
    HN_TRY(share_values(r, r->value));
    *out = hn_fed_boxes_streams(r->boxes, r->rank) ? r->value : hn_fed_boxes_values(r->boxes);
    return HN_OK;
}

static hn_status serve_measurement(ranks *r, const order *o)
{
    const float *value = NULL;
    if (r->record == NULL)
        return HN_FAIL(HN_ERR_COMM, "rank 0 asks for a measurement where there is none");
    r->sim.number = o->number;
    HN_TRY(receive_values(r, &value));
    return measure(r, value);
}

static hn_status serve_round(ranks *r, const order *o, int (*stop)(void))
{
    hn_fed_sim *const own = r->o.sim;
    const float *global = NULL;
    const hn_fed_task *task = NULL;
    if (o->n < 0 || o->n > r->o.most || o->n_index < o->n || o->n_index > r->o.images)
        return HN_FAIL(HN_ERR_COMM, "rank 0 sends %" PRId64 " tasks with %" PRId64 " images", o->n,
                       o->n_index);
    r->sim.number = own->number = o->number;
    HN_TRY(share_tasks(r, o));
    HN_TRY(receive_values(r, &global));
    HN_TRY(own_share(r, o, &task));
    at(r);
    r->given = 0;
    own->prepare = place;
    own->moved = served_moved;
    const int64_t n = share_of(r, r->rank);
    if (n > 0) HN_TRY(own->round(own, global, task, n, give, r));
    return share_signals(r, stop());
}

hn_status hn_fed_ranks_serve(hn_fed_sim *s, int (*stop)(void))
{
    ranks *r = (ranks *)s;
    for (;;) {
        order o = {0};
        HN_TRY(hn_hub_share(r->o.hub, &o, sizeof o, 0));
        if (o.command == END) return HN_OK;
        if (o.command != ROUND && o.command != MEASURE)
            return HN_FAIL(HN_ERR_COMM, "rank 0 sends what is no order: %" PRId64, o.command);
        HN_TRY(o.command == ROUND ? serve_round(r, &o, stop) : serve_measurement(r, &o));
    }
}

/* ---- opening ---- */

static void ranks_free(hn_fed_sim *s)
{
    ranks *r = (ranks *)s;
    hn_fed_boxes_free(r->boxes);
    hn_free(r->first);
    hn_free(r->received);
    hn_free(r->body);
    hn_free(r->task);
    hn_free(r->value);
    hn_free(r->result);
    hn_free(r->record);
    hn_free(r);
}

/* What all ranks have as many of as rank 0. */
enum { VALUES, PARTS, BYTES, COUNTS };

static hn_status same_counts(const ranks *r)
{
    static const char *const what[COUNTS] = {"values of a client", "parts of a measurement",
                                             "bytes of a part of a measurement"};
    const int64_t own[COUNTS] = {r->sim.n_values, r->o.measurement.parts,
                                 (int64_t)r->o.measurement.part_bytes};
    int64_t *all = hn_calloc((size_t)r->size, sizeof own);
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d ranks", r->size);
    hn_status st = hn_hub_gather(r->o.hub, own, sizeof own, all);
    for (int i = COUNTS; st == HN_OK && i < COUNTS * r->size; i++)
        if (all[i] != all[i % COUNTS])
            st = HN_FAIL(HN_ERR_SHAPE, "rank %d on %s has %" PRId64 " %s, rank 0 has %" PRId64,
                         i / COUNTS, hn_hub_host(r->o.hub, i / COUNTS), all[i], what[i % COUNTS],
                         all[i % COUNTS]);
    hn_free(all);
    return st;
}

static hn_status make_records(ranks *r)
{
    const hn_fed_measurement *m = &r->o.measurement;
    const size_t all = (size_t)(most_parts(r) * r->size);
    if (m->parts == 0) return HN_OK;
    r->record = hn_calloc(all, m->part_bytes);
    if (r->record != NULL) return HN_OK;
    return HN_FAIL(HN_ERR_MEMORY, "%zu records of %zu bytes", all, m->part_bytes);
}

static hn_status open(ranks *r)
{
    const size_t most = (size_t)r->o.most;
    if (r->size < 2 || r->o.most < 1 || r->o.images < 1 || r->o.images / MOST_IMAGES > r->o.most)
        return HN_FAIL(HN_ERR_ARG, "%d ranks, %" PRId64 " tasks of %" PRId64 " images", r->size,
                       r->o.most, r->o.images);
    HN_TRY(same_counts(r));
    HN_TRY(make_records(r));
    r->first = hn_calloc((size_t)r->size + 1, sizeof *r->first);
    r->received = hn_calloc((size_t)r->size, sizeof *r->received);
    if (r->rank == 0)
        r->result = hn_calloc(most, sizeof *r->result);
    else
        r->task = hn_calloc(most, sizeof *r->task);
    if (!r->first || !r->received || !(r->rank == 0 ? (void *)r->result : (void *)r->task))
        return HN_FAIL(HN_ERR_MEMORY, "tables of %zu tasks", most);
    const hn_fed_boxes_options o = {.hub = r->o.hub,
                                    .log = r->o.log,
                                    .n_values = r->sim.n_values,
                                    .fisher = r->o.fisher,
                                    .streams = r->o.streams,
                                    .most = r->o.most,
                                    .tasks = share_bytes(r->o.most, r->o.images),
                                    .window = r->o.window};
    HN_TRY(hn_fed_boxes_new(&o, &r->boxes));
    const bool streams = hn_fed_boxes_some_stream(r->boxes);
    if (r->rank != 0 || streams) r->body = hn_malloc(o.tasks);
    if ((r->rank != 0 || streams) && r->body == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes of tasks", o.tasks);
    if (r->rank == 0 || !streams) return HN_OK;
    r->value = hn_malloc((size_t)r->sim.n_values * sizeof *r->value);
    if (r->value != NULL) return HN_OK;
    return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a client", r->sim.n_values);
}

hn_status hn_fed_ranks_new(const hn_fed_ranks_options *o, hn_fed_sim **out)
{
    ranks *r = hn_calloc(1, sizeof *r);
    if (r == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a simulation", sizeof *r);
    *r = (ranks){.sim = {.n_values = o->sim->n_values, .round = ranks_round, .free = ranks_free},
                 .o = *o,
                 .rank = hn_hub_rank(o->hub),
                 .size = hn_hub_size(o->hub)};
    const hn_status st = open(r);
    if (st == HN_OK)
        *out = &r->sim;
    else
        ranks_free(&r->sim);
    return st;
}
