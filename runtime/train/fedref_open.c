/* What a run works on: its subject, who has which samples, and what travels. */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/mapfile.h"
#include "runtime/model/seg_model.h"
#include "runtime/train/fedref_impl.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

void hn_fedref_close(hn_fedref *r)
{
    hn_progress_end(&r->progress);
    hn_fed_server_free(r->server);
    hn_fed_bytes_free(&r->ids);
    hn_fed_bytes_free(&r->down);
    for (int k = 0; r->up && k < r->threads; k++) hn_fed_bytes_free(&r->up[k]);
    hn_free(r->up);
    hn_free(r->message);
    for (int64_t k = 0; r->residual && k < r->partition.clients; k++) hn_free(r->residual[k]);
    hn_free(r->residual);
    hn_free(r->sent);
    hn_free(r->received);
    hn_free(r->fisher);
    hn_free(r->calls);
    hn_free(r->task);
    hn_free(r->round);
    hn_free(r->tally);
    hn_free(r->old_tally);
    hn_free(r->old);
    hn_fedref_forget_refusals(r, 0);
    hn_free(r->refusal);
    hn_free(r->class_best);
    hn_free(r->class_last);
    hn_free(r->turn_best);
    hn_free(r->turn_last);
    hn_free(r->record);
    hn_free(r->injection);
    hn_fed_layout_free(&r->layout);
    hn_partition_free(&r->partition);
    json_decref(r->index);
    hn_outdir_unlock(r->lock);
    hn_free(r->out);
    hn_free(r->data_digest);
    hn_free(r->settings);
    hn_fed_sim_free(r->team);
    if (r->about) r->about->free(r->about);
    *r = (hn_fedref){0};
}

/* ---- who has which samples ---- */

/* A group number for each image, separated by spaces or line ends. */
static hn_status read_groups(const char *path, int64_t n, int32_t *group)
{
    hn_mapfile m = {0};
    HN_TRY(hn_mapfile_open(path, &m));
    const unsigned char *at = m.data, *end = at + m.size;
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK; i++) {
        while (at < end && isspace(*at)) at++;
        if (at == end && i == n) break;
        int64_t v = 0;
        const unsigned char *first = at;
        while (at < end && *at >= '0' && *at <= '9' && v <= INT32_MAX) v = 10 * v + (*at++ - '0');
        if (at == first || v > INT32_MAX || i == n || (at < end && !isspace(*at)))
            st = HN_FAIL(HN_ERR_FORMAT,
                         "--groups %s: number %" PRId64 ": not one group number, 0 or above, for "
                         "each of %" PRId64 " images",
                         path, i + 1, n);
        else
            group[i] = (int32_t)v;
    }
    hn_mapfile_close(&m);
    return st;
}

static hn_partition_options partition_options(const hn_fedref_config *c)
{
    int rule = 0;
    while (rule < HN_PARTITION_COUNT - 1 &&
           !is(hn_partition_rule_name((hn_partition_rule)rule), c->partition))
        rule++;
    return (hn_partition_options){.rule = (hn_partition_rule)rule,
                                  .clients = c->clients,
                                  .seed = (uint64_t)c->fed.seed,
                                  .alpha = c->alpha,
                                  .shards = c->shards,
                                  .min_samples = c->min_samples};
}

static hn_status make_partition(hn_fedref *r, const hn_partition_options *o)
{
    const hn_fedref_subject *s = r->about;
    if (o->rule != HN_PARTITION_GROUP || s->grouped)
        return hn_partition_make(o, s->label, s->label, s->samples, &r->partition);
    int32_t *group = hn_malloc((size_t)s->samples * sizeof *group);
    if (group == NULL) return HN_FAIL(HN_ERR_MEMORY, "groups of %" PRId64 " images", s->samples);
    hn_status st = read_groups(r->c->groups, s->samples, group);
    if (st == HN_OK) st = hn_partition_make(o, s->label, group, s->samples, &r->partition);
    hn_free(group);
    return st;
}

static hn_status open_partition(hn_fedref *r)
{
    const hn_fedref_subject *s = r->about;
    const hn_partition_options o = partition_options(r->c);
    HN_TRY(make_partition(r, &o));
    /* A site is no class. */
    return hn_partition_report(&r->partition, s->volumes ? NULL : s->label, s->n_labels, &r->log);
}

