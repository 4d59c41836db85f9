/* Records of tasks: written once, verified when read. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/pearl_impl.h"

static const char delta_file[] = "delta.safetensors", prototype_file[] = "prototypes.safetensors",
                  fisher_file[] = "fisher.safetensors";

static char *path_in(const char *dir, const char *name) { return hn_asprintf("%s/%s", dir, name); }

static hn_status no_memory(const char *dir)
{
    return HN_FAIL(HN_ERR_MEMORY, "no memory for a path in %s", dir);
}

static char *record_path(const hn_pearl *r, int task)
{
    return hn_asprintf("%s/task-%03d", r->out, task + 1);
}

const char *hn_pearl_machine(const hn_pearl *r)
{
    const bool gpu = hn_device_kind_of(r->device) == HN_DEVICE_CUDA;
    return gpu ? hn_device_text(r->device) : "cpu";
}

/* ---- JSON: *ok gathers failures, which are those of memory ---- */

static void set(json_t *o, const char *key, json_t *value, bool *ok)
{
    *ok = json_object_set_new(o, key, value) == 0 && *ok;
}

static json_t *real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *rank_json(const hn_pearl_layer *l, const hn_pearl_rank *k, bool *ok)
{
    json_t *o = json_object(), *s = json_array();
    set(o, "layer", json_string(l->module), ok);
    set(o, "rows", json_integer(l->m), ok);
    set(o, "cols", json_integer(l->n), ok);
    set(o, "rank", json_integer(k->choice.rank), ok);
    set(o, "dense", json_boolean(k->choice.dense), ok);
    set(o, "parameters", json_integer(k->choice.parameters), ok);
    set(o, "distance", real(k->near.distance), ok);
    set(o, "cosine", real(k->near.cosine), ok);
    set(o, "effective_rank", real(k->near.effective_rank), ok);
    set(o, "k_energy", json_integer(k->near.k_energy), ok);
    set(o, "k_reference", json_integer(k->near.k_reference), ok);
    set(o, "reference_norm", real(k->near.reference), ok);
    for (int64_t i = 0; i < k->r; i++)
        *ok = json_array_append_new(s, json_real(k->s[i])) == 0 && *ok;
    set(o, "spectrum", s, ok);
    return o;
}

static json_t *classes_json(const hn_pearl *r, int task, bool names, bool *ok)
{
    const int32_t *classes;
    const int32_t n = hn_task_stream_classes(r->stream, task, &classes);
    const hn_images *v = hn_image_set_view(r->train);
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++) {
        json_t *c = names ? json_string(v->class_name[classes[i]]) : json_integer(classes[i]);
        *ok = json_array_append_new(list, c) == 0 && *ok;
    }
    return list;
}

static json_t *row_json(const hn_cl *c, int task, bool *ok)
{
    json_t *row = json_array();
    for (int i = 1; i <= task + 1; i++)
        *ok = json_array_append_new(row, real(hn_cl_accuracy(c, task + 1, i))) == 0 && *ok;
    return row;
}

static json_t *parameters_json(const hn_pearl *r, int task)
{
    hn_pearl_count n;
    hn_pearl_count_of(r, task, &n);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "low_rank", (json_int_t)n.low_rank, "dense",
                     (json_int_t)n.dense, "head", (json_int_t)n.head, "norm", (json_int_t)n.norm,
                     "running", (json_int_t)n.running, "total", (json_int_t)n.total);
}

static json_t *rule_json(const hn_pearl *r, const hn_pearl_record *k)
{
    json_t *threshold = real(k->threshold);
    if (r->strategy != HN_PEARL_PEARL)
        return json_pack("{s:I, s:o}", "rank", (json_int_t)r->c->rank, "threshold", threshold);
    return json_pack("{s:s, s:f, s:f, s:I, s:I, s:I, s:s, s:o}", "kind", r->c->rank_rule, "energy",
                     r->c->energy, "eps", r->c->eps, "floor", (json_int_t)r->c->floor, "cap",
                     (json_int_t)r->c->max_rank, "budget", (json_int_t)r->c->budget, "init",
                     r->c->init, "threshold", threshold);
}

