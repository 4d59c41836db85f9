#include "runtime/train/drift_train.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/progress.h"
#include "runtime/base/rng.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"
#include "runtime/file/metrics.h"
#include "runtime/train/signals.h"
#include "runtime/train/state.h"

enum { MOST_LOGGED = 100000 };

typedef struct {
    const hn_drift_train_options *o;
    const hn_team *team;
    int64_t each; /* tasks of a step that a rank has, the most */
    hn_drift_job job;
    hn_adapt adapt;
    hn_engine *engine;
    hn_curve *curve;
    hn_outdir *lock;
    hn_run_identity id;
    char base[HN_SHA256_HEX]; /* of the configuration, as the identity's base */
    char *settings;
    hn_run_state state;
    hn_metrics *metrics;
    hn_progress progress;
    float *values;   /* of all parameters, while averages are evaluated */
    int64_t last;    /* step at which this call ends */
    int64_t stop_at; /* for a signal to any rank; -1: none */
    int64_t ahead;   /* steps that are enqueued behind state.step */
    int64_t saved;   /* newest checkpoint; -1: none */
    hn_drift_train_report report;
} trainer;

static hn_params *params(const trainer *t) { return hn_engine_params(t->engine); }

/* ---- micro-batches ---- */

/* Points of one task, place i of the batch: its trajectories in turn from number `from` on. */
static hn_status put_points(const trainer *t, const hn_drift_batch *b, int64_t i, int64_t task,
                            int64_t from, const double *time)
{
    const hn_drift_data *d = t->o->data;
    const int64_t first = d->first[task], n = d->first[task + 1] - first;
    hn_drift_put_task(b, i, task);
    for (int64_t k = 0; k < t->o->points; k++)
        HN_TRY(hn_drift_put_point(b, i, k, first + (from + k) % n, t->curve, time[k]));
    return HN_OK;
}

enum { MAX_POINTS = 1024 };

/* Of the step's tasks, this rank's: place i is number rank * each + i of the step, and its rows are
 * those that one rank would have there, as the noise on them is. */
static hn_status training_batch(trainer *t, int64_t step)
{
    const hn_drift_train_options *o = t->o;
    const hn_rng r = hn_rng_make(o->seed, (uint64_t)step + 1, hn_hash_name("drift.batch"));
    hn_engine_input in;
    double time[MAX_POINTS];
    HN_TRY(hn_engine_batch(t->engine, &in));
    const hn_drift_batch b = hn_drift_batch_empty(&t->job, &in);
    const int64_t first = t->team->ranks.rank * t->each;
    for (int64_t i = first; i < first + t->each && i < o->tasks; i++) {
        const int64_t task = o->train[hn_rng_below(r, (uint64_t)i, 0, (uint64_t)o->n_train)];
        const int64_t n = o->data->first[task + 1] - o->data->first[task];
        for (int64_t k = 0; k < o->points; k++)
            time[k] = (double)hn_rng_unit(hn_rng_u32(r, (uint64_t)i, (uint32_t)(8 + k)));
        const int64_t from = (int64_t)hn_rng_below(r, (uint64_t)i, 1, (uint64_t)n);
        HN_TRY(put_points(t, &b, i - first, task, from, time));
    }
    return HN_OK;
}

/* Held-out tasks first .. first + each - 1, those that are there. */
static hn_status held_out_batch(trainer *t, int64_t first)
{
    const hn_drift_train_options *o = t->o;
    hn_engine_input in;
    double time[MAX_POINTS];
    HN_TRY(hn_engine_batch(t->engine, &in));
    const hn_drift_batch b = hn_drift_batch_empty(&t->job, &in);
    for (int64_t k = 0; k < o->points; k++) time[k] = ((double)k + 0.5) / (double)o->points;
    for (int64_t i = 0; i < t->each && first + i < o->n_held_out; i++)
        HN_TRY(put_points(t, &b, i, o->held_out[first + i], 0, time));
    return HN_OK;
}

/* ---- evaluation ---- */

/* Every parameter to its average, or back to t->values. */
static hn_status take_averages(trainer *t)
{
    float *v = t->values, *average = hn_malloc((size_t)hn_params_total(params(t)) * sizeof *v);
    hn_status st = average ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for averages");
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(params(t)); i++) {
        const hn_param *q = hn_params_at(params(t), i);
        st = hn_param_get(q, v);
        if (st == HN_OK) st = hn_param_read(q, q->average, average);
        if (st == HN_OK) st = hn_param_set(q, average);
        v += hn_param_values(q);
    }
    hn_free(average);
    return st;
}

