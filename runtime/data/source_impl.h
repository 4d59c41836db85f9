/* source_impl.h - private to source.c (files, digest, split) and source_rows.c (reading). */
#ifndef HN_SOURCE_IMPL_H
#define HN_SOURCE_IMPL_H
#include <openssl/evp.h>

#include "runtime/data/source.h"
#include "runtime/data/source_reader.h"

typedef enum {
    HN_FILE_TEXT,
    HN_FILE_LINES,
    HN_FILE_JSON, /* an array, or lines */
    HN_FILE_OTHER
} hn_file_kind;

typedef struct {
    char *path;
    const void *memory; /* NULL: the file at path */
    size_t memory_bytes;
    hn_file_kind kind;
} hn_data_file;

/* What may come next in a JSON array; NO: the file is not an array. */
typedef enum {
    HN_ARRAY_NO,
    HN_ARRAY_FIRST, /* an element or the end */
    HN_ARRAY_ELEMENT,
    HN_ARRAY_COMMA, /* a comma or the end */
    HN_ARRAY_CLOSED
} hn_array_state;

struct hn_source {
    hn_data_file *file;
    int64_t n_files;
    hn_source_limits limits;
    hn_source_info info;
    EVP_MD_CTX *digest; /* only while opening */

    int64_t from, to, unit; /* the selection; the next unit to be read */
    int64_t file_index;     /* n_files: behind the last */
    int64_t file_unit;      /* first unit of this file */
    hn_reader *reader;      /* of file_index; NULL: not begun */
    bool at_end;            /* the reader has given everything */
    bool held_cr;           /* text: a CR at the end of a read waits for what follows it */
    bool first;             /* text: the next piece starts a document */
    hn_array_state array;
    int64_t line, n_bytes;

    /* One buffer slides over the file: [at, n) is read and not yet handed out; [at, seen) has been
     * searched for the row's end, so a row that arrives in many reads is searched once. */
    char *buffer;
    int64_t cap;
    size_t at, n, seen;
};

#endif
