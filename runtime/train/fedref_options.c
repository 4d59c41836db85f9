/* Which options mean something, and what the server is made with. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/model/seg_model.h"
#include "runtime/train/fedref_impl.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static hn_fed_method method_of(const char *name)
{
    int i = 0;
    while (i < HN_FED_METHOD_COUNT - 1 && !is(hn_fed_method_name((hn_fed_method)i), name)) i++;
    return (hn_fed_method)i; /* the option's choices leave no other */
}

/* ---- options that mean nothing ---- */

static const struct {
    const char *option;
    unsigned uses;
} server_options[] = {{"server-rate", HN_FED_USES_RATE},
                      {"server-beta1", HN_FED_USES_BETA1},
                      {"server-beta2", HN_FED_USES_BETA2},
                      {"tau", HN_FED_USES_TAU},
                      {"trim", HN_FED_USES_TRIM},
                      {"ema", HN_FED_USES_EMA},
                      {"p", HN_FED_USES_REFERENCE},
                      {"lambda1", HN_FED_USES_REFERENCE},
                      {"lambda2", HN_FED_USES_REFERENCE},
                      {"growth", HN_FED_USES_REFERENCE},
                      {"growth-every", HN_FED_USES_REFERENCE},
                      {"lambda2-cap", HN_FED_USES_REFERENCE},
                      {"reference-weights", HN_FED_USES_REFERENCE},
                      {"loss-term", HN_FED_USES_V1},
                      {"first-axis-bug", HN_FED_USES_V1},
                      {"fisher", HN_FED_USES_FISHER},
                      {"fisher-images", HN_FED_USES_FISHER}};
enum { N_SERVER = sizeof server_options / sizeof *server_options };

static const char *const volume_options[] = {
    "labels",       "eval-labels",  "channels",    "volume",       "intensity",    "relabel",
    "patch",        "per-region",   "foreground",  "flip",         "pad-value",    "sites",
    "scale-spread", "shift-spread", "dice-weight", "focal-weight", "cross-weight", "focal-alpha",
    "focal-gamma",  "window",       "overlap",     "gaussian"};
enum { N_VOLUME = sizeof volume_options / sizeof *volume_options };

static const char *const image_options[] = {
    "image-size", "eval-batch", "data-kind",       "coarse",       "augment", "pad",
    "resident",   "groups",     "label-smoothing", "alpha",        "shards",  "frozen-norm",
    "at-once",    "lora-rank",  "lora-alpha",      "lora-targets", "lanes"};
enum { N_IMAGE = sizeof image_options / sizeof *image_options };

static bool among(const char *option, const char *const *names, int n)
{
    int i = 0;
    while (i < n && !is(option, names[i])) i++;
    return i < n;
}

static const char *subject_reason(const hn_fedref_config *c, const char *option)
{
    const bool volumes = hn_seg_model_is(c->fed.model);
    const bool quantity = volumes && is(c->partition, "quantity") && is(option, "alpha");
    if (volumes && !quantity && among(option, image_options, N_IMAGE))
        return "has no meaning for a --model that segments volumes";
    if (!volumes && among(option, volume_options, N_VOLUME))
        return "an option of a --model that segments volumes";
    if (volumes && c->volumes.w_focal == 0 &&
        (is(option, "focal-alpha") || is(option, "focal-gamma")))
        return "an option of --focal-weight";
    return NULL;
}

static const char *partition_reason(const hn_fedref_config *c, const char *option)
{
    const char *rule = c->partition;
    const bool alpha = is(rule, "dirichlet") || is(rule, "mixture") || is(rule, "quantity");
    if (is(option, "alpha") && !alpha) return "an option of dirichlet, mixture and quantity";
    if (is(option, "shards") && !is(rule, "shards")) return "an option of --partition shards";
    if (is(option, "groups") && !is(rule, "group")) return "an option of --partition group";
    return NULL;
}

const char *hn_fedref_reason(const hn_fedref_config *c, const char *option)
{
    const unsigned uses = hn_fed_method_uses(method_of(c->method));
    for (int i = 0; i < N_SERVER; i++)
        if (is(option, server_options[i].option) && !(uses & server_options[i].uses))
            return "has no meaning for this --method";
    if (is(option, "late-least") && c->late == 0) return "an option of --late";
    if (is(option, "fisher-images") && !c->fisher) return "an option of --fisher";
    if (is(option, "at-once") && is(c->simulate, "one")) return "--simulate one has one at a time";
    if (is(option, "lanes") && !is(c->simulate, "one")) return "an option of --simulate one";
    const char *reason = subject_reason(c, option);
    if (reason == NULL) reason = partition_reason(c, option);
    return reason ? reason : hn_fed_reason(&c->fed, option);
}

