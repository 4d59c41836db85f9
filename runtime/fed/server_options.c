#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "runtime/base/json.h"
#include "runtime/fed/server_impl.h"

static const char *const method_names[] = {
#define X(id, name, uses) name,
    HN_FED_METHOD_LIST(X)
#undef X
};
static const unsigned method_uses[] = {
#define X(id, name, uses) uses,
    HN_FED_METHOD_LIST(X)
#undef X
};

const char *hn_fed_method_name(hn_fed_method m)
{
    return (unsigned)m < HN_FED_METHOD_COUNT ? method_names[m] : "?";
}

unsigned hn_fed_method_uses(hn_fed_method m)
{
    return (unsigned)m < HN_FED_METHOD_COUNT ? method_uses[m] : 0;
}

const char *hn_fed_weights_name(hn_fed_weights w)
{
    static const char *const names[] = {"age", "uniform", "slot"};
    return (unsigned)w < sizeof names / sizeof *names ? names[w] : "?";
}

hn_fed_server_options hn_fed_server_defaults(hn_fed_method m)
{
    hn_fed_server_options o = {.method = m, .quorum = 1};
    const unsigned uses = hn_fed_method_uses(m);
    if (uses & HN_FED_USES_RATE) o.rate = 1;
    if (uses & HN_FED_USES_BETA1) o.beta1 = m == HN_FED_FEDADAGRAD ? 0 : 0.9;
    if (uses & HN_FED_USES_BETA2) o.beta2 = 0.99;
    if (uses & HN_FED_USES_TAU) {
        o.rate = 0.01;
        o.tau = 1e-4;
    }
    if (uses & HN_FED_USES_TRIM) o.trim = 0.1;
    if (uses & HN_FED_USES_EMA) o.ema = 0.9;
    if (uses & HN_FED_USES_REFERENCE) {
        o.p = 3;
        o.lambda2 = 0.01;
        o.growth = 10;
        o.every = 10;
        o.cap = 0.3;
    }
    if (uses & HN_FED_USES_V1) {
        o.rate = 1e-6;
        o.lambda1 = 1e-3;
        o.lambda2 = 1e-6;
        o.cap = 0.005;
        o.weights = HN_FED_WEIGHTS_SLOT;
        o.loss_term = o.first_axis_bug = true;
    }
    return o;
}

double hn_fed_server_lambda2(const hn_fed_server_options *o, int64_t round)
{
    double lambda2 = o->lambda2;
    if ((hn_fed_method_uses(o->method) & HN_FED_USES_REFERENCE) == 0) return 0;
    if (o->growth == 1) return lambda2;
    for (int64_t i = round / o->every; i > 0 && lambda2 > 0 && lambda2 < o->cap; i--)
        lambda2 *= o->growth;
    return fmin(lambda2, o->cap);
}

/* ---- the table ---- */

#define AT(field) offsetof(hn_fed_server_options, field)
#define MOST      1e30 /* of what has no natural end: its square stays finite */

/* clang-format off */
static const struct {
    const char *name;
    size_t at;
    unsigned uses; /* methods that read it; 0: all */
    double min, max;
    bool above, below; /* min, max themselves are outside */
} reals[] = {
    {"rate",    AT(rate),    HN_FED_USES_RATE,      0, MOST, true,  false},
    {"beta1",   AT(beta1),   HN_FED_USES_BETA1,     0, 1,    false, true},
    {"beta2",   AT(beta2),   HN_FED_USES_BETA2,     0, 1,    false, true},
    {"tau",     AT(tau),     HN_FED_USES_TAU,       0, MOST, true,  false},
    {"trim",    AT(trim),    HN_FED_USES_TRIM,      0, 0.5,  false, true},
    {"ema",     AT(ema),     HN_FED_USES_EMA,       0, 1,    false, true},
    {"lambda1", AT(lambda1), HN_FED_USES_REFERENCE, 0, MOST, false, false},
    {"lambda2", AT(lambda2), HN_FED_USES_REFERENCE, 0, MOST, false, false},
    {"growth",  AT(growth),  HN_FED_USES_REFERENCE, 1, MOST, false, false},
    {"cap",     AT(cap),     HN_FED_USES_REFERENCE, 0, MOST, false, false},
};

static const struct {
    const char *name;
    size_t at;
    unsigned uses;
    int64_t min, max;
} wholes[] = {
    {"quorum", AT(quorum), 0,                     1, INT64_MAX},
    {"p",      AT(p),      HN_FED_USES_REFERENCE, 1, HN_FED_MAX_P},
    {"every",  AT(every),  HN_FED_USES_REFERENCE, 1, INT64_MAX},
};

static const struct {
    const char *name;
    size_t at;
    unsigned uses;
} flags[] = {
    {"fisher",         AT(fisher),         HN_FED_USES_FISHER},
    {"loss_term",      AT(loss_term),      HN_FED_USES_V1},
    {"first_axis_bug", AT(first_axis_bug), HN_FED_USES_V1},
};
/* clang-format on */

#define COUNT(table)       (sizeof(table) / sizeof *(table))
#define FIELD(type, o, at) (*(const type *)((const char *)(o) + (at)))

static bool reads(const hn_fed_server_options *o, unsigned uses)
{
    return uses == 0 || (hn_fed_method_uses(o->method) & uses) != 0;
}

static hn_status no_use(const hn_fed_server_options *o, const char *name)
{
    return HN_FAIL(HN_ERR_ARG, "option %s does nothing with the method %s", name,
                   hn_fed_method_name(o->method));
}