static hn_status put_back(trainer *t)
{
    const float *v = t->values;
    for (int64_t i = 0; i < hn_params_count(params(t)); i++) {
        const hn_param *q = hn_params_at(params(t), i);
        HN_TRY(hn_param_set(q, v));
        v += hn_param_values(q);
    }
    return HN_OK;
}

/* HN_ERR_STOPPED: a signal has come to some rank, the same answer on all. */
static hn_status unless_asked(const trainer *t, hn_team_looks *looks)
{
    bool asked;
    HN_TRY(hn_team_asked(t->team, looks, &asked));
    return asked ? HN_FAIL(HN_ERR_STOPPED, "stopped within the measurement of held-out tasks")
                 : HN_OK;
}

static hn_status held_out_loss(trainer *t, double *loss)
{
    const int64_t of_all = hn_team_size(t->team) * t->each, n = t->o->n_held_out;
    hn_team_looks looks = {0};
    hn_eval_sums sums;
    HN_TRY(hn_engine_eval_begin(t->engine));
    for (int64_t first = 0; first < n; first += of_all) {
        const int64_t own = first + t->team->ranks.rank * t->each;
        hn_team_at(t->team, HN_HUB_AT_EVALUATE, t->state.step);
        HN_TRY(unless_asked(t, &looks));
        if (own >= n) continue;
        HN_TRY(held_out_batch(t, own));
        HN_TRY(hn_engine_eval_batch(t->engine));
    }
    HN_TRY(hn_engine_eval_sums(t->engine, &sums));
    double all[] = {sums.loss, (double)sums.rows};
    if (t->team->hub != NULL) HN_TRY(hn_hub_sum_f64(t->team->hub, all, 2));
    *loss = all[1] > 0 ? all[0] / all[1] : NAN;
    return HN_OK;
}

/* The run ends here; whoever goes on from the checkpoint measures first. */
static void leave_evaluation(trainer *t)
{
    t->state.evaluate_first = true;
    t->stop_at = t->state.step;
    hn_info(t->o->log, "step %" PRId64 ": %s; a run that goes on measures first", t->state.step,
            hn_last_text());
    hn_progress_resume(&t->progress);
}

static hn_status evaluate(trainer *t)
{
    const bool averages = t->state.step > 0 && t->o->average > 0;
    double loss;
    if (t->o->n_held_out == 0) {
        t->state.evaluate_first = false;
        return HN_OK;
    }
    hn_progress_pause(&t->progress);
    if (averages) HN_TRY(take_averages(t));
    const hn_status st = held_out_loss(t, &loss);
    if (averages && (st == HN_OK || st == HN_ERR_STOPPED)) HN_TRY(put_back(t));
    if (st == HN_ERR_STOPPED) {
        leave_evaluation(t);
        return HN_OK;
    }
    HN_TRY(st);
    if (t->state.evaluate_first) t->saved = -1; /* what is there is without it */
    t->state.evaluate_first = false;
    if (t->state.step == 0) t->report.first = loss;
    t->report.held_out = loss;
    if (!(loss >= t->state.best_loss)) {
        t->state.best_loss = loss;
        t->state.best_step = t->state.step;
    }
    const hn_log_entry e = {
        .step = t->state.step, .loss = NAN, .lr = NAN, .grad_norm = NAN, .eval_loss = loss};
    hn_run_state_log(&t->state, &e);
    hn_info(t->o->log, "step %" PRId64 ": held-out loss %.5f%s", t->state.step, loss,
            t->state.step == 0 ? ", of a drift that stands still" : "");
    const hn_metric row[] = {{"eval_loss", loss}};
    if (hn_team_leads(t->team)) HN_TRY(hn_metrics_row(t->metrics, t->state.step, row, 1));
    hn_progress_resume(&t->progress);
    return HN_OK;
}

/* ---- checkpoints ---- */

