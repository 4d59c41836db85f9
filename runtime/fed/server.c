#include "runtime/fed/server.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/fed/server_impl.h"

/* ---- life ---- */

int hn_fed_states(hn_fed_method m)
{
    switch (m) {
    case HN_FED_FEDAVGM:
    case HN_FED_EMA: return 1;
    case HN_FED_FEDADAGRAD:
    case HN_FED_FEDADAM:
    case HN_FED_FEDYOGI: return 2;
    default: return 0;
    }
}

int64_t hn_fed_ring(const hn_fed_server_options *o)
{
    return hn_fed_method_uses(o->method) & HN_FED_USES_REFERENCE ? o->p : 0;
}

static int64_t count_chunks(const hn_fed_layout *l)
{
    int64_t n = 0;
    for (int64_t i = 0; i < l->count; i++) n += (l->tensor[i].n + HN_FED_CHUNK - 1) / HN_FED_CHUNK;
    return n;
}

int64_t hn_fed_server_bytes(const hn_fed_layout *l, const hn_fed_server_options *o)
{
    const int64_t models = 2 + hn_fed_states(o->method) + hn_fed_ring(o);
    const int64_t a_chunk = (int64_t)(sizeof(hn_fed_chunk) + 2 * sizeof(double));
    return models * l->n * (int64_t)sizeof(float) + count_chunks(l) * a_chunk;
}

void hn_fed_server_free(hn_fed_server *s)
{
    if (s == NULL) return;
    hn_free(s->global);
    hn_free(s->a);
    for (int i = 0; i < HN_FED_STATES; i++) hn_free(s->state[i]);
    for (int i = 0; i < HN_FED_MAX_P; i++) hn_free(s->ring[i]);
    hn_free(s->update);
    hn_free(s->chunk);
    hn_free(s->part);
    hn_free(s);
}

static hn_status take_model(const hn_fed_server *s, float **out)
{
    *out = hn_calloc((size_t)s->l->n, sizeof **out);
    return *out != NULL
               ? HN_OK
               : HN_FAIL(HN_ERR_MEMORY, "no memory for a model of %" PRId64 " elements", s->l->n);
}

static void fill_chunks(hn_fed_server *s)
{
    hn_fed_chunk *c = s->chunk;
    for (int64_t i = 0; i < s->l->count; i++) {
        const hn_fed_tensor *t = &s->l->tensor[i];
        for (int64_t at = 0; at < t->n; at += HN_FED_CHUNK) {
            const int64_t n = t->n - at < HN_FED_CHUNK ? t->n - at : HN_FED_CHUNK;
            *c++ = (hn_fed_chunk){.tensor = i, .first = t->first + at, .n = (int)n};
        }
    }
}

static hn_status take_memory(hn_fed_server *s)
{
    HN_TRY(take_model(s, &s->global));
    HN_TRY(take_model(s, &s->a));
    for (int i = 0; i < hn_fed_states(s->o.method); i++) HN_TRY(take_model(s, &s->state[i]));
    for (int64_t i = 0; i < hn_fed_ring(&s->o); i++) HN_TRY(take_model(s, &s->ring[i]));
    s->n_chunks = count_chunks(s->l);
    s->chunk = hn_calloc((size_t)s->n_chunks, sizeof *s->chunk);
    s->part = hn_calloc((size_t)s->n_chunks, 2 * sizeof *s->part);
    if (s->chunk == NULL || s->part == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " chunks", s->n_chunks);
    fill_chunks(s);
    return HN_OK;
}

hn_status hn_fed_server_new(const hn_fed_layout *l, const hn_fed_server_options *o,
                            const float *start, hn_fed_server **out)
{
    HN_TRY(hn_fed_options_check(o));
    if (l->n == 0) return HN_FAIL(HN_ERR_ARG, "a layout without tensors");
    HN_TRY(hn_fed_layout_check(l, start, "the first global model"));
    hn_fed_server *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a server");
    s->l = l;
    s->o = *o;
    const hn_status st = take_memory(s);
    if (st != HN_OK) {
        hn_fed_server_free(s);
        return st;
    }
    memcpy(s->global, start, (size_t)l->n * sizeof *start);
    if (o->method == HN_FED_EMA) memcpy(s->state[0], start, (size_t)l->n * sizeof *start);
    if (hn_fed_method_uses(o->method) & HN_FED_USES_TAU)
        for (int64_t i = 0; i < l->n; i++) s->state[1][i] = (float)(o->tau * o->tau);
    *out = s;
    return HN_OK;
}

const float *hn_fed_server_values(const hn_fed_server *s) { return s->global; }

const float *hn_fed_server_result(const hn_fed_server *s)
{
    return s->o.method == HN_FED_EMA ? s->state[0] : s->global;
}

int64_t hn_fed_server_round(const hn_fed_server *s) { return s->round; }

