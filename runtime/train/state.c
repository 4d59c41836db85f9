#include "runtime/train/state.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/save.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"
#include "runtime/file/model_dir.h"
#include "runtime/file/safetensors.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/sparse_state.h"
#include "runtime/train/state_impl.h"

hn_status hn_run_state_init(hn_run_state *s, int64_t room)
{
    *s = (hn_run_state){.best_loss = NAN, .best_step = -1, .cap_log = room};
    s->log = hn_calloc((size_t)room, sizeof *s->log);
    return s->log ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " log entries", room);
}

void hn_run_state_clear(hn_run_state *s)
{
    hn_free(s->log);
    hn_free(s->kernels);
    hn_free(s->buffers);
    json_decref(s->gemm_plans);
    *s = (hn_run_state){0};
}

void hn_run_state_log(hn_run_state *s, const hn_log_entry *entry)
{
    if (s->n_log < s->cap_log) s->log[s->n_log++] = *entry;
}

/* ---- tensors ---- */

/* Tensors on their way to a file. Those that live on a GPU are copied when their turn has come, one
 * at a time. */
typedef struct {
    const hn_param *param;
    const hn_tensor *tensor;
} part;

typedef struct {
    hn_st_entry *entry;
    part *part; /* where they come from */
    int64_t n;
} entries;

static hn_status entries_new(int64_t room, entries *out)
{
    *out = (entries){.entry = hn_calloc((size_t)room, sizeof *out->entry),
                     .part = hn_calloc((size_t)room, sizeof *out->part)};
    return out->entry && out->part ? HN_OK
                                   : HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " tensors", room);
}

static void entries_free(entries *e)
{
    hn_free(e->entry);
    hn_free(e->part);
}

/* Whether rows of storage are rows of the file, whatever lies between them. B of a convolution is
 * [out, r, 1, 1] there: rows of one value. */
static bool has_file_rows(const hn_param *p, const hn_tensor *t)
{
    return p->order == HN_ORDER_SAME && p->file_dim[p->file_ndim - 1] == hn_type_cols(&t->type);
}

