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

void hn_model_close(hn_model *m)
{
    if (m == NULL) return;
    hn_decoder_free(&m->decoder);
    if (!m->whole) json_decref(m->config_json);
    hn_model_dir_close(m->dir);
    hn_free(m->path);
    *m = (hn_model){0};
}

/* The tensor whose type speaks for all: a decoder's embedding, the first one of a classifier. */
static hn_status find_example(const hn_model *m, const hn_st_tensor **out)
{
    const bool decoder = m->kind == HN_MODEL_DECODER;
    const char *name = decoder ? hn_decoder_embedding(&m->decoder) : "";
    *out = decoder ? hn_model_dir_find(m->dir, name) : hn_model_dir_at(m->dir, 0);
    if (*out != NULL) return HN_OK;
    return decoder ? HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s is missing", m->path, name)
                   : HN_FAIL(HN_ERR_FORMAT, "%s: no tensor in the files", m->path);
}

/* Type of the weights as the file has them. */
static hn_status choose_dtype(hn_model *m, const char *asked)
{
    const hn_st_tensor *t = NULL;
    m->dtype = HN_F32;
    if (strcmp(asked, "f32") == 0 || strcmp(asked, "bf16") == 0) {
        m->dtype = asked[0] == 'f' ? HN_F32 : HN_BF16;
        return HN_OK;
    }
    if (m->dir == NULL) {
        if (m->decoder.says_dtype && m->decoder.file_dtype == HN_BF16) m->dtype = HN_BF16;
        return HN_OK;
    }
    HN_TRY(find_example(m, &t));
    if (t->dtype == HN_ST_BF16) m->dtype = HN_BF16;
    if (t->dtype == HN_ST_BF16 || t->dtype == HN_ST_F32 || t->dtype == HN_ST_F16) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: weights are %s; say --dtype f32 or --dtype bf16 to convert them", m->path,
                   hn_st_dtype_name(t->dtype));
}

static hn_status read_config(hn_model *m, const char *where, const hn_log *log)
{
    const json_t *generation = m->dir ? hn_model_dir_generation(m->dir) : NULL;
    if (!json_is_object(m->config_json))
        return HN_FAIL(HN_ERR_FORMAT, "%s: not a JSON object", where);
    const char *type = json_string_value(json_object_get(m->config_json, "model_type"));
    const bool vision = json_object_get(m->config_json, "architecture") != NULL ||
                        (type && (strcmp(type, "vit") == 0 || strcmp(type, "resnet") == 0));
    m->kind = vision ? HN_MODEL_CLASSIFIER : HN_MODEL_DECODER;
    return vision ? hn_vision_config_read(m->config_json, where, log, NULL, &m->vision)
                  : hn_decoder_read(m->config_json, generation, where, log, &m->decoder);
}

/* How Hugging Face's image processor makes pixels: a file beside the configuration. */
static hn_status read_preprocessor(hn_model *m)
{
    json_t *j = NULL;
    char *path = hn_asprintf("%s/preprocessor_config.json", m->path);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", m->path);
    struct stat info;
    hn_status st = stat(path, &info) == 0 ? hn_json_load(path, &j) : HN_OK;
    if (st == HN_OK && j != NULL) st = hn_vision_preprocessor_read(j, path, &m->vision);
    json_decref(j);
    hn_free(path);
    return st;
}

/* A name has neither a slash nor the end of a file; a file or folder of that name comes first. */
static bool is_name(const char *path)
{
    return strchr(path, '/') == NULL && strstr(path, ".json") == NULL;
}

static hn_status open_named(hn_model *m)
{
    m->named = true;
    m->kind = HN_MODEL_CLASSIFIER;
    if (hn_vision_config_named(m->path, NULL, &m->vision) != HN_OK)
        return HN_FAIL(HN_ERR_ARG, "model %s: no such file or folder, and %s", m->path,
                       hn_last_text());
    m->config_json = hn_vision_config_json(&m->vision);
    return m->config_json ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a configuration");
}

static hn_status open_config(hn_model *m, const hn_model_options *o, const hn_log *log)
{
    struct stat info;
    const bool there = stat(m->path, &info) == 0;
    if (!there && is_name(m->path)) return open_named(m);
    if (!there) return HN_FAIL(HN_ERR_IO, "model %s: %s", m->path, strerror(errno));
    if (!S_ISDIR(info.st_mode)) {
        HN_TRY(hn_json_load(m->path, &m->config_json));
        return read_config(m, m->path, log);
    }
    if (o->weights != NULL)
        return HN_FAIL(HN_ERR_ARG,
                       "weights %s: of a config.json or an architecture, but model %s is a folder "
                       "with weights of its own",
                       o->weights, m->path);
    HN_TRY(hn_model_dir_open(m->path, log, &m->dir));
    m->whole = true;
    m->config_json = (json_t *)(size_t)hn_model_dir_config(m->dir);
    HN_TRY(read_config(m, hn_model_dir_config_path(m->dir), log));
    return m->kind == HN_MODEL_CLASSIFIER ? read_preprocessor(m) : HN_OK;
}