/* ---- what arrives ---- */

hn_status hn_fed_server_begin(hn_fed_server *s, int64_t round)
{
    if (round <= s->round)
        return HN_FAIL(HN_ERR_ARG, "round %" PRId64 " after round %" PRId64, round, s->round);
    s->open = round;
    s->n_updates = s->rejected = 0;
    return HN_OK;
}

/* Where the update of a client belongs among those that are here. */
static int64_t place_of(const hn_fed_server *s, int64_t client)
{
    int64_t at = s->n_updates;
    while (at > 0 && s->update[at - 1].client >= client) at--;
    return at;
}

static hn_status accept(hn_fed_server *s, const hn_fed_update *u)
{
    if (u->round != s->open)
        return HN_FAIL(HN_ERR_ARG,
                       "update of client %" PRId64 ": stale, of round %" PRId64
                       ", this is round %" PRId64,
                       u->client, u->round, s->open);
    const int64_t at = place_of(s, u->client);
    if (at < s->n_updates && s->update[at].client == u->client)
        return HN_FAIL(HN_ERR_ARG, "a second update of client %" PRId64 " in round %" PRId64,
                       u->client, s->open);
    if ((u->fisher != NULL) != s->o.fisher)
        return HN_FAIL(HN_ERR_ARG, "update of client %" PRId64 ": a Fisher diagonal is %s",
                       u->client, s->o.fisher ? "missing" : "not wanted");
    HN_TRY(hn_fed_update_check(s->l, u));
    HN_TRY(hn_grow(&s->update, &s->cap, s->n_updates, sizeof *s->update));
    memmove(s->update + at + 1, s->update + at, (size_t)(s->n_updates - at) * sizeof *s->update);
    s->update[at] = *u;
    s->n_updates++;
    return HN_OK;
}

void hn_fed_server_reject(hn_fed_server *s) { s->rejected++; }

void hn_fed_server_cancel(hn_fed_server *s) { s->open = s->n_updates = s->rejected = 0; }

hn_status hn_fed_server_add(hn_fed_server *s, const hn_fed_update *u)
{
    const hn_status st = accept(s, u);
    if (st != HN_OK) hn_fed_server_reject(s);
    return st;
}

/* ---- the pass ---- */

/* theta of a chunk of values into global; false: theta = a. */
static bool correct(const hn_fed_pass *p, const hn_fed_chunk *c, hn_fed_sums *sums)
{
    const hn_fed_server *s = p->s;
    switch (s->o.method) {
    case HN_FED_FEDAVGM: hn_fed_momentum(p, c); return true;
    case HN_FED_FEDADAGRAD:
    case HN_FED_FEDADAM:
    case HN_FED_FEDYOGI: hn_fed_adaptive(p, c); return true;
    case HN_FED_FEDREF_V2:
        if (p->correct) hn_fed_ref_v2(p, c);
        return p->correct;
    case HN_FED_FEDREF_V3:
        if (s->o.fisher) {
            const hn_fed_tensor *t = &s->l->tensor[c->tensor];
            hn_fed_average_fisher(p, c, t->value + c->first - t->first, sums);
        }
        if (p->correct || s->o.fisher) hn_fed_ref_v3(p, c, sums);
        return p->correct || s->o.fisher;
    default: return false;
    }
}

static void average_of_models(const hn_fed_pass *p, const hn_fed_chunk *c)
{
    const hn_fed_server *s = p->s;
    const double keep = s->aggregates > 0 ? s->o.ema : 0;
    const float *a = s->a + c->first;
    float *e = s->state[0] + c->first;
    for (int j = 0; j < c->n; j++) e[j] = (float)(keep * (double)e[j] + (1 - keep) * (double)a[j]);
}

static double square_distance(const float *x, const float *y, int n)
{
    double sum = 0;
    for (int j = 0; j < n; j++) {
        const double d = (double)x[j] - (double)y[j];
        sum += d * d;
    }
    return sum;
}

static void run_chunk(const hn_fed_pass *p, const hn_fed_chunk *c, double part[2])
{
    const hn_fed_server *s = p->s;
    const hn_fed_role role = s->l->tensor[c->tensor].role;
    const float *a = s->a + c->first;
    float *global = s->global + c->first;
    hn_fed_sums sums;
    part[0] = part[1] = 0;
    hn_fed_average(p, c, &sums);
    if (role == HN_FED_VALUE) part[0] = square_distance(a, global, c->n);
    const bool done = role == HN_FED_VALUE && correct(p, c, &sums);
    if (!done) memcpy(global, a, (size_t)c->n * sizeof *a);
    if (role == HN_FED_VALUE) part[1] = square_distance(global, a, c->n);
    if (s->o.method != HN_FED_EMA) return;
    if (role == HN_FED_COUNTER)
        memcpy(s->state[0] + c->first, a, (size_t)c->n * sizeof *a);
    else
        average_of_models(p, c);
}

