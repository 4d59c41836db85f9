/* A drift network that train has made: read from its file, and integrated for episodes. */
#include "runtime/train/hyperflow_drift.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/file/folder.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* ---- the file ---- */

void hn_hf_network_free(hn_hf_network *n)
{
    hn_st_close(n->file);
    hn_free(n->sigma);
    *n = (hn_hf_network){0};
}

static hn_status config_of(hn_hf_network *n, const char *path)
{
    const char *text = hn_st_metadata(n->file, "config");
    json_t *json = NULL;
    if (text == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: no drift network", path);
    HN_TRY(hn_json_parse(text, strlen(text), path, &json));
    const hn_status st = hn_drift_config_read(json, path, &n->config);
    json_decref(json);
    return st;
}

static hn_status same(const hn_hf_network *n, const char *path, const char *key, const char *want)
{
    const char *have = hn_st_metadata(n->file, key);
    if (have != NULL && is(have, want)) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "%s: of another %s: %s, now %s", path, key, have ? have : "none",
                   want);
}

static hn_status sigma_of(hn_hf_network *n, const char *path)
{
    const hn_st_tensor *t = hn_st_find(n->file, "sigma");
    if (t == NULL || t->ndim != 1 || t->dim[0] != n->config.tokens)
        return HN_FAIL(HN_ERR_FORMAT, "%s: no sigma of %" PRId64 " tokens", path, n->config.tokens);
    n->sigma = hn_malloc((size_t)n->config.tokens * sizeof *n->sigma);
    if (n->sigma == NULL) return HN_FAIL(HN_ERR_MEMORY, "sigma");
    HN_TRY(hn_st_convert(t, HN_F32, n->sigma));
    for (int64_t i = 0; i < n->config.tokens; i++)
        if (!(n->sigma[i] > 0))
            return HN_FAIL(HN_ERR_FORMAT, "%s: sigma of token %" PRId64 ": %g", path, i,
                           (double)n->sigma[i]);
    return HN_OK;
}

static const char *text_of(const hn_hf_network *n, const char *key)
{
    const char *text = hn_st_metadata(n->file, key);
    return text ? text : "";
}

static hn_status read_network(hn_hyperflow *r, const char *path, hn_hf_network *n)
{
    HN_TRY(hn_st_open(path, &n->file));
    HN_TRY(config_of(n, path));
    HN_TRY(same(n, path, "backbone", r->base_digest));
    HN_TRY(same(n, path, "layout", r->theta.digest));
    if (n->config.tokens != r->theta.tokens || n->config.token_width != r->theta.width)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tokens of another backbone", path);
    HN_TRY(sigma_of(n, path));
    const hn_hf_encoder from = {.path = text_of(n, "encoder_path"),
                                .weights = text_of(n, "encoder_weights"),
                                .image = strtol(text_of(n, "encoder_image"), NULL, 10)};
    HN_TRY(hn_hyperflow_encoder_open(r, &from));
    HN_TRY(same(n, path, "encoder", r->encoder_digest));
    HN_TRY(hn_sha256_file(path, NULL, n->digest));
    if (n->config.features != hn_vision_width(&r->encoder.vision))
        return HN_FAIL(HN_ERR_FORMAT, "%s: features of another width than the encoder's", path);
    return HN_OK;
}

hn_status hn_hf_network_open(hn_hyperflow *r, hn_hf_network *out)
{
    hn_hf_network n = {0};
    char *path = hn_asprintf("%s/%s/drift.safetensors", r->out, r->c->drift);
    hn_status st = path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    if (st == HN_OK && !hn_is_file(path))
        st = HN_FAIL(HN_ERR_ARG, "%s: not there: hone-hyperflow train --run %s --drift %s makes it",
                     path, r->out, r->c->drift);
    if (st == HN_OK) st = read_network(r, path, &n);
    hn_free(path);
    if (st == HN_OK)
        *out = n;
    else
        hn_hf_network_free(&n);
    return st;
}

hn_status hn_hf_network_load(const hn_hf_network *n, hn_params *p)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        hn_param *q = hn_params_at(p, i);
        const hn_st_tensor *t = hn_st_find(n->file, q->name);
        const int64_t count = hn_param_values(q);
        if (t == NULL || hn_st_elements(t) != count)
            return HN_FAIL(HN_ERR_FORMAT, "%s: no %s of %" PRId64 " values", hn_st_where(n->file),
                           q->name, count);
        float *v = hn_malloc((size_t)count * sizeof *v);
        hn_status st = v ? hn_st_convert(t, HN_F32, v) : HN_FAIL(HN_ERR_MEMORY, "%s", q->name);
        if (st == HN_OK) st = hn_param_set(q, v);
        hn_free(v);
        HN_TRY(st);
    }
    return HN_OK;
}

