/* The life of a tokenizer and the encoding pipeline. */
#include "runtime/data/tokenizer.h"

#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

hn_status hn_tok_new(hn_tokenizer **out)
{
    hn_tokenizer *t = hn_calloc(1, sizeof *t);
    if (t == NULL) return HN_FAIL(HN_ERR_MEMORY, "tokenizer");
    t->bos = t->eos = t->unk = t->unk_model = t->max_added = -1;
    t->add_bos = t->add_eos = -1;
    for (int b = 0; b < 256; b++) t->vocab.byte_id[b] = -1;
    *out = t;
    return HN_OK;
}

static void free_norm(hn_tok_norm *s)
{
    hn_pattern_free(&s->find);
    hn_free(s->text);
}

static void free_split(hn_tok_split *s)
{
    hn_pattern_free(&s->find);
    hn_free(s->text);
}

static void free_dec(hn_tok_dec *s)
{
    hn_pattern_free(&s->find);
    hn_free(s->text);
}

void hn_tokenizer_free(hn_tokenizer *t)
{
    if (t == NULL) return;
    for (int64_t i = 0; i < t->n_norm; i++) free_norm(&t->norm[i]);
    for (int64_t i = 0; i < t->n_split; i++) free_split(&t->split[i]);
    for (int64_t i = 0; i < t->n_dec; i++) free_dec(&t->dec[i]);
    hn_free(t->norm);
    hn_free(t->split);
    hn_free(t->dec);
    hn_vocab_free(&t->vocab);
    hn_merges_free(&t->merges);
    hn_matcher_free(&t->sp.user);
    hn_free(t->sp.unk_surface);
    hn_free(t->sp.charsmap);
    hn_free(t->added);
    hn_matcher_free(&t->raw);
    hn_matcher_free(&t->normalized);
    hn_tokens_free(&t->prefix);
    hn_tokens_free(&t->suffix);
    hn_free(t->source);
    hn_free(t);
}

hn_status hn_tok_add_norm(hn_tokenizer *t, hn_tok_norm step)
{
    const hn_status st = hn_grow(&t->norm, &t->cap_norm, t->n_norm, sizeof *t->norm);
    if (st == HN_OK)
        t->norm[t->n_norm++] = step;
    else
        free_norm(&step);
    return st;
}

hn_status hn_tok_add_split(hn_tokenizer *t, hn_tok_split step)
{
    const hn_status st = hn_grow(&t->split, &t->cap_split, t->n_split, sizeof *t->split);
    if (st == HN_OK)
        t->split[t->n_split++] = step;
    else
        free_split(&step);
    return st;
}

hn_status hn_tok_add_dec(hn_tokenizer *t, hn_tok_dec step)
{
    const hn_status st = hn_grow(&t->dec, &t->cap_dec, t->n_dec, sizeof *t->dec);
    if (st == HN_OK)
        t->dec[t->n_dec++] = step;
    else
        free_dec(&step);
    return st;
}

hn_status hn_tok_add_regex(hn_tokenizer *t, const char *regex, hn_tok_keep keep, const char *where)
{
    hn_tok_split step = {.kind = HN_SPLIT_PATTERN, .keep = keep};
    HN_TRY(hn_regex_make(regex, strlen(regex), where, &step.find.re));
    return hn_tok_add_split(t, step);
}

void hn_work_free(hn_tok_work *w)
{
    hn_regex_scratch_free(w->regex);
    for (int i = 0; i < 2; i++) {
        hn_text_free(&w->norm[i]);
        hn_text_free(&w->split[i]);
        hn_free(w->segs[i].v);
    }
    hn_text_free(&w->fixed);
    hn_free(w->found.v);
    hn_free(w->outer.v);
    hn_free(w->inner.v);
    hn_free(w->symbol);
    hn_free(w->heap);
    hn_free(w->node);
    hn_free(w->chars);
    hn_free(w->sorted);
    hn_free(w->unused_cut);
    *w = (hn_tok_work){0};
}

static hn_status word_level(const hn_tokenizer *t, const char *s, size_t n, hn_tokens *out)
{
    const int32_t id = hn_vocab_find(&t->vocab, s, n);
    if (id < 0 && t->unk_model < 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: no token for '%.*s' and no unknown token",
                       t->source != NULL ? t->source : "WordLevel", n < 40 ? (int)n : 40, s);
    return hn_tokens_push(out, id >= 0 ? id : t->unk_model);
}

static hn_status encode_word(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                             hn_tokens *out)
{
    switch (t->model) {
    case HN_MODEL_BPE: return hn_bpe_encode(t, w, s, n, out);
    case HN_MODEL_PIECE_BPE:
    case HN_MODEL_CHAR: return hn_piece_encode(t, w, s, n, out);
    case HN_MODEL_UNIGRAM:
    case HN_MODEL_SP_UNIGRAM: return hn_unigram_encode(t, w, s, n, out);
    case HN_MODEL_WORD_LEVEL: return word_level(t, s, n, out);
    }
    return HN_FAIL(HN_ERR_ARG, "model %d", (int)t->model);
}

