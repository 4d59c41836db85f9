#include <inttypes.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/data/data_util.h"
#include "runtime/data/source_impl.h"

enum { READ_STEP = 1 << 16 };

/* CR before LF disappears; a CR at the very end of a read waits in held_cr. */
static size_t drop_crs(hn_source *s, char *p, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\r' && (i + 1 == n || p[i + 1] == '\n')) {
            s->held_cr = i + 1 == n;
            continue;
        }
        p[kept++] = p[i];
    }
    return kept;
}

/* Appends at least one byte to the buffer, or sets at_end. */
static hn_status read_more(hn_source *s)
{
    if (s->at > 0) {
        memmove(s->buffer, s->buffer + s->at, s->n - s->at);
        s->n -= s->at;
        s->seen -= s->at;
        s->at = 0;
    }
    HN_TRY(hn_reserve(&s->buffer, &s->cap, (int64_t)s->n + READ_STEP + 1, 1));
    const size_t before = s->n;
    while (s->n == before && !s->at_end) {
        const size_t held = s->held_cr ? 1 : 0; /* the CR goes in front of what follows it */
        char *to = s->buffer + s->n;
        size_t got = 0;
        HN_TRY(hn_reader_read(s->reader, to + held, (size_t)s->cap - s->n - held, &got));
        s->at_end = got == 0;
        s->n_bytes += (int64_t)got;
        if (s->digest != NULL && got > 0 && EVP_DigestUpdate(s->digest, to + held, got) != 1)
            return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of the data failed");
        if (held) *to = '\r';
        s->held_cr = false;
        got += held;
        /* at the end of the file a waiting CR is a character like others */
        s->n += s->info.is_text && !s->at_end ? drop_crs(s, to, got) : got;
    }
    return HN_OK;
}

static const char *path_of(const hn_source *s) { return s->file[s->file_index].path; }

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Moves to the next character that is not white space; false at the end of the file. */
static hn_status skip_space(hn_source *s, bool *found)
{
    for (;;) {
        while (s->at < s->n && is_space(s->buffer[s->at])) s->line += s->buffer[s->at++] == '\n';
        s->seen = s->at;
        *found = s->at < s->n;
        if (*found || s->at_end) return HN_OK;
        HN_TRY(read_more(s));
    }
}

static hn_status begin_file(hn_source *s)
{
    const hn_data_file *f = &s->file[s->file_index];
    bool found = false;
    s->at_end = s->held_cr = false;
    s->first = true;
    s->array = HN_ARRAY_NO;
    s->line = 1;
    s->at = s->n = s->seen = 0;
    s->file_unit = s->unit;
    if (f->memory != NULL)
        HN_TRY(hn_reader_open_memory(f->memory, f->memory_bytes, f->path, &s->reader));
    else
        HN_TRY(hn_reader_open(f->path, &s->reader));
    if (f->kind != HN_FILE_JSON) return HN_OK;
    HN_TRY(skip_space(s, &found));
    if (found && s->buffer[s->at] == '[') {
        s->array = HN_ARRAY_FIRST;
        s->seen = ++s->at;
    }
    return HN_OK;
}

static hn_status end_file(hn_source *s)
{
    if (s->digest != NULL) { /* the running length keeps "ab","c" and "a","bc" apart */
        unsigned char length[8];
        for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)s->n_bytes >> 8 * i);
        if (EVP_DigestUpdate(s->digest, length, sizeof length) != 1)
            return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of the data failed");
    }
    hn_reader_close(s->reader);
    s->reader = NULL;
    s->file_index++;
    return HN_OK;
}

/* ---- rows ---- */

static hn_status row_too_long(const hn_source *s)
{
    return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": row above the limit of %" PRId64 " bytes",
                   path_of(s), s->line, s->limits.max_row_bytes);
}