/* GPT-2 without its head's class has names that begin with "h.0.". */
static void look_at_names(hn_model *m)
{
    if (m->dir == NULL || m->kind != HN_MODEL_DECODER) return;
    m->decoder.gpt2.bare = hn_model_dir_find(m->dir, "wte.weight") != NULL;
}

hn_status hn_model_open_as(const hn_model_options *o, const hn_log *log, hn_model *out)
{
    hn_model m = {.path = hn_strdup(o->path)};
    hn_status st = HN_OK;
    if (m.path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", o->path);
    HN_TRY_GOTO(st, open_config(&m, o, log), done);
    if (o->weights != NULL) HN_TRY_GOTO(st, hn_model_dir_open_file(o->weights, &m.dir), done);
    look_at_names(&m);
    HN_TRY_GOTO(st, choose_dtype(&m, o->dtype), done);
    *out = m;
    return HN_OK;

done:
    hn_model_close(&m);
    return st;
}

hn_status hn_model_open(const char *path, const char *dtype, const hn_log *log, hn_model *out)
{
    const hn_model_options o = {.path = path, .dtype = dtype};
    return hn_model_open_as(&o, log, out);
}

hn_status hn_model_override(hn_model *m, const hn_vision_override *o, bool new_head)
{
    const int64_t classes = m->vision.classes;
    if (m->kind != HN_MODEL_CLASSIFIER)
        return HN_FAIL(HN_ERR_ARG, "model %s: is no image classifier", m->path);
    HN_TRY(hn_vision_config_override(&m->vision, o, m->path));
    if (m->vision.classes != classes || new_head) m->fresh_head = true;
    m->checked_digest = false;
    return HN_OK;
}

hn_status hn_model_declare(const hn_model *m, hn_params *p)
{
    return m->kind == HN_MODEL_DECODER ? hn_decoder_declare(&m->decoder, p)
                                       : hn_vision_declare(&m->vision, p);
}

const char *hn_model_head(const hn_model *m, char *name, size_t size)
{
    if (m->kind == HN_MODEL_DECODER) return hn_decoder_head(&m->decoder);
    if (m->vision.classes == 0) return NULL;
    snprintf(name, size, "%s.weight", hn_vision_head(&m->vision));
    return name;
}

/* Hugging Face's id2label, where it is not filled with its default, or timm's label_names. */
const char *hn_model_class(const hn_model *m, int64_t i)
{
    char key[32], empty[48];
    snprintf(key, sizeof key, "%" PRId64, i);
    snprintf(empty, sizeof empty, "LABEL_%" PRId64, i);
    if (m->kind != HN_MODEL_CLASSIFIER || m->fresh_head) return NULL;
    const json_t *names = json_object_get(m->config_json, "label_names");
    const char *name = json_string_value(
        json_is_array(names) ? json_array_get(names, (size_t)i)
                             : json_object_get(json_object_get(m->config_json, "id2label"), key));
    return name != NULL && strcmp(name, empty) != 0 ? name : NULL;
}

int64_t hn_model_layers(const hn_model *m)
{
    return m->kind == HN_MODEL_DECODER ? m->decoder.layers : hn_vision_layers(&m->vision);
}

/* Whether a parameter does not come from the files though there are some. */
static bool is_fresh(const hn_model *m, const char *name)
{
    if (!m->fresh_head) return false;
    const char *head = hn_vision_head(&m->vision);
    const size_t n = strlen(head);
    return strncmp(name, head, n) == 0 &&
           (strcmp(name + n, ".weight") == 0 || strcmp(name + n, ".bias") == 0);
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
    const hn_st_tensor *embed = hn_model_dir_find(m->dir, hn_decoder_head(&m->decoder));
    if (!m->decoder.tied || head == NULL || embed == NULL) return HN_OK;
    if (head->n_bytes == embed->n_bytes && memcmp(head->data, embed->data, head->n_bytes) == 0)
        return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT,
                   "%s: tie_word_embeddings is true, but lm_head.weight and "
                   "%s differ",
                   m->path, hn_decoder_embedding(&m->decoder));
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
        if (!hn_params_at(p, i)->adapter && !is_fresh(m, hn_params_at(p, i)->name))
            HN_TRY(check_one(m, hn_params_at(p, i)));
    HN_TRY(check_tied_head(m));
    for (int64_t i = 0; i < hn_model_dir_count(m->dir); i++) {
        const char *name = hn_model_dir_at(m->dir, i)->name;
        if (hn_params_find(p, name) || says_nothing(name)) continue;
        hn_warn(log, "%s: tensor %s is not part of the model and is left out", m->path, name);
    }
    return HN_OK;
}

