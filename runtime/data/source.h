/* source.h - rows of text out of data files.
 *
 * Files, each also as .gz:
 *   .txt            one document a file; CRLF becomes LF. A document above `piece_bytes` is
 *                   handed out in pieces, cut behind line ends.
 *   .jsonl .ndjson  one JSON value a line; blank lines are skipped, CRLF is accepted.
 *   .json           an array: its elements are the rows; or lines, when the first character
 *                   is not '['.
 * A byte order mark is skipped. A set is text or rows, not both.
 *
 * Opening reads everything once: it counts units (bytes of text after CRLF conversion, or
 * rows), takes the digest, and finds the faults that need no JSON parser: an array that is
 * not one, a row above `max_row_bytes`, text that is not UTF-8 or holds a NUL. Memory
 * is bounded by the longest row or piece.
 *
 * Errors name file:line. HN_ERR_IO when a file cannot be read, HN_ERR_FORMAT for what is in
 * it, HN_ERR_ARG for the list of files.
 */
#ifndef HN_SOURCE_H
#define HN_SOURCE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/save.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_SOURCE_PIECE_BYTES = 4 << 20,   /* 4 MiB */
    HN_SOURCE_MAX_ROW_BYTES = 64 << 20 /* 64 MiB */
};

typedef struct {
    int64_t piece_bytes;   /* 0: HN_SOURCE_PIECE_BYTES; at least 64 */
    int64_t max_row_bytes; /* 0: HN_SOURCE_MAX_ROW_BYTES; at least 64 */
} hn_source_limits;

typedef struct {
    const char *text; /* not zero-terminated; NULL behind the last row; valid until the next call */
    size_t n_bytes;
    const char *path; /* of the file */
    int64_t line;     /* of the first character, from 1 */
    bool first, last; /* piece of its document; rows: both true */
    bool ends;        /* with `last`: the document ends here, it was not cut for a split */
} hn_row;

typedef struct {
    bool is_text;               /* documents, not rows */
    int64_t n_files, n_units;   /* units: bytes of text, or rows */
    int64_t n_bytes;            /* decompressed */
    char digest[HN_SHA256_HEX]; /* of the decompressed bytes, file by file */
} hn_source_info;

typedef struct hn_source hn_source;

/* list     one path, or several separated by commas (a path with commas that exists is one)
 * limits   NULL: the defaults */
HN_NODISCARD hn_status hn_source_open(const char *list, const hn_source_limits *limits,
                                      hn_source **out);
/* The same for one file in memory that stays the caller's; the ending of `name` says its kind. */
HN_NODISCARD hn_status hn_source_open_memory(const char *name, const void *data, size_t n_bytes,
                                             const hn_source_limits *limits, hn_source **out);
void hn_source_close(hn_source *s); /* accepts NULL */

const hn_source_info *hn_source_about(const hn_source *s);
const char *hn_source_path(const hn_source *s, int64_t i); /* i in [0, n_files) */

/* Where the last `share` (0..1, both excluded) of the units begins: for text the end of the line
 * that holds that byte, counted over all documents; for rows a whole number.
 * Errors  HN_ERR_FORMAT when one of the two parts would be empty */
HN_NODISCARD hn_status hn_source_split(hn_source *s, double share, int64_t *cut);

/* From now on hn_source_next gives units [from, to) from the start. */
HN_NODISCARD hn_status hn_source_select(hn_source *s, int64_t from, int64_t to);
int64_t hn_source_selected(const hn_source *s);        /* units of the selection */
HN_NODISCARD hn_status hn_source_rewind(hn_source *s); /* to the start of the selection */
/* Errors  HN_ERR_FORMAT also when the files are not what they were at open */
HN_NODISCARD hn_status hn_source_next(hn_source *s, hn_row *out);

/* Looks into a folder for one file <name><ending>, name out of a list that ends with NULL, ending
 * one of .jsonl .json .txt and those with .gz. *path is the caller's (hn_free), NULL if none.
 * Errors  HN_ERR_ARG when several fit */
HN_NODISCARD hn_status hn_source_find(const char *folder, const char *const *names, char **path);

#ifdef __cplusplus
}
#endif
#endif