static hn_status check_reals(const hn_fed_server_options *o)
{
    for (size_t i = 0; i < COUNT(reals); i++) {
        const double v = FIELD(double, o, reals[i].at);
        if (!reads(o, reals[i].uses)) {
            if (v != 0) return no_use(o, reals[i].name);
            continue;
        }
        const bool low = reals[i].above ? v > reals[i].min : v >= reals[i].min;
        const bool high = reals[i].below ? v < reals[i].max : v <= reals[i].max;
        if (!low || !high)
            return HN_FAIL(HN_ERR_ARG, "option %s is %g: %s %g and %s %g", reals[i].name, v,
                           reals[i].above ? "above" : "at least", reals[i].min,
                           reals[i].below ? "below" : "at most", reals[i].max);
    }
    return HN_OK;
}

static hn_status check_wholes(const hn_fed_server_options *o)
{
    for (size_t i = 0; i < COUNT(wholes); i++) {
        const int64_t v = FIELD(int64_t, o, wholes[i].at);
        if (!reads(o, wholes[i].uses)) {
            if (v != 0) return no_use(o, wholes[i].name);
        } else if (v < wholes[i].min || v > wholes[i].max)
            return HN_FAIL(HN_ERR_ARG, "option %s is %" PRId64 ": %" PRId64 " to %" PRId64,
                           wholes[i].name, v, wholes[i].min, wholes[i].max);
    }
    return HN_OK;
}

static hn_status check_weights(const hn_fed_server_options *o)
{
    if ((unsigned)o->weights > HN_FED_WEIGHTS_SLOT)
        return HN_FAIL(HN_ERR_ARG, "option weights is %d", (int)o->weights);
    if (o->weights != HN_FED_WEIGHTS_AGE && !reads(o, HN_FED_USES_REFERENCE))
        return no_use(o, "weights");
    if (o->weights == HN_FED_WEIGHTS_SLOT && !reads(o, HN_FED_USES_V1))
        return HN_FAIL(HN_ERR_ARG, "weights by slot are those of fedref-v1, not of %s",
                       hn_fed_method_name(o->method));
    return HN_OK;
}

hn_status hn_fed_options_check(const hn_fed_server_options *o)
{
    if ((unsigned)o->method >= HN_FED_METHOD_COUNT)
        return HN_FAIL(HN_ERR_ARG, "there is no method %d", (int)o->method);
    HN_TRY(check_reals(o));
    HN_TRY(check_wholes(o));
    HN_TRY(check_weights(o));
    for (size_t i = 0; i < COUNT(flags); i++)
        if (FIELD(bool, o, flags[i].at) && !reads(o, flags[i].uses))
            return no_use(o, flags[i].name);
    if (reads(o, HN_FED_USES_REFERENCE) && o->growth > 1 && o->lambda2 > o->cap)
        return HN_FAIL(HN_ERR_ARG, "option lambda2 is %g, above its cap %g", o->lambda2, o->cap);
    return HN_OK;
}

/* ---- the record ---- */

hn_status hn_fed_options_write(const hn_fed_server_options *o, json_t *to)
{
    int bad = json_object_set_new(to, "method", json_string(hn_fed_method_name(o->method)));
    for (size_t i = 0; i < COUNT(reals); i++)
        if (reads(o, reals[i].uses))
            bad |= json_object_set_new(to, reals[i].name, json_real(FIELD(double, o, reals[i].at)));
    for (size_t i = 0; i < COUNT(wholes); i++)
        if (reads(o, wholes[i].uses))
            bad |= json_object_set_new(to, wholes[i].name,
                                       json_integer(FIELD(int64_t, o, wholes[i].at)));
    for (size_t i = 0; i < COUNT(flags); i++)
        if (reads(o, flags[i].uses))
            bad |=
                json_object_set_new(to, flags[i].name, json_boolean(FIELD(bool, o, flags[i].at)));
    if (reads(o, HN_FED_USES_REFERENCE))
        bad |= json_object_set_new(to, "weights", json_string(hn_fed_weights_name(o->weights)));
    return bad ? HN_FAIL(HN_ERR_MEMORY, "no memory for the record of the server") : HN_OK;
}

/* JSON keeps 17 digits, with which a double comes back as it was. */
hn_status hn_fed_options_same(const hn_fed_server_options *o, const json_t *saved,
                              const char *where)
{
    hn_status st = HN_OK;
    json_t *mine = json_object();
    const char *key = NULL;
    json_t *value = NULL;
    const char *method = NULL;
    HN_TRY_GOTO(st, hn_json_get_text(saved, "method", where, true, &method), done);
    if (strcmp(method, hn_fed_method_name(o->method)) != 0) {
        st = HN_FAIL(HN_ERR_ARG, "%s: saved with the method %s, not %s", where, method,
                     hn_fed_method_name(o->method));
        goto done;
    }
    HN_TRY_GOTO(st, hn_fed_options_write(o, mine), done);
    json_object_foreach(mine, key, value)
    {
        json_t *other = json_object_get(saved, key);
        if (other != NULL && json_equal(value, other)) continue;
        st = other == NULL ? HN_FAIL(HN_ERR_FORMAT, "%s: no option %s", where, key)
                           : HN_FAIL(HN_ERR_ARG, "%s: saved with another %s", where, key);
        goto done;
    }

done:
    json_decref(mine);
    return st;
}
