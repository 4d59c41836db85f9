/* One round: the model goes out as a message, clients train, their messages come back, the server
 * takes those that are good. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/train/fedref_impl.h"
#include "runtime/train/signals.h"

/* A round that is under way. */
typedef struct {
    hn_fedref *r;
    int64_t number, working; /* tasks */
    int64_t refusals;        /* before it */
    hn_fedref_round row;
} round_state;

static double since(int64_t ns) { return (double)(hn_clock_ns() - ns) * 1e-9; }

static hn_fed_encoding down_encoding(const hn_fedref *r)
{
    return strcmp(r->c->down, "bf16") == 0 ? HN_FED_BF16 : HN_FED_F32;
}

int64_t hn_fedref_bytes_down(const hn_fedref *r)
{
    return hn_fed_message_bytes(&r->layout, down_encoding(r), 0, false);
}

int64_t hn_fedref_bytes_up(const hn_fedref *r)
{
    const hn_fed_config *c = &r->c->fed;
    return hn_fed_message_bytes(&r->layout, hn_fed_setup_encoding(c),
                                hn_fed_setup_topk(c, &r->layout), r->method.fisher);
}

/* ---- it counts as a whole or not at all ---- */

static void open_round(round_state *s)
{
    hn_fedref *r = s->r;
    s->refusals = r->n_refusals;
    memcpy(r->old_tally, r->tally, (size_t)r->partition.clients * sizeof *r->tally);
}

static void keep_round(round_state *s)
{
    hn_fedref *r = s->r;
    while (r->n_old > 0) hn_free(r->old[--r->n_old].residual);
    r->round[r->done++] = s->row;
}

static void take_back(round_state *s)
{
    hn_fedref *r = s->r;
    hn_fed_server_cancel(r->server);
    hn_fedref_forget_refusals(r, s->refusals);
    memcpy(r->tally, r->old_tally, (size_t)r->partition.clients * sizeof *r->tally);
    while (r->n_old > 0) {
        const hn_fedref_old *old = &r->old[--r->n_old];
        hn_free(r->residual[old->client]);
        r->residual[old->client] = old->residual;
    }
}

/* A copy of the client's residual to be worked on; the one it had is kept until the round is over.
 * From several threads, each of another client. */
static hn_status replace_residual(hn_fedref *r, int64_t client)
{
    const size_t bytes = (size_t)r->layout.values * sizeof(float);
    float *had = r->residual[client], *now = hn_calloc(1, bytes);
    if (now == NULL) return HN_FAIL(HN_ERR_MEMORY, "residual of client %" PRId64, client);
    if (had != NULL) memcpy(now, had, bytes);
    int64_t at;
    r->residual[client] = now;
#pragma omp atomic capture
    at = r->n_old++;
    r->old[at] = (hn_fedref_old){.client = client, .residual = had};
    return HN_OK;
}

/* ---- who is asked, and what for ---- */

static hn_status send_model(round_state *s)
{
    hn_fedref *r = s->r;
    hn_fed_head head;
    HN_TRY(hn_fed_encode_model(&r->layout, s->number, hn_fed_server_values(r->server),
                               down_encoding(r), &r->down));
    return hn_fed_decode(&r->layout, r->down.data, r->down.n, HN_FED_MODEL, s->number, NULL, &head,
                         r->sent, NULL);
}

static hn_fed_task task_of(const round_state *s, const hn_fed_call *call)
{
    const hn_fedref *r = s->r;
    const hn_partition *p = &r->partition;
    const hn_fed_local *l = &r->about->local;
    const int64_t n = p->first[call->client + 1] - p->first[call->client];
    const int64_t all = hn_fed_steps(l, n, r->c->fed.epochs);
    const int64_t steps = (int64_t)((double)all * call->share);
    return (hn_fed_task){.client = call->client,
                         .index = p->index + p->first[call->client],
                         .n = n,
                         .steps = steps < 1 ? 1 : steps,
                         .lr = hn_fed_setup_lr(&r->c->fed, s->number),
                         .seed = hn_fed_task_seed(r->about->seed, s->number, call->client)};
}

