/* The vocabulary inside a GGUF file (versions 2 and 3, little-endian): keys tokenizer.ggml.*.
 *
 * Head: "GGUF", uint32 version, uint64 tensors, uint64 key-values; then for each key a string
 * (uint64 length, bytes), a uint32 type and the value; an array is a uint32 element type, a
 * uint64 count and the elements. Only the key-value part is read. GGUF does not record lstrip,
 * rstrip and single_word of added tokens; they count as unset. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, N_TYPES };
static const unsigned char type_size[N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct {
    const unsigned char *p, *end, *start;
    const char *where;
} reader;

typedef struct {
    uint32_t type, of;         /* of: element type of an array */
    uint64_t n;                /* elements of an array, bytes of a string */
    const unsigned char *data; /* NULL: the key is absent */
} value;

/* clang-format off */
#define KEYS(X)                                          \
    X(MODEL,    "model")          X(PRE,      "pre")     \
    X(TOKENS,   "tokens")         X(SCORES,   "scores")  \
    X(TYPES,    "token_type")     X(MERGES,   "merges")  \
    X(BOS,      "bos_token_id")   X(EOS,      "eos_token_id") \
    X(UNK,      "unknown_token_id")                      \
    X(ADD_BOS,  "add_bos_token")  X(ADD_EOS,  "add_eos_token") \
    X(PREFIX,   "add_space_prefix")                      \
    X(SPACES,   "remove_extra_whitespaces")              \
    X(CHARSMAP, "precompiled_charsmap")
enum {
#define X(id, name) id,
    KEYS(X)
#undef X
    N_KEYS
};
static const char *const key_name[N_KEYS] = {
#define X(id, name) "tokenizer.ggml." name,
    KEYS(X)
#undef X
};
/* clang-format on */

static hn_status damaged(const reader *r, const char *what)
{
    return HN_FAIL(HN_ERR_FORMAT, "%s: byte %zu of the GGUF file: %s", r->where,
                   (size_t)(r->p - r->start), what);
}

static hn_status need(const reader *r, uint64_t n)
{
    return n <= (uint64_t)(r->end - r->p) ? HN_OK : damaged(r, "runs over the end of the file");
}

static uint64_t bits_at(const unsigned char *p, int n)
{
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static hn_status take(reader *r, int n, uint64_t *out)
{
    HN_TRY(need(r, (uint64_t)n));
    *out = bits_at(r->p, n);
    r->p += n;
    return HN_OK;
}

static hn_status take_string(reader *r, const unsigned char **s, uint64_t *n)
{
    HN_TRY(take(r, 8, n));
    HN_TRY(need(r, *n));
    *s = r->p;
    r->p += *n;
    return HN_OK;
}

static hn_status take_value(reader *r, value *v)
{
    uint64_t type = 0, of = 0, n = 1;
    const unsigned char *s;
    uint64_t len = 0;
    HN_TRY(take(r, 4, &type));
    if (type == ARRAY) {
        HN_TRY(take(r, 4, &of));
        HN_TRY(take(r, 8, &n));
        if (of == ARRAY) return damaged(r, "array of arrays");
    }
    const uint64_t element = type == ARRAY ? of : type;
    if (type >= N_TYPES || element >= N_TYPES) return damaged(r, "unknown value type");
    *v = (value){.type = (uint32_t)type, .of = (uint32_t)of, .n = n, .data = r->p};
    if (element != STRING) {
        if (n > (uint64_t)(r->end - r->p)) return damaged(r, "array is longer than the file");
        HN_TRY(need(r, n * type_size[element]));
        r->p += n * type_size[element];
        return HN_OK;
    }
    for (uint64_t i = 0; i < n; i++) HN_TRY(take_string(r, &s, &len));
    if (type == STRING) *v = (value){.type = STRING, .n = len, .data = s};
    return HN_OK;
}

static hn_status take_keys(reader *r, value found[N_KEYS])
{
    uint64_t version = 0, n_tensors = 0, n_keys = 0;
    if (r->end - r->p < 4 || memcmp(r->p, "GGUF", 4) != 0) return damaged(r, "not a GGUF file");
    r->p += 4;
    HN_TRY(take(r, 4, &version));
    if (version != 2 && version != 3)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: GGUF version %llu, known are 2 and 3", r->where,
                       (unsigned long long)version);
    HN_TRY(take(r, 8, &n_tensors));
    HN_TRY(take(r, 8, &n_keys));
    for (uint64_t i = 0; i < n_keys; i++) {
        const unsigned char *name;
        uint64_t n;
        value v;
        HN_TRY(take_string(r, &name, &n));
        HN_TRY(take_value(r, &v));
        for (int k = 0; k < N_KEYS; k++) {
            if (n != strlen(key_name[k]) || memcmp(name, key_name[k], n) != 0) continue;
            if (found[k].data != NULL) return damaged(r, "key appears twice");
            found[k] = v;
        }
    }
    return HN_OK;
}

