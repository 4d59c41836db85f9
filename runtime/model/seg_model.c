#define _POSIX_C_SOURCE 200809L
#include "runtime/model/seg_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/activation/activation.h"
#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/folder.h"

enum { FORMAT = 1 }; /* of segmenter.json; readers refuse newer ones */

static const char settings_file[] = "segmenter.json", weights_file[] = "model.safetensors";
static const char arch_end[] = ".arch.json";

static bool is_arch(const char *path)
{
    const size_t n = strlen(path), m = strlen(arch_end);
    return n > m && strcmp(path + n - m, arch_end) == 0;
}

/* No architecture, but meant as one. */
static bool is_misnamed(const char *path)
{
    const bool begins = strncmp(path, "unet3d", 6) == 0 || strncmp(path, "meshnet", 7) == 0;
    return begins && strchr(path, '/') == NULL && !hn_is_folder(path) && !hn_is_file(path);
}

static hn_status in_folder(const char *dir, const char *name, char **path)
{
    *path = hn_asprintf("%s/%s", dir, name);
    return *path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path in %s", dir);
}

static bool has_settings(const char *dir)
{
    char *settings = hn_asprintf("%s/%s", dir, settings_file);
    const bool there = settings != NULL && hn_is_file(settings);
    hn_free(settings);
    return there;
}

bool hn_seg_model_is(const char *path)
{
    return is_arch(path) || hn_seg_config_has(path) || has_settings(path) || is_misnamed(path);
}

/* ---- reading ---- */

static hn_status read_settings(const char *path, hn_seg_config *out)
{
    json_t *o = NULL;
    int64_t version = 0, channels = 0, classes = 0;
    const char *name = NULL;
    HN_TRY(hn_json_load(path, &o));
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, hn_json_get_i64(o, "format", path, 1, FORMAT, true, &version), done);
    HN_TRY_GOTO(st, hn_json_get_i64(o, "channels", path, 1, INT32_MAX, true, &channels), done);
    const json_t *layers = json_object_get(o, "layers");
    if (layers != NULL) {
        st = hn_seg_config_arch(layers, path, channels, out);
        goto done;
    }
    HN_TRY_GOTO(st, hn_json_get_text(o, "architecture", path, true, &name), done);
    HN_TRY_GOTO(st, hn_json_get_i64(o, "classes", path, 1, INT32_MAX, true, &classes), done);
    st = hn_seg_config_named(name, channels, classes, out);

done:
    json_decref(o);
    return st;
}

static hn_status read_arch(const char *path, int64_t channels, hn_seg_config *out)
{
    json_t *arch = NULL;
    HN_TRY(hn_json_load(path, &arch));
    const hn_status st = hn_seg_config_arch(arch, path, channels ? channels : 1, out);
    json_decref(arch);
    return st;
}

static hn_status open_folder(const hn_seg_model_options *o, hn_seg_model *m)
{
    char *settings = NULL, *weights = NULL;
    if (o->weights != NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: weights beside a folder that has its own", o->path);
    hn_status st = in_folder(o->path, settings_file, &settings);
    if (st == HN_OK) st = in_folder(o->path, weights_file, &weights);
    if (st == HN_OK) st = read_settings(settings, &m->config);
    if (st == HN_OK) st = hn_st_open(weights, &m->weights);
    hn_free(settings);
    hn_free(weights);
    return st;
}

static hn_status check_tensor(const hn_st_file *f, const hn_param *q)
{
    const hn_st_tensor *t = hn_st_find(f, q->name);
    if (t == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: has no '%s'", hn_st_where(f), q->name);
    bool same = t->ndim == q->file_ndim;
    for (int k = 0; same && k < t->ndim; k++) same = t->dim[k] == q->file_dim[k];
    if (!same)
        return HN_FAIL(HN_ERR_SHAPE, "%s: '%s' has another shape than the model's", hn_st_where(f),
                       q->name);
    if (t->dtype != HN_ST_F32 && t->dtype != HN_ST_F16 && t->dtype != HN_ST_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: '%s' is %s", hn_st_where(f), q->name,
                       hn_st_dtype_name(t->dtype));
    return HN_OK;
}

static hn_status check_weights(const hn_seg_model *m)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_seg_declare(&m->config, p);
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++)
        st = check_tensor(m->weights, hn_params_at(p, i));
    hn_params_free(p);
    return st;
}

static hn_status open(const hn_seg_model_options *o, hn_seg_model *m)
{
    /* A run of an architecture may have its folder where it says --model: the name counts. */
    const bool arch = is_arch(o->path), named = hn_seg_config_has(o->path);
    const bool folder = !arch && (named ? has_settings(o->path) : hn_is_folder(o->path));
    if (o->classes > 0 && (arch || folder))
        return HN_FAIL(HN_ERR_ARG, "%s: has classes of its own", o->path);
    if (folder)
        HN_TRY(open_folder(o, m));
    else if (arch)
        HN_TRY(read_arch(o->path, o->channels, &m->config));
    else
        HN_TRY(hn_seg_config_named(o->path, o->channels, o->classes, &m->config));
    if (o->channels > 0 && m->config.channels != o->channels)
        return HN_FAIL(HN_ERR_SHAPE, "%s: reads %" PRId64 " channel(s), the volumes have %" PRId64,
                       o->path, m->config.channels, o->channels);
    if (o->weights != NULL) HN_TRY(hn_st_open(o->weights, &m->weights));
    return m->weights ? check_weights(m) : HN_OK;
}

