/* A drift network that train has made: read from its file, and integrated for episodes. */
#include "runtime/train/hyperflow_cost.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_values.h"
#include "runtime/train/signals.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* Adam's steps of this length change no bias: such a task tells its support loss, and no more. */
#define NO_LENGTH 1e-30

/* ---- the file ---- */

void hn_hf_network_free(hn_hf_network *n)
{
    hn_st_close(n->file);
    hn_drift_facts_free(&n->facts);
    *n = (hn_hf_network){0};
}

static hn_status same(const char *path, const char *what, const char *have, const char *want)
{
    if (strcmp(have, want) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "%s: of another %s: %s, now %s", path, what, have, want);
}

/* The encoder that train has used. */
static hn_status open_encoder(hn_hyperflow *r, const char *path)
{
    json_t *o = NULL;
    hn_hf_encoder from = {0};
    const char *digest = NULL;
    HN_TRY(hn_json_load(path, &o));
    hn_status st = hn_json_get_text(o, "path", path, true, &from.path);
    if (st == HN_OK) st = hn_json_get_text(o, "weights", path, true, &from.weights);
    if (st == HN_OK) st = hn_json_get_i64(o, "image", path, 0, 4096, true, &from.image);
    if (st == HN_OK) st = hn_json_get_text(o, "digest", path, true, &digest);
    if (st == HN_OK) st = hn_hyperflow_encoder_open(r, &from);
    if (st == HN_OK) st = same(path, "encoder", digest, r->encoder_digest);
    json_decref(o);
    return st;
}

static hn_status read_network(hn_hyperflow *r, const char *path, const char *encoder,
                              hn_hf_network *n)
{
    HN_TRY(hn_st_open(path, &n->file));
    HN_TRY(hn_drift_facts_read(n->file, &n->facts));
    HN_TRY(same(path, "backbone", n->facts.backbone, r->base_digest));
    HN_TRY(same(path, "set of biases", n->facts.layout, r->theta.digest));
    HN_TRY(open_encoder(r, encoder));
    HN_TRY(same(path, "encoder", n->facts.encoder, r->encoder_digest));
    HN_TRY(hn_sha256_file(path, NULL, n->digest));
    const hn_drift_config *c = &n->facts.config;
    if (c->tokens != r->theta.tokens || c->token_width != r->theta.width ||
        c->features != hn_vision_width(&r->encoder.vision))
        return HN_FAIL(HN_ERR_FORMAT, "%s: sizes of another backbone or encoder", path);
    return HN_OK;
}

hn_status hn_hf_network_open(hn_hyperflow *r, hn_hf_network *out)
{
    hn_hf_network n = {0};
    char *path = hn_asprintf("%s/%s/drift.safetensors", r->out, r->c->drift),
         *encoder = hn_asprintf("%s/%s/encoder.json", r->out, r->c->drift);
    hn_status st = path && encoder ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    if (st == HN_OK && !hn_is_file(path))
        st = HN_FAIL(HN_ERR_ARG, "%s: not there: hone-hyperflow train --run %s --drift %s makes it",
                     path, r->out, r->c->drift);
    if (st == HN_OK) st = read_network(r, path, encoder, &n);
    hn_free(path);
    hn_free(encoder);
    if (st == HN_OK)
        *out = n;
    else
        hn_hf_network_free(&n);
    return st;
}

