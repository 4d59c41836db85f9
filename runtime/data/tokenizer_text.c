/* Growing texts, UTF-8 and character classes. */
#include <string.h>
#include <utf8proc.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

void hn_text_free(hn_text *t)
{
    if (t == NULL) return;
    hn_free(t->s);
    *t = (hn_text){0};
}

void hn_tokens_free(hn_tokens *t)
{
    if (t == NULL) return;
    hn_free(t->id);
    *t = (hn_tokens){0};
}

hn_status hn_tokens_push(hn_tokens *t, int32_t id)
{
    HN_TRY(hn_grow(&t->id, &t->cap, t->n, sizeof *t->id));
    t->id[t->n++] = id;
    return HN_OK;
}

hn_status hn_text_append(hn_text *t, const void *bytes, size_t n)
{
    if (n > SIZE_MAX / 4 || t->n > SIZE_MAX / 4)
        return HN_FAIL(HN_ERR_MEMORY, "text of %zu and %zu bytes", t->n, n);
    const size_t needed = t->n + n + 1;
    if (needed > t->cap) {
        const size_t cap = needed < 64 ? 128 : needed * 2;
        char *s = hn_realloc(t->s, cap);
        if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a text", cap);
        t->s = s;
        t->cap = cap;
    }
    if (n > 0) memcpy(t->s + t->n, bytes, n);
    t->n += n;
    t->s[t->n] = '\0';
    return HN_OK;
}

size_t hn_utf8_put(int32_t c, char out[4])
{
    return (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)out);
}

hn_status hn_text_append_char(hn_text *t, int32_t codepoint)
{
    char bytes[4];
    return hn_text_append(t, bytes, hn_utf8_put(codepoint, bytes));
}

size_t hn_utf8_next(const char *s, size_t n, int32_t *codepoint)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) { /* the common case without a call */
        *codepoint = u[0];
        return 1;
    }
    const size_t most = n < 4 ? n : 4;
    const utf8proc_ssize_t got = utf8proc_iterate(u, (utf8proc_ssize_t)most, codepoint);
    return got > 0 ? (size_t)got : 0;
}

size_t hn_utf8_last(const char *s, size_t n, int32_t *codepoint)
{
    size_t len = 1;
    while (len < n && len < 4 && ((unsigned char)s[n - len] & 0xc0) == 0x80) len++;
    return hn_utf8_next(s + n - len, len, codepoint);
}

/* The range of the second byte is what keeps surrogates, long forms and numbers above 10FFFF out.
 */
bool hn_utf8_is_prefix(const unsigned char *s, size_t n)
{
    size_t len = 0;
    unsigned lo = 0x80, hi = 0xbf;
    if (n == 0) return true;
    if (s[0] >= 0xc2 && s[0] <= 0xdf) len = 2;
    if (s[0] >= 0xe0 && s[0] <= 0xef) len = 3;
    if (s[0] >= 0xf0 && s[0] <= 0xf4) len = 4;
    if (n >= len) return false;
    if (s[0] == 0xe0) lo = 0xa0;
    if (s[0] == 0xed) hi = 0x9f;
    if (s[0] == 0xf0) lo = 0x90;
    if (s[0] == 0xf4) hi = 0x8f;
    if (n > 1 && (s[1] < lo || s[1] > hi)) return false;
    return n < 3 || (s[2] & 0xc0) == 0x80;
}

bool hn_utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0, len; i < n; i += len) {
        int32_t c;
        len = hn_utf8_next(s + i, n - i, &c);
        if (len == 0) return false;
    }
    return true;
}

hn_status hn_utf8_repair(const char *s, size_t n, hn_text *out)
{
    size_t good = 0; /* start of a valid run that is not copied yet */
    for (size_t i = 0; i < n;) {
        int32_t c;
        const size_t len = hn_utf8_next(s + i, n - i, &c);
        i += len > 0 ? len : 1;
        if (len > 0) continue;
        HN_TRY(hn_text_append(out, s + good, i - 1 - good));
        HN_TRY(hn_text_append(out, "\xef\xbf\xbd", 3));
        good = i;
    }
    return hn_text_append(out, s + good, n - good);
}

bool hn_is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* Alphabetic is L, Nl, most marks and the circled and squared letters, which are symbols. */
static bool is_letter_symbol(int32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

bool hn_is_word(int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return c == 0x200c || c == 0x200d || is_letter_symbol(c);
    }
}

bool hn_is_numeric(int32_t c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool hn_is_mark(int32_t c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
}

bool hn_is_punctuation(int32_t c)
{
    if (c < 0x80)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
               (c >= 123 && c <= 126);
    const utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

int32_t hn_byte_char(unsigned char b)
{
    /* 33..126, 161..172 and 174..255 are themselves; the rest goes to U+0100 upwards in order. */
    if (b >= 33 && b <= 126) return b;
    if (b >= 161 && b != 173) return b;
    if (b <= 32) return 0x100 + b;
    if (b <= 160) return 0x100 + 33 + (b - 127);
    return 0x100 + 67; /* 173 */
}

int hn_char_byte(int32_t c)
{
    if (c >= 33 && c <= 255) return c <= 126 || (c >= 161 && c != 173) ? c : -1;
    if (c >= 0x100 && c <= 0x120) return c - 0x100;
    if (c >= 0x121 && c <= 0x142) return c - 0x121 + 127;
    return c == 0x143 ? 173 : -1;
}
