/* tokenizer.json: its model and its added tokens; the other components are in
 * tokenizer_json_steps.c. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/data/tokenizer_impl.h"

hn_status hn_tok_json_vocab(hn_tokenizer *t, const json_t *vocab, const char *where)
{
    const char *piece;
    json_t *id;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: the vocabulary is not an object of tokens", where);
    json_object_foreach((json_t *)(size_t)vocab, piece, id)
    {
        if (!json_is_integer(id))
            return HN_FAIL(HN_ERR_FORMAT, "%s: the id of token '%.40s' is not an integer", where,
                           piece);
        HN_TRY(hn_vocab_set(&t->vocab, json_integer_value(id), piece, strlen(piece),
                            HN_PIECE_NORMAL, true, where));
    }
    return HN_OK;
}

/* Both spellings: ["left", "right"] and "left right". */
static hn_status read_merges(hn_tokenizer *t, const json_t *merges, const char *where)
{
    if (!json_is_array(merges))
        return HN_FAIL(HN_ERR_FORMAT, "%s: model.merges is not a list", where);
    HN_TRY(hn_merges_reserve(&t->merges, (int64_t)json_array_size(merges)));
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i);
        const json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        const char *s = json_string_value(m), *space = s != NULL ? strchr(s, ' ') : NULL;
        if (space != NULL && space > s && space[1] != '\0' && strchr(space + 1, ' ') == NULL) {
            HN_TRY(hn_tok_add_merge(t, s, (size_t)(space - s), space + 1, strlen(space + 1),
                                    (int64_t)i, where));
        } else if (json_array_size(m) == 2 && json_is_string(left) && json_is_string(right)) {
            HN_TRY(hn_tok_add_merge(t, json_string_value(left), json_string_length(left),
                                    json_string_value(right), json_string_length(right), (int64_t)i,
                                    where));
        } else {
            return HN_FAIL(HN_ERR_FORMAT, "%s: merge %zu is not two tokens", where, i);
        }
    }
    return HN_OK;
}

static hn_status read_unk(hn_tokenizer *t, const json_t *model, bool required, const char *where)
{
    const char *name = NULL;
    HN_TRY(hn_json_get_text(model, "unk_token", where, required, &name));
    if (name == NULL) return HN_OK;
    t->unk = t->unk_model = hn_vocab_find(&t->vocab, name, strlen(name));
    if (t->unk >= 0) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "%s: unk_token '%.40s' is not in model.vocab", where, name);
}

static hn_status refuse_text(const json_t *model, const char *key, const char *where)
{
    const char *s = "";
    HN_TRY(hn_json_get_text(model, key, where, false, &s));
    if (s[0] == '\0') return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: model.%s '%.40s' is not supported", where, key, s);
}

