/* SentencePiece: its protobuf, its normalizer, and what every SentencePiece-like vocabulary needs.
 *
 * The .model file is one ModelProto message: field 1 pieces {1 text, 2 score, 3 type}, field 2
 * trainer settings, field 3 normalizer settings. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

/* ---- normalizer ---- */

/* The next character, user-defined piece or normalisation rule at s and what stands for it. */
static size_t next_unit(const hn_tok_sp *sp, const char *s, size_t n, const char **to, size_t *n_to)
{
    size_t len;
    int32_t c;
    *to = s;
    if (hn_matcher_at(&sp->user, s, n, &len) >= 0) {
        *n_to = len;
        return len;
    }
    if (sp->charsmap != NULL) {
        len = hn_charsmap_find(sp->charsmap, sp->n_charsmap, s, n, to, n_to);
        if (len > 0) return len;
    }
    *to = s;
    return *n_to = hn_utf8_next(s, n, &c); /* the text is valid UTF-8 by now */
}

static hn_status put_escaped(const hn_tok_sp *sp, const char *s, size_t n, hn_text *out)
{
    for (size_t i = 0, run; i < n; i += run) {
        const char *space = memchr(s + i, ' ', n - i);
        run = space != NULL ? (size_t)(space - s) - i : n - i;
        HN_TRY(hn_text_append(out, s + i, run));
        if (space == NULL) break;
        HN_TRY(hn_text_append(out, sp->space, sp->n_space));
        run++;
    }
    return HN_OK;
}

static bool ends_with(const hn_text *t, size_t start, const char *s, size_t n)
{
    return t->n - start >= n && memcmp(t->s + t->n - n, s, n) == 0;
}

hn_status hn_sp_normalize(const hn_tok_sp *sp, const char *in, size_t n, hn_text *out)
{
    const size_t start = out->n;
    const char *to;
    size_t n_to, i = 0;
    while (sp->remove_extra_spaces && i < n) {
        const size_t len = next_unit(sp, in + i, n - i, &to, &n_to);
        if (n_to != 1 || to[0] != ' ') break;
        i += len;
    }
    HN_TRY(hn_text_append(out, "", 0));
    if (i == n) return HN_OK;
    if (sp->dummy_prefix) HN_TRY(hn_text_append(out, sp->space, sp->n_space));
    bool after_space = sp->remove_extra_spaces;
    while (i < n) {
        i += next_unit(sp, in + i, n - i, &to, &n_to);
        while (after_space && n_to > 0 && to[0] == ' ') to++, n_to--;
        if (n_to > 0) {
            HN_TRY(put_escaped(sp, to, n_to, out));
            after_space = to[n_to - 1] == ' ';
        }
        if (!sp->remove_extra_spaces) after_space = false;
    }
    if (sp->remove_extra_spaces)
        while (ends_with(out, start, sp->space, sp->n_space)) out->n -= sp->n_space;
    return HN_OK;
}

/* Precompiled rules: uint32 size of a Darts double array, the array, then texts that end in zero.
 * The array's values are offsets of texts. */
