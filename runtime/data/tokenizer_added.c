/* Added tokens: found in the text before the model sees it, leftmost first, the longest of those
 * that begin at one place. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

hn_status hn_matcher_add(hn_tok_matcher *m, const char *s, size_t n, int32_t index)
{
    HN_TRY(hn_grow(&m->entry, &m->cap, m->n, sizeof *m->entry));
    char *text = hn_malloc(n + 1);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "added token of %zu bytes", n);
    memcpy(text, s, n);
    text[n] = '\0';
    m->entry[m->n++] = (hn_tok_entry){.text = text, .n = n, .index = index};
    return HN_OK;
}

static int by_byte_and_length(const void *a, const void *b)
{
    const hn_tok_entry *x = a, *y = b;
    const int c = (unsigned char)x->text[0] - (unsigned char)y->text[0];
    if (c != 0) return c;
    if (x->n != y->n) return x->n > y->n ? -1 : 1;
    return x->index - y->index;
}

void hn_matcher_finish(hn_tok_matcher *m)
{
    if (m->n > 0) qsort(m->entry, (size_t)m->n, sizeof *m->entry, by_byte_and_length);
    int64_t i = 0;
    for (int c = 0; c <= 256; c++) {
        while (i < m->n && (unsigned char)m->entry[i].text[0] < c) i++;
        m->first[c] = (int32_t)i;
    }
}

int32_t hn_matcher_at(const hn_tok_matcher *m, const char *s, size_t n, size_t *n_matched)
{
    if (m->n == 0) return -1;
    const unsigned char c = (unsigned char)s[0];
    for (int32_t i = m->first[c]; i < m->first[c + 1]; i++) {
        const hn_tok_entry *e = &m->entry[i];
        if (e->n > n || memcmp(e->text, s, e->n) != 0) continue;
        *n_matched = e->n;
        return e->index;
    }
    return -1;
}

void hn_matcher_free(hn_tok_matcher *m)
{
    for (int64_t i = 0; i < m->n; i++) hn_free(m->entry[i].text);
    hn_free(m->entry);
    *m = (hn_tok_matcher){0};
}

hn_status hn_added_push(hn_tokenizer *t, hn_tok_added a)
{
    hn_tok_piece *p = &t->vocab.piece[a.id];
    if (p->added < 0) {
        HN_TRY(hn_grow(&t->added, &t->cap_added, t->n_added, sizeof *t->added));
        p->added = (int32_t)t->n_added++;
    }
    t->added[p->added] = a;
    p->special = a.special;
    if (a.id > t->max_added) t->max_added = a.id;
    return HN_OK;
}

hn_status hn_added_finish(hn_tokenizer *t)
{
    hn_status st = HN_OK;
    hn_tok_work w = {0};
    HN_TRY(hn_regex_scratch_make(&w.regex));
    for (int64_t i = 0; i < t->n_added; i++) {
        size_t n;
        bool cut;
        const char *s = hn_vocab_text(&t->vocab, t->added[i].id, &n);
        if (t->added[i].normalized && t->n_norm > 0) { /* s moves out of the vocabulary */
            HN_TRY_GOTO(st, hn_normalize(t, &w, s, n, &s, &n, &cut), done);
            hn_tok_piece *p = &t->vocab.piece[t->added[i].id];
            p->shown_at = (int64_t)t->vocab.bytes.n;
            p->shown_n = (uint32_t)n;
            HN_TRY_GOTO(st, hn_text_append(&t->vocab.bytes, s, n), done);
        }
        if (n == 0) continue; /* normalised away: can never be found */
        hn_tok_matcher *m = t->added[i].normalized ? &t->normalized : &t->raw;
        HN_TRY_GOTO(st, hn_matcher_add(m, s, n, (int32_t)i), done);
    }
    hn_matcher_finish(&t->raw);
    hn_matcher_finish(&t->normalized);

done:
    hn_work_free(&w);
    return st;
}

static bool inside_word(const char *s, size_t n, size_t begin, size_t end)
{
    int32_t c;
    if (begin > 0) {
        hn_utf8_last(s, begin, &c);
        if (hn_is_word(c)) return true;
    }
    if (end < n) {
        hn_utf8_next(s + end, n - end, &c);
        if (hn_is_word(c)) return true;
    }
    return false;
}

/* White space before `begin` (not below `least`) and behind `end`. */
static void swallow(const hn_tok_added *a, const char *s, size_t n, size_t least, size_t *begin,
                    size_t *end)
{
    int32_t c;
    while (a->lstrip && *begin > least) {
        const size_t len = hn_utf8_last(s, *begin, &c);
        if (!hn_is_space(c)) break;
        *begin -= len;
    }
    while (a->rstrip && *end < n) {
        const size_t len = hn_utf8_next(s + *end, n - *end, &c);
        if (!hn_is_space(c)) break;
        *end += len;
    }
}

static hn_status push_cut(hn_tok_cuts *out, size_t at, size_t n, int32_t added)
{
    HN_TRY(hn_grow(&out->v, &out->cap, out->n, sizeof *out->v));
    out->v[out->n++] = (hn_tok_cut){.at = at, .n = n, .added = added};
    return HN_OK;
}

hn_status hn_added_split(const hn_tokenizer *t, const hn_tok_matcher *m, const char *s, size_t n,
                         bool parse_special, hn_tok_cuts *out)
{
    size_t done = 0;
    for (size_t i = 0, len; m->n > 0 && i < n; i += len) {
        const int32_t index = hn_matcher_at(m, s + i, n - i, &len);
        if (index < 0) {
            len = 1;
            continue;
        }
        const hn_tok_added *a = &t->added[index];
        size_t begin = i, end = i + len;
        if (begin < done) continue; /* in white space that was swallowed */
        if (a->special && !parse_special) continue;
        if (a->single_word && inside_word(s, n, begin, end)) continue;
        swallow(a, s, n, done, &begin, &end);
        if (begin > done) HN_TRY(push_cut(out, done, begin - done, -1));
        HN_TRY(push_cut(out, begin, end - begin, index));
        done = end;
    }
    return done < n ? push_cut(out, done, n - done, -1) : HN_OK;
}