hn_integrator hn_hf_integrator(const hn_hyperflow_config *c)
{
    int k = 0;
    while (k < HN_INTEGRATE_COUNT - 1 &&
           !is(hn_integrator_of((hn_integrator)k)->name, c->integrator))
        k++;
    return (hn_integrator)k;
}

/* ---- integration of episodes whose features are there ---- */

struct hn_hf_drift {
    hn_hf_network network;
    float *theta0;
    float **feature; /* [domains] of all images; NULL until they are wanted */
    int64_t n_domains;
    double global; /* the stop time for all domains; below 0: not chosen yet */
    hn_hf_choice on_all;
};

void hn_hf_drift_close(hn_hf_drift *d)
{
    if (d == NULL) return;
    hn_hf_network_free(&d->network);
    for (int64_t i = 0; i < d->n_domains; i++) hn_free(d->feature[i]);
    hn_free(d->feature);
    hn_free(d->theta0);
    hn_free(d);
}

const char *hn_hf_drift_digest(const hn_hf_drift *d) { return d->network.digest; }

/* The backbone's own biases: parameters on the CPU for as long as they are read. */
static hn_status read_theta0(const hn_hyperflow *r, float *theta0)
{
    hn_few_shot_tuner *t = NULL;
    hn_hf_bench b = {0};
    hn_status st = hn_hf_bench_open(r, &r->domain[0], HN_HF_TRAIN, HN_HF_TRAIN, &b);
    if (st == HN_OK) {
        hn_few_shot_tune_options o = hn_hf_tune_options(r, &b, hn_hf_theta_set(r));
        o.steps = 0;
        o.at_once = 1;
        st = hn_few_shot_tuner_new(&o, &t);
    }
    if (st == HN_OK) st = hn_few_shot_tuner_open(t);
    if (st == HN_OK)
        memcpy(theta0, hn_few_shot_tuner_theta0(t), (size_t)r->theta.count * sizeof *theta0);
    hn_few_shot_tuner_free(t);
    hn_hf_bench_close(&b);
    return st;
}

hn_status hn_hf_theta0(const hn_hyperflow *r, float **out)
{
    *out = hn_malloc((size_t)r->theta.count * sizeof **out);
    if (*out == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " biases", r->theta.count);
    const hn_status st = read_theta0(r, *out);
    if (st != HN_OK) {
        hn_free(*out);
        *out = NULL;
    }
    return st;
}

hn_status hn_hf_drift_open(hn_hyperflow *r, hn_hf_drift **out)
{
    hn_hf_drift *d = hn_calloc(1, sizeof *d);
    if (d == NULL) return HN_FAIL(HN_ERR_MEMORY, "a drift network");
    d->global = -1;
    d->n_domains = r->n_domains;
    d->feature = hn_calloc((size_t)r->n_domains, sizeof *d->feature);
    hn_status st = d->feature ? hn_hf_network_open(r, &d->network)
                              : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " domains", r->n_domains);
    if (d->feature == NULL) d->n_domains = 0;
    if (st == HN_OK) st = hn_hf_theta0(r, &d->theta0);
    if (st != HN_OK)
        hn_hf_drift_close(d);
    else
        *out = d;
    return st;
}

static hn_status features_of(hn_hyperflow *r, hn_hf_drift *d, const hn_hf_domain *domain,
                             const float **out)
{
    float **f = &d->feature[domain - r->domain];
    if (*f == NULL) {
        const size_t n = (size_t)(hn_image_set_view(domain->images)->count *
                                  d->network.config.features);
        *f = hn_malloc(n * sizeof **f);
        if (*f == NULL) return HN_FAIL(HN_ERR_MEMORY, "features of %s", domain->name);
        HN_TRY(hn_hyperflow_features(r, domain, *f));
    }
    *out = *f;
    return HN_OK;
}

/* Of one domain: adaptation, and the engine that classifies with what comes of it. */
typedef struct {
    hn_hf_eval *e;
    const hn_hf_bench *bench;
    hn_hf_drift *drift;
    hn_adaptor *adaptor;
    hn_few_shot_tuner *tuner;
    const float *feature; /* of all images of the domain */
    int64_t at_once;
    float *gathered; /* [support, features] of the episode at hand */
    float *theta;    /* [at_once, D] */
    hn_few_shot_task *task;
} runner;

static void runner_close(runner *x)
{
    hn_adaptor_free(x->adaptor);
    hn_few_shot_tuner_free(x->tuner);
    hn_free(x->gathered);
    hn_free(x->theta);
    hn_free(x->task);
}