static hn_status open_schedule(hn_fedref *r)
{
    const hn_fedref_config *c = r->c;
    const int64_t clients = r->partition.clients;
    r->schedule = (hn_fed_schedule){.clients = clients,
                                    .per_round = c->per_round > 0 ? c->per_round : clients,
                                    .seed = (uint64_t)c->fed.seed,
                                    .dropout = c->dropout,
                                    .late = c->late,
                                    .late_least = c->late_least};
    if (c->per_round > clients)
        return HN_FAIL(HN_ERR_ARG, "--per-round %" PRId64 ": there are %" PRId64 " clients",
                       c->per_round, clients);
    if (c->quorum > r->schedule.per_round)
        return HN_FAIL(HN_ERR_ARG, "--quorum %" PRId64 ": %" PRId64 " clients are asked a round",
                       c->quorum, r->schedule.per_round);
    r->calls = hn_calloc((size_t)r->schedule.per_round, sizeof *r->calls);
    r->task = hn_calloc((size_t)r->schedule.per_round, sizeof *r->task);
    r->old = hn_calloc((size_t)r->schedule.per_round, sizeof *r->old);
    if (r->calls == NULL || r->task == NULL || r->old == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " clients", r->schedule.per_round);
    return hn_fed_schedule_round(&r->schedule, 1, r->calls); /* its options are good */
}

/* Damage to a message that nobody sends does nothing: a test that asks for it shows nothing. */
static hn_status warn_of_idle(hn_fedref *r, const hn_injection *in)
{
    HN_TRY(hn_fed_schedule_round(&r->schedule, in->round, r->calls));
    const hn_fed_call *end = r->calls + r->schedule.per_round, *call = r->calls;
    while (call < end && call->client != in->client) call++;
    if (call == end || call->fate == HN_FED_DROPS)
        hn_warn(&r->log,
                "--inject: client %" PRId64 " %s in round %" PRId64 ": there is nothing to damage",
                in->client, call == end ? "is not asked" : "drops out", in->round);
    return HN_OK;
}

static hn_status check_injections(hn_fedref *r, bool simulate)
{
    for (int64_t i = 0; i < r->n_injections; i++) {
        const hn_injection *in = &r->injection[i];
        if (in->client >= r->partition.clients)
            return HN_FAIL(HN_ERR_ARG, "--inject: client %" PRId64 " of %" PRId64, in->client,
                           r->partition.clients);
        if (in->round < 1 || in->round > r->c->rounds)
            return HN_FAIL(HN_ERR_ARG, "--inject: round %" PRId64 " of %" PRId64, in->round,
                           r->c->rounds);
        if (simulate) HN_TRY(warn_of_idle(r, in));
    }
    return HN_OK;
}

static hn_status digest_data(hn_fedref *r)
{
    char order[HN_SHA256_HEX], bounds[HN_SHA256_HEX];
    const hn_partition *p = &r->partition;
    HN_TRY(hn_sha256(p->index, (size_t)p->first[p->clients] * sizeof *p->index, order));
    HN_TRY(hn_sha256(p->first, (size_t)(p->clients + 1) * sizeof *p->first, bounds));
    r->data_digest = hn_asprintf("%s held out %s parted %s at %s", r->about->train_digest,
                                 r->about->eval_digest, order, bounds);
    return r->data_digest ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the data's digest");
}

/* ---- what travels ---- */

static hn_status open_payload(hn_fedref *r)
{
    if (r->about->support != NULL) HN_TRY(hn_fed_support_encode(r->about->support, &r->ids));
    HN_TRY(r->about->layout(r->about, &r->layout));
    hn_info(&r->log,
            "payload: %" PRId64 " tensors, %" PRId64 " values (%" PRId64
            " of them running statistics)",
            r->layout.count, r->layout.n, r->layout.n - r->layout.values);
    return hn_fedref_method(r->c, &r->method);
}

