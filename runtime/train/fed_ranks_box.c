#define _POSIX_C_SOURCE 200809L
#include "runtime/train/fed_ranks_box.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "runtime/base/alloc.h"
#include "runtime/comm/shared_memory.h"
#include "runtime/train/fed_ranks.h"

enum { LINE = 64, NAP_NS = 20000, COPY_BLOCK = 1 << 16 }; /* bytes; ns; values a thread copies */

/* On lines of their own: each side writes one of them. */
typedef struct {
    _Alignas(LINE) _Atomic uint64_t made;
    _Alignas(LINE) _Atomic uint64_t taken;
} head;

typedef struct {
    int64_t task;
    double seconds;
    float loss, reserved;
} record;

typedef struct {
    hn_shared_memory memory;
    head *head; /* NULL: this rank has no box */
    record *record;
    float *values, *results;
    void *tasks;
} box;

struct hn_fed_boxes {
    hn_fed_boxes_options o;
    int rank, size;
    int64_t window;
    int64_t each;  /* values of a result */
    box *box;      /* [size]; on another rank than 0 only its own is there */
    bool *streams; /* [size] */
    bool *placed;  /* [window] other ranks than 0: this result has been copied */
    bool some_stream;
    float *came;  /* rank 0, where some stream: [size][each] */
    record *head; /* rank 0, where some stream: [size] */
    bool *holds;  /* rank 0: `came` holds one that is not released */
};

bool hn_fed_boxes_streams(const hn_fed_boxes *b, int rank) { return b->streams[rank]; }
bool hn_fed_boxes_some_stream(const hn_fed_boxes *b) { return b->some_stream; }
const float *hn_fed_boxes_values(const hn_fed_boxes *b) { return b->box[b->rank].values; }
void *hn_fed_boxes_tasks(const hn_fed_boxes *b, int rank) { return b->box[rank].tasks; }

hn_status hn_fed_boxes_nap(const hn_fed_boxes *b, int64_t round)
{
    const char *dead = hn_hub_dead(b->o.hub);
    const struct timespec t = {.tv_nsec = NAP_NS};
    hn_hub_at(b->o.hub, HN_HUB_AT_CLIENTS, round); /* who keeps it waiting does not say so */
    if (dead != NULL) return HN_FAIL(HN_ERR_COMM, "%s", dead);
    (void)nanosleep(&t, NULL); /* a signal may cut it short */
    return HN_OK;
}

static void copy(float *to, const float *from, int64_t n)
{
#pragma omp parallel for schedule(static) if (n > 2 * COPY_BLOCK)
    for (int64_t at = 0; at < n; at += COPY_BLOCK)
        memcpy(to + at, from + at,
               (size_t)(n - at < COPY_BLOCK ? n - at : COPY_BLOCK) * sizeof *to);
}

/* ---- rank 0 ---- */

void hn_fed_boxes_put_values(hn_fed_boxes *b, const float *global)
{
    for (int k = 1; k < b->size; k++)
        if (!b->streams[k]) copy(b->box[k].values, global, b->o.n_values);
}

static hn_status nonsense(const hn_fed_boxes *b, int rank)
{
    return HN_FAIL(HN_ERR_COMM, "rank %d on %s has sent results that nobody asked for", rank,
                   hn_hub_host(b->o.hub, rank));
}

hn_status hn_fed_boxes_ready(hn_fed_boxes *b, int rank, int64_t left, int64_t *n)
{
    if (b->streams[rank]) {
        *n = left > 0 && (b->holds[rank] || hn_hub_comes(b->o.hub, rank));
        return HN_OK;
    }
    head *h = b->box[rank].head;
    const uint64_t taken = atomic_load_explicit(&h->taken, memory_order_relaxed);
    const uint64_t made = atomic_load_explicit(&h->made, memory_order_acquire);
    if (made - taken > (uint64_t)b->window) return nonsense(b, rank);
    const int64_t there = (int64_t)(made - taken);
    *n = there < left ? there : left;
    return HN_OK;
}

static hn_status fetch(hn_fed_boxes *b, int rank)
{
    if (b->holds[rank]) return HN_OK;
    HN_TRY(hn_hub_fetch(b->o.hub, rank, &b->head[rank], sizeof *b->head));
    HN_TRY(
        hn_hub_fetch(b->o.hub, rank, b->came + rank * b->each, (size_t)b->each * sizeof *b->came));
    b->holds[rank] = true;
    return HN_OK;
}

hn_status hn_fed_boxes_look(hn_fed_boxes *b, int rank, int64_t k, int64_t task, hn_fed_trained *out)
{
    record r;
    const float *value;
    if (b->streams[rank]) {
        HN_TRY(fetch(b, rank));
        r = b->head[rank];
        value = b->came + rank * b->each;
    } else {
        const box *x = &b->box[rank];
        const uint64_t taken = atomic_load_explicit(&x->head->taken, memory_order_relaxed);
        const int64_t slot = (int64_t)((taken + (uint64_t)k) % (uint64_t)b->window);
        r = x->record[slot];
        value = x->results + slot * b->each;
    }
    if (r.task != task) return nonsense(b, rank);
    *out = (hn_fed_trained){.value = value,
                            .fisher = b->o.fisher ? value + b->o.n_values : NULL,
                            .loss = r.loss,
                            .seconds = r.seconds};
    return HN_OK;
}

