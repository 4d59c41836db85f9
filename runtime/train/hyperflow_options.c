/* Which options mean something, and the options of train. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_impl.h"

#define FIELD(f) HN_OPT(hn_hyperflow_config, f)

/* clang-format off */
static const hn_option train_rows[] = {
    HN_OPT_TITLE("Encoder of support images"),
    {"encoder",         FIELD(encoder),         "resnet18-cifar", 0, 0, NULL, "folder of a network, or the name of an architecture, which is trained on the training classes where it has no --encoder-weights, once in a run"},
    {"encoder-weights", FIELD(encoder_weights), "",     0, 0, NULL, "safetensors file of a named one"},
    {"encoder-image",   FIELD(encoder_image),   "0",    0, 4096, NULL, "side of the images that it reads; 0: as it says"},
    {"encoder-epochs",  FIELD(encoder_epochs),  "30",   1, 1e4, NULL, "of its training"},
    {"encoder-batch",   FIELD(encoder_batch),   "128",  1, 65536, NULL, "images of a step"},
    {"encoder-lr",      FIELD(encoder_lr),      "0.05", 1e-9, 1e3, NULL, "of SGD with momentum 0.9, down to 0 by a cosine"},
    HN_OPT_TITLE("Drift network"),
    {"curve",           FIELD(curve),           "C",    0, 0, "L|PL|C", "through a trajectory's knots: its ends, straight pieces, a cubic spline"},
    {"width",           FIELD(width),           "256",  8, 4096, NULL, "of its tokens: heads have 64 of it"},
    {"blocks",          FIELD(blocks),          "4",    1, 64, NULL, "of attention to the biases, to the support, and a hidden layer"},
    {"mlp",             FIELD(mlp),             "4",    1, 16, NULL, "hidden layer, times the width"},
    {"queries",         FIELD(queries),         "16",   1, 256, NULL, "tokens that the support becomes"},
    {"iterations",      FIELD(iterations),      "20000", 1, 1e8, NULL, "optimizer steps"},
    {"drift-batch",     FIELD(drift_batch),     "16",   1, 4096, NULL, "support sets of a step"},
    {"times",           FIELD(times),           "16",   1, 1024, NULL, "points of each of them: a trajectory of it and a time"},
    {"drift-lr",        FIELD(drift_lr),        "3e-4", 1e-9, 1, NULL, "of AdamW, down to 0 by a cosine"},
    {"drift-decay",     FIELD(drift_decay),     "0.01", 0, 10, NULL, "weight decay"},
    {"warmup",          FIELD(warmup),          "1000", 0, 1e8, NULL, "steps to the full learning rate"},
    {"ema",             FIELD(ema),             "0.999", 0, 0.9999999, NULL, "decay of the average of weights that is used; 0: the weights themselves"},
    {"jitter",          FIELD(jitter),          "0.05", 0, 10, NULL, "deviation of noise on the biases that it is shown, in root mean squares"},
    {"log-every",       FIELD(log_every),       "100",  1, 1e8, NULL, "steps from line to line"},
    {"save-every",      FIELD(save_every),      "2000", 1, 1e8, NULL, "steps from checkpoint to checkpoint"},
    {"resume-device",   FIELD(resume_device),   "same", 0, 0, "same|any", "any: go on with another number of GPUs, or on other kernels, with other bits"},
};
/* clang-format on */

const hn_option *hn_hyperflow_train_rows(size_t *n)
{
    *n = sizeof train_rows / sizeof *train_rows;
    return train_rows;
}

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }
static bool set(const char *text) { return text != NULL && text[0] != '\0'; }

/* ---- options that mean nothing ---- */

static const char *episode_reason(const hn_hyperflow_config *c, const char *option)
{
    const bool fixed = is(c->protocol, "fixed"), meta = is(c->protocol, "meta-dataset");
    const bool ways = is(option, "way") || is(option, "way-most") || is(option, "query-shot") ||
                      is(option, "shot-most");
    if (ways && !fixed) return "an option of --protocol fixed";
    if (is(option, "shot") && meta) return "--protocol meta-dataset draws it";
    if ((is(option, "max-support") || is(option, "max-query")) && !meta)
        return "an option of --protocol meta-dataset";
    return NULL;
}

/* A folder says all of this itself. */
static const char *encoder_reason(const hn_hyperflow_config *c, const char *option)
{
    const bool folder = hn_is_folder(c->encoder);
    const bool trains =
        is(option, "encoder-epochs") || is(option, "encoder-batch") || is(option, "encoder-lr");
    if (is(option, "encoder-weights") && folder) return "the folder of --encoder has its weights";
    if (trains && (folder || set(c->encoder_weights)))
        return "an encoder that has weights is not trained";
    return NULL;
}

/* Of a verb without those options they are NULL. */
const char *hn_hyperflow_reason(const hn_hyperflow_config *c, const char *option)
{
    if (c->model == NULL) return "an option of a run"; /* and apply has none */
    if (is(option, "noise") && c->inits == 1) return "--inits 1 starts at the backbone only";
    const char *reason = episode_reason(c, option);
    if (reason == NULL && c->encoder != NULL) reason = encoder_reason(c, option);
    if (reason == NULL && is(option, "query") && !set(c->support))
        return "the images of an episode are classified in any case; an option of --support";
    if (reason == NULL && is(option, "episode") && !set(c->of)) return "an option of --of";
    return reason;
}

