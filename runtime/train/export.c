#define _POSIX_C_SOURCE 200809L
#include "runtime/train/export.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/folder.h"
#include "runtime/train/companions.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/sparse_export.h"
#include "runtime/train/state_shares.h"

hn_status hn_export_compare(hn_session *s, const float *before, const char *dir, double limit)
{
    float *after = NULL;
    int64_t n = 0;
    HN_TRY(hn_session_probe(s, &after, &n));
    double err = 0, ref = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)after[i] - (double)before[i];
        err += d * d;
        ref += (double)before[i] * (double)before[i];
    }
    hn_free(after);
    const double distance = ref > 0 ? sqrt(err / ref) : sqrt(err);
    if (!(distance <= limit))
        return HN_FAIL(HN_ERR_NUMERIC,
                       "%s: read back, its logits differ by %.3g relative (limit %.3g)", dir,
                       distance, limit);
    hn_info(&s->log, "%s: read back, logits differ by %.3g relative", dir, distance);
    return HN_OK;
}

/* Nothing of what is read back may be there already. saved: what is trained whole, too; else the
 * model is what it is without an adapter. */
static hn_status clear_adapter(const hn_params *p, bool saved)
{
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!q->adapter && !(saved && q->trained)) continue;
        float *zeros = hn_calloc((size_t)hn_param_values(q), sizeof *zeros);
        st = zeros ? hn_param_set(q, zeros) : HN_FAIL(HN_ERR_MEMORY, "zeros for %s", q->name);
        hn_free(zeros);
    }
    return st == HN_OK && !saved ? hn_params_measure(p) : st;
}

static hn_status write_peft(hn_session *s, const char *checkpoint, const char *dir)
{
    (void)checkpoint; /* the engine has it */
    const hn_params *p = hn_engine_params(s->engine);
    hn_peft_adapter written = {0}, back = {0};
    float *before = NULL;
    int64_t n_before;
    hn_status st = HN_OK;
    if (s->peft == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: the run has no low-rank adapter; export --kind merged",
                       dir);
    HN_TRY_GOTO(st, hn_lora_get(p, s->peft, &written), done);
    HN_TRY_GOTO(st, hn_session_probe(s, &before, &n_before), done);
    HN_TRY_GOTO(st, hn_peft_save(dir, &written, HN_F32), done);
    HN_TRY_GOTO(st, clear_adapter(p, true), done);
    HN_TRY_GOTO(st, hn_peft_load(dir, &back), done);
    for (int64_t i = 0; i < back.n; i++)
        if (back.modules[i].scale != written.modules[i].scale) {
            st = HN_FAIL(HN_ERR_NUMERIC, "%s: scale of %s changed", dir, back.modules[i].module);
            goto done;
        }
    HN_TRY_GOTO(st, hn_lora_set(p, &back, dir), done);
    st = hn_export_compare(s, before, dir, 0);

done:
    hn_lora_release(&written);
    hn_peft_clear(&back);
    hn_free(before);
    return st;
}

/* ---- merged models ---- */

typedef struct {
    hn_st_entry *entry;
    void **own; /* memory of entry i, NULL when it lies in the source's files */
    int64_t n;
    hn_shares
        *masters; /* of the checkpoint, where this rank has not the whole of them; else NULL */
} weights;

static void weights_free(weights *w)
{
    for (int64_t i = 0; w->own && i < w->n; i++) hn_free(w->own[i]);
    hn_free(w->own);
    hn_free(w->entry);
    hn_shares_close(w->masters);
}

/* The rows of the sum scaled to the magnitudes m, as at work: those of zeros stay. */
static void scale_rows(const hn_linear_layer *l, const float *m, float *dense)
{
    const bool transposed = l->weight->order == HN_ORDER_TRANSPOSED;
    const int64_t step = transposed ? l->out : 1;
    for (int64_t i = 0; i < l->out; i++) {
        float *row = transposed ? dense + i : dense + i * l->in;
        double sum = 0;
        for (int64_t j = 0; j < l->in; j++) sum += (double)row[j * step] * (double)row[j * step];
        const double f = sum > 0 ? (double)m[i] / sqrt(sum) : 0;
        for (int64_t j = 0; j < l->in; j++) row[j * step] = (float)(f * (double)row[j * step]);
    }
}

/* W + scale B A in fp32, ranks in ascending order, with DoRA m / || W + scale B A || times that;
 * `dense`, as the file has it, holds W [out, in] or its transpose and gets the result. The columns
 * of A are ordered as those of W. */