static hn_status want(const reader *r, const value *v, int key, bool ok)
{
    if (v[key].data == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key %s is missing", r->where, key_name[key]);
    if (!ok)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key %s has the wrong type", r->where, key_name[key]);
    return HN_OK;
}

/* A token id; unchanged when the key is absent. */
static hn_status get_id(const reader *r, const value *v, int key, int64_t n_ids, int32_t *out)
{
    if (v[key].data == NULL) return HN_OK;
    HN_TRY(want(r, v, key, v[key].type == U32 || v[key].type == I32));
    const uint64_t id = bits_at(v[key].data, 4);
    if (id >= (uint64_t)n_ids)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s is %llu, there are %lld tokens", r->where,
                       key_name[key], (unsigned long long)id, (long long)n_ids);
    *out = (int32_t)id;
    return HN_OK;
}

static hn_status get_bool(const reader *r, const value *v, int key, int *out)
{
    if (v[key].data == NULL) return HN_OK;
    HN_TRY(want(r, v, key, v[key].type == BOOL));
    *out = v[key].data[0] != 0;
    return HN_OK;
}

static bool is_text(const value *v, const char *s)
{
    return v->n == strlen(s) && memcmp(v->data, s, v->n) == 0;
}

/* Tokens, scores and types; sp: SentencePiece, where user-defined and unused pieces merge. */
static hn_status read_tokens(hn_tokenizer *t, const reader *r, const value *v, bool sp)
{
    const value *scores = &v[SCORES], *types = &v[TYPES];
    HN_TRY(want(r, v, TOKENS, v[TOKENS].type == ARRAY && v[TOKENS].of == STRING));
    const uint64_t n = v[TOKENS].n;
    if (sp || scores->data != NULL)
        HN_TRY(want(r, v, SCORES, scores->type == ARRAY && scores->of == F32 && scores->n == n));
    if (sp || types->data != NULL)
        HN_TRY(
            want(r, v, TYPES,
                 types->type == ARRAY && (types->of == I32 || types->of == U32) && types->n == n));
    reader strings = {.p = v[TOKENS].data, .end = r->end, .start = r->start, .where = r->where};
    for (uint64_t i = 0; i < n; i++) {
        const unsigned char *s;
        uint64_t len,
            type = types->data != NULL ? bits_at(types->data + 4 * i, 4) : HN_PIECE_NORMAL;
        HN_TRY(take_string(&strings, &s, &len));
        if (type < HN_PIECE_NORMAL || type > HN_PIECE_BYTE)
            return HN_FAIL(HN_ERR_FORMAT, "%s: token %llu has type %llu", r->where,
                           (unsigned long long)i, (unsigned long long)type);
        const bool merges = type == HN_PIECE_NORMAL || (!sp && type == HN_PIECE_BYTE) ||
                            (sp && (type == HN_PIECE_USER || type == HN_PIECE_UNUSED));
        HN_TRY(hn_vocab_set(&t->vocab, (int64_t)i, (const char *)s, len, (int)type,
                            merges && len > 0, r->where));
        float score = 0;
        if (scores->data != NULL) memcpy(&score, scores->data + 4 * i, sizeof score);
        t->vocab.piece[i].score = (double)score;
    }
    return HN_OK;
}

static hn_status finish_llama(hn_tokenizer *t, const reader *r, const value *v)
{
    int prefix = 1, spaces = 0;
    if (v[CHARSMAP].data != NULL && v[CHARSMAP].n > 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %s with model 'llama'", r->where,
                       key_name[CHARSMAP]);
    HN_TRY(get_bool(r, v, PREFIX, &prefix));
    HN_TRY(get_bool(r, v, SPACES, &spaces));
    t->model = HN_MODEL_PIECE_BPE;
    hn_vocab_bytes(&t->vocab, true);
    t->byte_fallback = t->vocab.all_bytes;
    t->sp.dummy_prefix = prefix != 0;
    t->sp.remove_extra_spaces = spaces != 0;
    t->sp.n_space = 3;
    memcpy(t->sp.space, "\xe2\x96\x81", 3);
    if (t->add_bos < 0) t->add_bos = t->bos >= 0;
    t->unk_model = t->unk;
    return hn_tok_finish_sp(t, r->where);
}

