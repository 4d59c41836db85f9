/* What a checkpoint holds besides the server: fedref.json (rounds, clients, refusals, accuracies)
 * and residuals.safetensors. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/file/safetensors.h"
#include "runtime/train/fedref_impl.h"

static const char state_file[] = "fedref.json", residual_file[] = "residuals.safetensors";

/* ---- writing: *ok gathers failures, which are those of memory ---- */

static json_t *real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *reals(const double *v, int64_t n, bool *ok)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) *ok = json_array_append_new(list, real(v[i])) == 0 && *ok;
    return list;
}

static json_t *rounds_json(const hn_fedref *r, bool *ok)
{
    const hn_fedref_column *column = hn_fedref_columns(r->about->volumes);
    json_t *all = json_array();
    for (int64_t i = 0; i < r->done; i++) {
        json_t *row = json_array();
        for (int k = 0; k < HN_FEDREF_COLUMNS; k++)
            *ok = json_array_append_new(row, real(hn_fedref_cell(&r->round[i], &column[k]))) == 0 &&
                  *ok;
        *ok = json_array_append_new(all, row) == 0 && *ok;
    }
    return all;
}

static json_t *clients_json(const hn_fedref *r, bool *ok)
{
    json_t *all = json_array();
    for (int64_t k = 0; k < r->partition.clients; k++) {
        json_t *row = reals((const double *)&r->tally[k], HN_FEDREF_TALLIES, ok);
        *ok = json_array_append_new(all, row) == 0 && *ok;
    }
    return all;
}

static json_t *refusals_json(const hn_fedref *r, bool *ok)
{
    json_t *all = json_array();
    for (int64_t i = 0; i < r->n_refusals; i++) {
        const hn_fedref_refusal *f = &r->refusal[i];
        json_t *row =
            json_pack("[I, I, s]", (json_int_t)f->round, (json_int_t)f->client, f->reason);
        *ok = json_array_append_new(all, row) == 0 && *ok;
    }
    return all;
}

static void set(json_t *o, const char *key, json_t *value, bool *ok)
{
    *ok = json_object_set_new(o, key, value) == 0 && *ok;
}

static hn_status state_json(const hn_fedref *r, json_t **out)
{
    bool ok = true;
    const hn_fedref_column *column = hn_fedref_columns(r->about->volumes);
    json_t *o = json_object(), *names = json_array(), *plans = NULL;
    if (r->about->sim_engine) HN_TRY(hn_engine_gemm_plans(r->about->sim_engine, &plans));
    for (int k = 0; k < HN_FEDREF_COLUMNS; k++)
        ok = json_array_append_new(names, json_string(column[k].name)) == 0 && ok;
    set(o, "format", json_integer(HN_FEDREF_FORMAT), &ok);
    set(o, "round", json_integer((json_int_t)r->done), &ok);
    set(o, "columns", names, &ok);
    set(o, "rounds", rounds_json(r, &ok), &ok);
    set(o, "clients", clients_json(r, &ok), &ok);
    set(o, "rejected", refusals_json(r, &ok), &ok);
    set(o, "class_best", reals(r->class_best, hn_fedref_classes(r), &ok), &ok);
    set(o, "class_last", reals(r->class_last, hn_fedref_classes(r), &ok), &ok);
    set(o, "turn_best", reals(r->turn_best, hn_fedref_classes(r), &ok), &ok);
    set(o, "turn_last", reals(r->turn_last, hn_fedref_classes(r), &ok), &ok);
    set(o, "gemm_plans", plans ? plans : json_null(), &ok);
    if (r->unmeasured) set(o, "unmeasured", json_true(), &ok);
    *out = o;
    return ok ? HN_OK
              : HN_FAIL(HN_ERR_MEMORY, "no memory for the state of round %" PRId64, r->done);
}

