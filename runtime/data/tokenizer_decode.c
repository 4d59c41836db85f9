/* From ids to text.
 *
 * A decoder is a list of steps. Up to Fuse (or ByteLevel, or the end) a step sees one token's text
 * at a time; ByteFallback among them turns a run of byte tokens into one text. What comes out is
 * appended to one text; ByteLevel makes it bytes first. Steps behind Fuse see that text as one
 * token. Decoding token by token is the same walk with the state in hn_detok instead of a
 * finished text. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

typedef struct {
    const hn_tokenizer *t;
    hn_detok *state;
    bool stream;
    hn_text *out;     /* what came out so far; in stream mode only what is certain */
    hn_text run;      /* whole mode: bytes of a run of byte tokens */
    hn_text early[2]; /* of the steps before ByteFallback: they wait while a run ends */
    hn_text part[2];  /* of the other per-token steps */
    hn_regex_scratch *regex;
    int64_t fuse; /* steps from here on see the whole text */
} decoder;

static bool is_byte_token(const char *s, size_t n, unsigned char *byte)
{
    static const char digits[] = "0123456789ABCDEFabcdef";
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return false;
    const char *hi = s[3] ? strchr(digits, s[3]) : NULL, *lo = s[4] ? strchr(digits, s[4]) : NULL;
    if (hi == NULL || lo == NULL) return false;
    const int h = (int)(hi - digits), l = (int)(lo - digits);
    *byte = (unsigned char)((h > 15 ? h - 6 : h) * 16 + (l > 15 ? l - 6 : l));
    return true;
}

static hn_status strip(const hn_tok_dec *step, const char *s, size_t n, hn_text *out)
{
    size_t from = 0, to = n;
    for (int64_t i = 0; i < step->start && n - from >= step->n; i++, from += step->n)
        if (memcmp(s + from, step->text, step->n) != 0) break;
    for (int64_t i = 0; i < step->stop && to - from >= step->n; i++, to -= step->n)
        if (memcmp(s + to - step->n, step->text, step->n) != 0) break;
    return hn_text_append(out, s + from, to - from);
}

static hn_status run_step(const decoder *d, const hn_tok_dec *step, const char *s, size_t n,
                          hn_text *out)
{
    const hn_tok_pattern mark = {.literal = step->text, .n = step->n};
    const bool first = d->state->n_tokens_ == 0;
    switch (step->kind) {
    case HN_DEC_REPLACE:
        return hn_pattern_replace(&step->find, d->regex, s, n, step->text, step->n, out);
    case HN_DEC_STRIP: return strip(step, s, n, out);
    case HN_DEC_METASPACE:
        return hn_pattern_replace(&mark, NULL, s, n, " ", first && step->drop_first ? 0 : 1, out);
    default: return hn_text_append(out, s, n);
    }
}

/* Gives out bytes that may end, or began, inside a character. */
static hn_status put_bytes(decoder *d, const char *s, size_t n, bool each_byte)
{
    hn_detok *state = d->state;
    for (size_t i = 0; i < n; i++) {
        state->held_[state->n_held_++] = (unsigned char)s[i];
        while (state->n_held_ > 0 && !hn_utf8_is_prefix(state->held_, (size_t)state->n_held_)) {
            /* One character, or what can never become one: as long as it could. */
            int32_t c;
            size_t len = hn_utf8_next((const char *)state->held_, (size_t)state->n_held_, &c);
            if (len > 0) {
                HN_TRY(hn_text_append(d->out, state->held_, len));
            } else {
                len = each_byte || state->n_held_ < 2 ? 1 : (size_t)state->n_held_ - 1;
                HN_TRY(hn_text_append(d->out, "\xef\xbf\xbd", 3));
            }
            state->n_held_ -= (int)len;
            memmove(state->held_, state->held_ + len, (size_t)state->n_held_);
        }
    }
    return HN_OK;
}

