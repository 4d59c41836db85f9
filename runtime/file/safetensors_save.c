#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/base/alloc.h"
#include "runtime/file/safetensors.h"

#define MAX_HEADER 100000000

/* A text that grows; after a failed allocation it swallows what follows. */
typedef struct {
    char *data;
    size_t size, room;
    int failed;
} text;

static void put(text *t, const char *s, size_t n)
{
    if (t->failed) return;
    if (t->room - t->size < n) {
        const size_t room = 2 * t->room + n + 256;
        char *grown = hn_realloc(t->data, room);
        if (grown == NULL) {
            t->failed = 1;
            return;
        }
        t->data = grown;
        t->room = room;
    }
    memcpy(t->data + t->size, s, n);
    t->size += n;
}

static void put_text(text *t, const char *s) { put(t, s, strlen(s)); }

static void put_number(text *t, uint64_t v)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRIu64, v);
    put_text(t, digits);
}

/* Escapes what the Rust library escapes, in its spelling: the bytes must agree. */
static void put_string(text *t, const char *s)
{
    put(t, "\"", 1);
    for (; *s; s++) {
        static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
        const char *special = strchr(plain, *s);
        char escape[8];
        if (special != NULL)
            snprintf(escape, sizeof escape, "\\%c", letter[special - plain]);
        else if ((unsigned char)*s < 0x20)
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)*s);
        else
            snprintf(escape, sizeof escape, "%c", *s);
        put_text(t, escape);
    }
    put(t, "\"", 1);
}

static int is_utf8(const char *s)
{
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)s;
    while (*p) {
        utf8proc_int32_t code;
        const utf8proc_ssize_t n = utf8proc_iterate(p, -1, &code);
        if (n <= 0) return 0;
        p += n;
    }
    return 1;
}

