#include "runtime/train/option_kinds.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"

static const char *const of_decoders[] = {
    "tokenizer", "format",       "text-key", "prompt-key", "completion-key", "train-on-prompt",
    "cache-dir", "data-threads", "seq-len",  "packing",    "shard-base",     NULL};
static const char *const of_classifiers[] = {
    "image-size", "channels",        "classes",     "data-kind",  "coarse",   "resident", "augment",
    "pad",        "label-smoothing", "frozen-norm", "train-head", "new-head", "mean-std", NULL};

/* Of a start of a run: where it goes on, there may be other ranks. */
static const char *const of_the_start[] = {
    "gpus",       "ranks",         "job-rank",   "job-size", "local-rank", "local-size",
    "rendezvous", "stall-timeout", "shard-base", "zero",     NULL};

static bool is_in(const char *const *list, const char *name)
{
    for (; list != NULL && *list != NULL; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

static const char *const *of_the_other_kind(const hn_session *s)
{
    return hn_session_has_images(s) ? of_decoders : of_classifiers;
}

hn_status hn_check_option_kinds(const hn_session *s)
{
    for (const char *const *o = of_the_other_kind(s); *o != NULL; o++)
        if (hn_options_given(s->given, *o))
            return HN_FAIL(HN_ERR_ARG, "--%s: of %s, but model %s is %s", *o,
                           hn_session_has_images(s) ? "decoders" : "image classifiers",
                           s->run->model,
                           hn_session_has_images(s) ? "an image classifier" : "a decoder");
    return HN_OK;
}

static const char *idle(const hn_session *s, const char *name)
{
    return s->method->idle != NULL ? s->method->idle(s->config, name) : NULL;
}

hn_status hn_check_run_options(const hn_session *s)
{
    HN_TRY(hn_run_config_check(s->run));
    if (s->run->shard_base && !s->method->adapter)
        return HN_FAIL(HN_ERR_ARG, "--shard-base: %s trains every weight, no base is frozen",
                       s->method->program);
    if (s->run->shard_base && s->method->pack)
        return HN_FAIL(HN_ERR_ARG, "--shard-base: %s trains blocks of the base, each rank has all",
                       s->method->program);
    if (s->run->zero > 0 && s->method->adapter)
        return HN_FAIL(HN_ERR_ARG,
                       "--zero %" PRId64 ": of hone-full; what %s trains is small, each rank has "
                       "the optimizer's state of all of it",
                       s->run->zero, s->method->program);
    for (size_t i = 0; i < s->method->n_options; i++) {
        const char *name = s->method->options[i].name;
        const char *reason = name != NULL ? idle(s, name) : NULL;
        if (reason != NULL && hn_options_given(s->given, name))
            return HN_FAIL(HN_ERR_ARG, "--%s: without effect, %s", name, reason);
    }
    return HN_OK;
}

hn_status hn_check_eval_options(const hn_session *s)
{
    const char *how = s->method->pack ? "a delta pack changes whole weights: hone-lora eval shares "
                                        "the base of what export --kind merged writes"
                                      : "of hone-lora, whose eval takes whole models, too";
    if (!s->run->shard_base || (s->method->adapter && !s->method->pack)) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "--shard-base: %s", how);
}

/* Whether the record of a run leaves it out. */
static bool says_nothing(const hn_session *s, const char *name)
{
    const char *const *loaded = s->run->adapter[0] ? s->method->adapter_options : NULL;
    return name != NULL && (is_in(of_the_start, name) || is_in(of_the_other_kind(s), name) ||
                            is_in(loaded, name) || idle(s, name) != NULL);
}

hn_status hn_record_options(const hn_session *s, const hn_option_table *table, char **yaml)
{
    hn_option *row = hn_malloc(table->n * sizeof *row);
    size_t n = 0;
    if (row == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %zu options", table->n);
    for (size_t i = 0; i < table->n; i++)
        if (!says_nothing(s, table->row[i].name)) row[n++] = table->row[i];
    const hn_status st = hn_options_yaml(row, n, s->config, yaml);
    hn_free(row);
    return st;
}
