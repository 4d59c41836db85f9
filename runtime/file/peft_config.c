/* Reading adapter_config.json, and deciding what it applies to. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/peft.h"
#include "runtime/file/peft_impl.h"
#include "runtime/file/regex.h"

enum { MAX_RANK = 65536, MAX_LAYER = 1000000, MAX_ALPHA = 1000000000 };

/* ---- ownership ---- */

hn_status hn_names_add(hn_names *names, const char *item)
{
    char *copy = hn_strdup(item);
    char **grown = copy ? hn_realloc(names->items, (size_t)(names->n + 1) * sizeof *grown) : NULL;
    if (grown == NULL) {
        hn_free(copy);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the name %.200s", item);
    }
    names->items = grown;
    names->items[names->n++] = copy;
    return HN_OK;
}

void hn_names_clear(hn_names *names)
{
    for (int64_t i = 0; i < names->n; i++) hn_free(names->items[i]);
    hn_free(names->items);
    *names = (hn_names){0};
}

static void pattern_clear(hn_peft_pattern *p)
{
    for (int64_t i = 0; i < p->n; i++) hn_free(p->items[i].key);
    hn_free(p->items);
}

void hn_peft_config_clear(hn_peft_config *c)
{
    hn_free(c->base_model);
    hn_free(c->revision);
    hn_free(c->task_type);
    hn_names_clear(&c->targets.list);
    hn_names_clear(&c->exclude.list);
    hn_free(c->targets.regex);
    hn_free(c->exclude.regex);
    hn_free(c->layers);
    hn_names_clear(&c->layers_pattern);
    pattern_clear(&c->ranks);
    pattern_clear(&c->alphas);
    hn_names_clear(&c->saved);
    *c = (hn_peft_config){0};
}

/* ---- reading ---- */

typedef enum {
    READ,    /* honoured */
    NEUTRAL, /* does not change what a saved adapter computes */
    REFUSED, /* must be off: we do not do it */
} key_rule;

/* clang-format off */
static const struct { const char *key; key_rule rule; } known_keys[] = {
    {"peft_type", READ}, {"r", READ}, {"lora_alpha", READ}, {"lora_dropout", READ},
    {"use_rslora", READ}, {"use_dora", READ}, {"fan_in_fan_out", READ}, {"target_modules", READ},
    {"exclude_modules", READ}, {"layers_to_transform", READ}, {"layers_pattern", READ},
    {"rank_pattern", READ}, {"alpha_pattern", READ}, {"base_model_name_or_path", READ},
    {"revision", READ}, {"task_type", READ}, {"bias", READ}, {"init_lora_weights", READ},
    {"auto_mapping", NEUTRAL}, {"peft_version", NEUTRAL}, {"inference_mode", NEUTRAL},
    {"megatron_core", NEUTRAL}, {"qalora_group_size", NEUTRAL} /* read only with use_qalora */,
    {"runtime_config", NEUTRAL}, {"eva_config", NEUTRAL} /* initial A only */,
    {"modules_to_save", READ}, {"layer_replication", REFUSED}, {"lora_bias", REFUSED},
    {"use_qalora", REFUSED}, {"use_bdlora", REFUSED},
    {"target_parameters", REFUSED}, {"trainable_token_indices", REFUSED},
    {"loftq_config", REFUSED}, {"corda_config", REFUSED}, {"lora_ga_config", REFUSED},
    {"alora_invocation_tokens", REFUSED}, {"arrow_config", REFUSED}, {"kasa_config", REFUSED},
    {"velora_config", REFUSED}, {"monteclora_config", REFUSED}, {"megatron_config", REFUSED},
    {"ensure_weight_tying", REFUSED},
};
/* clang-format on */

bool hn_peft_is_off(const json_t *v)
{
    return json_is_null(v) || json_is_false(v) ||
           (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

static hn_status check_keys(json_t *o, const char *where)
{
    for (void *at = json_object_iter(o); at != NULL; at = json_object_iter_next(o, at)) {
        const char *key = json_object_iter_key(at);
        key_rule rule = REFUSED;
        bool known = false;
        for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++) {
            if (strcmp(known_keys[i].key, key) != 0) continue;
            rule = known_keys[i].rule;
            known = true;
        }
        if (rule != REFUSED || hn_peft_is_off(json_object_iter_value(at))) continue;
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: key '%.200s' is set, and that %s", where, key,
                       known ? "is not supported" : "key is not known");
    }
    return HN_OK;
}

