/* The run record: YAML written by hand, so that it carries the table's headings. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/options.h"

typedef struct {
    char *data;
    size_t length, cap;
} text_buffer;

static hn_status put(text_buffer *b, const char *s, size_t n)
{
    if (b->cap - b->length <= n) {
        const size_t cap = 2 * (b->length + n) + 256;
        char *const grown = hn_realloc(b->data, cap);
        if (grown == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for YAML", cap);
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->length, s, n);
    b->length += n;
    b->data[b->length] = '\0';
    return HN_OK;
}

static hn_status put_text(text_buffer *b, const char *s) { return put(b, s, strlen(s)); }

/* Bytes of the UTF-8 character at s that YAML may hold as it is; 0: none begins here. */
static size_t utf8_length(const unsigned char *s)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (s[0] < 0x80) return 1;
    const size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    uint32_t c = s[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0; /* also stops at the final zero */
        c = c << 6 | (s[i] & 0x3fu);
    }
    const bool surrogate = c >= 0xd800 && c <= 0xdfff;
    return c < smallest[n] || surrogate || c > 0x10ffff ? 0 : n;
}

/* Characters that a double-quoted YAML scalar cannot hold as they are: C1 controls, the Unicode
 * line ends, the byte order mark and the two non-characters. */
static bool needs_escape(const unsigned char *s, size_t n)
{
    if (n == 1) return *s < 0x20 || *s == '"' || *s == '\\' || *s == 0x7f;
    if (n == 2) return s[0] == 0xc2 && s[1] < 0xa0;
    if (n == 4) return false;
    return (s[0] == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9)) ||
           (s[0] == 0xef && s[1] == 0xbb && s[2] == 0xbf) ||
           (s[0] == 0xef && s[1] == 0xbf && s[2] >= 0xbe);
}

static hn_status put_quoted(text_buffer *b, const char *name, const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text, *const end = s + length;
    HN_TRY(put_text(b, "\""));
    while (s < end) {
        char escaped[8];
        const size_t n = utf8_length(s);
        if (n == 0)
            return HN_FAIL(HN_ERR_ARG, "%s: byte %zu of '%.80s' is not UTF-8; YAML cannot hold it",
                           name, (size_t)(s - (const unsigned char *)text) + 1, text);
        if (!needs_escape(s, n)) {
            HN_TRY(put(b, (const char *)s, n));
        } else {
            uint32_t c = n == 1 ? s[0] : n == 2 ? s[0] & 0x1fu : s[0] & 0x0fu;
            for (size_t i = 1; i < n; i++) c = c << 6 | (s[i] & 0x3fu);
            snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)c);
            HN_TRY(put_text(b, escaped));
        }
        s += n;
    }
    return put_text(b, "\"");
}

static hn_status put_list(text_buffer *b, const char *name, const char *joined)
{
    HN_TRY(put_text(b, "["));
    for (const char *s = joined; s != NULL && *s != '\0';) {
        const size_t n = strcspn(s, ",");
        HN_TRY(put_quoted(b, name, s, n));
        s += n;
        if (*s == ',') {
            HN_TRY(put_text(b, ", "));
            s++;
        }
    }
    return put_text(b, "]");
}

/* The shortest of 15 to 17 digits that reads back as the same double. */
static hn_status put_real(text_buffer *b, const char *name, double v)
{
    char digits[40];
    if (!isfinite(v)) return HN_FAIL(HN_ERR_ARG, "%s: %g is not finite", name, v);
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, v);
        const double back = strtod(digits, NULL);
        if (memcmp(&back, &v, sizeof v) == 0) break;
    }
    return put_text(b, digits);
}

static hn_status put_value(text_buffer *b, const hn_option *o, const void *config)
{
    const char *const field = (const char *)config + o->offset, *text = NULL;
    hn_text_list list = {NULL};
    int64_t whole = 0;
    double real = 0;
    bool flag = false;
    char digits[24];
    switch (o->kind) {
    case HN_OPT_TEXT:
        memcpy(&text, field, sizeof text);
        return put_quoted(b, o->name, text, strlen(text));
    case HN_OPT_LIST: memcpy(&list, field, sizeof list); return put_list(b, o->name, list.joined);
    case HN_OPT_INT:
        memcpy(&whole, field, sizeof whole);
        snprintf(digits, sizeof digits, "%lld", (long long)whole);
        return put_text(b, digits);
    case HN_OPT_REAL: memcpy(&real, field, sizeof real); return put_real(b, o->name, real);
    case HN_OPT_FLAG: memcpy(&flag, field, sizeof flag); return put_text(b, flag ? "on" : "off");
    case HN_OPT_HEADING: break;
    }
    return HN_OK;
}

hn_status hn_options_yaml(const hn_option *table, size_t n, const void *config, char **text)
{
    hn_status st = HN_OK;
    text_buffer b = {0};
    HN_TRY_GOTO(st, put_text(&b, ""), done);
    for (size_t i = 0; i < n; i++) {
        const hn_option *const o = &table[i];
        const bool heading = o->kind == HN_OPT_HEADING;
        HN_TRY_GOTO(st, put_text(&b, heading ? "# " : o->name), done);
        if (heading)
            HN_TRY_GOTO(st, put_text(&b, o->help), done);
        else
            HN_TRY_GOTO(st, put_text(&b, ": "), done);
        HN_TRY_GOTO(st, put_value(&b, o, config), done);
        HN_TRY_GOTO(st, put_text(&b, "\n"), done);
    }
    *text = b.data;
    b.data = NULL;

done:
    hn_free(b.data);
    return st;
}
