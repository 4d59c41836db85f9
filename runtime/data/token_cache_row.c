#include "runtime/data/token_cache_row.h"

#include <inttypes.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/data/data_util.h"

/* What the tokenizer puts in front of a text: the ids before those of the text itself. */
static hn_status find_prefix(const hn_tokenizer *t, hn_tokens *prefix)
{
    hn_status st = HN_OK;
    hn_tokens plain = {0}, full = {0};
    HN_TRY_GOTO(st, hn_tokenizer_encode(t, "a", 1, 0, &plain), done);
    HN_TRY_GOTO(st, hn_tokenizer_encode(t, "a", 1, HN_TOK_ADD_SPECIAL, &full), done);
    int64_t n = 0;
    if (plain.n == 0) /* the letter is not in the vocabulary: BOS is all that can be told */
        n = full.n > 0 && full.id[0] == hn_tokenizer_bos(t);
    else
        while (n + plain.n <= full.n &&
               memcmp(full.id + n, plain.id, (size_t)plain.n * sizeof *plain.id) != 0)
            n++;
    if (n + plain.n > full.n) {
        st = HN_FAIL(HN_ERR_UNSUPPORTED,
                     "%s: the tokenizer changes a text when it adds special tokens",
                     hn_tokenizer_source(t));
        goto done;
    }
    full.n = n;
    *prefix = full;
    full = (hn_tokens){0};

done:
    hn_tokens_free(&plain);
    hn_tokens_free(&full);
    return st;
}

hn_status hn_row_rule_make(const hn_token_job *job, hn_row_rule *out)
{
    hn_row_rule r = {.job = job,
                     .is_text = hn_source_about(job->source)->is_text,
                     .eos = hn_tokenizer_eos(job->tokenizer),
                     .unk = hn_tokenizer_unk(job->tokenizer),
                     .vocab = hn_tokenizer_vocab_size(job->tokenizer)};
    HN_TRY(find_prefix(job->tokenizer, &r.prefix));
    *out = r;
    return HN_OK;
}

void hn_row_rule_free(hn_row_rule *r) { hn_tokens_free(&r->prefix); }

void hn_row_encoder_free(hn_row_encoder *e)
{
    hn_rendered_free(&e->rendered);
    hn_tokens_free(&e->whole);
    hn_tokens_free(&e->prompt);
    hn_free(e->chars);
    *e = (hn_row_encoder){0};
}

void hn_row_words_free(hn_row_words *w)
{
    hn_free(w->word);
    hn_free(w->end);
    *w = (hn_row_words){0};
}

/* ---- unknown characters ---- */

static hn_char_count *find_char(hn_char_count *table, int64_t cap, uint32_t code)
{
    int64_t i = (int64_t)(code * 2654435761u) & (cap - 1);
    while (table[i].used && table[i].code != code) i = (i + 1) & (cap - 1);
    return &table[i];
}

static hn_status grow_chars(hn_row_encoder *e)
{
    const int64_t cap = e->chars_cap ? e->chars_cap * 2 : 256;
    hn_char_count *table = hn_calloc((size_t)cap, sizeof *table);
    if (table == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " character counts", cap);
    for (int64_t i = 0; i < e->chars_cap; i++)
        if (e->chars[i].used) *find_char(table, cap, e->chars[i].code) = e->chars[i];
    hn_free(e->chars);
    e->chars = table;
    e->chars_cap = cap;
    return HN_OK;
}

static hn_status add_char(hn_row_encoder *e, uint32_t code, int64_t count, hn_char_count **out)
{
    if (2 * (e->n_chars + 1) > e->chars_cap) HN_TRY(grow_chars(e));
    hn_char_count *c = find_char(e->chars, e->chars_cap, code);
    e->n_chars += !c->used;
    c->code = code;
    c->count += count;
    *out = c;
    return HN_OK;
}

static int64_t count_id(const hn_tokens *t, int32_t id)
{
    int64_t n = 0;
    for (int64_t i = 0; i < t->n; i++) n += t->id[i] == id;
    return n;
}

/* Tokens do not say which characters they stand for, so each different character of a text
 * with unknown tokens is tokenised once alone. */