static hn_status read_merges(hn_tokenizer *t, const reader *r, const value *v)
{
    HN_TRY(want(r, v, MERGES, v[MERGES].type == ARRAY && v[MERGES].of == STRING));
    HN_TRY(hn_merges_reserve(&t->merges, (int64_t)v[MERGES].n));
    reader strings = {.p = v[MERGES].data, .end = r->end, .start = r->start, .where = r->where};
    for (uint64_t i = 0; i < v[MERGES].n; i++) {
        const unsigned char *s;
        uint64_t n;
        HN_TRY(take_string(&strings, &s, &n));
        const char *left = (const char *)s, *space = n > 1 ? memchr(left + 1, ' ', n - 1) : NULL;
        if (space == NULL || space + 1 == left + n)
            return HN_FAIL(HN_ERR_FORMAT, "%s: merge %llu is not two tokens", r->where,
                           (unsigned long long)i);
        HN_TRY(hn_tok_add_merge(t, left, (size_t)(space - left), space + 1,
                                (size_t)(left + n - space - 1), (int64_t)i, r->where));
    }
    return HN_OK;
}

static hn_status finish_gpt2(hn_tokenizer *t, const reader *r, const value *v)
{
    HN_TRY(want(r, v, PRE, v[PRE].type == STRING));
    HN_TRY(read_merges(t, r, v));
    t->model = HN_MODEL_BPE;
    t->unk_model = t->unk;
    for (int64_t i = 0; i < t->vocab.n_ids; i++) {
        const int type = t->vocab.piece[i].type;
        if (t->vocab.piece[i].n > 0 && (type == HN_PIECE_CONTROL || type == HN_PIECE_USER))
            HN_TRY(hn_added_push(
                t, (hn_tok_added){.id = (int32_t)i, .special = type == HN_PIECE_CONTROL}));
    }
    char *name = hn_strndup((const char *)v[PRE].data, v[PRE].n);
    if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s", r->where);
    const hn_status st = hn_tok_known_pre(t, name, r->where);
    hn_free(name);
    return st;
}

static hn_status read_all(hn_tokenizer *t, reader *r)
{
    value v[N_KEYS] = {{0}};
    HN_TRY(take_keys(r, v));
    HN_TRY(want(r, v, MODEL, v[MODEL].type == STRING));
    const bool llama = is_text(&v[MODEL], "llama"), gpt2 = is_text(&v[MODEL], "gpt2");
    if (!llama && !gpt2)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: %s is '%.*s', known are 'llama' (SentencePiece BPE) and 'gpt2' "
                       "(byte-level BPE)",
                       r->where, key_name[MODEL], v[MODEL].n < 40 ? (int)v[MODEL].n : 40,
                       (const char *)v[MODEL].data);
    HN_TRY(read_tokens(t, r, v, llama));
    const int64_t n = t->vocab.n_ids;
    HN_TRY(get_id(r, v, BOS, n, &t->bos));
    HN_TRY(get_id(r, v, EOS, n, &t->eos));
    HN_TRY(get_id(r, v, UNK, n, &t->unk));
    HN_TRY(get_bool(r, v, ADD_BOS, &t->add_bos));
    HN_TRY(get_bool(r, v, ADD_EOS, &t->add_eos));
    return llama ? finish_llama(t, r, v) : finish_gpt2(t, r, v);
}

hn_status hn_tok_parse_gguf(const unsigned char *data, size_t n, const char *where, size_t *used,
                            hn_tokenizer **out)
{
    hn_status st = HN_OK;
    hn_tokenizer *t = NULL;
    reader r = {.p = data, .end = data + n, .start = data, .where = where};
    HN_TRY(hn_tok_new(&t));
    HN_TRY_GOTO(st, read_all(t, &r), done);
    *used = (size_t)(r.p - r.start);
    *out = t;
    t = NULL;

done:
    hn_tokenizer_free(t);
    return st;
}
