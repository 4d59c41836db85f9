#include "runtime/data/template.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/data/data_util.h"

enum { ROWS_LOOKED_AT = 100 };

/* The prompts of stanford_alpaca (train.py), word for word. */
static const char alpaca_head_input[] =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n";
static const char alpaca_head_plain[] =
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n";
static const char alpaca_input[] = "\n\n### Input:\n";
static const char alpaca_response[] = "\n\n### Response:";

static const char *const format_name[] = {
#define X(name, text) text,
    HN_DATA_FORMAT_LIST(X)
#undef X
};

const char *hn_data_format_name(hn_data_format f)
{
    return (unsigned)f < HN_DATA_FORMAT_COUNT ? format_name[f] : "?";
}

hn_status hn_data_format_parse(const char *name, hn_data_format *out)
{
    for (unsigned i = 0; i < HN_DATA_FORMAT_COUNT; i++)
        if (strcmp(name, format_name[i]) == 0) {
            *out = (hn_data_format)i;
            return HN_OK;
        }
    return HN_FAIL(HN_ERR_ARG,
                   "data format '%s' is unknown; known: auto, text, prompt-completion, alpaca, "
                   "tokens (messages, sharegpt and preference are recognised and refused)",
                   name);
}

void hn_rendered_free(hn_rendered *r)
{
    if (r == NULL) return;
    hn_free(r->text);
    hn_free(r->id);
    hn_free(r->trained);
    *r = (hn_rendered){0};
}

static const char *text_key(const hn_template *t) { return t->text_key ? t->text_key : "text"; }

static const char *prompt_key(const hn_template *t)
{
    return t->prompt_key ? t->prompt_key : "prompt";
}

static const char *completion_key(const hn_template *t)
{
    return t->completion_key ? t->completion_key : "completion";
}

static bool has(const json_t *row, const char *key)
{
    const json_t *v = json_object_get(row, key);
    return v != NULL && !json_is_null(v);
}

/* ---- which format ---- */

/* Format of one row by its keys, AUTO when none fits. The more telling keys come first: a row with
 * chosen and rejected answers may also have the columns of alpaca. */
static hn_data_format guess(const hn_template *t, const json_t *row)
{
    if (t->text_key != NULL) return has(row, t->text_key) ? HN_DATA_TEXT : HN_DATA_AUTO;
    if (t->prompt_key != NULL || t->completion_key != NULL)
        return has(row, prompt_key(t)) && has(row, completion_key(t)) ? HN_DATA_PROMPT
                                                                      : HN_DATA_AUTO;
    if (has(row, "input_ids")) return HN_DATA_TOKENS;
    if (has(row, "messages")) return HN_DATA_MESSAGES;
    if (has(row, "conversations")) return HN_DATA_SHAREGPT;
    if (has(row, "chosen") && has(row, "rejected")) return HN_DATA_PREFERENCE;
    if (has(row, "instruction") && has(row, "output")) return HN_DATA_ALPACA;
    if (has(row, "prompt") && has(row, "completion"))
        return json_is_boolean(json_object_get(row, "label")) ? HN_DATA_PREFERENCE : HN_DATA_PROMPT;
    if (has(row, "text")) return HN_DATA_TEXT;
    return HN_DATA_AUTO;
}

static hn_status unknown_keys(const hn_template *t, const json_t *row, const char *where)
{
    char keys[160] = "";
    size_t n = 0;
    for (void *at = json_object_iter((json_t *)(size_t)row); at != NULL;
         at = json_object_iter_next((json_t *)(size_t)row, at)) {
        const int m =
            snprintf(keys + n, sizeof keys - n, "%s%s", n ? ", " : "", json_object_iter_key(at));
        if (m < 0 || (size_t)m >= sizeof keys - n) break;
        n += (size_t)m;
    }
    if (t->text_key != NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is missing; the row has: %s", where,
                       t->text_key, keys);
    if (t->prompt_key != NULL || t->completion_key != NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' or '%s' is missing; the row has: %s", where,
                       prompt_key(t), completion_key(t), keys);
    return HN_FAIL(HN_ERR_FORMAT,
                   "%s: keys %s fit no known format (text; prompt, completion; instruction, input, "
                   "output; input_ids): name the columns with text_key, or prompt_key and "
                   "completion_key",
                   where, n ? keys : "(none)");
}

static hn_status parse_row(const hn_row *row, char *where, size_t size, json_t **out)
{
    snprintf(where, size, "%s:%" PRId64, row->path, row->line);
    json_t *v = NULL;
    HN_TRY(hn_json_parse(row->text, row->n_bytes, where, &v));
    if (!json_is_object(v)) {
        json_decref(v);
        return HN_FAIL(HN_ERR_FORMAT, "%s: row is not a JSON object", where);
    }
    *out = v;
    return HN_OK;
}

enum { WHERE = 300 };