static hn_status read_bpe(hn_tokenizer *t, const json_t *model, const char *where)
{
    double dropout = 0;
    t->model = HN_MODEL_BPE;
    HN_TRY(hn_json_get_f64(model, "dropout", where, false, &dropout));
    if (dropout != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: model.dropout %g is not supported", where, dropout);
    HN_TRY(refuse_text(model, "continuing_subword_prefix", where));
    HN_TRY(refuse_text(model, "end_of_word_suffix", where));
    HN_TRY(hn_json_get_bool(model, "byte_fallback", where, false, &t->byte_fallback));
    HN_TRY(hn_json_get_bool(model, "fuse_unk", where, false, &t->fuse_unk));
    HN_TRY(hn_json_get_bool(model, "ignore_merges", where, false, &t->ignore_merges));
    HN_TRY(hn_tok_json_vocab(t, json_object_get(model, "vocab"), where));
    HN_TRY(read_merges(t, json_object_get(model, "merges"), where));
    HN_TRY(read_unk(t, model, false, where));
    hn_vocab_bytes(&t->vocab, false);
    return HN_OK;
}

static hn_status read_word_level(hn_tokenizer *t, const json_t *model, const char *where)
{
    t->model = HN_MODEL_WORD_LEVEL;
    HN_TRY(hn_tok_json_vocab(t, json_object_get(model, "vocab"), where));
    return read_unk(t, model, true, where);
}

static hn_status read_unigram(hn_tokenizer *t, const json_t *model, const char *where)
{
    const json_t *vocab = json_object_get(model, "vocab");
    int64_t unk = -1;
    t->model = HN_MODEL_UNIGRAM;
    if (!json_is_array(vocab) || json_array_size(vocab) == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: model.vocab is not a list of pieces", where);
    for (size_t i = 0; i < json_array_size(vocab); i++) {
        const json_t *piece = json_array_get(json_array_get(vocab, i), 0);
        const json_t *score = json_array_get(json_array_get(vocab, i), 1);
        if (!json_is_string(piece) || !json_is_number(score))
            return HN_FAIL(HN_ERR_FORMAT, "%s: model.vocab[%zu] is not [piece, score]", where, i);
        HN_TRY(hn_vocab_set(&t->vocab, (int64_t)i, json_string_value(piece),
                            json_string_length(piece), HN_PIECE_NORMAL, true, where));
        t->vocab.piece[i].score = json_number_value(score);
    }
    HN_TRY(hn_json_get_i64(model, "unk_id", where, 0, t->vocab.n_ids - 1, true, &unk));
    HN_TRY(hn_json_get_bool(model, "byte_fallback", where, false, &t->byte_fallback));
    t->unk = t->unk_model = (int32_t)unk;
    HN_TRY(hn_vocab_rank(&t->vocab, where));
    hn_vocab_bytes(&t->vocab, false);
    return HN_OK;
}

static hn_status read_model(hn_tokenizer *t, const json_t *model, const char *where)
{
    const char *type = NULL;
    HN_TRY(hn_json_get_text(model, "type", where, false, &type));
    if (type == NULL && json_object_get(model, "merges") != NULL) type = "BPE"; /* old files */
    if (type == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: model.type is missing", where);
    if (strcmp(type, "BPE") == 0) return read_bpe(t, model, where);
    if (strcmp(type, "WordLevel") == 0) return read_word_level(t, model, where);
    if (strcmp(type, "Unigram") == 0) return read_unigram(t, model, where);
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: model '%.40s' is not supported", where, type);
}

hn_status hn_tok_json_added(hn_tokenizer *t, const json_t *j, int64_t id, int64_t n_model,
                            const char *where)
{
    const json_t *content = json_object_get(j, "content");
    const char *s = json_string_value(content);
    const size_t n = json_string_length(content);
    const bool beside = n_model < 0;
    hn_tok_added a = {0};
    if (s == NULL || n == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: added token %lld has no content", where, (long long)id);
    HN_TRY(hn_json_get_bool(j, "special", where, false, &a.special));
    a.normalized = !a.special;
    HN_TRY(hn_json_get_bool(j, "single_word", where, false, &a.single_word));
    HN_TRY(hn_json_get_bool(j, "lstrip", where, false, &a.lstrip));
    HN_TRY(hn_json_get_bool(j, "rstrip", where, false, &a.rstrip));
    HN_TRY(hn_json_get_bool(j, "normalized", where, false, &a.normalized));
    /* The library numbers new tokens itself, whatever the file says: they must agree. */
    const int64_t next = t->max_added >= n_model ? t->max_added + 1 : n_model;
    const int64_t known = hn_vocab_find_any(&t->vocab, s, n);
    const int64_t wanted = known >= 0 ? known : beside ? id : next;
    if (wanted != id)
        return HN_FAIL(HN_ERR_FORMAT, "%s: added token '%.40s' has id %lld, it must be %lld", where,
                       s, (long long)id, (long long)wanted);
    if (known < 0) HN_TRY(hn_vocab_set(&t->vocab, id, s, n, HN_PIECE_NORMAL, false, where));
    if (beside && t->is_json && t->vocab.piece[id].added >= 0) return HN_OK;
    if (beside && !t->is_json) a.normalized = false; /* only tokenizer.json knows the word */
    a.id = (int32_t)id;
    return hn_added_push(t, a);
}

static hn_status read_added(hn_tokenizer *t, const json_t *list, const char *where)
{
    const int64_t n_model = t->vocab.n_pieces;
    if (list != NULL && !json_is_null(list) && !json_is_array(list))
        return HN_FAIL(HN_ERR_FORMAT, "%s: added_tokens is not a list", where);
    for (size_t i = 0; i < json_array_size(list); i++) {
        int64_t id;
        const json_t *a = json_array_get(list, i);
        HN_TRY(hn_json_get_i64(a, "id", where, 0, HN_TOK_MAX_IDS - 1, true, &id));
        HN_TRY(hn_tok_json_added(t, a, id, n_model, where));
    }
    return HN_OK;
}

static hn_status read_all(hn_tokenizer *t, const json_t *j, const char *where)
{
    const char *version = "1.0";
    HN_TRY(hn_json_get_text(j, "version", where, false, &version));
    if (strcmp(version, "1.0") != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: version '%.20s', known is 1.0", where, version);
    if (!json_is_object(json_object_get(j, "model")))
        return HN_FAIL(HN_ERR_FORMAT, "%s: there is no object 'model'", where);
    HN_TRY(read_model(t, json_object_get(j, "model"), where));
    HN_TRY(hn_tok_json_normalizer(t, json_object_get(j, "normalizer"), where));
    HN_TRY(read_added(t, json_object_get(j, "added_tokens"), where));
    HN_TRY(hn_tok_json_pre(t, json_object_get(j, "pre_tokenizer"), where));
    HN_TRY(hn_tok_json_post(t, json_object_get(j, "post_processor"), where));
    return hn_tok_json_decoder(t, json_object_get(j, "decoder"), where);
}

hn_status hn_tok_parse_json(const char *text, size_t n, const char *where, hn_tokenizer **out)
{
    hn_status st = HN_OK;
    json_t *j = NULL;
    hn_tokenizer *t = NULL;
    HN_TRY(hn_json_parse(text, n, where, &j));
    HN_TRY_GOTO(st, hn_tok_new(&t), done);
    t->is_json = true;
    hn_vocab_limit(&t->vocab, n);
    HN_TRY_GOTO(st, read_all(t, j, where), done);
    *out = t;
    t = NULL;

done:
    hn_tokenizer_free(t);
    json_decref(j);
    return st;
}