static hn_status save_residuals(const hn_fedref *r, const char *path)
{
    const int64_t clients = r->partition.clients;
    hn_st_entry *entry = hn_calloc((size_t)clients, sizeof *entry);
    hn_arena names = {0};
    int64_t n = 0;
    hn_status st = entry ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " clients", clients);
    for (int64_t k = 0; st == HN_OK && k < clients; k++) {
        if (r->residual[k] == NULL) continue;
        entry[n] = (hn_st_entry){.name = hn_arena_text(&names, "%" PRId64, k),
                                 .dtype = HN_ST_F32,
                                 .ndim = 1,
                                 .dim = {r->layout.values},
                                 .data = r->residual[k]};
        if (entry[n++].name == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    if (st == HN_OK) st = hn_st_save(path, entry, n, NULL, 0, NULL, NULL);
    hn_arena_free(&names);
    hn_free(entry);
    return st;
}

static bool has_residuals(const hn_fedref *r)
{
    bool any = false;
    for (int64_t k = 0; k < r->partition.clients; k++) any |= r->residual[k] != NULL;
    return any;
}

hn_status hn_fedref_state_save(const hn_fedref *r, hn_ckpt *c)
{
    const char *path;
    json_t *o = NULL;
    hn_status st = state_json(r, &o);
    if (st == HN_OK) st = hn_ckpt_path(c, state_file, &path);
    if (st == HN_OK) st = hn_json_save(path, o, false);
    json_decref(o);
    if (st != HN_OK || !has_residuals(r)) return st;
    HN_TRY(hn_ckpt_path(c, residual_file, &path));
    return save_residuals(r, path);
}

/* ---- reading ---- */

static hn_status read_reals(const json_t *list, const char *where, const char *what, int64_t n,
                            double *out)
{
    if (!json_is_array(list) || (int64_t)json_array_size(list) != n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: '%s': not a list of %" PRId64 " numbers", where, what,
                       n);
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        if (!json_is_number(v) && !json_is_null(v))
            return HN_FAIL(HN_ERR_FORMAT, "%s: '%s': not a number", where, what);
        out[i] = json_is_number(v) ? json_number_value(v) : NAN;
    }
    return HN_OK;
}

static hn_status check_columns(const hn_fedref_column *column, const json_t *names,
                               const char *where)
{
    bool same = (int)json_array_size(names) == HN_FEDREF_COLUMNS;
    for (int k = 0; same && k < HN_FEDREF_COLUMNS; k++) {
        const char *name = json_string_value(json_array_get(names, (size_t)k));
        same = name != NULL && strcmp(name, column[k].name) == 0;
    }
    return same ? HN_OK : HN_FAIL(HN_ERR_FORMAT, "%s: 'columns' of another version", where);
}

static hn_status read_rounds(hn_fedref *r, const json_t *all, const char *where)
{
    const hn_fedref_column *column = hn_fedref_columns(r->about->volumes);
    double cell[HN_FEDREF_COLUMNS];
    if ((int64_t)json_array_size(all) != r->done)
        return HN_FAIL(HN_ERR_FORMAT, "%s: 'rounds' has not %" PRId64 " of them", where, r->done);
    for (int64_t i = 0; i < r->done; i++) {
        HN_TRY(
            read_reals(json_array_get(all, (size_t)i), where, "rounds", HN_FEDREF_COLUMNS, cell));
        for (int k = 0; k < HN_FEDREF_COLUMNS; k++)
            memcpy((char *)&r->round[i] + column[k].offset, &cell[k], sizeof *cell);
    }
    return HN_OK;
}

static hn_status read_refusals(hn_fedref *r, const json_t *all, const char *where)
{
    size_t i;
    json_t *row;
    json_array_foreach(all, i, row)
    {
        json_int_t round, client;
        const char *reason;
        if (json_unpack(row, "[I, I, s!]", &round, &client, &reason) != 0)
            return HN_FAIL(HN_ERR_FORMAT, "%s: 'rejected': not round, client and reason", where);
        HN_TRY(hn_fedref_refuse(r, round, client, reason));
    }
    return HN_OK;
}