static double mean_loss(const hn_fed_server *s)
{
    double sum = 0;
    for (int64_t k = 0; k < s->n_updates; k++) sum += (double)s->update[k].loss;
    return sum / (double)s->n_updates;
}

/* fedref-v1 had to wait for the whole aggregate. */
static hn_status run_v1(const hn_fed_pass *p)
{
    const hn_fed_server *s = p->s;
    if (!p->correct) return HN_OK;
    HN_TRY(hn_fed_ref_v1(p));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < s->n_chunks; i++) {
        const hn_fed_chunk *c = &s->chunk[i];
        if (s->l->tensor[c->tensor].role == HN_FED_VALUE)
            s->part[2 * i + 1] = square_distance(s->global + c->first, s->a + c->first, c->n);
    }
    return HN_OK;
}

/* A client's values are finite, their squares need not be in fp32. */
static hn_status check_states(const hn_fed_server *s)
{
    for (int i = 0; i < hn_fed_states(s->o.method); i++)
        HN_TRY(hn_fed_layout_check(s->l, s->state[i], "what the server remembers"));
    return HN_OK;
}

/* Sums of parts in the order of the chunks. */
static hn_status sum_parts(const hn_fed_server *s, hn_fed_round_report *r)
{
    double update = 0, correction = 0;
    for (int64_t i = 0; i < s->n_chunks; i++) {
        update += s->part[2 * i];
        correction += s->part[2 * i + 1];
    }
    if (!isfinite(update + correction))
        HN_TRY(hn_fed_layout_check(s->l, s->global, "the new global model"));
    HN_TRY(check_states(s));
    r->update_norm = sqrt(update);
    r->correction_norm = sqrt(correction);
    return HN_OK;
}

static hn_status run_pass(hn_fed_pass *p, hn_fed_round_report *r)
{
    hn_fed_server *s = p->s;
    const hn_fed_method method = s->o.method;
    if (method == HN_FED_MEDIAN || method == HN_FED_TRIMMED_MEAN) {
        const size_t rows = (size_t)omp_get_max_threads() * (size_t)s->n_updates;
        p->sorted = hn_malloc(rows * HN_FED_SORT * sizeof *p->sorted);
        if (p->sorted == NULL)
            return HN_FAIL(HN_ERR_MEMORY, "no memory to sort %" PRId64 " updates", s->n_updates);
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < s->n_chunks; i++) run_chunk(p, &s->chunk[i], s->part + 2 * i);
    hn_free(p->sorted);
    if (method == HN_FED_FEDREF_V1) HN_TRY(run_v1(p));
    return sum_parts(s, r);
}

/* The aggregate takes the place of the oldest one. */
static void keep_aggregate(hn_fed_server *s)
{
    if (hn_fed_ring(&s->o) > 0) {
        float **oldest = &s->ring[s->aggregates % s->o.p], *old = *oldest;
        *oldest = s->a;
        s->a = old;
    }
    s->aggregates++;
}

static bool method_corrects(const hn_fed_pass *p)
{
    const hn_fed_server_options *o = &p->s->o;
    if (hn_fed_ring(o) > 0) return p->correct || o->fisher;
    return o->method != HN_FED_FEDAVG && o->method != HN_FED_FEDPROX && o->method != HN_FED_EMA;
}

static hn_status run_round(hn_fed_server *s, hn_fed_round_report *r)
{
    hn_fed_pass p = {.s = s};
    double loss = 0;
    for (int64_t k = 0; k < s->n_updates; k++) {
        p.samples += (double)s->update[k].samples;
        r->samples += s->update[k].samples;
        loss += (double)s->update[k].samples * (double)s->update[k].loss;
    }
    const double mean = mean_loss(s);
    if (hn_fed_ring(&s->o) > 0) hn_fed_ref_begin(&p);
    if (s->o.loss_term) p.d_loss = mean - s->mean_loss;
    HN_TRY(run_pass(&p, r));
    s->mean_loss = mean;
    r->loss = loss / p.samples;
    r->changed = true;
    r->corrected = method_corrects(&p);
    keep_aggregate(s);
    return HN_OK;
}

hn_status hn_fed_server_finish(hn_fed_server *s, hn_fed_round_report *report)
{
    hn_fed_round_report r = {.round = s->open,
                             .used = s->n_updates,
                             .rejected = s->rejected,
                             .lambda2 = hn_fed_server_lambda2(&s->o, s->open)};
    if (s->open == 0) return HN_FAIL(HN_ERR_ARG, "the end of a round that was not begun");
    if (s->n_updates >= s->o.quorum) HN_TRY(run_round(s, &r));
    s->round = s->open;
    s->open = s->n_updates = s->rejected = 0;
    if (report != NULL) *report = r;
    return HN_OK;
}
