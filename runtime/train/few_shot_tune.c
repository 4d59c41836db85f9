#include "runtime/train/few_shot_tune.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/train/few_shot_tune_impl.h"

/* ---- options ---- */

static bool is_theta(hn_tune_set s) { return s == HN_TUNE_QV || s == HN_TUNE_BIASES; }

/* Whether steps are those of an engine. */
static bool is_trained(hn_tune_set s) { return s != HN_TUNE_NONE && s != HN_TUNE_HEAD; }

static hn_status check_options(const hn_few_shot_tune_options *o)
{
    if (o->model->kind != HN_MODEL_CLASSIFIER || o->model->vision.family != HN_VISION_VIT)
        return HN_FAIL(HN_ERR_ARG, "%s: no vision transformer", o->model->path);
    if ((unsigned)o->set > HN_TUNE_HEAD) return HN_FAIL(HN_ERR_ARG, "set %d", (int)o->set);
    if (o->at_once < 1 || o->support < 1 || o->queries < 0 || o->steps < 0)
        return HN_FAIL(HN_ERR_ARG,
                       "%" PRId64 " episodes at once, %" PRId64 " support rows, %" PRId64
                       " query rows, %" PRId64 " steps",
                       o->at_once, o->support, o->queries, o->steps);
    if ((o->set == HN_TUNE_LORA) != (o->rank > 0))
        return HN_FAIL(HN_ERR_ARG, "rank %" PRId64 ": lora alone has a rank, of at least 1",
                       o->rank);
    if (o->set == HN_TUNE_LORA && o->at_once < 2)
        return HN_FAIL(HN_ERR_ARG, "lora: %" PRId64 " episodes at once, at least 2", o->at_once);
    if (o->set == HN_TUNE_NONE && o->steps > 0)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " steps, but nothing is trained", o->steps);
    if (o->queries == 0 && !(is_trained(o->set) && o->steps > 0))
        return HN_FAIL(HN_ERR_ARG, "no query rows, and nothing is trained by steps");
    if (o->knot_every < 0 || (o->knot_every > 0 && !is_theta(o->set)))
        return HN_FAIL(HN_ERR_ARG, "knots each %" PRId64 " steps: qv and biases alone have them",
                       o->knot_every);
    if (o->knot_every > 0 && (o->steps == 0 || o->steps % o->knot_every != 0))
        return HN_FAIL(HN_ERR_ARG, "knots each %" PRId64 " steps, of %" PRId64, o->knot_every,
                       o->steps);
    return HN_OK;
}

static bool shares(const hn_few_shot_tuner *t)
{
    return t->o.together && t->o.team != NULL && t->o.team->hub != NULL;
}

/* ---- what is trained ---- */

/* The key's bias of a layer where it is (part of) the vector `name`. */
static bool find_key(const hn_vision_config *c, const char *name, hn_vit_bias_place *key)
{
    for (int64_t l = 0; l < c->vit.layers && c->vit.qkv_bias; l++) {
        if (hn_vision_vit_bias(c, l, HN_VIT_KEY, key) != HN_OK) return false;
        if (strcmp(key->name, name) == 0) return true;
    }
    return false;
}

static hn_adapt_kind norms(const void *context, const char *name)
{
    (void)context;
    return strstr(name, "norm") ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
}

/* A key's bias that is a vector of its own stays. */
static hn_adapt_kind all_but_keys(const void *context, const char *name)
{
    const hn_few_shot_tune_options *o = context;
    hn_vit_bias_place key;
    const bool alone = o->model->vision.names == HN_NAMES_HUGGING_FACE;
    return alone && find_key(&o->model->vision, name, &key) ? HN_ADAPT_FROZEN : HN_ADAPT_FULL;
}