/* Hands out the next line that is not blank; out->text stays NULL at the end of the file. */
static hn_status next_line(hn_source *s, hn_row *out)
{
    for (;;) {
        const char *end = s->n > s->seen ? memchr(s->buffer + s->seen, '\n', s->n - s->seen) : NULL;
        const size_t to = end ? (size_t)(end - s->buffer) : s->n;
        if ((int64_t)(to - s->at) > s->limits.max_row_bytes) return row_too_long(s);
        if (end == NULL && !s->at_end) {
            s->seen = s->n;
            HN_TRY(read_more(s));
            continue;
        }
        size_t from = s->at;
        while (from < to && is_space(s->buffer[from])) from++;
        out->line = s->line;
        s->at = s->seen = end ? to + 1 : to;
        s->line += end != NULL;
        if (from < to) {
            out->text = s->buffer + from;
            out->n_bytes = to - from;
            return HN_OK;
        }
        if (end == NULL) return HN_OK;
    }
}

/* Steps through the array's commas and its end, up to the first character of an element. */
static hn_status find_element(hn_source *s, bool *found)
{
    for (;;) {
        HN_TRY(skip_space(s, found));
        const char *path = path_of(s);
        if (!*found) {
            if (s->array == HN_ARRAY_CLOSED) return HN_OK;
            return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": the array does not end", path, s->line);
        }
        const char c = s->buffer[s->at];
        if (s->array == HN_ARRAY_CLOSED)
            return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": text behind the array", path, s->line);
        if (c == ']' && s->array != HN_ARRAY_ELEMENT)
            s->array = HN_ARRAY_CLOSED;
        else if (c == ',' && s->array == HN_ARRAY_COMMA)
            s->array = HN_ARRAY_ELEMENT;
        else if (s->array == HN_ARRAY_COMMA)
            return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": expected ',' or ']' in the array", path,
                           s->line);
        else if (c != '{')
            return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": element of the array is not an object",
                           path, s->line);
        else
            return HN_OK;
        s->at++;
    }
}

typedef struct {
    int64_t depth;
    bool in_string, escaped;
} element_scan;

/* Position behind an element that begins with '{'; SIZE_MAX when its end is not in [seen, n).
 * Brackets are only counted: whether they pair up is the JSON parser's business. */
static size_t element_end(const hn_source *s, element_scan *e)
{
    for (size_t i = s->seen; i < s->n; i++) {
        const char c = s->buffer[i];
        if (e->in_string) {
            e->in_string = c != '"' || e->escaped;
            e->escaped = c == '\\' && !e->escaped;
        } else if (c == '"') {
            e->in_string = true;
        } else if (c == '{' || c == '[') {
            e->depth++;
        } else if ((c == '}' || c == ']') && --e->depth <= 0) {
            return i + 1;
        }
    }
    return SIZE_MAX;
}

static int64_t count_lines(const char *p, size_t n)
{
    int64_t lines = 0;
    for (size_t i = 0; i < n; i++) lines += p[i] == '\n';
    return lines;
}

/* Hands out the next element of an array; out->text stays NULL at its end. */
static hn_status next_element(hn_source *s, hn_row *out)
{
    bool found = false;
    element_scan e = {0};
    size_t end;
    HN_TRY(find_element(s, &found));
    if (!found) return HN_OK;
    while ((end = element_end(s, &e)) == SIZE_MAX) {
        s->seen = s->n;
        if ((int64_t)(s->n - s->at) > s->limits.max_row_bytes) return row_too_long(s);
        if (s->at_end)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s:%" PRId64 ": the object that begins here does not end", path_of(s),
                           s->line);
        HN_TRY(read_more(s));
    }
    if ((int64_t)(end - s->at) > s->limits.max_row_bytes) return row_too_long(s);
    out->text = s->buffer + s->at;
    out->n_bytes = end - s->at;
    out->line = s->line;
    s->line += count_lines(out->text, out->n_bytes);
    s->at = s->seen = end;
    s->array = HN_ARRAY_COMMA;
    return HN_OK;
}

static hn_status next_row(hn_source *s, hn_row *out)
{
    while (s->file_index < s->n_files && s->unit < s->to) {
        hn_row row = {.first = true, .last = true, .ends = true, .path = path_of(s)};
        if (s->reader == NULL) HN_TRY(begin_file(s));
        if (s->array == HN_ARRAY_NO)
            HN_TRY(next_line(s, &row));
        else
            HN_TRY(next_element(s, &row));
        if (row.text == NULL) {
            HN_TRY(end_file(s));
        } else if (s->unit++ >= s->from) {
            *out = row;
            return HN_OK;
        }
    }
    *out = (hn_row){0};
    return HN_OK;
}

