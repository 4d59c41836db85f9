#define _POSIX_C_SOURCE 200809L
#include "runtime/train/trainer.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "runtime/base/alloc.h"
#include "runtime/base/progress.h"
#include "runtime/base/save.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"
#include "runtime/file/metrics.h"
#include "runtime/file/tfevents.h"
#include "runtime/train/export.h"
#include "runtime/train/option_kinds.h"
#include "runtime/train/run_folder.h"
#include "runtime/train/schedule.h"
#include "runtime/train/signals.h"
#include "runtime/train/state.h"

typedef struct {
    hn_session *s;
    const hn_run_config *c;
    const hn_method_hooks *hooks;
    FILE *to;
    char *out, *yaml, *settings;
    hn_outdir *lock;
    hn_run_identity id;
    hn_run_state state;
    hn_schedule schedule;
    int64_t total, last; /* steps of the schedule; step at which this call ends */
    hn_metrics *metrics;
    hn_tfevents *events;
    hn_progress progress;
    hn_log quiet;          /* the session's log, shown above the progress line */
    int64_t saved_step;    /* newest checkpoint, -1: none */
    int64_t units;         /* trained tokens since the start of this call */
    int64_t ahead;         /* steps that are enqueued behind state.step: it counts reported ones */
    double peak_gib;       /* at the last look */
    bool stop_early, json; /* json: one object a line on `to` */
} trainer;

/* ---- set-up ---- */

/* Options that do not decide about the numbers may change between a run and its continuation. */
static bool decides(const char *line)
{
    static const char *const free_keys[] = {
        "model",         "tokenizer",  "data",    "eval-data", "cache-dir",  "data-threads",
        "out",           "resume",     "steps",   "epochs",    "stop-after", "log-every",
        "eval-every",    "save-every", "keep",    "result",    "patience",   "log-format",
        "device",        "executor",   "threads", "recompute", "memory",     "adapter",
        "resume-device", "plans",      "weights", "resident"};
    if (line[0] == '#' || line[0] == '\0') return false;
    for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++) {
        const size_t n = strlen(free_keys[i]);
        if (strncmp(line, free_keys[i], n) == 0 && line[n] == ':') return false;
    }
    return true;
}

static hn_status make_settings(trainer *t)
{
    char *text = hn_strdup(t->yaml), *rest = NULL;
    t->settings = hn_malloc(strlen(t->yaml) + 1);
    if (text == NULL || t->settings == NULL) {
        hn_free(text);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the settings");
    }
    size_t at = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (!decides(line)) continue;
        if (at > 0) t->settings[at++] = ' ';
        memcpy(t->settings + at, line, strlen(line));
        at += strlen(line);
    }
    t->settings[at] = '\0';
    hn_free(text);
    return HN_OK;
}

static hn_status plan_steps(trainer *t)
{
    const hn_run_config *c = t->c;
    HN_TRY(hn_session_steps(t->s, &t->total));
    t->last = c->stop_after > 0 && c->stop_after < t->total ? c->stop_after : t->total;
    t->schedule = (hn_schedule){
        .lr = c->lr, .min_lr = c->min_lr, .warmup = c->warmup_steps, .steps = t->total};
    if (c->warmup_steps < 0) t->schedule.warmup = t->total * 3 / 100;
    if (t->schedule.warmup > t->total)
        return HN_FAIL(HN_ERR_ARG, "--warmup-steps %" PRId64 " of %" PRId64 " steps",
                       c->warmup_steps, t->total);
    return hn_schedule_kind_of(c->schedule, &t->schedule.kind);
}

/* Entries of the log in a checkpoint; what a run of more has to say is in metrics.csv. */
static int64_t log_room(const trainer *t)
{
    enum { MOST = 1000000 };
    const int64_t evals = t->c->eval_every ? t->total / t->c->eval_every : 0;
    const int64_t n = t->total / t->c->log_every + evals + 8;
    return n < MOST ? n : MOST;
}

static char *checkpoint_path(const trainer *t, int64_t step)
{
    return hn_asprintf("%s/checkpoint-%" PRId64, t->out, step);
}