static hn_status read_json(hn_fedref *r, const json_t *o, const char *where)
{
    int64_t version = 0;
    const int64_t classes = hn_fedref_classes(r), clients = r->partition.clients;
    const json_t *tallies = json_object_get(o, "clients");
    HN_TRY(hn_json_get_i64(o, "format", where, 1, HN_FEDREF_FORMAT, true, &version));
    HN_TRY(hn_json_get_i64(o, "round", where, 0, INT32_MAX, true, &r->done));
    if (r->done > r->c->rounds)
        return HN_FAIL(HN_ERR_ARG, "--rounds %" PRId64 ": %s is behind round %" PRId64 " already",
                       r->c->rounds, where, r->done);
    HN_TRY(hn_json_get_bool(o, "unmeasured", where, false, &r->unmeasured));
    if (r->unmeasured && r->done == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: 'unmeasured' is true, but there is no round", where);
    HN_TRY(
        check_columns(hn_fedref_columns(r->about->volumes), json_object_get(o, "columns"), where));
    HN_TRY(read_rounds(r, json_object_get(o, "rounds"), where));
    HN_TRY(read_refusals(r, json_object_get(o, "rejected"), where));
    HN_TRY(
        read_reals(json_object_get(o, "class_best"), where, "class_best", classes, r->class_best));
    HN_TRY(
        read_reals(json_object_get(o, "class_last"), where, "class_last", classes, r->class_last));
    HN_TRY(read_reals(json_object_get(o, "turn_best"), where, "turn_best", classes, r->turn_best));
    HN_TRY(read_reals(json_object_get(o, "turn_last"), where, "turn_last", classes, r->turn_last));
    if ((int64_t)json_array_size(tallies) != clients)
        return HN_FAIL(HN_ERR_FORMAT, "%s: 'clients' are not %" PRId64, where, clients);
    for (int64_t k = 0; k < clients; k++)
        HN_TRY(read_reals(json_array_get(tallies, (size_t)k), where, "clients", HN_FEDREF_TALLIES,
                          (double *)&r->tally[k]));
    return HN_OK;
}

/* Nothing goes on from what is measured: another machine may do so, to the last digits. */
static hn_status measure_with_plans(const hn_fedref *r, const json_t *plans, const char *where)
{
    if (plans == NULL) return HN_OK;
    const hn_status st = hn_engine_use_gemm_plans(r->about->engine, plans, where);
    if (st != HN_ERR_UNSUPPORTED) return st;
    hn_info(&r->log, "measured with other matrix products: %s", hn_last_error());
    return HN_OK;
}

/* Bits go on as they were only with the matrix products as they were. */
static hn_status use_plans(const hn_fedref *r, const json_t *o, const char *where)
{
    const json_t *plans = json_object_get(o, "gemm_plans");
    const hn_fedref_subject *s = r->about;
    if (json_is_null(plans)) plans = NULL;
    if (s->sim_engine == NULL) return measure_with_plans(r, plans, where);
    HN_TRY(hn_engine_use_gemm_plans(s->sim_engine, plans, where));
    for (int64_t k = 0; k < s->n_lanes; k++)
        HN_TRY(hn_engine_use_gemm_plans(s->lane[k], plans, where));
    if (s->engine == s->sim_engine) return HN_OK;
    return hn_engine_use_gemm_plans(s->engine, plans, where);
}

static hn_status take_residual(hn_fedref *r, const hn_st_tensor *t, const char *where)
{
    int64_t client = -1;
    int end = 0;
    const bool number = sscanf(t->name, "%" SCNd64 "%n", &client, &end) == 1 && !t->name[end];
    if (!number || client < 0 || client >= r->partition.clients || t->ndim != 1 ||
        t->dim[0] != r->layout.values || t->dtype != HN_ST_F32 || r->residual[client] != NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: '%s': not the residual of a client", where, t->name);
    float *v = hn_malloc(t->n_bytes);
    if (v == NULL) return HN_FAIL(HN_ERR_MEMORY, "residual of client %" PRId64, client);
    memcpy(v, t->data, t->n_bytes);
    r->residual[client] = v;
    return HN_OK;
}

static hn_status load_residuals(hn_fedref *r, const char *path)
{
    hn_st_file *f = NULL;
    if (!hn_is_file(path)) return HN_OK; /* the checkpoint is complete: there are none */
    HN_TRY(hn_st_open(path, &f));
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && i < hn_st_count(f); i++)
        st = take_residual(r, hn_st_at(f, i), path);
    hn_st_close(f);
    return st;
}

hn_status hn_fedref_state_load(hn_fedref *r, const char *dir)
{
    json_t *o = NULL;
    char *state = hn_asprintf("%s/%s", dir, state_file),
         *residuals = hn_asprintf("%s/%s", dir, residual_file);
    hn_status st = state && residuals ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    hn_fed_server_free(r->server);
    r->server = NULL;
    if (st == HN_OK) st = hn_fed_server_load(&r->layout, &r->method, dir, &r->server);
    if (st == HN_OK) st = hn_json_load(state, &o);
    if (st == HN_OK) st = read_json(r, o, state);
    if (st == HN_OK) st = use_plans(r, o, state);
    if (st == HN_OK) st = load_residuals(r, residuals);
    if (st == HN_OK && hn_fed_server_round(r->server) != r->done)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: round %" PRId64 ", the server's is %" PRId64, state,
                     r->done, hn_fed_server_round(r->server));
    json_decref(o);
    hn_free(state);
    hn_free(residuals);
    return st;
}
