/* The run's folder: its index, and how a run takes up what is there. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/fedref_impl.h"
#include "runtime/train/run_folder.h"
#include "runtime/train/run_settings.h"

static hn_status in_out(const hn_fedref *r, const char *name, char **path)
{
    *path = hn_asprintf("%s/%s", r->out, name);
    return *path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path in %s", r->out);
}

/* ---- the index ---- */

static hn_status index_new(hn_fedref *r)
{
    r->index = json_pack("{s:i, s:s, s:{s:s, s:s, s:s}}", "format", HN_FEDREF_FORMAT, "program",
                         "hone-fedref", "identity", "base_model", r->about->base_digest, "data",
                         r->data_digest, "settings", r->settings);
    return r->index ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the index");
}

static hn_status index_check(const hn_fedref *r, const char *where)
{
    const json_t *have = json_object_get(r->index, "identity");
    const struct {
        const char *key, *value, *what;
    } facts[] = {{"base_model", r->about->base_digest, "base model"},
                 {"data", r->data_digest, "data or partition"}};
    const char *settings = NULL;
    int64_t version = 0;
    HN_TRY(hn_json_get_i64(r->index, "format", where, 1, HN_FEDREF_FORMAT, true, &version));
    HN_TRY(hn_json_get_text(have, "settings", where, true, &settings));
    HN_TRY(hn_run_settings_same(where, settings, r->settings));
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        const char *value;
        HN_TRY(hn_json_get_text(have, facts[i].key, where, true, &value));
        if (strcmp(value, facts[i].value) != 0)
            return HN_FAIL(HN_ERR_ARG, "%s: a run with another %s: '%s', now '%s'", where,
                           facts[i].what, value, facts[i].value);
    }
    return HN_OK;
}

hn_status hn_fedref_make_settings(hn_fedref *r)
{
    static const char *const free_keys[] = {
        "model",       "weights", "data",   "eval-data",  "groups",       "labels",   "eval-labels",
        "sparse-mask", "out",     "device", "executor",   "threads",      "resident", "eval-batch",
        "save-every",  "keep",    "rounds", "log-format", "below-quorum", "lanes",    "channels"};
    if (r->settings != NULL) return HN_OK;
    return hn_run_settings(r->call->yaml, free_keys, sizeof free_keys / sizeof *free_keys,
                           &r->settings);
}

/* ---- states ---- */

hn_status hn_fedref_save(hn_fedref *r)
{
    hn_ckpt *c = NULL;
    if (r->saved == r->done) return HN_OK;
    HN_TRY(hn_ckpt_begin(r->out, r->done, &c));
    hn_status st = hn_fed_server_save(r->server, c);
    if (st == HN_OK) st = hn_fedref_state_save(r, c);
    if (st != HN_OK) {
        hn_ckpt_abort(c);
        return st;
    }
    HN_TRY(hn_ckpt_commit(c));
    r->saved = r->done;
    return hn_ckpt_prune(r->out, r->c->keep, NULL);
}

/* *there: whether a state was read. */
static hn_status read_newest(hn_fedref *r, bool *there)
{
    char *dir = NULL;
    HN_TRY(hn_ckpt_newest(r->out, &r->log, &dir, NULL));
    *there = dir != NULL;
    if (!*there) return HN_OK;
    const hn_status st = hn_fedref_state_load(r, dir);
    hn_free(dir);
    r->saved = r->done;
    return st;
}

/* ---- opening ---- */

static hn_status save_yaml(const hn_fedref *r)
{
    char *path = NULL;
    HN_TRY(in_out(r, "run.yaml", &path));
    const hn_status st = hn_save_text(path, r->call->yaml);
    hn_free(path);
    return st;
}

static hn_status open_index(hn_fedref *r, const char *index)
{
    const bool there = hn_is_file(index);
    bool state = false;
    HN_TRY(hn_run_folder_check(r->out, r->c->resume, there));
    HN_TRY(hn_outdir_lock(r->out, &r->lock));
    if (there) {
        HN_TRY(hn_json_load(index, &r->index));
        HN_TRY(index_check(r, index));
        HN_TRY(read_newest(r, &state));
    } else {
        HN_TRY(index_new(r));
    }
    HN_TRY(save_yaml(r));
    if (!there) HN_TRY(hn_json_save(index, r->index, false));
    if (r->done < r->c->rounds) hn_fedref_forget_last(r);
    if (state)
        hn_info(&r->log, "continued behind round %" PRId64 " of %" PRId64, r->done, r->c->rounds);
    else if (there)
        hn_warn(&r->log, "%s: no complete state: from the beginning", r->out);
    return hn_fedref_save(r);
}

hn_status hn_fedref_folder_open(hn_fedref *r)
{
    char *index = NULL;
    HN_TRY(hn_run_folder_choose("hone-fedref", r->c->out, r->c->resume, &r->out));
    HN_TRY(hn_fedref_make_settings(r));
    HN_TRY(in_out(r, "index.json", &index));
    const hn_status st = open_index(r, index);
    hn_free(index);
    return st;
}

hn_status hn_fedref_folder_read(hn_fedref *r, bool write)
{
    char *index = NULL;
    bool there = false;
    r->out = hn_strdup(r->c->run);
    if (r->out == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    HN_TRY(in_out(r, "index.json", &index));
    hn_status st = hn_fedref_make_settings(r);
    if (st == HN_OK) st = hn_json_load(index, &r->index);
    if (st == HN_OK) st = index_check(r, index);
    if (st == HN_OK && write) st = hn_outdir_lock(r->out, &r->lock);
    if (st == HN_OK) st = read_newest(r, &there);
    if (st == HN_OK && !there)
        st = HN_FAIL(HN_ERR_ARG, "--run %s: there is no complete state", r->c->run);
    hn_free(index);
    return st;
}