static hn_status fetch(const void *from, const void **data, void **copy)
{
    const part *p = from;
    if (has_file_rows(p->param, p->tensor)) return hn_tensor_host(p->tensor, data, copy);
    float *dense = hn_malloc((size_t)hn_param_values(p->param) * sizeof *dense);
    if (dense == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", p->param->name);
    *data = *copy = dense;
    return hn_param_read(p->param, p->tensor, dense);
}

static void entries_add(entries *e, const char *name, const hn_param *p, const hn_tensor *t)
{
    hn_st_entry *to = &e->entry[e->n];
    e->part[e->n] = (part){p, t};
    *to = (hn_st_entry){.name = name,
                        .dtype = HN_ST_F32,
                        .ndim = p->file_ndim,
                        .fetch = fetch,
                        .source = &e->part[e->n]};
    for (int i = 0; i < p->file_ndim; i++) to->dim[i] = p->file_dim[i];
    if (has_file_rows(p, t)) to->pitch = hn_type_ld(&t->type) * (int64_t)sizeof(float);
    e->n++;
}

static hn_status save_moments(const char *path, const hn_params *p)
{
    const int64_t n_params = hn_params_count(p);
    hn_arena names = {0};
    hn_sparse_entries blocks = {0};
    entries e = {0};
    hn_status st = hn_sparse_save_moments(hn_params_sparse(p), &blocks);
    if (st == HN_OK) st = entries_new(3 * n_params + blocks.n, &e);
    for (int64_t i = 0; st == HN_OK && i < n_params; i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_tensor *moment[] = {q->moment1, q->moment2, q->average};
        for (int k = 0; k < 3 && st == HN_OK; k++) {
            if (moment[k] == NULL) continue;
            const char *name = hn_arena_text(&names, "%s.%c", q->name, "mva"[k]);
            if (name == NULL)
                st = HN_FAIL(HN_ERR_MEMORY, "no memory for a moment's name");
            else
                entries_add(&e, name, q, moment[k]);
        }
    }
    for (int64_t i = 0; st == HN_OK && i < blocks.n; i++) e.entry[e.n++] = blocks.entry[i];
    if (st == HN_OK) st = hn_st_save(path, e.entry, e.n, NULL, 0, NULL, NULL);
    hn_sparse_entries_free(&blocks);
    hn_arena_free(&names);
    entries_free(&e);
    return st;
}

static const char BUFFERS[] = "buffers";

static hn_status save_buffers(const char *path, const hn_run_state *s)
{
    const hn_st_entry e = {.name = BUFFERS,
                           .dtype = HN_ST_F32,
                           .ndim = 2,
                           .dim = {s->ranks, s->n_buffers},
                           .data = s->buffers};
    return hn_st_save(path, &e, 1, NULL, 0, NULL, NULL);
}

/* The list of trained tensors in a manifest: how each is encoded, rank and scale. "dora" is a
 * low-rank pair with magnitudes, the third part: m / || W + scale B A || (W + scale B A) by row. */
static json_t *manifest_tensors(const hn_params *p)
{
    json_t *tensors = json_array();
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if ((q->trained || q->buffer) && !q->adapter)
            json_array_append_new(tensors, json_pack("{s:s, s:s, s:[s]}", "base_name", q->name,
                                                     "encoding", "dense", "parts", q->name));
    }
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        char scale[32];
        if (l->a == NULL) continue;
        snprintf(scale, sizeof scale, "%.9g", (double)l->lowrank.scale);
        json_array_append_new(tensors,
                              json_pack("{s:s, s:s, s:[s, s, s*], s:I, s:s}", "base_name",
                                        l->weight->name, "encoding", l->m ? "dora" : "lowrank",
                                        "parts", l->a->name, l->b->name, l->m ? l->m->name : NULL,
                                        "rank", (json_int_t)l->lowrank.rank, "scale", scale));
    }
    return tensors;
}

/* The manifest of a delta pack (spec/delta.md part 4): integers, or strings for real numbers, and
 * no times, so that two runs of one seed write the same bytes. */
static char *manifest_text(const hn_params *p, const hn_pack_writer *blocks,
                           const hn_run_identity *id, const hn_run_state *s)
{
    json_t *tensors = manifest_tensors(p);
    if (blocks->tensors) json_array_extend(tensors, blocks->tensors);
    json_t *m =
        json_pack("{s:i, s:s, s:[], s:{s:s, s:s}, s:{s:s, s:s, s:I, s:I}, s:o}", "format_version",
                  HN_STATE_VERSION, "kind", id->method, "parents", "base", "name", id->base_path,
                  "tree_digest", id->base_digest, "training", "data_digest", id->data_digest,
                  "tokenizer_digest", id->tokenizer_digest, "steps", (json_int_t)s->step, "tokens",
                  (json_int_t)s->tokens, "tensors", tensors);
    json_t *shares = hn_shares_manifest(p, id);
    if (hn_params_split(p) != NULL &&
        (shares == NULL || json_object_set(m, "shares", shares) != 0)) {
        json_decref(m);
        m = NULL;
    }
    json_decref(shares);
    char *text = m ? json_dumps(m, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    json_decref(m);
    return text;
}

static hn_status save_delta(const char *path, const hn_params *p, const hn_run_identity *id,
                            const hn_run_state *s)
{
    entries e = {0};
    hn_pack_writer blocks = {0};
    float *values = NULL;
    hn_status st = hn_sparse_save_delta(hn_params_sparse(p), &blocks, &values);
    if (st == HN_OK) st = entries_new(hn_params_count(p) + blocks.n, &e);
    char *manifest = st == HN_OK ? manifest_text(p, &blocks, id, s) : NULL;
    if (st == HN_OK && manifest == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (q->split != NULL) continue; /* in the shares */
        if (q->trained || q->buffer) entries_add(&e, q->name, q, q->buffer ? q->value : q->master);
    }
    for (int64_t i = 0; st == HN_OK && i < blocks.n; i++) e.entry[e.n++] = blocks.entry[i];
    const char *const metadata[][2] = {{"format", "pt"}, {"delta.manifest", manifest}};
    if (st == HN_OK) st = hn_st_save(path, e.entry, e.n, metadata, 2, NULL, NULL);
    free(manifest);
    hn_free(values);
    hn_pack_writer_free(&blocks);
    entries_free(&e);
    return st;
}

/* ---- JSON ---- */

/* The log in the words of Hugging Face's log_history. */
static json_t *log_json(const hn_run_state *s)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->n_log; i++) {
        const hn_log_entry *e = &s->log[i];
        json_t *o = json_pack("{s:I}", "step", (json_int_t)e->step);
        if (isfinite(e->loss)) json_object_set_new(o, "loss", json_real(e->loss));
        if (isfinite(e->lr)) json_object_set_new(o, "learning_rate", json_real(e->lr));
        if (isfinite(e->grad_norm)) json_object_set_new(o, "grad_norm", json_real(e->grad_norm));
        if (isfinite(e->eval_loss)) json_object_set_new(o, "eval_loss", json_real(e->eval_loss));
        json_array_append_new(list, o);
    }
    return list;
}