void hn_fed_boxes_release(hn_fed_boxes *b, int rank)
{
    if (b->streams[rank])
        b->holds[rank] = false;
    else
        atomic_fetch_add_explicit(&b->box[rank].head->taken, 1, memory_order_release);
}

/* ---- the others ---- */

static hn_status stream(hn_fed_boxes *b, const record *r, const hn_fed_trained *t)
{
    const size_t bytes = (size_t)b->o.n_values * sizeof(float);
    HN_TRY(hn_hub_pass(b->o.hub, r, sizeof *r));
    if (!b->o.fisher) return hn_hub_pass(b->o.hub, t->value, bytes);
    memcpy(b->came, t->value, bytes);
    memcpy(b->came + b->o.n_values, t->fisher, bytes);
    return hn_hub_pass(b->o.hub, b->came, 2 * bytes);
}

static void put(hn_fed_boxes *b, int64_t slot, const hn_fed_trained *t)
{
    float *const to = b->box[b->rank].results + slot * b->each;
    copy(to, t->value, b->o.n_values);
    if (b->o.fisher) copy(to + b->o.n_values, t->fisher, b->o.n_values);
}

void hn_fed_boxes_place(hn_fed_boxes *b, int64_t k, const hn_fed_trained *t)
{
    const box *x = &b->box[b->rank];
    if (b->streams[b->rank] || (b->o.fisher && t->fisher == NULL)) return;
    const uint64_t made = atomic_load_explicit(&x->head->made, memory_order_relaxed) + (uint64_t)k;
    const uint64_t taken = atomic_load_explicit(&x->head->taken, memory_order_acquire);
    if (made - taken >= (uint64_t)b->window) return;
    const int64_t slot = (int64_t)(made % (uint64_t)b->window);
    put(b, slot, t);
    b->placed[slot] = true;
}

hn_status hn_fed_boxes_give(hn_fed_boxes *b, int64_t round, int64_t task, const hn_fed_trained *t)
{
    const record r = {.task = task, .seconds = t->seconds, .loss = t->loss};
    const box *x = &b->box[b->rank];
    if (b->o.fisher && t->fisher == NULL)
        return HN_FAIL(HN_ERR_ARG, "task %" PRId64 ": a result without its Fisher values", task);
    if (b->streams[b->rank]) return stream(b, &r, t);
    const uint64_t made = atomic_load_explicit(&x->head->made, memory_order_relaxed);
    const int64_t slot = (int64_t)(made % (uint64_t)b->window);
    while (made - atomic_load_explicit(&x->head->taken, memory_order_acquire) >=
           (uint64_t)b->window)
        HN_TRY(hn_fed_boxes_nap(b, round));
    x->record[slot] = r;
    if (!b->placed[slot]) put(b, slot, t);
    b->placed[slot] = false;
    atomic_store_explicit(&x->head->made, made + 1, memory_order_release);
    return HN_OK;
}

/* ---- opening ---- */

static size_t align(size_t n) { return (n + LINE - 1) / LINE * LINE; }

static size_t records_at(void) { return align(sizeof(head)); }
static size_t values_at(const hn_fed_boxes *b)
{
    return records_at() + align((size_t)b->window * sizeof(record));
}
static size_t tasks_at(const hn_fed_boxes *b)
{
    return values_at(b) + align((size_t)b->o.n_values * sizeof(float));
}
static size_t results_at(const hn_fed_boxes *b) { return tasks_at(b) + align(b->o.tasks); }
static size_t box_bytes(const hn_fed_boxes *b)
{
    return results_at(b) + (size_t)(b->window * b->each) * sizeof(float);
}

static void lay_out(const hn_fed_boxes *b, box *x)
{
    char *const begin = x->memory.data;
    x->head = (head *)(void *)begin;
    x->record = (record *)(void *)(begin + records_at());
    x->values = (float *)(void *)(begin + values_at(b));
    x->tasks = begin + tasks_at(b);
    x->results = (float *)(void *)(begin + results_at(b));
}

/* What a rank says of its box. */
typedef struct {
    int32_t there;
    char why[HN_HUB_TEXT / 2];
} answer;

/* Rank 0: one for every rank of its host. */
static hn_status make_boxes(hn_fed_boxes *b, const char (*host)[HN_SHARED_HOST],
                            hn_shared_ticket *ticket)
{
    for (int k = 1; k < b->size; k++) {
        box *x = &b->box[k];
        if (b->o.streams || host[0][0] == '\0' || memcmp(host[k], host[0], HN_SHARED_HOST) != 0)
            continue;
        HN_TRY(hn_shared_memory_new(box_bytes(b), &x->memory, &ticket[k]));
        lay_out(b, x);
    }
    return HN_OK;
}

