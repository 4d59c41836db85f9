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
                                    .most = r->schedule.per_round,
                                    .images = r->partition.first[r->partition.clients],
                                    .fisher = r->method.fisher};
    HN_TRY(hn_fed_ranks_new(&o, &r->team));
    r->sim = r->team;
    return HN_OK;
}

static hn_status use_plans(hn_fedref *r, const char *text)
{
    json_t *plans = json_loads(text, 0, NULL);
    if (plans == NULL) return HN_FAIL(HN_ERR_COMM, "rank 0 sends plans that are no JSON");
    hn_status st = hn_engine_use_gemm_plans(r->about->sim_engine, plans, "rank 0");
    for (int64_t k = 0; k < r->about->n_lanes && st == HN_OK; k++)
        st = hn_engine_use_gemm_plans(r->about->lane[k], plans, "rank 0");
    json_decref(plans);
    return st;
}

/* The same bits on every rank, as in every lane. */
hn_status hn_fedref_team_plans(hn_fedref *r)
{
    const hn_team *t = r->call->team;
    char *text = NULL;
    if (t->hub == NULL || r->about->sim_engine == NULL) return HN_OK;
    if (hn_fedref_leads(r)) {
        json_t *plans = NULL;
        HN_TRY(hn_engine_gemm_plans(r->about->sim_engine, &plans));
        char *dump = plans ? json_dumps(plans, JSON_COMPACT) : NULL;
        text = dump ? hn_strdup(dump) : NULL;
        const bool failed = plans != NULL && text == NULL;
        free(dump); /* jansson's */
        json_decref(plans);
        if (failed) return HN_FAIL(HN_ERR_MEMORY, "no memory for the plans");
    }
    hn_status st = hn_team_share_text(t, &text);
    if (st == HN_OK && text != NULL && !hn_fedref_leads(r)) st = use_plans(r, text);
    hn_free(text);
    return st;
}