static double number_or_nan(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* What the data have decided about a classifier; NULL: a decoder. */
static json_t *classes_json(const hn_run_identity *id)
{
    const hn_vision_config *v = id->vision;
    if (v == NULL) return NULL;
    json_t *names = json_array();
    for (int64_t i = 0; i < id->class_names->n; i++)
        json_array_append_new(names, json_string(id->class_names->items[i]));
    return json_pack("{s:I, s:o, s:o, s:o}", "count", (json_int_t)v->classes, "names", names,
                     "mean", hn_vision_pixels_json(v->mean, v->channels), "std",
                     hn_vision_pixels_json(v->std, v->channels));
}

static const char PER_STEP[] = "micro_batches_per_step", EVALUATE_FIRST[] = "evaluate_first";

static json_t *state_json(const hn_run_identity *id, const hn_run_state *s)
{
    json_t *best = isnan(s->best_loss) ? json_null() : json_real(s->best_loss);
    return json_pack(
        "{s:i, s:I, s:I, s:I, s:I, s:o, s:I, s:I, s:{s:s, s:s, s:s, s:s, s:s, s:s}, s:o, "
        "s:s*, s:O*, s:o*, s:o*}",
        "format", HN_STATE_VERSION, "step", (json_int_t)s->step, "micro_batch",
        (json_int_t)s->micro_batch, PER_STEP, (json_int_t)s->per_step, "tokens",
        (json_int_t)s->tokens, "best_loss", best, "best_step", (json_int_t)s->best_step,
        "evals_since_best", (json_int_t)s->evals_since_best, "identity", "method", id->method,
        "base_model", id->base_path, "base_digest", id->base_digest, "data_digest", id->data_digest,
        "tokenizer_digest", id->tokenizer_digest, "settings", id->settings, "log", log_json(s),
        "kernels", s->kernels, "gemm_plans", s->gemm_plans, "classes", classes_json(id),
        EVALUATE_FIRST, s->evaluate_first ? json_true() : NULL);
}

static json_t *trainer_state_json(const hn_run_state *s)
{
    json_t *best = isnan(s->best_loss) ? json_null() : json_real(s->best_loss);
    return json_pack("{s:I, s:o, s:I, s:o}", "global_step", (json_int_t)s->step, "best_metric",
                     best, "best_step", (json_int_t)s->best_step, "log_history", log_json(s));
}

static hn_status save_json(const char *path, json_t *value)
{
    const hn_status st = value ? hn_json_save(path, value, true)
                               : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    json_decref(value);
    return st;
}

hn_status hn_state_write(hn_ckpt *c, const hn_params *p, const hn_run_identity *id,
                         const hn_run_state *s)
{
    const char *path;
    HN_TRY(hn_ckpt_path(c, "delta.safetensors", &path));
    HN_TRY(save_delta(path, p, id, s));
    if (s->buffers != NULL) {
        HN_TRY(hn_ckpt_path(c, "buffers.safetensors", &path));
        HN_TRY(save_buffers(path, s));
    }
    HN_TRY(hn_ckpt_path(c, "state.json", &path));
    HN_TRY(save_json(path, state_json(id, s)));
    HN_TRY(hn_ckpt_path(c, "trainer_state.json", &path));
    HN_TRY(save_json(path, trainer_state_json(s)));
    HN_TRY(hn_ckpt_path(c, "run.yaml", &path));
    return hn_save_text(path, id->yaml);
}

static hn_status write_all(hn_ckpt *c, const hn_params *p, const hn_run_identity *id,
                           const hn_run_state *s)
{
    const char *path;
    if (hn_params_split(p) != NULL)
        return HN_FAIL(HN_ERR_ARG, "optimizer state that ranks share: hn_state_save_shares");
    HN_TRY(hn_state_write(c, p, id, s));
    HN_TRY(hn_ckpt_path(c, "optimizer-0.safetensors", &path));
    return save_moments(path, p);
}

hn_status hn_state_save(const char *out_dir, const hn_params *p, const hn_run_identity *id,
                        const hn_run_state *s)
{
    hn_ckpt *c = NULL;
    HN_TRY(hn_ckpt_begin(out_dir, s->step, &c));
    const hn_status st = write_all(c, p, id, s);
    if (st == HN_OK) return hn_ckpt_commit(c);
    hn_ckpt_abort(c);
    return st;
}

/* ---- loading ---- */

static hn_status read_pixels(const json_t *list, const char *where, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        if (!json_is_number(v) || (int64_t)json_array_size(list) != n)
            return HN_FAIL(HN_ERR_FORMAT, "%s: mean or std are not %" PRId64 " numbers", where, n);
        out[i] = (float)json_number_value(v);
    }
    return HN_OK;
}