static hn_status check_names(const hn_verb_call *call, const char *const *names, int n)
{
    for (int i = 0; i < n; i++) {
        const char *reason = hn_fedref_reason(call->config, names[i]);
        if (reason != NULL && hn_options_given(call->given, names[i]))
            return HN_FAIL(HN_ERR_ARG, "--%s: %s", names[i], reason);
    }
    return HN_OK;
}

static hn_status check_given(const hn_verb_call *call)
{
    static const char *const more[] = {"alpha",      "shards",  "groups",
                                       "late-least", "at-once", "lanes"};
    const hn_fedref_config *c = call->config;
    for (int i = 0; i < N_SERVER; i++) {
        const char *option = server_options[i].option, *reason = hn_fedref_reason(c, option);
        if (reason != NULL && hn_options_given(call->given, option))
            return HN_FAIL(HN_ERR_ARG, "--%s: %s (--method %s)", option, reason, c->method);
    }
    HN_TRY(check_names(call, more, sizeof more / sizeof *more));
    HN_TRY(check_names(call, image_options, N_IMAGE));
    return check_names(call, volume_options, N_VOLUME);
}

/* What a segmenter's clients cannot do. */
static hn_status check_volumes(const hn_fedref_config *c)
{
    const hn_fedref_volume_config *v = &c->volumes;
    if (is(c->partition, "dirichlet") || is(c->partition, "mixture") || is(c->partition, "shards"))
        return HN_FAIL(HN_ERR_ARG,
                       "--partition %s: by classes, which patches of volumes do not have; iid, "
                       "group (sites) or quantity",
                       c->partition);
    if (is(c->fed.payload, "lora") || is(c->fed.payload, "sparse"))
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "--payload %s: low-rank pairs and blocks for convolutions of volumes are "
                       "not built; full or head",
                       c->fed.payload);
    if (!is(c->simulate, "one"))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "--simulate %s: segmenters train one by one",
                       c->simulate);
    if (c->fisher)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "--fisher: not for a --model that segments volumes");
    if (v->w_dice == 0 && v->w_focal == 0 && v->w_cross == 0)
        return HN_FAIL(HN_ERR_ARG, "--dice-weight 0, --focal-weight 0, --cross-weight 0: no loss");
    return HN_OK;
}

/* -1 is "as the method has it"; another number below 0 would quietly be that, too. */
static hn_status check_signs(const hn_fedref_config *c)
{
    const struct {
        const char *option;
        double v;
    } all[] = {{"server-rate", c->rate},
               {"server-beta1", c->server_beta1},
               {"server-beta2", c->server_beta2},
               {"tau", c->tau},
               {"trim", c->trim},
               {"ema", c->ema},
               {"lambda1", c->lambda1},
               {"lambda2", c->lambda2},
               {"growth", c->growth},
               {"lambda2-cap", c->cap}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].v < 0 && all[i].v != -1)
            return HN_FAIL(HN_ERR_ARG, "--%s %g: 0 or above, or -1: as the method has it",
                           all[i].option, all[i].v);
    return HN_OK;
}

