/* Which options mean something for a strategy. */
#include <string.h>

#include "runtime/train/pearl_impl.h"

static const char *const strategies[] = {"pearl",      "lora",  "head", "single",
                                         "sequential", "joint", "lwf",  "ewc"};

hn_pearl_strategy hn_pearl_strategy_of(const char *name)
{
    int i = 0;
    while (i < HN_PEARL_EWC && strcmp(name, strategies[i]) != 0) i++;
    return (hn_pearl_strategy)i; /* the option's choices leave no other */
}

enum {
    PEARL = 1 << HN_PEARL_PEARL,
    LORA = 1 << HN_PEARL_LORA,
    HEAD = 1 << HN_PEARL_HEAD,
    LWF = 1 << HN_PEARL_LWF,
    EWC = 1 << HN_PEARL_EWC,
    NOT_JOINT = 0xff & ~(1 << HN_PEARL_JOINT)
};

static const struct {
    const char *option;
    unsigned of;
} owners[] = {
    {"ref", PEARL | LORA | HEAD},
    {"layers", PEARL | LORA},
    {"norm", PEARL | LORA},
    {"rank", LORA},
    {"rank-rule", PEARL},
    {"energy", PEARL},
    {"eps", PEARL},
    {"floor", PEARL},
    {"max-rank", PEARL},
    {"budget", PEARL},
    {"allocator", PEARL},
    {"init", PEARL},
    {"probe-epochs", PEARL},
    {"probe-lr", PEARL},
    {"truncate", PEARL},
    {"lwf-weight", LWF},
    {"lwf-temperature", LWF},
    {"ewc-weight", EWC},
    {"ewc-decay", EWC},
    {"ewc-images", EWC},
    {"start-from", NOT_JOINT},
    {"stop-after", NOT_JOINT},
};

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* Of a budget the threshold that it decides is not read, and the greedy allocator reads neither. */
static const char *threshold_reason(const hn_pearl_config *c, const char *option)
{
    const bool greedy = c->budget > 0 && is(c->allocator, "greedy");
    const bool energy = is(option, "energy"), eps = is(option, "eps"), r2 = is(c->rank_rule, "r2");
    if (!energy && !eps && !is(option, "rank-rule")) return NULL;
    if (greedy) return "--allocator greedy decides the ranks";
    if (energy && r2) return "--rank-rule r2 does not read it";
    if (eps && !r2 && !is(c->rank_rule, "both")) return "only --rank-rule r2 and both read it";
    if (c->budget > 0 && ((energy && !r2) || (eps && r2))) return "--budget decides it";
    return NULL;
}

static const char *optimizer_reason(const hn_pearl_config *c, const char *option)
{
    const bool sgd = is(option, "momentum") || is(option, "nesterov");
    const bool adamw = is(option, "beta1") || is(option, "beta2") || is(option, "adam-eps");
    if (sgd && !is(c->optimizer, "sgd")) return "an option of --optimizer sgd";
    if (adamw && !is(c->optimizer, "adamw")) return "an option of --optimizer adamw";
    return NULL;
}

const char *hn_pearl_reason(const hn_pearl_config *c, const char *option)
{
    const hn_pearl_strategy s = hn_pearl_strategy_of(c->strategy);
    for (size_t i = 0; i < sizeof owners / sizeof *owners; i++)
        if (is(option, owners[i].option) && !(owners[i].of >> s & 1))
            return "has no meaning for this --strategy";
    if (is(option, "truncate") && c->budget > 0 && is(c->allocator, "greedy"))
        return "--allocator greedy leaves no rule to cut by";
    if (is(option, "allocator") && c->budget == 0) return "an option of --budget";
    if (is(option, "pad") && (is(c->augment, "none") || is(c->augment, "resized-crop-flip")))
        return "this --augment does not pad";
    const char *reason = threshold_reason(c, option);
    return reason ? reason : optimizer_reason(c, option);
}

hn_status hn_pearl_check_options(const hn_verb_call *call)
{
    static const char *const more[] = {"allocator", "pad",   "momentum", "nesterov",
                                       "beta1",     "beta2", "adam-eps"};
    const hn_pearl_config *c = call->config;
    const size_t n_owned = sizeof owners / sizeof *owners, n_more = sizeof more / sizeof *more;
    for (size_t i = 0; call->given != NULL && i < n_owned + n_more; i++) {
        const char *option = i < n_owned ? owners[i].option : more[i - n_owned];
        const char *reason = hn_pearl_reason(c, option);
        if (reason != NULL && hn_options_given(call->given, option))
            return HN_FAIL(HN_ERR_ARG, "--%s: %s (--strategy %s)", option, reason, c->strategy);
    }
    if (c->min_lr > c->lr)
        return HN_FAIL(HN_ERR_ARG, "--min-lr %g is above --lr %g", c->min_lr, c->lr);
    if (c->nesterov && is(c->optimizer, "sgd") && c->momentum <= 0)
        return HN_FAIL(HN_ERR_ARG, "--nesterov: a form of momentum, here --momentum 0");
    if (c->resume[0] != '\0' && is(c->resume, "auto") && c->out[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "--resume auto: continues the run in --out, which is missing");
    if (c->start_from > 1 && c->out[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "--start-from: continues the run in --out, which is missing");
    return HN_OK;
}