enum { LOADED = 1 << 24 }; /* values that are converted at a time, at least a row */

/* Rows of q that are converted at a time: of what files have in another order, all. */
static int64_t rows_at_once(const hn_param *q)
{
    int64_t first, rows;
    const int64_t cols = q->ndim == 2 ? q->dim[1] : q->dim[0];
    if (q->order != HN_ORDER_SAME) return q->dim[0];
    hn_param_own_rows(q, &first, &rows);
    const int64_t most = LOADED / cols > 1 ? LOADED / cols : 1;
    return rows < most ? rows : most;
}

/* What this rank keeps of q; only that is read of the file where it has the order of storage. */
static hn_status load_rows(const hn_st_tensor *t, const hn_param *q, float *dense)
{
    int64_t first, rows;
    const int64_t cols = q->ndim == 2 ? q->dim[1] : q->dim[0], step = rows_at_once(q);
    const size_t size = (size_t)hn_st_dtype_bits(t->dtype) / 8;
    hn_param_own_rows(q, &first, &rows);
    if (rows == 0) return HN_OK;
    if (q->order != HN_ORDER_SAME) {
        HN_TRY(hn_st_convert(t, HN_F32, dense));
        return hn_param_set(q, dense);
    }
    for (const int64_t end = first + rows; first < end; first += step) {
        const int64_t n = end - first < step ? end - first : step;
        hn_st_tensor part = *t;
        part.ndim = 1;
        part.dim[0] = n * cols;
        part.data = (const char *)t->data + (size_t)(first * cols) * size;
        part.n_bytes = (size_t)(n * cols) * size;
        HN_TRY(hn_st_convert(&part, HN_F32, dense));
        HN_TRY(hn_param_set_rows(q, first, n, dense));
    }
    return HN_OK;
}

hn_status hn_model_load(const hn_model *m, const hn_params *p, uint64_t seed)
{
    int64_t largest = 1;
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const int64_t n = rows_at_once(q) * (q->ndim == 2 ? q->dim[1] : q->dim[0]);
        if (n > largest) largest = n;
    }
    hn_status st = HN_OK;
    float *dense = m->dir ? hn_malloc((size_t)largest * sizeof *dense) : NULL;
    if (m->dir && dense == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a weight", largest);
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (q->adapter || m->dir == NULL || is_fresh(m, q->name)) {
            HN_TRY_GOTO(st, hn_param_init(q, seed), done);
            continue;
        }
        HN_TRY_GOTO(st, load_rows(hn_model_dir_find(m->dir, q->name), q, dense), done);
    }
    st = hn_params_measure(p);

done:
    hn_free(dense);
    return st;
}

/* What random weights are made of. */
static char *recipe(const hn_model *m, uint64_t seed)
{
    char *config = json_dumps(m->config_json, JSON_SORT_KEYS | JSON_COMPACT);
    char *text = config ? hn_asprintf("%s seed %" PRIu64, config, seed) : NULL;
    free(config);
    return text;
}

/* A classifier's sizes, and the seed of its head, are not told by files or configuration. */
static char *with_sizes(const hn_model *m, uint64_t seed)
{
    const hn_vision_config *c = &m->vision;
    char head[40] = "";
    if (m->fresh_head) snprintf(head, sizeof head, " head of seed %" PRIu64, seed);
    return hn_asprintf("%s image %" PRId64 " channels %" PRId64 " classes %" PRId64 "%s", m->digest,
                       c->image, c->channels, c->classes, head);
}

static hn_status digest_text(hn_model *m, char *text)
{
    const hn_status st = text ? hn_sha256(text, strlen(text), m->digest)
                              : HN_FAIL(HN_ERR_MEMORY, "no memory for the digest");
    hn_free(text);
    return st;
}

hn_status hn_model_digest(hn_model *m, uint64_t seed, const char **hex)
{
    *hex = m->digest;
    if (m->checked_digest) return HN_OK;
    HN_TRY(m->dir ? hn_model_dir_digest(m->dir, m->digest) : digest_text(m, recipe(m, seed)));
    if (m->kind == HN_MODEL_CLASSIFIER) HN_TRY(digest_text(m, with_sizes(m, seed)));
    m->checked_digest = true;
    return HN_OK;
}