static hn_status make_tables(hn_fedref *r)
{
    const size_t clients = (size_t)r->partition.clients, classes = (size_t)hn_fedref_classes(r);
    r->round = hn_calloc((size_t)r->c->rounds, sizeof *r->round);
    r->tally = hn_calloc(clients, sizeof *r->tally);
    r->old_tally = hn_calloc(clients, sizeof *r->old_tally);
    r->residual = hn_calloc(clients, sizeof *r->residual);
    r->class_best = hn_calloc(classes, sizeof *r->class_best);
    r->class_last = hn_calloc(classes, sizeof *r->class_last);
    r->turn_best = hn_calloc(classes, sizeof *r->turn_best);
    r->turn_last = hn_calloc(classes, sizeof *r->turn_last);
    r->record = hn_calloc((size_t)r->about->parts, r->about->part_bytes);
    if (!r->round || !r->tally || !r->old_tally || !r->residual || !r->class_best ||
        !r->class_last || !r->turn_best || !r->turn_last || !r->record)
        return HN_FAIL(HN_ERR_MEMORY, "tables of %zu clients and %" PRId64 " rounds", clients,
                       r->c->rounds);
    for (size_t k = 0; k < classes; k++) {
        r->class_best[k] = r->class_last[k] = NAN;
        r->turn_best[k] = r->turn_last[k] = NAN;
    }
    return HN_OK;
}

/* Behind round 0: the model as files or the seed have it. */
static hn_status open_server(hn_fedref *r)
{
    float *start = hn_malloc((size_t)r->layout.n * sizeof *start);
    if (start == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values", r->layout.n);
    hn_status st = r->about->get(r->about, start);
    if (st == HN_OK) st = hn_fed_server_new(&r->layout, &r->method, start, &r->server);
    hn_free(start);
    return st;
}

/* What only rank 0 has: the server, and room for what comes to it. */
static hn_status open_updates(hn_fedref *r)
{
    const int64_t n = r->layout.n, each = r->schedule.per_round;
    r->sent = hn_malloc((size_t)n * sizeof *r->sent);
    r->received = hn_malloc((size_t)(n * each) * sizeof *r->received);
    if (r->method.fisher) r->fisher = hn_malloc((size_t)(r->layout.values * each) * sizeof(float));
    r->threads = omp_get_max_threads();
    r->up = hn_calloc((size_t)r->threads, sizeof *r->up);
    r->message = hn_calloc((size_t)each, sizeof *r->message);
    if (r->sent == NULL || r->received == NULL || (r->method.fisher && r->fisher == NULL) ||
        r->up == NULL || r->message == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " updates of %" PRId64 " values", each, n);
    return open_server(r);
}

static hn_status open_simulation(hn_fedref *r)
{
    if (hn_fedref_leads(r)) HN_TRY(open_updates(r));
    if (r->method.fisher) r->about->local.fisher_images = r->c->fisher_images;
    HN_TRY(r->about->simulate(r->about, r->schedule.per_round, r->ranks));
    r->sim = r->about->sim;
    return HN_OK;
}

hn_status hn_fedref_open(const hn_verb_call *call, int64_t ranks, hn_fedref *r)
{
    const hn_fedref_config *const given = call->config;
    const bool simulate = ranks > 0;
    *r = (hn_fedref){
        .own = *given, .call = call, .ranks = ranks, .log = call->log, .to = call->to, .saved = -1};
    r->c = &r->own;
    r->own.fed.device = hn_team_device(call->team, given->fed.device);
    r->json = is(r->c->log_format, "json");
    HN_TRY(hn_fedref_check_options(call));
    HN_TRY(hn_fedref_injections(r->c->inject, &r->injection, &r->n_injections));
    HN_TRY(hn_seg_model_is(r->c->fed.model)
               ? hn_fedref_volumes_open(r->c, simulate, &r->log, &r->about)
               : hn_fedref_images_open(r->c, &r->log, &r->about));
    HN_TRY(open_partition(r));
    HN_TRY(open_schedule(r));
    HN_TRY(check_injections(r, simulate));
    HN_TRY(digest_data(r));
    HN_TRY(open_payload(r));
    HN_TRY(make_tables(r));
    return simulate ? open_simulation(r) : HN_OK;
}

void hn_fedref_forget_refusals(hn_fedref *r, int64_t n)
{
    while (r->n_refusals > n) hn_free(r->refusal[--r->n_refusals].reason);
}

hn_status hn_fedref_refuse(hn_fedref *r, int64_t round, int64_t client, const char *reason)
{
    HN_TRY(hn_grow(&r->refusal, &r->cap_refusals, r->n_refusals, sizeof *r->refusal));
    char *copy = hn_strdup(reason);
    if (copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a reason");
    r->refusal[r->n_refusals++] =
        (hn_fedref_refusal){.round = round, .client = client, .reason = copy};
    return HN_OK;
}