static hn_status count_unknown_chars(const hn_row_rule *rule, hn_row_encoder *e)
{
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)e->rendered.text;
    for (int64_t i = 0; i < e->rendered.n_bytes;) {
        utf8proc_int32_t code;
        hn_char_count *c = NULL;
        const utf8proc_ssize_t n =
            utf8proc_iterate(p + i, (utf8proc_ssize_t)(e->rendered.n_bytes - i), &code);
        if (n <= 0) return HN_OK; /* sources hand out valid UTF-8 only */
        HN_TRY(add_char(e, (uint32_t)code, 1, &c));
        if (!c->used) {
            e->prompt.n = 0;
            HN_TRY(hn_tokenizer_encode(rule->job->tokenizer, (const char *)p + i, (size_t)n, 0,
                                       &e->prompt));
            c->unknown = count_id(&e->prompt, rule->unk) > 0;
            c->used = true;
        }
        i += n;
    }
    return HN_OK;
}

static bool more_frequent(const hn_char_count *a, int64_t code, int64_t count)
{
    return a->count != count ? a->count > count : (int64_t)a->code < code;
}

static void rank_char(const hn_char_count *c, hn_token_stats *s)
{
    int at = HN_UNK_TOP;
    while (at > 0 &&
           (s->unk_char[at - 1] < 0 || more_frequent(c, s->unk_char[at - 1], s->unk_count[at - 1])))
        at--;
    if (at == HN_UNK_TOP) return;
    const size_t behind = (size_t)(HN_UNK_TOP - 1 - at);
    memmove(&s->unk_char[at + 1], &s->unk_char[at], behind * sizeof s->unk_char[0]);
    memmove(&s->unk_count[at + 1], &s->unk_count[at], behind * sizeof s->unk_count[0]);
    s->unk_char[at] = c->code;
    s->unk_count[at] = c->count;
}

hn_status hn_row_sum(hn_row_encoder *e, int n, const hn_row_rule *rule, hn_token_stats *stats)
{
    hn_token_stats s = {.unk_id = rule->unk};
    for (int k = 0; k < n; k++) {
        s.rows += e[k].stats.rows;
        s.dropped_empty += e[k].stats.dropped_empty;
        s.dropped_masked += e[k].stats.dropped_masked;
        s.trained += e[k].stats.trained;
        s.joined += e[k].stats.joined;
        s.unk += e[k].stats.unk;
        for (int64_t i = 0; k > 0 && i < e[k].chars_cap; i++) {
            hn_char_count *c = NULL;
            if (!e[k].chars[i].used) continue;
            HN_TRY(add_char(&e[0], e[k].chars[i].code, e[k].chars[i].count, &c));
            c->used = true;
            c->unknown = e[k].chars[i].unknown;
        }
    }
    for (int i = 0; i < HN_UNK_TOP; i++) s.unk_char[i] = -1;
    for (int64_t i = 0; i < e[0].chars_cap; i++) {
        if (!e[0].chars[i].used || !e[0].chars[i].unknown) continue;
        s.unk_kinds++;
        rank_char(&e[0].chars[i], &s);
    }
    *stats = s;
    return HN_OK;
}

/* ---- words ---- */

static hn_status push(hn_row_words *out, int32_t id, bool trained)
{
    HN_TRY(hn_reserve(&out->word, &out->word_cap, out->n_words + 1, sizeof *out->word));
    out->word[out->n_words++] = hn_word_make(id, trained);
    return HN_OK;
}

/* Ids [from, to) of t. */
static hn_status push_ids(hn_row_words *out, const hn_tokens *t, int64_t from, int64_t to,
                          bool trained)
{
    HN_TRY(hn_reserve(&out->word, &out->word_cap, out->n_words + to - from, sizeof *out->word));
    for (int64_t i = from; i < to; i++) out->word[out->n_words++] = hn_word_make(t->id[i], trained);
    return HN_OK;
}

static unsigned encode_flags(const hn_row_rule *rule)
{
    return rule->job->parse_special ? HN_TOK_PARSE_SPECIAL : 0;
}

static hn_status push_eos(const hn_row_rule *rule, hn_row_words *out, const hn_tokens *before)
{
    const bool there = before->n > 0 && before->id[before->n - 1] == rule->eos;
    return rule->eos < 0 || there ? HN_OK : push(out, rule->eos, true);
}

