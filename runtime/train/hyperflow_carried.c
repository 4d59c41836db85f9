#include "runtime/train/hyperflow_carried.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/image_decode.h"
#include "runtime/train/params_fit.h"

/* ---- writing ---- */

hn_status hn_hf_network_text(const hn_model *m, char **out)
{
    json_t *config = NULL, *preprocessor = NULL;
    hn_status st = hn_model_config(m, 0, NULL, &config);
    if (st == HN_OK) st = hn_model_preprocessor(m, NULL, &preprocessor);
    json_t *both = st == HN_OK
                       ? json_pack("{s:O, s:O?}", "config", config, "preprocessor", preprocessor)
                       : NULL;
    char *text = both ? json_dumps(both, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    *out = text ? hn_strdup(text) : NULL;
    free(text);
    json_decref(both);
    json_decref(config);
    json_decref(preprocessor);
    HN_TRY(st);
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a configuration");
}

/* ---- reading ---- */

void hn_hf_carried_close(hn_hf_carried *c)
{
    hn_st_close(c->file);
    *c = (hn_hf_carried){0};
}

static hn_status text_of(const hn_hf_carried *c, const char *key, const char **out)
{
    *out = hn_st_metadata(c->file, key);
    if (*out != NULL) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "%s: not a file of hone-hyperflow export: no %s in its metadata",
                   hn_st_where(c->file), key);
}

/* A layer has tensors: a count of layers beyond that of tensors is not even declared. */
static hn_status check_layers(const hn_hf_carried *c, const char *key, const hn_vision_config *v)
{
    if (hn_vision_layers(v) <= hn_st_count(c->file)) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT,
                   "%s: %s says %" PRId64 " layers, there are %" PRId64 " tensors in the file",
                   hn_st_where(c->file), key, hn_vision_layers(v), hn_st_count(c->file));
}

static hn_status config_of(const hn_hyperflow *r, const hn_hf_carried *c, const char *key,
                           hn_vision_config *out)
{
    const char *text, *where = hn_st_where(c->file);
    json_t *both = NULL;
    HN_TRY(text_of(c, key, &text));
    HN_TRY(hn_json_parse(text, strlen(text), where, &both));
    const json_t *config = json_object_get(both, "config"),
                 *preprocessor = json_object_get(both, "preprocessor");
    hn_status st = json_is_object(config)
                       ? hn_vision_config_read(config, where, &r->log, NULL, out)
                       : HN_FAIL(HN_ERR_FORMAT, "%s: %s holds no configuration", where, key);
    if (st == HN_OK && json_is_object(preprocessor))
        st = hn_vision_preprocessor_read(preprocessor, where, out);
    json_decref(both);
    if (st == HN_OK) st = check_layers(c, key, out);
    return st;
}

static hn_status number_of(const hn_hf_carried *c, const char *key, double *out)
{
    const char *text;
    char *end;
    HN_TRY(text_of(c, key, &text));
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(*out))
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s '%.40s' is no number", hn_st_where(c->file), key,
                       text);
    return HN_OK;
}

static hn_status one_of(const hn_hf_carried *c, const char *key, const char *a, const char *b,
                        bool *is_b)
{
    const char *text;
    HN_TRY(text_of(c, key, &text));
    *is_b = strcmp(text, b) == 0;
    if (*is_b || strcmp(text, a) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "%s: %s '%.40s': %s or %s", hn_st_where(c->file), key, text, a,
                   b);
}

static hn_status networks_of(hn_hyperflow *r, const hn_hf_carried *c)
{
    bool bf16, biases;
    HN_TRY(config_of(r, c, "backbone.config", &r->model.vision));
    HN_TRY(config_of(r, c, "encoder.config", &r->encoder.vision));
    HN_TRY(one_of(c, "dtype", "f32", "bf16", &bf16));
    HN_TRY(one_of(c, "adapted", "qv", "biases", &biases));
    r->model.kind = r->encoder.kind = HN_MODEL_CLASSIFIER;
    r->model.dtype = r->encoder.dtype = bf16 ? HN_BF16 : HN_F32;
    return hn_theta_make(&r->model.vision, biases ? HN_THETA_BIASES : HN_THETA_QV, &r->theta);
}

/* The network without its head, as adaptors have it. */
static hn_status check_tensors(const hn_hf_carried *c, const char *prefix, const char *key,
                               const hn_vision_config *v)
{
    hn_params *p = NULL;
    hn_vision_config body = *v;
    body.classes = 0;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_vision_declare(&body, p);
    if (st == HN_OK) st = hn_params_fit(p, c->file, prefix, key);
    hn_params_free(p);
    return st;
}

static hn_status check_fit(const hn_hyperflow *r, const hn_hf_carried *c, const hn_hf_network *n,
                           const char *path)
{
    const hn_drift_config *d = &n->facts.config;
    if (strcmp(n->facts.backbone, c->base) != 0 || strcmp(n->facts.encoder, c->encoder) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: its drift network is of another %s", path,
                       strcmp(n->facts.backbone, c->base) != 0 ? "backbone" : "encoder");
    if (strcmp(n->facts.layout, r->theta.digest) != 0 || d->tokens != r->theta.tokens ||
        d->token_width != r->theta.width || d->features != hn_vision_width(&r->encoder.vision) ||
        r->model.vision.channels != r->encoder.vision.channels)
        return HN_FAIL(HN_ERR_FORMAT, "%s: its networks do not fit together", path);
    HN_TRY(check_tensors(c, "backbone.", "backbone.config", &r->model.vision));
    return check_tensors(c, "encoder.", "encoder.config", &r->encoder.vision);
}

