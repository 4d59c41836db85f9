#include "runtime/file/sparse_pack.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/gap_code.h"

enum { FORMAT = 1 };

/* Ends of names, by `set`. */
static const char *const end_ids[] = {".sparse_ids", ".kept_ids"};
static const char *const end_delta[] = {".sparse_delta", ".kept_values"};
static const char *const encodings[][2] = {{"block", "block-set"}, {"sparse-add", "sparse-set"}};

static const char *encoding_of(bool one, bool set) { return encodings[one][set]; }

/* Blocks and values a block; false where the shape makes no sense. */
static bool block_counts(const hn_pack_matrix *m, int64_t *blocks, int64_t *size)
{
    if (m->out < 1 || m->in < 1 || m->out > INT32_MAX || m->in > INT32_MAX || m->br < 1 ||
        m->bc < 1 || m->out % m->br != 0 || m->in % m->bc != 0)
        return false;
    *blocks = (m->out / m->br) * (m->in / m->bc);
    *size = m->br * m->bc;
    return *blocks <= INT32_MAX;
}

/* ---- writing ---- */

void hn_pack_writer_free(hn_pack_writer *w)
{
    for (int64_t i = 0; i < w->n; i++) hn_free(w->own[i]);
    hn_free(w->entry);
    hn_free(w->own);
    json_decref(w->tensors);
    hn_arena_free(&w->names);
    *w = (hn_pack_writer){0};
}

static hn_status add_entry(hn_pack_writer *w, const hn_st_entry *e, void *own)
{
    hn_status st = hn_grow(&w->entry, &w->cap, w->n, sizeof *w->entry);
    if (st == HN_OK) st = hn_grow(&w->own, &w->own_cap, w->n, sizeof *w->own);
    if (st != HN_OK) {
        hn_free(own);
        return st;
    }
    w->own[w->n] = own;
    w->entry[w->n++] = *e;
    return HN_OK;
}

static hn_status add_ids(hn_pack_writer *w, const hn_pack_matrix *m, int k, const char *name)
{
    uint8_t *bytes = NULL;
    int64_t n_bytes = 0;
    HN_TRY(hn_gap_encode(m->id, m->n, k, &bytes, &n_bytes));
    const hn_st_entry e = {
        .name = name, .dtype = HN_ST_U8, .ndim = 1, .dim = {n_bytes}, .data = bytes};
    return add_entry(w, &e, bytes);
}