hn_status hn_seg_model_open(const hn_seg_model_options *o, hn_seg_model *out)
{
    hn_seg_model m = {.weights = NULL};
    const hn_status st = open(o, &m);
    if (st == HN_OK)
        *out = m;
    else
        hn_seg_model_close(&m);
    return st;
}

void hn_seg_model_close(hn_seg_model *m)
{
    hn_st_close(m->weights);
    m->weights = NULL;
}

/* ---- values ---- */

static hn_status load_tensor(const hn_seg_model *m, const hn_param *q)
{
    float *dense = hn_malloc((size_t)hn_param_values(q) * sizeof *dense);
    if (dense == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of %s", hn_param_values(q), q->name);
    hn_status st = hn_st_convert(hn_st_find(m->weights, q->name), HN_F32, dense);
    if (st == HN_OK) st = hn_param_set(q, dense);
    hn_free(dense);
    return st;
}

hn_status hn_seg_model_load(const hn_seg_model *m, const hn_params *p, uint64_t seed)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        HN_TRY(m->weights ? load_tensor(m, q) : hn_param_init(q, seed));
    }
    return HN_OK;
}

/* ---- settings ---- */

static json_t *layers_json(const hn_meshnet_sizes *m, bool *ok)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < m->layers; i++) {
        char name[32];
        snprintf(name, sizeof name, "conv%" PRId64, i);
        json_t *layer =
            json_pack("{s:s, s:I, s:I, s:I}", "layer", name, "kernel", (json_int_t)m->kernel[i],
                      "dilation", (json_int_t)m->dilation[i], "out", (json_int_t)m->width[i]);
        *ok = json_array_append_new(list, layer) == 0 && *ok;
        if (i == m->layers - 1) break;
        layer = json_pack("{s:s}", "activation", hn_activation_name(m->activation));
        *ok = json_array_append_new(list, layer) == 0 && *ok;
    }
    return list;
}

static hn_status settings_json(const hn_seg_config *c, json_t **out)
{
    bool ok = true;
    json_t *o = json_pack("{s:i, s:I}", "format", FORMAT, "channels", (json_int_t)c->channels);
    if (c->family == HN_SEG_MESHNET) {
        ok = json_object_set_new(o, "layers", layers_json(&c->meshnet, &ok)) == 0 && ok;
    } else {
        ok = json_object_set_new(o, "architecture", json_string(c->architecture)) == 0;
        ok = json_object_set_new(o, "classes", json_integer((json_int_t)c->classes)) == 0 && ok;
    }
    *out = o;
    return ok ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", settings_file);
}

hn_status hn_seg_model_save(const hn_seg_config *c, const char *dir)
{
    json_t *o = NULL;
    char *path = NULL;
    hn_status st = in_folder(dir, settings_file, &path);
    if (st == HN_OK) st = settings_json(c, &o);
    if (st == HN_OK) st = hn_json_save(path, o, false);
    json_decref(o);
    hn_free(path);
    return st;
}

/* ---- digest ---- */

/* text + SHA-256 of one tensor, hashed anew. */
static hn_status add_tensor(const hn_st_tensor *t, char hex[HN_SHA256_HEX])
{
    char tensor[HN_SHA256_HEX];
    HN_TRY(hn_sha256(t->data, t->n_bytes, tensor));
    char *text = hn_asprintf("%s %s %s", hex, t->name, tensor);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a digest");
    const hn_status st = hn_sha256(text, strlen(text), hex);
    hn_free(text);
    return st;
}

hn_status hn_seg_model_digest(const hn_seg_model *m, uint64_t seed, char hex[HN_SHA256_HEX])
{
    json_t *o = NULL;
    char *json = NULL, *text = NULL;
    hn_status st = settings_json(&m->config, &o);
    if (st == HN_OK) {
        json = json_dumps(o, JSON_SORT_KEYS | JSON_COMPACT);
        text = json == NULL ? NULL
               : m->weights ? hn_strdup(json)
                            : hn_asprintf("%s seed %" PRIu64, json, seed);
        st = text ? hn_sha256(text, strlen(text), hex)
                  : HN_FAIL(HN_ERR_MEMORY, "no memory for a digest");
    }
    json_decref(o);
    free(json);
    hn_free(text);
    for (int64_t i = 0; st == HN_OK && m->weights && i < hn_st_count(m->weights); i++)
        st = add_tensor(hn_st_at(m->weights, i), hex);
    return st;
}