static hn_status add_lowrank(const hn_linear_layer *l, float *dense)
{
    const bool transposed = l->weight->order == HN_ORDER_TRANSPOSED;
    const int64_t r = l->lowrank.rank, step = transposed ? l->out : 1;
    float *a = hn_malloc((size_t)(r * l->in) * sizeof *a);
    float *b = hn_malloc((size_t)(l->out * r) * sizeof *b);
    float *m = l->m ? hn_malloc((size_t)l->out * sizeof *m) : NULL;
    hn_status st = HN_OK;
    if (a == NULL || b == NULL || (l->m != NULL && m == NULL)) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to merge %s", l->module);
        goto done;
    }
    HN_TRY_GOTO(st, hn_param_get(l->a, a), done);
    HN_TRY_GOTO(st, hn_param_get(l->b, b), done);
    for (int64_t i = 0; i < l->out; i++)
        for (int64_t k = 0; k < r; k++) {
            const float f = l->lowrank.scale * b[i * r + k];
            float *row = transposed ? dense + i : dense + i * l->in;
            for (int64_t j = 0; j < l->in; j++) row[j * step] += f * a[k * l->in + j];
        }
    if (l->m == NULL) goto done;
    HN_TRY_GOTO(st, hn_param_get(l->m, m), done);
    scale_rows(l, m, dense);

done:
    hn_free(a);
    hn_free(b);
    hn_free(m);
    return st;
}

static const hn_linear_layer *layer_of(const hn_params *p, const hn_param *weight)
{
    for (int64_t i = 0; i < hn_params_linears(p); i++)
        if (hn_params_linear_at(p, i)->weight == weight) return hn_params_linear_at(p, i);
    return NULL;
}

