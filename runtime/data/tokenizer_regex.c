/* Regular expressions of tokenizer.json.
 *
 * The files are written for Oniguruma in Ruby's syntax. PCRE2 runs the same constructs with the
 * same meaning, except for a few, which translate() rewrites (\s, \w: other character sets; \v;
 * \uHHHH) or refuses by name (\h, \R, \b, \K, (?m), nested classes, x{n,m}+, verbs). */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

struct hn_regex {
    pcre2_code *code;
    char *source; /* for errors */
};

struct hn_regex_scratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

/* White_Space; PCRE2's \s has U+180E besides. */
#define SPACES                                                                         \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
    "\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES                                                                 \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"   \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}" \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* Alphabetic, M, Nd, Pc; PCRE2's \w is L, N and the underscore. */
#define WORDS                                                                   \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}" \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

static void *pcre_malloc(PCRE2_SIZE n, void *context)
{
    (void)context;
    return hn_malloc(n);
}

static void pcre_free(void *p, void *context)
{
    (void)context;
    hn_free(p);
}

typedef struct {
    const char *s;
    size_t n, i;
    bool in_class;
    const char *where;
    hn_text *out;
} reader;

static hn_status refuse(const reader *r, const char *what)
{
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: regex '%.60s': %s at byte %zu is not supported",
                   r->where, r->s, what, r->i);
}

static hn_status put(const reader *r, const char *s)
{
    return hn_text_append(r->out, s, strlen(s));
}

/* \uHHHH */
static hn_status put_unicode(reader *r)
{
    char hex[16] = "\\x{";
    for (size_t k = 0; k < 4; k++) {
        const char c = r->i + 2 + k < r->n ? r->s[r->i + 2 + k] : '\0';
        if (c == '\0' || strchr("0123456789abcdefABCDEF", c) == NULL)
            return refuse(r, "\\u without four hex digits");
        hex[3 + k] = c;
    }
    hex[7] = '}';
    r->i += 6;
    return put(r, hex);
}

/* {...} behind \p or \x. A name of more than two letters is a script; bare names of scripts mean
 * script extensions to PCRE2. */
static hn_status braces(reader *r, bool property)
{
    const char *s = r->s + r->i + 1, *end = memchr(s, '}', r->n - r->i - 1);
    if (end == NULL) return refuse(r, "{ without }");
    size_t n = (size_t)(end - s);
    HN_TRY(put(r, "{"));
    if (property && n > 0 && s[0] == '^') {
        HN_TRY(put(r, "^"));
        s++, n--;
    }
    if (property && n > 2 && memcmp(s, "Any", 3) != 0) HN_TRY(put(r, "sc:"));
    HN_TRY(hn_text_append(r->out, s, n + 1));
    r->i = (size_t)(end - r->s) + 1;
    return HN_OK;
}

/* An escape, r->i at the backslash; the next byte exists. */
static hn_status escape(reader *r)
{
    const char c = r->s[r->i + 1], two[3] = {'\\', c, '\0'};
    const bool in = r->in_class;
    const char *to = NULL;
    switch (c) {
    case 's': to = in ? SPACES : "[" SPACES "]"; break;
    case 'S': to = in ? NOT_SPACES : "[^" SPACES "]"; break;
    case 'w': to = in ? WORDS : "[" WORDS "]"; break;
    case 'W':
        if (in) return refuse(r, "\\W in a class");
        to = "[^" WORDS "]";
        break;
    case 'v': to = "\\x{b}"; break;
    case 'u': return put_unicode(r);
    case 'A':
    case 'z':
    case 'Z':
        if (in) return refuse(r, two);
        break;
    default: {
        const bool alnum =
            (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (alnum && strchr("dDpPrntfaex0", c) == NULL) return refuse(r, two);
        if ((unsigned char)c >= 0x80) return refuse(r, "a backslash before a non-ASCII character");
    }
    }
    r->i += 2;
    HN_TRY(put(r, to != NULL ? to : two));
    if ((c == 'p' || c == 'P' || c == 'x') && r->i < r->n && r->s[r->i] == '{')
        return braces(r, c != 'x');
    return HN_OK;
}

static hn_status group(const reader *r)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    if (r->i + 1 >= r->n || (r->s[r->i + 1] != '?' && r->s[r->i + 1] != '*')) return HN_OK;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        if (r->n - r->i >= strlen(known[k]) && memcmp(r->s + r->i, known[k], strlen(known[k])) == 0)
            return HN_OK;
    return refuse(r, "this group");
}