static uint32_t unit_at(const unsigned char *map, uint32_t i)
{
    const unsigned char *p = map + 4 + 4 * (size_t)i;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t trie_bytes(const unsigned char *map)
{
    return (uint32_t)map[0] | (uint32_t)map[1] << 8 | (uint32_t)map[2] << 16 |
           (uint32_t)map[3] << 24;
}

static uint32_t unit_offset(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

hn_status hn_charsmap_check(const unsigned char *map, size_t n, const char *where)
{
    if (n < 9 || trie_bytes(map) == 0 || trie_bytes(map) % 4 != 0 || trie_bytes(map) >= n - 4)
        return HN_FAIL(HN_ERR_FORMAT, "%s: normalisation rules of %zu bytes are damaged", where, n);
    if (map[n - 1] != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: normalisation rules do not end in zero", where);
    const size_t texts = 4 + trie_bytes(map);
    if (!hn_utf8_valid((const char *)map + texts, n - texts))
        return HN_FAIL(HN_ERR_FORMAT, "%s: normalisation rules are not valid UTF-8", where);
    return HN_OK;
}

size_t hn_charsmap_find(const unsigned char *map, size_t n_map, const char *s, size_t n,
                        const char **to, size_t *n_to)
{
    const uint32_t n_units = trie_bytes(map) / 4;
    const char *texts = (const char *)map + 4 + trie_bytes(map);
    const size_t n_texts = n_map - 4 - trie_bytes(map);
    size_t best = 0;
    uint32_t unit = unit_at(map, 0), at = unit_offset(unit);
    for (size_t i = 0; i < n; i++) {
        at ^= (unsigned char)s[i];
        if (at >= n_units) break;
        unit = unit_at(map, at);
        if ((unit & (1u << 31 | 0xffu)) != (unsigned char)s[i]) break;
        at ^= unit_offset(unit);
        if ((unit >> 8 & 1u) == 0) continue;
        if (at >= n_units) break;
        const uint32_t value = unit_at(map, at) & ~(1u << 31);
        if (value >= n_texts || (texts[value] & 0xc0) == 0x80) break; /* not a character's start */
        best = i + 1;
        *to = texts + value;
        *n_to = strlen(*to); /* the texts end in a zero: checked at loading */
    }
    return best;
}

/* ---- what makes it a tokenizer ---- */

hn_status hn_tok_finish_sp(hn_tokenizer *t, const char *where)
{
    hn_tok_vocab *v = &t->vocab;
    if (v->n_pieces == 0) return HN_FAIL(HN_ERR_FORMAT, "%s: no pieces", where);
    HN_TRY(hn_vocab_rank(v, where));
    hn_vocab_bytes(v, true);
    if (t->byte_fallback && !v->all_bytes)
        return HN_FAIL(HN_ERR_FORMAT, "%s: byte fallback without all 256 byte pieces", where);
    for (int64_t i = 0; i < v->n_ids; i++) {
        const hn_tok_piece *p = &v->piece[i];
        if (p->at < 0 || p->n == 0) continue;
        if (p->type == HN_PIECE_USER)
            HN_TRY(hn_matcher_add(&t->sp.user, v->bytes.s + p->at, p->n, (int32_t)i));
        if (p->type == HN_PIECE_CONTROL)
            HN_TRY(hn_added_push(t, (hn_tok_added){.id = (int32_t)i, .special = true}));
        if (p->type == HN_PIECE_UNKNOWN && t->unk_model < 0) t->unk_model = (int32_t)i;
    }
    if (t->unk_model < 0 && !t->byte_fallback)
        return HN_FAIL(HN_ERR_FORMAT, "%s: neither an unknown token nor byte fallback", where);
    t->unk = t->unk_model;
    hn_matcher_finish(&t->sp.user);
    if (t->sp.unk_surface == NULL && (t->sp.unk_surface = hn_strdup(" \xe2\x81\x87 ")) == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s", where);
    HN_TRY(hn_tok_add_norm(t, (hn_tok_norm){.kind = HN_NORM_SENTENCEPIECE}));
    return hn_tok_add_dec(t, (hn_tok_dec){.kind = HN_DEC_SENTENCEPIECE});
}

/* ---- protobuf ---- */

typedef struct {
    const unsigned char *p, *end, *start;
    const char *where;
} reader;

typedef struct {
    uint32_t number; /* of the field */
    int wire;        /* 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
    uint64_t value;
    const unsigned char *data; /* wire 1, 2, 5 */
    size_t n;
} field;

static hn_status damaged(const reader *r, const char *what)
{
    return HN_FAIL(HN_ERR_FORMAT, "%s: byte %zu of the protobuf: %s", r->where,
                   (size_t)(r->p - r->start), what);
}

static hn_status varint(reader *r, uint64_t *out)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->p == r->end) return damaged(r, "number runs over the end");
        const unsigned char b = *r->p++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *out = v;
            return HN_OK;
        }
    }
    return damaged(r, "number of more than 64 bits");
}