static hn_status end_bytes(decoder *d, bool each_byte)
{
    hn_detok *state = d->state;
    const int n = each_byte ? state->n_held_ : state->n_held_ > 0;
    for (int i = 0; i < n; i++) HN_TRY(hn_text_append(d->out, "\xef\xbf\xbd", 3));
    state->n_held_ = 0;
    return HN_OK;
}

/* A token's bytes in the byte-level alphabet; as they are when one character is not in it. */
static hn_status put_byte_level(decoder *d, const char *s, size_t n)
{
    bool mapped = true;
    int32_t c;
    for (size_t i = 0, len; mapped && i < n; i += len) {
        len = hn_utf8_next(s + i, n - i, &c);
        mapped = len > 0 && hn_char_byte(c) >= 0;
    }
    if (!mapped) return put_bytes(d, s, n, false);
    for (size_t i = 0; i < n;) {
        i += hn_utf8_next(s + i, n - i, &c);
        const char byte = (char)hn_char_byte(c);
        HN_TRY(put_bytes(d, &byte, 1, false));
    }
    return HN_OK;
}

/* In stream mode the only step behind Fuse is a Strip at the beginning. */
static hn_status put_fused(decoder *d, const char *s, size_t n)
{
    const bool cut = d->stream && d->fuse < d->t->n_dec;
    const hn_tok_dec *step = cut ? &d->t->dec[d->fuse] : NULL;
    while (cut && d->state->n_cut_ >= 0 && n > 0) {
        if (d->state->n_cut_ < step->start && n >= step->n && memcmp(s, step->text, step->n) == 0) {
            d->state->n_cut_++;
            s += step->n;
            n -= step->n;
        } else {
            d->state->n_cut_ = -1; /* done */
        }
    }
    return hn_text_append(d->out, s, n);
}

/* Runs the steps [from, to) on one token, by turns into two buffers. */
static hn_status run_steps(const decoder *d, int64_t from, int64_t to, hn_text buffer[2],
                           const char **s, size_t *n)
{
    for (int64_t i = from; i < to; i++) {
        hn_text *part = &buffer[i % 2];
        part->n = 0;
        HN_TRY(run_step(d, &d->t->dec[i], *s, *n, part));
        *s = part->s;
        *n = part->n;
    }
    return HN_OK;
}

/* Runs the per-token steps from `from` on and gives out the result. */
static hn_status put_token(decoder *d, int64_t from, const char *s, size_t n)
{
    const hn_tokenizer *t = d->t;
    const int64_t last = d->fuse - 1;
    const bool bytes = last >= 0 && t->dec[last].kind == HN_DEC_BYTE_LEVEL;
    const bool fuse = last >= 0 && t->dec[last].kind == HN_DEC_FUSE;
    HN_TRY(run_steps(d, from, bytes || fuse ? last : d->fuse, d->part, &s, &n));
    if (bytes) return put_byte_level(d, s, n);
    if (t->n_dec == 0 && d->state->n_tokens_ > 0) HN_TRY(put_fused(d, " ", 1));
    d->state->n_tokens_++;
    return put_fused(d, s, n);
}

static int64_t find_step(const hn_tokenizer *t, hn_tok_dec_kind kind)
{
    for (int64_t i = 0; i < t->n_dec; i++)
        if (t->dec[i].kind == kind) return i;
    return -1;
}

/* The run of byte tokens that ends here, as one token or as one U+FFFD for each. */
static hn_status flush_run(decoder *d, int64_t fallback)
{
    const size_t n = d->run.n;
    if (n == 0) return HN_OK;
    d->run.n = 0; /* the bytes stay where they are */
    if (hn_utf8_valid(d->run.s, n)) return put_token(d, fallback + 1, d->run.s, n);
    for (size_t i = 0; i < n; i++) HN_TRY(put_token(d, fallback + 1, "\xef\xbf\xbd", 3));
    return HN_OK;
}

/* Stream mode: characters of a run leave as soon as they are complete; put_bytes writes them to a
 * text of their own, from which they go on as a token. */