static hn_status detect(hn_template *t, hn_source *s, int64_t *n_looked)
{
    hn_data_format found = HN_DATA_AUTO;
    char first[WHERE] = "", where[WHERE];
    for (*n_looked = 0; *n_looked < ROWS_LOOKED_AT; ++*n_looked) {
        hn_row row;
        json_t *v = NULL;
        HN_TRY(hn_source_next(s, &row));
        if (row.text == NULL) break;
        HN_TRY(parse_row(&row, where, sizeof where, &v));
        const hn_data_format f = guess(t, v);
        const hn_status st = f == HN_DATA_AUTO ? unknown_keys(t, v, where) : HN_OK;
        json_decref(v);
        if (st != HN_OK) return st;
        if (*n_looked == 0) {
            found = f;
            memcpy(first, where, sizeof first);
        } else if (f != found) {
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: row looks like %s, but %s looks like %s: name the format", where,
                           format_name[f], first, format_name[found]);
        }
    }
    t->format = found; /* AUTO when there is no row: the caller reports empty data */
    return HN_OK;
}

static hn_status check_options(const hn_template *t, bool is_text)
{
    const bool pair = t->prompt_key != NULL || t->completion_key != NULL || t->separator != NULL;
    if ((unsigned)t->format >= HN_DATA_FORMAT_COUNT)
        return HN_FAIL(HN_ERR_ARG, "data format %d", (int)t->format);
    if (is_text &&
        ((t->format != HN_DATA_AUTO && t->format != HN_DATA_TEXT) || pair || t->text_key != NULL))
        return HN_FAIL(HN_ERR_ARG, "a .txt file has no columns: format must be auto or text, and "
                                   "no key or separator may be named");
    if (t->text_key != NULL && pair)
        return HN_FAIL(HN_ERR_ARG, "text_key excludes prompt_key, completion_key and separator");
    if (t->text_key != NULL && t->format != HN_DATA_AUTO && t->format != HN_DATA_TEXT)
        return HN_FAIL(HN_ERR_ARG, "text_key does not fit format %s", format_name[t->format]);
    if (pair && t->format != HN_DATA_AUTO && t->format != HN_DATA_PROMPT)
        return HN_FAIL(HN_ERR_ARG, "prompt_key, completion_key and separator do not fit format %s",
                       format_name[t->format]);
    return HN_OK;
}

hn_status hn_template_settle(hn_template *t, hn_source *s, int64_t *n_looked)
{
    hn_template settled = *t;
    int64_t looked = 0;
    const bool is_text = hn_source_about(s)->is_text;
    HN_TRY(check_options(t, is_text));
    if (is_text) settled.format = HN_DATA_TEXT;
    if (settled.format == HN_DATA_AUTO) {
        HN_TRY(detect(&settled, s, &looked));
        HN_TRY(hn_source_rewind(s));
    }
    if (settled.separator != NULL && settled.format != HN_DATA_PROMPT &&
        settled.format != HN_DATA_AUTO)
        return HN_FAIL(HN_ERR_ARG, "separator does not fit rows of format %s",
                       format_name[settled.format]);
    if (settled.format == HN_DATA_MESSAGES || settled.format == HN_DATA_SHAREGPT ||
        settled.format == HN_DATA_PREFERENCE)
        return HN_FAIL(
            HN_ERR_UNSUPPORTED,
            "%s: rows of format %s need a chat template, which this version does not have",
            hn_source_path(s, 0), format_name[settled.format]);
    *t = settled;
    if (n_looked != NULL) *n_looked = looked;
    return HN_OK;
}

/* ---- rendering ---- */

static hn_status append(hn_rendered *r, const char *text, size_t n)
{
    HN_TRY(hn_reserve(&r->text, &r->text_cap, r->n_bytes + (int64_t)n + 1, 1));
    if (n > 0) memcpy(r->text + r->n_bytes, text, n);
    r->n_bytes += (int64_t)n;
    return HN_OK;
}

static hn_status append_literal(hn_rendered *r, const char *text)
{
    return append(r, text, strlen(text));
}

