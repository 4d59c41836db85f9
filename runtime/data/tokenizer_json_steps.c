/* The components of tokenizer.json around the model. Every one that is not known is refused by its
 * name and the part it stands in. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/data/tokenizer_impl.h"

enum { MAX_DEPTH = 8 }; /* of Sequence inside Sequence */

static hn_status refuse(const char *where, const char *part, const char *type)
{
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %s '%.60s' is not supported", where, part, type);
}

static hn_status copy_text(const char *s, size_t n, char **out)
{
    char *copy = hn_malloc(n + 1); /* the text may hold zeros */
    if (copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes", n);
    memcpy(copy, s, n);
    copy[n] = '\0';
    *out = copy;
    return HN_OK;
}

/* A string with its length; one character when `single`. */
static hn_status get_text(const json_t *j, const char *key, bool single, const char *where,
                          char **out, size_t *n)
{
    const json_t *v = json_object_get(j, key);
    int32_t c;
    if (!json_is_string(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is missing or not a string", where, key);
    const char *s = json_string_value(v);
    const size_t len = json_string_length(v);
    if (single && (len == 0 || hn_utf8_next(s, len, &c) != len))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not one character", where, key);
    HN_TRY(copy_text(s, len, out));
    *n = len;
    return HN_OK;
}

static hn_status get_pattern(const json_t *j, const char *where, hn_tok_pattern *out)
{
    const json_t *p = json_object_get(j, "pattern");
    const json_t *literal = json_object_get(p, "String"), *regex = json_object_get(p, "Regex");
    if (json_is_string(regex))
        return hn_regex_make(json_string_value(regex), json_string_length(regex), where, &out->re);
    if (!json_is_string(literal))
        return HN_FAIL(HN_ERR_FORMAT, "%s: 'pattern' has neither a String nor a Regex", where);
    if (json_string_length(literal) == 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: an empty 'pattern'", where);
    out->n = json_string_length(literal);
    return copy_text(json_string_value(literal), out->n, &out->literal);
}

static hn_status get_list(const json_t *j, const char *key, int depth, const char *where,
                          const json_t **out)
{
    const json_t *list = json_object_get(j, key);
    if (!json_is_array(list))
        return HN_FAIL(HN_ERR_FORMAT, "%s: Sequence without the list '%s'", where, key);
    if (depth >= MAX_DEPTH)
        return HN_FAIL(HN_ERR_FORMAT, "%s: more than %d Sequences inside each other", where,
                       MAX_DEPTH);
    *out = list;
    return HN_OK;
}

/* ---- normalizers ---- */

static hn_status normalizer(hn_tokenizer *t, const json_t *j, int depth, const char *where)
{
    static const struct {
        const char *name;
        hn_tok_norm_kind kind;
    } plain[] = {{"NFC", HN_NORM_NFC},
                 {"NFD", HN_NORM_NFD},
                 {"NFKC", HN_NORM_NFKC},
                 {"NFKD", HN_NORM_NFKD},
                 {"Lowercase", HN_NORM_LOWERCASE},
                 {"StripAccents", HN_NORM_STRIP_ACCENTS}};
    const char *type;
    hn_status st = HN_OK;
    hn_tok_norm step = {0};
    HN_TRY(hn_json_get_text(j, "type", where, true, &type));
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (strcmp(type, plain[i].name) == 0)
            return hn_tok_add_norm(t, (hn_tok_norm){.kind = plain[i].kind});
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL;
        HN_TRY(get_list(j, "normalizers", depth, where, &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            HN_TRY(normalizer(t, json_array_get(list, i), depth + 1, where));
        return HN_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        step.kind = HN_NORM_STRIP;
        HN_TRY(hn_json_get_bool(j, "strip_left", where, true, &step.left));
        HN_TRY(hn_json_get_bool(j, "strip_right", where, true, &step.right));
    } else if (strcmp(type, "Prepend") == 0) {
        step.kind = HN_NORM_PREPEND;
        HN_TRY(get_text(j, "prepend", false, where, &step.text, &step.n));
    } else if (strcmp(type, "Replace") == 0) {
        step.kind = HN_NORM_REPLACE;
        HN_TRY(get_pattern(j, where, &step.find));
        st = get_text(j, "content", false, where, &step.text, &step.n);
    } else {
        return refuse(where, "normalizer", type);
    }
    if (st == HN_OK) return hn_tok_add_norm(t, step);
    hn_pattern_free(&step.find);
    return st;
}

hn_status hn_tok_json_normalizer(hn_tokenizer *t, const json_t *j, const char *where)
{
    return j == NULL || json_is_null(j) ? HN_OK : normalizer(t, j, 0, where);
}

/* ---- pre-tokenizers ---- */

static hn_status get_keep(const json_t *j, const char *where, hn_tok_keep initial, hn_tok_keep *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = NULL;
    HN_TRY(hn_json_get_text(j, "behavior", where, false, &name));
    *out = initial;
    if (name == NULL) return HN_OK;
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (hn_tok_keep)i;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_FORMAT, "%s: unknown behavior '%.40s'", where, name);
}

static hn_status split(hn_tokenizer *t, const json_t *j, const char *where)
{
    hn_tok_split step = {.kind = HN_SPLIT_PATTERN};
    if (json_object_get(j, "behavior") == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: Split without 'behavior'", where);
    HN_TRY(get_keep(j, where, HN_KEEP_ISOLATED, &step.keep));
    HN_TRY(hn_json_get_bool(j, "invert", where, false, &step.invert));
    HN_TRY(get_pattern(j, where, &step.find));
    return hn_tok_add_split(t, step);
}

static hn_status byte_level(hn_tokenizer *t, const json_t *j, const char *where)
{
    bool space = true, regex = true;
    HN_TRY(hn_json_get_bool(j, "add_prefix_space", where, true, &space));
    HN_TRY(hn_json_get_bool(j, "use_regex", where, false, &regex));
    if (space) HN_TRY(hn_tok_add_split(t, (hn_tok_split){.kind = HN_SPLIT_SPACE}));
    if (regex) HN_TRY(hn_tok_add_regex(t, hn_tok_gpt2_regex, HN_KEEP_ISOLATED, where));
    return hn_tok_add_split(t, (hn_tok_split){.kind = HN_SPLIT_BYTES});
}

/* prepend_scheme, and its older form add_prefix_space. */
static hn_status get_scheme(const json_t *j, const char *where, hn_tok_scheme *out)
{
    static const char *const names[] = {"always", "first", "never"};
    const char *name = NULL;
    bool space = true;
    HN_TRY(hn_json_get_text(j, "prepend_scheme", where, false, &name));
    HN_TRY(hn_json_get_bool(j, "add_prefix_space", where, false, &space));
    *out = space ? HN_PREPEND_ALWAYS : HN_PREPEND_NEVER;
    if (name == NULL) return HN_OK;
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        if (!space && i != HN_PREPEND_NEVER)
            return HN_FAIL(HN_ERR_FORMAT, "%s: prepend_scheme '%s' with add_prefix_space false",
                           where, name);
        *out = (hn_tok_scheme)i;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_FORMAT, "%s: unknown prepend_scheme '%.40s'", where, name);
}

static hn_status metaspace(hn_tokenizer *t, const json_t *j, const char *where)
{
    hn_tok_split step = {.kind = HN_SPLIT_METASPACE, .cut = true};
    HN_TRY(get_scheme(j, where, &step.scheme));
    HN_TRY(hn_json_get_bool(j, "split", where, false, &step.cut));
    HN_TRY(get_text(j, "replacement", true, where, &step.text, &step.n));
    return hn_tok_add_split(t, step);
}

static hn_status by_chars(hn_tokenizer *t, bool (*is)(int32_t), hn_tok_keep keep)
{
    return hn_tok_add_split(t, (hn_tok_split){.kind = HN_SPLIT_CHARS, .is = is, .keep = keep});
}

static hn_status pre_tokenizer(hn_tokenizer *t, const json_t *j, int depth, const char *where)
{
    const char *type;
    HN_TRY(hn_json_get_text(j, "type", where, true, &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL;
        HN_TRY(get_list(j, "pretokenizers", depth, where, &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            HN_TRY(pre_tokenizer(t, json_array_get(list, i), depth + 1, where));
        return HN_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) return byte_level(t, j, where);
    if (strcmp(type, "Split") == 0) return split(t, j, where);
    if (strcmp(type, "Metaspace") == 0) return metaspace(t, j, where);
    if (strcmp(type, "Whitespace") == 0)
        return hn_tok_add_split(t, (hn_tok_split){.kind = HN_SPLIT_WORDS});
    if (strcmp(type, "WhitespaceSplit") == 0) return by_chars(t, hn_is_space, HN_KEEP_REMOVED);
    if (strcmp(type, "BertPreTokenizer") == 0) {
        HN_TRY(by_chars(t, hn_is_space, HN_KEEP_REMOVED));
        return by_chars(t, hn_is_punctuation, HN_KEEP_ISOLATED);
    }
    if (strcmp(type, "Punctuation") == 0) {
        hn_tok_keep keep;
        HN_TRY(get_keep(j, where, HN_KEEP_ISOLATED, &keep));
        return by_chars(t, hn_is_punctuation, keep);
    }
    if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        HN_TRY(hn_json_get_bool(j, "individual_digits", where, false, &individual));
        return by_chars(t, hn_is_numeric, individual ? HN_KEEP_ISOLATED : HN_KEEP_CONTIGUOUS);
    }
    return refuse(where, "pre_tokenizer", type);
}

hn_status hn_tok_json_pre(hn_tokenizer *t, const json_t *j, const char *where)
{
    return j == NULL || json_is_null(j) ? HN_OK : pre_tokenizer(t, j, 0, where);
}

/* ---- post-processors ---- */

static hn_status push_id(hn_tokenizer *t, hn_tokens *list, const json_t *id, const char *where)
{
    const json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
    if (v < 0 || v >= t->vocab.n_ids || hn_vocab_text(&t->vocab, (int32_t)v, NULL) == NULL)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: post_processor names token id %lld, which does not exist", where,
                       (long long)v);
    return hn_tokens_push(list, (int32_t)v);
}

/* The ids of one special token of a template. */
static hn_status push_special(hn_tokenizer *t, hn_tokens *list, const json_t *j,
                              const json_t *special, const char *where)
{
    const char *name;
    HN_TRY(hn_json_get_text(j, "id", where, true, &name));
    const json_t *ids = json_object_get(json_object_get(special, name), "ids");
    if (!json_is_array(ids))
        return HN_FAIL(HN_ERR_FORMAT, "%s: post_processor: special token '%.40s' has no ids", where,
                       name);
    for (size_t i = 0; i < json_array_size(ids); i++)
        HN_TRY(push_id(t, list, json_array_get(ids, i), where));
    return HN_OK;
}

/* Puts what a post-processor adds around what the ones before it have added. */
static hn_status wrap(hn_tokenizer *t, const hn_tokens *before, const hn_tokens *after)
{
    hn_tokens prefix = {0};
    hn_status st = HN_OK;
    for (int64_t i = 0; i < before->n; i++)
        HN_TRY_GOTO(st, hn_tokens_push(&prefix, before->id[i]), done);
    for (int64_t i = 0; i < t->prefix.n; i++)
        HN_TRY_GOTO(st, hn_tokens_push(&prefix, t->prefix.id[i]), done);
    for (int64_t i = 0; i < after->n; i++)
        HN_TRY_GOTO(st, hn_tokens_push(&t->suffix, after->id[i]), done);
    const hn_tokens old = t->prefix;
    t->prefix = prefix;
    prefix = old;

done:
    hn_tokens_free(&prefix);
    return st;
}

static hn_status template_parts(hn_tokenizer *t, const json_t *j, hn_tokens part[2],
                                const char *where)
{
    const json_t *single = json_object_get(j, "single"),
                 *special = json_object_get(j, "special_tokens");
    int side = 0;
    if (!json_is_array(single))
        return HN_FAIL(HN_ERR_FORMAT, "%s: TemplateProcessing without the list 'single'", where);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *token = json_object_get(item, "SpecialToken");
        const char *name =
            json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));
        if (token != NULL) {
            HN_TRY(push_special(t, &part[side], token, special, where));
        } else if (name != NULL && strcmp(name, "A") == 0 && side == 0) {
            side = 1;
        } else {
            return HN_FAIL(HN_ERR_FORMAT, "%s: TemplateProcessing: part %zu of 'single'", where, i);
        }
    }
    if (side == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: TemplateProcessing: 'single' has no sequence A", where);
    return HN_OK;
}

static hn_status template_processing(hn_tokenizer *t, const json_t *j, const char *where)
{
    hn_tokens part[2] = {{0}, {0}};
    hn_status st = template_parts(t, j, part, where);
    if (st == HN_OK) st = wrap(t, &part[0], &part[1]);
    hn_tokens_free(&part[0]);
    hn_tokens_free(&part[1]);
    return st;
}

/* BertProcessing and RobertaProcessing: cls A sep, each a [text, id]. */
static hn_status cls_sep(hn_tokenizer *t, const json_t *j, const char *where)
{
    hn_tokens part[2] = {{0}, {0}};
    hn_status st = push_id(t, &part[0], json_array_get(json_object_get(j, "cls"), 1), where);
    if (st == HN_OK) st = push_id(t, &part[1], json_array_get(json_object_get(j, "sep"), 1), where);
    if (st == HN_OK) st = wrap(t, &part[0], &part[1]);
    hn_tokens_free(&part[0]);
    hn_tokens_free(&part[1]);
    return st;
}

static hn_status post_processor(hn_tokenizer *t, const json_t *j, int depth, const char *where)
{
    const char *type;
    HN_TRY(hn_json_get_text(j, "type", where, true, &type));
    if (strcmp(type, "ByteLevel") == 0) return HN_OK; /* changes offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return template_processing(t, j, where);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return cls_sep(t, j, where);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL;
        HN_TRY(get_list(j, "processors", depth, where, &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            HN_TRY(post_processor(t, json_array_get(list, i), depth + 1, where));
        return HN_OK;
    }
    return refuse(where, "post_processor", type);
}

hn_status hn_tok_json_post(hn_tokenizer *t, const json_t *j, const char *where)
{
    return j == NULL || json_is_null(j) ? HN_OK : post_processor(t, j, 0, where);
}

/* ---- decoders ---- */

static hn_status decoder(hn_tokenizer *t, const json_t *j, int depth, const char *where)
{
    const char *type;
    hn_status st = HN_OK;
    hn_tok_dec step = {0};
    HN_TRY(hn_json_get_text(j, "type", where, true, &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL;
        HN_TRY(get_list(j, "decoders", depth, where, &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            HN_TRY(decoder(t, json_array_get(list, i), depth + 1, where));
        return HN_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        step.kind = HN_DEC_BYTE_LEVEL;
    } else if (strcmp(type, "ByteFallback") == 0) {
        step.kind = HN_DEC_BYTE_FALLBACK;
    } else if (strcmp(type, "Fuse") == 0) {
        step.kind = HN_DEC_FUSE;
    } else if (strcmp(type, "Strip") == 0) {
        step.kind = HN_DEC_STRIP;
        HN_TRY(hn_json_get_i64(j, "start", where, 0, INT32_MAX, true, &step.start));
        HN_TRY(hn_json_get_i64(j, "stop", where, 0, INT32_MAX, true, &step.stop));
        HN_TRY(get_text(j, "content", true, where, &step.text, &step.n));
    } else if (strcmp(type, "Replace") == 0) {
        step.kind = HN_DEC_REPLACE;
        HN_TRY(get_pattern(j, where, &step.find));
        st = get_text(j, "content", false, where, &step.text, &step.n);
    } else if (strcmp(type, "Metaspace") == 0) {
        hn_tok_scheme scheme;
        step.kind = HN_DEC_METASPACE;
        HN_TRY(get_scheme(j, where, &scheme));
        step.drop_first = scheme != HN_PREPEND_NEVER;
        HN_TRY(get_text(j, "replacement", true, where, &step.text, &step.n));
    } else {
        return refuse(where, "decoder", type);
    }
    if (st == HN_OK) return hn_tok_add_dec(t, step);
    hn_pattern_free(&step.find);
    return st;
}

hn_status hn_tok_json_decoder(hn_tokenizer *t, const json_t *j, const char *where)
{
    int64_t joined = -1, fallback = -1;
    if (j == NULL || json_is_null(j)) return HN_OK;
    HN_TRY(decoder(t, j, 0, where));
    for (int64_t i = 0; i < t->n_dec; i++) {
        const hn_tok_dec_kind kind = t->dec[i].kind;
        if (joined < 0 && (kind == HN_DEC_FUSE || kind == HN_DEC_BYTE_LEVEL)) joined = i;
        if (kind == HN_DEC_BYTE_LEVEL && joined != i)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: decoder ByteLevel behind Fuse or ByteLevel",
                           where);
        if (kind != HN_DEC_BYTE_FALLBACK) continue;
        if (joined >= 0 || fallback >= 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "%s: decoder ByteFallback behind Fuse, ByteLevel or ByteFallback",
                           where);
        fallback = i;
    }
    return HN_OK;
}
