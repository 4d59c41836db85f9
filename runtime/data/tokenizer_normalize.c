/* Normalizer steps of tokenizer.json. Each reads one text and writes another. */
#include <string.h>
#include <utf8proc.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

hn_status hn_pattern_find(const hn_tok_pattern *p, hn_regex_scratch *scratch, const char *s,
                          size_t n, size_t from, bool *found, size_t *begin, size_t *end)
{
    if (p->re != NULL) return hn_regex_find(p->re, scratch, s, n, from, found, begin, end);
    *found = false;
    for (size_t i = from; i + p->n <= n; i++) {
        const char *hit = memchr(s + i, p->literal[0], n - p->n - i + 1);
        if (hit == NULL) return HN_OK;
        i = (size_t)(hit - s);
        if (memcmp(hit, p->literal, p->n) != 0) continue;
        *found = true;
        *begin = i;
        *end = i + p->n;
        return HN_OK;
    }
    return HN_OK;
}

hn_status hn_pattern_replace(const hn_tok_pattern *p, hn_regex_scratch *scratch, const char *s,
                             size_t n, const char *to, size_t n_to, hn_text *out)
{
    size_t done = 0, from = 0;
    while (from <= n) {
        bool found;
        size_t begin, end;
        HN_TRY(hn_pattern_find(p, scratch, s, n, from, &found, &begin, &end));
        if (!found) break;
        HN_TRY(hn_text_append(out, s + done, begin - done));
        HN_TRY(hn_text_append(out, to, n_to));
        done = from = end;
        if (end > begin) continue;
        int32_t c; /* an empty match: go on behind the next character */
        from += end < n ? hn_utf8_next(s + end, n - end, &c) : 1;
    }
    return hn_text_append(out, s + done, n - done);
}

void hn_pattern_free(hn_tok_pattern *p)
{
    hn_regex_free(p->re);
    hn_free(p->literal);
    *p = (hn_tok_pattern){0};
}

static hn_status push_chars(hn_tok_work *w, int64_t n)
{
    while (w->cap_chars < n)
        HN_TRY(hn_grow(&w->chars, &w->cap_chars, w->cap_chars, sizeof *w->chars));
    return HN_OK;
}

static int combining_class(int32_t c)
{
    return c < 0x300 ? 0 : (int)utf8proc_get_property(c)->combining_class;
}

/* Canonical order of chars[0..n), all of a class above 0: a stable sort by class, by counting
 * (utf8proc's own is quadratic in the length of a run). */
static hn_status order_marks(hn_tok_work *w, int32_t *chars, int64_t n)
{
    int64_t start[257] = {0};
    for (int64_t i = 0; i < n; i++) start[combining_class(chars[i]) + 1]++;
    for (int k = 0; k < 256; k++) start[k + 1] += start[k];
    while (w->cap_sorted < n)
        HN_TRY(hn_grow(&w->sorted, &w->cap_sorted, w->cap_sorted, sizeof *w->sorted));
    for (int64_t i = 0; i < n; i++) w->sorted[start[combining_class(chars[i])]++] = chars[i];
    memcpy(chars, w->sorted, (size_t)n * sizeof *chars);
    return HN_OK;
}