hn_drift_config hn_hf_drift_config(const hn_hyperflow *r)
{
    const hn_hyperflow_config *c = r->c;
    hn_drift_config d = hn_drift_config_default(r->theta.tokens, r->theta.width,
                                                hn_vision_width(&r->encoder.vision));
    d.width = c->width;
    d.blocks = c->blocks;
    d.heads = c->width > 64 ? c->width / 64 : 1;
    d.intermediate = c->width * c->mlp;
    d.queries = c->queries;
    return d;
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

/* together: all ranks ask for them. */
static hn_status features_of(hn_hyperflow *r, hn_hf_drift *d, const hn_hf_domain *domain,
                             bool together, const float **out)
{
    float **f = &d->feature[domain - r->domain];
    if (*f == NULL) {
        const size_t n =
            (size_t)(hn_image_set_view(domain->images)->count * d->network.facts.config.features);
        float *all = hn_malloc(n * sizeof *all);
        hn_status st = all ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "features of %s", domain->name);
        if (st == HN_OK)
            st = together ? hn_hyperflow_features_of_all(r, domain, all)
                          : hn_hyperflow_features(r, domain, all);
        if (st != HN_OK) {
            hn_free(all);
            return st;
        }
        *f = all;
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
    int64_t wild;   /* times that the biases of an episode were not finite, on all ranks */
    bool together;  /* all ranks have it, and share its groups of episodes */
    int64_t groups; /* so far */
} runner;

static void runner_close(runner *x)
{
    if (x->wild > 0)
        hn_warn(&x->e->r->log,
                "%s: integration came to biases that are not finite %" PRId64
                " times (of validation and test episodes)",
                x->e->what, x->wild);
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
                                  .drift = &x->drift->network.facts.config,
                                  .integrator = hn_hf_integrator(r->c),
                                  .steps = r->c->integration_steps,
                                  .episodes = x->at_once,
                                  .support = x->bench->sizes.support,
                                  .theta = &r->theta,
                                  .dtype = r->model.dtype,
                                  .stop = hn_signals_caught};
    HN_TRY(hn_adaptor_new(&o, &x->adaptor));
    HN_TRY(hn_adaptor_allocate(x->adaptor));
    HN_TRY(hn_drift_file_load(x->drift->network.file, hn_adaptor_drift(x->adaptor)));
    return hn_adaptor_set_theta(x->adaptor, x->drift->theta0, x->drift->network.facts.sigma);
}

/* losses: of the support images, which a step of no length tells, of one rank; else hits of the
 * queries, of all. */
static hn_status runner_open(hn_hf_eval *e, const hn_hf_bench *b, bool losses, runner *x)
{
    hn_hyperflow *r = e->r;
    *x = (runner){.e = e, .bench = b, .drift = e->drift, .together = !losses};
    hn_few_shot_tune_options o = hn_hf_tune_options(r, b, hn_hf_theta_set(r));
    o.steps = losses ? 1 : 0;
    if (losses) o.queries = 0;
    o.together = x->together;
    o.stop = hn_signals_caught;
    HN_TRY(features_of(r, e->drift, b->domain, x->together, &x->feature));
    HN_TRY(hn_few_shot_tuner_new(&o, &x->tuner));
    HN_TRY(hn_few_shot_tuner_open(x->tuner));
    x->at_once = hn_few_shot_tuner_at_once(x->tuner);
    const int64_t width = e->drift->network.facts.config.features;
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
    const int64_t width = d->network.facts.config.features, count = x->e->r->theta.count;
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
                                        .lr = losses ? NO_LENGTH : 0,
                                        .theta = x->theta + i * x->e->r->theta.count};
    return hn_few_shot_tune(x->tuner, x->task, n, take, context);
}

/* They count with what comes out of them. */
static int64_t count_wild(const runner *x, int64_t n)
{
    const hn_theta *t = &x->e->r->theta;
    int64_t wild = 0;
    for (int64_t i = 0; i < n; i++) wild += hn_theta_not_finite(t, x->theta + i * t->count) != NULL;
    return wild;
}

/* Accuracies of all test episodes, or of episodes 0 .. total - 1 for validation: those of this
 * rank's groups. scores->stopped: asked to stop before the last of them. */
static hn_status accuracies(runner *x, bool test, int64_t total, double stop, hn_hf_scores *scores)
{
    hn_status st = HN_OK;
    for (scores->first = 0; scores->first < total && st == HN_OK; scores->first += x->at_once) {
        const int64_t n = total - scores->first < x->at_once ? total - scores->first : x->at_once;
        hn_episode *episode = NULL;
        if (!hn_hyperflow_is_own(x->e->r, x->groups++)) continue;
        hn_few_shot_tuner_at(x->tuner, HN_HUB_AT_EVALUATE, scores->first);
        HN_TRY(test ? hn_hf_draw_tests(x->bench, scores->first, n, &episode)
                    : hn_hf_draw(x->bench->valid, &x->bench->sizes, scores->first, n, &episode));
        st = adapt(x, episode, n, stop);
        if (st == HN_OK) st = classify(x, episode, n, false, hn_hf_take_accuracy, scores);
        if (st == HN_OK) x->wild += count_wild(x, n);
        hn_hf_episodes_free(episode, n);
        if (st == HN_OK && test) hn_hf_eval_show(x->e, scores->first + n);
    }
    scores->stopped = st == HN_ERR_STOPPED; /* all hear of it where they meet */
    return scores->stopped ? HN_OK : st;
}

