/* Changed blocks as delta packs and as adapters of PEFT's SHiRA, each read back. */
#include "runtime/train/sparse_export.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/folder.h"
#include "runtime/file/shira.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/companions.h"
#include "runtime/train/state.h"

/* ---- packs ---- */

/* Rows of other encodings are left to others. */
static hn_status read_rows(const hn_st_file *f, const json_t *manifest, hn_pack *out)
{
    const char *where = hn_st_where(f);
    const json_t *rows = json_object_get(manifest, "tensors");
    const size_t n = json_array_size(rows);
    int64_t version = 0;
    HN_TRY(hn_json_get_i64(manifest, "format_version", where, 1, HN_STATE_VERSION, true, &version));
    if (!json_is_array(rows))
        return HN_FAIL(HN_ERR_FORMAT, "%s: its manifest has no list 'tensors'", where);
    out->matrix = hn_calloc(n + 1, sizeof *out->matrix);
    if (out->matrix == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %zu matrices", n);
    for (size_t k = 0; k < n; k++) {
        const json_t *row = json_array_get(rows, k);
        if (!json_is_object(row))
            return HN_FAIL(HN_ERR_FORMAT, "%s: entry %zu of 'tensors' is no object", where, k);
        if (!hn_pack_is_row(row)) continue;
        HN_TRY(hn_pack_read(f, row, &out->matrix[out->n]));
        out->n++;
    }
    return HN_OK;
}

hn_status hn_sparse_read_pack(const char *path, hn_pack *out, json_t **manifest)
{
    hn_st_file *f = NULL;
    json_t *m = NULL;
    hn_pack p = {0};
    const char *text;
    char *file = hn_is_folder(path) ? hn_asprintf("%s/delta.safetensors", path) : hn_strdup(path);
    hn_status st = file ? hn_st_open(file, &f) : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", path);
    if (st != HN_OK) goto done;
    text = hn_st_metadata(f, "delta.manifest");
    if (text == NULL) {
        st = HN_FAIL(HN_ERR_FORMAT, "%s: no delta.manifest in its metadata", file);
        goto done;
    }
    HN_TRY_GOTO(st, hn_json_parse(text, strlen(text), file, &m), done);
    st = read_rows(f, m, &p);

done:
    hn_st_close(f);
    hn_free(file);
    if (st == HN_OK && manifest != NULL)
        *manifest = m;
    else
        json_decref(m);
    if (st == HN_OK)
        *out = p;
    else
        hn_pack_free(&p);
    return st;
}

static hn_status copy_delta(const char *checkpoint, const char *dir)
{
    hn_folder *folder = NULL;
    hn_status st = HN_OK;
    HN_TRY(hn_folder_begin(dir, &folder));
    char *from = hn_asprintf("%s/delta.safetensors", checkpoint);
    char *to = hn_asprintf("%s/delta.safetensors", hn_folder_temporary(folder));
    st = from && to ? hn_copy_file(from, to) : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    hn_free(from);
    hn_free(to);
    if (st == HN_OK) return hn_folder_commit(folder, true);
    hn_folder_abort(folder);
    return st;
}

hn_status hn_export_pack(hn_session *s, const char *checkpoint, const char *dir)
{
    const hn_params *p = hn_engine_params(s->engine);
    const uint64_t seed = (uint64_t)s->run->seed;
    float *before = NULL;
    int64_t n;
    const char *digest;
    HN_TRY(hn_model_digest(&s->model, seed, &digest));
    HN_TRY(copy_delta(checkpoint, dir));
    hn_status st = hn_session_probe(s, &before, &n);
    if (st == HN_OK) st = hn_model_load(&s->model, p, seed);
    if (st == HN_OK) st = hn_state_load_delta(dir, p, digest);
    if (st == HN_OK) st = hn_export_compare(s, before, dir, 0);
    hn_free(before);
    return st;
}

/* ---- SHiRA ---- */

static const hn_linear_layer *layer_of(const hn_params *p, const char *weight)
{
    for (int64_t i = 0; i < hn_params_linears(p); i++)
        if (strcmp(hn_params_linear_at(p, i)->weight->name, weight) == 0)
            return hn_params_linear_at(p, i);
    return NULL;
}

/* What PEFT's SHiRA has no place for: low-rank pairs, a head. */
static hn_status check_rows(const json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *name = json_string_value(json_object_get(row, "base_name"));
        if (!hn_pack_is_row(row))
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "--kind shira: %s is trained in another way, too, which PEFT's SHiRA "
                           "cannot hold; use --kind merged",
                           name ? name : "a parameter");
    }
    return HN_OK;
}

