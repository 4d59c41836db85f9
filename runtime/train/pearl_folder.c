/* The run's folder: its index, which says what belongs to the run, and how a run takes up what is
 * there. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/pearl_impl.h"
#include "runtime/train/run_folder.h"
#include "runtime/train/run_settings.h"

static char *path_in(const char *dir, const char *name) { return hn_asprintf("%s/%s", dir, name); }

static hn_status no_memory(const char *dir)
{
    return HN_FAIL(HN_ERR_MEMORY, "no memory for a path in %s", dir);
}

/* ---- the index ---- */

/* Of runs that were made before there were several ranks: 1. */
static const char ACCUMULATION[] = "accumulation", RANKS[] = "ranks",
                  PER_STEP[] = "micro_batches_per_step";

static hn_status get_count(const json_t *o, const char *key, const char *where, int64_t *out)
{
    *out = 1;
    return hn_json_get_i64(o, key, where, 1, INT32_MAX, false, out);
}

static hn_status index_new(hn_pearl *r)
{
    const int64_t ranks = hn_team_size(r->team);
    r->per_step = r->c->accumulation * ranks;
    r->index = json_pack("{s:i, s:s, s:{s:s, s:s, s:s, s:I}, s:I, s:I, s:n, s:[]}", "format",
                         HN_PEARL_FORMAT, "program", "hone-pearl", "identity", "base_model",
                         r->base_digest, "data", r->data_digest, "settings", r->settings,
                         ACCUMULATION, (json_int_t)r->c->accumulation, RANKS, (json_int_t)ranks,
                         PER_STEP, (json_int_t)r->per_step, "reference", "records");
    return r->index ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the index");
}

hn_status hn_pearl_index_save(const hn_pearl *r)
{
    char *path = path_in(r->out, "index.json");
    if (path == NULL) return no_memory(r->out);
    const hn_status st = hn_json_save(path, r->index, false);
    hn_free(path);
    return st;
}

static hn_status index_check(const hn_pearl *r, const char *where)
{
    const json_t *have = json_object_get(r->index, "identity");
    const struct {
        const char *key, *value, *what;
    } facts[] = {{"base_model", r->base_digest, "base model"},
                 {"data", r->data_digest, "data or stream of tasks"}};
    const char *settings = NULL;
    int64_t version = 0, accumulation = 1;
    HN_TRY(hn_json_get_i64(r->index, "format", where, 1, HN_PEARL_FORMAT, true, &version));
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        const char *value;
        HN_TRY(hn_json_get_text(have, facts[i].key, where, true, &value));
        if (strcmp(value, facts[i].value) != 0)
            return HN_FAIL(HN_ERR_ARG, "%s: a run with another %s: '%s', now '%s'", where,
                           facts[i].what, value, facts[i].value);
    }
    HN_TRY(hn_json_get_text(have, "settings", where, true, &settings));
    HN_TRY(hn_run_settings_same(where, settings, r->settings));
    HN_TRY(get_count(have, ACCUMULATION, where, &accumulation));
    if (accumulation == r->c->accumulation) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "%s: a run with other options: 'accumulation: %" PRId64
                   "', now 'accumulation: %" PRId64 "'",
                   where, accumulation, r->c->accumulation);
}

hn_status hn_pearl_index_add(hn_pearl *r, int task)
{
    char hex[HN_SHA256_HEX];
    char *path = hn_asprintf("%s/task-%03d/task.json", r->out, task + 1);
    if (path == NULL) return no_memory(r->out);
    hn_status st = hn_sha256_file(path, NULL, hex);
    hn_free(path);
    HN_TRY(st);
    json_t *entry = json_pack("{s:i, s:s}", "task", task + 1, "sha256", hex);
    if (json_array_append_new(json_object_get(r->index, "records"), entry) != 0)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the index");
    return hn_pearl_index_save(r);
}

/* ---- records ---- */

/* A record that was written when the process died before the index was. */
static hn_status adopt(hn_pearl *r)
{
    const int next = r->strategy == HN_PEARL_JOINT ? r->tasks - 1 : r->done;
    char *path = hn_asprintf("%s/task-%03d/task.json", r->out, next + 1);
    if (path == NULL) return no_memory(r->out);
    const bool there = next < r->tasks && r->done < r->tasks && hn_is_file(path);
    hn_free(path);
    return there ? hn_pearl_index_add(r, next) : HN_OK;
}

static hn_status read_reference(hn_pearl *r)
{
    const char *want = json_string_value(json_object_get(r->index, "reference"));
    if (want == NULL) return HN_OK;
    char *path = path_in(r->out, "reference/model.safetensors");
    if (path == NULL) return no_memory(r->out);
    hn_status st = hn_pearl_verify(path, want);
    if (st == HN_OK) st = hn_values_load(path, &r->reference);
    hn_free(path);
    return st;
}

static hn_status read_records(hn_pearl *r, const char *where)
{
    const json_t *list = json_object_get(r->index, "records");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *hex = NULL;
        int64_t task = 0;
        HN_TRY(hn_json_get_i64(entry, "task", where, r->done + 1, r->tasks, true, &task));
        HN_TRY(hn_json_get_text(entry, "sha256", where, true, &hex));
        HN_TRY(hn_pearl_record_read(r, (int)task - 1, hex));
        if (!r->isolated && r->done > 0) hn_pearl_forget_body(r, r->done - 1);
        r->done = (int)task;
    }
    r->learned = r->done;
    return HN_OK;
}

/* A run keeps the micro-batches of its steps on any number of ranks, but other ranks add up in
 * another order. */