static hn_status check_given(const hn_verb_call *call)
{
    static const char *const names[] = {"noise",       "way",           "way-most",
                                        "shot",        "shot-most",     "query-shot",
                                        "max-support", "max-query",     "encoder-epochs",
                                        "encoder-lr",  "encoder-batch", "encoder-weights",
                                        "query",       "episode"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!hn_options_given(call->given, names[i])) continue;
        const char *reason = hn_hyperflow_reason(call->config, names[i]);
        if (reason != NULL) return HN_FAIL(HN_ERR_ARG, "--%s: %s", names[i], reason);
    }
    return HN_OK;
}

/* ---- lists of numbers ---- */

hn_status hn_hyperflow_numbers(hn_text_list list, const char *option, double least, double most,
                               double *out, int *n)
{
    char word[64];
    *n = 0;
    for (int64_t i = 0;; i++) {
        const int64_t length = hn_text_list_item(list, i, word, sizeof word);
        if (length < 0) break;
        char *end = word;
        const double v = length < (int64_t)sizeof word ? strtod(word, &end) : 0;
        if (end == word || *end != '\0' || !(v >= least && v <= most))
            return HN_FAIL(HN_ERR_ARG, "--%s: '%.40s': numbers from %g to %g, commas between",
                           option, word, least, most);
        if (*n == HN_HYPERFLOW_CHOICES)
            return HN_FAIL(HN_ERR_ARG, "--%s: at most %d numbers", option, HN_HYPERFLOW_CHOICES);
        out[(*n)++] = v;
    }
    return *n > 0 ? HN_OK : HN_FAIL(HN_ERR_ARG, "--%s: at least one number", option);
}

/* ---- */

static hn_status check_knots(const hn_hyperflow_config *c)
{
    if (c->tune_steps % (c->knots - 1) != 0)
        return HN_FAIL(HN_ERR_ARG,
                       "--knots %" PRId64 ": one less, %" PRId64
                       ", has to divide --tune-steps %" PRId64,
                       c->knots, c->knots - 1, c->tune_steps);
    return HN_OK;
}

static hn_status check_episodes(const hn_hyperflow_config *c)
{
    if (c->way_most != 0 && c->way_most < c->way)
        return HN_FAIL(HN_ERR_ARG, "--way-most %" PRId64 ": below --way %" PRId64, c->way_most,
                       c->way);
    if (c->shot_most != 0 && c->shot_most < c->shot)
        return HN_FAIL(HN_ERR_ARG, "--shot-most %" PRId64 ": below --shot %" PRId64, c->shot_most,
                       c->shot);
    return HN_OK;
}

static hn_status check_train(const hn_hyperflow_config *c)
{
    if (c->width % (c->width > 64 ? 64 : 8) != 0)
        return HN_FAIL(HN_ERR_ARG,
                       "--width %" PRId64 ": a multiple of 64, the width of a head; below, of 8",
                       c->width);
    if (c->warmup >= c->iterations)
        return HN_FAIL(HN_ERR_ARG, "--warmup %" PRId64 ": --iterations are %" PRId64, c->warmup,
                       c->iterations);
    return HN_OK;
}

/* What a run's folder has besides networks: folders, and files, by the ends of their names. */
static bool is_taken(const char *name)
{
    static const char *const folders[] = {"encoder", "encoder-state", "features", "cells"};
    static const char *const ends[] = {".json", ".bin", ".yaml", ".gnuplot", ".png"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (is(name, folders[i])) return true;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t n = strlen(name), m = strlen(ends[i]);
        if (n >= m && is(name + n - m, ends[i])) return true;
    }
    return false;
}

static hn_status check_name(const char *name)
{
    if (!set(name) || strchr(name, '/') != NULL || name[0] == '.' || is_taken(name))
        return HN_FAIL(HN_ERR_ARG, "--drift '%s': the name of a folder of its own in the run",
                       name);
    return HN_OK;
}

static hn_status check_adapt(const hn_hyperflow_config *c)
{
    if (set(c->support) == set(c->of))
        return HN_FAIL(HN_ERR_ARG, "one of --support FOLDER and --of DOMAIN says what to adapt to");
    return HN_OK;
}

hn_status hn_hyperflow_one_gpu(const hn_hyperflow_config *c)
{
    if (c->team.gpus == NULL || is(c->team.gpus, "1")) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "--gpus %s: this verb works on one GPU; generate, train and eval take several",
                   c->team.gpus);
}

hn_status hn_hyperflow_check_options(const hn_verb_call *call)
{
    const hn_hyperflow_config *c = call->config;
    double number[HN_HYPERFLOW_CHOICES];
    int n;
    if (call->given != NULL) HN_TRY(check_given(call));
    HN_TRY(check_knots(c));
    HN_TRY(check_episodes(c));
    HN_TRY(hn_hyperflow_numbers(c->rates, "rates", 1e-9, 1, number, &n));
    if (c->drift != NULL) HN_TRY(check_name(c->drift));
    if (c->curve != NULL) HN_TRY(check_train(c));
    if (c->full_rates.joined != NULL)
        HN_TRY(hn_hyperflow_numbers(c->full_rates, "full-rates", 1e-9, 1, number, &n));
    if (c->stops.joined != NULL)
        HN_TRY(hn_hyperflow_numbers(c->stops, "stops", 1e-6, 1, number, &n));
    if (c->support != NULL) HN_TRY(check_adapt(c));
    if (c->resume != NULL && is(c->resume, "auto") && !set(c->out))
        return HN_FAIL(HN_ERR_ARG, "--resume auto: continues the run in --out, which is missing");
    return HN_OK;
}
