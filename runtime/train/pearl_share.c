/* What the ranks of a run have from rank 0, and what they compare with it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/pearl_impl.h"

/* ---- the same for all ---- */

static hn_status same_number(const hn_pearl *r, const char *option, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    return hn_team_same(r->team, option, text);
}

hn_status hn_pearl_same_course(const hn_pearl *r)
{
    const hn_pearl_config *c = r->c;
    const bool newest = strcmp(c->resume, "auto") == 0;
    HN_TRY(hn_team_same(r->team, "--resume", newest ? "auto" : c->resume[0] ? "folder" : ""));
    HN_TRY(hn_team_same(r->team, "--resume-device", c->resume_device));
    HN_TRY(same_number(r, "--accumulation", c->accumulation));
    HN_TRY(same_number(r, "--start-from", c->start_from));
    HN_TRY(same_number(r, "--stop-after", c->stop_after));
    HN_TRY(same_number(r, "--stop-after-steps", c->stop_after_steps));
    HN_TRY(same_number(r, "--save-every", c->save_every));
    return same_number(r, "--log-every", c->log_every);
}

hn_status hn_pearl_same_inputs(const hn_pearl *r)
{
    HN_TRY(hn_team_same(r->team, "options", r->settings));
    HN_TRY(hn_team_same(r->team, "data or stream of tasks", r->data_digest));
    return hn_team_same(r->team, "model", r->base_digest);
}

/* SHA-256 of the names and values of a set, behind those of the sets before. */
static hn_status digest_of(const hn_values *s, char digest[HN_SHA256_HEX])
{
    for (int64_t i = 0; s != NULL && i < s->n; i++) {
        const hn_value *v = &s->item[i];
        char three[3 * HN_SHA256_HEX] = "";
        memcpy(three, digest, HN_SHA256_HEX);
        HN_TRY(hn_sha256(v->name, strlen(v->name), three + HN_SHA256_HEX));
        HN_TRY(hn_sha256(v->v, (size_t)v->n * sizeof *v->v, three + 2 * HN_SHA256_HEX));
        HN_TRY(hn_sha256(three, sizeof three, digest));
    }
    return HN_OK;
}

hn_status hn_pearl_same_values(const hn_pearl *r, const char *what, const hn_values *const *set,
                               int n)
{
    char digest[HN_SHA256_HEX] = "";
    if (hn_team_alone(r->team)) return HN_OK;
    for (int i = 0; i < n; i++) HN_TRY(digest_of(set[i], digest));
    const hn_status st = hn_team_same(r->team, what, digest);
    return st == HN_ERR_ARG ? HN_FAIL(HN_ERR_NUMERIC, "%s", hn_last_text()) : st;
}

/* ---- from rank 0 ---- */

hn_status hn_pearl_share_flag(const hn_pearl *r, bool *flag)
{
    unsigned char byte = *flag;
    if (hn_team_alone(r->team)) return HN_OK;
    HN_TRY(hn_hub_share(r->team->hub, &byte, sizeof byte, 0));
    *flag = byte != 0;
    return HN_OK;
}

/* [["name", 64, 3], ...] */
static char *shapes_text(const hn_values *v)
{
    json_t *list = json_array();
    bool ok = list != NULL;
    for (int64_t i = 0; i < v->n; i++) {
        json_t *row = json_array();
        ok = json_array_append_new(row, json_string(v->item[i].name)) == 0 && ok;
        for (int d = 0; d < v->item[i].ndim; d++)
            ok = json_array_append_new(row, json_integer(v->item[i].dim[d])) == 0 && ok;
        ok = json_array_append_new(list, row) == 0 && ok;
    }
    char *text = ok ? json_dumps(list, JSON_COMPACT) : NULL, *own = text ? hn_strdup(text) : NULL;
    free(text);
    json_decref(list);
    return own;
}

static hn_status add_shapes(const char *text, hn_values *v)
{
    json_t *list = NULL;
    HN_TRY(hn_json_parse(text, strlen(text), "values of rank 0", &list));
    hn_status st = HN_OK;
    for (size_t i = 0; st == HN_OK && i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        const char *name = json_string_value(json_array_get(row, 0));
        const size_t n = json_array_size(row);
        int64_t dim[HN_PARAM_DIMS] = {0};
        hn_value *to = NULL;
        if (name == NULL || n < 2 || n > HN_PARAM_DIMS + 1)
            st = HN_FAIL(HN_ERR_FORMAT, "values of rank 0: an entry that is none");
        for (size_t d = 1; st == HN_OK && d < n; d++)
            dim[d - 1] = json_integer_value(json_array_get(row, d));
        if (st == HN_OK) st = hn_values_add(v, name, (int)n - 1, dim, &to);
    }
    json_decref(list);
    return st;
}

hn_status hn_pearl_share_values(const hn_pearl *r, hn_values *v)
{
    const bool leads = hn_pearl_leads(r);
    if (hn_team_alone(r->team)) return HN_OK;
    char *text = leads ? shapes_text(v) : NULL;
    if (leads && text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to share values");
    hn_status st = hn_team_share_text(r->team, &text);
    if (!leads && st == HN_OK) {
        hn_values_free(v);
        st = add_shapes(text, v);
    }
    for (int64_t i = 0; st == HN_OK && i < v->n; i++)
        st = hn_hub_share(r->team->hub, v->item[i].v, (size_t)v->item[i].n * sizeof(float), 0);
    hn_free(text);
    return st;
}

hn_status hn_pearl_share_ranks(const hn_pearl *r, hn_pearl_record *record)
{
    typedef struct {
        hn_rank_choice choice;
        hn_rank_proximity near;
    } layer;
    const size_t n = (size_t)r->n_layers;
    if (hn_team_alone(r->team)) return HN_OK;
    layer *all = hn_calloc(n, sizeof *all);
    if (record->rank == NULL) record->rank = hn_calloc(n, sizeof *record->rank);
    if (all == NULL || record->rank == NULL) {
        hn_free(all);
        return HN_FAIL(HN_ERR_MEMORY, "ranks of %zu layers", n);
    }
    for (size_t i = 0; i < n; i++) all[i] = (layer){record->rank[i].choice, record->rank[i].near};
    const hn_status st = hn_hub_share(r->team->hub, all, n * sizeof *all, 0);
    for (size_t i = 0; st == HN_OK && i < n; i++) {
        record->rank[i].choice = all[i].choice;
        record->rank[i].near = all[i].near;
    }
    hn_free(all);
    return st;
}