/* The longest first, of equals in the order of clients: groups of replicas are of like lengths
 * then, of which each takes as long as its longest, and lanes and blocks end about together. */
static int by_length(const void *a, const void *b)
{
    const hn_fed_task *s = a, *t = b;
    if (s->steps != t->steps) return s->steps > t->steps ? -1 : 1;
    return s->client < t->client ? -1 : s->client > t->client;
}

static hn_status call_clients(round_state *s)
{
    hn_fedref *r = s->r;
    const double bytes = (double)r->down.n;
    HN_TRY(hn_fed_schedule_round(&r->schedule, s->number, r->calls));
    for (int64_t i = 0; i < r->schedule.per_round; i++) {
        const hn_fed_call *call = &r->calls[i];
        hn_fedref_tally *t = &r->tally[call->client];
        const double ids = t->asked > 0 ? 0 : (double)r->ids.n; /* it has them from then on */
        t->asked++;
        t->bytes_down += bytes + ids;
        s->row.bytes_down += bytes + ids;
        t->dropped += call->fate == HN_FED_DROPS;
        t->late += call->fate == HN_FED_LATE;
        s->row.dropped += call->fate == HN_FED_DROPS;
        s->row.late += call->fate == HN_FED_LATE;
        if (call->fate != HN_FED_DROPS) r->task[s->working++] = task_of(s, call);
    }
    qsort(r->task, (size_t)s->working, sizeof *r->task, by_length);
    s->row.asked = (double)r->schedule.per_round;
    return HN_OK;
}

/* ---- what comes back ---- */

/* Of one client; the round goes on. */
static hn_status refuse(round_state *s, int64_t client, const char *reason)
{
    hn_fedref *r = s->r;
    char text[1200];
    snprintf(text, sizeof text, "round %" PRId64 ": update of client %" PRId64 " rejected: %s",
             s->number, client, reason);
    HN_TRY(hn_fedref_refuse(r, s->number, client, reason));
    r->tally[client].rejected++;
    s->row.rejected++;
    hn_warn(&r->log, "%s", text);
    return HN_OK;
}

/* What is wrong with a message or an update; other codes are ours. */
static bool is_refusal(hn_status st)
{
    return st == HN_ERR_FORMAT || st == HN_ERR_SHAPE || st == HN_ERR_ARG || st == HN_ERR_NUMERIC;
}

static hn_status encode(round_state *s, const hn_fed_task *task, const hn_fed_trained *t,
                        hn_fed_bytes *up)
{
    hn_fedref *r = s->r;
    const hn_fed_config *c = &r->c->fed;
    const hn_fed_update u = {.client = task->client,
                             .round = s->number,
                             .samples = task->n,
                             .loss = t->loss,
                             .value = t->value,
                             .fisher = r->method.fisher ? t->fisher : NULL};
    hn_fed_coding coding = {.encoding = hn_fed_setup_encoding(c)};
    if (coding.encoding != HN_FED_F32) {
        coding.k = hn_fed_setup_topk(c, &r->layout);
        coding.base = r->sent;
        if (c->feedback) HN_TRY(replace_residual(r, task->client));
        coding.residual = r->residual[task->client];
    }
    HN_TRY(hn_fed_encode_update(&r->layout, &u, &coding, up));
    hn_fedref_damage(r, s->number, task->client, up);
    return HN_OK;
}

/* Where the update of task i goes, and its Fisher diagonal. */
static float *received(const hn_fedref *r, int64_t i) { return r->received + i * r->layout.n; }

static float *fisher(const hn_fedref *r, int64_t i)
{
    return r->fisher ? r->fisher + i * r->layout.values : NULL;
}

/* As from a socket: all that is known is whose turn it was. */
static hn_status decode(const round_state *s, int64_t i, const hn_fed_bytes *up, hn_fed_head *head)
{
    const hn_fedref *r = s->r;
    HN_TRY(hn_fed_decode(&r->layout, up->data, up->n, HN_FED_UPDATE, s->number, r->sent, head,
                         received(r, i), fisher(r, i)));
    if (head->client == r->task[i].client) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "a message of client %" PRId64, head->client);
}

