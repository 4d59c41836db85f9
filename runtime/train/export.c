#define _POSIX_C_SOURCE 200809L
#include "runtime/train/export.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/rng.h"
#include "runtime/file/folder.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/companions.h"
#include "runtime/train/lora_hook.h"

/* Logits of the probe tokens, dense [rows, vocab] in fp32; the caller frees them. */
static hn_status probe(hn_session *s, float **out)
{
    int32_t tokens[HN_EXPORT_PROBE_ROWS];
    const int64_t vocab = s->model.decoder.vocab, rows = HN_EXPORT_PROBE_ROWS;
    const hn_rng r = hn_rng_make(1, 0, hn_hash_name("export probe"));
    for (int i = 0; i < HN_EXPORT_PROBE_ROWS; i++)
        tokens[i] = (int32_t)hn_rng_below(r, 0, (uint32_t)i, (uint64_t)vocab);
    const hn_tensor *t;
    HN_TRY(hn_decoder_logits(&s->job, s->engine, tokens, rows, &t));
    float *v = hn_malloc((size_t)(rows * vocab) * sizeof *v);
    if (v == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " logits to compare", rows * vocab);
    const hn_status st = hn_tensor_get(t, v);
    if (st != HN_OK)
        hn_free(v);
    else
        *out = v;
    return st;
}

/* Relative distance of the logits now from those before. */
static hn_status compare(hn_session *s, const float *before, const char *dir, double limit)
{
    float *after = NULL;
    HN_TRY(probe(s, &after));
    double err = 0, ref = 0;
    for (int64_t i = 0; i < HN_EXPORT_PROBE_ROWS * s->model.decoder.vocab; i++) {
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

static hn_status clear_adapter(const hn_params *p)
{
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!q->adapter) continue;
        float *zeros = hn_calloc((size_t)hn_param_values(q), sizeof *zeros);
        st = zeros ? hn_param_set(q, zeros) : HN_FAIL(HN_ERR_MEMORY, "zeros for %s", q->name);
        hn_free(zeros);
    }
    return st;
}

hn_status hn_export_peft(hn_session *s, const char *dir)
{
    const hn_params *p = hn_engine_params(s->engine);
    hn_peft_adapter written = {0}, back = {0};
    float *before = NULL;
    hn_status st = HN_OK;
    if (s->peft == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: the run has no low-rank adapter; export --kind merged",
                       dir);
    HN_TRY_GOTO(st, hn_lora_get(p, s->peft, &written), done);
    HN_TRY_GOTO(st, probe(s, &before), done);
    HN_TRY_GOTO(st, hn_peft_save(dir, &written, HN_F32), done);
    HN_TRY_GOTO(st, clear_adapter(p), done);
    HN_TRY_GOTO(st, hn_peft_load(dir, &back), done);
    for (int64_t i = 0; i < back.n; i++)
        if (back.modules[i].scale != written.modules[i].scale) {
            st = HN_FAIL(HN_ERR_NUMERIC, "%s: scale of %s changed", dir, back.modules[i].module);
            goto done;
        }
    HN_TRY_GOTO(st, hn_lora_set(p, &back, dir), done);
    st = compare(s, before, dir, 0);

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
} weights;

static void weights_free(weights *w)
{
    for (int64_t i = 0; w->own && i < w->n; i++) hn_free(w->own[i]);
    hn_free(w->own);
    hn_free(w->entry);
}

/* W + scale B A in fp32, ranks in ascending order; `dense` [out, in] holds W and gets the result.
 */