hn_status hn_fedref_check_options(const hn_verb_call *call)
{
    const hn_fedref_config *c = call->config;
    if (call->given != NULL) HN_TRY(check_given(call));
    HN_TRY(check_signs(c));
    HN_TRY(hn_fed_check_options(&c->fed, call->given));
    const bool volumes = hn_seg_model_is(c->fed.model);
    if (volumes) HN_TRY(check_volumes(c));
    if (c->fisher && !is(c->simulate, "one"))
        return HN_FAIL(HN_ERR_ARG, "--fisher: with --simulate one only");
    if (c->fisher && is(c->fed.encoding, "topk"))
        return HN_FAIL(HN_ERR_ARG, "--fisher: not with --encoding topk");
    if (c->fisher && is(c->fed.payload, "sparse"))
        return HN_FAIL(HN_ERR_ARG, "--fisher: not with --payload sparse");
    if (is(c->fed.payload, "sparse") && !is(c->simulate, "one"))
        return HN_FAIL(HN_ERR_ARG,
                       "--simulate %s: blocks (--payload sparse) are trained one client after the "
                       "other: --simulate one",
                       c->simulate);
    if (is(c->method, "fedprox") && c->fed.mu == 0)
        return HN_FAIL(HN_ERR_ARG, "--method fedprox: with --mu 0 it is fedavg");
    if (!volumes && is(c->partition, "group") && c->groups[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "--partition group: --groups FILE says which group images are "
                                   "of");
    if (!is(c->partition, "group") && c->clients == 0)
        return HN_FAIL(HN_ERR_ARG, "--clients 0: only --partition group counts them itself");
    if (c->resume[0] != '\0' && is(c->resume, "auto") && c->out[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "--resume auto: continues the run in --out, which is missing");
    return HN_OK;
}

/* ---- the server ---- */

static void take(double *to, double given)
{
    if (given != -1) *to = given;
}

hn_status hn_fedref_method(const hn_fedref_config *c, hn_fed_server_options *out)
{
    const hn_fed_method m = method_of(c->method);
    const unsigned uses = hn_fed_method_uses(m);
    hn_fed_server_options o = hn_fed_server_defaults(m);
    o.quorum = c->quorum;
    if (uses & HN_FED_USES_RATE) take(&o.rate, c->rate);
    if (uses & HN_FED_USES_BETA1) take(&o.beta1, c->server_beta1);
    if (uses & HN_FED_USES_BETA2) take(&o.beta2, c->server_beta2);
    if (uses & HN_FED_USES_TAU) take(&o.tau, c->tau);
    if (uses & HN_FED_USES_TRIM) take(&o.trim, c->trim);
    if (uses & HN_FED_USES_EMA) take(&o.ema, c->ema);
    if (uses & HN_FED_USES_V1) o.loss_term = c->loss_term, o.first_axis_bug = c->first_axis_bug;
    if (!(uses & HN_FED_USES_REFERENCE)) {
        *out = o;
        return HN_OK;
    }
    if (uses & HN_FED_USES_FISHER) o.fisher = c->fisher;
    take(&o.lambda1, c->lambda1);
    take(&o.lambda2, c->lambda2);
    take(&o.growth, c->growth);
    take(&o.cap, c->cap);
    if (c->p > 0) o.p = c->p;
    if (c->every > 0) o.every = c->every;
    for (int w = HN_FED_WEIGHTS_AGE; w <= HN_FED_WEIGHTS_SLOT; w++)
        if (is(c->weights, hn_fed_weights_name((hn_fed_weights)w))) o.weights = (hn_fed_weights)w;
    *out = o;
    return HN_OK;
}

/* ---- --inject ---- */

/* A number at *at, which goes behind it. */
static bool number(const char **at, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(*at, &end, 10);
    const bool ok = end != *at && errno == 0 && **at >= '0' && **at <= '9';
    *at = end;
    return ok;
}

static bool injection(const char **at, hn_injection *out)
{
    static const char *const kinds[] = {"nan:", "shape:", "stale:", "garbage:", "truncated:"};
    for (int k = 0; k <= HN_INJECT_TRUNCATED; k++) {
        const size_t n = strlen(kinds[k]);
        if (strncmp(*at, kinds[k], n) != 0) continue;
        out->kind = (hn_inject_kind)k;
        *at += n;
        if (!number(at, &out->client) || **at != '@') return false;
        ++*at;
        return number(at, &out->round);
    }
    return false;
}

hn_status hn_fedref_injections(const char *text, hn_injection **out, int64_t *n)
{
    size_t most = 1;
    for (const char *c = text; *c; c++) most += *c == ',';
    *out = NULL;
    *n = 0;
    if (text[0] == '\0') return HN_OK;
    hn_injection *list = hn_calloc(most, sizeof *list);
    if (list == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %zu injections", most);
    const char *at = text;
    bool good = true;
    for (bool more = true; more && good; more = good && *at == ',' && *++at != '\0')
        good = injection(&at, &list[(*n)++]);
    if (good && *at == '\0' && *n == (int64_t)most) {
        *out = list;
        return HN_OK;
    }
    hn_free(list);
    return HN_FAIL(HN_ERR_ARG,
                   "--inject %s: a list of KIND:CLIENT@ROUND, KIND nan, shape, stale, garbage or "
                   "truncated",
                   text);
}