/* The message of task i from its client to the server's memory; several at a time. */
static void prepare(void *context, int64_t i, const hn_fed_trained *t)
{
    round_state *s = context;
    hn_fed_bytes *up = &s->r->up[omp_get_thread_num()];
    hn_fedref_message *m = &s->r->message[i];
    m->decoded = HN_OK;
    m->encoded = encode(s, &s->r->task[i], t, up);
    m->n_bytes = up->n;
    if (m->encoded == HN_OK) m->decoded = decode(s, i, up, &m->head);
    if (m->encoded != HN_OK || m->decoded != HN_OK)
        snprintf(m->reason, sizeof m->reason, "%s", hn_last_text());
}

static hn_status to_server(const round_state *s, int64_t i)
{
    const hn_fedref *r = s->r;
    const hn_fedref_message *m = &r->message[i];
    const hn_fed_update u = {.client = m->head.client,
                             .round = m->head.round,
                             .samples = m->head.samples,
                             .loss = m->head.loss,
                             .value = received(r, i),
                             .fisher = fisher(r, i)};
    if (m->decoded == HN_OK) return hn_fed_server_add(r->server, &u);
    hn_fed_server_reject(r->server);
    return HN_FAIL(m->decoded, "%s", m->reason);
}

static hn_status take(void *context, int64_t i, const hn_fed_trained *t)
{
    round_state *s = context;
    hn_fedref *r = s->r;
    const int64_t client = r->task[i].client;
    const hn_fedref_message *m = &r->message[i];
    hn_fedref_tally *tally = &r->tally[client];
    char detail[96];
    s->row.client_s += t->seconds;
    tally->seconds += t->seconds;
    if (m->encoded == HN_ERR_NUMERIC) { /* it has nothing that could be sent */
        hn_fed_server_reject(r->server);
        return refuse(s, client, m->reason);
    }
    if (m->encoded != HN_OK) return HN_FAIL(m->encoded, "%s", m->reason);
    tally->bytes_up += (double)m->n_bytes;
    s->row.bytes_up += (double)m->n_bytes;
    const hn_status st = to_server(s, i);
    if (is_refusal(st)) return refuse(s, client, hn_last_text());
    if (st == HN_OK) tally->used++;
    snprintf(detail, sizeof detail, "client %" PRId64 "/%" PRId64 " loss %.4f", i + 1, s->working,
             (double)t->loss);
    hn_progress_update(&r->progress, r->done, 0, detail);
    return st;
}

/* ---- what comes of it ---- */

static hn_status missed_quorum(round_state *s)
{
    hn_fedref *r = s->r;
    const int64_t good = s->working - (int64_t)s->row.rejected;
    if (good >= r->c->quorum || strcmp(r->c->below_quorum, "skip") == 0) return HN_OK;
    take_back(s);
    HN_TRY(hn_fedref_save(r));
    return HN_FAIL(HN_ERR_NUMERIC,
                   "round %" PRId64 ": %" PRId64 " good updates of %" PRId64
                   " clients, the quorum is %" PRId64 "; %s has the state behind round %" PRId64
                   " (--below-quorum skip goes on)",
                   s->number, good, r->schedule.per_round, r->c->quorum, r->out, r->saved);
}

static hn_status aggregate(round_state *s)
{
    hn_fedref *r = s->r;
    hn_fed_round_report report;
    const int64_t begun = hn_clock_ns();
    HN_TRY(missed_quorum(s));
    HN_TRY(hn_fed_server_finish(r->server, &report));
    s->row.server_ms = 1e3 * since(begun);
    s->row.used = (double)report.used;
    s->row.client_loss = report.used > 0 ? report.loss : NAN;
    s->row.changed = report.changed;
    s->row.corrected = report.corrected;
    s->row.lambda2 = report.lambda2;
    s->row.update_norm = report.update_norm;
    s->row.correction_norm = report.correction_norm;
    if (!report.changed)
        hn_warn(&r->log,
                "round %" PRId64 ": %" PRId64 " good updates, the quorum is %" PRId64
                ": the model stays as it was",
                s->number, report.used, r->c->quorum);
    return HN_OK;
}

