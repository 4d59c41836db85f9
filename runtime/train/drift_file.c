#include "runtime/train/drift_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/train/params_fit.h"

void hn_drift_facts_free(hn_drift_facts *f)
{
    hn_free(f->sigma);
    *f = (hn_drift_facts){0};
}

/* ---- writing ---- */

/* All parameters in one piece, and the file's entries for them and sigma. */
static hn_status gather(const hn_params *p, bool averages, hn_st_entry *entry, float *values)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (averages && q->average == NULL)
            return HN_FAIL(HN_ERR_ARG, "%s: no average of it is kept", q->name);
        HN_TRY(averages ? hn_param_read(q, q->average, values) : hn_param_get(q, values));
        entry[i] = (hn_st_entry){
            .name = q->name, .dtype = HN_ST_F32, .ndim = q->file_ndim, .data = values};
        for (int k = 0; k < q->file_ndim; k++) entry[i].dim[k] = q->file_dim[k];
        values += hn_param_values(q);
    }
    return HN_OK;
}

hn_status hn_drift_file_save(const char *path, const hn_params *p, bool averages,
                             const hn_drift_facts *f)
{
    const int64_t n = hn_params_count(p);
    json_t *config = hn_drift_config_json(&f->config);
    char *text = config ? json_dumps(config, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    hn_st_entry *entry = hn_calloc((size_t)n + 1, sizeof *entry);
    float *values = hn_malloc((size_t)hn_params_total(p) * sizeof *values);
    hn_status st =
        text && entry && values ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", path);
    HN_TRY_GOTO(st, st, done);
    HN_TRY_GOTO(st, gather(p, averages, entry, values), done);
    entry[n] = (hn_st_entry){.name = "sigma",
                             .dtype = HN_ST_F32,
                             .ndim = 1,
                             .dim = {f->config.tokens},
                             .data = f->sigma};
    const char *const metadata[][2] = {{"format", "pt"},
                                       {"drift.config", text},
                                       {"drift.layout", f->layout},
                                       {"drift.backbone", f->backbone},
                                       {"drift.encoder", f->encoder}};
    st = hn_st_save(path, entry, n + 1, metadata, 5, NULL, NULL);

done:
    json_decref(config);
    free(text);
    hn_free(entry);
    hn_free(values);
    return st;
}

/* ---- reading ---- */

static hn_status text_of(const hn_st_file *f, const char *key, const char **out)
{
    *out = hn_st_metadata(f, key);
    if (*out != NULL) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "%s: no drift network: its metadata have no %s", hn_st_where(f),
                   key);
}

static hn_status digest_of(const hn_st_file *f, const char *key, char out[HN_SHA256_HEX])
{
    const char *text;
    HN_TRY(text_of(f, key, &text));
    if (strlen(text) >= HN_SHA256_HEX)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s is no digest", hn_st_where(f), key);
    memcpy(out, text, strlen(text) + 1);
    return HN_OK;
}

/* The values of a tensor of this shape, all of them finite. */
static hn_status values_of(const hn_st_file *f, const char *name, int ndim, const int64_t *dim,
                           float *out)
{
    const hn_st_tensor *t = hn_st_find(f, name);
    bool same = t != NULL && t->ndim == ndim;
    for (int k = 0; same && k < ndim; k++) same = t->dim[k] == dim[k];
    if (!same)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s is missing or has another shape", hn_st_where(f),
                       name);
    HN_TRY(hn_st_convert(t, HN_F32, out));
    for (int64_t i = 0; i < hn_st_elements(t); i++)
        if (!isfinite(out[i]))
            return HN_FAIL(HN_ERR_FORMAT, "%s: %s: value %" PRId64 " is not finite", hn_st_where(f),
                           name, i);
    return HN_OK;
}

static hn_status read_sigma(const hn_st_file *f, hn_drift_facts *out)
{
    const int64_t n = out->config.tokens;
    out->sigma = hn_malloc((size_t)n * sizeof *out->sigma);
    if (out->sigma == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " sigmas", n);
    HN_TRY(values_of(f, "sigma", 1, &n, out->sigma));
    for (int64_t i = 0; i < n; i++)
        if (!(out->sigma[i] > 0))
            return HN_FAIL(HN_ERR_FORMAT, "%s: sigma of token %" PRId64 " is not above 0",
                           hn_st_where(f), i);
    return HN_OK;
}

/* Before anybody takes memory by what the configuration says. */
static hn_status check_sizes(const hn_st_file *f, const hn_drift_config *c)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_drift_declare(c, p);
    if (st == HN_OK) st = hn_params_fit(p, f, "", "drift.config");
    hn_params_free(p);
    return st;
}

hn_status hn_drift_facts_read(const hn_st_file *file, hn_drift_facts *out)
{
    hn_drift_facts f = {0};
    const char *text;
    json_t *config = NULL;
    HN_TRY(text_of(file, "drift.config", &text));
    HN_TRY(hn_json_parse(text, strlen(text), hn_st_where(file), &config));
    hn_status st = hn_drift_config_read(config, hn_st_where(file), &f.config);
    json_decref(config);
    if (st == HN_OK) st = check_sizes(file, &f.config);
    if (st == HN_OK) st = digest_of(file, "drift.layout", f.layout);
    if (st == HN_OK) st = digest_of(file, "drift.backbone", f.backbone);
    if (st == HN_OK) st = digest_of(file, "drift.encoder", f.encoder);
    if (st == HN_OK) st = read_sigma(file, &f);
    if (st != HN_OK)
        hn_drift_facts_free(&f);
    else
        *out = f;
    return st;
}

hn_status hn_drift_file_load(const hn_st_file *file, const hn_params *p)
{
    float *values = hn_malloc((size_t)hn_params_total(p) * sizeof *values);
    hn_status st =
        values ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", hn_st_where(file));
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        st = values_of(file, q->name, q->file_ndim, q->file_dim, values);
        if (st == HN_OK) st = hn_param_set(q, values);
    }
    hn_free(values);
    return st;
}