static hn_status read_classes(const json_t *state, const char *where, hn_vision_config *v,
                              hn_names *names)
{
    const json_t *c = json_object_get(state, "classes"), *list = json_object_get(c, "names");
    const size_t n = json_array_size(list);
    if (!json_is_object(c)) return HN_FAIL(HN_ERR_FORMAT, "%s: not of an image classifier", where);
    HN_TRY(hn_json_get_i64(c, "count", where, 1, INT32_MAX, true, &v->classes));
    HN_TRY(read_pixels(json_object_get(c, "mean"), where, v->channels, v->mean));
    HN_TRY(read_pixels(json_object_get(c, "std"), where, v->channels, v->std));
    for (int64_t k = 0; k < v->channels; k++)
        if (!(v->std[k] > 0))
            return HN_FAIL(HN_ERR_FORMAT, "%s: std[%" PRId64 "] is not above 0", where, k);
    if (n != 0 && (int64_t)n != v->classes)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %zu names of %" PRId64 " classes", where, n, v->classes);
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name == NULL)
            return HN_FAIL(HN_ERR_FORMAT, "%s: the name of class %zu is no text", where, i);
        HN_TRY(hn_names_add(names, name));
    }
    return HN_OK;
}

hn_status hn_state_per_step(const char *dir, int64_t *out)
{
    json_t *j = NULL;
    char *path = hn_asprintf("%s/state.json", dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
    *out = 0;
    hn_status st = hn_json_load(path, &j);
    if (st == HN_OK) st = hn_json_get_i64(j, PER_STEP, path, 0, INT32_MAX, false, out);
    json_decref(j);
    hn_free(path);
    return st;
}

hn_status hn_state_classes(const char *dir, hn_vision_config *v, hn_names *names)
{
    json_t *j = NULL;
    hn_vision_config changed = *v;
    char *path = hn_asprintf("%s/state.json", dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
    hn_status st = hn_json_load(path, &j);
    if (st == HN_OK) st = read_classes(j, path, &changed, names);
    if (st == HN_OK) *v = changed;
    json_decref(j);
    hn_free(path);
    return st;
}

static hn_status read_tensor(const hn_st_file *f, const char *name, const hn_param *p, float *dense)
{
    const hn_st_tensor *from = hn_st_find(f, name);
    if (from == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s is missing", hn_st_where(f), name);
    bool same = from->ndim == p->file_ndim && from->dtype == HN_ST_F32;
    for (int i = 0; same && i < p->file_ndim; i++) same = from->dim[i] == p->file_dim[i];
    if (!same)
        return HN_FAIL(HN_ERR_SHAPE, "%s: tensor %s has another shape or type", hn_st_where(f),
                       name);
    return hn_st_convert(from, HN_F32, dense);
}

static float *dense_buffer(const hn_params *p)
{
    int64_t largest = 1;
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const int64_t n = hn_param_values(q);
        if ((q->trained || q->buffer) && n > largest) largest = n;
    }
    return hn_malloc((size_t)largest * sizeof(float));
}

static hn_status check_manifest(const json_t *m, const char *where, const char *base_digest)
{
    int64_t version = 0;
    const char *digest = NULL;
    HN_TRY(hn_json_get_i64(m, "format_version", where, 1, HN_STATE_VERSION, true, &version));
    HN_TRY(hn_json_get_text(json_object_get(m, "base"), "tree_digest", where, true, &digest));
    if (strcmp(digest, base_digest) != 0)
        return HN_FAIL(HN_ERR_ARG, "%s: made on another base model: digest %s, this one has %s",
                       where, digest, base_digest);
    return HN_OK;
}

static hn_status read_manifest(const hn_st_file *f, json_t **out)
{
    const char *text = hn_st_metadata(f, "delta.manifest");
    if (text == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: no delta.manifest in its metadata", hn_st_where(f));
    return hn_json_parse(text, strlen(text), hn_st_where(f), out);
}

/* in_blocks: tensors of the file that are not parameters' values
 * shares: NULL, or those that have the trained values */
static hn_status load_values(const hn_st_file *f, const hn_params *p, int64_t in_blocks,
                             const hn_shares *shares, float *dense)
{
    int64_t n = in_blocks;
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!q->trained && !q->buffer) continue;
        if (q->trained && shares != NULL) {
            HN_TRY(hn_shares_read(shares, q, HN_KEPT_MASTER, 0, hn_param_values(q), dense));
            HN_TRY(hn_param_set_stored(q, dense));
            continue;
        }
        HN_TRY(read_tensor(f, q->name, q, dense));
        HN_TRY(hn_param_set(q, dense));
        n++;
    }
    if (n != hn_st_count(f))
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " tensors, the run trains %" PRId64,
                       hn_st_where(f), hn_st_count(f), n);
    return HN_OK;
}