/* Normalised text without added tokens. */
static hn_status encode_plain(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                              bool first, hn_tokens *out)
{
    const char *text;
    const hn_tok_segs *segs;
    HN_TRY(hn_pretokenize(t, w, s, n, first, &text, &segs));
    for (int64_t i = 0; i < segs->n; i++)
        HN_TRY(encode_word(t, w, text + segs->v[i].at, segs->v[i].n, out));
    return HN_OK;
}

/* A piece of the caller's text between added tokens. */
static hn_status encode_piece(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                              bool first, bool parse_special, hn_tokens *out)
{
    bool cut;
    HN_TRY(hn_normalize(t, w, s, n, &s, &n, &cut));
    w->inner.n = 0;
    HN_TRY(hn_added_split(t, &t->normalized, s, n, parse_special, &w->inner));
    for (int64_t i = 0; i < w->inner.n; i++) {
        const hn_tok_cut c = w->inner.v[i];
        if (c.added >= 0)
            HN_TRY(hn_tokens_push(out, t->added[c.added].id));
        else
            HN_TRY(encode_plain(t, w, s + c.at, c.n, first && !cut && c.at == 0, out));
    }
    return HN_OK;
}

static hn_status encode_text(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                             bool parse_special, hn_tokens *out)
{
    if (!hn_utf8_valid(s, n)) {
        HN_TRY(hn_utf8_repair(s, n, &w->fixed));
        s = w->fixed.s;
        n = w->fixed.n;
    }
    HN_TRY(hn_added_split(t, &t->raw, s, n, parse_special, &w->outer));
    for (int64_t i = 0; i < w->outer.n; i++) {
        const hn_tok_cut c = w->outer.v[i];
        if (c.added >= 0)
            HN_TRY(hn_tokens_push(out, t->added[c.added].id));
        else
            HN_TRY(encode_piece(t, w, s + c.at, c.n, c.at == 0, parse_special, out));
    }
    return HN_OK;
}

hn_status hn_tokenizer_encode(const hn_tokenizer *t, const char *text, size_t n_bytes,
                              unsigned flags, hn_tokens *out)
{
    hn_status st = HN_OK;
    const int64_t before = out->n;
    hn_tok_work w = {0};
    if ((flags & ~(unsigned)(HN_TOK_ADD_SPECIAL | HN_TOK_PARSE_SPECIAL)) != 0)
        return HN_FAIL(HN_ERR_ARG, "encode: unknown flags 0x%x", flags);
    if (n_bytes > HN_TOK_MAX_TEXT)
        return HN_FAIL(HN_ERR_ARG, "encode: text of %zu bytes, at most %d", n_bytes,
                       HN_TOK_MAX_TEXT);
    HN_TRY_GOTO(st, hn_regex_scratch_make(&w.regex), done);
    if (flags & HN_TOK_ADD_SPECIAL)
        for (int64_t i = 0; i < t->prefix.n; i++)
            HN_TRY_GOTO(st, hn_tokens_push(out, t->prefix.id[i]), done);
    HN_TRY_GOTO(st, encode_text(t, &w, text, n_bytes, (flags & HN_TOK_PARSE_SPECIAL) != 0, out),
                done);
    if (flags & HN_TOK_ADD_SPECIAL)
        for (int64_t i = 0; i < t->suffix.n; i++)
            HN_TRY_GOTO(st, hn_tokens_push(out, t->suffix.id[i]), done);

done:
    if (st != HN_OK) out->n = before;
    hn_work_free(&w);
    return st;
}

int64_t hn_tokenizer_vocab_size(const hn_tokenizer *t) { return t->vocab.n_ids; }
int32_t hn_tokenizer_bos(const hn_tokenizer *t) { return t->bos; }
int32_t hn_tokenizer_eos(const hn_tokenizer *t) { return t->eos; }
int32_t hn_tokenizer_unk(const hn_tokenizer *t) { return t->unk; }
const char *hn_tokenizer_digest(const hn_tokenizer *t) { return t->digest; }
const char *hn_tokenizer_source(const hn_tokenizer *t) { return t->source; }

const char *hn_tokenizer_piece(const hn_tokenizer *t, int32_t id)
{
    return hn_vocab_text(&t->vocab, id, NULL);
}

int32_t hn_tokenizer_find(const hn_tokenizer *t, const char *piece)
{
    return hn_vocab_find_any(&t->vocab, piece, strlen(piece));
}

bool hn_tokenizer_is_special(const hn_tokenizer *t, int32_t id)
{
    return hn_vocab_text(&t->vocab, id, NULL) != NULL && t->vocab.piece[id].special;
}