static hn_status check_shape(const hn_st_entry *e, const char *path, uint64_t *n_bytes)
{
    uint64_t bits = (uint64_t)hn_st_dtype_bits(e->dtype);
    int empty = 0;
    if (bits == 0 || e->ndim < 0 || e->ndim > HN_ST_MAX_DIMS)
        return HN_FAIL(HN_ERR_ARG, "%s: tensor '%.200s': dtype %d, %d dimensions (0..%d)", path,
                       e->name, (int)e->dtype, e->ndim, HN_ST_MAX_DIMS);
    for (int i = 0; i < e->ndim; i++) {
        if (e->dim[i] < 0 || (e->dim[i] > 0 && bits > (uint64_t)(INT64_MAX / e->dim[i])))
            return HN_FAIL(HN_ERR_ARG, "%s: tensor '%.200s': dimension %d is %" PRId64, path,
                           e->name, i, e->dim[i]);
        if (e->dim[i] == 0)
            empty = 1;
        else
            bits *= (uint64_t)e->dim[i];
    }
    if (empty) bits = 0;
    if (bits % 8 != 0)
        return HN_FAIL(HN_ERR_ARG, "%s: tensor '%.200s': %" PRIu64 " bits are not whole bytes",
                       path, e->name, bits);
    if (bits > 0 && e->data == NULL && e->fetch == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: tensor '%.200s' has no data", path, e->name);
    *n_bytes = bits / 8;
    return HN_OK;
}

/* Bits of one row of the last dimension. */
static uint64_t row_bits(const hn_st_entry *e)
{
    const int64_t cols = e->ndim > 0 ? e->dim[e->ndim - 1] : 1;
    return (uint64_t)cols * (uint64_t)hn_st_dtype_bits(e->dtype);
}

hn_status hn_st_entry_bytes(const hn_st_entry *e, const char *path, uint64_t *n_bytes)
{
    if (e->name == NULL || strcmp(e->name, "__metadata__") == 0 || !is_utf8(e->name))
        return HN_FAIL(HN_ERR_ARG, "%s: '%.200s' cannot be the name of a tensor", path,
                       e->name != NULL ? e->name : "(null)");
    HN_TRY(check_shape(e, path, n_bytes));
    const uint64_t row = row_bits(e);
    if (e->pitch != 0 && (e->pitch < 0 || row % 8 != 0 || (uint64_t)e->pitch < row / 8))
        return HN_FAIL(HN_ERR_ARG,
                       "%s: tensor '%.200s': pitch %" PRId64 " for rows of %" PRIu64 " bits", path,
                       e->name, e->pitch, row);
    return HN_OK;
}

static int widest_first(const void *a, const void *b)
{
    const hn_st_entry *x = *(const hn_st_entry *const *)a, *y = *(const hn_st_entry *const *)b;
    if (x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int pair_by_name(const void *a, const void *b)
{
    return strcmp((*(const hn_st_entry *const *)a)->name, (*(const hn_st_entry *const *)b)->name);
}

/* Leaves `order` in the order of the file. */
static hn_status check_and_sort(const hn_st_entry **order, int64_t n, const char *path)
{
    uint64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t n_bytes = 0;
        HN_TRY(hn_st_entry_bytes(order[i], path, &n_bytes));
        if (n_bytes > (uint64_t)INT64_MAX - total)
            return HN_FAIL(HN_ERR_ARG, "%s: the tensors need more than 2^63 bytes", path);
        total += n_bytes;
    }
    qsort(order, (size_t)n, sizeof *order, pair_by_name);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            return HN_FAIL(HN_ERR_ARG, "%s: two tensors are called '%.200s'", path, order[i]->name);
    qsort(order, (size_t)n, sizeof *order, widest_first);
    return HN_OK;
}

static hn_status put_metadata(text *t, const char *const (*metadata)[2], int64_t n,
                              const char *path)
{
    put_text(t, "\"__metadata__\":{");
    for (int64_t i = 0; i < n; i++) {
        if (!is_utf8(metadata[i][0]) || !is_utf8(metadata[i][1]))
            return HN_FAIL(HN_ERR_ARG, "%s: metadata '%.200s' is not UTF-8", path, metadata[i][0]);
        for (int64_t k = 0; k < i; k++)
            if (strcmp(metadata[k][0], metadata[i][0]) == 0)
                return HN_FAIL(HN_ERR_ARG, "%s: metadata key '%.200s' twice", path, metadata[i][0]);
        if (i > 0) put(t, ",", 1);
        put_string(t, metadata[i][0]);
        put(t, ":", 1);
        put_string(t, metadata[i][1]);
    }
    put(t, "}", 1);
    return HN_OK;
}

static void put_entry(text *t, const hn_st_entry *e, uint64_t begin, uint64_t end)
{
    put_string(t, e->name);
    put_text(t, ":{\"dtype\":\"");
    put_text(t, hn_st_dtype_name(e->dtype));
    put_text(t, "\",\"shape\":[");
    for (int i = 0; i < e->ndim; i++) {
        if (i > 0) put(t, ",", 1);
        put_number(t, (uint64_t)e->dim[i]);
    }
    put_text(t, "],\"data_offsets\":[");
    put_number(t, begin);
    put(t, ",", 1);
    put_number(t, end);
    put_text(t, "]}");
}

/* Length and JSON, padded; t is freed by the caller in every case. */
static hn_status make_header(const hn_st_entry *const *order, int64_t n,
                             const char *const (*metadata)[2], int64_t n_metadata, const char *path,
                             text *t)
{
    uint64_t at = 0;
    put(t, "\0\0\0\0\0\0\0\0{", 9);
    if (n_metadata > 0) HN_TRY(put_metadata(t, metadata, n_metadata, path));
    for (int64_t i = 0; i < n; i++) {
        uint64_t n_bytes = 0;
        HN_TRY(hn_st_entry_bytes(order[i], path, &n_bytes));
        if (i > 0 || n_metadata > 0) put(t, ",", 1);
        put_entry(t, order[i], at, at + n_bytes);
        at += n_bytes;
    }
    put(t, "}", 1);
    put(t, "       ", (8 - t->size % 8) % 8);
    if (t->failed) return HN_FAIL(HN_ERR_MEMORY, "no memory for the header of %s", path);
    const size_t length = t->size - 8;
    if (length > MAX_HEADER)
        return HN_FAIL(HN_ERR_ARG, "%s: header of %zu bytes, at most %d", path, length, MAX_HEADER);
    for (int i = 0; i < 8; i++) t->data[i] = (char)(unsigned char)((uint64_t)length >> 8 * i);
    return HN_OK;
}

static hn_status write_data(hn_saver *s, const hn_st_entry *e, const void *data, uint64_t n_bytes)
{
    const size_t row = (size_t)(row_bits(e) / 8);
    if (e->pitch == 0 || (size_t)e->pitch == row) return hn_saver_write(s, data, n_bytes);
    const unsigned char *p = data;
    for (uint64_t rows = n_bytes / row; rows > 0; rows--, p += e->pitch)
        HN_TRY(hn_saver_write(s, p, row));
    return HN_OK;
}

static hn_status write_entry(hn_saver *s, const hn_st_entry *e, const char *path)
{
    uint64_t n_bytes = 0;
    const void *data = e->data;
    void *copy = NULL;
    HN_TRY(hn_st_entry_bytes(e, path, &n_bytes));
    if (n_bytes == 0) return HN_OK;
    if (e->fetch != NULL) HN_TRY(e->fetch(e->source, &data, &copy));
    const hn_status st = write_data(s, e, data, n_bytes);
    hn_free(copy);
    return st;
}

hn_status hn_st_save(const char *path, const hn_st_entry *entries, int64_t n,
                     const char *const (*metadata)[2], int64_t n_metadata, uint64_t *n_bytes,
                     char hex[HN_SHA256_HEX])
{
    hn_status st = HN_OK;
    text header = {0};
    hn_saver *s = NULL;
    const hn_st_entry **order = hn_calloc((size_t)n, sizeof(void *));
    if (order == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %" PRId64 " tensors to %s", n, path);
        goto done;
    }
    for (int64_t i = 0; i < n; i++) order[i] = &entries[i];
    HN_TRY_GOTO(st, check_and_sort(order, n, path), done);
    HN_TRY_GOTO(st, make_header(order, n, metadata, n_metadata, path, &header), done);
    HN_TRY_GOTO(st, hn_saver_open(path, &s), done);
    HN_TRY_GOTO(st, hn_saver_write(s, header.data, header.size), done);
    for (int64_t i = 0; i < n; i++) HN_TRY_GOTO(st, write_entry(s, order[i], path), done);
    st = hn_saver_commit(s, n_bytes, hex);
    s = NULL;

done:
    hn_saver_abort(s);
    hn_free(header.data);
    hn_free(order);
    return st;
}