/* How many of the row's tokens are the prompt's own. */
static hn_status find_completion(const hn_row_rule *rule, hn_row_encoder *e, int64_t *n_untrained)
{
    const hn_rendered *r = &e->rendered;
    *n_untrained = 0;
    if (rule->job->train_on_prompt || r->n_prompt == 0) return HN_OK;
    e->prompt.n = 0;
    HN_TRY(hn_tokenizer_encode(rule->job->tokenizer, r->text, (size_t)r->n_prompt,
                               encode_flags(rule), &e->prompt));
    int64_t n = 0;
    while (n < e->prompt.n && n < e->whole.n && e->prompt.id[n] == e->whole.id[n]) n++;
    e->stats.joined += n < e->prompt.n;
    *n_untrained = n;
    return HN_OK;
}

static hn_status encode_text(const hn_row_rule *rule, hn_row_encoder *e, const hn_row *row,
                             hn_row_words *out)
{
    const hn_rendered *r = &e->rendered;
    const bool has_prompt = rule->job->format->format != HN_DATA_TEXT;
    int64_t untrained = 0;
    e->whole.n = 0;
    HN_TRY(hn_tokenizer_encode(rule->job->tokenizer, r->text, (size_t)r->n_bytes,
                               encode_flags(rule), &e->whole));
    if (has_prompt) HN_TRY(find_completion(rule, e, &untrained));
    if (row->first) HN_TRY(push_ids(out, &rule->prefix, 0, rule->prefix.n, false));
    HN_TRY(push_ids(out, &e->whole, 0, untrained, false));
    HN_TRY(push_ids(out, &e->whole, untrained, e->whole.n, true));
    return row->ends ? push_eos(rule, out, &e->whole) : HN_OK;
}

static hn_status encode_tokens(const hn_rendered *r, hn_row_words *out)
{
    for (int64_t i = 0; i < r->n_ids; i++) HN_TRY(push(out, r->id[i], r->trained[i]));
    return HN_OK;
}

/* Unknown tokens of the row's own text or ids. Some vocabularies (GPT-2) name their EOS as unknown
 * token too: then an id that the data themselves ask for says nothing. */
static int64_t count_unknown(const hn_row_rule *rule, const hn_row_encoder *e)
{
    const bool is_ids = rule->job->format->format == HN_DATA_TOKENS;
    const bool shared =
        rule->unk == rule->eos || rule->unk == hn_tokenizer_bos(rule->job->tokenizer);
    const hn_tokens ids = {.id = e->rendered.id, .n = e->rendered.n_ids};
    if (rule->unk < 0 || (shared && (is_ids || rule->job->parse_special))) return 0;
    return count_id(is_ids ? &ids : &e->whole, rule->unk);
}

/* Nothing to learn from: no text, no completion, no ids. */
static bool is_empty(const hn_row_rule *rule, const hn_rendered *r)
{
    switch (rule->job->format->format) {
    case HN_DATA_TOKENS: return r->n_ids == 0;
    case HN_DATA_TEXT: return r->n_bytes == 0;
    default: return r->n_bytes == r->n_prompt;
    }
}

hn_status hn_row_encode(const hn_row_rule *rule, hn_row_encoder *e, const hn_row *row,
                        hn_row_words *out)
{
    const hn_template *format = rule->job->format;
    const int64_t begin = out->n_words;
    HN_TRY(hn_template_row(format, row, rule->is_text, rule->vocab, &e->rendered));
    e->stats.rows += row->first;
    if (row->first && row->last && is_empty(rule, &e->rendered)) {
        e->stats.dropped_empty++;
        return HN_OK;
    }
    if (format->format == HN_DATA_TOKENS)
        HN_TRY(encode_tokens(&e->rendered, out));
    else
        HN_TRY(encode_text(rule, e, row, out));

    if (row->first && out->n_words > begin) /* nothing stands before the first token */
        out->word[begin] = hn_word_make(hn_word_id(out->word[begin]), 0);
    int64_t trained = 0;
    for (int64_t i = begin; i < out->n_words; i++) trained += out->word[i] >= 0;
    if (row->first && row->last && trained == 0) {
        e->stats.dropped_masked++;
        out->n_words = begin;
        return HN_OK;
    }
    e->stats.trained += trained;
    const int64_t unk = count_unknown(rule, e);
    e->stats.unk += unk;
    if (unk > 0) HN_TRY(count_unknown_chars(rule, e));
    if (!row->last) return HN_OK;
    HN_TRY(hn_reserve(&out->end, &out->end_cap, out->n_ends + 1, sizeof *out->end));
    out->end[out->n_ends++] = out->n_words;
    return HN_OK;
}
