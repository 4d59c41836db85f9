/* What the ranks of generate, train and eval have from each other.
 *
 * A stage's work falls into groups, each of which is one rank's: at_once episodes that are tuned
 * together. They are numbered the same way everywhere, and what a rank finds depends on nothing but
 * the group, so that it is what one rank finds. Rank 0 alone reads and writes the run's folder, but
 * for networks and features, which all read, and trajectories.bin (runtime/flow/trajectory.h),
 * which all write. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/hyperflow_impl.h"
#include "runtime/train/signals.h"

static const hn_team *team_of(const hn_hyperflow *r) { return r->call->team; }

bool hn_hyperflow_leads(const hn_hyperflow *r) { return hn_team_leads(team_of(r)); }

int64_t hn_hyperflow_ranks(const hn_hyperflow *r) { return hn_team_size(team_of(r)); }

bool hn_hyperflow_is_own(const hn_hyperflow *r, int64_t group)
{
    return group % hn_hyperflow_ranks(r) == team_of(r)->ranks.rank;
}

void hn_hyperflow_at(const hn_hyperflow *r, hn_hub_phase phase, int64_t number)
{
    hn_team_at(team_of(r), phase, number);
}

hn_status hn_hyperflow_total(const hn_hyperflow *r, double *x, int64_t n)
{
    return team_of(r)->hub ? hn_hub_sum_f64(team_of(r)->hub, x, n) : HN_OK;
}

hn_status hn_hyperflow_ask(hn_hyperflow *r, int64_t done_here)
{
    double stop = r->stopped || hn_hyperflow_must_stop(r, done_here);
    HN_TRY(hn_hyperflow_total(r, &stop, 1));
    r->stopped = stop > 0;
    return HN_OK;
}

hn_status hn_hyperflow_share(const hn_hyperflow *r, void *data, size_t n_bytes)
{
    return team_of(r)->hub ? hn_hub_share(team_of(r)->hub, data, n_bytes, 0) : HN_OK;
}

hn_status hn_hyperflow_share_json(const hn_hyperflow *r, const char *where, json_t **o)
{
    char *text = NULL;
    if (team_of(r)->hub == NULL) return HN_OK;
    if (hn_hyperflow_leads(r)) {
        char *dump = json_dumps(*o, JSON_COMPACT);
        text = dump ? hn_strdup(dump) : NULL;
        free(dump);
        if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to share %s", where);
    }
    hn_status st = hn_team_share_text(team_of(r), &text);
    if (st == HN_OK && !hn_hyperflow_leads(r)) st = hn_json_parse(text, strlen(text), where, o);
    hn_free(text);
    return st;
}

/* ---- the same for all ---- */

static hn_status same_number(const hn_hyperflow *r, const char *option, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    return hn_team_same(team_of(r), option, text);
}

/* Of a verb without the option it is NULL. */
static hn_status same_text(const hn_hyperflow *r, const char *option, const char *text)
{
    return hn_team_same(team_of(r), option, text ? text : "");
}

/* Options that say when and where ranks meet; others are in the run's settings, or in what
 * drift_train.h compares. */
static hn_status same_course(const hn_hyperflow *r)
{
    const hn_hyperflow_config *c = r->c;
    HN_TRY(same_number(r, "--stop-after", c->stop_after));
    HN_TRY(same_text(r, "--drift", c->drift));
    HN_TRY(same_text(r, "--methods", c->methods.joined));
    HN_TRY(same_text(r, "--only", c->only.joined));
    HN_TRY(same_text(r, "--full-rates", c->full_rates.joined));
    HN_TRY(same_text(r, "--stops", c->stops.joined));
    HN_TRY(same_text(r, "--integrator", c->integrator));
    HN_TRY(same_number(r, "--integration-steps", c->integration_steps));
    HN_TRY(same_number(r, "--test-episodes", c->test_episodes));
    return same_number(r, "--lora-rank", c->lora_rank);
}

/* A line for each class part of each domain. */
static hn_status data_text(const hn_hyperflow *r, char **out)
{
    char *all = hn_strdup("");
    for (int64_t i = 0; i < r->n_domains; i++)
        for (int p = 0; p < HN_HF_PARTS; p++) {
            const hn_hf_domain *d = &r->domain[i];
            const char *digest = d->source[p] ? hn_episode_source_digest(d->source[p]) : "";
            char *longer = all ? hn_asprintf("%s%s %s %s\n", all, d->name,
                                             hn_image_set_digest(d->images), digest)
                               : NULL;
            hn_free(all);
            all = longer;
        }
    for (int64_t i = 0; i < r->n_targets; i++) {
        char *longer = all ? hn_asprintf("%s%s\n", all, r->target[i].name) : NULL;
        hn_free(all);
        all = longer;
    }
    *out = all;
    return all ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to compare ranks");
}

hn_status hn_hyperflow_same(const hn_hyperflow *r)
{
    char *data = NULL;
    if (team_of(r)->hub == NULL) return HN_OK;
    HN_TRY(same_course(r));
    HN_TRY(hn_team_same(team_of(r), "options", r->settings));
    HN_TRY(hn_team_same(team_of(r), "model", r->base_digest));
    HN_TRY(data_text(r, &data));
    const hn_status st = hn_team_same(team_of(r), "data, class split or test domains", data);
    hn_free(data);
    return st;
}