static void keys_stay(const void *context, const char *module, int64_t out, int64_t *first,
                      int64_t *n)
{
    const hn_few_shot_tune_options *o = context;
    char name[HN_VIT_BIAS_NAME];
    hn_vit_bias_place key;
    snprintf(name, sizeof name, "%s.bias", module);
    if (!find_key(&o->model->vision, name, &key) || key.n == out) return;
    *first = key.first;
    *n = key.n;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static hn_status pairs(const void *context, const char *module, int64_t in, int64_t out,
                       hn_lowrank *choice)
{
    static const char *const targets[] = {".qkv", ".query", ".key", ".value"};
    const hn_few_shot_tune_options *o = context;
    (void)in;
    (void)out;
    for (size_t k = 0; k < sizeof targets / sizeof *targets; k++)
        if (ends_with(module, targets[k])) *choice = (hn_lowrank){.rank = o->rank, .scale = 1};
    return HN_OK;
}

static hn_adapt hook_of(const hn_few_shot_tuner *t)
{
    switch (t->o.set) {
    case HN_TUNE_QV:
    case HN_TUNE_BIASES: return hn_theta_trained(&t->theta);
    case HN_TUNE_LN: return (hn_adapt){.parameter = norms};
    case HN_TUNE_FULL:
        return (hn_adapt){.parameter = all_but_keys, .still = keys_stay, .context = &t->o};
    case HN_TUNE_LORA: return (hn_adapt){.linear = pairs, .context = &t->o};
    default: return (hn_adapt){0};
    }
}

/* ---- engines ---- */

static hn_status new_engine(hn_few_shot_tuner *t, bool tuning, hn_few_shot_job *job,
                            hn_engine **out)
{
    const hn_few_shot_tune_options *o = &t->o;
    const hn_few_shot_job_options jo = {.config = &o->model->vision,
                                        .images = o->images,
                                        .replicas = o->at_once,
                                        .support = o->support,
                                        .queries = tuning ? 0 : o->queries,
                                        .ways = o->ways,
                                        .scale = o->scale,
                                        .offset = o->offset,
                                        .augment = o->augment,
                                        .dtype = o->model->dtype,
                                        .attention = o->attention};
    const hn_engine_options eo = {
        .device = o->device,
        .executor = o->executor,
        .job = &job->job,
        .adapt = &t->hook,
        .dtype = o->model->dtype,
        .train = tuning,
        .eval = true,
        .replicas = o->at_once,
        .recompute = tuning ? o->recompute : HN_RECOMPUTE_OFF,
        .memory = o->memory,
        .optimizer = {.kind = HN_OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8},
        .seed = o->seed,
        .stop = o->stop};
    HN_TRY(hn_few_shot_job_init(job, &jo));
    return hn_engine_new(&eo, out);
}

static size_t plan_bytes(const hn_engine *e)
{
    hn_plan_sizes s = {0};
    if (e != NULL) hn_plan_sizes_of(hn_engine_program(e), &s);
    return s.total_bytes;
}

static hn_status new_engines(hn_few_shot_tuner *t)
{
    if (is_trained(t->o.set) && t->o.steps > 0) HN_TRY(new_engine(t, true, &t->tune_job, &t->tune));
    return t->o.queries > 0 ? new_engine(t, false, &t->eval_job, &t->eval) : HN_OK;
}

static void free_engines(hn_few_shot_tuner *t)
{
    hn_engine_free(t->tune);
    hn_engine_free(t->eval);
    t->tune = t->eval = NULL;
}

/* Both beside each other. */
static hn_status fit(const hn_few_shot_tuner *t, bool *fits)
{
    const hn_engine *large = t->tune ? t->tune : t->eval;
    return hn_plan_fits(hn_engine_program(large), t->tune ? plan_bytes(t->eval) : 0, fits, NULL);
}

/* Of tuners that ranks have together: the smallest of all. */
static hn_status agree(hn_few_shot_tuner *t)
{
    int64_t *all = hn_malloc((size_t)hn_team_size(t->o.team) * sizeof *all), least = t->o.at_once;
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to compare ranks");
    const hn_status st = hn_hub_gather(t->o.team->hub, &t->o.at_once, sizeof *all, all);
    for (int64_t r = 0; st == HN_OK && r < hn_team_size(t->o.team); r++)
        if (all[r] < least) least = all[r];
    hn_free(all);
    if (st != HN_OK || least == t->o.at_once) return st;
    free_engines(t);
    t->o.at_once = least;
    return new_engines(t);
}

static hn_status make_engines(hn_few_shot_tuner *t)
{
    const int64_t least = t->o.set == HN_TUNE_LORA ? 2 : 1;
    bool fits = false;
    HN_TRY(new_engines(t));
    for (;;) {
        if (!t->o.shrink) return HN_OK;
        HN_TRY(fit(t, &fits));
        if (fits) return HN_OK;
        if (t->o.at_once <= least)
            return HN_FAIL(HN_ERR_MEMORY, "not even %" PRId64 " at once fit: %zu bytes", least,
                           plan_bytes(t->tune) + plan_bytes(t->eval));
        free_engines(t);
        t->o.at_once = t->o.at_once / 2 > least ? t->o.at_once / 2 : least;
        HN_TRY(new_engines(t));
    }
}

/* ---- life ---- */

hn_device *hn_few_shot_device(const hn_few_shot_tuner *t)
{
    return hn_program_device(hn_engine_program(hn_few_shot_tuner_engine(t)));
}

void hn_few_shot_tuner_free(hn_few_shot_tuner *t)
{
    if (t == NULL) return;
    hn_few_shot_values_free(t);
    free_engines(t);
    hn_theta_free(&t->theta);
    hn_free(t->slot);
    hn_free(t->how);
    hn_free(t->report);
    hn_free(t->first);
    hn_free(t->last);
    hn_free(t->sums);
    hn_free(t->prediction);
    hn_free(t->label);
    hn_free(t->feature);
    hn_free(t);
}

/* What a group of episodes needs on the host. */
static hn_status make_host(hn_few_shot_tuner *t)
{
    const hn_few_shot_tune_options *o = &t->o;
    const size_t n = (size_t)o->at_once, rows = (size_t)(o->support + o->queries);
    const size_t width = (size_t)hn_vision_width(&o->model->vision);
    t->slot = hn_calloc(n, sizeof *t->slot);
    t->how = hn_calloc(n, sizeof *t->how);
    t->report = hn_calloc(n, sizeof *t->report);
    t->first = hn_calloc(n, sizeof *t->first);
    t->last = hn_calloc(n, sizeof *t->last);
    t->sums = hn_calloc(n, sizeof *t->sums);
    t->prediction = hn_calloc(n * (size_t)(o->queries + 1), sizeof *t->prediction);
    t->label = hn_calloc((size_t)o->support, sizeof *t->label);
    if (o->set == HN_TUNE_HEAD) t->feature = hn_calloc(n * rows * width, sizeof *t->feature);
    if (!t->slot || !t->how || !t->report || !t->first || !t->last || !t->sums || !t->prediction ||
        !t->label || (o->set == HN_TUNE_HEAD && !t->feature))
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %zu episodes at once", n);
    return HN_OK;
}

static hn_status make(hn_few_shot_tuner *t)
{
    const hn_theta_set set = t->o.set == HN_TUNE_QV ? HN_THETA_QV : HN_THETA_BIASES;
    HN_TRY(check_options(&t->o));
    if (is_theta(t->o.set)) HN_TRY(hn_theta_make(&t->o.model->vision, set, &t->theta));
    t->hook = hook_of(t);
    HN_TRY(make_engines(t));
    if (shares(t)) HN_TRY(agree(t));
    return make_host(t);
}

hn_status hn_few_shot_tuner_new(const hn_few_shot_tune_options *o, hn_few_shot_tuner **out)
{
    hn_few_shot_tuner *t = hn_calloc(1, sizeof *t);
    if (t == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a tuner", sizeof *t);
    t->o = *o;
    t->phase = HN_HUB_AT_EVALUATE;
    t->number = -1;
    const hn_status st = make(t);
    if (st != HN_OK)
        hn_few_shot_tuner_free(t);
    else
        *out = t;
    return st;
}

static hn_status open_engine(const hn_few_shot_tuner *t, hn_engine *e)
{
    HN_TRY(hn_engine_allocate(e));
    return hn_model_load(t->o.model, hn_engine_params(e), t->o.seed);
}

hn_status hn_few_shot_tuner_open(hn_few_shot_tuner *t)
{
    if (t->tune) HN_TRY(open_engine(t, t->tune));
    if (t->eval) HN_TRY(open_engine(t, t->eval));
    return hn_few_shot_values_open(t);
}

hn_engine *hn_few_shot_tuner_engine(const hn_few_shot_tuner *t)
{
    return t->tune ? t->tune : t->eval;
}

void hn_few_shot_tuner_at(hn_few_shot_tuner *t, hn_hub_phase phase, int64_t number)
{
    t->phase = phase;
    t->number = number;
    if (t->o.team != NULL) hn_team_at(t->o.team, phase, number);
}

int64_t hn_few_shot_tuner_at_once(const hn_few_shot_tuner *t) { return t->o.at_once; }

int64_t hn_few_shot_tuner_trained(const hn_few_shot_tuner *t)
{
    if (t->o.set == HN_TUNE_HEAD) return t->o.ways * (hn_vision_width(&t->o.model->vision) + 1);
    if (t->theta.count > 0) return t->theta.count; /* without the parts that stay */
    return hn_params_trained(hn_engine_params(hn_few_shot_tuner_engine(t)));
}

size_t hn_few_shot_tuner_bytes(const hn_few_shot_tuner *t)
{
    return plan_bytes(t->tune) + plan_bytes(t->eval);
}

int64_t hn_few_shot_tuner_knots(const hn_few_shot_tuner *t)
{
    return t->o.knot_every > 0 ? t->o.steps / t->o.knot_every + 1 : 0;
}

const hn_theta *hn_few_shot_tuner_theta(const hn_few_shot_tuner *t)
{
    return t->theta.count > 0 ? &t->theta : NULL;
}

const float *hn_few_shot_tuner_theta0(const hn_few_shot_tuner *t) { return t->theta0; }

char *hn_few_shot_tuner_plan_text(const hn_few_shot_tuner *t)
{
    char *tune = t->tune ? hn_engine_plan_text(t->tune) : NULL;
    char *eval = t->eval ? hn_engine_plan_text(t->eval) : NULL, *text = NULL;
    if ((tune != NULL) == (t->tune != NULL) && (eval != NULL) == (t->eval != NULL))
        text = hn_asprintf("%" PRId64 " episodes at once\n%s%s%s%s", t->o.at_once,
                           tune ? "tuning\n" : "", tune ? tune : "", eval ? "evaluation\n" : "",
                           eval ? eval : "");
    hn_free(tune);
    hn_free(eval);
    return text;
}

/* ---- the learning rate ---- */

static hn_status keep_share(void *context, int64_t i, const hn_few_shot_result *r)
{
    double *share = context;
    if (r->queries > 0) share[i] = (double)r->hits / (double)r->queries;
    return HN_OK;
}

/* share [n + 1]: of the queries of each task that come out right, on all ranks; the last is for
 * the ranks that were asked to stop. */
static hn_status answer_all(hn_few_shot_tuner *t, const hn_few_shot_task *task, int64_t n,
                            double *share)
{
    if (!shares(t)) return hn_few_shot_tune(t, task, n, keep_share, share);
    const hn_ranks *r = &t->o.team->ranks;
    const hn_status st = hn_few_shot_tune_part(t, task, n, r->rank, r->size, keep_share, share);
    if (st != HN_OK && st != HN_ERR_STOPPED) return st;
    share[n] = st == HN_ERR_STOPPED;
    /* one of a task's is not 0: nothing rounds */
    HN_TRY(hn_hub_sum_f64(t->o.team->hub, share, n + 1));
    return share[n] > 0 ? HN_FAIL(HN_ERR_STOPPED, "%g of the ranks were asked to stop", share[n])
                        : HN_OK;
}

hn_status hn_few_shot_choose_lr(hn_few_shot_tuner *t, const hn_episode *episode, int64_t n,
                                const double *lr, int64_t n_lr, uint64_t seed, double *accuracy,
                                int64_t *best)
{
    if (t->eval == NULL || n < 1 || n_lr < 1)
        return HN_FAIL(HN_ERR_ARG, "a learning rate of %" PRId64 " by %" PRId64 " episodes%s", n_lr,
                       n, t->eval ? "" : " without queries");
    hn_few_shot_task *task = hn_calloc((size_t)(n * n_lr), sizeof *task);
    double *share = hn_calloc((size_t)(n * n_lr) + 1, sizeof *share);
    hn_status st =
        task && share ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " runs", n * n_lr);
    for (int64_t i = 0; st == HN_OK && i < n * n_lr; i++)
        task[i] = (hn_few_shot_task){.episode = &episode[i % n],
                                     .lr = lr[i / n],
                                     .seed = seed + (uint64_t)episode[i % n].number};
    if (st == HN_OK) st = answer_all(t, task, n * n_lr, share);
    for (int64_t k = 0; k < n_lr; k++) {
        accuracy[k] = 0;
        for (int64_t i = 0; st == HN_OK && i < n; i++) accuracy[k] += share[k * n + i] / (double)n;
    }
    hn_free(task);
    hn_free(share);
    HN_TRY(st);
    *best = 0;
    for (int64_t k = 1; k < n_lr; k++)
        if (accuracy[k] > accuracy[*best] || (accuracy[k] == accuracy[*best] && lr[k] < lr[*best]))
            *best = k;
    return HN_OK;
}