static hn_status open_adaptor(runner *x)
{
    const hn_hyperflow *r = x->e->r;
    const hn_adaptor_options o = {.device = r->device,
                                  .executor = hn_executor_of(r->c->executor),
                                  .drift = &x->drift->network.config,
                                  .integrator = hn_hf_integrator(r->c),
                                  .steps = r->c->integration_steps,
                                  .episodes = x->at_once,
                                  .support = x->bench->sizes.support,
                                  .theta = &r->theta,
                                  .dtype = r->model.dtype};
    HN_TRY(hn_adaptor_new(&o, &x->adaptor));
    HN_TRY(hn_adaptor_allocate(x->adaptor));
    HN_TRY(hn_hf_network_load(&x->drift->network, hn_adaptor_drift(x->adaptor)));
    return hn_adaptor_set_theta(x->adaptor, x->drift->theta0, x->drift->network.sigma);
}

/* losses: of the support images, which a step of no length tells; else hits of the queries. */
static hn_status runner_open(hn_hf_eval *e, const hn_hf_bench *b, bool losses, runner *x)
{
    hn_hyperflow *r = e->r;
    *x = (runner){.e = e, .bench = b, .drift = e->drift};
    hn_few_shot_tune_options o = hn_hf_tune_options(r, b, hn_hf_theta_set(r));
    o.steps = losses ? 1 : 0;
    if (losses) o.queries = 0;
    HN_TRY(features_of(r, e->drift, b->domain, &x->feature));
    HN_TRY(hn_few_shot_tuner_new(&o, &x->tuner));
    HN_TRY(hn_few_shot_tuner_open(x->tuner));
    x->at_once = hn_few_shot_tuner_at_once(x->tuner);
    const int64_t width = e->drift->network.config.features;
    x->gathered = hn_malloc((size_t)(b->sizes.support * width) * sizeof *x->gathered);
    x->theta = hn_malloc((size_t)(x->at_once * r->theta.count) * sizeof *x->theta);
    x->task = hn_calloc((size_t)x->at_once, sizeof *x->task);
    if (x->gathered == NULL || x->theta == NULL || x->task == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "a batch of %" PRId64 " episodes", x->at_once);
    return open_adaptor(x);
}

/* x->theta of n episodes, integrated up to the stop time; 0: theta_0. */
static hn_status adapt(runner *x, const hn_episode *episode, int64_t n, double stop)
{
    const hn_hf_drift *d = x->drift;
    const int64_t width = d->network.config.features, count = x->e->r->theta.count;
    hn_adaptor_batch b;
    if (stop == 0) {
        for (int64_t i = 0; i < n; i++)
            memcpy(x->theta + i * count, d->theta0, (size_t)count * sizeof *x->theta);
        return HN_OK;
    }
    HN_TRY(hn_adaptor_set_stop(x->adaptor, stop));
    HN_TRY(hn_adaptor_batch_of(x->adaptor, &b));
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < episode[i].n_support; j++)
            memcpy(x->gathered + j * width, x->feature + episode[i].support[j] * width,
                   (size_t)width * sizeof *x->gathered);
        const hn_adaptor_task t = {.support_label = episode[i].support_label,
                                   .features = x->gathered,
                                   .n_support = episode[i].n_support};
        HN_TRY(hn_adaptor_put(x->adaptor, &b, i, &t));
    }
    HN_TRY(hn_adaptor_run(x->adaptor));
    return hn_adaptor_theta(x->adaptor, x->theta);
}

/* take gets what the tuner says of episodes with those biases. */
static hn_status classify(runner *x, const hn_episode *episode, int64_t n, bool losses,
                          hn_few_shot_take take, void *context)
{
    for (int64_t i = 0; i < n; i++)
        x->task[i] = (hn_few_shot_task){.episode = &episode[i],
                                        .lr = losses ? HN_HF_NO_LENGTH : 0,
                                        .theta = x->theta + i * x->e->r->theta.count};
    return hn_few_shot_tune(x->tuner, x->task, n, take, context);
}

/* Accuracies of episodes 0 .. total - 1 of a sampler. */
static hn_status accuracies(runner *x, const hn_episode_sampler *s, int64_t total, double stop,
                            hn_hf_scores *scores)
{
    hn_status st = HN_OK;
    for (scores->first = 0; scores->first < total && st == HN_OK; scores->first += x->at_once) {
        const int64_t n =
            total - scores->first < x->at_once ? total - scores->first : x->at_once;
        hn_episode *episode = NULL;
        HN_TRY(hn_hf_draw(s, &x->bench->sizes, scores->first, n, &episode));
        st = adapt(x, episode, n, stop);
        if (st == HN_OK) st = classify(x, episode, n, false, hn_hf_take_accuracy, scores);
        hn_hf_episodes_free(episode, n);
    }
    return st;
}

