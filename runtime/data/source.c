#define _POSIX_C_SOURCE 200809L
#include "runtime/data/source.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/alloc.h"
#include "runtime/data/data_util.h"
#include "runtime/data/source_impl.h"

static hn_file_kind kind_of(const char *path)
{
    static const struct {
        const char *ending;
        hn_file_kind kind;
    } known[] = {{".txt", HN_FILE_TEXT},
                 {".text", HN_FILE_TEXT},
                 {".jsonl", HN_FILE_LINES},
                 {".ndjson", HN_FILE_LINES},
                 {".json", HN_FILE_JSON}};
    size_t n = strlen(path);
    if (n > 3 && strcmp(path + n - 3, ".gz") == 0) n -= 3;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const size_t m = strlen(known[i].ending);
        if (n > m && memcmp(path + n - m, known[i].ending, m) == 0) return known[i].kind;
    }
    return HN_FILE_OTHER;
}

/* Takes over `path`. */
static hn_status add_file(hn_source *s, int64_t *cap, char *path)
{
    hn_status st = HN_OK;
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the list of data files");
    const hn_file_kind kind = kind_of(path);
    if (kind == HN_FILE_OTHER)
        st = HN_FAIL(HN_ERR_ARG,
                     "%s: unknown kind of data file; known: .jsonl .ndjson .json .txt, each also "
                     "with .gz",
                     path);
    else if (s->n_files > 0 && (kind == HN_FILE_TEXT) != s->info.is_text)
        st = HN_FAIL(HN_ERR_ARG, "%s: plain text and rows (%s) cannot be mixed", path,
                     s->file[0].path);
    else
        st = hn_reserve(&s->file, cap, s->n_files + 1, sizeof *s->file);
    if (st != HN_OK) {
        hn_free(path);
        return st;
    }
    s->info.is_text = kind == HN_FILE_TEXT;
    s->file[s->n_files++] = (hn_data_file){.path = path, .kind = kind};
    return HN_OK;
}

static hn_status add_list(hn_source *s, const char *list)
{
    struct stat info;
    int64_t cap = 0;
    if (strchr(list, ',') == NULL || stat(list, &info) == 0)
        return add_file(s, &cap, hn_strdup(list));
    for (const char *at = list;;) {
        const size_t n = strcspn(at, ",");
        if (n == 0) return HN_FAIL(HN_ERR_ARG, "'%s': an empty name between commas", list);
        HN_TRY(add_file(s, &cap, hn_strndup(at, n)));
        if (at[n] == '\0') return HN_OK;
        at += n + 1;
    }
}

hn_status hn_source_find(const char *folder, const char *const *names, char **path)
{
    static const char *const endings[] = {".jsonl",    ".json",    ".txt",
                                          ".jsonl.gz", ".json.gz", ".txt.gz"};
    hn_status st = HN_OK;
    char *found = NULL;
    for (; *names != NULL && st == HN_OK; names++) {
        for (size_t i = 0; i < sizeof endings / sizeof *endings && st == HN_OK; i++) {
            struct stat info;
            char *p = hn_asprintf("%s/%s%s", folder, *names, endings[i]);
            if (p == NULL)
                st = HN_FAIL(HN_ERR_MEMORY, "no memory to look into %s", folder);
            else if (stat(p, &info) == 0 && found != NULL)
                st = HN_FAIL(HN_ERR_ARG, "%s and %s are both there: name the one to use", found, p);
            else if (stat(p, &info) == 0) {
                found = p;
                continue;
            }
            hn_free(p);
        }
    }
    if (st == HN_OK)
        *path = found;
    else
        hn_free(found);
    return st;
}

static hn_status source_new(const hn_source_limits *limits, hn_source **out)
{
    hn_source_limits l = limits ? *limits : (hn_source_limits){0};
    if (l.piece_bytes == 0) l.piece_bytes = HN_SOURCE_PIECE_BYTES;
    if (l.max_row_bytes == 0) l.max_row_bytes = HN_SOURCE_MAX_ROW_BYTES;
    if (l.piece_bytes < 64 || l.max_row_bytes < 64 || l.piece_bytes > INT32_MAX ||
        l.max_row_bytes > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG,
                       "piece_bytes %" PRId64 " and max_row_bytes %" PRId64 " must be 64..%d",
                       l.piece_bytes, l.max_row_bytes, INT32_MAX);
    hn_source *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a data source", sizeof *s);
    s->limits = l;
    *out = s;
    return HN_OK;
}