/* Files of programs that cut no centre have no such entry. */
static hn_status shorter_side_of(const hn_hf_carried *c, const hn_vision_config *v, int64_t *out)
{
    double side = 0;
    *out = 0;
    if (hn_st_metadata(c->file, "shorter_side") == NULL) return HN_OK;
    HN_TRY(number_of(c, "shorter_side", &side));
    if (side != 0 &&
        !(side >= (double)v->image && side <= HN_IMAGE_MAX_SIDE && side == floor(side)))
        return HN_FAIL(HN_ERR_FORMAT, "%s: shorter_side %g: 0, or %" PRId64 "..%d",
                       hn_st_where(c->file), side, v->image, HN_IMAGE_MAX_SIDE);
    *out = (int64_t)side;
    return HN_OK;
}

static hn_status open(hn_hyperflow *r, const char *path, hn_hf_network *n, hn_hf_carried *c)
{
    HN_TRY(hn_st_open(path, &c->file));
    HN_TRY(text_of(c, "backbone", &c->base));
    HN_TRY(text_of(c, "encoder", &c->encoder));
    HN_TRY(text_of(c, "drift", &c->drift));
    HN_TRY(number_of(c, "scale", &c->scale));
    HN_TRY(number_of(c, "offset", &c->offset));
    if (!(c->scale > 0)) return HN_FAIL(HN_ERR_FORMAT, "%s: scale %g", path, c->scale);
    HN_TRY(networks_of(r, c));
    HN_TRY(shorter_side_of(c, &r->model.vision, &r->shorter_side));
    HN_TRY(hn_drift_facts_read(c->file, &n->facts));
    return check_fit(r, c, n, path);
}

hn_status hn_hf_carried_open(hn_hyperflow *r, const char *path, hn_hf_network *n,
                             hn_hf_carried *out)
{
    hn_hf_carried c = {0};
    const hn_status st = open(r, path, n, &c);
    if (st != HN_OK)
        hn_hf_carried_close(&c);
    else
        *out = c;
    return st;
}

/* Tensor prefix + name, of n finite values. */
static hn_status values_of(const hn_hf_carried *c, const char *prefix, const char *name, int64_t n,
                           float *out)
{
    char *whole = hn_asprintf("%s%s", prefix, name);
    if (whole == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    const hn_st_tensor *t = hn_st_find(c->file, whole);
    hn_status st = t != NULL && hn_st_elements(t) == n
                       ? hn_st_convert(t, HN_F32, out)
                       : HN_FAIL(HN_ERR_FORMAT, "%s: no %s of %" PRId64 " values",
                                 hn_st_where(c->file), whole, n);
    for (int64_t i = 0; st == HN_OK && i < n; i++)
        if (!isfinite(out[i]))
            st = HN_FAIL(HN_ERR_FORMAT, "%s: %s: value %" PRId64 " is not finite",
                         hn_st_where(c->file), whole, i);
    hn_free(whole);
    return st;
}

hn_status hn_hf_carried_load(const hn_hf_carried *c, const char *prefix, const hn_params *p)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        float *v = hn_malloc((size_t)hn_param_values(q) * sizeof *v);
        hn_status st = v ? values_of(c, prefix, q->name, hn_param_values(q), v)
                         : HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", q->name);
        if (st == HN_OK) st = hn_param_set(q, v);
        hn_free(v);
        HN_TRY(st);
    }
    return HN_OK;
}

hn_status hn_hf_carried_biases(const hn_hf_carried *c, const hn_theta *t, hn_values *vectors,
                               float *theta0)
{
    for (int64_t i = 0; i < t->n_parts; i++) {
        const hn_theta_part *p = &t->part[i];
        hn_value *v = hn_values_find(vectors, p->name);
        if (v == NULL) {
            char *name = hn_asprintf("backbone.%s", p->name);
            const hn_st_tensor *file = name ? hn_st_find(c->file, name) : NULL;
            const int64_t n = file ? hn_st_elements(file) : 0;
            hn_free(name);
            if (n < 1)
                return HN_FAIL(HN_ERR_FORMAT, "%s: no backbone.%s", hn_st_where(c->file), p->name);
            HN_TRY(hn_values_add(vectors, p->name, 1, &n, &v));
            HN_TRY(values_of(c, "backbone.", p->name, n, v->v));
        }
        if (p->first < 0 || p->n < 0 || p->first > v->n - p->n)
            return HN_FAIL(HN_ERR_FORMAT, "%s: backbone.%s has %" PRId64 " values",
                           hn_st_where(c->file), p->name, v->n);
        memcpy(theta0, v->v + p->first, (size_t)p->n * sizeof *theta0);
        theta0 += p->n;
    }
    return HN_OK;
}
