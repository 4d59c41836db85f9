/* Cells: what a method reaches on a domain, as a file of its own. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_impl.h"
#include "runtime/train/run_settings.h"

hn_status hn_hf_cell_path(const hn_hyperflow *r, const char *label, const char *domain, char **path)
{
    *path = domain ? hn_asprintf("%s/cells/%s.%s.json", r->out, label, domain)
                   : hn_asprintf("%s/cells/%s.json", r->out, label);
    return *path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path in %s", r->out);
}

hn_status hn_hf_cell_there(const char *path, const char *settings, bool *there)
{
    json_t *cell = NULL;
    const char *then = NULL;
    int64_t version = 0;
    *there = false;
    if (!hn_is_file(path)) return HN_OK;
    HN_TRY(hn_json_load(path, &cell));
    hn_status st = hn_json_get_i64(cell, "format", path, 1, HN_HYPERFLOW_FORMAT, true, &version);
    if (st == HN_OK) st = hn_json_get_text(cell, "settings", path, true, &then);
    if (st == HN_OK) st = hn_run_settings_same(path, then, settings);
    *there = st == HN_OK;
    json_decref(cell);
    return st;
}

static void set(json_t *o, const char *key, json_t *value, bool *ok)
{
    *ok = json_object_set_new(o, key, value) == 0 && *ok;
}

static json_t *numbers(const double *v, int64_t n, bool *ok)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) *ok = json_array_append_new(list, json_real(v[i])) == 0 && *ok;
    return list;
}

static json_t *tried(const hn_hf_choice *c, bool *ok)
{
    json_t *list = json_array();
    for (int i = 0; i < c->n; i++) {
        json_t *one = json_object();
        set(one, c->what, json_real(c->value[i]), ok);
        set(one, "accuracy", json_real(c->accuracy[i]), ok);
        *ok = json_array_append_new(list, one) == 0 && *ok;
    }
    return list;
}

static json_t *cost_json(const hn_hf_cost *c, bool *ok)
{
    json_t *o = json_object();
    set(o, "adapt_bytes", json_integer((json_int_t)c->adapt_bytes), ok);
    set(o, "whole_bytes", json_integer((json_int_t)c->whole_bytes), ok);
    set(o, "full_bytes", json_integer((json_int_t)c->full_bytes), ok);
    set(o, "adapt_flops", json_real(c->encoder_flops + c->drift_flops), ok);
    set(o, "full_flops", json_real(c->full_flops), ok);
    return o;
}

hn_status hn_hf_cell_save(const char *path, const hn_hf_cell *c)
{
    bool ok = true;
    hn_few_shot_mean m;
    HN_TRY(hn_few_shot_mean_of(c->accuracy, c->episodes, &m));
    json_t *o = json_object();
    set(o, "format", json_integer(HN_HYPERFLOW_FORMAT), &ok);
    set(o, "program", json_string("hone-hyperflow"), &ok);
    set(o, "method", json_string(c->label), &ok);
    set(o, "domain", json_string(c->domain), &ok);
    set(o, "in_domain", json_boolean(c->in_domain), &ok);
    set(o, "sampler", json_string(c->sampler), &ok);
    set(o, "sampler_digest", json_string(c->digest), &ok);
    set(o, "settings", json_string(c->settings), &ok);
    set(o, "episodes", json_integer(c->episodes), &ok);
    set(o, "mean", json_real(m.mean), &ok);
    set(o, "ci95", json_real(m.ci95), &ok);
    if (c->choice.n > 0) {
        set(o, "chosen_on", json_string(c->choice.on), &ok);
        set(o, c->choice.what, json_real(c->choice.value[c->choice.best]), &ok);
        set(o, "tried", tried(&c->choice, &ok), &ok);
    }
    set(o, "seconds", json_real(c->seconds), &ok);
    set(o, "planned_bytes", json_integer((json_int_t)c->planned_bytes), &ok);
    if (c->flops > 0) set(o, "flops", json_real(c->flops), &ok);
    if (c->cost.full_bytes > 0) set(o, "cost", cost_json(&c->cost, &ok), &ok);
    set(o, "device", json_string(c->device), &ok);
    set(o, "accuracy", numbers(c->accuracy, c->episodes, &ok), &ok);
    const hn_status st =
        ok ? hn_json_save(path, o, false) : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", path);
    json_decref(o);
    return st;
}