static json_t *record_json(const hn_pearl *r, int task, json_t *files, json_t *digests, bool *ok)
{
    const hn_pearl_record *k = &r->record[task];
    json_t *o = json_object(), *chosen = json_object();
    set(o, "format", json_integer(HN_PEARL_FORMAT), ok);
    set(o, "task", json_integer(task + 1), ok);
    set(o, "strategy", json_string(r->c->strategy), ok);
    set(o, "base", json_integer(k->base), ok);
    set(o, "classes", classes_json(r, task, false, ok), ok);
    set(o, "class_names", classes_json(r, task, true, ok), ok);
    set(o, "parameters", parameters_json(r, task), ok);
    set(o, "images", json_integer(k->task_images), ok);
    set(o, "steps", json_integer(k->steps), ok);
    set(o, "step_images", json_integer(r->c->batch_size * r->per_step), ok);
    set(o, "ranks", json_integer(hn_team_size(r->team)), ok);
    set(o, "seconds",
        json_pack("{s:f, s:f, s:f, s:f}", "probe", k->probe_s, "ranks", k->rank_s, "train",
                  k->train_s, "evaluate", k->eval_s),
        ok);
    set(o, "device", json_string(hn_pearl_machine(r)), ok);
    set(o, "seed", json_integer((json_int_t)r->c->seed), ok);
    set(o, "data_digest", json_string(r->data_digest), ok);
    set(o, "settings", json_string(r->settings), ok);
    set(o, "accuracy", row_json(r->accuracy, task, ok), ok);
    for (int i = 0; i < r->n_choosers; i++)
        set(chosen, hn_chooser_name(r->chooser[i]), row_json(r->chosen[i], task, ok), ok);
    set(o, "class_incremental", chosen, ok);
    set(o, "logits_sha256", json_incref(digests), ok);
    set(o, "prototype_images", json_integer(k->images), ok);
    if (k->rank != NULL) {
        json_t *ranks = json_array();
        for (int64_t i = 0; i < r->n_layers; i++)
            *ok =
                json_array_append_new(ranks, rank_json(&r->layer[i], &k->rank[i], ok)) == 0 && *ok;
        set(o, "rule", rule_json(r, k), ok);
        set(o, "layers", ranks, ok);
    }
    set(o, "files", files, ok);
    return o;
}

/* ---- writing ---- */

static hn_status prototypes_save(const hn_pearl *r, int task, const char *path, char *hex)
{
    const hn_pearl_record *k = &r->record[task];
    const int64_t shape[] = {hn_pearl_classes(r, task), r->width};
    hn_values s = {0};
    hn_value *v = NULL;
    hn_status st = hn_values_add(&s, "mean", 2, shape, &v);
    if (st == HN_OK) memcpy(v->v, k->mean, (size_t)v->n * sizeof *v->v);
    if (st == HN_OK) st = hn_values_add(&s, "variance", 1, shape + 1, &v);
    if (st == HN_OK) memcpy(v->v, k->variance, (size_t)v->n * sizeof *v->v);
    if (st == HN_OK) st = hn_values_save(path, &s, NULL, 0, hex);
    hn_values_free(&s);
    return st;
}

/* How a delta pack lists a tensor (spec/delta.md part 4). */
static json_t *manifest_tensors(const hn_pearl *r, const hn_values *delta)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < r->n_layers; i++) {
        const hn_value *a = hn_values_find(delta, r->layer[i].a);
        if (a == NULL) continue;
        json_array_append_new(list, json_pack("{s:s, s:s, s:[s, s], s:I, s:s}", "base_name",
                                              r->layer[i].weight, "encoding", "lowrank", "parts",
                                              r->layer[i].a, r->layer[i].b, "rank",
                                              (json_int_t)a->dim[0], "scale", "1"));
    }
    /* by the model, as a phase that was read back from disk has another order than one that ran */
    for (int64_t i = 0; i < r->n_params; i++)
        if (hn_values_find(delta, r->param[i].name))
            json_array_append_new(list,
                                  json_pack("{s:s, s:s, s:[s]}", "base_name", r->param[i].name,
                                            "encoding", "dense", "parts", r->param[i].name));
    return list;
}