/* The next field of a message; r->p < r->end. */
static hn_status next_field(reader *r, field *f)
{
    uint64_t key = 0, n = 0;
    HN_TRY(varint(r, &key));
    *f = (field){.number = (uint32_t)(key >> 3), .wire = (int)(key & 7)};
    if (key >> 3 == 0 || key >> 3 > 0x1fffffff) return damaged(r, "bad field number");
    switch (f->wire) {
    case 0: return varint(r, &f->value);
    case 1: n = 8; break;
    case 2: HN_TRY(varint(r, &n)); break;
    case 5: n = 4; break;
    default: return damaged(r, "bad wire type");
    }
    if (n > (uint64_t)(r->end - r->p)) return damaged(r, "field runs over the end");
    f->data = r->p;
    f->n = (size_t)n;
    r->p += n;
    return HN_OK;
}

static reader inside(const reader *r, const field *f)
{
    return (reader){.p = f->data, .end = f->data + f->n, .start = r->start, .where = r->where};
}

/* A field has the wire type its number asks for. */
static hn_status want(const reader *r, const field *f, int wire)
{
    return f->wire == wire ? HN_OK : damaged(r, "field of the wrong type");
}

static hn_status read_piece(hn_tokenizer *t, reader r, int64_t id)
{
    const unsigned char *s = NULL;
    size_t n = 0;
    uint64_t type = HN_PIECE_NORMAL;
    float score = 0;
    while (r.p < r.end) {
        field f;
        HN_TRY(next_field(&r, &f));
        if (f.number == 1) {
            HN_TRY(want(&r, &f, 2));
            s = f.data;
            n = f.n;
        } else if (f.number == 2) {
            HN_TRY(want(&r, &f, 5));
            memcpy(&score, f.data, sizeof score);
        } else if (f.number == 3) {
            HN_TRY(want(&r, &f, 0));
            type = f.value;
        }
    }
    if (n == 0) return damaged(&r, "empty piece");
    if (type < HN_PIECE_NORMAL || type > HN_PIECE_BYTE) return damaged(&r, "unknown piece type");
    const bool mapped = type == HN_PIECE_NORMAL || type == HN_PIECE_USER || type == HN_PIECE_UNUSED;
    HN_TRY(hn_vocab_set(&t->vocab, id, (const char *)s, n, (int)type, mapped, r.where));
    t->vocab.piece[id].score = (double)score;
    if (type == HN_PIECE_UNKNOWN && t->unk_model >= 0) return damaged(&r, "second unknown piece");
    if (type == HN_PIECE_UNKNOWN) t->unk_model = (int32_t)id;
    return HN_OK;
}

