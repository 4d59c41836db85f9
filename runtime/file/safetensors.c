#include "runtime/file/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/mapfile.h"

#define MAX_HEADER UINT64_C(100000000)

struct hn_st_file {
    char *where;
    hn_mapfile map; /* empty when the memory is the caller's */
    json_t *header; /* owns the names and the metadata */
    hn_st_tensor *tensors;
    const hn_st_tensor **by_name;
    int64_t n;
};

/* Where a tensor says its data is, before that is known to be true. */
typedef struct {
    hn_st_tensor tensor;
    uint64_t begin, end;
} claim;

const char *hn_st_dtype_name(hn_st_dtype t)
{
    static const char *const names[] = {
#define X(name, bits) #name,
        HN_ST_DTYPE_LIST(X)
#undef X
    };
    return (unsigned)t < HN_ST_DTYPE_COUNT ? names[t] : "?";
}

int hn_st_dtype_bits(hn_st_dtype t)
{
    static const int bits_of[] = {
#define X(name, bits) bits,
        HN_ST_DTYPE_LIST(X)
#undef X
    };
    return (unsigned)t < HN_ST_DTYPE_COUNT ? bits_of[t] : 0;
}

hn_st_dtype hn_st_dtype_of(hn_dtype t)
{
    switch (t) {
    case HN_F32: return HN_ST_F32;
    case HN_BF16: return HN_ST_BF16;
    case HN_F16: return HN_ST_F16;
    case HN_F8_E4M3: return HN_ST_F8_E4M3;
    case HN_I32: return HN_ST_I32;
    case HN_I64: return HN_ST_I64;
    case HN_U8: return HN_ST_U8;
    case HN_DTYPE_COUNT: break;
    }
    return HN_ST_DTYPE_COUNT;
}

static hn_status read_dtype(const json_t *entry, const char *where, const char *name,
                            hn_st_dtype *out)
{
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    if (text == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s': 'dtype' is missing or not a string",
                       where, name);
    for (int t = 0; t < HN_ST_DTYPE_COUNT; t++) {
        if (strcmp(text, hn_st_dtype_name((hn_st_dtype)t)) != 0) continue;
        *out = (hn_st_dtype)t;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s': unknown dtype '%.40s'", where, name, text);
}

static hn_status read_shape(const json_t *entry, const char *where, const char *name,
                            hn_st_tensor *t)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s': 'shape' is missing or not an array",
                       where, name);
    const size_t ndim = json_array_size(shape);
    if (ndim > HN_ST_MAX_DIMS)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: tensor '%.200s' has %zu dimensions, at most %d",
                       where, name, ndim, HN_ST_MAX_DIMS);
    for (size_t i = 0; i < ndim; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: tensor '%.200s': shape[%zu] is not an unsigned integer", where,
                           name, i);
        t->dim[i] = json_integer_value(v);
    }
    t->ndim = (int)ndim;
    return HN_OK;
}

/* Bytes that the shape takes. A zero dimension does not excuse the others: whoever multiplies
 * some of them must not overflow either. */
static hn_status bytes_of_shape(const hn_st_tensor *t, const char *where, uint64_t *out)
{
    uint64_t bits = (uint64_t)hn_st_dtype_bits(t->dtype);
    int empty = 0;
    for (int i = 0; i < t->ndim; i++) {
        const uint64_t d = (uint64_t)t->dim[i];
        if (d == 0)
            empty = 1;
        else if (bits > (uint64_t)INT64_MAX / d)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: tensor '%.200s': the product of the shape overflows 64 bits", where,
                           t->name);
        else
            bits *= d;
    }
    if (!empty && bits % 8 != 0)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: tensor '%.200s': %" PRIu64 " bits are not a whole number of bytes",
                       where, t->name, bits);
    *out = empty ? 0 : bits / 8;
    return HN_OK;
}

static hn_status read_offsets(const json_t *entry, const char *where, const char *name, claim *c)
{
    const json_t *pair = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(pair, 0), *end = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < 0)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: tensor '%.200s': 'data_offsets' is not two unsigned integers", where,
                       name);
    c->begin = (uint64_t)json_integer_value(begin);
    c->end = (uint64_t)json_integer_value(end);
    if (c->end < c->begin)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: tensor '%.200s' ends at %" PRIu64 ", before its begin %" PRIu64, where,
                       name, c->end, c->begin);
    return HN_OK;
}

static hn_status read_claim(const json_t *entry, const char *where, const char *name, claim *c)
{
    *c = (claim){.tensor.name = name};
    if (!json_is_object(entry))
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s': its entry is not an object", where,
                       name);
    HN_TRY(read_dtype(entry, where, name, &c->tensor.dtype));
    HN_TRY(read_shape(entry, where, name, &c->tensor));
    HN_TRY(read_offsets(entry, where, name, c));
    uint64_t wanted = 0;
    HN_TRY(bytes_of_shape(&c->tensor, where, &wanted));
    if (c->end - c->begin != wanted)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: tensor '%.200s': offsets %" PRIu64 "..%" PRIu64 " hold %" PRIu64
                       " bytes, its shape and dtype %s need %" PRIu64,
                       where, name, c->begin, c->end, c->end - c->begin,
                       hn_st_dtype_name(c->tensor.dtype), wanted);
    return HN_OK;
}

