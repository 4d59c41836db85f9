#define _POSIX_C_SOURCE 200809L
#include "runtime/train/trainer.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "runtime/base/alloc.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"
#include "runtime/train/export.h"
#include "runtime/train/rank_buffers.h"
#include "runtime/train/signals.h"
#include "runtime/train/state_shares.h"
#include "runtime/train/trainer_impl.h"

/* ---- checkpoints and evaluation ---- */

static hn_status note_kernels(hn_trainer *t)
{
    char now[4096];
    hn_trainer_kernels(t, now, sizeof now);
    hn_free(t->state.kernels);
    t->state.kernels = hn_asprintf("%s", now);
    return t->state.kernels ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a checkpoint");
}

static bool divides(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

bool hn_trainer_in_schedule(const hn_trainer *t)
{
    const int64_t step = t->state.step;
    const bool evaluated = t->s->eval && divides(t->c->eval_every, step);
    return evaluated || divides(t->c->save_every, step) || step == t->total || t->stop_early;
}

/* Rank 0's files; where ranks share optimizer state, every rank writes its own. */
static hn_status write_state(const hn_trainer *t)
{
    const hn_params *p = hn_engine_params(t->s->engine);
    if (hn_params_split(p) != NULL)
        return hn_state_save_shares(t->out, p, &t->id, &t->state, t->s->team.hub);
    return t->leads ? hn_state_save(t->out, p, &t->id, &t->state) : HN_OK;
}

static hn_status save(hn_trainer *t)
{
    hn_hub *hub = t->s->team.hub;
    if (t->saved_step == t->state.step) return HN_OK;
    hn_team_at(&t->s->team, HN_HUB_AT_SAVE, t->state.step);
    if (hn_trainer_in_schedule(t))
        hn_rank_buffers_drop(&t->state); /* those of an earlier save */
    else                                 /* a run without a break goes on with each rank's own */
        HN_TRY(hn_rank_buffers_gather(&t->state, hn_engine_params(t->s->engine), &t->s->team));
    if (hub != NULL)
        HN_TRY(hn_engine_average_buffers(t->s->engine, hub,
                                         hn_share_own(hn_team_share(&t->s->team, t->s->per_step))));
    if (hub != NULL) HN_TRY(hn_engine_compare_ranks(t->s->engine, hub));
    if (!t->leads) {
        HN_TRY(write_state(t));
        t->saved_step = t->state.step;
        return hn_team_wait(&t->s->team);
    }
    hn_progress_pause(&t->progress);
    json_decref(t->state.gemm_plans);
    hn_status st = hn_engine_gemm_plans(t->s->engine, &t->state.gemm_plans);
    if (st == HN_OK) st = note_kernels(t);
    if (st == HN_OK) st = write_state(t);
    if (st == HN_OK) {
        t->saved_step = t->state.step;
        char *best = t->state.best_step >= 0 ? hn_trainer_checkpoint(t, t->state.best_step) : NULL;
        st = hn_ckpt_prune(t->out, t->c->keep, best);
        hn_free(best);
    }
    hn_progress_resume(&t->progress);
    return st == HN_OK ? hn_team_wait(&t->s->team) : st;
}

/* Of the GPU since it was opened, for which the driver is asked, or of the process. */
static double peak_gib(const hn_trainer *t)
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

static verdict verdict_of(const hn_trainer *t, const hn_eval_sums *sums)
{
    const double n = sums->rows > 0 ? (double)sums->rows : NAN;
    return (verdict){sums->loss / n, t->s->job->hits ? (double)sums->hits / n : NAN, sums->rows};
}

static hn_status record_eval(hn_trainer *t, const verdict *v)
{
    const int64_t step = t->state.step;
    const hn_metric row[] = {{"eval_loss", v->loss}, {"eval_accuracy", v->accuracy}};
    const hn_tf_scalar scalar[] = {{"eval/loss", (float)v->loss},
                                   {"eval/accuracy", (float)v->accuracy}};
    const int n = t->s->job->hits ? 2 : 1;
    const hn_log_entry e = {
        .step = step, .loss = NAN, .lr = NAN, .grad_norm = NAN, .eval_loss = v->loss};
    hn_run_state_log(&t->state, &e);
    if (!t->leads) return HN_OK;
    HN_TRY(hn_metrics_row(t->metrics, step, row, n));
    HN_TRY(hn_tfevents_scalars(t->events, 0, step, scalar, n));
    if (!t->json || !isfinite(v->loss)) return HN_OK;
    fprintf(t->to, "{\"step\": %" PRId64 ", \"eval_loss\": %.9g", step, v->loss);
    if (n == 2) fprintf(t->to, ", \"eval_accuracy\": %.9g", v->accuracy);
    fprintf(t->to, "}\n");
    return HN_OK;
}

/* "accuracy 86.30 %, 2000 images" */
static const char *judgement(const hn_trainer *t, const verdict *v, char *text, size_t size)
{
    if (t->s->job->hits)
        snprintf(text, size, "accuracy %.2f %%, %" PRId64 " images", 100 * v->accuracy, v->rows);
    else
        snprintf(text, size, "perplexity %.3f, %" PRId64 " tokens", exp(v->loss), v->rows);
    return text;
}

/* A signal has come to some rank before it was over: nothing of it counts, and the run ends here,
 * on all. Whoever goes on from the checkpoint makes it first. */
static void leave_evaluation(hn_trainer *t)
{
    t->state.evaluate_first = true;
    t->stop_at = t->state.step;
    hn_info(&t->quiet, "step %" PRId64 ": %s; a run that goes on evaluates first", t->state.step,
            hn_last_text());
    hn_progress_resume(&t->progress);
}

static hn_status evaluate(hn_trainer *t)
{
    hn_eval_sums sums;
    char text[96];
    if (t->s->eval == NULL) {
        t->state.evaluate_first = false;
        return HN_OK;
    }
    hn_progress_pause(&t->progress);
    t->s->step = t->state.step;
    const hn_status st = hn_session_evaluate(t->s, &sums);
    if (st == HN_ERR_STOPPED) {
        leave_evaluation(t);
        return HN_OK;
    }
    HN_TRY(st);
    if (t->state.evaluate_first) t->saved_step = -1; /* what is there is without it */
    t->state.evaluate_first = false;
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

static hn_status load_micro_batch(hn_trainer *t)
{
    hn_engine_input in;
    HN_TRY(hn_engine_batch(t->s->engine, &in));
    return t->s->train->next(t->s->train, &in);
}

/* Runs this rank's micro-batches of the step again with every node looked at, to name the first bad
 * one. On a GPU steps behind it may have changed the parameters since: there may be none now. */
static hn_status find_nonfinite(hn_trainer *t)
{
    hn_status found = HN_OK;
    char why[HN_HUB_TEXT];
    HN_TRY(hn_engine_begin(t->s->engine, t->state.step));
    for (int64_t first = 0; first < t->s->per_step; first += t->ranks) {
        const int64_t a = first + t->s->team.ranks.rank;
        hn_engine_input in;
        int64_t units;
        if (a >= t->s->per_step || found != HN_OK) { /* others go on */
            HN_TRY(hn_engine_idle_micro(t->s->engine));
            continue;
        }
        HN_TRY(hn_engine_batch(t->s->engine, &in));
        HN_TRY(t->s->train->fill(t->s->train, t->state.micro_batch + a, &in, &units));
        found = hn_engine_find_nonfinite(t->s->engine, a);
        if (found != HN_ERR_NUMERIC) HN_TRY(found);
        if (found == HN_ERR_NUMERIC)
            snprintf(why, sizeof why, "step %" PRId64 ", micro-batch %" PRId64 ": %s",
                     t->state.step + 1, a, hn_last_text());
    }
    return found == HN_OK ? HN_OK : HN_FAIL(found, "%s", why);
}

/* Ranks that have found nothing wait until one that has says so, and ends the run. */
static hn_status explain_nonfinite(hn_trainer *t)
{
    char why[HN_HUB_TEXT];
    const hn_status st = find_nonfinite(t);
    double found = st == HN_ERR_NUMERIC;
    if (st != HN_OK && st != HN_ERR_NUMERIC) return st;
    snprintf(why, sizeof why, "%s", hn_last_text());
    if (t->s->team.hub != NULL) HN_TRY(hn_hub_sum_f64(t->s->team.hub, &found, 1));
    if (st == HN_ERR_NUMERIC) return HN_FAIL(st, "%s", why);
    if (found > 0) HN_TRY(hn_team_wait(&t->s->team));
    return HN_FAIL(HN_ERR_NUMERIC, "step %" PRId64 ": the gradient's norm is not finite",
                   t->state.step + 1);
}

static hn_status record_step(hn_trainer *t, const hn_step_report *r, double lr)
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
    if (step % t->c->log_every == 0 || step == t->last) {
        const hn_log_entry e = {
            .step = step, .loss = r->loss, .lr = lr, .grad_norm = r->grad_norm, .eval_loss = NAN};
        hn_run_state_log(&t->state, &e);
    }
    if (!t->leads) return HN_OK;
    HN_TRY(hn_metrics_row(t->metrics, step, row, sizeof row / sizeof *row));
    HN_TRY(hn_tfevents_scalars(t->events, 0, step, scalars, sizeof scalars / sizeof *scalars));
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
static hn_status enqueue_step(hn_trainer *t)
{
    const int64_t step = t->state.step + t->ahead;
    if (t->hooks->before != NULL) HN_TRY(t->hooks->before(t->s, step));
    const double lr = hn_schedule_lr(&t->schedule, step);
    t->ahead++;
    hn_engine_want_stop(t->s->engine, t->ranks > 1 && hn_signals_caught() != 0);
    hn_team_at(&t->s->team, HN_HUB_AT_STEP, step);
    if (t->s->per_step == t->ranks) {
        HN_TRY(load_micro_batch(t));
        return hn_engine_step(t->s->engine, step, lr, NULL);
    }
    HN_TRY(hn_engine_begin(t->s->engine, step));
    for (int64_t first = 0; first < t->s->per_step; first += t->ranks) {
        const int64_t a = first + t->s->team.ranks.rank;
        hn_team_at(&t->s->team, HN_HUB_AT_STEP, step);
        if (a >= t->s->per_step) { /* others have one more */
            HN_TRY(hn_engine_idle_micro(t->s->engine));
            break;
        }
        HN_TRY(load_micro_batch(t));
        HN_TRY(hn_engine_micro(t->s->engine, a));
    }
    return hn_engine_update(t->s->engine, lr, NULL);
}

static hn_status end_step(hn_trainer *t, const hn_step_report *r)
{
    const double lr = hn_schedule_lr(&t->schedule, t->state.step);
    if (r->skipped == HN_STEP_EMPTY)
        hn_warn(&t->quiet, "step %" PRId64 ": no trained token, nothing was updated",
                t->state.step + 1);
    else if (r->skipped == HN_STEP_NONFINITE || !isfinite(r->loss))
        return explain_nonfinite(t);
    t->ahead--;
    t->state.step++;
    t->state.micro_batch += t->s->per_step;
    t->state.tokens += r->tokens;
    t->units += r->tokens;
    /* The same step on all ranks, which none of them has gone beyond. */
    if (r->stop > 0 && t->stop_at < 0)
        t->stop_at = t->state.step +
                     (hn_device_kind_of(t->s->device) == HN_DEVICE_CUDA ? HN_ENGINE_AHEAD : 0);
    char detail[96];
    snprintf(detail, sizeof detail, "loss %.4f  norm %.3f  lr %.2e  %.2f GiB", r->loss,
             r->grad_norm, lr, t->peak_gib);
    hn_progress_update(&t->progress, t->state.step, t->units, detail);
    return record_step(t, r, lr);
}

/* The steps that are done; wait: all. */
static hn_status take_reports(hn_trainer *t, bool wait)
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

/* After such a step somebody wants to know, or to look at the parameters: the host waits. In
 * between it only takes what is done, so that the GPU never waits for it. */
static bool is_stop(const hn_trainer *t, int64_t step)
{
    return step == t->last || step == t->stop_at || divides(t->c->log_every, step) ||
           divides(t->c->eval_every, step) || divides(t->c->save_every, step) ||
           (t->hooks->looks && t->hooks->looks(t->s, step));
}

/* For a signal: on all ranks behind the same step. */
static bool stopped(const hn_trainer *t)
{
    if (t->ranks == 1) return hn_signals_caught() != 0;
    return t->stop_at >= 0 && t->state.step >= t->stop_at;
}

/* Of a run that begins, and of one that was stopped in an evaluation: its checkpoint is then
 * replaced by one that has it. */
static hn_status evaluate_first(hn_trainer *t)
{
    HN_TRY(evaluate(t));
    return t->resumed && !t->state.evaluate_first ? save(t) : HN_OK;
}

static void show_line(void *context, hn_log_level level, const char *text)
{
    hn_trainer *t = context;
    char line[1100];
    snprintf(line, sizeof line, "%s%s", level == HN_LOG_WARN ? "warning: " : "", text);
    hn_progress_say(&t->progress, line);
}

/* A signal to any rank since the last step ends the run here, on all. */
static hn_status ask_all(hn_trainer *t)
{
    hn_team_looks once = {0};
    bool asked;
    HN_TRY(hn_team_asked(&t->s->team, &once, &asked));
    if (asked) t->stop_at = t->state.step;
    return HN_OK;
}

/* Of the method, with lines of progress of its own. It may have ended half done, for a signal. */
static hn_status begin(hn_trainer *t)
{
    hn_progress_pause(&t->progress);
    const hn_status st = t->hooks->begin(t->s, &t->schedule, t->state.step);
    hn_progress_resume(&t->progress);
    return st == HN_OK ? ask_all(t) : st;
}

static hn_status loop(hn_trainer *t)
{
    hn_progress_config config = hn_progress_detect(stderr);
    config.every = t->c->log_every;
    config.unit = hn_session_unit(t->s);
    if (t->json || !t->leads) config.to = NULL;
    hn_progress_start(&t->progress, &config, t->state.step, t->total);
    t->quiet = (hn_log){.line = show_line, .context = t};
    if (t->hooks->begin != NULL) HN_TRY(begin(t));
    if (t->state.evaluate_first) HN_TRY(evaluate_first(t));
    while (t->state.step < t->last && !t->stop_early && !stopped(t)) {
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
static int64_t result_step(const hn_trainer *t)
{
    const int64_t best = t->state.best_step;
    return strcmp(t->c->result, "best") == 0 && best > 0 ? best : t->state.step;
}

static hn_status take_best(hn_trainer *t)
{
    const int64_t best = t->state.best_step;
    if (strcmp(t->c->result, "best") != 0 || best < 0 || best == t->state.step) return HN_OK;
    if (best == 0) {
        hn_warn(&t->s->log,
                "result: step %" PRId64 ", but the held-out loss was best, %.4f, before training",
                t->state.step, t->state.best_loss);
        return HN_OK;
    }
    char *path = hn_trainer_checkpoint(t, best);
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
static char *base_options(const hn_trainer *t, const char *model)
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
static hn_status say_result(const hn_trainer *t, const hn_export_kind *kind, const char *result)
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

static hn_status say_stopped(const hn_trainer *t)
{
    const int number = hn_signals_caught();
    const char *by = number            ? hn_signals_name(number)
                     : t->stop_at >= 0 ? "a signal to another rank"
                                       : "--stop-after";
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

static hn_status finish(hn_trainer *t)
{
    hn_session *s = t->s;
    hn_team_at(&s->team, HN_HUB_AT_END, t->state.step);
    const bool stopped_early =
        t->state.evaluate_first || (t->state.step < t->total && !t->stop_early);
    if (!t->leads) /* waits then, as the session closes */
        return stopped_early ? HN_OK : hn_session_help(s);
    if (stopped_early) return say_stopped(t);
    HN_TRY(take_best(t));
    const hn_export_kind *kind;
    HN_TRY(hn_export_find(s->method, "auto", &kind));
    char *result = hn_asprintf("%s/%s", t->out, kind->folder);
    char *checkpoint = hn_trainer_checkpoint(t, result_step(t));
    hn_status st = HN_OK;
    if (result == NULL || checkpoint == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the result's path");
    if (st == HN_OK && kind->replaces) st = hn_remove_tree(result);
    if (st == HN_OK) st = kind->write(s, checkpoint, result);
    if (st == HN_OK) st = hn_session_need_no_help(s);
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
    hn_trainer t = {.s = s,
                    .c = s->run,
                    .hooks = hooks,
                    .to = to,
                    .ranks = hn_team_size(&s->team),
                    .leads = hn_team_leads(&s->team),
                    .saved_step = -1,
                    .stop_at = -1};
    t.json = strcmp(s->run->log_format, "json") == 0;
    hn_status st = hn_team_join(&s->team);
    if (st == HN_OK) st = hn_trainer_open(&t, table);
    if (st == HN_OK) {
        hn_signals_watch();
        st = loop(&t);
        if (st == HN_OK) st = finish(&t);
        hn_signals_release();
    }
    hn_trainer_close(&t);
    return st;
}