static char *manifest_text(const hn_pearl *r, int task)
{
    const hn_pearl_record *k = &r->record[task];
    json_t *m =
        json_pack("{s:i, s:s, s:[], s:{s:s, s:s}, s:{s:s, s:I}, s:I, s:I, s:o}", "format_version",
                  HN_PEARL_FORMAT, "kind", r->c->strategy, "parents", "base", "name", r->c->model,
                  "tree_digest", r->base_digest, "training", "data_digest", r->data_digest, "steps",
                  (json_int_t)k->steps, "task", (json_int_t)task + 1, "base_task",
                  (json_int_t)k->base, "tensors", manifest_tensors(r, &k->delta));
    char *text = m ? json_dumps(m, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    json_decref(m);
    return text;
}

static hn_status delta_save(const hn_pearl *r, int task, const char *path, char *hex)
{
    char *manifest = manifest_text(r, task);
    if (manifest == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    const char *const metadata[][2] = {{"format", "pt"}, {"delta.manifest", manifest}};
    const hn_status st = hn_values_save(path, &r->record[task].delta, metadata, 2, hex);
    free(manifest);
    return st;
}

typedef hn_status save_fn(const hn_pearl *r, int task, const char *path, char *hex);

static hn_status fisher_save(const hn_pearl *r, int task, const char *path, char *hex)
{
    return hn_values_save(path, &r->record[task].fisher, NULL, 0, hex);
}

static hn_status add_file(const hn_pearl *r, int task, const char *dir, const char *name,
                          save_fn *save, json_t *files)
{
    char hex[HN_SHA256_HEX];
    char *path = path_in(dir, name);
    if (path == NULL) return no_memory(dir);
    hn_status st = save(r, task, path, hex);
    if (st == HN_OK && json_object_set_new(files, name, json_string(hex)) != 0)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the index");
    hn_free(path);
    return st;
}

static hn_status fill_record(hn_pearl *r, int task, const char *dir, json_t *digests)
{
    hn_pearl_record *k = &r->record[task];
    json_t *files = json_object();
    bool ok = files != NULL;
    hn_status st = add_file(r, task, dir, delta_file, delta_save, files);
    if (st == HN_OK && k->mean) st = add_file(r, task, dir, prototype_file, prototypes_save, files);
    if (st == HN_OK && k->fisher.n) st = add_file(r, task, dir, fisher_file, fisher_save, files);
    char *path = path_in(dir, "task.json");
    k->json = record_json(r, task, files, digests, &ok);
    if (st == HN_OK && (!ok || path == NULL))
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the record of task %d", task + 1);
    if (st == HN_OK) st = hn_json_save(path, k->json, false);
    hn_free(path);
    return st;
}

hn_status hn_pearl_record_write(hn_pearl *r, int task, json_t *digests)
{
    hn_folder *folder = NULL;
    if (!hn_pearl_leads(r)) {
        r->done = task + 1;
        return HN_OK;
    }
    char *dir = record_path(r, task);
    if (dir == NULL) return no_memory(r->out);
    hn_status st = hn_folder_begin(dir, &folder);
    hn_free(dir);
    HN_TRY(st);
    st = fill_record(r, task, hn_folder_temporary(folder), digests);
    if (st != HN_OK) {
        hn_folder_abort(folder);
        return st;
    }
    HN_TRY(hn_folder_commit(folder, false));
    HN_TRY(hn_pearl_index_add(r, task));
    r->done = task + 1;
    HN_TRY(hn_remove_tree(r->working));
    return hn_make_dirs(r->working);
}

/* ---- reading ---- */

hn_status hn_pearl_verify(const char *path, const char *want)
{
    char hex[HN_SHA256_HEX];
    HN_TRY(hn_sha256_file(path, NULL, hex));
    if (want != NULL && strcmp(hex, want) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "%s: not what the run has written (SHA-256 %s, the index has %s)",
                   path, hex, want ? want : "none");
}

/* Reads one of a record's files; *out stays empty where the record has none of that name. */
static hn_status read_values(const json_t *json, const char *dir, const char *name, bool required,
                             hn_values *out)
{
    const json_t *want = json_object_get(json_object_get(json, "files"), name);
    if (want == NULL && !required) return HN_OK;
    char *path = path_in(dir, name);
    if (path == NULL) return no_memory(dir);
    hn_status st = hn_pearl_verify(path, json_string_value(want));
    if (st == HN_OK) st = hn_values_load(path, out);
    hn_free(path);
    return st;
}

static float *take(hn_values *s, const char *name, int64_t n)
{
    hn_value *v = hn_values_find(s, name);
    if (v == NULL || v->n != n) return NULL;
    float *values = v->v;
    v->v = NULL;
    return values;
}

static hn_status read_prototypes(hn_pearl *r, int task, const char *dir)
{
    hn_pearl_record *k = &r->record[task];
    hn_values s = {0};
    hn_status st = read_values(k->json, dir, prototype_file, false, &s);
    if (st == HN_OK && s.n > 0) {
        k->mean = take(&s, "mean", hn_pearl_classes(r, task) * r->width);
        k->variance = take(&s, "variance", r->width);
        if (k->mean == NULL || k->variance == NULL)
            st = HN_FAIL(HN_ERR_FORMAT, "%s/%s: not the prototypes of %" PRId64 " classes", dir,
                         prototype_file, hn_pearl_classes(r, task));
    }
    hn_values_free(&s);
    return st;
}

static double number(const json_t *o, const char *key, double otherwise)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

static hn_status read_rank(const json_t *o, const char *where, const hn_pearl_layer *l,
                           hn_pearl_rank *k)
{
    const char *module = "";
    HN_TRY(hn_json_get_text(o, "layer", where, true, &module));
    if (strcmp(module, l->module) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: ranks of layer %s in the place of %s", where, module,
                       l->module);
    HN_TRY(hn_json_get_i64(o, "rank", where, 0, INT32_MAX, true, &k->choice.rank));
    HN_TRY(hn_json_get_bool(o, "dense", where, true, &k->choice.dense));
    HN_TRY(hn_json_get_i64(o, "parameters", where, 0, INT64_MAX, true, &k->choice.parameters));
    HN_TRY(hn_json_get_i64(o, "k_energy", where, 0, INT32_MAX, true, &k->near.k_energy));
    HN_TRY(hn_json_get_i64(o, "k_reference", where, 0, INT32_MAX, true, &k->near.k_reference));
    k->near.distance = number(o, "distance", INFINITY);
    k->near.cosine = number(o, "cosine", 0);
    k->near.effective_rank = number(o, "effective_rank", 0);
    k->near.reference = number(o, "reference_norm", 0);
    return HN_OK;
}

static hn_status read_ranks(hn_pearl *r, int task, const char *where)
{
    hn_pearl_record *k = &r->record[task];
    const json_t *layers = json_object_get(k->json, "layers");
    if (layers == NULL) return HN_OK;
    if (!json_is_array(layers) || (int64_t)json_array_size(layers) != r->n_layers)
        return HN_FAIL(HN_ERR_FORMAT, "%s: 'layers' has not the model's %" PRId64 " adapted layers",
                       where, r->n_layers);
    k->rank = hn_calloc((size_t)r->n_layers, sizeof *k->rank);
    if (k->rank == NULL) return HN_FAIL(HN_ERR_MEMORY, "ranks of %" PRId64 " layers", r->n_layers);
    for (int64_t i = 0; i < r->n_layers; i++)
        HN_TRY(read_rank(json_array_get(layers, (size_t)i), where, &r->layer[i], &k->rank[i]));
    return HN_OK;
}

static hn_status read_row(const json_t *row, const char *where, int task, hn_cl *c)
{
    if (!json_is_array(row) || (int)json_array_size(row) != task + 1)
        return HN_FAIL(HN_ERR_FORMAT, "%s: not the accuracies of %d tasks", where, task + 1);
    for (int i = 0; i <= task; i++) {
        const json_t *v = json_array_get(row, (size_t)i);
        if (!json_is_number(v)) return HN_FAIL(HN_ERR_FORMAT, "%s: an accuracy is missing", where);
        HN_TRY(hn_cl_put(c, task + 1, i + 1, json_number_value(v)));
    }
    return HN_OK;
}

static hn_status read_accuracies(hn_pearl *r, int task, const char *where)
{
    const json_t *o = r->record[task].json, *chosen = json_object_get(o, "class_incremental");
    HN_TRY(read_row(json_object_get(o, "accuracy"), where, task, r->accuracy));
    for (int i = 0; i < r->n_choosers; i++)
        HN_TRY(read_row(json_object_get(chosen, hn_chooser_name(r->chooser[i])), where, task,
                        r->chosen[i]));
    return HN_OK;
}

static void read_seconds(hn_pearl_record *k)
{
    const json_t *s = json_object_get(k->json, "seconds");
    k->probe_s = number(s, "probe", 0);
    k->rank_s = number(s, "ranks", 0);
    k->train_s = number(s, "train", 0);
    k->eval_s = number(s, "evaluate", 0);
    k->threshold = number(json_object_get(k->json, "rule"), "threshold", NAN);
    k->images = (int64_t)number(k->json, "prototype_images", 0);
    k->task_images = (int64_t)number(k->json, "images", 0);
    k->steps = (int64_t)number(k->json, "steps", 0);
}

hn_status hn_pearl_record_read(hn_pearl *r, int task, const char *sha256)
{
    hn_pearl_record *k = &r->record[task];
    hn_status st = HN_OK;
    char *dir = record_path(r, task), *path = dir ? path_in(dir, "task.json") : NULL;
    if (path == NULL) {
        st = no_memory(r->out);
        goto done;
    }
    HN_TRY_GOTO(st, hn_pearl_verify(path, sha256), done);
    HN_TRY_GOTO(st, hn_json_load(path, &k->json), done);
    HN_TRY_GOTO(st, hn_json_get_i64(k->json, "base", path, 0, task, true, &k->base), done);
    HN_TRY_GOTO(st, read_values(k->json, dir, delta_file, true, &k->delta), done);
    HN_TRY_GOTO(st, read_values(k->json, dir, fisher_file, false, &k->fisher), done);
    HN_TRY_GOTO(st, read_prototypes(r, task, dir), done);
    HN_TRY_GOTO(st, read_ranks(r, task, path), done);
    HN_TRY_GOTO(st, read_accuracies(r, task, path), done);
    read_seconds(k);

done:
    hn_free(dir);
    hn_free(path);
    return st;
}
