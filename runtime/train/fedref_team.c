/* Several ranks of a run: whether they are about the same, and the simulation that they share. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/fedref_impl.h"
#include "runtime/train/signals.h"

int hn_fedref_signal(const hn_fedref *r)
{
    const int own = hn_signals_caught();
    return own == 0 && r->team != NULL ? hn_fed_ranks_signal(r->team) : own;
}

/* Ranks that read other files, or were told other things, would train nobody's clients. */
static hn_status compare(hn_fedref *r)
{
    const hn_team *t = r->call->team;
    char layout[HN_SHA256_HEX];
    HN_TRY(hn_fedref_make_settings(r));
    HN_TRY(hn_fed_layout_digest(&r->layout, layout));
    HN_TRY(hn_team_same(t, "options", r->settings));
    HN_TRY(hn_team_same(t, "data or partition", r->data_digest));
    HN_TRY(hn_team_same(t, "base model", r->about->base_digest));
    return hn_team_same(t, "values that travel", layout);
}

static hn_status set(void *context, const float *value)
{
    hn_fedref_subject *about = context;
    return about->set(about, value);
}

static hn_status part(void *context, int64_t k, void *record)
{
    hn_fedref_subject *about = context;
    return about->measure(about, k, record);
}

hn_status hn_fedref_measure(hn_fedref *r, int64_t round)
{
    hn_fedref_subject *about = r->about;
    const float *value = hn_fed_server_result(r->server);
    if (r->team != NULL) return hn_fed_ranks_measure(r->team, round, value, r->record);
    HN_TRY(set(about, value));
    about->stop = hn_signals_caught;
    for (int64_t k = 0; k < about->parts; k++) {
        if (hn_signals_caught() != 0)
            return HN_FAIL(HN_ERR_STOPPED, "stopped within a measurement");
        HN_TRY(part(about, k, (char *)r->record + (size_t)k * about->part_bytes));
    }
    return HN_OK;
}

hn_status hn_fedref_team_open(hn_fedref *r)
{
    hn_team *t = r->call->team;
    if (t->hub == NULL) return HN_OK;
    HN_TRY(hn_team_places(t, r->about->device));
    HN_TRY(compare(r));
    const hn_fed_ranks_options o = {.hub = t->hub,
                                    .log = &r->log,
                                    .sim = r->about->sim,
                                    .shares = r->about->shares,
                                    .measurement = {.parts = r->about->parts,
                                                    .part_bytes = r->about->part_bytes,
                                                    .set = set,
                                                    .part = part,
                                                    .context = r->about},
                                    .most = r->schedule.per_round,
                                    .images = r->partition.first[r->partition.clients],
                                    .fisher = r->method.fisher};
    HN_TRY(hn_fed_ranks_new(&o, &r->team));
    r->sim = r->team;
    return HN_OK;
}

static hn_status use_plans(const char *text, hn_engine *e, hn_engine *const *lane, int64_t n_lanes)
{
    json_t *plans = json_loads(text, 0, NULL);
    if (plans == NULL) return HN_FAIL(HN_ERR_COMM, "rank 0 sends plans that are no JSON");
    hn_status st = hn_engine_use_gemm_plans(e, plans, "rank 0");
    for (int64_t k = 0; k < n_lanes && st == HN_OK; k++)
        st = hn_engine_use_gemm_plans(lane[k], plans, "rank 0");
    json_decref(plans);
    return st;
}

/* Rank 0's plans of an engine to the others' engine, and its lanes. */
static hn_status share_plans(hn_fedref *r, hn_engine *e, hn_engine *const *lane, int64_t n_lanes)
{
    const hn_team *t = r->call->team;
    char *text = NULL;
    if (hn_fedref_leads(r)) {
        json_t *plans = NULL;
        HN_TRY(hn_engine_gemm_plans(e, &plans));
        char *dump = plans ? json_dumps(plans, JSON_COMPACT) : NULL;
        text = dump ? hn_strdup(dump) : NULL;
        const bool failed = plans != NULL && text == NULL;
        free(dump); /* jansson's */
        json_decref(plans);
        if (failed) return HN_FAIL(HN_ERR_MEMORY, "no memory for the plans");
    }
    hn_status st = hn_team_share_text(t, &text);
    if (st == HN_OK && text != NULL && !hn_fedref_leads(r)) st = use_plans(text, e, lane, n_lanes);
    hn_free(text);
    return st;
}

/* The same bits on every rank, as in every lane, and of what each of them measures. */
hn_status hn_fedref_team_plans(hn_fedref *r)
{
    const hn_fedref_subject *about = r->about;
    if (r->call->team->hub == NULL) return HN_OK;
    if (about->sim_engine != NULL)
        HN_TRY(share_plans(r, about->sim_engine, about->lane, about->n_lanes));
    if (about->engine == about->sim_engine) return HN_OK;
    return share_plans(r, about->engine, NULL, 0);
}
