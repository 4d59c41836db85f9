#include "runtime/model/drift_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "runtime/base/json.h"

static const char model_type[] = "hone-drift";

/* The whole numbers of a configuration, their keys and limits. */
static const struct {
    const char *key;
    size_t at;
    int64_t most;
} sizes[] = {
    {"tokens", offsetof(hn_drift_config, tokens), 65536},
    {"token_width", offsetof(hn_drift_config, token_width), 65536},
    {"features", offsetof(hn_drift_config, features), 65536},
    {"width", offsetof(hn_drift_config, width), 16384},
    {"blocks", offsetof(hn_drift_config, blocks), 256},
    {"heads", offsetof(hn_drift_config, heads), 1024},
    {"intermediate", offsetof(hn_drift_config, intermediate), 65536},
    {"queries", offsetof(hn_drift_config, queries), 4096},
    {"time", offsetof(hn_drift_config, time), 4096},
};

enum { N_SIZES = sizeof sizes / sizeof *sizes };

static int64_t size_of(const hn_drift_config *c, int k)
{
    int64_t v;
    memcpy(&v, (const char *)c + sizes[k].at, sizeof v);
    return v;
}

hn_drift_config hn_drift_config_default(int64_t tokens, int64_t token_width, int64_t features)
{
    return (hn_drift_config){.tokens = tokens,
                             .token_width = token_width,
                             .features = features,
                             .width = 256,
                             .blocks = 4,
                             .heads = 4,
                             .intermediate = 1024,
                             .queries = 16,
                             .time = 128,
                             .norm_eps = 1e-6};
}

hn_status hn_drift_config_check(const hn_drift_config *c, const char *where)
{
    for (int k = 0; k < N_SIZES; k++)
        if (size_of(c, k) < 1 || size_of(c, k) > sizes[k].most)
            return HN_FAIL(HN_ERR_SHAPE, "%s: %s %" PRId64 ", must be 1 to %" PRId64, where,
                           sizes[k].key, size_of(c, k), sizes[k].most);
    if (c->width % 8 != 0 || c->width % c->heads != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: width %" PRId64 " is no multiple of 8 and of heads %" PRId64, where,
                       c->width, c->heads);
    if (c->time % 2 != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: time %" PRId64 " is odd: half are sines, half cosines",
                       where, c->time);
    if (!(c->norm_eps > 0) || !isfinite(c->norm_eps))
        return HN_FAIL(HN_ERR_SHAPE, "%s: norm_eps %g, must be above 0", where, c->norm_eps);
    return HN_OK;
}

static bool is_known(const char *key)
{
    static const char *const others[] = {"model_type", "version", "norm_eps"};
    for (int k = 0; k < N_SIZES; k++)
        if (strcmp(key, sizes[k].key) == 0) return true;
    for (size_t k = 0; k < sizeof others / sizeof *others; k++)
        if (strcmp(key, others[k]) == 0) return true;
    return false;
}

static hn_status check_kind(const json_t *j, const char *where)
{
    const char *type = NULL, *key;
    int64_t version = 0;
    json_t *value;
    if (!json_is_object(j)) return HN_FAIL(HN_ERR_FORMAT, "%s: not an object", where);
    HN_TRY(hn_json_get_text(j, "model_type", where, true, &type));
    if (strcmp(type, model_type) != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: model_type \"%s\", must be %s", where, type,
                       model_type);
    HN_TRY(hn_json_get_i64(j, "version", where, 1, INT32_MAX, true, &version));
    if (version > HN_DRIFT_VERSION)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: version %" PRId64 ", this program knows %d", where,
                       version, HN_DRIFT_VERSION);
    json_object_foreach((json_t *)(size_t)j, key, value) if (!is_known(key)) return HN_FAIL(
        HN_ERR_FORMAT, "%s: there is no key \"%s\" in a drift network", where, key);
    return HN_OK;
}

hn_status hn_drift_config_read(const json_t *config, const char *where, hn_drift_config *out)
{
    hn_drift_config c = {0};
    HN_TRY(check_kind(config, where));
    for (int k = 0; k < N_SIZES; k++) {
        int64_t v = 0;
        HN_TRY(hn_json_get_i64(config, sizes[k].key, where, 1, sizes[k].most, true, &v));
        memcpy((char *)&c + sizes[k].at, &v, sizeof v);
    }
    HN_TRY(hn_json_get_f64(config, "norm_eps", where, true, &c.norm_eps));
    HN_TRY(hn_drift_config_check(&c, where));
    *out = c;
    return HN_OK;
}

json_t *hn_drift_config_json(const hn_drift_config *c)
{
    json_t *j = json_pack("{s:s, s:i, s:f}", "model_type", model_type, "version", HN_DRIFT_VERSION,
                          "norm_eps", c->norm_eps);
    for (int k = 0; j != NULL && k < N_SIZES; k++)
        if (json_object_set_new(j, sizes[k].key, json_integer((json_int_t)size_of(c, k))) != 0) {
            json_decref(j);
            return NULL;
        }
    return j;
}