hn_status hn_state_load_delta(const char *dir, const hn_params *p, const char *base_digest)
{
    hn_st_file *f = NULL;
    json_t *manifest = NULL, *tensors = NULL, *have;
    hn_shares *shares = NULL;
    int64_t n_blocks = 0;
    hn_status st = HN_OK;
    float *dense = dense_buffer(p);
    char *path = hn_asprintf("%s/delta.safetensors", dir);
    if (path == NULL || dense == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
        goto done;
    }
    HN_TRY_GOTO(st, hn_st_open(path, &f), done);
    HN_TRY_GOTO(st, read_manifest(f, &manifest), done);
    HN_TRY_GOTO(st, check_manifest(manifest, path, base_digest), done);
    have = json_object_get(manifest, "tensors");
    HN_TRY_GOTO(st, hn_sparse_load_delta(f, have, p, &n_blocks), done);
    HN_TRY_GOTO(st, hn_shares_open(dir, p, &shares), done);
    HN_TRY_GOTO(st, load_values(f, p, 2 * n_blocks, shares, dense), done);
    tensors = manifest_tensors(p);
    if (!json_equal(tensors, have))
        st = HN_FAIL(HN_ERR_FORMAT, "%s: its manifest has other ranks or scales than this run",
                     path);

done:
    hn_shares_close(shares);
    json_decref(tensors);
    json_decref(manifest);
    hn_st_close(f);
    hn_free(path);
    hn_free(dense);
    return st;
}