static hn_status read_trainer(hn_tokenizer *t, reader r, int64_t *bos, int64_t *eos)
{
    while (r.p < r.end) {
        field f;
        HN_TRY(next_field(&r, &f));
        const int wire = f.number == 44 ? 2 : 0;
        if (f.number != 3 && f.number != 24 && f.number != 35 && f.number != 41 && f.number != 42 &&
            f.number != 44)
            continue;
        HN_TRY(want(&r, &f, wire));
        if (f.number == 3) {
            if (f.value == 1)
                t->model = HN_MODEL_SP_UNIGRAM;
            else if (f.value == 2)
                t->model = HN_MODEL_PIECE_BPE;
            else if (f.value == 4)
                t->model = HN_MODEL_CHAR;
            else
                return HN_FAIL(HN_ERR_UNSUPPORTED,
                               "%s: SentencePiece model type %llu (1 unigram, 2 BPE and 4 char "
                               "are known)",
                               r.where, (unsigned long long)f.value);
        }
        if (f.number == 24 && f.value != 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: treat_whitespace_as_suffix", r.where);
        if (f.number == 35) t->byte_fallback = f.value != 0;
        if (f.number == 41) *bos = (int32_t)(uint32_t)f.value;
        if (f.number == 42) *eos = (int32_t)(uint32_t)f.value;
        if (f.number == 44) {
            hn_free(t->sp.unk_surface);
            t->sp.unk_surface = hn_strndup((const char *)f.data, f.n);
            if (t->sp.unk_surface == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s", r.where);
            if (!hn_utf8_valid(t->sp.unk_surface, strlen(t->sp.unk_surface)))
                return damaged(&r, "unk_surface is not valid UTF-8");
        }
    }
    return HN_OK;
}

static hn_status read_normalizer(hn_tokenizer *t, reader r, bool *escape)
{
    while (r.p < r.end) {
        field f;
        HN_TRY(next_field(&r, &f));
        if (f.number < 2 || f.number > 5) continue;
        HN_TRY(want(&r, &f, f.number == 2 ? 2 : 0));
        if (f.number == 2 && f.n > 0) {
            HN_TRY(hn_charsmap_check(f.data, f.n, r.where));
            hn_free(t->sp.charsmap);
            t->sp.charsmap = hn_malloc(f.n);
            if (t->sp.charsmap == NULL)
                return HN_FAIL(HN_ERR_MEMORY, "%s: normalisation rules", r.where);
            memcpy(t->sp.charsmap, f.data, f.n);
            t->sp.n_charsmap = f.n;
        }
        if (f.number == 3) t->sp.dummy_prefix = f.value != 0;
        if (f.number == 4) t->sp.remove_extra_spaces = f.value != 0;
        if (f.number == 5) *escape = f.value != 0;
    }
    return HN_OK;
}

static hn_status read_model(hn_tokenizer *t, reader r)
{
    int64_t bos = 1, eos = 2, id = 0; /* the settings' defaults */
    bool escape = true;
    t->model = HN_MODEL_SP_UNIGRAM;
    t->sp.dummy_prefix = t->sp.remove_extra_spaces = true;
    while (r.p < r.end) {
        field f;
        HN_TRY(next_field(&r, &f));
        if (f.number < 1 || f.number > 5 || f.number == 4) continue; /* 4: self-test samples */
        HN_TRY(want(&r, &f, 2));
        if (f.number == 1) HN_TRY(read_piece(t, inside(&r, &f), id++));
        if (f.number == 2) HN_TRY(read_trainer(t, inside(&r, &f), &bos, &eos));
        if (f.number == 3) HN_TRY(read_normalizer(t, inside(&r, &f), &escape));
        if (f.number == 5 && f.n > 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: denormalizer_spec", r.where);
    }
    if (t->unk_model < 0) return HN_FAIL(HN_ERR_FORMAT, "%s: no unknown piece", r.where);
    t->sp.n_space = escape ? 3 : 1;
    memcpy(t->sp.space, escape ? "\xe2\x96\x81" : " ", t->sp.n_space);
    const hn_tok_vocab *v = &t->vocab;
    if (bos >= 0 && bos < v->n_ids && v->piece[bos].type == HN_PIECE_CONTROL) t->bos = (int32_t)bos;
    if (eos >= 0 && eos < v->n_ids && v->piece[eos].type == HN_PIECE_CONTROL) t->eos = (int32_t)eos;
    return hn_tok_finish_sp(t, r.where);
}

hn_status hn_tok_parse_sp(const unsigned char *data, size_t n, const char *where,
                          hn_tokenizer **out)
{
    hn_status st = HN_OK;
    hn_tokenizer *t = NULL;
    if (n == 0) return HN_FAIL(HN_ERR_FORMAT, "%s: empty file", where);
    HN_TRY(hn_tok_new(&t));
    const reader r = {.p = data, .end = data + n, .start = data, .where = where};
    HN_TRY_GOTO(st, read_model(t, r), done);
    *out = t;
    t = NULL;

done:
    hn_tokenizer_free(t);
    return st;
}
