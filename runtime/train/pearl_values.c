#include "runtime/train/pearl_values.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/safetensors.h"

void hn_values_free(hn_values *s)
{
    for (int64_t i = 0; i < s->n; i++) hn_free(s->item[i].v);
    hn_free(s->item);
    hn_arena_free(&s->names);
    *s = (hn_values){0};
}

hn_value *hn_values_find(const hn_values *s, const char *name)
{
    for (int64_t i = 0; i < s->n; i++)
        if (strcmp(s->item[i].name, name) == 0) return &s->item[i];
    return NULL;
}

int64_t hn_value_cols(const hn_value *v) { return v->n / v->dim[0]; }

hn_status hn_values_add(hn_values *s, const char *name, int ndim, const int64_t *dim,
                        hn_value **out)
{
    hn_value item = {.name = hn_arena_text(&s->names, "%s", name), .ndim = ndim, .n = 1};
    if (hn_values_find(s, name) != NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: a second value of that name", name);
    for (int i = 0; i < ndim; i++) item.n *= item.dim[i] = dim[i];
    item.v = hn_calloc((size_t)item.n, sizeof *item.v);
    hn_status st = item.name && item.v
                       ? hn_grow(&s->item, &s->cap, s->n, sizeof *s->item)
                       : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of %s", item.n, name);
    if (st != HN_OK) {
        hn_free(item.v);
        return st;
    }
    s->item[s->n] = item;
    *out = &s->item[s->n++];
    return HN_OK;
}

hn_status hn_values_put(hn_values *s, const hn_value *from)
{
    hn_value *to = hn_values_find(s, from->name);
    if (to == NULL) HN_TRY(hn_values_add(s, from->name, from->ndim, from->dim, &to));
    if (to->n != from->n)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " values in the place of %" PRId64, from->name,
                       from->n, to->n);
    memcpy(to->v, from->v, (size_t)to->n * sizeof *to->v);
    return HN_OK;
}

hn_status hn_values_overlay(hn_values *s, const hn_values *from)
{
    for (int64_t i = 0; i < from->n; i++) HN_TRY(hn_values_put(s, &from->item[i]));
    return HN_OK;
}

void hn_values_drop(hn_values *s, const char *name)
{
    hn_value *v = hn_values_find(s, name);
    if (v == NULL) return;
    hn_free(v->v);
    const int64_t behind = s->item + s->n - (v + 1);
    memmove(v, v + 1, (size_t)behind * sizeof *v);
    s->n--;
}

hn_status hn_values_read(hn_values *s, const hn_param *q)
{
    hn_value *to = hn_values_find(s, q->name);
    if (to == NULL) HN_TRY(hn_values_add(s, q->name, q->file_ndim, q->file_dim, &to));
    return hn_param_get(q, to->v);
}

hn_status hn_values_write(const hn_values *s, const hn_param *q)
{
    const hn_value *from = hn_values_find(s, q->name);
    if (from == NULL) return HN_FAIL(HN_ERR_ARG, "there are no values of %s", q->name);
    if (from->n != hn_param_values(q))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " values, the model has %" PRId64, q->name,
                       from->n, hn_param_values(q));
    return hn_param_set(q, from->v);
}

void hn_values_add_product(float *w, const float *b, const float *a, int64_t m, int64_t n,
                           int64_t k)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < m; i++)
        for (int64_t r = 0; r < k; r++) {
            const float f = b[i * k + r];
            for (int64_t j = 0; j < n; j++) w[i * n + j] += f * a[r * n + j];
        }
}

/* ---- files ---- */

hn_status hn_values_save(const char *path, const hn_values *s, const char *const (*metadata)[2],
                         int64_t n_metadata, char hex[HN_SHA256_HEX])
{
    hn_st_entry *entry = hn_calloc((size_t)s->n + 1, sizeof *entry);
    if (entry == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " tensors", s->n);
    for (int64_t i = 0; i < s->n; i++) {
        const hn_value *v = &s->item[i];
        entry[i] =
            (hn_st_entry){.name = v->name, .dtype = HN_ST_F32, .ndim = v->ndim, .data = v->v};
        for (int d = 0; d < v->ndim; d++) entry[i].dim[d] = v->dim[d];
    }
    const hn_status st = hn_st_save(path, entry, s->n, metadata, n_metadata, NULL, hex);
    hn_free(entry);
    return st;
}

static hn_status load_one(const hn_st_file *f, const hn_st_tensor *t, hn_values *s)
{
    hn_value *to = NULL;
    if (t->dtype != HN_ST_F32 || t->ndim < 1 || t->ndim > HN_PARAM_DIMS || hn_st_elements(t) == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s is not fp32 of 1 to %d dimensions",
                       hn_st_where(f), t->name, (int)HN_PARAM_DIMS);
    HN_TRY(hn_values_add(s, t->name, t->ndim, t->dim, &to));
    return hn_st_convert(t, HN_F32, to->v);
}

hn_status hn_values_load(const char *path, hn_values *s)
{
    hn_st_file *f = NULL;
    HN_TRY(hn_st_open(path, &f));
    hn_status st = HN_OK;
    for (int64_t i = 0; i < hn_st_count(f) && st == HN_OK; i++) st = load_one(f, hn_st_at(f, i), s);
    hn_st_close(f);
    return st;
}