/* What the groups of other ranks have been. */
static hn_status gather_wild(runner *x)
{
    double wild = (double)x->wild;
    HN_TRY(hn_hyperflow_total(x->e->r, &wild, 1));
    x->wild = (int64_t)wild;
    return HN_OK;
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
    const int64_t n = x->e->r->c->valid_episodes, tries = choice->n * n;
    /* [choice->n][n], and how many ranks were asked to stop */
    double *all = hn_calloc((size_t)tries + 1, sizeof *all);
    hn_few_shot_mean m;
    hn_status st = all ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " episodes", n);
    for (int i = 0; i < choice->n && st == HN_OK && all[tries] == 0; i++) {
        hn_hf_scores s = {.accuracy = all + i * n};
        st = accuracies(x, false, n, choice->value[i], &s);
        if (s.stopped) all[tries] = 1;
    }
    if (st == HN_OK) st = hn_hyperflow_total(x->e->r, all, tries + 1);
    if (st == HN_OK && all[tries] > 0)
        st = HN_FAIL(HN_ERR_STOPPED, "%s: asked to stop", x->e->what);
    for (int i = 0; i < choice->n && st == HN_OK; i++) {
        st = hn_few_shot_mean_of(all + i * n, n, &m);
        if (st == HN_OK) choice->accuracy[i] = m.mean;
    }
    hn_free(all);
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
        if (st == HN_OK) st = gather_wild(&x);
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

/* Plans alone, which take no memory of the device: what has no room for full fine-tuning adapts. */
static hn_status cost_of(const hn_hf_eval *e, hn_hf_cost *out)
{
    hn_hf_planned p;
    const hn_status st = hn_hf_planned_open(e->r, &e->bench, &e->drift->network.facts.config, &p);
    if (st == HN_OK) *out = hn_hf_cost_of(e->r, &e->bench, &p);
    hn_hf_planned_free(&p);
    return st;
}

static hn_status drift_cell(runner *x, const char *method, hn_hf_cell *cell)
{
    hn_hf_eval *e = x->e;
    hn_hf_scores s = {.accuracy = e->accuracy};
    if (is(method, "hyperflow-global"))
        cell->choice = e->drift->on_all;
    else
        HN_TRY(choose_stop(x, &cell->choice));
    const int64_t begun = hn_clock_ns();
    HN_TRY(accuracies(x, true, hn_hf_bench_episodes(e->r, &e->bench),
                      cell->choice.value[cell->choice.best], &s));
    cell->seconds = (double)(hn_clock_ns() - begun) * 1e-9;
    HN_TRY(hn_hf_gather(e, &s, &cell->seconds));
    HN_TRY(gather_wild(x));
    cell->flops = hn_adaptor_flops(x->adaptor).drift / (double)x->at_once;
    hn_plan_sizes sizes = {0};
    hn_plan_sizes_of(hn_engine_program(hn_adaptor_engine(x->adaptor)), &sizes);
    cell->planned_bytes = hn_few_shot_tuner_bytes(x->tuner) + sizes.total_bytes;
    return HN_OK;
}

hn_status hn_hf_drift_cell(hn_hf_eval *e, const char *method, hn_hf_cell *cell)
{
    runner x = {0};
    if (is(method, "hyperflow-global") && e->drift->global < 0) HN_TRY(choose_global(e));
    hn_status st = hn_hyperflow_leads(e->r) ? cost_of(e, &cell->cost) : HN_OK;
    if (st == HN_OK) st = runner_open(e, &e->bench, false, &x);
    if (st == HN_OK) st = drift_cell(&x, method, cell);
    runner_close(&x);
    return st;
}