void hn_source_close(hn_source *s)
{
    if (s == NULL) return;
    for (int64_t i = 0; i < s->n_files; i++) hn_free(s->file[i].path);
    hn_free(s->file);
    hn_free(s->buffer);
    hn_reader_close(s->reader);
    EVP_MD_CTX_free(s->digest);
    hn_free(s);
}

/* Reads everything once. */
static hn_status scan(hn_source *s)
{
    unsigned char digest[32];
    hn_row row;
    s->digest = EVP_MD_CTX_new();
    if (s->digest == NULL || EVP_DigestInit_ex(s->digest, EVP_sha256(), NULL) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for SHA-256");
    s->to = INT64_MAX;
    do HN_TRY(hn_source_next(s, &row));
    while (row.text != NULL);
    if (EVP_DigestFinal_ex(s->digest, digest, NULL) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of the data failed");
    EVP_MD_CTX_free(s->digest);
    s->digest = NULL;
    for (int i = 0; i < 32; i++)
        snprintf(s->info.digest + (ptrdiff_t)2 * i, 3, "%02x", (unsigned)digest[i]);
    s->info.n_files = s->n_files;
    s->info.n_units = s->unit;
    s->info.n_bytes = s->n_bytes;
    return hn_source_select(s, 0, s->info.n_units);
}

hn_status hn_source_open(const char *list, const hn_source_limits *limits, hn_source **out)
{
    hn_source *s = NULL;
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, source_new(limits, &s), done);
    HN_TRY_GOTO(st, add_list(s, list), done);
    HN_TRY_GOTO(st, scan(s), done);
    *out = s;
    s = NULL;

done:
    hn_source_close(s);
    return st;
}

hn_status hn_source_open_memory(const char *name, const void *data, size_t n_bytes,
                                const hn_source_limits *limits, hn_source **out)
{
    hn_source *s = NULL;
    hn_status st = HN_OK;
    int64_t cap = 0;
    HN_TRY_GOTO(st, source_new(limits, &s), done);
    HN_TRY_GOTO(st, add_file(s, &cap, hn_strdup(name)), done);
    s->file[0].memory = n_bytes ? data : "";
    s->file[0].memory_bytes = n_bytes;
    HN_TRY_GOTO(st, scan(s), done);
    *out = s;
    s = NULL;

done:
    hn_source_close(s);
    return st;
}

const hn_source_info *hn_source_about(const hn_source *s) { return &s->info; }

const char *hn_source_path(const hn_source *s, int64_t i) { return s->file[i].path; }

hn_status hn_source_select(hn_source *s, int64_t from, int64_t to)
{
    if (from < 0 || to < from || to > s->info.n_units)
        return HN_FAIL(HN_ERR_ARG, "units %" PRId64 "..%" PRId64 " of %" PRId64, from, to,
                       s->info.n_units);
    hn_reader_close(s->reader);
    s->reader = NULL;
    s->file_index = s->unit = s->n_bytes = 0;
    s->from = from;
    s->to = to;
    return HN_OK;
}

int64_t hn_source_selected(const hn_source *s) { return s->to - s->from; }

hn_status hn_source_rewind(hn_source *s) { return hn_source_select(s, s->from, s->to); }

/* The first place at or behind `target` where a line or a document ends. */
static hn_status line_end(hn_source *s, int64_t target, int64_t *cut)
{
    HN_TRY(hn_source_select(s, 0, s->info.n_units));
    for (int64_t begin = 0;;) {
        hn_row row;
        HN_TRY(hn_source_next(s, &row));
        if (row.text == NULL) break;
        const int64_t end = begin + (int64_t)row.n_bytes;
        for (int64_t c = target > begin ? target : begin + 1; c <= end; c++)
            if (row.text[c - begin - 1] == '\n' || (row.last && c == end)) {
                *cut = c;
                return HN_OK;
            }
        begin = end;
    }
    *cut = s->info.n_units;
    return HN_OK;
}

hn_status hn_source_split(hn_source *s, double share, int64_t *cut)
{
    if (!(share > 0 && share < 1))
        return HN_FAIL(HN_ERR_ARG, "held-out share %g must lie between 0 and 1", share);
    const int64_t n = s->info.n_units;
    int64_t c = n - (int64_t)floor((double)n * share + 0.5);
    if (s->info.is_text && c > 0) HN_TRY(line_end(s, c, &c));
    if (c <= 0 || c >= n)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %" PRId64 " %s cannot be split so that the last %g %% are held out and "
                       "neither part is empty",
                       s->file[0].path, n, s->info.is_text ? "bytes of text" : "rows", share * 100);
    *cut = c;
    return HN_OK;
}