static hn_status add_values(hn_pack_writer *w, const hn_pack_matrix *m, int64_t size,
                            hn_dtype dtype, const char *name)
{
    const int64_t n = m->n * size;
    hn_bf16 *rounded = NULL;
    if (dtype == HN_BF16) {
        rounded = hn_malloc((size_t)n * sizeof *rounded);
        if (rounded == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: no memory to round", m->name);
    }
    for (int64_t i = 0; i < n; i++) {
        if (rounded != NULL) rounded[i] = hn_bf16_from_f32(m->delta[i]);
        if (isfinite(rounded ? hn_bf16_to_f32(rounded[i]) : m->delta[i])) continue;
        hn_free(rounded);
        return HN_FAIL(HN_ERR_NUMERIC, "%s: value %" PRId64 " of the change is %g in %s", m->name,
                       i, (double)m->delta[i], hn_dtype_name(dtype));
    }
    const hn_st_entry e = {.name = name,
                           .dtype = hn_st_dtype_of(dtype),
                           .ndim = 2,
                           .dim = {m->n, size},
                           .data = rounded ? (const void *)rounded : m->delta};
    return add_entry(w, &e, rounded);
}

hn_status hn_pack_add(hn_pack_writer *w, const hn_pack_matrix *m, hn_dtype dtype)
{
    int64_t blocks, size;
    if (dtype != HN_F32 && dtype != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: a change is written in f32 or bf16, not %s",
                       m->name, hn_dtype_name(dtype));
    if (!block_counts(m, &blocks, &size) || m->n < 0 || m->n > blocks ||
        (m->n > 0 && m->id[m->n - 1] >= blocks))
        return HN_FAIL(HN_ERR_ARG,
                       "%s: %" PRId64 " blocks of %" PRId64 " x %" PRId64 " in [%" PRId64
                       ", %" PRId64 "]",
                       m->name, m->n, m->br, m->bc, m->out, m->in);
    const int k = hn_gap_k(m->n, blocks);
    const char *ids = hn_arena_text(&w->names, "%s%s", m->name, end_ids[m->set]);
    const char *delta = hn_arena_text(&w->names, "%s%s", m->name, end_delta[m->set]);
    if (ids == NULL || delta == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", m->name);
    if (w->tensors == NULL) w->tensors = json_array();
    json_t *row =
        json_pack("{s:s, s:s, s:[s, s], s:[I, I], s:[I, I], s:I, s:i}", "base_name", m->name,
                  "encoding", encoding_of(size == 1, m->set), "parts", ids, delta, "shape",
                  (json_int_t)m->out, (json_int_t)m->in, "block", (json_int_t)m->br,
                  (json_int_t)m->bc, "count", (json_int_t)m->n, "gap_k", k);
    if (json_array_append_new(w->tensors, row) != 0)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %s (is its name UTF-8?)", m->name);
    HN_TRY(add_ids(w, m, k, ids));
    return add_values(w, m, size, dtype, delta);
}

hn_status hn_pack_save(const char *path, const hn_pack_writer *w, const json_t *manifest)
{
    json_t *all = json_object();
    int bad = all == NULL;
    if (manifest != NULL) bad |= json_object_update(all, (json_t *)(uintptr_t)manifest) != 0;
    if (json_object_get(all, "format_version") == NULL)
        bad |= json_object_set_new(all, "format_version", json_integer(FORMAT)) != 0;
    bad |= json_object_set_new(all, "tensors", w->tensors ? json_incref(w->tensors) : json_array());
    char *text = bad ? NULL : json_dumps(all, JSON_SORT_KEYS | JSON_COMPACT);
    const char *const metadata[][2] = {{"format", "pt"}, {"delta.manifest", text}};
    const hn_status st = text ? hn_st_save(path, w->entry, w->n, metadata, 2, NULL, NULL)
                              : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    free(text);
    json_decref(all);
    return st;
}

/* ---- reading ---- */

void hn_pack_matrix_free(hn_pack_matrix *m)
{
    hn_free(m->name);
    hn_free(m->id);
    hn_free(m->delta);
    *m = (hn_pack_matrix){0};
}

void hn_pack_free(hn_pack *p)
{
    for (int64_t i = 0; i < p->n; i++) hn_pack_matrix_free(&p->matrix[i]);
    hn_free(p->matrix);
    *p = (hn_pack){0};
}

static hn_status read_pair(const json_t *row, const char *key, const char *where, int64_t *a,
                           int64_t *b)
{
    const json_t *pair = json_object_get(row, key);
    const json_t *x = json_array_get(pair, 0), *y = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(x) || !json_is_integer(y))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not a pair of integers", where, key);
    *a = json_integer_value(x);
    *b = json_integer_value(y);
    return HN_OK;
}

/* Entry `i` of "parts", which is the name of the matrix and `end`. */
static hn_status find_part(const hn_st_file *f, const json_t *row, const char *where, size_t i,
                           const char *end, const hn_st_tensor **out)
{
    const json_t *parts = json_object_get(row, "parts");
    const char *base = json_string_value(json_object_get(row, "base_name"));
    const char *name = json_string_value(json_array_get(parts, i));
    const size_t n = strlen(base);
    if (json_array_size(parts) != 2 || name == NULL || strncmp(name, base, n) != 0 ||
        strcmp(name + n, end) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: entry %zu of 'parts' is not its name and '%s'", where, i,
                       end);
    *out = hn_st_find(f, name);
    return *out ? HN_OK : HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s' is missing", where, name);
}

/* Shape, block and count of a row, and whether the two tensors are as large as those say. */
static hn_status read_sizes(const json_t *row, const hn_st_tensor *ids, const hn_st_tensor *delta,
                            const char *where, hn_pack_matrix *m)
{
    const char *encoding = NULL;
    int64_t blocks, size;
    HN_TRY(hn_json_get_text(row, "encoding", where, true, &encoding));
    HN_TRY(read_pair(row, "shape", where, &m->out, &m->in));
    HN_TRY(read_pair(row, "block", where, &m->br, &m->bc));
    if (!block_counts(m, &blocks, &size))
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: blocks of %" PRId64 " x %" PRId64 " in [%" PRId64 ", %" PRId64 "]",
                       where, m->br, m->bc, m->out, m->in);
    if (strcmp(encoding, encoding_of(size == 1, m->set)) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: encoding '%.40s' of blocks of %" PRId64 " x %" PRId64,
                       where, encoding, m->br, m->bc);
    HN_TRY(hn_json_get_i64(row, "count", where, 0, blocks, true, &m->n));
    if (ids->dtype != HN_ST_U8 || ids->ndim != 1 || m->n > 8 * (int64_t)ids->n_bytes)
        return HN_FAIL(HN_ERR_FORMAT, "%s: '%.200s' cannot be the code of %" PRId64 " ids", where,
                       ids->name, m->n);
    if ((delta->dtype != HN_ST_F32 && delta->dtype != HN_ST_BF16) || delta->ndim != 2 ||
        delta->dim[0] != m->n || delta->dim[1] != size)
        return HN_FAIL(HN_ERR_FORMAT, "%s: '%.200s' is not f32 or bf16 [%" PRId64 ", %" PRId64 "]",
                       where, delta->name, m->n, size);
    return HN_OK;
}

