/* Clients one by one, or a few at a time in lanes. */
#include <inttypes.h>
#include <jansson.h>

#include "runtime/base/alloc.h"
#include "runtime/train/fed_client.h"
#include "runtime/train/fed_fisher.h"

enum { WINDOW = 2 }; /* results that may wait for their turn, a lane */

typedef struct {
    hn_fed_client *client;
    int64_t task; /* -1: none */
} lane;

/* What became of a task, until it is taken. */
typedef struct {
    float *value; /* [n_values] */
    hn_fed_trained trained;
    bool there;
} result;

typedef struct {
    hn_fed_sim sim;
    lane *lane;             /* [lanes] */
    result *result;         /* [WINDOW lanes]: that of task i is number i modulo so many */
    hn_fed_fisher *fisher;  /* NULL: none is sent */
    float *h;               /* of the task that is taken */
    int64_t lanes, results; /* WINDOW lanes */
} one;

/* A round that is under way: tasks [taken, begun) are in lanes or among the results. */
typedef struct {
    const float *global;
    const hn_fed_task *task;
    int64_t n, begun, taken;
    hn_fed_take take;
    void *context;
} work;

/* ---- a round ---- */

static hn_status begin_tasks(one *o, work *w)
{
    for (int64_t k = 0; k < o->lanes; k++) {
        lane *l = &o->lane[k];
        if (l->task >= 0 || w->begun == w->n || w->begun == w->taken + o->results) continue;
        HN_TRY(hn_fed_client_set(l->client, w->global));
        HN_TRY(hn_fed_client_begin(l->client, &w->task[w->begun]));
        l->task = w->begun++;
    }
    return HN_OK;
}

static hn_status end_task(one *o, lane *l, int64_t at_once)
{
    result *r = &o->result[l->task % o->results];
    hn_fed_client_end(l->client, &r->trained);
    r->trained.seconds /= (double)at_once; /* its share */
    r->trained.value = r->value;
    r->there = true;
    l->task = -1;
    return hn_fed_client_get(l->client, r->value);
}

/* A step of every lane; where all of them have enqueued their last one, the oldest is waited for.
 */
static hn_status advance(one *o, const work *w)
{
    const int64_t at_once = w->n < o->lanes ? w->n : o->lanes;
    lane *oldest = NULL;
    bool moved = false;
    for (int64_t k = 0; k < o->lanes; k++) {
        lane *l = &o->lane[k];
        hn_fed_progress p = HN_FED_WAITS;
        if (l->task < 0) continue;
        HN_TRY(hn_fed_client_advance(l->client, false, &p));
        moved |= p != HN_FED_WAITS;
        if (p == HN_FED_DONE)
            HN_TRY(end_task(o, l, at_once));
        else if (oldest == NULL || l->task < oldest->task)
            oldest = l;
    }
    if (moved || oldest == NULL) return HN_OK;
    hn_fed_progress p;
    HN_TRY(hn_fed_client_advance(oldest->client, true, &p));
    return end_task(o, oldest, at_once);
}

static hn_status take_ready(one *o, work *w)
{
    while (w->taken < w->begun && o->result[w->taken % o->results].there) {
        result *r = &o->result[w->taken % o->results];
        r->there = false;
        if (o->fisher) HN_TRY(hn_fed_fisher_of(o->fisher, &w->task[w->taken], r->value, o->h));
        r->trained.fisher = o->h;
        HN_TRY(hn_fed_hand_over(&o->sim, w->taken, 1, &r->trained, w->take, w->context));
        w->taken++;
    }
    return HN_OK;
}

static hn_status one_round(hn_fed_sim *s, const float *global, const hn_fed_task *task, int64_t n,
                           hn_fed_take take, void *context)
{
    one *o = (one *)s;
    work w = {.global = global, .task = task, .n = n, .take = take, .context = context};
    for (int64_t k = 0; k < o->lanes; k++) o->lane[k].task = -1; /* of a round that failed */
    for (int64_t i = 0; i < o->results; i++) o->result[i].there = false;
    while (w.taken < n) {
        HN_TRY(begin_tasks(o, &w));
        HN_TRY(advance(o, &w));
        HN_TRY(take_ready(o, &w));
        HN_TRY(hn_fed_moved(s, context));
    }
    return HN_OK;
}

/* ---- opening ---- */

static void one_free(hn_fed_sim *s)
{
    one *o = (one *)s;
    for (int64_t k = 0; o->lane && k < o->lanes; k++) hn_fed_client_free(o->lane[k].client);
    for (int64_t i = 0; o->result && i < o->results; i++) hn_free(o->result[i].value);
    hn_fed_fisher_free(o->fisher);
    hn_free(o->lane);
    hn_free(o->result);
    hn_free(o->h);
    hn_free(o);
}

/* The same bits in every lane: matrix products as those of the first. */
static hn_status use_plans_of_first(const one *o, int64_t k)
{
    json_t *plans = NULL;
    HN_TRY(hn_engine_gemm_plans(hn_fed_client_engine(o->lane[0].client), &plans));
    const hn_status st =
        hn_engine_use_gemm_plans(hn_fed_client_engine(o->lane[k].client), plans, "the first lane");
    json_decref(plans);
    return st;
}

static hn_status open_one(const hn_fed_sim_options *options, one *o)
{
    o->lane = hn_calloc((size_t)o->lanes, sizeof *o->lane);
    o->result = hn_calloc((size_t)o->results, sizeof *o->result);
    if (o->lane == NULL || o->result == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " lanes", o->lanes);
    for (int64_t k = 0; k < o->lanes; k++) {
        hn_fed_sim_options here = *options;
        if (k > 0) here.device = options->lane[k - 1];
        HN_TRY(hn_fed_client_new(&here, NULL, &o->lane[k].client));
        if (k > 0) HN_TRY(use_plans_of_first(o, k));
    }
    o->sim.n_values = hn_fed_client_values(o->lane[0].client);
    const size_t bytes = (size_t)o->sim.n_values * sizeof(float);
    bool good = true;
    for (int64_t i = 0; i < o->results; i++) {
        o->result[i].value = hn_malloc(bytes);
        good = good && o->result[i].value != NULL;
    }
    if (options->local.fisher_images > 0) {
        HN_TRY(hn_fed_fisher_new(options, &o->fisher));
        o->h = hn_malloc(bytes);
    }
    if (!good || (o->fisher && o->h == NULL))
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a client", o->sim.n_values);
    return HN_OK;
}

hn_status hn_fed_one_new(const hn_fed_sim_options *options, hn_fed_sim **out)
{
    one *o = hn_calloc(1, sizeof *o);
    if (o == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a simulation", sizeof *o);
    o->sim = (hn_fed_sim){.round = one_round, .free = one_free};
    o->lanes = options->lanes > 1 ? options->lanes : 1;
    o->results = o->lanes > 1 ? WINDOW * o->lanes : 1;
    const hn_status st = open_one(options, o);
    if (st != HN_OK)
        one_free(&o->sim);
    else
        *out = &o->sim;
    return st;
}

int64_t hn_fed_one_lanes(const hn_fed_sim *s) { return ((const one *)s)->lanes; }

hn_fed_client *hn_fed_one_client(const hn_fed_sim *s, int64_t k)
{
    return ((const one *)s)->lane[k].client;
}