/* Rounds dense fp32 values to the file's type, in place of nothing else: out is fresh memory. */
static hn_status round_to(const hn_param *q, const float *dense, hn_dtype dtype, void **out)
{
    const int64_t n = hn_param_values(q);
    void *v = hn_malloc((size_t)n * hn_dtype_size(dtype));
    if (v == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", q->name);
    for (int64_t i = 0; i < n; i++) {
        hn_set_f32(v, dtype, i, dense[i]);
        if (!isfinite(hn_get_f32(v, dtype, i))) {
            hn_free(v);
            return HN_FAIL(HN_ERR_NUMERIC, "%s: %g does not fit into %s", q->name, (double)dense[i],
                           hn_dtype_name(dtype));
        }
    }
    *out = v;
    return HN_OK;
}

static bool has_blocks(const hn_pack *p, const char *name)
{
    for (int64_t i = 0; i < p->n; i++)
        if (strcmp(p->matrix[i].name, name) == 0) return true;
    return false;
}

/* dense, as the file has it, with the values or the change of some blocks. */
static void add_matrix(const hn_param *q, const hn_pack_matrix *m, float *dense)
{
    const hn_block_shape shape = {m->br, m->bc};
    const int64_t size = m->br * m->bc;
    for (int64_t b = 0; b < m->n; b++) {
        const int64_t row = hn_block_row(shape, m->in, m->id[b]);
        const int64_t col = hn_block_col(shape, m->in, m->id[b]);
        for (int64_t k = 0; k < size; k++) {
            float *to = dense + hn_param_place(q, (row + k / m->bc) * m->in + col + k % m->bc);
            *to = m->delta[b * size + k] + (m->set ? 0 : *to);
        }
    }
}

/* Values come first: changes are added to them. */
static void add_blocks(const hn_param *q, const hn_pack *p, float *dense)
{
    for (int64_t k = 0; k < 2 * p->n; k++) {
        const hn_pack_matrix *m = &p->matrix[k % p->n];
        if (m->set == (k < p->n) && strcmp(m->name, q->name) == 0) add_matrix(q, m, dense);
    }
}

/* One changed or fresh parameter as a file entry. */
static hn_status add_weight(hn_session *s, const hn_pack *blocks, weights *w, const hn_param *q,
                            const hn_st_tensor *source)
{
    const bool changed = has_blocks(blocks, q->name);
    const hn_linear_layer *l = layer_of(hn_engine_params(s->engine), q);
    const bool paired = l != NULL && l->a != NULL, merged = paired || changed;
    const int64_t n = hn_param_values(q);
    hn_dtype dtype = s->model.decoder.says_dtype ? s->model.decoder.file_dtype : HN_F32;
    hn_st_entry *e = &w->entry[w->n];
    *e = (hn_st_entry){.name = q->name, .ndim = q->file_ndim};
    for (int i = 0; i < q->file_ndim; i++) e->dim[i] = q->file_dim[i];
    if (source != NULL && !merged && !q->trained &&
        !q->buffer) { /* unchanged: the source's own bytes */
        e->dtype = source->dtype;
        e->data = source->data;
        w->n++;
        return HN_OK;
    }
    if (source != NULL)
        dtype = source->dtype == HN_ST_BF16  ? HN_BF16
                : source->dtype == HN_ST_F16 ? HN_F16
                                             : HN_F32;
    float *dense = hn_malloc((size_t)n * sizeof *dense);
    if (dense == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", q->name);
    hn_status st = HN_OK;
    if (merged && source != NULL)
        st = hn_st_convert(source, HN_F32, dense); /* the file's values, not the rounded ones */
    else if (q->trained && w->masters != NULL)
        st = hn_shares_value(w->masters, q, dense);
    else
        st = hn_param_get(q, dense);
    if (st == HN_OK && changed && source != NULL) add_blocks(q, blocks, dense);
    if (st == HN_OK && paired) st = add_lowrank(l, dense);
    if (st == HN_OK) st = round_to(q, dense, dtype, &w->own[w->n]);
    hn_free(dense);
    HN_TRY(st);
    e->dtype = hn_st_dtype_of(dtype);
    e->data = w->own[w->n++];
    return HN_OK;
}

/* checkpoint: holds what the engine has. Masters that ranks share are read from it, one at a time.
 */
static hn_status collect(hn_session *s, const char *checkpoint, const hn_pack *blocks, weights *w)
{
    const hn_params *p = hn_engine_params(s->engine);
    const hn_split *split = hn_params_split(p);
    if (split && split->master) HN_TRY(hn_shares_open(checkpoint, p, &w->masters));
    const size_t n = (size_t)hn_params_count(p);
    w->entry = hn_calloc(n, sizeof *w->entry);
    w->own = hn_calloc(n, sizeof *w->own);
    if (w->entry == NULL || w->own == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %zu tensors", n);
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_st_tensor *t = s->model.dir ? hn_model_dir_find(s->model.dir, q->name) : NULL;
        if (!q->adapter) HN_TRY(add_weight(s, blocks, w, q, t));
    }
    return HN_OK;
}

/* Configuration files that are to be written anew; NULL: the old ones will do. */
typedef struct {
    json_t *config, *preprocessor;
} settings;

static void settings_free(settings *c)
{
    json_decref(c->config);
    json_decref(c->preprocessor);
}

/* Names of classes go into a configuration that has none, or others. */
static hn_status make_settings(const hn_session *s, settings *out)
{
    const hn_model *m = &s->model;
    const hn_names *names = &s->images.classes;
    if (!hn_session_has_images(s)) return HN_OK;
    const bool known = hn_model_class(m, 0) != NULL;
    HN_TRY(hn_model_config(m, known ? 0 : names->n, names->items, &out->config));
    json_t *old = NULL;
    char *path = hn_asprintf("%s/preprocessor_config.json", m->path);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", m->path);
    hn_status st = m->whole && hn_is_file(path) ? hn_json_load(path, &old) : HN_OK;
    if (st == HN_OK) st = hn_model_preprocessor(m, old, &out->preprocessor);
    json_decref(old);
    hn_free(path);
    return st;
}

static hn_status write_settings(const settings *c, const char *dir)
{
    const char *const names[] = {"config.json", "preprocessor_config.json"};
    const json_t *const values[] = {c->config, c->preprocessor};
    hn_status st = HN_OK;
    for (int i = 0; i < 2 && st == HN_OK; i++) {
        char *path = values[i] ? hn_asprintf("%s/%s", dir, names[i]) : NULL;
        if (values[i] == NULL) continue;
        st = path ? hn_json_save(path, values[i], false)
                  : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
        hn_free(path);
    }
    return st;
}

/* The files beside a decoder's config.json, and itself. */
static hn_status copy_text_files(const hn_session *s, const char *to)
{
    const char *config = s->run->model, *slash = strrchr(config, '/');
    const int folder_length = slash ? (int)(slash - config) + 1 : 0;
    char *beside = hn_asprintf("%.*s.", folder_length, config);
    char *generation = hn_asprintf("%.*sgeneration_config.json", folder_length, config);
    char *to_config = hn_asprintf("%s/config.json", to);
    char *to_generation = hn_asprintf("%s/generation_config.json", to);
    hn_status st = HN_OK;
    if (!beside || !generation || !to_config || !to_generation) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", to);
        goto done;
    }
    HN_TRY_GOTO(st, hn_copy_tokenizer(s->run->tokenizer[0] ? s->run->tokenizer : beside, to), done);
    HN_TRY_GOTO(st, hn_copy_file(config, to_config), done);
    if (hn_is_file(generation)) st = hn_copy_file(generation, to_generation);

done:
    hn_free(beside);
    hn_free(generation);
    hn_free(to_config);
    hn_free(to_generation);
    return st;
}

/* A model that began from a config.json or a name: its configuration, a decoder's tokenizer, and
 * the weights. */
static hn_status save_new_model(hn_session *s, const char *dir, const settings *c, const weights *w)
{
    static const char *const metadata[][2] = {{"format", "pt"}};
    hn_folder *folder = NULL;
    char *to = NULL;
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, hn_folder_begin(dir, &folder), done);
    const char *t = hn_folder_temporary(folder);
    to = hn_asprintf("%s/model.safetensors", t);
    if (to == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
        goto done;
    }
    if (!hn_session_has_images(s)) HN_TRY_GOTO(st, copy_text_files(s, t), done);
    HN_TRY_GOTO(st, write_settings(c, t), done);
    HN_TRY_GOTO(st, hn_st_save(to, w->entry, w->n, metadata, 1, NULL, NULL), done);
    st = hn_folder_commit(folder, true);
    folder = NULL;

done:
    hn_folder_abort(folder);
    hn_free(to);
    return st;
}