/* ---- text ---- */

/* Bytes from the front of p[0, n] that make a piece of at most n: up to the last line end, else
 * the last space, else the last whole character. */
static size_t piece_size(const char *p, size_t n)
{
    for (size_t i = n; i > 0; i--)
        if (p[i - 1] == '\n') return i;
    for (size_t i = n; i > 0; i--)
        if (p[i - 1] == ' ') return i;
    size_t i = n;
    while (n - i < 4 && ((unsigned char)p[i] & 0xc0) == 0x80) i--;
    return i;
}

/* Index of the first byte that is NUL or not UTF-8; n when all is well. */
static size_t bad_byte(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        utf8proc_int32_t c;
        utf8proc_ssize_t used = p[i] != '\0';
        if ((unsigned char)p[i] >= 0x80)
            used = utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &c);
        if (used <= 0) return i;
        i += (size_t)used;
    }
    return n;
}

/* Skips what lies before the selection, as far as the buffer goes. */
static void skip_to_selection(hn_source *s)
{
    const int64_t ahead = s->from - s->unit, here = (int64_t)(s->n - s->at);
    const int64_t skip = ahead < here ? ahead : here;
    if (skip <= 0) return;
    s->line += count_lines(s->buffer + s->at, (size_t)skip);
    s->at += (size_t)skip;
    s->seen = s->at;
    s->unit += skip;
}

/* Reads until the buffer shows a whole piece and that more follows, or the file's end. */
static hn_status fill_piece(hn_source *s)
{
    skip_to_selection(s);
    while (s->n - s->at <= (size_t)s->limits.piece_bytes && !s->at_end) {
        HN_TRY(read_more(s));
        skip_to_selection(s);
    }
    return HN_OK;
}

static hn_status take_piece(hn_source *s, hn_row *out)
{
    const char *text = s->buffer + s->at;
    const int64_t room = s->to - s->unit;
    size_t n = s->n - s->at;
    hn_row row = {.text = text, .path = path_of(s), .line = s->line, .first = s->first};
    row.ends = n <= (size_t)s->limits.piece_bytes; /* else fill_piece has seen more */
    if (!row.ends) n = piece_size(text, (size_t)s->limits.piece_bytes);
    if ((int64_t)n > room) row.ends = false;
    if ((int64_t)n > room) n = (size_t)room;
    row.last = row.ends || (int64_t)n == room;
    row.n_bytes = n;

    const size_t bad = bad_byte(text, n);
    if (bad < n)
        return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": byte 0x%02x is not UTF-8 text", path_of(s),
                       s->line + count_lines(text, bad), (unsigned)(unsigned char)text[bad]);
    s->line += count_lines(text, n);
    s->first = false;
    s->at += n;
    s->seen = s->at;
    s->unit += (int64_t)n;
    if (row.ends) HN_TRY(end_file(s));
    *out = row;
    return HN_OK;
}

static hn_status next_piece(hn_source *s, hn_row *out)
{
    while (s->file_index < s->n_files && s->unit < s->to) {
        if (s->reader == NULL) HN_TRY(begin_file(s));
        HN_TRY(fill_piece(s));
        const bool skipped_whole = s->at == s->n && s->unit > s->file_unit;
        if (!skipped_whole && s->unit >= s->from) return take_piece(s, out);
        HN_TRY(end_file(s));
    }
    *out = (hn_row){0};
    return HN_OK;
}

hn_status hn_source_next(hn_source *s, hn_row *out)
{
    hn_row row;
    HN_TRY(s->info.is_text ? next_piece(s, &row) : next_row(s, &row));
    const bool opening = s->digest != NULL;
    if (!opening && row.text == NULL && s->unit != s->to)
        return HN_FAIL(HN_ERR_FORMAT, "%s: the data changed while it was read", s->file[0].path);
    *out = row;
    return HN_OK;
}