/* The string under a key. A list is what chat data has in its place. */
static hn_status get_string(const json_t *row, const char *key, const char *where,
                            const json_t **out)
{
    const json_t *v = json_object_get(row, key);
    if (v == NULL || json_is_null(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is missing", where, key);
    if (json_is_array(v))
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: key '%s' is a list of messages: it needs a chat template, which this "
                       "version does not have",
                       where, key);
    if (!json_is_string(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not a string", where, key);
    *out = v;
    return HN_OK;
}

static hn_status append_key(hn_rendered *r, const json_t *row, const char *key, const char *where)
{
    const json_t *v = NULL;
    HN_TRY(get_string(row, key, where, &v));
    return append(r, json_string_value(v), json_string_length(v));
}

static hn_status render_prompt(const hn_template *t, const json_t *row, const char *where,
                               hn_rendered *r)
{
    HN_TRY(append_key(r, row, prompt_key(t), where));
    if (t->separator != NULL) HN_TRY(append_literal(r, t->separator));
    r->n_prompt = r->n_bytes;
    return append_key(r, row, completion_key(t), where);
}

/* Columns of other alpaca dialects that the Stanford prompt has no place for. */
static hn_status refuse_chat_columns(const json_t *row, const char *where)
{
    const json_t *history = json_object_get(row, "history");
    const json_t *system = json_object_get(row, "system");
    const bool has_history = history && !json_is_null(history) && json_array_size(history) > 0;
    const bool has_system = system && json_is_string(system) && json_string_length(system) > 0;
    if (!has_history && !has_system) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: key '%s' needs a chat template, which this version does not have", where,
                   has_history ? "history" : "system");
}

static hn_status render_alpaca(const json_t *row, const char *where, hn_rendered *r)
{
    const json_t *input = NULL;
    HN_TRY(refuse_chat_columns(row, where));
    if (has(row, "input")) HN_TRY(get_string(row, "input", where, &input));
    const bool with_input = input != NULL && json_string_length(input) > 0;
    HN_TRY(append_literal(r, with_input ? alpaca_head_input : alpaca_head_plain));
    HN_TRY(append_key(r, row, "instruction", where));
    if (with_input) {
        HN_TRY(append_literal(r, alpaca_input));
        HN_TRY(append_key(r, row, "input", where));
    }
    HN_TRY(append_literal(r, alpaca_response));
    r->n_prompt = r->n_bytes;
    return append_key(r, row, "output", where);
}

/* The array under a key, as long as `n` unless that is negative. NULL when absent. */
static hn_status get_list(const json_t *row, const char *key, const char *where, int64_t n,
                          const json_t **out)
{
    const json_t *v = json_object_get(row, key);
    *out = NULL;
    if (v == NULL || json_is_null(v)) return HN_OK;
    if (!json_is_array(v)) return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not a list", where, key);
    if (n >= 0 && json_array_size(v) != (size_t)n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' has %zu elements, input_ids has %" PRId64,
                       where, key, json_array_size(v), n);
    *out = v;
    return HN_OK;
}

static hn_status render_tokens(const json_t *row, const char *where, int64_t vocab, hn_rendered *r)
{
    const json_t *ids = NULL, *labels = NULL, *mask = NULL;
    HN_TRY(get_list(row, "input_ids", where, -1, &ids));
    if (ids == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: key 'input_ids' is missing", where);
    const int64_t n = (int64_t)json_array_size(ids);
    HN_TRY(get_list(row, "labels", where, n, &labels));
    HN_TRY(get_list(row, "attention_mask", where, n, &mask));
    HN_TRY(hn_reserve(&r->id, &r->id_cap, n, sizeof *r->id));
    HN_TRY(hn_reserve(&r->trained, &r->trained_cap, n, sizeof *r->trained));
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(ids, (size_t)i);
        const json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= vocab)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: input_ids[%" PRId64 "] is not an integer in 0..%" PRId64, where, i,
                           vocab - 1);
        if (mask != NULL && json_integer_value(json_array_get(mask, (size_t)i)) != 1)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: attention_mask[%" PRId64 "] is not 1: remove the padding", where,
                           i);
        r->id[i] = (int32_t)id;
        r->trained[i] = 1;
        if (labels == NULL) continue;
        const json_t *label = json_array_get(labels, (size_t)i);
        const json_int_t l = json_integer_value(label);
        if (!json_is_integer(label) || (l != -100 && l != id))
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: labels[%" PRId64 "] is neither -100 nor input_ids[%" PRId64 "]",
                           where, i, i);
        r->trained[i] = l != -100;
    }
    r->n_ids = n;
    return HN_OK;
}

hn_status hn_template_render(const hn_template *t, const json_t *row, const char *where,
                             int64_t vocab, hn_rendered *out)
{
    out->n_bytes = out->n_prompt = out->n_ids = 0;
    switch (t->format) {
    case HN_DATA_TEXT: return append_key(out, row, text_key(t), where);
    case HN_DATA_PROMPT: return render_prompt(t, row, where, out);
    case HN_DATA_ALPACA: return render_alpaca(row, where, out);
    case HN_DATA_TOKENS: return render_tokens(row, where, vocab, out);
    default:
        return HN_FAIL(HN_ERR_ARG, "%s: format %s cannot be rendered", where,
                       hn_data_format_name(t->format));
    }
}

hn_status hn_template_row(const hn_template *t, const hn_row *row, bool is_text, int64_t vocab,
                          hn_rendered *out)
{
    char where[WHERE];
    json_t *v = NULL;
    if (is_text) {
        out->n_bytes = out->n_prompt = out->n_ids = 0;
        return append(out, row->text, row->n_bytes);
    }
    HN_TRY(parse_row(row, where, sizeof where, &v));
    const hn_status st = hn_template_render(t, v, where, vocab, out);
    json_decref(v);
    return st;
}
