/* The run's folder: its index, and how a run takes up what is there. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_impl.h"
#include "runtime/train/run_folder.h"
#include "runtime/train/run_settings.h"

hn_status hn_hyperflow_path(const hn_hyperflow *r, const char *name, char **path)
{
    *path = hn_asprintf("%s/%s", r->out, name);
    return *path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path in %s", r->out);
}

/* What the trajectories are of. */
static hn_status data_digest(const hn_hyperflow *r, char hex[HN_SHA256_HEX])
{
    char *all = hn_strdup("");
    for (int64_t i = 0; all != NULL && i < r->n_train; i++) {
        char *longer =
            hn_asprintf("%s%s\n", all, hn_episode_source_digest(r->domain[i].source[HN_HF_TRAIN]));
        hn_free(all);
        all = longer;
    }
    const hn_status st = all ? hn_sha256(all, strlen(all), hex)
                             : HN_FAIL(HN_ERR_MEMORY, "no memory for the data's digest");
    hn_free(all);
    return st;
}

static hn_status index_new(hn_hyperflow *r, const char *data)
{
    r->index = json_pack("{s:i, s:s, s:{s:s, s:s, s:s}}", "format", HN_HYPERFLOW_FORMAT, "program",
                         "hone-hyperflow", "identity", "base_model", r->base_digest, "data", data,
                         "settings", r->settings);
    return r->index ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the index");
}

static hn_status index_check(const hn_hyperflow *r, const char *where, const char *data)
{
    const json_t *have = json_object_get(r->index, "identity");
    const struct {
        const char *key, *value, *what;
    } facts[] = {{"base_model", r->base_digest, "base model"},
                 {"data", data, "data or class split"}};
    const size_t n = r->n_domains > 0 ? 2 : 1; /* without the images only the base */
    const char *settings = NULL;
    int64_t version = 0;
    HN_TRY(hn_json_get_i64(r->index, "format", where, 1, HN_HYPERFLOW_FORMAT, true, &version));
    HN_TRY(hn_json_get_text(have, "settings", where, true, &settings));
    HN_TRY(hn_run_settings_same(where, settings, r->settings));
    for (size_t i = 0; i < n; i++) {
        const char *value;
        HN_TRY(hn_json_get_text(have, facts[i].key, where, true, &value));
        if (strcmp(value, facts[i].value) != 0)
            return HN_FAIL(HN_ERR_ARG, "%s: a run with another %s: '%s', now '%s'", where,
                           facts[i].what, value, facts[i].value);
    }
    return HN_OK;
}

static hn_status make_settings(hn_hyperflow *r)
{
    static const char *const free_keys[] = {"model",    "weights",     "data",   "test-domains",
                                            "splits",   "held-images", "budget", "device",
                                            "executor", "threads"};
    return hn_run_settings(r->call->yaml, free_keys, sizeof free_keys / sizeof *free_keys,
                           &r->settings);
}

static hn_status save_yaml(const hn_hyperflow *r)
{
    char *path = NULL;
    HN_TRY(hn_hyperflow_path(r, "run.yaml", &path));
    const hn_status st = hn_save_text(path, r->call->yaml);
    hn_free(path);
    return st;
}

static hn_status open_index(hn_hyperflow *r, const char *index, const char *data)
{
    const bool there = hn_is_file(index);
    HN_TRY(hn_run_folder_check(r->out, r->c->resume, there));
    HN_TRY(hn_outdir_lock(r->out, &r->lock));
    if (there) {
        HN_TRY(hn_json_load(index, &r->index));
        HN_TRY(index_check(r, index, data));
        return save_yaml(r);
    }
    HN_TRY(index_new(r, data));
    HN_TRY(save_yaml(r));
    return hn_json_save(index, r->index, false);
}

/* What rank 0 has, for all. */
static hn_status share_index(hn_hyperflow *r, const char *index, const char *data)
{
    HN_TRY(hn_hyperflow_share_json(r, index, &r->index));
    return hn_hyperflow_leads(r) ? HN_OK : index_check(r, index, data);
}

hn_status hn_hyperflow_folder_open(hn_hyperflow *r)
{
    char *index = NULL, data[HN_SHA256_HEX];
    HN_TRY(hn_run_folder_choose("hone-hyperflow", r->c->out, r->c->resume, &r->out));
    HN_TRY(hn_team_share_text(r->call->team, &r->out)); /* it may have rank 0's time in it */
    HN_TRY(make_settings(r));
    HN_TRY(data_digest(r, data));
    HN_TRY(hn_hyperflow_same(r)); /* before anything is written */
    HN_TRY(hn_hyperflow_path(r, "index.json", &index));
    hn_status st = hn_hyperflow_leads(r) ? open_index(r, index, data) : HN_OK;
    if (st == HN_OK) st = share_index(r, index, data);
    hn_free(index);
    return st;
}

hn_status hn_hyperflow_folder_read(hn_hyperflow *r, bool write)
{
    char *index = NULL, data[HN_SHA256_HEX];
    r->out = hn_strdup(r->c->run);
    if (r->out == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    HN_TRY(hn_hyperflow_path(r, "index.json", &index));
    hn_status st = make_settings(r);
    if (st == HN_OK) st = data_digest(r, data);
    if (st == HN_OK) st = hn_hyperflow_same(r);
    if (hn_hyperflow_leads(r)) {
        if (st == HN_OK) st = hn_json_load(index, &r->index);
        if (st == HN_OK) st = index_check(r, index, data);
        if (st == HN_OK && write) st = hn_outdir_lock(r->out, &r->lock);
    }
    if (st == HN_OK) st = share_index(r, index, data);
    hn_free(index);
    return st;
}