static bool has_turn(const hn_fedref *r, int64_t round) { return round % r->c->eval_every == 0; }

static void copy_classes(const hn_fedref *r, double *best, double *last, const double *from_best,
                         const double *from_last)
{
    const size_t bytes = (size_t)hn_fedref_classes(r) * sizeof *best;
    memcpy(best, from_best, bytes);
    memcpy(last, from_last, bytes);
}

void hn_fedref_forget_last(hn_fedref *r)
{
    if (r->done == 0 || has_turn(r, r->done)) return;
    hn_fedref_round *row = &r->round[r->done - 1];
    row->score = row->loss = row->hd95 = NAN;
    row->eval_s = 0;
    r->unmeasured = false;
    copy_classes(r, r->class_best, r->class_last, r->turn_best, r->turn_last);
}

/* The model behind round `number` into its line. */
static hn_status measure(hn_fedref *r, int64_t number, hn_fedref_round *row)
{
    hn_fedref_subject *about = r->about;
    hn_fedref_scores scores;
    const int64_t begun = hn_clock_ns();
    HN_TRY(hn_fedref_measure(r, number));
    about->summarize(about, r->record, &scores);
    row->score = scores.score;
    row->loss = scores.loss;
    row->hd95 = scores.hd95;
    row->eval_s = since(begun);
    for (int64_t k = 0; k < hn_fedref_classes(r); k++) {
        const double a = scores.class_score[k];
        if (isnan(a)) continue;
        r->class_last[k] = a;
        if (!(r->class_best[k] >= a)) r->class_best[k] = a;
    }
    if (has_turn(r, number))
        copy_classes(r, r->turn_best, r->turn_last, r->class_best, r->class_last);
    return HN_OK;
}

static hn_status evaluate(round_state *s)
{
    hn_fedref *r = s->r;
    s->row.score = s->row.loss = s->row.hd95 = NAN;
    if (!has_turn(r, s->number) && s->number != r->c->rounds) return HN_OK;
    const hn_status st = measure(r, s->number, &s->row);
    r->unmeasured = st == HN_ERR_STOPPED;
    return r->unmeasured ? HN_OK : st;
}

hn_status hn_fedref_measure_first(hn_fedref *r)
{
    const hn_status st = measure(r, r->done, &r->round[r->done - 1]);
    if (st == HN_ERR_STOPPED) return HN_OK;
    HN_TRY(st);
    r->unmeasured = false;
    r->saved = -1; /* the state on disk is without it */
    return HN_OK;
}

/* Between two steps. The round is taken back then; ranks finish it, as all must come out of it. */
static hn_status unless_stopped(void *context)
{
    const round_state *s = context;
    const int number = hn_signals_caught();
    return number == 0 ? HN_OK
                       : HN_FAIL(HN_ERR_STOPPED, "%s within round %" PRId64,
                                 hn_signals_name(number), s->number);
}

static hn_status run(round_state *s)
{
    hn_fedref *r = s->r;
    HN_TRY(send_model(s));
    HN_TRY(call_clients(s));
    HN_TRY(hn_fed_server_begin(r->server, s->number));
    r->sim->prepare = prepare;
    r->sim->moved = r->team == NULL ? unless_stopped : NULL;
    r->sim->number = s->number;
    HN_TRY(r->sim->round(r->sim, r->sent, r->task, s->working, take, s));
    hn_team_at(r->call->team, HN_HUB_AT_SERVER, s->number);
    HN_TRY(aggregate(s));
    return evaluate(s);
}

hn_status hn_fedref_run_round(hn_fedref *r)
{
    round_state s = {.r = r, .number = r->done + 1};
    s.row.round = (double)s.number;
    open_round(&s);
    const hn_status st = run(&s);
    if (st == HN_OK)
        keep_round(&s);
    else
        take_back(&s);
    return st;
}