static hn_status settle_ranks(hn_pearl *r, const char *where)
{
    const int64_t now = hn_team_size(r->team);
    int64_t then;
    HN_TRY(get_count(r->index, RANKS, where, &then));
    HN_TRY(get_count(r->index, PER_STEP, where, &r->per_step));
    if (then != now && strcmp(r->c->resume_device, "same") == 0)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: the run has ranks: %" PRId64 ", here are %" PRId64
                       "; --resume-device any goes on here, with other bits",
                       where, then, now);
    if (then != now)
        hn_warn(&r->log,
                "%s: the run had %" PRId64 " ranks, it goes on with %" PRId64 " and other bits",
                where, then, now);
    if (r->per_step != r->c->accumulation * now)
        hn_info(&r->log, "a step keeps the %" PRId64 " micro-batches that the run has begun with",
                r->per_step);
    if (json_object_set_new(r->index, RANKS, json_integer(now)) != 0)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the index");
    return HN_OK;
}

/* A run without a record begins anew; its reference is made again. */
static hn_status read_kept(hn_pearl *r, const char *index)
{
    HN_TRY(read_records(r, index));
    return r->done > 0 ? read_reference(r) : HN_OK;
}

static hn_status read_folder(hn_pearl *r, const char *index)
{
    HN_TRY(hn_json_load(index, &r->index));
    HN_TRY(index_check(r, index));
    HN_TRY(settle_ranks(r, index));
    r->done = (int)json_array_size(json_object_get(r->index, "records"));
    HN_TRY(adopt(r));
    r->done = 0;
    return read_kept(r, index);
}

/* ---- opening ---- */

static hn_status choose_out(hn_pearl *r)
{
    HN_TRY(hn_run_folder_choose("hone-pearl", r->c->out, r->c->resume, &r->out));
    HN_TRY(hn_team_share_text(r->team, &r->out)); /* rank 0's paths, and its time */
    r->working = path_in(r->out, "working");
    return r->working ? HN_OK : no_memory(r->out);
}

static hn_status make_settings(hn_pearl *r)
{
    static const char *const free_keys[] = {
        "model",   "weights",  "data",       "eval-data", "out",        "device",    "executor",
        "threads", "resident", "save-every", "log-every", "log-format", ACCUMULATION};
    return hn_run_settings(r->call->yaml, free_keys, sizeof free_keys / sizeof *free_keys,
                           &r->settings);
}

static hn_status check_start_task(const hn_pearl *r)
{
    const int64_t from = r->c->start_from;
    if (from == 0) return HN_OK;
    if (from > r->tasks)
        return HN_FAIL(HN_ERR_ARG, "--start-from %" PRId64 ": the stream has %d tasks", from,
                       r->tasks);
    if (r->done < from - 1)
        return HN_FAIL(HN_ERR_ARG,
                       "--start-from %" PRId64 ": %s has records of %d tasks, those up to task "
                       "%" PRId64 " are needed",
                       from, r->out, r->done, from - 1);
    if (r->done >= from)
        return HN_FAIL(HN_ERR_ARG,
                       "--start-from %" PRId64 ": %s has a record of task %d already, and records "
                       "are not written over",
                       from, r->out, r->done);
    return HN_OK;
}

static hn_status save_yaml(const hn_pearl *r)
{
    char *path = path_in(r->out, "run.yaml");
    if (path == NULL) return no_memory(r->out);
    const hn_status st = hn_save_text(path, r->call->yaml);
    hn_free(path);
    return st;
}

/* Of rank 0: the first that is written. */
static hn_status take_folder(hn_pearl *r, const char *index)
{
    const bool there = hn_is_file(index);
    const bool goes_on = there && r->c->start_from > 0;
    hn_status st = goes_on ? HN_OK : hn_run_folder_check(r->out, r->c->resume, there);
    if (st == HN_OK) st = hn_outdir_lock(r->out, &r->lock);
    if (st == HN_OK) st = there ? read_folder(r, index) : index_new(r);
    if (st == HN_OK) st = check_start_task(r);
    if (st == HN_OK) st = save_yaml(r);
    if (st == HN_OK) st = hn_pearl_index_save(r);
    return st == HN_OK ? hn_make_dirs(r->working) : st;
}

/* The others have rank 0's index, and what it names. */
static hn_status follow(hn_pearl *r, const char *index, char **text)
{
    if (hn_pearl_leads(r)) {
        char *dump = json_dumps(r->index, JSON_COMPACT);
        *text = dump ? hn_strdup(dump) : NULL;
        free(dump);
        if (*text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the index");
    }
    HN_TRY(hn_team_share_text(r->team, text));
    if (hn_pearl_leads(r)) return HN_OK;
    HN_TRY(hn_json_parse(*text, strlen(*text), index, &r->index));
    HN_TRY(get_count(r->index, PER_STEP, index, &r->per_step));
    return read_kept(r, index);
}

hn_status hn_pearl_folder_open(hn_pearl *r)
{
    HN_TRY(choose_out(r));
    HN_TRY(make_settings(r));
    HN_TRY(hn_pearl_same_inputs(r));
    char *index = path_in(r->out, "index.json"), *text = NULL;
    if (index == NULL) return no_memory(r->out);
    hn_status st = hn_pearl_leads(r) ? take_folder(r, index) : HN_OK;
    if (st == HN_OK && !hn_team_alone(r->team)) st = follow(r, index, &text);
    hn_free(text);
    hn_free(index);
    return st;
}

hn_status hn_pearl_folder_read(hn_pearl *r)
{
    r->out = hn_strdup(r->c->run);
    char *index = r->out ? path_in(r->out, "index.json") : NULL;
    if (index == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    hn_status st = make_settings(r);
    if (st == HN_OK) st = hn_json_load(index, &r->index);
    if (st == HN_OK) st = index_check(r, index);
    if (st == HN_OK) st = read_records(r, index);
    if (st == HN_OK) st = read_reference(r);
    hn_free(index);
    return st;
}
