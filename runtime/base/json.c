#include "runtime/base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/mapfile.h"
#include "runtime/base/save.h"

hn_status hn_json_parse(const char *text, size_t size, const char *where, json_t **out)
{
    json_error_t e;
    if (size == 0) return HN_FAIL(HN_ERR_FORMAT, "%s: not valid JSON: it is empty", where);
    json_t *v =
        json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (v == NULL) {
        if (json_error_code(&e) == json_error_out_of_memory)
            return HN_FAIL(HN_ERR_MEMORY, "%s: out of memory while reading JSON", where);
        return HN_FAIL(HN_ERR_FORMAT, "%s:%d:%d: not valid JSON: %s", where, e.line, e.column,
                       e.text);
    }
    *out = v;
    return HN_OK;
}

hn_status hn_json_load(const char *path, json_t **out)
{
    hn_mapfile map = {0};
    HN_TRY(hn_mapfile_open(path, &map));
    const hn_status st = hn_json_parse((const char *)map.data, map.size, path, out);
    hn_mapfile_close(&map);
    return st;
}

hn_status hn_json_save(const char *path, const json_t *value, bool sorted)
{
    char *text =
        json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY | (sorted ? JSON_SORT_KEYS : 0));
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: out of memory while writing JSON", path);
    char *line = hn_asprintf("%s\n", text);
    free(text);
    if (line == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: out of memory while writing JSON", path);
    const hn_status st = hn_save_text(path, line);
    hn_free(line);
    return st;
}

/* The value of a key, NULL when absent or null; *st tells whether that is an error. */
static const json_t *find(const json_t *object, const char *key, const char *where, bool required,
                          hn_status *st)
{
    *st = HN_OK;
    if (!json_is_object(object)) {
        *st = HN_FAIL(HN_ERR_FORMAT, "%s: not a JSON object (looking for key '%s')", where, key);
        return NULL;
    }
    const json_t *v = json_object_get(object, key);
    if (v != NULL && !json_is_null(v)) return v;
    if (required) *st = HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is missing", where, key);
    return NULL;
}

hn_status hn_json_get_i64(const json_t *object, const char *key, const char *where, int64_t min,
                          int64_t max, bool required, int64_t *out)
{
    hn_status st;
    const json_t *v = find(object, key, where, required, &st);
    if (v == NULL) return st;
    if (!json_is_integer(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not an integer", where, key);
    const json_int_t i = json_integer_value(v);
    if (i < min || i > max)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is %" PRId64 ", allowed %" PRId64 "..%" PRId64,
                       where, key, (int64_t)i, min, max);
    *out = i;
    return HN_OK;
}

hn_status hn_json_get_f64(const json_t *object, const char *key, const char *where, bool required,
                          double *out)
{
    hn_status st;
    const json_t *v = find(object, key, where, required, &st);
    if (v == NULL) return st;
    if (!json_is_number(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not a number", where, key);
    *out = json_number_value(v);
    return HN_OK;
}

hn_status hn_json_get_bool(const json_t *object, const char *key, const char *where, bool required,
                           bool *out)
{
    hn_status st;
    const json_t *v = find(object, key, where, required, &st);
    if (v == NULL) return st;
    if (!json_is_boolean(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not true or false", where, key);
    *out = json_is_true(v);
    return HN_OK;
}

hn_status hn_json_get_text(const json_t *object, const char *key, const char *where, bool required,
                           const char **out)
{
    hn_status st;
    const json_t *v = find(object, key, where, required, &st);
    if (v == NULL) return st;
    if (!json_is_string(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not a string", where, key);
    *out = json_string_value(v);
    return HN_OK;
}

static bool is_known(const char *key, const char *const *known, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, known[i]) == 0) return true;
    return false;
}

void hn_json_warn_unknown(const json_t *object, const char *const *known, size_t n,
                          const char *where, const hn_log *log)
{
    const char *key;
    json_t *value;
    char list[512] = "";
    size_t at = 0;
    json_object_foreach((json_t *)(size_t)object, key, value)
    {
        if (!is_known(key, known, n) && at < sizeof list)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", key);
    }
    if (at > 0) hn_warn(log, "%s: keys that are not used: %s", where, list);
}