static hn_status find_buffers(const hn_st_file *f, const hn_params *p, const hn_st_tensor **out)
{
    const char *where = hn_st_where(f);
    const int64_t n = hn_params_buffer_values(p);
    const hn_st_tensor *t = hn_st_find(f, BUFFERS);
    if (t == NULL || hn_st_count(f) != 1 || t->dtype != HN_ST_F32 || t->ndim != 2)
        return HN_FAIL(HN_ERR_FORMAT, "%s: not one tensor '%s', F32 [ranks, values]", where,
                       BUFFERS);
    if (t->dim[0] < 2 || t->dim[0] > HN_HUB_MAX_RANKS)
        return HN_FAIL(HN_ERR_FORMAT, "%s: of %" PRId64 " ranks, but several are 2 to %d", where,
                       t->dim[0], HN_HUB_MAX_RANKS);
    if (t->dim[1] != n || n == 0)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %" PRId64 " running values of each rank, the model has %" PRId64, where,
                       t->dim[1], n);
    *out = t;
    return HN_OK;
}

static hn_status load_buffers(const char *dir, const hn_params *p, hn_run_state *s)
{
    hn_st_file *f = NULL;
    const hn_st_tensor *t = NULL;
    hn_status st = HN_OK;
    char *path = hn_asprintf("%s/buffers.safetensors", dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
    if (!hn_is_file(path)) goto done;
    HN_TRY_GOTO(st, hn_st_open(path, &f), done);
    HN_TRY_GOTO(st, find_buffers(f, p, &t), done);
    s->ranks = t->dim[0];
    s->n_buffers = t->dim[1];
    s->buffers = hn_malloc((size_t)hn_st_elements(t) * sizeof *s->buffers);
    st = s->buffers ? hn_st_convert(t, HN_F32, s->buffers)
                    : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", path);

done:
    hn_st_close(f);
    hn_free(path);
    return st;
}

/* Where moments come from: a file with whole ones, or shares. */
typedef struct {
    const hn_st_file *file;
    const hn_shares *shares;
    float *dense, *other; /* [values of the largest parameter] */
} moments;

/* Values first .. first + n - 1 of a moment, in the order of storage, into m->dense. */
static hn_status read_moment(const moments *m, const hn_param *q, hn_kept what, int64_t first,
                             int64_t n)
{
    char name[640];
    if (m->shares != NULL) return hn_shares_read(m->shares, q, what, first, n, m->dense);
    snprintf(name, sizeof name, "%s.%c", q->name, " mv"[what]);
    HN_TRY(read_tensor(m->file, name, q, m->other));
    hn_param_to_storage(q, m->other, m->dense);
    memmove(m->dense, m->dense + first, (size_t)n * sizeof *m->dense);
    return HN_OK;
}

/* Where ranks share them, or did. */
static hn_status load_shared(const moments *m, const hn_param *q)
{
    hn_tensor *const whole[] = {NULL, q->moment1, q->moment2};
    int64_t first = 0, n = hn_param_values(q);
    if (q->split != NULL) hn_param_kept(q, &first, &n);
    for (int k = HN_KEPT_MOMENT1; k < HN_KEPT_COUNT && n > 0; k++) {
        const bool split = q->split && q->split->moment[k - HN_KEPT_MOMENT1];
        if (!split && whole[k] == NULL) continue;
        HN_TRY(read_moment(m, q, (hn_kept)k, first, n));
        HN_TRY(split ? hn_param_set_kept(q, (hn_kept)k, first, n, m->dense)
                     : hn_tensor_set(whole[k], m->dense));
    }
    if (q->average == NULL) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "%s: there is no average of it in a checkpoint of shares",
                   q->name);
}