static hn_status check_finite(const hn_pack_matrix *m, const char *where)
{
    const int64_t n = m->n * m->br * m->bc;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(m->delta[i]))
            return HN_FAIL(HN_ERR_NUMERIC, "%s: value %" PRId64 " is %g", where, i,
                           (double)m->delta[i]);
    return HN_OK;
}

static const char *encoding_in(const json_t *row)
{
    const char *text = json_string_value(json_object_get(row, "encoding"));
    return text ? text : "";
}

static bool is_set(const json_t *row)
{
    return strcmp(encoding_in(row), encodings[0][1]) == 0 ||
           strcmp(encoding_in(row), encodings[1][1]) == 0;
}

bool hn_pack_is_row(const json_t *row)
{
    return is_set(row) || strcmp(encoding_in(row), encodings[0][0]) == 0 ||
           strcmp(encoding_in(row), encodings[1][0]) == 0;
}

/* m owns what is allocated even after an error. */
static hn_status read_matrix(const hn_st_file *f, const json_t *row, const char *name,
                             const char *where, hn_pack_matrix *m)
{
    const hn_st_tensor *ids, *delta;
    int64_t k = 0;
    m->set = is_set(row);
    HN_TRY(find_part(f, row, where, 0, end_ids[m->set], &ids));
    HN_TRY(find_part(f, row, where, 1, end_delta[m->set], &delta));
    HN_TRY(read_sizes(row, ids, delta, where, m));
    HN_TRY(hn_json_get_i64(row, "gap_k", where, 0, HN_GAP_MAX_K, true, &k));
    m->name = hn_strdup(name);
    m->id = hn_malloc((size_t)m->n * sizeof *m->id);
    m->delta = hn_malloc((size_t)hn_st_elements(delta) * sizeof *m->delta);
    if (m->name == NULL || m->id == NULL || m->delta == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory to read it", where);
    HN_TRY(hn_gap_decode(ids->data, (int64_t)ids->n_bytes, m->n, (m->out / m->br) * (m->in / m->bc),
                         (int)k, where, m->id));
    HN_TRY(hn_st_convert(delta, HN_F32, m->delta));
    return check_finite(m, where);
}

hn_status hn_pack_read(const hn_st_file *f, const json_t *row, hn_pack_matrix *out)
{
    const char *name = NULL;
    hn_pack_matrix m = {0};
    HN_TRY(hn_json_get_text(row, "base_name", hn_st_where(f), true, &name));
    char *where = hn_asprintf("%s: change of '%.200s'", hn_st_where(f), name);
    if (where == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", hn_st_where(f));
    const hn_status st = read_matrix(f, row, name, where, &m);
    hn_free(where);
    if (st == HN_OK)
        *out = m;
    else
        hn_pack_matrix_free(&m);
    return st;
}

static int by_name(const void *a, const void *b)
{
    const hn_pack_matrix *x = *(const hn_pack_matrix *const *)a;
    const hn_pack_matrix *y = *(const hn_pack_matrix *const *)b;
    const int order = strcmp(x->name, y->name);
    return order ? order : (int)x->set - (int)y->set;
}

static hn_status check_names(const hn_pack *p, const char *path)
{
    hn_status st = HN_OK;
    const hn_pack_matrix **m = hn_calloc((size_t)p->n, sizeof *m);
    if (m == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", path);
    for (int64_t i = 0; i < p->n; i++) m[i] = &p->matrix[i];
    qsort(m, (size_t)p->n, sizeof *m, by_name);
    for (int64_t i = 1; i < p->n && st == HN_OK; i++)
        if (by_name(&m[i - 1], &m[i]) == 0)
            st = HN_FAIL(HN_ERR_FORMAT, "%s: two changes of '%.200s'", path, m[i]->name);
    hn_free(m);
    return st;
}

static hn_status read_rows(const hn_st_file *f, const json_t *manifest, hn_pack *p)
{
    const char *path = hn_st_where(f);
    const json_t *tensors = json_object_get(manifest, "tensors");
    int64_t version = 0;
    HN_TRY(hn_json_get_i64(manifest, "format_version", path, FORMAT, FORMAT, true, &version));
    if (!json_is_array(tensors))
        return HN_FAIL(HN_ERR_FORMAT, "%s: its manifest has no list 'tensors'", path);
    const size_t n = json_array_size(tensors);
    p->matrix = hn_calloc(n, sizeof *p->matrix);
    if (p->matrix == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", path);
    for (size_t i = 0; i < n; i++) {
        HN_TRY(hn_pack_read(f, json_array_get(tensors, i), &p->matrix[p->n]));
        p->n++;
    }
    HN_TRY(check_names(p, path));
    /* names are unique, and parts are named after their matrix: each tensor was read once */
    if (hn_st_count(f) != 2 * p->n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " tensors, its manifest names %" PRId64, path,
                       hn_st_count(f), 2 * p->n);
    return HN_OK;
}

hn_status hn_pack_load(const char *path, hn_pack *out, json_t **manifest)
{
    hn_st_file *f = NULL;
    json_t *j = NULL;
    hn_pack p = {0};
    hn_status st;
    HN_TRY(hn_st_open(path, &f));
    const char *text = hn_st_metadata(f, "delta.manifest");
    st = text ? hn_json_parse(text, strlen(text), path, &j)
              : HN_FAIL(HN_ERR_FORMAT, "%s: no delta.manifest in its metadata", path);
    if (st == HN_OK) st = read_rows(f, j, &p);
    if (st == HN_OK) {
        hn_pack_free(out);
        *out = p;
        if (manifest != NULL) *manifest = json_incref(j);
    } else {
        hn_pack_free(&p);
    }
    json_decref(j);
    hn_st_close(f);
    return st;
}

void hn_pack_apply(const hn_pack_matrix *m, float *w)
{
    const int64_t across = m->in / m->bc;
    const float *delta = m->delta;
    for (int64_t i = 0; i < m->n; i++) {
        float *block = w + m->id[i] / across * m->br * m->in + m->id[i] % across * m->bc;
        for (int64_t r = 0; r < m->br; r++)
            for (int64_t c = 0; c < m->bc; c++, delta++)
                block[r * m->in + c] = m->set ? *delta : block[r * m->in + c] + *delta;
    }
}