/* Loads a written model into the engine's parameters, as a base without adapter. */
static hn_status read_back(hn_session *s, const char *dir)
{
    const hn_params *p = hn_engine_params(s->engine);
    hn_model back = {0};
    hn_status st = hn_model_open(dir, hn_dtype_name(s->model.dtype), NULL, &back);
    if (st == HN_OK) st = hn_model_check(&back, p, &s->log);
    if (st == HN_OK) st = hn_model_load(&back, p, 0);
    if (st == HN_OK) st = clear_adapter(p, false);
    hn_model_close(&back);
    return st;
}

static hn_status write_merged(hn_session *s, const char *checkpoint, const char *dir)
{
    weights w = {0};
    hn_pack blocks = {0};
    settings c = {0};
    float *before = NULL;
    int64_t n_before;
    hn_status st = HN_OK;
    if (s->method->pack) HN_TRY_GOTO(st, hn_sparse_read_pack(checkpoint, &blocks, NULL), done);
    HN_TRY_GOTO(st, collect(s, checkpoint, &blocks, &w), done);
    HN_TRY_GOTO(st, hn_session_probe(s, &before, &n_before), done);
    HN_TRY_GOTO(st, make_settings(s, &c), done);
    st = s->model.whole ? hn_model_dir_save_as(s->model.dir, dir, c.config, c.preprocessor, w.entry,
                                               w.n, &s->log)
                        : save_new_model(s, dir, &c, &w);
    if (st != HN_OK) goto done;
    HN_TRY_GOTO(st, read_back(s, dir), done);
    bool half = s->model.dtype != HN_F32;
    for (int64_t i = 0; i < w.n; i++) half |= w.entry[i].dtype != HN_ST_F32;
    st = hn_export_compare(s, before, dir, half ? 3e-2 : 1e-4);

done:
    weights_free(&w);
    hn_pack_free(&blocks);
    settings_free(&c);
    hn_free(before);
    return st;
}

/* ---- kinds ---- */

hn_status hn_export_find(const hn_method *m, const char *kind, const hn_export_kind **out)
{
    static const hn_export_kind kinds[] = {
        {"peft", "PEFT adapter", "adapter", false, write_peft},
        {"merged", "Hugging Face model", "model", true, write_merged},
        {"pack", "delta pack", "delta", true, hn_export_pack},
        {"shira", "PEFT SHiRA adapter", "shira", true, hn_export_shira},
    };
    const char *own = m->pack ? "pack" : m->adapter ? "peft" : "merged";
    if (strcmp(kind, "auto") == 0) kind = own;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const bool shira = m->pack && strcmp(kind, "shira") == 0;
        if (strcmp(kinds[i].kind, kind) != 0) continue;
        if (strcmp(kind, own) != 0 && strcmp(kind, "merged") != 0 && !shira) break;
        *out = &kinds[i];
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_ARG, "--kind %s: %s trains no such adapter; use --kind %s%s", kind,
                   m->program, m->adapter ? own : "merged",
                   m->pack      ? ", shira or merged"
                   : m->adapter ? " or merged"
                                : "");
}