static hn_status unicode_form(hn_tok_work *w, hn_tok_norm_kind kind, const char *s, size_t n,
                              hn_text *out)
{
    const bool compat = kind == HN_NORM_NFKC || kind == HN_NORM_NFKD;
    const bool compose = kind == HN_NORM_NFC || kind == HN_NORM_NFKC;
    const utf8proc_option_t options =
        UTF8PROC_STABLE | (compat ? UTF8PROC_COMPAT : 0) | (int)UTF8PROC_DECOMPOSE;
    int64_t used = 0, run = 0; /* run: start of the marks at the end */
    for (size_t i = 0, len; i < n; i += len) {
        int32_t c;
        int boundary = 0;
        len = hn_utf8_next(s + i, n - i, &c);
        HN_TRY(push_chars(w, used + 32)); /* no character has more than 18 */
        const int64_t got = utf8proc_decompose_char(c, w->chars + used, 32, options, &boundary);
        if (got < 0 || got > 32) return HN_FAIL(HN_ERR_FORMAT, "U+%04X cannot be normalised", c);
        for (int64_t k = used; k < used + got; k++) {
            if (combining_class(w->chars[k]) > 0) continue;
            if (k - run > 1) HN_TRY(order_marks(w, w->chars + run, k - run));
            run = k + 1;
        }
        used += got;
    }
    if (used - run > 1) HN_TRY(order_marks(w, w->chars + run, used - run));
    if (compose && used > 0)
        used = utf8proc_normalize_utf32(w->chars, used, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (used < 0) return HN_FAIL(HN_ERR_FORMAT, "%zu bytes cannot be normalised", n);
    for (int64_t i = 0; i < used; i++) HN_TRY(hn_text_append_char(out, w->chars[i]));
    return HN_OK;
}

static hn_status lowercase(const char *s, size_t n, hn_text *out)
{
    for (size_t i = 0, len; i < n; i += len) {
        int32_t c;
        len = hn_utf8_next(s + i, n - i, &c);
        if (c == 0x130) /* the one character whose lower case is two */
            HN_TRY(hn_text_append(out, "i\xcc\x87", 3));
        else
            HN_TRY(hn_text_append_char(out, utf8proc_tolower(c)));
    }
    return HN_OK;
}

static hn_status strip(const hn_tok_norm *step, const char *s, size_t n, hn_text *out, bool *cut)
{
    size_t from = 0, to = n;
    int32_t c;
    while (step->left && from < n) {
        const size_t len = hn_utf8_next(s + from, n - from, &c);
        if (!hn_is_space(c)) break;
        from += len;
    }
    while (step->right && to > from) {
        const size_t len = hn_utf8_last(s, to, &c);
        if (!hn_is_space(c)) break;
        to -= len;
    }
    *cut = *cut || from > 0;
    return hn_text_append(out, s + from, to - from);
}

static hn_status strip_accents(const char *s, size_t n, hn_text *out)
{
    for (size_t i = 0, len; i < n; i += len) {
        int32_t c;
        len = hn_utf8_next(s + i, n - i, &c);
        if (!hn_is_mark(c)) HN_TRY(hn_text_append(out, s + i, len));
    }
    return HN_OK;
}

static bool is_ascii(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0x80) return false;
    return true;
}

static hn_status run_step(const hn_tokenizer *t, const hn_tok_norm *step, hn_tok_work *w,
                          const char *s, size_t n, hn_text *out, bool *cut)
{
    switch (step->kind) {
    case HN_NORM_NFC:
    case HN_NORM_NFD:
    case HN_NORM_NFKC:
    case HN_NORM_NFKD:
        return is_ascii(s, n) ? hn_text_append(out, s, n) : unicode_form(w, step->kind, s, n, out);
    case HN_NORM_LOWERCASE: return lowercase(s, n, out);
    case HN_NORM_STRIP: return strip(step, s, n, out, cut);
    case HN_NORM_STRIP_ACCENTS: return strip_accents(s, n, out);
    case HN_NORM_REPLACE:
        return hn_pattern_replace(&step->find, w->regex, s, n, step->text, step->n, out);
    case HN_NORM_PREPEND:
        if (n > 0) HN_TRY(hn_text_append(out, step->text, step->n));
        return hn_text_append(out, s, n);
    case HN_NORM_SENTENCEPIECE: return hn_sp_normalize(&t->sp, s, n, out);
    }
    return HN_FAIL(HN_ERR_ARG, "normalizer %d", (int)step->kind);
}

hn_status hn_normalize(const hn_tokenizer *t, hn_tok_work *w, const char *in, size_t n,
                       const char **out, size_t *n_out, bool *cut)
{
    *cut = false;
    for (int64_t i = 0; i < t->n_norm; i++) {
        hn_text *to = &w->norm[i % 2];
        to->n = 0;
        HN_TRY(run_step(t, &t->norm[i], w, in, n, to, cut));
        if (to->n > HN_TOK_MAX_TEXT)
            return HN_FAIL(HN_ERR_ARG, "normalised text has more than %d bytes", HN_TOK_MAX_TEXT);
        in = to->s;
        n = to->n;
    }
    *out = in;
    *n_out = n;
    return HN_OK;
}