/* ---- descent: the support loss along the way, of tasks that it was trained on ---- */

enum { MOST_TASKS = 64, TIMES = 10 }; /* tasks of a domain; parts of the time */

typedef struct {
    double loss[TIMES + 1], *tuning; /* sums over the tasks, by time; by knot */
    double *to;
    int64_t n;
} descent;

static hn_status take_loss(void *context, int64_t i, const hn_few_shot_result *t)
{
    descent *d = context;
    (void)i;
    *d->to += t->loss_first;
    return HN_OK;
}

static hn_status along_drift(runner *x, const hn_episode *episode, int64_t n, descent *d)
{
    for (int k = 0; k <= TIMES; k++) {
        d->to = &d->loss[k];
        HN_TRY(adapt(x, episode, n, (double)k / TIMES));
        HN_TRY(classify(x, episode, n, true, take_loss, d));
    }
    return HN_OK;
}

/* Knot k of the trajectories `place` of the file, as biases. */
static void biases_at(runner *x, const hn_trajectories *t, const int64_t *place, int64_t n,
                      int64_t k)
{
    const int64_t count = x->e->r->theta.count;
    for (int64_t i = 0; i < n; i++) {
        hn_trajectory one;
        hn_trajectories_at(t, place[i], &one);
        const hn_f16 *knot = one.knot + k * count;
        for (int64_t j = 0; j < count; j++)
            x->theta[i * count + j] = x->drift->theta0[j] + one.facts.unit * hn_f16_to_f32(knot[j]);
    }
}

static hn_status along_tuning(runner *x, const hn_trajectories *t, const int64_t *place,
                              const hn_episode *episode, int64_t n, descent *d)
{
    for (int64_t k = 0; k < t->head.knots; k++) {
        d->to = &d->tuning[k];
        biases_at(x, t, place, n, k);
        HN_TRY(classify(x, episode, n, true, take_loss, d));
    }
    return HN_OK;
}

/* Trajectories place [n] of one domain, which begin at the backbone. */
static hn_status tasks(runner *x, const hn_trajectories *t, const int64_t *place, int64_t n,
                       descent *d)
{
    hn_episode *episode = hn_calloc((size_t)n, sizeof *episode);
    hn_status st = episode ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " episodes", n);
    const hn_episode_sizes *s = &x->bench->sizes;
    for (int64_t i = 0; i < n && st == HN_OK; i++) {
        hn_trajectory one;
        hn_trajectories_at(t, place[i], &one);
        st = hn_episode_make(s->way, s->support, s->query, &episode[i]);
        if (st == HN_OK) st = hn_episode_draw(x->bench->main, one.facts.episode, &episode[i]);
    }
    if (st == HN_OK) st = along_drift(x, episode, n, d);
    if (st == HN_OK) st = along_tuning(x, t, place, episode, n, d);
    if (st == HN_OK) d->n += n;
    hn_hf_episodes_free(episode, n);
    return st;
}

static hn_status domain_tasks(runner *x, const hn_trajectories *t, int64_t domain, descent *d)
{
    int64_t place[MOST_TASKS], n = 0;
    for (int64_t i = 0; i < t->n && n < MOST_TASKS; i++) {
        hn_trajectory one;
        hn_trajectories_at(t, i, &one);
        if (one.facts.domain == domain && one.facts.init == 0 && !hn_hf_held_out(t->record[i]))
            place[n++] = i;
    }
    for (int64_t at = 0; at < n; at += x->at_once)
        HN_TRY(tasks(x, t, place + at, n - at < x->at_once ? n - at : x->at_once, d));
    return HN_OK;
}

static hn_status all_tasks(hn_hf_eval *e, const hn_trajectories *t, descent *d)
{
    hn_hyperflow *r = e->r;
    for (int64_t k = 0; k < r->n_train; k++) {
        hn_hf_bench b = {0};
        runner x = {0};
        hn_status st = hn_hf_bench_open(r, &r->domain[k], HN_HF_TRAIN, HN_HF_TRAIN, &b);
        if (st == HN_OK) st = runner_open(e, &b, true, &x);
        if (st == HN_OK) st = domain_tasks(&x, t, k, d);
        runner_close(&x);
        hn_hf_bench_close(&b);
        HN_TRY(st);
    }
    return d->n > 0 ? HN_OK : HN_FAIL(HN_ERR_ARG, "no trajectory that begins at the backbone");
}