/* Keys with a value out of a few. */
static hn_status check_values(const json_t *o, const char *where)
{
    const char *type = NULL, *bias = "none";
    HN_TRY(hn_json_get_text(o, "peft_type", where, true, &type));
    if (strcmp(type, "LORA") != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: key 'peft_type' is '%.40s', supported is 'LORA'",
                       where, type);
    HN_TRY(hn_json_get_text(o, "bias", where, false, &bias));
    if (strcmp(bias, "none") != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: key 'bias' is '%.40s', supported is 'none'", where,
                       bias);
    const json_t *init = json_object_get(o, "init_lora_weights");
    if (init == NULL || json_is_null(init) || json_is_boolean(init)) return HN_OK;
    /* The others (pissa, olora, corda, loftq, ...) change the base weights as well. */
    const char *name = json_is_string(init) ? json_string_value(init) : "?";
    if (strcmp(name, "gaussian") == 0 || strcmp(name, "eva") == 0 ||
        strcmp(name, "orthogonal") == 0)
        return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: key 'init_lora_weights' is '%.40s', which changes the base model: convert "
                   "the adapter to plain LoRA with PEFT first",
                   where, name);
}

static hn_status read_names(const json_t *o, const char *key, const char *where, hn_names *out)
{
    const json_t *list = json_object_get(o, key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *item = json_string_value(json_array_get(list, i));
        if (item == NULL || *item == '\0')
            return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s': entry %zu is not a name", where, key, i);
        HN_TRY(hn_names_add(out, item));
    }
    return HN_OK;
}

/* Compiles the expression once, so that a bad one is noticed here. */
static hn_status check_regex(const char *before, const char *expression, const char *after,
                             const char *where, const char *key)
{
    bool ignored;
    char *what = hn_asprintf("%s: key '%s'", where, key);
    if (what == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    const hn_status st = hn_regex_match(before, expression, after, false, "", what, &ignored, NULL);
    hn_free(what);
    return st;
}

hn_status hn_peft_read_selector(const json_t *o, const char *key, const char *where,
                                hn_peft_selector *out)
{
    const json_t *v = json_object_get(o, key);
    if (v == NULL || json_is_null(v)) return HN_OK;
    if (json_is_array(v)) return read_names(o, key, where, &out->list);
    const char *text = json_string_value(v);
    if (text == NULL || *text == '\0')
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is neither a list of names nor an expression",
                       where, key);
    HN_TRY(check_regex("", text, "", where, key));
    out->regex = hn_strdup(text);
    return out->regex ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
}