static hn_status add_lowrank(const hn_linear_layer *l, float *dense)
{
    const int64_t r = l->lowrank.rank;
    float *a = hn_malloc((size_t)(r * l->in) * sizeof *a);
    float *b = hn_malloc((size_t)(l->out * r) * sizeof *b);
    hn_status st = HN_OK;
    if (a == NULL || b == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to merge %s", l->module);
        goto done;
    }
    HN_TRY_GOTO(st, hn_param_get(l->a, a), done);
    HN_TRY_GOTO(st, hn_param_get(l->b, b), done);
    for (int64_t i = 0; i < l->out; i++)
        for (int64_t k = 0; k < r; k++) {
            const float f = l->lowrank.scale * b[i * r + k];
            for (int64_t j = 0; j < l->in; j++) dense[i * l->in + j] += f * a[k * l->in + j];
        }

done:
    hn_free(a);
    hn_free(b);
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

/* One changed or fresh parameter as a file entry. */
static hn_status add_weight(hn_session *s, weights *w, const hn_param *q,
                            const hn_st_tensor *source)
{
    const hn_linear_layer *l = layer_of(hn_engine_params(s->engine), q);
    const bool merged = l != NULL && l->a != NULL;
    const int64_t n = hn_param_values(q);
    hn_dtype dtype = s->model.decoder.says_dtype ? s->model.decoder.file_dtype : HN_F32;
    hn_st_entry *e = &w->entry[w->n];
    *e = (hn_st_entry){.name = q->name, .ndim = q->file_ndim};
    for (int i = 0; i < q->file_ndim; i++) e->dim[i] = q->file_dim[i];
    if (source != NULL && !merged && !q->trained) { /* unchanged: the source's own bytes */
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
    else
        st = hn_param_get(q, dense);
    if (st == HN_OK && merged) st = add_lowrank(l, dense);
    if (st == HN_OK) st = round_to(q, dense, dtype, &w->own[w->n]);
    hn_free(dense);
    HN_TRY(st);
    e->dtype = hn_st_dtype_of(dtype);
    e->data = w->own[w->n++];
    return HN_OK;
}

static hn_status collect(hn_session *s, weights *w)
{
    const hn_params *p = hn_engine_params(s->engine);
    const size_t n = (size_t)hn_params_count(p);
    w->entry = hn_calloc(n, sizeof *w->entry);
    w->own = hn_calloc(n, sizeof *w->own);
    if (w->entry == NULL || w->own == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %zu tensors", n);
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_st_tensor *t = s->model.dir ? hn_model_dir_find(s->model.dir, q->name) : NULL;
        if (!q->adapter) HN_TRY(add_weight(s, w, q, t));
    }
    return HN_OK;
}

/* A model that began from a config.json: that file, the tokenizer's files and the weights. */
static hn_status save_new_model(hn_session *s, const char *dir, const weights *w)
{
    static const char *const metadata[][2] = {{"format", "pt"}};
    const char *config = s->run->model, *slash = strrchr(config, '/');
    const int folder_length = slash ? (int)(slash - config) + 1 : 0;
    hn_folder *folder = NULL;
    char *beside = hn_asprintf("%.*s.", folder_length, config);
    char *generation = hn_asprintf("%.*sgeneration_config.json", folder_length, config);
    char *to[3] = {NULL};
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, hn_folder_begin(dir, &folder), done);
    const char *t = hn_folder_temporary(folder);
    to[0] = hn_asprintf("%s/config.json", t);
    to[1] = hn_asprintf("%s/generation_config.json", t);
    to[2] = hn_asprintf("%s/model.safetensors", t);
    if (!beside || !generation || !to[0] || !to[1] || !to[2]) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
        goto done;
    }
    HN_TRY_GOTO(st, hn_copy_tokenizer(s->run->tokenizer[0] ? s->run->tokenizer : beside, t), done);
    HN_TRY_GOTO(st, hn_copy_file(config, to[0]), done);
    if (hn_is_file(generation)) HN_TRY_GOTO(st, hn_copy_file(generation, to[1]), done);
    HN_TRY_GOTO(st, hn_st_save(to[2], w->entry, w->n, metadata, 1, NULL, NULL), done);
    st = hn_folder_commit(folder, true);
    folder = NULL;

done:
    hn_folder_abort(folder);
    for (int i = 0; i < 3; i++) hn_free(to[i]);
    hn_free(generation);
    hn_free(beside);
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
    if (st == HN_OK) st = clear_adapter(p);
    hn_model_close(&back);
    return st;
}

hn_status hn_export_merged(hn_session *s, const char *dir)
{
    weights w = {0};
    float *before = NULL;
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, collect(s, &w), done);
    HN_TRY_GOTO(st, probe(s, &before), done);
    if (s->model.dir != NULL)
        st = hn_model_dir_save(s->model.dir, dir, w.entry, w.n, &s->log);
    else
        st = save_new_model(s, dir, &w);
    if (st != HN_OK) goto done;
    HN_TRY_GOTO(st, read_back(s, dir), done);
    bool half = s->model.dtype != HN_F32;
    for (int64_t i = 0; i < w.n; i++) half |= w.entry[i].dtype != HN_ST_F32;
    st = compare(s, before, dir, half ? 3e-2 : 1e-4);

done:
    weights_free(&w);
    hn_free(before);
    return st;
}