static bool same_folder(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* An out folder that holds a run is not touched but to continue it from its newest checkpoint. */
static hn_status refuse_older_run(const trainer *t)
{
    char *newest = NULL;
    int64_t step = -1;
    if (strcmp(t->c->resume, "auto") == 0 || !hn_is_folder(t->out)) return HN_OK;
    HN_TRY(hn_ckpt_newest(t->out, NULL, &newest, &step));
    if (newest == NULL) return HN_OK;
    const bool continued = t->c->resume[0] != '\0' && same_folder(newest, t->c->resume);
    hn_free(newest);
    if (continued) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "--out %s holds a run up to step %" PRId64
                   "; continue it with --resume auto or choose another folder",
                   t->out, step);
}

/* A branch in another folder has not the best checkpoint of the run that it comes from. */
static hn_status check_best(trainer *t)
{
    if (t->state.best_step <= 0) return HN_OK;
    char *best = checkpoint_path(t, t->state.best_step);
    if (best == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a checkpoint's path");
    if (!hn_is_folder(best)) {
        hn_info(&t->s->log, "%s, the best so far, is not there: the best is sought anew", best);
        t->state.best_step = -1;
        t->state.best_loss = NAN;
        t->state.evals_since_best = 0;
    }
    hn_free(best);
    return HN_OK;
}

/* The products go on with the algorithms they had, or the bits would change without a word. */
static hn_status take_plans(trainer *t, const char *from)
{
    const hn_status st = hn_engine_use_gemm_plans(t->s->engine, t->state.gemm_plans, from);
    if (st != HN_ERR_UNSUPPORTED) return st;
    if (strcmp(t->c->resume_device, "same") == 0)
        return HN_FAIL(st, "%s; --resume-device any goes on here, with other bits", hn_last_text());
    hn_warn(&t->s->log, "%s: the run goes on with other bits than there", hn_last_text());
    return HN_OK;
}

/* In one line. */
static void kernels_of(const trainer *t, char *text, size_t size)
{
    hn_plan_notes(hn_engine_program(t->s->engine), ';', text, size);
}

/* The same for the libraries' kernels, which have bits of their own in each version. */
static hn_status compare_kernels(const trainer *t, const char *from)
{
    char now[4096];
    kernels_of(t, now, sizeof now);
    if (t->state.kernels == NULL || strcmp(t->state.kernels, now) == 0) return HN_OK;
    if (strcmp(t->c->resume_device, "same") == 0)
        return HN_FAIL(
            HN_ERR_UNSUPPORTED,
            "%s ran on other kernels (%s) than this run (%s); --resume-device any goes on "
            "here, with other bits",
            from, t->state.kernels, now);
    hn_warn(&t->s->log, "%s ran on other kernels (%s): the run goes on with other bits than there",
            from, t->state.kernels);
    return HN_OK;
}

static hn_status load_state(trainer *t, const char *from)
{
    HN_TRY(hn_state_load(from, hn_engine_params(t->s->engine), &t->id, log_room(t), &t->state));
    if (t->state.step > t->total)
        return HN_FAIL(HN_ERR_ARG, "%s is at step %" PRId64 ", the run is to have %" PRId64, from,
                       t->state.step, t->total);
    HN_TRY(check_best(t));
    HN_TRY(take_plans(t, from));
    HN_TRY(compare_kernels(t, from));
    t->stop_early = t->c->patience > 0 && t->state.evals_since_best >= t->c->patience;
    hn_info(&t->s->log, "resumed from %s, step %" PRId64, from, t->state.step);
    return HN_OK;
}

/* --resume auto: the out folder is ours, its newest checkpoint is where we go on. */
static hn_status load_newest(trainer *t)
{
    char *from = NULL;
    HN_TRY(hn_ckpt_newest(t->out, &t->s->log, &from, NULL));
    if (from == NULL) {
        hn_info(&t->s->log, "no checkpoint in %s: starting at step 0", t->out);
        return HN_OK;
    }
    const hn_status st = load_state(t, from);
    if (st == HN_OK) t->saved_step = t->state.step;
    hn_free(from);
    return st;
}

/* Removes what a process that was killed while it wrote a record has left: nobody else writes
 * here while we hold the lock. */
static hn_status sweep_records(const trainer *t)
{
    static const char *const begin[] = {"metrics.csv.tmp-", "metrics.jsonl.tmp-", "run.yaml.tmp-"};
    char **names = NULL;
    int64_t n = 0;
    hn_status st = hn_folder_names(t->out, &names, &n);
    for (int64_t i = 0; st == HN_OK && i < 3 * n; i++) {
        if (strncmp(names[i / 3], begin[i % 3], strlen(begin[i % 3])) != 0) continue;
        char *path = hn_asprintf("%s/%s", t->out, names[i / 3]);
        if (path == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory to clear %s", t->out);
        if (path != NULL) remove(path);
        hn_free(path);
    }
    hn_folder_names_free(names, n);
    return st;
}

/* The run record as one YAML mapping of lines up to 100 columns. */
static hn_status print_options(const trainer *t)
{
    enum { COLUMNS = 100 };
    char *text = hn_strdup(t->id.yaml), *rest = NULL, row[2 * COLUMNS] = "";
    size_t at = 0;
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to print the options");
    hn_info(&t->s->log, "options, saved as %s/run.yaml: {", t->out);
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const size_t n = strlen(line);
        if (line[0] == '#') continue;
        if (at > 0 && at + n + 4 > COLUMNS) {
            hn_info(&t->s->log, "%s", row);
            at = 0;
        }
        if (n + 4 > sizeof row) /* a long path has a line of its own */
            hn_info(&t->s->log, "  %s,", line);
        else
            at += (size_t)snprintf(row + at, sizeof row - at, "%s%s,", at > 0 ? " " : "  ", line);
    }
    hn_info(&t->s->log, "%s }", row);
    hn_free(text);
    return HN_OK;
}

static hn_status open_records(trainer *t)
{
    static const char *const text[] = {"loss",  "lr",        "grad_norm",    "tokens",
                                       "epoch", "eval_loss", "tokens_per_s", "peak_gib"};
    static const char *const images[] = {"loss",          "lr",           "grad_norm",
                                         "images",        "epoch",        "eval_loss",
                                         "eval_accuracy", "images_per_s", "peak_gib"};
    const bool has_images = hn_session_has_images(t->s);
    const char *const *columns = has_images ? images : text;
    const int n = has_images ? sizeof images / sizeof *images : sizeof text / sizeof *text;
    const int64_t from = t->state.step > 0 ? t->state.step : -1;
    HN_TRY(sweep_records(t));
    HN_TRY(hn_metrics_open(t->out, columns, n, from, &t->metrics));
    HN_TRY(hn_tfevents_open(t->out, &t->events));
    char *path = hn_asprintf("%s/run.yaml", t->out);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the run record's path");
    const hn_status st = hn_save_text(path, t->id.yaml);
    hn_free(path);
    return st == HN_OK ? print_options(t) : st;
}

/* Opens everything that is read; plans; takes the memory. Writes nothing but the token cache. */
static hn_status open_inputs(trainer *t, const hn_option_table *table)
{
    hn_session *s = t->s;
    HN_TRY(hn_check_run_options(s));
    HN_TRY(hn_run_folder_choose(s->method->program, t->c->out, "", &t->out));
    HN_TRY(refuse_older_run(t)); /* before the data are tokenised */
    HN_TRY(hn_session_machine(s, false));
    HN_TRY(hn_session_model(s, true));
    HN_TRY(hn_record_options(s, table, &t->yaml));
    HN_TRY(hn_session_data(s, false));
    HN_TRY(hn_session_plan(s, true, true));
    HN_TRY(plan_steps(t));
    HN_TRY(make_settings(t));
    t->id = (hn_run_identity){.method = s->method->name,
                              .base_path = t->c->model,
                              .data_digest = hn_session_data_digest(s),
                              .tokenizer_digest = hn_session_tokenizer_digest(s),
                              .settings = t->settings,
                              .yaml = t->yaml,
                              .vision = hn_session_has_images(s) ? &s->model.vision : NULL,
                              .class_names = &s->images.classes};
    HN_TRY(hn_model_digest(&s->model, (uint64_t)t->c->seed, &t->id.base_digest));
    HN_TRY(hn_session_load(s));
    return hn_run_state_init(&t->state, log_room(t));
}

static hn_status set_up(trainer *t, const hn_option_table *table)
{
    const char *resume = t->c->resume;
    const bool newest = strcmp(resume, "auto") == 0;
    HN_TRY(open_inputs(t, table));
    if (resume[0] != '\0' && !newest) HN_TRY(load_state(t, resume));
    HN_TRY(hn_outdir_lock(t->out, &t->lock)); /* the first thing written */
    if (newest) HN_TRY(load_newest(t));
    HN_TRY(refuse_older_run(t)); /* again, now that nobody else can write */
    HN_TRY(open_records(t));
    return t->s->train->start(t->s->train, t->state.micro_batch);
}

static void tear_down(trainer *t)
{
    hn_progress_end(&t->progress);
    hn_metrics_close(t->metrics);
    hn_tfevents_close(t->events);
    hn_run_state_clear(&t->state);
    hn_outdir_unlock(t->lock);
    hn_free(t->settings);
    hn_free(t->yaml);
    hn_free(t->out);
}

/* ---- checkpoints and evaluation ---- */

static hn_status note_kernels(trainer *t)
{
    char now[4096];
    kernels_of(t, now, sizeof now);
    hn_free(t->state.kernels);
    t->state.kernels = hn_asprintf("%s", now);
    return t->state.kernels ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a checkpoint");
}

static hn_status save(trainer *t)
{
    if (t->saved_step == t->state.step) return HN_OK;
    hn_progress_pause(&t->progress);
    json_decref(t->state.gemm_plans);
    hn_status st = hn_engine_gemm_plans(t->s->engine, &t->state.gemm_plans);
    if (st == HN_OK) st = note_kernels(t);
    if (st == HN_OK) st = hn_state_save(t->out, hn_engine_params(t->s->engine), &t->id, &t->state);
    if (st == HN_OK) {
        t->saved_step = t->state.step;
        char *best = t->state.best_step >= 0 ? checkpoint_path(t, t->state.best_step) : NULL;
        st = hn_ckpt_prune(t->out, t->c->keep, best);
        hn_free(best);
    }
    hn_progress_resume(&t->progress);
    return st;
}

/* Of the GPU since it was opened, for which the driver is asked, or of the process. */
static double peak_gib(const trainer *t)
{
    struct rusage u;
    size_t used = 0;
    if (hn_device_kind_of(t->s->device) == HN_DEVICE_CUDA)
        return hn_device_used(t->s->device, &used) == HN_OK ? (double)used / 0x1p30 : 0;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss * 1024 / 0x1p30;
}

/* What an evaluation has found. */
typedef struct {
    double loss, accuracy; /* accuracy NaN: of text */
    int64_t rows;
} verdict;

static verdict verdict_of(const trainer *t, const hn_eval_sums *sums)
{
    const double n = sums->rows > 0 ? (double)sums->rows : NAN;
    return (verdict){sums->loss / n, t->s->job->hits ? (double)sums->hits / n : NAN, sums->rows};
}

static hn_status record_eval(trainer *t, const verdict *v)
{
    const int64_t step = t->state.step;
    const hn_metric row[] = {{"eval_loss", v->loss}, {"eval_accuracy", v->accuracy}};
    const hn_tf_scalar scalar[] = {{"eval/loss", (float)v->loss},
                                   {"eval/accuracy", (float)v->accuracy}};
    const int n = t->s->job->hits ? 2 : 1;
    const hn_log_entry e = {
        .step = step, .loss = NAN, .lr = NAN, .grad_norm = NAN, .eval_loss = v->loss};
    hn_run_state_log(&t->state, &e);
    HN_TRY(hn_metrics_row(t->metrics, step, row, n));
    HN_TRY(hn_tfevents_scalars(t->events, 0, step, scalar, n));
    if (!t->json || !isfinite(v->loss)) return HN_OK;
    fprintf(t->to, "{\"step\": %" PRId64 ", \"eval_loss\": %.9g", step, v->loss);
    if (n == 2) fprintf(t->to, ", \"eval_accuracy\": %.9g", v->accuracy);
    fprintf(t->to, "}\n");
    return HN_OK;
}

/* "accuracy 86.30 %, 2000 images" */
static const char *judgement(const trainer *t, const verdict *v, char *text, size_t size)
{
    if (t->s->job->hits)
        snprintf(text, size, "accuracy %.2f %%, %" PRId64 " images", 100 * v->accuracy, v->rows);
    else
        snprintf(text, size, "perplexity %.3f, %" PRId64 " tokens", exp(v->loss), v->rows);
    return text;
}

static hn_status evaluate(trainer *t)
{
    hn_eval_sums sums;
    char text[96];
    if (t->s->eval == NULL) return HN_OK;
    hn_progress_pause(&t->progress);
    HN_TRY(hn_session_evaluate(t->s, &sums));
    const verdict v = verdict_of(t, &sums);
    const double loss = v.loss;
    HN_TRY(record_eval(t, &v));
    const bool better = !(loss >= t->state.best_loss) && isfinite(loss);
    hn_info(&t->quiet, "step %" PRId64 ": held-out loss %.4f (%s)%s", t->state.step, loss,
            judgement(t, &v, text, sizeof text),
            better && t->state.best_step >= 0 ? ", best so far" : "");
    if (better) {
        t->state.best_loss = loss;
        t->state.best_step = t->state.step;
        t->state.evals_since_best = 0;
    } else {
        t->state.evals_since_best++;
    }
    t->stop_early = t->c->patience > 0 && t->state.evals_since_best >= t->c->patience;
    if (t->stop_early && t->state.step < t->total)
        hn_info(&t->quiet,
                "no better held-out loss in %" PRId64 " evaluations: the run ends at step %" PRId64
                " of %" PRId64,
                t->c->patience, t->state.step, t->total);
    hn_progress_resume(&t->progress);
    return better && t->state.step > 0 ? save(t) : HN_OK;
}

/* ---- steps ---- */

static hn_status load_micro_batch(trainer *t)
{
    hn_engine_input in;
    HN_TRY(hn_engine_batch(t->s->engine, &in));
    return t->s->train->next(t->s->train, &in);
}

/* Runs the step's micro-batches again with every node looked at, to name the first bad one. On a
 * GPU steps behind it may have changed the parameters since: there may be none now. */
static hn_status explain_nonfinite(trainer *t)
{
    HN_TRY(hn_engine_begin(t->s->engine, t->state.step));
    for (int64_t a = 0; a < t->c->accumulation; a++) {
        hn_engine_input in;
        int64_t units;
        HN_TRY(hn_engine_batch(t->s->engine, &in));
        HN_TRY(t->s->train->fill(t->s->train, t->state.micro_batch + a, &in, &units));
        const hn_status st = hn_engine_find_nonfinite(t->s->engine, a);
        if (st == HN_ERR_NUMERIC)
            return HN_FAIL(HN_ERR_NUMERIC, "step %" PRId64 ", micro-batch %" PRId64 ": %s",
                           t->state.step + 1, a, hn_last_text());
        HN_TRY(st);
    }
    return HN_FAIL(HN_ERR_NUMERIC, "step %" PRId64 ": the gradient's norm is not finite",
                   t->state.step + 1);
}

static hn_status record_step(trainer *t, const hn_step_report *r, double lr)
{
    const int64_t step = t->state.step;
    const double rate = hn_progress_units_per_s(&t->progress);
    const double epoch = hn_feed_epoch_at(t->s->train, t->state.micro_batch);
    const bool images = hn_session_has_images(t->s);
    const char *const per_s = images ? "images_per_s" : "tokens_per_s";
    const hn_metric row[] = {{"loss", r->loss},
                             {"lr", lr},
                             {"grad_norm", r->grad_norm},
                             {hn_session_unit(t->s), (double)t->state.tokens},
                             {"epoch", epoch},
                             {per_s, rate},
                             {"peak_gib", t->peak_gib}};
    const hn_tf_scalar scalars[] = {
        {"train/loss", (float)r->loss},
        {"train/learning_rate", (float)lr},
        {"train/grad_norm", (float)r->grad_norm},
        {"train/epoch", (float)epoch},
        {images ? "perf/images_per_s" : "perf/tokens_per_s", (float)rate},
        {"perf/peak_mem_gb", (float)t->peak_gib}};
    HN_TRY(hn_metrics_row(t->metrics, step, row, sizeof row / sizeof *row));
    HN_TRY(hn_tfevents_scalars(t->events, 0, step, scalars, sizeof scalars / sizeof *scalars));
    if (step % t->c->log_every == 0 || step == t->last) {
        const hn_log_entry e = {
            .step = step, .loss = r->loss, .lr = lr, .grad_norm = r->grad_norm, .eval_loss = NAN};
        hn_run_state_log(&t->state, &e);
    }
    if (!t->json) return HN_OK;
    char loss[32] = "null"; /* of a step without a trained token */
    if (isfinite(r->loss)) snprintf(loss, sizeof loss, "%.9g", r->loss);
    fprintf(t->to,
            "{\"step\": %" PRId64 ", \"loss\": %s, \"grad_norm\": %.9g, \"lr\": %.9g, "
            "\"%s\": %.6g, \"peak_gib\": %.4g}\n",
            step, loss, r->grad_norm, lr, per_s, rate, t->peak_gib);
    fflush(t->to); /* whoever reads along sees the step now */
    return HN_OK;
}

/* Hands the next step to the device; nobody waits for it. */
static hn_status enqueue_step(trainer *t)
{
    const int64_t step = t->state.step + t->ahead;
    if (t->hooks->before != NULL) HN_TRY(t->hooks->before(t->s, step));
    const double lr = hn_schedule_lr(&t->schedule, step);
    t->ahead++;
    if (t->c->accumulation == 1) {
        HN_TRY(load_micro_batch(t));
        return hn_engine_step(t->s->engine, step, lr, NULL);
    }
    HN_TRY(hn_engine_begin(t->s->engine, step));
    for (int64_t a = 0; a < t->c->accumulation; a++) {
        HN_TRY(load_micro_batch(t));
        HN_TRY(hn_engine_micro(t->s->engine, a));
    }
    return hn_engine_update(t->s->engine, lr, NULL);
}

static hn_status end_step(trainer *t, const hn_step_report *r)
{
    const double lr = hn_schedule_lr(&t->schedule, t->state.step);
    if (r->skipped == HN_STEP_EMPTY)
        hn_warn(&t->quiet, "step %" PRId64 ": no trained token, nothing was updated",
                t->state.step + 1);
    else if (r->skipped == HN_STEP_NONFINITE || !isfinite(r->loss))
        return explain_nonfinite(t);
    t->ahead--;
    t->state.step++;
    t->state.micro_batch += t->c->accumulation;
    t->state.tokens += r->tokens;
    t->units += r->tokens;
    char detail[96];
    snprintf(detail, sizeof detail, "loss %.4f  norm %.3f  lr %.2e  %.2f GiB", r->loss,
             r->grad_norm, lr, t->peak_gib);
    hn_progress_update(&t->progress, t->state.step, t->units, detail);
    return record_step(t, r, lr);
}

/* The steps that are done; wait: all. */
static hn_status take_reports(trainer *t, bool wait)
{
    const bool gpu = hn_device_kind_of(t->s->device) == HN_DEVICE_CUDA;
    if (wait || !gpu || t->peak_gib == 0) t->peak_gib = peak_gib(t);
    while (t->ahead > 0) {
        bool there;
        hn_step_report r;
        HN_TRY(hn_engine_report(t->s->engine, wait, &there, &r));
        if (!there) break;
        HN_TRY(end_step(t, &r));
    }
    return HN_OK;
}

static bool divides(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

/* After such a step somebody wants to know, or to look at the parameters: the host waits. In
 * between it only takes what is done, so that the GPU never waits for it. */
static bool is_stop(const trainer *t, int64_t step)
{
    return step == t->last || divides(t->c->log_every, step) || divides(t->c->eval_every, step) ||
           divides(t->c->save_every, step) || (t->hooks->looks && t->hooks->looks(t->s, step));
}

static void show_line(void *context, hn_log_level level, const char *text)
{
    trainer *t = context;
    char line[1100];
    snprintf(line, sizeof line, "%s%s", level == HN_LOG_WARN ? "warning: " : "", text);
    hn_progress_say(&t->progress, line);
}

/* Of the method, with lines of progress of its own. */
static hn_status begin(trainer *t)
{
    hn_progress_pause(&t->progress);
    const hn_status st = t->hooks->begin(t->s, &t->schedule, t->state.step);
    hn_progress_resume(&t->progress);
    return st;
}

static hn_status loop(trainer *t)
{
    hn_progress_config config = hn_progress_detect(stderr);
    config.every = t->c->log_every;
    config.unit = hn_session_unit(t->s);
    if (t->json) config.to = NULL;
    hn_progress_start(&t->progress, &config, t->state.step, t->total);
    t->quiet = (hn_log){.line = show_line, .context = t};
    if (t->hooks->begin != NULL) HN_TRY(begin(t));
    if (t->state.step == 0) HN_TRY(evaluate(t));
    while (t->state.step < t->last && !t->stop_early && !hn_signals_caught()) {
        HN_TRY(enqueue_step(t));
        const int64_t at = t->state.step + t->ahead;
        HN_TRY(take_reports(t, is_stop(t, at) || t->ahead == HN_ENGINE_AHEAD));
        if (!is_stop(t, at)) continue;
        if (t->hooks->looks && t->hooks->looks(t->s, at))
            HN_TRY(t->hooks->behind(t->s, at, &t->quiet));
        if (divides(t->c->eval_every, at) || at == t->total) HN_TRY(evaluate(t));
        if (divides(t->c->save_every, at)) HN_TRY(save(t));
    }
    HN_TRY(take_reports(t, true)); /* a signal may have come between two of them */
    HN_TRY(save(t));
    hn_progress_end(&t->progress);
    return HN_OK;
}

/* ---- the end ---- */

/* The step whose checkpoint is the result: of a run that was best untrained, the last one. */
static int64_t result_step(const trainer *t)
{
    const int64_t best = t->state.best_step;
    return strcmp(t->c->result, "best") == 0 && best > 0 ? best : t->state.step;
}

static hn_status take_best(trainer *t)
{
    const int64_t best = t->state.best_step;
    if (strcmp(t->c->result, "best") != 0 || best < 0 || best == t->state.step) return HN_OK;
    if (best == 0) {
        hn_warn(&t->s->log,
                "result: step %" PRId64 ", but the held-out loss was best, %.4f, before training",
                t->state.step, t->state.best_loss);
        return HN_OK;
    }
    char *path = checkpoint_path(t, best);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a checkpoint's path");
    hn_info(&t->s->log, "result: step %" PRId64 ", held-out loss %.4f, the best of the run", best,
            t->state.best_loss);
    const hn_status st =
        hn_state_load_delta(path, hn_engine_params(t->s->engine), t->id.base_digest);
    hn_free(path);
    return st;
}

static hn_status print_object(FILE *to, json_t *object)
{
    char *text = object ? json_dumps(object, 0) : NULL;
    json_decref(object);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the last line");
    fprintf(to, "%s\n", text);
    free(text);
    return HN_OK;
}

/* A model on a command line, with what it was opened with; hn_free it. */
static char *base_options(const trainer *t, const char *model)
{
    const hn_run_config *c = t->c;
    const bool base = strcmp(model, c->model) == 0, files = base && c->weights[0];
    char sizes[96] = "";
    int n = 0;
    if (base && c->image_size)
        n = snprintf(sizes, sizeof sizes, " --image-size %" PRId64, c->image_size);
    if (base && c->channels)
        snprintf(sizes + n, sizeof sizes - (size_t)n, " --channels %" PRId64, c->channels);
    return hn_asprintf("%s%s%s%s%s%s", model, files ? " --weights " : "", files ? c->weights : "",
                       sizes, c->tokenizer[0] ? " --tokenizer " : "", c->tokenizer);
}

/* The last three lines: where it is, how to try it, how to export it. */
static hn_status say_result(const trainer *t, const hn_export_kind *kind, const char *result)
{
    const hn_session *s = t->s;
    const char *program = s->method->program;
    const char *what = hn_session_has_images(s) ? "predict" : "generate";
    const char *input = hn_session_has_images(s) ? "--images FILE" : "--prompt \"...\"";
    if (t->json)
        return print_object(t->to, json_pack("{s:s, s:s, s:I}", "result", result, "checkpoints",
                                             t->out, "step", (json_int_t)t->state.step));
    char *base = base_options(t, t->c->model), *own = base_options(t, result);
    if (base == NULL || own == NULL) {
        hn_free(base);
        hn_free(own);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the last lines");
    }
    const bool adapter = s->method->adapter;
    fprintf(t->to, "result:  %s (%s), checkpoints in %s\n", result, kind->what, t->out);
    fprintf(t->to, "try:     %s %s --model %s%s%s %s\n", program, what, adapter ? base : own,
            adapter ? " --adapter " : "", adapter ? result : "", input);
    fprintf(t->to, "export:  %s export --model %s --checkpoint %s%s --to DIR\n", program, base,
            t->out, adapter ? " --kind merged" : "");
    hn_free(base);
    hn_free(own);
    return HN_OK;
}

static hn_status say_stopped(const trainer *t)
{
    const int number = hn_signals_caught();
    const char *by = number ? hn_signals_name(number) : "--stop-after";
    if (t->json)
        return print_object(t->to, json_pack("{s:s, s:I, s:I, s:s}", "stopped", by, "step",
                                             (json_int_t)t->state.step, "steps",
                                             (json_int_t)t->total, "checkpoints", t->out));
    fprintf(t->to,
            "stopped by %s at step %" PRId64 " of %" PRId64 "; continue with: %s train "
            "--config %s/run.yaml --out %s --resume auto%s\n",
            by, t->state.step, t->total, t->s->method->program, t->out, t->out,
            t->c->stop_after ? " --stop-after 0" : "");
    return HN_OK;
}

static hn_status finish(trainer *t)
{
    hn_session *s = t->s;
    if (t->state.step < t->total && !t->stop_early) return say_stopped(t);
    HN_TRY(take_best(t));
    const hn_export_kind *kind;
    HN_TRY(hn_export_find(s->method, "auto", &kind));
    char *result = hn_asprintf("%s/%s", t->out, kind->folder);
    char *checkpoint = checkpoint_path(t, result_step(t));
    hn_status st = HN_OK;
    if (result == NULL || checkpoint == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the result's path");
    if (st == HN_OK && kind->replaces) st = hn_remove_tree(result);
    if (st == HN_OK) st = kind->write(s, checkpoint, result);
    if (st == HN_OK && t->hooks->end != NULL) st = t->hooks->end(s, t->out);
    if (st == HN_OK) st = say_result(t, kind, result);
    hn_free(checkpoint);
    hn_free(result);
    return st;
}

hn_status hn_train(hn_session *s, const hn_option_table *table, FILE *to)
{
    static const hn_method_hooks none = {NULL};
    const hn_method_hooks *hooks = s->method->hooks ? s->method->hooks : &none;
    trainer t = {.s = s, .c = s->run, .hooks = hooks, .to = to, .saved_step = -1};
    t.json = strcmp(s->run->log_format, "json") == 0;
    hn_status st = set_up(&t, table);
    if (st == HN_OK) {
        hn_signals_watch();
        st = loop(&t);
        if (st == HN_OK) st = finish(&t);
        hn_signals_release();
    }
    tear_down(&t);
    return st;
}