static void join_box(hn_fed_boxes *b, const hn_shared_ticket *ticket, answer *out)
{
    box *x = &b->box[b->rank];
    if (ticket->n_bytes == 0) {
        snprintf(out->why, sizeof out->why, "another host than rank 0's");
        return;
    }
    if (hn_shared_memory_join(ticket, box_bytes(b), &x->memory) != HN_OK) {
        snprintf(out->why, sizeof out->why, "%s", hn_last_text());
        return;
    }
    lay_out(b, x);
    out->there = 1;
}

static void settle(hn_fed_boxes *b, const answer *all)
{
    for (int k = 1; k < b->size; k++) {
        b->streams[k] = all[k].there == 0;
        b->some_stream |= b->streams[k];
        if (!b->streams[k]) continue;
        hn_shared_memory_free(&b->box[k].memory);
        b->box[k].head = NULL;
        if (!b->o.streams)
            hn_info(b->o.log, "rank %d on %s sends its results by TCP: %.*s", k,
                    hn_hub_host(b->o.hub, k), (int)sizeof all[k].why - 1, all[k].why);
    }
}

static hn_status agree(hn_fed_boxes *b)
{
    const size_t size = (size_t)b->size;
    char own[HN_SHARED_HOST] = "", (*host)[HN_SHARED_HOST] = hn_calloc(size, sizeof *host);
    hn_shared_ticket *ticket = hn_calloc(size, sizeof *ticket);
    answer mine = {0}, *all = hn_calloc(size, sizeof *all);
    hn_status st = HN_OK;
    if (host == NULL || ticket == NULL || all == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %zu ranks", size);
        goto done;
    }
    if (hn_shared_host(own) != HN_OK) own[0] = '\0'; /* it streams, which is said */
    HN_TRY_GOTO(st, hn_hub_gather(b->o.hub, own, sizeof own, host), done);
    if (b->rank == 0)
        HN_TRY_GOTO(st, make_boxes(b, (const char(*)[HN_SHARED_HOST])host, ticket), done);
    HN_TRY_GOTO(st, hn_hub_share(b->o.hub, ticket, size * sizeof *ticket, 0), done);
    if (b->rank != 0) join_box(b, &ticket[b->rank], &mine);
    HN_TRY_GOTO(st, hn_hub_gather(b->o.hub, &mine, sizeof mine, all), done);
    settle(b, all);

done:
    hn_free(host);
    hn_free(ticket);
    hn_free(all);
    return st;
}

static hn_status open(hn_fed_boxes *b)
{
    const size_t size = (size_t)b->size;
    b->each = b->o.n_values * (b->o.fisher ? 2 : 1);
    const int64_t fit = HN_FED_RANKS_WINDOW / ((int64_t)sizeof(float) * b->each);
    b->window = b->o.window > 0 ? b->o.window : fit > 2 ? fit : 2;
    if (b->window > b->o.most) b->window = b->o.most;
    b->box = hn_calloc(size, sizeof *b->box);
    b->streams = hn_calloc(size, sizeof *b->streams);
    b->placed = hn_calloc((size_t)b->window, sizeof *b->placed);
    b->holds = hn_calloc(size, sizeof *b->holds);
    b->head = hn_calloc(size, sizeof *b->head);
    if (!b->box || !b->streams || !b->placed || !b->holds || !b->head)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %zu ranks", size);
    HN_TRY(agree(b));
    const size_t ranks = b->rank == 0 ? size : 1;
    if (!b->some_stream) return HN_OK;
    b->came = hn_malloc(ranks * (size_t)b->each * sizeof *b->came);
    if (b->came != NULL) return HN_OK;
    return HN_FAIL(HN_ERR_MEMORY, "%zu results of %" PRId64 " values", ranks, b->each);
}

hn_status hn_fed_boxes_new(const hn_fed_boxes_options *o, hn_fed_boxes **out)
{
    hn_fed_boxes *b = hn_calloc(1, sizeof *b);
    if (b == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for boxes", sizeof *b);
    b->o = *o;
    b->rank = hn_hub_rank(o->hub);
    b->size = hn_hub_size(o->hub);
    const hn_status st = open(b);
    if (st == HN_OK)
        *out = b;
    else
        hn_fed_boxes_free(b);
    return st;
}

void hn_fed_boxes_free(hn_fed_boxes *b)
{
    if (b == NULL) return;
    for (int k = 0; b->box != NULL && k < b->size; k++) hn_shared_memory_free(&b->box[k].memory);
    hn_free(b->box);
    hn_free(b->streams);
    hn_free(b->placed);
    hn_free(b->holds);
    hn_free(b->head);
    hn_free(b->came);
    hn_free(b);
}
