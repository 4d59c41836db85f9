/* RoPE settings of config.json in both dialects (conventions.md part 1):
 *   version 4   rope_theta beside rope_scaling {rope_type (older: type), factor, ...}
 *   version 5   rope_parameters {rope_theta, rope_type, factor, ...} */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/model/llama_config.h"

static hn_status read_type(const json_t *j, const char *where, hn_rope_type *out)
{
    static const char *const names[] = {"default", "linear",   "dynamic",
                                        "yarn",    "longrope", "llama3"};
    const char *type = NULL;
    HN_TRY(hn_json_get_text(j, "type", where, false, &type));
    HN_TRY(hn_json_get_text(j, "rope_type", where, false, &type));
    if (type == NULL) return HN_OK;
    for (int i = 0; i < 6; i++) {
        if (strcmp(type, names[i]) != 0) continue;
        *out = (hn_rope_type)i;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: rope_type '%s' is not one of default, linear, dynamic, yarn, longrope, "
                   "llama3",
                   where, type);
}

/* The two factor lists of longrope, one behind the other in c->rope_factors. */
static hn_status read_factors(const json_t *j, const char *where, hn_llama_config *c)
{
    static const char *const keys[] = {"short_factor", "long_factor"};
    const int64_t n = c->rope.rotary_dim / 2;
    c->rope_factors = hn_malloc((size_t)(2 * n) * sizeof(double));
    if (c->rope_factors == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: rope factors", where);
    for (int k = 0; k < 2; k++) {
        const json_t *list = json_object_get(j, keys[k]);
        if (!json_is_array(list) || (int64_t)json_array_size(list) != n)
            return HN_FAIL(HN_ERR_FORMAT, "%s: %s must be a list of %" PRId64 " numbers", where,
                           keys[k], n);
        for (int64_t i = 0; i < n; i++) {
            const json_t *v = json_array_get(list, (size_t)i);
            if (!json_is_number(v))
                return HN_FAIL(HN_ERR_FORMAT, "%s: %s[%" PRId64 "] is not a number", where, keys[k],
                               i);
            c->rope_factors[k * n + i] = json_number_value(v);
        }
    }
    c->rope.short_factor = c->rope_factors;
    c->rope.long_factor = c->rope_factors + n;
    return HN_OK;
}

static hn_status read_parameters(const json_t *j, const char *where, hn_llama_config *c)
{
    hn_rope_spec *r = &c->rope;
    bool truncate = true;
    HN_TRY(read_type(j, where, &r->type));
    HN_TRY(hn_json_get_f64(j, "rope_theta", where, false, &r->theta));
    HN_TRY(hn_json_get_f64(j, "factor", where, false, &r->factor));
    HN_TRY(hn_json_get_f64(j, "attention_factor", where, false, &r->attention_factor));
    HN_TRY(hn_json_get_f64(j, "beta_fast", where, false, &r->beta_fast));
    HN_TRY(hn_json_get_f64(j, "beta_slow", where, false, &r->beta_slow));
    HN_TRY(hn_json_get_f64(j, "mscale", where, false, &r->mscale));
    HN_TRY(hn_json_get_f64(j, "mscale_all_dim", where, false, &r->mscale_all_dim));
    HN_TRY(hn_json_get_f64(j, "low_freq_factor", where, false, &r->low_freq_factor));
    HN_TRY(hn_json_get_f64(j, "high_freq_factor", where, false, &r->high_freq_factor));
    HN_TRY(hn_json_get_bool(j, "truncate", where, false, &truncate));
    HN_TRY(hn_json_get_i64(j, "original_max_position_embeddings", where, 1, INT32_MAX, false,
                           &r->original_max_positions));
    r->no_truncate = !truncate;
    return r->type == HN_ROPE_LONGROPE ? read_factors(j, where, c) : HN_OK;
}

/* NULL: absent or null. */
static hn_status find_settings(const json_t *j, const char *key, const char *where,
                               const json_t **out)
{
    const json_t *v = json_object_get(j, key);
    *out = json_is_object(v) ? v : NULL;
    return v == NULL || json_is_null(v) || *out != NULL
               ? HN_OK
               : HN_FAIL(HN_ERR_FORMAT, "%s: key '%s' is not a JSON object", where, key);
}

hn_status hn_rope_config_read(const json_t *j, const char *where, hn_llama_config *c)
{
    double partial = 1;
    const json_t *scaling, *parameters;
    HN_TRY(find_settings(j, "rope_scaling", where, &scaling));
    HN_TRY(find_settings(j, "rope_parameters", where, &parameters));
    if (parameters)
        HN_TRY(hn_json_get_f64(parameters, "partial_rotary_factor", where, false, &partial));
    HN_TRY(hn_json_get_f64(j, "partial_rotary_factor", where, false, &partial));
    if (!(partial > 0 && partial <= 1))
        return HN_FAIL(HN_ERR_FORMAT, "%s: partial_rotary_factor %g, above 0 and at most 1", where,
                       partial);
    c->rope = (hn_rope_spec){.theta = 10000,
                             .rotary_dim = (int64_t)((double)c->head_dim * partial),
                             .max_positions = c->max_positions};
    HN_TRY(hn_json_get_f64(j, "rope_theta", where, false, &c->rope.theta));
    if (scaling) HN_TRY(read_parameters(scaling, where, c));
    if (parameters) {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)(size_t)parameters, key, value)
        {
            if (json_is_object(value))
                return HN_FAIL(HN_ERR_UNSUPPORTED,
                               "%s: rope_parameters by layer type ('%s'); one for all layers only",
                               where, key);
        }
        HN_TRY(read_parameters(parameters, where, c));
    }
    const hn_status st = hn_rope_check_spec(&c->rope);
    return st == HN_OK ? HN_OK : HN_FAIL(HN_ERR_FORMAT, "%s: rope: %s", where, hn_last_error());
}
