#define _POSIX_C_SOURCE 200809L
#include "runtime/model/model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/model/llama.h"

void hn_model_close(hn_model *m)
{
    if (m == NULL) return;
    hn_llama_config_free(&m->config);
    if (m->dir == NULL) json_decref(m->config_json);
    hn_model_dir_close(m->dir);
    hn_free(m->path);
    *m = (hn_model){0};
}

/* Type of the weights as the file has them: of the embedding, which every decoder has. */
static hn_status choose_dtype(hn_model *m, const char *asked)
{
    if (strcmp(asked, "f32") == 0 || strcmp(asked, "bf16") == 0) {
        m->dtype = asked[0] == 'f' ? HN_F32 : HN_BF16;
        return HN_OK;
    }
    if (m->dir == NULL) {
        m->dtype = m->config.says_dtype && m->config.file_dtype == HN_BF16 ? HN_BF16 : HN_F32;
        return HN_OK;
    }
    const hn_st_tensor *t = hn_model_dir_find(m->dir, "model.embed_tokens.weight");
    if (t == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor model.embed_tokens.weight is missing", m->path);
    switch (t->dtype) {
    case HN_ST_BF16: m->dtype = HN_BF16; return HN_OK;
    case HN_ST_F32:
    case HN_ST_F16: m->dtype = HN_F32; return HN_OK;
    default:
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: weights are %s; say --dtype f32 or --dtype bf16 to convert them",
                       m->path, hn_st_dtype_name(t->dtype));
    }
}

static hn_status open_files(hn_model *m, const hn_log *log)
{
    struct stat info;
    if (stat(m->path, &info) != 0)
        return HN_FAIL(HN_ERR_IO, "model %s: %s", m->path, strerror(errno));
    if (!S_ISDIR(info.st_mode)) {
        HN_TRY(hn_json_load(m->path, &m->config_json));
        return hn_llama_config_read(m->config_json, m->path, log, &m->config);
    }
    HN_TRY(hn_model_dir_open(m->path, log, &m->dir));
    m->config_json = (json_t *)(size_t)hn_model_dir_config(m->dir);
    HN_TRY(hn_llama_config_read(m->config_json, hn_model_dir_config_path(m->dir), log, &m->config));
    const json_t *generation = hn_model_dir_generation(m->dir);
    return generation ? hn_llama_config_eos(generation, "generation_config.json", &m->config)
                      : HN_OK;
}

hn_status hn_model_open(const char *path, const char *dtype, const hn_log *log, hn_model *out)
{
    hn_model m = {.path = hn_strdup(path)};
    hn_status st = HN_OK;
    if (m.path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", path);
    HN_TRY_GOTO(st, open_files(&m, log), done);
    HN_TRY_GOTO(st, choose_dtype(&m, dtype), done);
    *out = m;
    return HN_OK;

done:
    hn_model_close(&m);
    return st;
}

/* "64, 3, 7, 7" in a caller's buffer. */
static const char *shape_text(int ndim, const int64_t *dim, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (int i = 0; i < ndim && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%" PRId64, i ? ", " : "", dim[i]);
    return text;
}

static hn_status check_one(const hn_model *m, const hn_param *q)
{
    const hn_st_tensor *t = hn_model_dir_find(m->dir, q->name);
    if (t == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s is missing", m->path, q->name);
    bool same = t->ndim == q->file_ndim;
    for (int i = 0; same && i < q->file_ndim; i++) same = t->dim[i] == q->file_dim[i];
    if (!same) {
        char got[96], want[96];
        return HN_FAIL(HN_ERR_SHAPE, "%s: tensor %s is [%s], the configuration says [%s]",
                       hn_model_dir_file_of(m->dir, t), q->name,
                       shape_text(t->ndim, t->dim, got, sizeof got),
                       shape_text(q->file_ndim, q->file_dim, want, sizeof want));
    }
    if (t->dtype != HN_ST_F32 && t->dtype != HN_ST_F16 && t->dtype != HN_ST_BF16 &&
        t->dtype != HN_ST_F64)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: tensor %s is %s", hn_model_dir_file_of(m->dir, t),
                       q->name, hn_st_dtype_name(t->dtype));
    return HN_OK;
}

static hn_status check_tied_head(const hn_model *m)
{
    const hn_st_tensor *head = hn_model_dir_find(m->dir, "lm_head.weight");
    const hn_st_tensor *embed = hn_model_dir_find(m->dir, hn_llama_head(&m->config));
    if (!m->config.tied || head == NULL) return HN_OK;
    if (head->n_bytes == embed->n_bytes && memcmp(head->data, embed->data, head->n_bytes) == 0)
        return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT,
                   "%s: tie_word_embeddings is true, but lm_head.weight and "
                   "model.embed_tokens.weight differ",
                   m->path);
}

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* Whether a tensor that is no parameter may be left out in silence: tables that are computed,
 * counters of batch norms, masks of GPT-2. */
static bool says_nothing(const char *name)
{
    return strstr(name, "rotary_emb.inv_freq") || strcmp(name, "lm_head.weight") == 0 ||
           ends_with(name, ".num_batches_tracked") || ends_with(name, ".attn.bias") ||
           ends_with(name, ".attn.masked_bias");
}

hn_status hn_model_check(const hn_model *m, const hn_params *p, const hn_log *log)
{
    if (m->dir == NULL) return HN_OK;
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (!hn_params_at(p, i)->adapter) HN_TRY(check_one(m, hn_params_at(p, i)));
    HN_TRY(check_tied_head(m));
    for (int64_t i = 0; i < hn_model_dir_count(m->dir); i++) {
        const char *name = hn_model_dir_at(m->dir, i)->name;
        if (hn_params_find(p, name) || says_nothing(name)) continue;
        hn_warn(log, "%s: tensor %s is not part of the model and is left out", m->path, name);
    }
    return HN_OK;
}

hn_status hn_model_load(const hn_model *m, const hn_params *p, uint64_t seed)
{
    int64_t largest = 1;
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const int64_t n = hn_param_values(q);
        if (n > largest) largest = n;
    }
    hn_status st = HN_OK;
    float *dense = m->dir ? hn_malloc((size_t)largest * sizeof *dense) : NULL;
    if (m->dir && dense == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a weight", largest);
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (q->adapter || m->dir == NULL) {
            HN_TRY_GOTO(st, hn_param_init(q, seed), done);
            continue;
        }
        HN_TRY_GOTO(st, hn_st_convert(hn_model_dir_find(m->dir, q->name), HN_F32, dense), done);
        HN_TRY_GOTO(st, hn_param_set(q, dense), done);
    }

done:
    hn_free(dense);
    return st;
}

hn_status hn_model_digest(hn_model *m, uint64_t seed, const char **hex)
{
    *hex = m->digest;
    if (m->checked_digest) return HN_OK;
    if (m->dir != NULL) {
        HN_TRY(hn_model_dir_digest(m->dir, m->digest));
    } else {
        char *config = json_dumps(m->config_json, JSON_SORT_KEYS | JSON_COMPACT);
        char *text = config ? hn_asprintf("%s seed %" PRIu64, config, seed) : NULL;
        const hn_status st = text ? hn_sha256(text, strlen(text), m->digest)
                                  : HN_FAIL(HN_ERR_MEMORY, "no memory for the digest");
        hn_free(text);
        free(config);
        HN_TRY(st);
    }
    m->checked_digest = true;
    return HN_OK;
}