static hn_status read_targets(const json_t *o, const char *where, hn_peft_config *c)
{
    HN_TRY(hn_peft_read_selector(o, "target_modules", where, &c->targets));
    HN_TRY(hn_peft_read_selector(o, "exclude_modules", where, &c->exclude));
    if (c->targets.regex == NULL && c->targets.list.n == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'target_modules' is missing or empty", where);
    if (c->targets.regex != NULL && strcmp(c->targets.regex, "all-linear") == 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: key 'target_modules' is 'all-linear': list the modules instead", where);
    return HN_OK;
}

static hn_status read_saved(const json_t *o, const char *where, hn_peft_config *c)
{
    const json_t *v = json_object_get(o, "modules_to_save");
    if (v == NULL || json_is_array(v) || hn_peft_is_off(v))
        return read_names(o, "modules_to_save", where, &c->saved);
    return HN_FAIL(HN_ERR_FORMAT, "%s: key 'modules_to_save' is not a list of names", where);
}

static hn_status read_layers(const json_t *o, const char *where, hn_peft_config *c)
{
    const json_t *v = json_object_get(o, "layers_to_transform");
    const json_t *pattern = json_object_get(o, "layers_pattern");
    const bool one = json_is_integer(v);
    if (v != NULL && !json_is_null(v) && !one && !json_is_array(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'layers_to_transform' is not a list of integers",
                       where);
    const size_t n = one ? 1 : json_array_size(v);
    if (n > 0 && c->targets.regex != NULL)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: key 'layers_to_transform' needs a list in 'target_modules'", where);
    c->layers = hn_calloc(n, sizeof *c->layers);
    if (c->layers == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    for (size_t i = 0; i < n; i++) {
        const json_t *layer = one ? v : json_array_get(v, i);
        const json_int_t index = json_integer_value(layer);
        if (!json_is_integer(layer) || index < 0 || index > MAX_LAYER)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: key 'layers_to_transform': entry %zu is not an integer in 0..%d",
                           where, i, MAX_LAYER);
        c->layers[c->n_layers++] = index;
    }
    if (json_is_string(pattern) && json_string_length(pattern) > 0)
        HN_TRY(hn_names_add(&c->layers_pattern, json_string_value(pattern)));
    else if (json_is_array(pattern))
        HN_TRY(read_names(o, "layers_pattern", where, &c->layers_pattern));
    else if (pattern != NULL && !hn_peft_is_off(pattern))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'layers_pattern' is not a name", where);
    if (c->layers_pattern.n > 0 && n == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'layers_pattern' needs 'layers_to_transform'",
                       where);
    for (int64_t i = 0; i < c->layers_pattern.n; i++)
        HN_TRY(check_regex("(?:", c->layers_pattern.items[i], ")", where, "layers_pattern"));
    return HN_OK;
}

static hn_status read_pattern(const json_t *o, const char *key, const char *where, bool whole,
                              hn_peft_pattern *out)
{
    json_t *v = json_object_get(o, key);
    if (v == NULL || json_is_null(v)) return HN_OK;
    if (!json_is_object(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not an object", where, key);
    out->items = hn_calloc(json_object_size(v), sizeof *out->items);
    if (out->items == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    for (void *at = json_object_iter(v); at != NULL; at = json_object_iter_next(v, at)) {
        const char *expression = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        const double number = json_number_value(value);
        const int least = whole ? 1 : 0, most = whole ? MAX_RANK : MAX_ALPHA;
        if (!json_is_number(value) || !(number >= least && number <= most) ||
            (whole && !json_is_integer(value)))
            return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s': '%.200s' is not a number in %d..%d", where,
                           key, expression, least, most);
        HN_TRY(check_regex("(.*\\.)?(", expression, ")", where, key));
        out->items[out->n].key = hn_strdup(expression);
        if (out->items[out->n].key == NULL)
            return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
        out->items[out->n++].value = number;
    }
    return HN_OK;
}

hn_status hn_peft_copy_text(const json_t *o, const char *key, const char *where, char **out)
{
    const char *text = NULL;
    HN_TRY(hn_json_get_text(o, key, where, false, &text));
    if (text == NULL) return HN_OK;
    *out = hn_strdup(text);
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
}

static hn_status read_config(json_t *o, const char *where, hn_peft_config *c)
{
    if (!json_is_object(o)) return HN_FAIL(HN_ERR_FORMAT, "%s: not a JSON object", where);
    *c = (hn_peft_config){.r = 8, .alpha = 8}; /* PEFT's defaults */
    HN_TRY(check_values(o, where));
    HN_TRY(check_keys(o, where));
    HN_TRY(hn_json_get_i64(o, "r", where, 1, MAX_RANK, false, &c->r));
    HN_TRY(hn_json_get_f64(o, "lora_alpha", where, false, &c->alpha));
    HN_TRY(hn_json_get_f64(o, "lora_dropout", where, false, &c->dropout));
    if (!(c->alpha >= 0 && c->alpha <= MAX_ALPHA))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'lora_alpha' is %g, allowed 0..%d", where, c->alpha,
                       MAX_ALPHA);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'lora_dropout' is %g, allowed 0 to below 1", where,
                       c->dropout);
    HN_TRY(hn_json_get_bool(o, "use_rslora", where, false, &c->rslora));
    HN_TRY(hn_json_get_bool(o, "use_dora", where, false, &c->dora));
    HN_TRY(hn_json_get_bool(o, "fan_in_fan_out", where, false, &c->fan_in_fan_out));
    HN_TRY(hn_peft_copy_text(o, "base_model_name_or_path", where, &c->base_model));
    HN_TRY(hn_peft_copy_text(o, "revision", where, &c->revision));
    HN_TRY(hn_peft_copy_text(o, "task_type", where, &c->task_type));
    HN_TRY(read_targets(o, where, c));
    HN_TRY(read_saved(o, where, c));
    HN_TRY(read_layers(o, where, c));
    HN_TRY(read_pattern(o, "rank_pattern", where, true, &c->ranks));
    return read_pattern(o, "alpha_pattern", where, false, &c->alphas);
}

hn_status hn_peft_config_parse(const char *text, size_t size, const char *where,
                               hn_peft_config *out)
{
    json_t *o = NULL;
    hn_peft_config c = {0};
    HN_TRY(hn_json_parse(text, size, where, &o));
    const hn_status st = read_config(o, where, &c);
    json_decref(o);
    if (st == HN_OK)
        *out = c;
    else
        hn_peft_config_clear(&c);
    return st;
}

/* ---- matching ---- */

static bool equals_or_ends_with(const char *module, const char *suffix, bool *whole)
{
    const size_t n = strlen(module), k = strlen(suffix);
    if (strcmp(module, suffix) == 0) *whole = true;
    return *whole || (n > k && module[n - k - 1] == '.' && strcmp(module + n - k, suffix) == 0);
}

/* whole: set when the path itself is in the list. */
static hn_status selects(const hn_peft_selector *s, const char *module, const char *what, bool *out,
                         bool *whole)
{
    *out = false;
    *whole = false;
    if (s->regex != NULL) return hn_regex_match("", s->regex, "", true, module, what, out, NULL);
    for (int64_t i = 0; i < s->list.n && !*whole; i++)
        if (equals_or_ends_with(module, s->list.items[i], whole)) *out = true;
    return HN_OK;
}

bool hn_peft_saves(const hn_peft_config *c, const char *module)
{
    bool whole = false, found = false;
    for (int64_t i = 0; i < c->saved.n && !found; i++)
        found = equals_or_ends_with(module, c->saved.items[i], &whole);
    return found;
}

/* The first segment of digits that has two segments before it and one behind; -1: none. */
static int64_t layer_of(const char *module)
{
    int dots = 0;
    for (const char *p = module; *p; p++) {
        if (*p != '.') continue;
        const size_t digits = strspn(p + 1, "0123456789");
        if (++dots < 2 || digits == 0 || p[1 + digits] != '.') continue;
        int64_t layer = 0;
        for (size_t i = 0; i < digits && layer <= MAX_LAYER; i++)
            layer = layer * 10 + (p[1 + i] - '0');
        return layer;
    }
    return -1;
}

static hn_status layer_selected(const hn_peft_config *c, const char *module, bool *out)
{
    int64_t layer = -1;
    bool found = c->layers_pattern.n == 0;
    if (found) layer = layer_of(module);
    for (int64_t i = 0; i < c->layers_pattern.n && !found; i++)
        HN_TRY(hn_regex_match("(?:^|.*?\\.)", c->layers_pattern.items[i], "\\.(?P<idx>\\d+)\\.",
                              false, module, "layers_pattern", &found, &layer));
    *out = false;
    for (int64_t i = 0; i < c->n_layers; i++)
        if (c->layers[i] == layer) *out = true;
    return HN_OK;
}

hn_status hn_peft_matches(const hn_peft_config *c, const char *module, bool *out)
{
    bool excluded, found, whole;
    HN_TRY(selects(&c->exclude, module, "exclude_modules", &excluded, &whole));
    HN_TRY(selects(&c->targets, module, "target_modules", &found, &whole));
    if (excluded) found = false;
    if (found && !whole && c->n_layers > 0) HN_TRY(layer_selected(c, module, &found));
    *out = found;
    return HN_OK;
}

static hn_status look_up(const hn_peft_pattern *p, const char *module, const char *what,
                         double *value)
{
    for (int64_t i = 0; i < p->n; i++) {
        bool found = false;
        HN_TRY(hn_regex_match("(.*\\.)?(", p->items[i].key, ")", true, module, what, &found, NULL));
        if (!found) continue;
        *value = p->items[i].value;
        break;
    }
    return HN_OK;
}

hn_status hn_peft_rank(const hn_peft_config *c, const char *module, int64_t *r, double *scale)
{
    double rank = (double)c->r, alpha = c->alpha;
    HN_TRY(look_up(&c->ranks, module, "rank_pattern", &rank));
    HN_TRY(look_up(&c->alphas, module, "alpha_pattern", &alpha));
    *r = (int64_t)rank;
    *scale = alpha / (c->rslora ? sqrt(rank) : rank);
    return HN_OK;
}