static hn_status stream_run(decoder *d, int64_t fallback, const char *bytes, size_t n, bool end)
{
    hn_text chars = {0}, *const out = d->out;
    hn_status st = HN_OK;
    d->out = &chars;
    st = end ? end_bytes(d, true) : put_bytes(d, bytes, n, true);
    d->out = out;
    if (st == HN_OK && chars.n > 0) st = put_token(d, fallback + 1, chars.s, chars.n);
    hn_text_free(&chars);
    return st;
}

static hn_status decode_steps(decoder *d, const char *s, size_t n)
{
    const hn_tokenizer *t = d->t;
    const int64_t fallback = find_step(t, HN_DEC_BYTE_FALLBACK);
    unsigned char byte;
    if (fallback < 0) return put_token(d, 0, s, n);
    HN_TRY(run_steps(d, 0, fallback, d->early, &s, &n));
    if (is_byte_token(s, n, &byte)) {
        if (d->stream) return stream_run(d, fallback, (const char *)&byte, 1, false);
        return hn_text_append(&d->run, &byte, 1);
    }
    if (d->stream)
        HN_TRY(stream_run(d, fallback, NULL, 0, true));
    else
        HN_TRY(flush_run(d, fallback));
    return put_token(d, fallback + 1, s, n);
}

/* SentencePiece: marks are spaces, but for the one at the beginning of the text. */
static hn_status decode_sp(decoder *d, int32_t id, const char *s, size_t n)
{
    const hn_tok_sp *sp = &d->t->sp;
    const hn_tok_piece *p = &d->t->vocab.piece[id];
    unsigned char byte;
    if (p->type == HN_PIECE_BYTE && is_byte_token(s, n, &byte)) {
        d->state->started_ = true;
        return put_bytes(d, (const char *)&byte, 1, true);
    }
    HN_TRY(end_bytes(d, true));
    if (p->type == HN_PIECE_CONTROL) return hn_text_append(d->out, s, n);
    if (p->type == HN_PIECE_UNKNOWN) {
        d->state->started_ = true;
        return hn_text_append(d->out, sp->unk_surface, strlen(sp->unk_surface));
    }
    const bool marked = n >= sp->n_space && memcmp(s, sp->space, sp->n_space) == 0;
    const bool cut = !d->state->started_ && marked && (sp->dummy_prefix || sp->remove_extra_spaces);
    const hn_tok_pattern space = {.literal = (char *)(size_t)sp->space, .n = sp->n_space};
    if (cut) {
        s += sp->n_space;
        n -= sp->n_space;
    }
    /* Where extra spaces are removed, all of them go at the beginning. */
    if (n > 0 || !sp->remove_extra_spaces) d->state->started_ = d->state->started_ || cut || n > 0;
    return hn_pattern_replace(&space, NULL, s, n, " ", 1, d->out);
}

static hn_status decode_one(decoder *d, int32_t id)
{
    const hn_tokenizer *t = d->t;
    if (hn_vocab_text(&t->vocab, id, NULL) == NULL)
        return HN_FAIL(HN_ERR_ARG, "decode: token id %d is not in the vocabulary of %lld (%s)", id,
                       (long long)t->vocab.n_ids, t->source != NULL ? t->source : "");
    const hn_tok_piece *p = &t->vocab.piece[id];
    const char *s = t->vocab.bytes.s + p->shown_at;
    const size_t n = p->shown_n;
    if (d->state->skip_special && p->special) return HN_OK;
    return t->n_dec > 0 && t->dec[0].kind == HN_DEC_SENTENCEPIECE ? decode_sp(d, id, s, n)
                                                                  : decode_steps(d, s, n);
}

/* Flushes what is held back. */
static hn_status decode_last(decoder *d)
{
    const int64_t fallback = find_step(d->t, HN_DEC_BYTE_FALLBACK);
    if (fallback >= 0)
        return d->stream ? stream_run(d, fallback, NULL, 0, true) : flush_run(d, fallback);
    return end_bytes(d, find_step(d->t, HN_DEC_SENTENCEPIECE) >= 0);
}