static hn_status note_kernels(trainer *t)
{
    char now[4096];
    hn_plan_notes(hn_engine_program(t->engine), ';', now, sizeof now);
    hn_free(t->state.kernels);
    t->state.kernels = hn_strdup(now);
    if (t->state.kernels == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a checkpoint");
    json_decref(t->state.gemm_plans);
    t->state.gemm_plans = NULL;
    return hn_engine_gemm_plans(t->engine, &t->state.gemm_plans);
}

static hn_status write_checkpoint(trainer *t)
{
    HN_TRY(note_kernels(t));
    HN_TRY(hn_state_save(t->o->out, params(t), &t->id, &t->state));
    return hn_ckpt_prune(t->o->out, t->o->keep > 0 ? t->o->keep : 1, NULL);
}

/* Ranks have the same values, or none of them is written. */
static hn_status save(trainer *t)
{
    if (t->saved == t->state.step) return HN_OK;
    hn_progress_pause(&t->progress);
    hn_team_at(t->team, HN_HUB_AT_SAVE, t->state.step);
    if (t->team->hub != NULL) HN_TRY(hn_engine_compare_ranks(t->engine, t->team->hub));
    if (hn_team_leads(t->team)) HN_TRY(write_checkpoint(t));
    t->saved = t->state.step;
    hn_progress_resume(&t->progress);
    return hn_team_wait(t->team);
}

static const char any[] = "--resume-device any goes on here, with other bits";

/* The products go on with the algorithms they had, or the bits would change. */
static hn_status take_kernels(trainer *t, const char *from)
{
    char now[4096];
    hn_plan_notes(hn_engine_program(t->engine), ';', now, sizeof now);
    hn_status st = HN_OK;
    if (t->state.kernels != NULL && strcmp(t->state.kernels, now) != 0)
        st = HN_FAIL(HN_ERR_UNSUPPORTED, "%s ran on other kernels (%s) than this run (%s)", from,
                     t->state.kernels, now);
    if (st == HN_OK) st = hn_engine_use_gemm_plans(t->engine, t->state.gemm_plans, from);
    if (st != HN_ERR_UNSUPPORTED) return st;
    if (!t->o->resume_any) return HN_FAIL(st, "%s; %s", hn_last_text(), any);
    hn_warn(t->o->log, "%s: the run goes on with other bits than there", hn_last_text());
    return HN_OK;
}

/* A rank has one micro-batch of a step. */
static hn_status take_ranks(trainer *t, const char *from)
{
    const int64_t now = hn_team_size(t->team), then = t->state.per_step > 0 ? t->state.per_step : 1;
    t->state.per_step = now;
    if (then == now) return HN_OK;
    if (!t->o->resume_any)
        return HN_FAIL(HN_ERR_ARG, "%s: the run has %" PRId64 " ranks, here are %" PRId64 "; %s",
                       from, then, now, any);
    hn_warn(t->o->log,
            "%s: the run had %" PRId64 " ranks, it goes on with %" PRId64 " and other bits", from,
            then, now);
    return HN_OK;
}

static hn_status resume(trainer *t)
{
    char *from = NULL;
    if (hn_team_leads(t->team)) HN_TRY(hn_ckpt_newest(t->o->out, t->o->log, &from, NULL));
    HN_TRY(hn_team_share_text(t->team, &from));
    if (from == NULL) return HN_OK;
    hn_status st = HN_OK;
    if (!t->o->resume)
        st = HN_FAIL(HN_ERR_ARG, "%s holds a run already; go on with it, or choose another folder",
                     t->o->out);
    if (st == HN_OK) st = hn_state_load(from, params(t), &t->id, MOST_LOGGED, &t->state);
    if (st == HN_OK && t->state.step > t->o->schedule.steps)
        st = HN_FAIL(HN_ERR_ARG, "%s is at step %" PRId64 ", the run is to have %" PRId64, from,
                     t->state.step, t->o->schedule.steps);
    if (st == HN_OK) st = take_ranks(t, from);
    if (st == HN_OK) st = take_kernels(t, from);
    if (st == HN_OK && t->team->hub != NULL) /* each has read the files */
        st = hn_engine_compare_ranks(t->engine, t->team->hub);
    if (st == HN_OK) t->saved = t->state.step;
    if (st == HN_OK) hn_info(t->o->log, "resumed from %s, step %" PRId64, from, t->state.step);
    hn_free(from);
    return st;
}

/* ---- steps ---- */

static bool ends_at(const trainer *t, int64_t step)
{
    return step == t->last || step == t->stop_at;
}

/* For a signal: on all ranks behind the same step. */
static bool stopped(const trainer *t)
{
    if (hn_team_alone(t->team)) return hn_signals_caught() != 0;
    return t->stop_at >= 0 && t->state.step >= t->stop_at;
}

static hn_status end_step(trainer *t, const hn_step_report *r)
{
    const double lr = hn_schedule_lr(&t->o->schedule, t->state.step);
    if (r->skipped != HN_STEP_DONE || !isfinite(r->loss))
        return HN_FAIL(HN_ERR_NUMERIC, "step %" PRId64 ": loss %g, norm of the gradient %g",
                       t->state.step + 1, r->loss, r->grad_norm);
    t->ahead--;
    t->state.step++;
    t->state.micro_batch += t->state.per_step;
    /* the same step on all ranks, which none of them has gone beyond */
    if (r->stop > 0 && t->stop_at < 0)
        t->stop_at = t->state.step +
                     (hn_device_kind_of(t->o->device) == HN_DEVICE_CUDA ? HN_ENGINE_AHEAD : 0);
    t->state.tokens += r->tokens;
    t->report.points += r->tokens;
    t->report.loss = r->loss;
    char detail[96];
    snprintf(detail, sizeof detail, "loss %.5f  norm %.3f  lr %.2e", r->loss, r->grad_norm, lr);
    hn_progress_update(&t->progress, t->state.step, t->report.points, detail);
    const int64_t every = t->o->log_every;
    if (!ends_at(t, t->state.step) && (every == 0 || t->state.step % every != 0)) return HN_OK;
    const hn_log_entry e = {.step = t->state.step,
                            .loss = r->loss,
                            .lr = lr,
                            .grad_norm = r->grad_norm,
                            .eval_loss = NAN};
    const hn_metric row[] = {{"loss", r->loss},
                             {"lr", lr},
                             {"grad_norm", r->grad_norm},
                             {"points_per_s", hn_progress_units_per_s(&t->progress)}};
    hn_run_state_log(&t->state, &e);
    if (!hn_team_leads(t->team)) return HN_OK;
    return hn_metrics_row(t->metrics, t->state.step, row, sizeof row / sizeof *row);
}

/* The steps that are done; wait: all. */
static hn_status take_reports(trainer *t, bool wait)
{
    bool there = true;
    while (t->ahead > 0) {
        hn_step_report r;
        HN_TRY(hn_engine_report(t->engine, wait, &there, &r));
        if (!there) break;
        HN_TRY(end_step(t, &r));
    }
    return HN_OK;
}

static bool divides(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

static hn_status steps(trainer *t)
{
    const hn_drift_train_options *o = t->o;
    const double start = (double)hn_clock_ns() * 1e-9;
    if (t->state.evaluate_first) HN_TRY(evaluate(t));
    while (t->state.step < t->last && !stopped(t)) {
        const int64_t step = t->state.step + t->ahead, done = step + 1;
        hn_engine_want_stop(t->engine, !hn_team_alone(t->team) && hn_signals_caught() != 0);
        hn_team_at(t->team, HN_HUB_AT_STEP, step);
        HN_TRY(training_batch(t, step));
        HN_TRY(hn_engine_step(t->engine, step, hn_schedule_lr(&o->schedule, step), NULL));
        t->ahead++;
        const bool stop = ends_at(t, done) || divides(o->log_every, done) ||
                          divides(o->eval_every, done) || divides(o->save_every, done);
        HN_TRY(take_reports(t, stop || t->ahead == HN_ENGINE_AHEAD));
        if (!stop) continue;
        if (divides(o->eval_every, done) || done == o->schedule.steps) HN_TRY(evaluate(t));
        if (divides(o->save_every, done)) HN_TRY(save(t));
    }
    HN_TRY(take_reports(t, true));
    HN_TRY(save(t));
    t->report.seconds = (double)hn_clock_ns() * 1e-9 - start;
    t->report.step = t->state.step;
    t->report.finished = t->state.step == o->schedule.steps && !t->state.evaluate_first;
    return HN_OK;
}

/* ---- a run ---- */

static hn_adapt_kind all(const void *context, const char *name)
{
    (void)context;
    (void)name;
    return HN_ADAPT_FULL;
}

static hn_status check_tasks(const hn_drift_train_options *o, const int64_t *task, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (task[i] < 0 || task[i] >= o->data->tasks)
            return HN_FAIL(HN_ERR_ARG, "drift: task %" PRId64 " of %" PRId64, task[i],
                           o->data->tasks);
    return HN_OK;
}

static hn_status check(const hn_drift_train_options *o)
{
    if (o->n_train < 1) return HN_FAIL(HN_ERR_ARG, "drift: no task to train on");
    HN_TRY(check_tasks(o, o->train, o->n_train));
    HN_TRY(check_tasks(o, o->held_out, o->n_held_out));
    if (o->points < 1 || o->points > MAX_POINTS)
        return HN_FAIL(HN_ERR_ARG, "drift: %" PRId64 " points of a task, must be 1 to %d",
                       o->points, MAX_POINTS);
    if (o->schedule.steps < 1 || o->schedule.warmup > o->schedule.steps)
        return HN_FAIL(HN_ERR_ARG, "drift: %" PRId64 " steps, %" PRId64 " of them warm-up",
                       o->schedule.steps, o->schedule.warmup);
    return HN_OK;
}

static hn_status make_engine(trainer *t)
{
    const hn_drift_train_options *o = t->o;
    const hn_drift_job_options jo = {
        .config = &o->facts->config,
        .data = o->data,
        .features = o->features,
        .feature_rows = o->feature_rows,
        .sigma = o->facts->sigma,
        .rows = {.tasks = t->each, .support = o->data->support, .points = o->points},
        .noise = o->noise,
        .dtype = o->dtype,
        .attention = o->attention};
    t->adapt = (hn_adapt){.parameter = all};
    HN_TRY(check(o));
    HN_TRY(hn_drift_job_init(&t->job, &jo));
    const hn_engine_options eo = {.device = o->device,
                                  .executor = o->executor,
                                  .job = &t->job.job,
                                  .adapt = &t->adapt,
                                  .dtype = o->dtype,
                                  .train = true,
                                  .eval = o->n_held_out > 0,
                                  .memory = o->memory,
                                  .optimizer = {.kind = HN_OPTIMIZER_ADAMW,
                                                .beta1 = 0.9,
                                                .beta2 = 0.999,
                                                .eps = 1e-8,
                                                .weight_decay = o->weight_decay,
                                                .max_grad_norm = o->max_grad_norm},
                                  .average = o->average,
                                  .seed = o->seed};
    return hn_engine_new(&eo, &t->engine);
}

/* What decides about the numbers of a run, beside its data. */
static hn_status identify(trainer *t)
{
    const hn_drift_train_options *o = t->o;
    json_t *config = hn_drift_config_json(&o->facts->config);
    char *text = config ? json_dumps(config, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    json_decref(config);
    t->settings = hn_asprintf(
        "curve %s, %" PRId64 " tasks of %" PRId64 " points, noise %.9g, %" PRId64
        " steps, schedule %d, warmup %" PRId64 ", lr %.17g to %.17g, weight decay %.17g, "
        "clipping %.17g, average %.17g, %s, seed %" PRIu64 ", %" PRId64 " tasks of training",
        hn_curve_name(o->curve), o->tasks, o->points, (double)o->noise, o->schedule.steps,
        (int)o->schedule.kind, o->schedule.warmup, o->schedule.lr, o->schedule.min_lr,
        o->weight_decay, o->max_grad_norm, o->average, hn_dtype_name(o->dtype), o->seed,
        o->n_train);
    hn_status st = text && t->settings ? hn_sha256(text, strlen(text), t->base)
                                       : HN_FAIL(HN_ERR_MEMORY, "no memory for the settings");
    free(text);
    t->id = (hn_run_identity){.method = "hyperflow",
                              .base_path = "drift",
                              .base_digest = t->base,
                              .data_digest = o->data_digest,
                              .tokenizer_digest = o->facts->layout,
                              .settings = t->settings,
                              .yaml = o->yaml};
    return st;
}

static hn_status open_records(trainer *t)
{
    static const char *const columns[] = {"loss", "lr", "grad_norm", "eval_loss", "points_per_s"};
    const int64_t from = t->saved >= 0 ? t->state.step : -1; /* a run that begins has nothing */
    const char *anew = t->state.evaluate_first ? "eval_loss" : NULL;
    HN_TRY(hn_metrics_open(t->o->out, columns, sizeof columns / sizeof *columns, from, anew,
                           &t->metrics));
    char *path = hn_asprintf("%s/run.yaml", t->o->out);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    const hn_status st = hn_save_text(path, t->o->yaml);
    hn_free(path);
    return st;
}

/* Before they meet where their options say so. */
static hn_status compare_ranks(const trainer *t)
{
    const hn_drift_train_options *o = t->o;
    char course[256];
    snprintf(course, sizeof course, "%d %d %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64,
             (int)o->resume, (int)o->resume_any, o->stop_after, o->log_every, o->eval_every,
             o->save_every);
    HN_TRY(hn_team_same(t->team, "options", t->settings));
    HN_TRY(hn_team_same(t->team, "sizes of the network", t->base));
    HN_TRY(hn_team_same(t->team, "data", o->data_digest));
    return hn_team_same(t->team, "steps of lines, checkpoints and the end", course);
}

static hn_status set_up(trainer *t)
{
    const hn_drift_train_options *o = t->o;
    if (hn_team_leads(t->team)) HN_TRY(hn_outdir_lock(o->out, &t->lock));
    HN_TRY(identify(t));
    HN_TRY(compare_ranks(t));
    HN_TRY(make_engine(t));
    HN_TRY(hn_curve_make(o->curve, o->data->knots, &t->curve));
    HN_TRY(hn_engine_allocate(t->engine));
    for (int64_t i = 0; i < hn_params_count(params(t)); i++)
        HN_TRY(hn_param_init(hn_params_at(params(t), i), o->seed));
    t->values = hn_malloc((size_t)hn_params_total(params(t)) * sizeof *t->values);
    if (t->values == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a copy of the weights");
    HN_TRY(hn_run_state_init(&t->state, MOST_LOGGED));
    t->state.per_step = hn_team_size(t->team);
    t->state.evaluate_first = true; /* untrained; a checkpoint says for itself */
    HN_TRY(resume(t));
    t->last = o->schedule.steps;
    if (o->stop_after > 0 && o->stop_after < t->last) t->last = o->stop_after;
    return hn_team_leads(t->team) ? open_records(t) : HN_OK;
}

static hn_status write_result(trainer *t)
{
    char *path = hn_asprintf("%s/drift.safetensors", t->o->out);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    const hn_status st = hn_drift_file_save(path, params(t), t->o->average > 0, t->o->facts);
    hn_free(path);
    return st;
}

static void tear_down(trainer *t)
{
    hn_progress_end(&t->progress);
    hn_metrics_close(t->metrics);
    hn_run_state_clear(&t->state);
    hn_outdir_unlock(t->lock);
    hn_engine_free(t->engine);
    hn_curve_free(t->curve);
    hn_free(t->settings);
    hn_free(t->values);
}

static trainer begin(const hn_drift_train_options *o)
{
    static const hn_team alone = {.hub = NULL};
    const hn_team *team = o->team ? o->team : &alone;
    const int64_t ranks = hn_team_size(team);
    return (trainer){.o = o,
                     .team = team,
                     .each = (o->tasks + ranks - 1) / ranks,
                     .stop_at = -1,
                     .saved = -1,
                     .report = {.loss = NAN, .first = NAN, .held_out = NAN}};
}

hn_status hn_drift_train_plan(const hn_drift_train_options *o, char **text)
{
    trainer t = begin(o);
    hn_status st = make_engine(&t);
    if (st == HN_OK) {
        *text = hn_engine_plan_text(t.engine);
        if (*text == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for a plan's text");
    }
    hn_engine_free(t.engine);
    return st;
}

hn_status hn_drift_train(const hn_drift_train_options *o, hn_drift_train_report *out)
{
    trainer t = begin(o);
    hn_status st = set_up(&t);
    if (st == HN_OK) {
        hn_progress_config config = hn_progress_detect(o->progress ? o->progress : stderr);
        config.to = hn_team_leads(t.team) ? o->progress : NULL;
        config.every = o->log_every;
        config.unit = "points";
        hn_progress_start(&t.progress, &config, t.state.step, o->schedule.steps);
        hn_signals_watch();
        st = steps(&t);
        hn_signals_release();
    }
    hn_team_at(t.team, HN_HUB_AT_END, t.state.step);
    if (st == HN_OK && t.report.finished && hn_team_leads(t.team)) st = write_result(&t);
    if (st == HN_OK) *out = t.report;
    tear_down(&t);
    return st;
}
