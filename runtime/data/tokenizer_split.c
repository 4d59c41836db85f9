/* Pre-tokenizer steps: from one text to the pieces the model sees.
 *
 * A step reads the pieces (spans of one text) that the step before it left and writes the next
 * list. Steps that change characters write a new text as well. Empty pieces vanish. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

/* "'s|'t|...": GPT-2's own pattern. */
const char hn_tok_gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

hn_status hn_segs_push(hn_tok_segs *s, hn_tok_seg seg)
{
    HN_TRY(hn_grow(&s->v, &s->cap, s->n, sizeof *s->v));
    s->v[s->n++] = seg;
    return HN_OK;
}

static hn_status push_if(hn_tok_segs *out, size_t at, size_t n, bool first)
{
    if (n == 0) return HN_OK;
    return hn_segs_push(out, (hn_tok_seg){.at = at, .n = n, .first = first});
}

/* The whole of a piece as matches and what lies between them, in w->found. */
static hn_status find_pattern(const hn_tok_split *step, hn_tok_work *w, const char *text,
                              hn_tok_seg seg)
{
    const char *s = text + seg.at;
    size_t done = 0, from = 0;
    while (from <= seg.n) {
        bool found;
        size_t begin, end;
        HN_TRY(hn_pattern_find(&step->find, w->regex, s, seg.n, from, &found, &begin, &end));
        if (!found) break;
        if (begin > done)
            HN_TRY(hn_segs_push(&w->found, (hn_tok_seg){done, begin - done, false, false}));
        HN_TRY(hn_segs_push(&w->found, (hn_tok_seg){begin, end - begin, true, false}));
        done = from = end;
        if (end > begin) continue;
        int32_t c; /* an empty match: go on behind the next character */
        from += end < seg.n ? hn_utf8_next(s + end, seg.n - end, &c) : 1;
    }
    if (done < seg.n)
        HN_TRY(hn_segs_push(&w->found, (hn_tok_seg){done, seg.n - done, false, false}));
    for (int64_t i = 0; step->invert && i < w->found.n; i++)
        w->found.v[i].match = !w->found.v[i].match;
    return HN_OK;
}

static hn_status find_chars(const hn_tok_split *step, hn_tok_work *w, const char *text,
                            hn_tok_seg seg)
{
    const char *s = text + seg.at;
    size_t done = 0;
    for (size_t i = 0, len; i < seg.n; i += len) {
        int32_t c;
        len = hn_utf8_next(s + i, seg.n - i, &c);
        if (!step->is(c)) continue;
        if (i > done) HN_TRY(hn_segs_push(&w->found, (hn_tok_seg){done, i - done, false, false}));
        HN_TRY(hn_segs_push(&w->found, (hn_tok_seg){i, len, true, false}));
        done = i + len;
    }
    if (done < seg.n)
        HN_TRY(hn_segs_push(&w->found, (hn_tok_seg){done, seg.n - done, false, false}));
    return HN_OK;
}

/* Runs of word characters and runs of other visible ones are matches. */
static hn_status find_words(hn_tok_work *w, const char *text, hn_tok_seg seg)
{
    const char *s = text + seg.at;
    size_t done = 0;
    int last = -1;
    for (size_t i = 0, len; i < seg.n; i += len) {
        int32_t c;
        len = hn_utf8_next(s + i, seg.n - i, &c);
        const int kind = hn_is_word(c) ? 2 : hn_is_space(c) ? 0 : 1;
        if (i > 0 && kind != last) {
            HN_TRY(hn_segs_push(&w->found, (hn_tok_seg){done, i - done, last > 0, false}));
            done = i;
        }
        last = kind;
    }
    return hn_segs_push(&w->found, (hn_tok_seg){done, seg.n - done, last > 0, false});
}

/* Joins or drops what was found in one piece. */
static hn_status keep(const hn_tok_work *w, hn_tok_keep how, hn_tok_seg seg, hn_tok_segs *out)
{
    const hn_tok_seg *f = w->found.v;
    const int64_t n = w->found.n;
    for (int64_t i = 0, end; i < n; i = end) {
        end = i + 1; /* found[i..end) becomes one piece */
        if (how == HN_KEEP_CONTIGUOUS)
            while (end < n && f[end].match == f[i].match) end++;
        if (how == HN_KEEP_WITH_PREVIOUS && !f[i].match && end < n && f[end].match) end++;
        if (how == HN_KEEP_WITH_NEXT && f[i].match && end < n && !f[end].match) end++;
        if (how == HN_KEEP_REMOVED && f[i].match) continue;
        const size_t stop = f[end - 1].at + f[end - 1].n;
        HN_TRY(push_if(out, seg.at + f[i].at, stop - f[i].at, seg.first && f[i].at == 0));
    }
    return HN_OK;
}