static hn_status open_decoder(const hn_tokenizer *t, hn_detok *state, bool stream, hn_text *out,
                              decoder *d)
{
    *d = (decoder){.t = t, .state = state, .stream = stream, .out = out, .fuse = t->n_dec};
    const int64_t fuse = find_step(t, HN_DEC_FUSE), bytes = find_step(t, HN_DEC_BYTE_LEVEL);
    if (fuse >= 0) d->fuse = fuse + 1;
    if (bytes >= 0 && bytes + 1 < d->fuse) d->fuse = bytes + 1;
    return hn_regex_scratch_make(&d->regex);
}

static void close_decoder(decoder *d)
{
    hn_text_free(&d->run);
    for (int i = 0; i < 2; i++) {
        hn_text_free(&d->early[i]);
        hn_text_free(&d->part[i]);
    }
    hn_regex_scratch_free(d->regex);
}

hn_status hn_tokenizer_decode(const hn_tokenizer *t, const int32_t *id, int64_t n,
                              bool skip_special, hn_text *out)
{
    hn_status st = HN_OK;
    hn_detok state = {.skip_special = skip_special};
    hn_text text = {0};
    decoder d;
    HN_TRY(open_decoder(t, &state, false, &text, &d));
    for (int64_t i = 0; i < n; i++) HN_TRY_GOTO(st, decode_one(&d, id[i]), done);
    HN_TRY_GOTO(st, decode_last(&d), done);
    for (int64_t i = d.fuse; i < t->n_dec; i++) {
        hn_text *to = &d.part[0];
        to->n = 0;
        state.n_tokens_ = 0; /* the fused text is the first token */
        HN_TRY_GOTO(st, run_step(&d, &t->dec[i], text.s != NULL ? text.s : "", text.n, to), done);
        const hn_text swap = text;
        text = *to;
        *to = swap;
    }
    st = hn_text_append(out, text.s, text.n);

done:
    close_decoder(&d);
    hn_text_free(&text);
    return st;
}

/* Steps that need the whole text, or a whole run of bytes, cannot work token by token. */
static hn_status check_stream(const hn_tokenizer *t, int64_t fuse)
{
    const int64_t fallback = find_step(t, HN_DEC_BYTE_FALLBACK);
    for (int64_t i = 0; i < t->n_dec; i++) {
        const hn_tok_dec *s = &t->dec[i];
        const bool whole = i >= fuse && (i > fuse || s->kind != HN_DEC_STRIP || s->stop > 0 ||
                                         t->dec[fuse - 1].kind != HN_DEC_FUSE);
        const bool run = fallback >= 0 && i > fallback && i < fuse && s->kind != HN_DEC_FUSE;
        if (whole || run)
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "%s: step %lld of the decoder needs the whole text, it cannot decode "
                           "token by token",
                           t->source != NULL ? t->source : "", (long long)i);
    }
    return HN_OK;
}

static hn_status stream_step(const hn_tokenizer *t, hn_detok *state, const int32_t *id,
                             hn_text *out)
{
    hn_detok next = *state;
    const size_t before = out->n;
    decoder d;
    hn_status st = open_decoder(t, &next, true, out, &d);
    if (st == HN_OK) st = check_stream(t, d.fuse);
    if (st == HN_OK) st = id != NULL ? decode_one(&d, *id) : decode_last(&d);
    if (st == HN_OK) *state = next;
    if (st == HN_OK && out->s == NULL) st = hn_text_append(out, "", 0);
    if (st != HN_OK && out->s != NULL) {
        out->n = before;
        out->s[before] = '\0';
    }
    close_decoder(&d);
    return st;
}

hn_status hn_tokenizer_decode_next(const hn_tokenizer *t, hn_detok *state, int32_t id, hn_text *out)
{
    return stream_step(t, state, &id, out);
}

hn_status hn_tokenizer_decode_end(const hn_tokenizer *t, hn_detok *state, hn_text *out)
{
    const bool skip = state->skip_special;
    HN_TRY(stream_step(t, state, NULL, out));
    *state = (hn_detok){.skip_special = skip};
    return HN_OK;
}