/* ---- the stop time ---- */

static hn_status stops_of(const hn_hyperflow *r, hn_hf_choice *choice)
{
    double stop[HN_HYPERFLOW_CHOICES];
    int n;
    HN_TRY(hn_hyperflow_numbers(r->c->stops, "stops", 1e-6, 1, stop, &n));
    *choice = (hn_hf_choice){.what = "stop", .value = {0}, .n = 1}; /* 0: direct transfer */
    for (int i = 0; i < n; i++) choice->value[choice->n++] = stop[i];
    return HN_OK;
}

/* Of equal accuracies the earliest time. */
static void take_best(hn_hf_choice *c)
{
    c->best = 0;
    for (int i = 1; i < c->n; i++) {
        const bool better = c->accuracy[i] > c->accuracy[c->best];
        const bool earlier = c->value[i] < c->value[c->best];
        if (better || (c->accuracy[i] == c->accuracy[c->best] && earlier)) c->best = i;
    }
}

static hn_status try_stops(runner *x, hn_hf_choice *choice)
{
    const int64_t n = x->e->r->c->valid_episodes;
    hn_hf_scores s = {.accuracy = hn_calloc((size_t)n, sizeof(double))};
    hn_few_shot_mean m;
    hn_status st = s.accuracy ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " episodes", n);
    for (int i = 0; i < choice->n && st == HN_OK; i++) {
        st = accuracies(x, x->bench->valid, n, choice->value[i], &s);
        if (st == HN_OK) st = hn_few_shot_mean_of(s.accuracy, n, &m);
        if (st == HN_OK) choice->accuracy[i] = m.mean;
    }
    hn_free(s.accuracy);
    return st;
}

/* One for all: by the validation episodes of the training domains. */
static hn_status choose_global(hn_hf_eval *e)
{
    hn_hyperflow *r = e->r;
    hn_hf_choice all;
    HN_TRY(stops_of(r, &all));
    for (int64_t k = 0; k < r->n_train; k++) {
        hn_hf_bench b = {0};
        hn_hf_choice one = all;
        runner x = {0};
        hn_status st = hn_hf_bench_open(r, &r->domain[k], HN_HF_VALID, HN_HF_VALID, &b);
        if (st == HN_OK) st = runner_open(e, &b, false, &x);
        if (st == HN_OK) st = try_stops(&x, &one);
        for (int i = 0; i < all.n; i++) all.accuracy[i] += one.accuracy[i] / (double)r->n_train;
        runner_close(&x);
        hn_hf_bench_close(&b);
        HN_TRY(st);
    }
    take_best(&all);
    all.on = "validation episodes of the training domains";
    e->drift->on_all = all;
    e->drift->global = all.value[all.best];
    return HN_OK;
}

static hn_status choose_stop(runner *x, hn_hf_choice *choice)
{
    HN_TRY(stops_of(x->e->r, choice));
    HN_TRY(try_stops(x, choice));
    take_best(choice);
    choice->on = "validation episodes of the domain";
    return HN_OK;
}

/* ---- a cell ---- */

static hn_status drift_cell(runner *x, const char *method, hn_hf_cell *cell)
{
    hn_hf_eval *e = x->e;
    hn_hf_scores s = {.accuracy = e->accuracy};
    if (is(method, "hyperflow-global"))
        cell->choice = e->drift->on_all;
    else
        HN_TRY(choose_stop(x, &cell->choice));
    const int64_t begun = hn_clock_ns();
    HN_TRY(accuracies(x, e->bench.main, e->r->c->test_episodes,
                      cell->choice.value[cell->choice.best], &s));
    cell->seconds = (double)(hn_clock_ns() - begun) * 1e-9;
    cell->flops = hn_adaptor_flops(x->adaptor).drift / (double)x->at_once;
    cell->planned_bytes = hn_few_shot_tuner_bytes(x->tuner);
    return HN_OK;
}

hn_status hn_hf_drift_cell(hn_hf_eval *e, const char *method, hn_hf_cell *cell)
{
    runner x = {0};
    if (is(method, "hyperflow-global") && e->drift->global < 0) HN_TRY(choose_global(e));
    hn_status st = runner_open(e, &e->bench, false, &x);
    if (st == HN_OK) st = drift_cell(&x, method, cell);
    runner_close(&x);
    return st;
}