static hn_status cut(const hn_tok_split *step, hn_tok_work *w, const char *text, hn_tok_seg seg,
                     hn_tok_segs *out)
{
    w->found.n = 0;
    if (step->kind == HN_SPLIT_PATTERN) HN_TRY(find_pattern(step, w, text, seg));
    if (step->kind == HN_SPLIT_CHARS) HN_TRY(find_chars(step, w, text, seg));
    if (step->kind == HN_SPLIT_WORDS) {
        HN_TRY(find_words(w, text, seg));
        for (int64_t i = 0; i < w->found.n; i++) w->found.v[i].match = !w->found.v[i].match;
    }
    return keep(w, step->keep, seg, out);
}

/* Writes the piece with spaces as marks and perhaps a mark before it; may cut before each mark. */
static hn_status metaspace(const hn_tok_split *step, hn_tok_work *w, const char *s, hn_tok_seg seg,
                           hn_text *to, hn_tok_segs *out)
{
    const size_t start = to->n;
    const bool marked = s[0] == ' ' || (seg.n >= step->n && memcmp(s, step->text, step->n) == 0);
    const bool wanted =
        step->scheme == HN_PREPEND_ALWAYS || (step->scheme == HN_PREPEND_FIRST && seg.first);
    if (wanted && !marked) HN_TRY(hn_text_append(to, step->text, step->n));
    for (size_t i = 0, run; i < seg.n; i += run) {
        const char *space = memchr(s + i, ' ', seg.n - i);
        run = space != NULL ? (size_t)(space - s) - i : seg.n - i;
        HN_TRY(hn_text_append(to, s + i, run));
        if (space == NULL) break;
        HN_TRY(hn_text_append(to, step->text, step->n));
        run++;
    }
    const hn_tok_seg whole = {.at = start, .n = to->n - start, .first = seg.first};
    if (!step->cut) return push_if(out, whole.at, whole.n, whole.first);
    w->found.n = 0;
    const hn_tok_split mark = {.find = {.literal = step->text, .n = step->n}};
    HN_TRY(find_pattern(&mark, w, to->s, whole));
    return keep(w, HN_KEEP_WITH_NEXT, whole, out);
}

static hn_status rewrite(const hn_tok_split *step, hn_tok_work *w, const char *text, hn_tok_seg seg,
                         hn_text *to, hn_tok_segs *out)
{
    const char *s = text + seg.at;
    const size_t start = to->n;
    if (step->kind == HN_SPLIT_METASPACE) return metaspace(step, w, s, seg, to, out);
    if (step->kind == HN_SPLIT_SPACE) {
        if (s[0] != ' ') HN_TRY(hn_text_append(to, " ", 1));
        HN_TRY(hn_text_append(to, s, seg.n));
    } else {
        for (size_t i = 0; i < seg.n; i++)
            HN_TRY(hn_text_append_char(to, hn_byte_char((unsigned char)s[i])));
    }
    return push_if(out, start, to->n - start, seg.first);
}

hn_status hn_pretokenize(const hn_tokenizer *t, hn_tok_work *w, const char *in, size_t n,
                         bool first, const char **text, const hn_tok_segs **segs)
{
    int at = 0, written = 0;
    w->segs[0].n = 0;
    HN_TRY(push_if(&w->segs[0], 0, n, first));
    for (int64_t i = 0; i < t->n_split; i++) {
        const hn_tok_split *step = &t->split[i];
        const hn_tok_segs *from = &w->segs[at];
        hn_tok_segs *to = &w->segs[1 - at];
        const bool cuts = step->kind <= HN_SPLIT_WORDS;
        hn_text *next = &w->split[written];
        to->n = 0;
        if (!cuts) next->n = 0;
        for (int64_t k = 0; k < from->n; k++) {
            if (cuts)
                HN_TRY(cut(step, w, in, from->v[k], to));
            else
                HN_TRY(rewrite(step, w, in, from->v[k], next, to));
        }
        at = 1 - at;
        if (cuts) continue;
        if (next->n > HN_TOK_MAX_TEXT)
            return HN_FAIL(HN_ERR_ARG, "pre-tokenised text has more than %d bytes",
                           HN_TOK_MAX_TEXT);
        in = next->s;
        written = 1 - written;
    }
    *text = in;
    *segs = &w->segs[at];
    return HN_OK;
}