static hn_status load_whole(const moments *m, const hn_param *q)
{
    char name[640];
    hn_tensor *moment[] = {q->moment1, q->moment2, q->average};
    for (int k = 0; k < 3; k++) {
        if (moment[k] == NULL) continue;
        snprintf(name, sizeof name, "%s.%c", q->name, "mva"[k]);
        HN_TRY(read_tensor(m->file, name, q, m->dense));
        HN_TRY(hn_param_write(q, moment[k], m->dense));
    }
    return HN_OK;
}

static hn_status load_moments(const char *dir, const hn_params *p)
{
    hn_st_file *f = NULL;
    hn_shares *shares = NULL;
    hn_status st = HN_OK;
    moments m = {.dense = dense_buffer(p)};
    char *path = hn_asprintf("%s/optimizer-0.safetensors", dir);
    HN_TRY_GOTO(st, hn_shares_open(dir, p, &shares), done);
    const bool shared = shares != NULL || hn_params_split(p) != NULL;
    if (shared) m.other = dense_buffer(p);
    if (path == NULL || m.dense == NULL || (shared && m.other == NULL)) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
        goto done;
    }
    if (shares == NULL) HN_TRY_GOTO(st, hn_st_open(path, &f), done);
    m.file = f;
    m.shares = shares;
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (shared && !q->trained) continue;
        HN_TRY_GOTO(st, shared ? load_shared(&m, q) : load_whole(&m, q), done);
    }
    if (!shared) st = hn_sparse_load_moments(f, hn_params_sparse(p));

done:
    hn_shares_close(shares);
    hn_st_close(f);
    hn_free(path);
    hn_free(m.dense);
    hn_free(m.other);
    return st;
}

/* Where the setting begins in which a and b are not alike: "seed: 1 ..." */
static size_t first_difference(const char *a, const char *b)
{
    size_t at = 0;
    while (a[at] != '\0' && a[at] == b[at]) at++;
    while (at > 0 && a[at - 1] != ':') at--; /* behind its name, or the one before */
    while (at > 0 && a[at - 1] != ' ') at--;
    return at;
}

static hn_status check_identity(const json_t *state, const char *where, const hn_run_identity *id)
{
    const json_t *have = json_object_get(state, "identity");
    const struct {
        const char *key, *value, *what;
    } facts[] = {{"method", id->method, "method"},
                 {"base_digest", id->base_digest, "base model"},
                 {"data_digest", id->data_digest, "data set"},
                 {"tokenizer_digest", id->tokenizer_digest, "tokenizer"},
                 {"settings", id->settings, "settings"}};
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        const char *value;
        HN_TRY(hn_json_get_text(have, facts[i].key, where, true, &value));
        if (strcmp(value, facts[i].value) == 0) continue;
        if (strcmp(facts[i].key, "settings") != 0)
            return HN_FAIL(HN_ERR_ARG, "%s: the run had another %s: '%s', now '%s'", where,
                           facts[i].what, value, facts[i].value);
        const size_t at = first_difference(value, facts[i].value);
        return HN_FAIL(HN_ERR_ARG, "%s: the run had other settings: '%.60s', now '%.60s'", where,
                       value + at, facts[i].value + at);
    }
    return HN_OK;
}