static json_t *means(const double *sum, int64_t points, int64_t n, bool times, bool *ok)
{
    json_t *list = json_array();
    for (int64_t k = 0; k < points; k++) {
        const double v = times ? (double)k / (double)(points - 1) : sum[k] / (double)n;
        *ok = json_array_append_new(list, json_real(v)) == 0 && *ok;
    }
    return list;
}

static double least_of(const double *v, int64_t n)
{
    double least = v[0];
    for (int64_t i = 1; i < n; i++) least = v[i] < least ? v[i] : least;
    return least;
}

static hn_status save_descent(const hn_hf_eval *e, const descent *d, int64_t knots,
                              const char *settings, const char *path)
{
    char label[HN_HF_LABEL];
    bool ok = true;
    for (int k = 0; k <= TIMES; k++)
        if (!isfinite(d->loss[k]))
            return HN_FAIL(HN_ERR_NUMERIC, "descent: the support loss at time %g is not finite",
                           (double)k / TIMES);
    const double n = (double)d->n, drop = (d->loss[0] - least_of(d->loss, TIMES + 1)) / n,
                 tuning = (d->tuning[0] - d->tuning[knots - 1]) / n;
    hn_hf_label(e->r, "hyperflow", label);
    json_t *o =
        json_pack("{s:i, s:s, s:s, s:I, s:f, s:f, s:f}", "format", HN_HYPERFLOW_FORMAT, "method",
                  label, "settings", settings, "episodes", (json_int_t)d->n, "drop", drop,
                  "tuning_drop", tuning, "share", tuning > 0 ? drop / tuning : 0.0);
    const struct {
        const char *key;
        const double *sum;
        int64_t points;
        bool times;
    } lists[] = {{"times", d->loss, TIMES + 1, true},
                 {"losses", d->loss, TIMES + 1, false},
                 {"tuning_times", d->tuning, knots, true},
                 {"tuning_losses", d->tuning, knots, false}};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        ok = json_object_set_new(o, lists[i].key,
                                 means(lists[i].sum, lists[i].points, d->n, lists[i].times, &ok)) ==
                 0 &&
             ok;
    const hn_status st =
        o && ok ? hn_json_save(path, o, false) : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", path);
    json_decref(o);
    return st;
}

static hn_status make_descent(hn_hf_eval *e, const char *settings, const char *path)
{
    hn_trajectories t = {0};
    char *file = NULL;
    descent d = {0};
    HN_TRY(hn_hyperflow_path(e->r, "trajectories.bin", &file));
    hn_status st = hn_trajectories_open(file, &t);
    if (st == HN_OK) {
        d.tuning = hn_calloc((size_t)t.head.knots, sizeof *d.tuning);
        st = d.tuning ? all_tasks(e, &t, &d) : HN_FAIL(HN_ERR_MEMORY, "knots");
    }
    if (st == HN_OK) st = save_descent(e, &d, t.head.knots, settings, path);
    hn_trajectories_close(&t);
    hn_free(d.tuning);
    hn_free(file);
    return st;
}

hn_status hn_hf_descent(hn_hf_eval *e)
{
    char label[HN_HF_LABEL], *path = NULL;
    bool there = false;
    const hn_hyperflow_config *c = e->r->c;
    hn_hf_label(e->r, "descent", label);
    char *settings = hn_asprintf("integration: %s %" PRId64 "\ndrift: %s", c->integrator,
                                 c->integration_steps, hn_hf_drift_digest(e->drift));
    hn_status st = settings ? hn_hf_cell_path(e->r, label, NULL, &path)
                            : HN_FAIL(HN_ERR_MEMORY, "no memory for settings");
    if (st == HN_OK) st = hn_hf_cell_there(path, settings, &there);
    if (st == HN_OK && !there) st = make_descent(e, settings, path);
    hn_free(path);
    hn_free(settings);
    return st;
}