static hn_status add_module(const hn_params *p, const hn_pack_matrix *m, hn_shira_adapter *a)
{
    const hn_linear_layer *l = layer_of(p, m->name);
    if (l == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: the model has no such layer", m->name);
    if (m->set)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "--kind shira: %s has blocks that kept their change (--on-drop keep), which "
                       "are no sums; use --kind pack or merged",
                       l->module);
    if (l->kh > 0 || l->weight->order != HN_ORDER_SAME)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "--kind shira: %s is %s; PEFT's SHiRA knows linear layers [out, in] alone; "
                       "use --kind merged",
                       l->module, l->kh > 0 ? "a convolution" : "stored transposed");
    HN_TRY(hn_names_add(&a->config.targets.list, l->module));
    return hn_shira_add(a, l->module, m->out, m->in, m->br, m->bc, m->id, m->n, m->delta);
}

static bool shape_of(void *params, const char *module, int64_t *out, int64_t *in)
{
    const hn_params *p = params;
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (strcmp(l->module, module) != 0) continue;
        *out = l->out;
        *in = l->in;
        return true;
    }
    return false;
}

/* The module's values into W. */
static hn_status apply_module(const hn_params *p, const hn_shira_module *m)
{
    char *name = hn_asprintf("%s.weight", m->module);
    const hn_param *q = name ? hn_params_find(p, name) : NULL;
    float *w = hn_malloc((size_t)(m->out * m->in) * sizeof *w);
    hn_status st =
        q && w ? hn_tensor_get(q->value, w) : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", m->module);
    for (int64_t k = 0; st == HN_OK && k < m->n; k++) w[m->at[k]] += m->value[k];
    if (st == HN_OK) st = hn_tensor_set(q->value, w);
    hn_free(w);
    hn_free(name);
    return st;
}

static hn_status read_back(hn_session *s, const char *dir)
{
    hn_params *p = (hn_params *)(size_t)hn_engine_params(s->engine);
    hn_shira_adapter a = {0};
    HN_TRY(hn_model_load(&s->model, p, (uint64_t)s->run->seed));
    hn_status st = hn_shira_load(dir, shape_of, p, &a);
    for (int64_t i = 0; st == HN_OK && i < a.n; i++) st = apply_module(p, &a.modules[i]);
    hn_shira_clear(&a);
    return st;
}

hn_status hn_export_shira(hn_session *s, const char *checkpoint, const char *dir)
{
    const hn_params *p = hn_engine_params(s->engine);
    hn_shira_adapter a = {0};
    hn_pack pack = {0};
    float *before = NULL;
    int64_t n;
    json_t *manifest = NULL;
    hn_status st = hn_sparse_read_pack(checkpoint, &pack, &manifest);
    if (st == HN_OK) st = check_rows(json_object_get(manifest, "tensors"));
    json_decref(manifest);
    for (int64_t i = 0; st == HN_OK && i < pack.n; i++) st = add_module(p, &pack.matrix[i], &a);
    if (st == HN_OK) {
        a.config.base_model = hn_strdup(s->run->model);
        a.config.task_type = hn_session_has_images(s) ? NULL : hn_strdup("CAUSAL_LM");
        st = hn_session_probe(s, &before, &n);
    }
    if (st == HN_OK) st = hn_shira_save(dir, &a, HN_F32);
    if (st == HN_OK) st = read_back(s, dir);
    if (st == HN_OK) st = hn_export_compare(s, before, dir, 0);
    hn_shira_clear(&a);
    hn_pack_free(&pack);
    hn_free(before);
    return st;
}