static int by_offset(const void *a, const void *b)
{
    const claim *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

/* No hole, no overlap, and the last tensor ends where the file ends. */
static hn_status check_layout(const claim *c, int64_t n, const char *where, uint64_t size)
{
    uint64_t at = 0;
    for (int64_t i = 0; i < n; at = c[i++].end)
        if (c[i].begin != at)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: tensor '%.200s' begins at %" PRIu64 ", expected %" PRIu64 " (%s)",
                           where, c[i].tensor.name, c[i].begin, at,
                           c[i].begin > at ? "hole" : "overlap");
    if (at != size)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: the tensors end at %" PRIu64 ", but the file holds %" PRIu64
                       " bytes of data",
                       where, at, size);
    return HN_OK;
}

static hn_status check_metadata(const json_t *metadata, const char *where)
{
    if (!json_is_object(metadata))
        return HN_FAIL(HN_ERR_FORMAT, "%s: '__metadata__' is not an object", where);
    for (void *at = json_object_iter((json_t *)(size_t)metadata); at != NULL;
         at = json_object_iter_next((json_t *)(size_t)metadata, at))
        if (!json_is_string(json_object_iter_value(at)))
            return HN_FAIL(HN_ERR_FORMAT, "%s: '__metadata__' key '%.200s' is not a string", where,
                           json_object_iter_key(at));
    return HN_OK;
}

static int by_name(const void *a, const void *b)
{
    const hn_st_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Fills the tensors of f from f->header; `data` has `size` bytes. */
static hn_status read_tensors(hn_st_file *f, const unsigned char *data, uint64_t size)
{
    hn_status st = HN_OK;
    const size_t most = json_object_size(f->header);
    claim *claims = hn_calloc(most, sizeof *claims);
    f->tensors = hn_calloc(most, sizeof *f->tensors);
    f->by_name = hn_calloc(most, sizeof(void *));
    if (claims == NULL || f->tensors == NULL || f->by_name == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the %zu tensors of %s", most, f->where);
        goto done;
    }
    int64_t n = 0;
    for (void *at = json_object_iter(f->header); at != NULL;
         at = json_object_iter_next(f->header, at)) {
        const char *name = json_object_iter_key(at);
        const json_t *entry = json_object_iter_value(at);
        if (strcmp(name, "__metadata__") == 0)
            HN_TRY_GOTO(st, check_metadata(entry, f->where), done);
        else
            HN_TRY_GOTO(st, read_claim(entry, f->where, name, &claims[n++]), done);
    }
    qsort(claims, (size_t)n, sizeof *claims, by_offset);
    HN_TRY_GOTO(st, check_layout(claims, n, f->where, size), done);
    for (int64_t i = 0; i < n; i++) {
        f->tensors[i] = claims[i].tensor;
        f->tensors[i].data = data + claims[i].begin;
        f->tensors[i].n_bytes = (size_t)(claims[i].end - claims[i].begin);
        f->by_name[i] = &f->tensors[i];
    }
    qsort(f->by_name, (size_t)n, sizeof *f->by_name, by_name);
    f->n = n;

done:
    hn_free(claims);
    return st;
}

static hn_status parse(hn_st_file *f, const unsigned char *bytes, size_t n)
{
    uint64_t length = 0;
    if (n < 8)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %zu bytes, a safetensors file has at least 8", f->where,
                       n);
    for (int i = 7; i >= 0; i--) length = length << 8 | bytes[i];
    if (length > MAX_HEADER)
        return HN_FAIL(HN_ERR_FORMAT, "%s: header of %" PRIu64 " bytes, at most %" PRIu64, f->where,
                       length, MAX_HEADER);
    if (length > n - 8)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: header of %" PRIu64 " bytes ends beyond the file of %zu bytes",
                       f->where, length, n);
    if (length == 0 || bytes[8] != '{')
        return HN_FAIL(HN_ERR_FORMAT, "%s: the header does not begin with '{'", f->where);
    HN_TRY(hn_json_parse((const char *)bytes + 8, (size_t)length, f->where, &f->header));
    return read_tensors(f, bytes + 8 + length, n - 8 - length);
}

hn_status hn_st_parse(const void *bytes, size_t n, const char *where, hn_st_file **out)
{
    hn_st_file *f = hn_calloc(1, sizeof *f);
    if (f == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    hn_status st = HN_OK;
    f->where = hn_strdup(where);
    if (f->where == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    else
        st = parse(f, bytes, n);
    if (st == HN_OK)
        *out = f;
    else
        hn_st_close(f);
    return st;
}

hn_status hn_st_open(const char *path, hn_st_file **out)
{
    hn_mapfile map = {0};
    HN_TRY(hn_mapfile_open(path, &map));
    hn_st_file *f = NULL;
    const hn_status st = hn_st_parse(map.data, map.size, path, &f);
    if (st != HN_OK) {
        hn_mapfile_close(&map);
        return st;
    }
    f->map = map;
    *out = f;
    return HN_OK;
}

void hn_st_close(hn_st_file *f)
{
    if (f == NULL) return;
    json_decref(f->header);
    hn_free(f->tensors);
    hn_free(f->by_name);
    hn_free(f->where);
    hn_mapfile_close(&f->map);
    hn_free(f);
}

int64_t hn_st_count(const hn_st_file *f) { return f->n; }

const hn_st_tensor *hn_st_at(const hn_st_file *f, int64_t i)
{
    return i >= 0 && i < f->n ? &f->tensors[i] : NULL;
}

const hn_st_tensor *hn_st_find(const hn_st_file *f, const char *name)
{
    const hn_st_tensor key = {.name = name}, *wanted = &key;
    const hn_st_tensor *const *found =
        bsearch(&wanted, f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    return found != NULL ? *found : NULL;
}

const char *hn_st_metadata(const hn_st_file *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}

const char *hn_st_where(const hn_st_file *f) { return f->where; }

int64_t hn_st_elements(const hn_st_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->dim[i];
    return n;
}