/* Absent in most checkpoints: the evaluation is there, or none belongs to the step. */
static hn_status read_evaluate_first(const json_t *j, const char *where, hn_run_state *s)
{
    HN_TRY(hn_json_get_bool(j, EVALUATE_FIRST, where, false, &s->evaluate_first));
    if (!s->evaluate_first || s->best_step < s->step) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT,
                   "%s: key '%s' is true at step %" PRId64 ", but the best evaluation is of step "
                   "%" PRId64,
                   where, EVALUATE_FIRST, s->step, s->best_step);
}

static hn_status read_state(const json_t *j, const char *where, int64_t room, hn_run_state *s)
{
    int64_t version = 0;
    double best = NAN;
    const char *kernels = NULL;
    HN_TRY(hn_json_get_i64(j, "format", where, 1, HN_STATE_VERSION, true, &version));
    HN_TRY(hn_json_get_i64(j, "step", where, 0, INT64_MAX, true, &s->step));
    HN_TRY(hn_json_get_i64(j, "micro_batch", where, 0, INT64_MAX, true, &s->micro_batch));
    HN_TRY(hn_json_get_i64(j, PER_STEP, where, 0, INT32_MAX, false, &s->per_step));
    HN_TRY(hn_json_get_i64(j, "tokens", where, 0, INT64_MAX, true, &s->tokens));
    HN_TRY(hn_json_get_i64(j, "best_step", where, -1, INT64_MAX, true, &s->best_step));
    HN_TRY(hn_json_get_i64(j, "evals_since_best", where, 0, INT64_MAX, true, &s->evals_since_best));
    HN_TRY(hn_json_get_f64(j, "best_loss", where, false, &best));
    HN_TRY(read_evaluate_first(j, where, s));
    HN_TRY(hn_json_get_text(j, "kernels", where, false, &kernels));
    if (kernels != NULL && (s->kernels = hn_strdup(kernels)) == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", where);
    const json_t *log = json_object_get(j, "log");
    if (!json_is_array(log)) return HN_FAIL(HN_ERR_FORMAT, "%s: key 'log' is not a list", where);
    const int64_t n = (int64_t)json_array_size(log);
    hn_run_state fresh;
    HN_TRY(hn_run_state_init(&fresh, n + room));
    s->log = fresh.log;
    s->cap_log = fresh.cap_log;
    s->best_loss = best;
    for (int64_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(log, (size_t)i);
        const hn_log_entry e = {.step = json_integer_value(json_object_get(o, "step")),
                                .loss = number_or_nan(o, "loss"),
                                .lr = number_or_nan(o, "learning_rate"),
                                .grad_norm = number_or_nan(o, "grad_norm"),
                                .eval_loss = number_or_nan(o, "eval_loss")};
        hn_run_state_log(s, &e);
    }
    return HN_OK;
}

hn_status hn_state_load(const char *dir, const hn_params *p, const hn_run_identity *id,
                        int64_t room, hn_run_state *s)
{
    json_t *j = NULL;
    hn_run_state state = {0};
    HN_TRY(hn_ckpt_verify(dir));
    char *path = hn_asprintf("%s/state.json", dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
    hn_status st = hn_json_load(path, &j);
    if (st == HN_OK) st = check_identity(j, path, id);
    if (st == HN_OK) st = read_state(j, path, room, &state);
    if (st == HN_OK) st = hn_state_load_delta(dir, p, id->base_digest);
    if (st == HN_OK) st = load_moments(dir, p);
    if (st == HN_OK) st = load_buffers(dir, p, &state);
    if (st == HN_OK) state.gemm_plans = json_incref(json_object_get(j, "gemm_plans"));
    json_decref(j);
    hn_free(path);
    if (st != HN_OK) {
        hn_run_state_clear(&state);
        return st;
    }
    hn_run_state_clear(s);
    *s = state;
    return HN_OK;
}