static hn_status translate(reader *r)
{
    while (r->i < r->n) {
        const char c = r->s[r->i], next = r->i + 1 < r->n ? r->s[r->i + 1] : '\0';
        if (c == '\\') {
            if (r->i + 1 >= r->n) return refuse(r, "a backslash at the end");
            HN_TRY(escape(r));
            continue;
        }
        if (r->in_class) {
            if (c == '[') return refuse(r, "a class inside a class");
            if (c == '&' && next == '&') return refuse(r, "&&");
            r->in_class = c != ']';
        } else if (c == '[') {
            r->in_class = true;
            if (next == '^') {
                HN_TRY(put(r, "["));
                r->i++;
            }
            if (r->i + 1 < r->n && r->s[r->i + 1] == ']')
                return refuse(r, "a class beginning with ]");
        } else if (c == '(') {
            HN_TRY(group(r));
        } else if (c == '}' && next == '+') {
            return refuse(r, "a + behind {}");
        } else if (c == '{' && next == ',') {
            return refuse(r, "{,n}");
        }
        HN_TRY(hn_text_append(r->out, r->s + r->i, 1));
        r->i++;
    }
    return HN_OK;
}

hn_status hn_regex_make(const char *pattern, size_t n, const char *where, hn_regex **out)
{
    hn_status st = HN_OK;
    hn_text text = {0};
    reader r = {.s = pattern, .n = n, .where = where, .out = &text};
    pcre2_general_context *general = NULL;
    pcre2_compile_context *context = NULL;
    int error = 0;
    PCRE2_SIZE at = 0;
    hn_regex *re = hn_calloc(1, sizeof *re);
    if (re == NULL || (re->source = hn_strndup(pattern, n)) == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s: a regex", where);
        goto done;
    }
    if (n == 0) {
        st = HN_FAIL(HN_ERR_UNSUPPORTED, "%s: an empty regex", where);
        goto done;
    }
    HN_TRY_GOTO(st, translate(&r), done);
    general = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
    context = general != NULL ? pcre2_compile_context_create(general) : NULL;
    if (context == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s: a regex", where);
        goto done;
    }
    (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    (void)pcre2_set_parens_nest_limit(context, 100);
    /* MULTILINE: in Ruby's syntax ^ and $ always match at line ends. */
    re->code = pcre2_compile((PCRE2_SPTR)text.s, text.n,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                             &error, &at, context);
    if (re->code == NULL) {
        unsigned char why[128] = "";
        (void)pcre2_get_error_message(error, why, sizeof why);
        st = HN_FAIL(error == PCRE2_ERROR_HEAP_FAILED ? HN_ERR_MEMORY : HN_ERR_FORMAT,
                     "%s: regex '%.60s': %s", where, re->source, (const char *)why);
        goto done;
    }
    /* Where the machine forbids generated code the interpreter gives the same matches. */
    (void)pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE);
    *out = re;
    re = NULL;

done:
    hn_regex_free(re);
    hn_text_free(&text);
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return st;
}

void hn_regex_free(hn_regex *re)
{
    if (re == NULL) return;
    pcre2_code_free(re->code);
    hn_free(re->source);
    hn_free(re);
}

hn_status hn_regex_scratch_make(hn_regex_scratch **out)
{
    hn_status st = HN_OK;
    hn_regex_scratch *s = hn_calloc(1, sizeof *s);
    pcre2_general_context *general = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
    if (s != NULL && general != NULL) {
        s->data = pcre2_match_data_create(1, general);
        s->context = pcre2_match_context_create(general);
    }
    if (s == NULL || s->data == NULL || s->context == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "scratch of a regex");
        goto done;
    }
    *out = s;
    s = NULL;

done:
    hn_regex_scratch_free(s);
    pcre2_general_context_free(general);
    return st;
}

void hn_regex_scratch_free(hn_regex_scratch *s)
{
    if (s == NULL) return;
    pcre2_match_data_free(s->data);
    pcre2_match_context_free(s->context);
    hn_free(s);
}

hn_status hn_regex_find(const hn_regex *re, hn_regex_scratch *scratch, const char *s, size_t n,
                        size_t from, bool *found, size_t *begin, size_t *end)
{
    /* Backtracking is bounded by the text, so that a bad pattern cannot hang us. */
    const uint64_t limit = 200000 + 64 * (uint64_t)n;
    (void)pcre2_set_match_limit(scratch->context,
                                limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    int rc = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, scratch->data,
                         scratch->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* generated code has a small stack of its own */
        rc = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         scratch->data, scratch->context);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return HN_OK;
    if (rc < 0) {
        unsigned char why[128] = "";
        (void)pcre2_get_error_message(rc, why, sizeof why);
        return HN_FAIL(rc == PCRE2_ERROR_NOMEMORY ? HN_ERR_MEMORY : HN_ERR_FORMAT,
                       "regex '%.60s' on %zu bytes of text: %s", re->source, n, (const char *)why);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(scratch->data);
    *begin = span[0];
    *end = span[1];
    return HN_OK;
}
