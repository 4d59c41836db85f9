/* One phase of a task: an engine that is built, filled (pearl_phase_open.c), run and read back. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/file/folder.h"
#include "runtime/train/pearl_phase.h"
#include "runtime/train/rank_buffers.h"
#include "runtime/train/signals.h"

const char *hn_phase_name(hn_phase_kind k)
{
    static const char *const names[] = {"dense", "probe", "factors", "head"};
    return names[k];
}

void hn_phase_end_free(hn_phase_end *e)
{
    hn_values_free(&e->values);
    *e = (hn_phase_end){0};
}

/* ---- checkpoints inside a phase ---- */

static char *path_of(const hn_phase_state *f, const char *end)
{
    return hn_asprintf("%s/task-%03d-%s%s", f->r->working, f->p->end, hn_phase_name(f->p->kind),
                       end);
}

static hn_status name_it(hn_phase_state *f)
{
    f->dir = path_of(f, "");
    f->settings =
        hn_asprintf("%s task %d %s", f->r->settings, f->p->end, hn_phase_name(f->p->kind));
    if (f->dir == NULL || f->settings == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for a phase's name");
    f->id = (hn_run_identity){.method = "pearl",
                              .base_path = f->r->c->model,
                              .base_digest = f->r->base_digest,
                              .data_digest = f->r->data_digest,
                              .tokenizer_digest = "",
                              .settings = f->settings,
                              .yaml = f->r->call->yaml};
    return hn_run_state_init(&f->state, 1);
}

static double seconds(const hn_phase_state *f)
{
    return f->before_s + (double)(hn_clock_ns() - f->begun_ns) * 1e-9;
}

static hn_status save_seconds(const hn_phase_state *f)
{
    char text[40];
    char *path = hn_asprintf("%s.seconds", f->dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    snprintf(text, sizeof text, "%.6f\n", seconds(f));
    const hn_status st = hn_save_text(path, text);
    hn_free(path);
    return st;
}

static void read_seconds(hn_phase_state *f)
{
    char *path = hn_asprintf("%s.seconds", f->dir);
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file && fscanf(file, "%lf", &f->before_s) != 1) f->before_s = 0;
    if (file) fclose(file);
    hn_free(path);
}

/* Whose kernels it runs on: a continuation on others would have other bits. In one line. */
static void kernels_of(const hn_phase_state *f, char *text, size_t size)
{
    hn_plan_notes(hn_engine_program(f->engine), ';', text, size);
}

static hn_status note_kernels(hn_phase_state *f)
{
    char now[4096];
    kernels_of(f, now, sizeof now);
    hn_free(f->state.kernels);
    f->state.kernels = hn_strdup(now);
    return f->state.kernels ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a checkpoint");
}

static bool any_device(const hn_phase_state *f)
{
    return strcmp(f->r->c->resume_device, "any") == 0;
}

static hn_status compare_kernels(const hn_phase_state *f, const char *from)
{
    char now[4096];
    kernels_of(f, now, sizeof now);
    if (f->state.kernels == NULL || strcmp(f->state.kernels, now) == 0) return HN_OK;
    if (!any_device(f))
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s ran on other kernels (%s) than this run (%s); --resume-device any goes "
                       "on here, with other bits",
                       from, f->state.kernels, now);
    hn_warn(&f->r->log, "%s ran on other kernels (%s): the run goes on with other bits than there",
            from, f->state.kernels);
    return HN_OK;
}

/* The products go on with the algorithms they had. */
static hn_status take_plans(hn_phase_state *f, const char *from)
{
    const hn_status st = hn_engine_use_gemm_plans(f->engine, f->state.gemm_plans, from);
    if (st != HN_ERR_UNSUPPORTED) return st;
    if (!any_device(f))
        return HN_FAIL(st, "%s; --resume-device any goes on here, with other bits", hn_last_text());
    hn_warn(&f->r->log, "%s: the run goes on with other bits than there", hn_last_text());
    return HN_OK;
}

/* ---- saving and going on ---- */

static hn_status compare_ranks(const hn_phase_state *f)
{
    hn_hub *hub = f->r->team->hub;
    return hub ? hn_engine_compare_ranks(f->engine, hub) : HN_OK;
}

/* The end of a phase: all ranks have the same values behind it. */
static hn_status meet(hn_phase_state *f)
{
    hn_hub *hub = f->r->team->hub;
    hn_team_at(f->r->team, HN_HUB_AT_SAVE, f->state.step);
    if (hub != NULL)
        HN_TRY(hn_engine_average_buffers(f->engine, hub,
                                         hn_share_own(hn_team_share(f->r->team, f->r->per_step))));
    return compare_ranks(f);
}

static hn_status save(hn_phase_state *f)
{
    hn_pearl *r = f->r;
    if (f->saved == f->state.step) return HN_OK;
    hn_team_at(r->team, HN_HUB_AT_SAVE, f->state.step);
    HN_TRY(hn_rank_buffers_gather(&f->state, hn_engine_params(f->engine), r->team));
    HN_TRY(compare_ranks(f));
    f->saved = f->state.step;
    if (!hn_pearl_leads(r)) return hn_team_wait(r->team);
    hn_progress_pause(&r->progress);
    json_decref(f->state.gemm_plans);
    HN_TRY(hn_engine_gemm_plans(f->engine, &f->state.gemm_plans));
    HN_TRY(note_kernels(f));
    HN_TRY(hn_make_dirs(f->dir));
    HN_TRY(hn_state_save(f->dir, hn_engine_params(f->engine), &f->id, &f->state));
    HN_TRY(hn_ckpt_prune(f->dir, 1, NULL));
    HN_TRY(save_seconds(f));
    hn_progress_resume(&r->progress);
    return hn_team_wait(r->team);
}

/* Rank 0 looks for all. */
static hn_status newest_of(const hn_phase_state *f, char **from)
{
    *from = NULL;
    if (hn_pearl_leads(f->r) && hn_is_folder(f->dir))
        HN_TRY(hn_ckpt_newest(f->dir, &f->r->log, from, NULL));
    return hn_team_share_text(f->r->team, from);
}

static hn_status continue_it(hn_phase_state *f)
{
    char *from = NULL;
    HN_TRY(newest_of(f, &from));
    if (from == NULL) return HN_OK;
    hn_status st = hn_state_load(from, hn_engine_params(f->engine), &f->id, 1, &f->state);
    f->state.per_step = f->r->per_step;
    if (st == HN_OK) st = take_plans(f, from);
    if (st == HN_OK) st = compare_kernels(f, from);
    if (st == HN_OK)
        st =
            hn_rank_buffers_put(&f->state, hn_engine_params(f->engine), f->r->team, f->r->per_step);
    if (st == HN_OK) st = compare_ranks(f); /* each has read its own files */
    if (st == HN_OK) {
        f->saved = f->state.step;
        read_seconds(f);
        hn_info(&f->r->log, "task %d: %s continued at step %" PRId64, f->p->end,
                hn_phase_name(f->p->kind), f->state.step);
    }
    hn_free(from);
    return st;
}

/* ---- the end of a phase, for whoever continues behind it ---- */

static hn_status save_end(const hn_phase_state *f, hn_phase_end *e)
{
    char steps[32], time[40], hex[HN_SHA256_HEX];
    char *path = path_of(f, ".safetensors");
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    snprintf(steps, sizeof steps, "%" PRId64, e->steps);
    snprintf(time, sizeof time, "%.6f", e->seconds);
    const char *const metadata[][2] = {
        {"format", "pt"}, {"settings", f->settings}, {"steps", steps}, {"seconds", time}};
    const hn_status st = hn_values_save(path, &e->values, metadata, 4, hex);
    hn_free(path);
    return st;
}

static const char *text_or(const char *text, const char *otherwise)
{
    return text ? text : otherwise;
}

/* *there: the phase was over before. */
static hn_status load_end(const hn_phase_state *f, hn_phase_end *e, bool *there)
{
    hn_st_file *file = NULL;
    char *path = path_of(f, ".safetensors");
    hn_status st = path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    *there = st == HN_OK && hn_is_file(path);
    if (st == HN_OK) st = hn_pearl_share_flag(f->r, there);
    if (st != HN_OK || !*there) goto done;
    HN_TRY_GOTO(st, hn_st_open(path, &file), done);
    if (strcmp(text_or(hn_st_metadata(file, "settings"), ""), f->settings) != 0) {
        st = HN_FAIL(HN_ERR_ARG, "%s: the run had other settings", path);
        goto done;
    }
    e->steps = strtoll(text_or(hn_st_metadata(file, "steps"), "0"), NULL, 10);
    e->seconds = strtod(text_or(hn_st_metadata(file, "seconds"), "0"), NULL);
    st = hn_values_load(path, &e->values);
    const hn_values *const values = &e->values;
    if (st == HN_OK) st = hn_pearl_same_values(f->r, "end of a phase", &values, 1);

done:
    hn_st_close(file);
    hn_free(path);
    return st;
}

static hn_status read_back(const hn_phase_state *f, hn_phase_end *e)
{
    const hn_params *p = hn_engine_params(f->engine);
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (hn_params_at(p, i)->trained || hn_params_at(p, i)->buffer)
            HN_TRY(hn_values_read(&e->values, hn_params_at(p, i)));
    e->steps = f->state.step;
    e->seconds = seconds(f);
    return HN_OK;
}

/* ---- steps ---- */

static hn_status load_micro_batch(hn_phase_state *f)
{
    hn_engine_input in;
    HN_TRY(hn_engine_batch(f->engine, &in));
    return f->feed->next(f->feed, &in);
}

static hn_status enqueue_step(hn_phase_state *f)
{
    const hn_pearl *r = f->r;
    const int64_t step = f->state.step + f->ahead, ranks = hn_team_size(r->team);
    const double lr = hn_schedule_lr(&f->schedule, step);
    f->ahead++;
    hn_engine_want_stop(f->engine, ranks > 1 && hn_signals_caught() != 0);
    hn_team_at(r->team, HN_HUB_AT_STEP, step);
    if (r->per_step == ranks) {
        HN_TRY(load_micro_batch(f));
        return hn_engine_step(f->engine, step, lr, NULL);
    }
    HN_TRY(hn_engine_begin(f->engine, step));
    for (int64_t a = r->team->ranks.rank; a < r->per_step; a += ranks) {
        hn_team_at(r->team, HN_HUB_AT_STEP, step);
        HN_TRY(load_micro_batch(f));
        HN_TRY(hn_engine_micro(f->engine, a));
    }
    return hn_engine_update(f->engine, lr, NULL);
}

/* Runs this rank's micro-batches of the step again with every node looked at. */
static hn_status find_nonfinite(hn_phase_state *f)
{
    const hn_pearl *r = f->r;
    HN_TRY(hn_engine_begin(f->engine, f->state.step));
    for (int64_t a = r->team->ranks.rank; a < r->per_step; a += hn_team_size(r->team)) {
        hn_engine_input in;
        int64_t units = 0;
        HN_TRY(hn_engine_batch(f->engine, &in));
        HN_TRY(f->feed->fill(f->feed, f->state.micro_batch + a, &in, &units));
        const hn_status st = hn_engine_find_nonfinite(f->engine, a);
        if (st == HN_ERR_NUMERIC && r->per_step > 1)
            return HN_FAIL(st, "micro-batch %" PRId64 ": %s", a, hn_last_text());
        HN_TRY(st);
    }
    return HN_OK;
}

/* Ranks that have found nothing wait until one that has says so, and ends the run. */
static hn_status explain_nonfinite(hn_phase_state *f)
{
    const hn_team *team = f->r->team;
    const hn_status st = find_nonfinite(f);
    double found = st == HN_ERR_NUMERIC;
    char why[HN_HUB_TEXT] = "the gradient's norm is not finite";
    if (st != HN_OK && st != HN_ERR_NUMERIC) return st;
    if (st == HN_ERR_NUMERIC) snprintf(why, sizeof why, "%s", hn_last_text());
    if (team->hub != NULL) HN_TRY(hn_hub_sum_f64(team->hub, &found, 1));
    if (st == HN_OK && found > 0) HN_TRY(hn_team_wait(team));
    return HN_FAIL(HN_ERR_NUMERIC, "task %d, %s, step %" PRId64 ": %s", f->p->end,
                   hn_phase_name(f->p->kind), f->state.step + 1, why);
}

static void say_step(const hn_phase_state *f, const hn_step_report *s, double lr)
{
    hn_pearl *r = f->r;
    char detail[96];
    const int64_t step = f->state.step;
    snprintf(detail, sizeof detail, "loss %.4f  lr %.2e", s->loss, lr);
    hn_progress_update(&r->progress, step, f->images, detail);
    if (!r->json || !hn_pearl_leads(r)) return;
    if (step % r->c->log_every != 0 && step != f->schedule.steps) return;
    fprintf(r->to,
            "{\"task\": %d, \"phase\": \"%s\", \"step\": %" PRId64 ", \"steps\": %" PRId64
            ", \"loss\": %.9g, \"grad_norm\": %.9g, \"lr\": %.9g}\n",
            f->p->end, hn_phase_name(f->p->kind), step, f->schedule.steps, s->loss, s->grad_norm,
            lr);
    fflush(r->to);
}

static bool on_gpu(const hn_pearl *r) { return hn_device_kind_of(r->device) == HN_DEVICE_CUDA; }

static hn_status end_step(hn_phase_state *f, const hn_step_report *s)
{
    const double lr = hn_schedule_lr(&f->schedule, f->state.step);
    if (s->skipped == HN_STEP_NONFINITE || !isfinite(s->loss)) return explain_nonfinite(f);
    f->ahead--;
    f->state.step++;
    f->state.micro_batch += f->r->per_step;
    f->state.tokens += s->tokens;
    f->images += s->tokens;
    f->r->steps_here++;
    /* The same step on all ranks, which none of them has gone beyond. */
    if (s->stop > 0 && f->stop_at < 0)
        f->stop_at = f->state.step + (on_gpu(f->r) ? HN_ENGINE_AHEAD : 0);
    say_step(f, s, lr);
    return HN_OK;
}

/* The steps that are done; wait: all. */
static hn_status take_reports(hn_phase_state *f, bool wait)
{
    while (f->ahead > 0) {
        bool there;
        hn_step_report s;
        HN_TRY(hn_engine_report(f->engine, wait, &there, &s));
        if (!there) break;
        HN_TRY(end_step(f, &s));
    }
    return HN_OK;
}

static bool divides(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

/* For a signal: on all ranks behind the same step. */
static bool must_stop(const hn_phase_state *f)
{
    const hn_pearl *r = f->r;
    const int64_t limit = r->c->stop_after_steps, at = f->state.step + f->ahead;
    const bool asked =
        hn_team_alone(r->team) ? hn_signals_caught() != 0 : f->stop_at >= 0 && at >= f->stop_at;
    return asked || (limit > 0 && r->steps_here + f->ahead >= limit);
}

/* A signal to any rank before the first step here ends the run in front of it, on all. */
static hn_status ask_all(hn_phase_state *f)
{
    hn_team_looks once = {0};
    bool asked;
    HN_TRY(hn_team_asked(f->r->team, &once, &asked));
    if (asked) f->stop_at = f->state.step;
    return HN_OK;
}

static hn_status loop(hn_phase_state *f)
{
    const hn_pearl_config *c = f->r->c;
    const int64_t total = f->schedule.steps;
    HN_TRY(ask_all(f));
    while (f->state.step < total && !must_stop(f)) {
        HN_TRY(enqueue_step(f));
        const int64_t at = f->state.step + f->ahead;
        const bool wait = at == total || divides(c->log_every, at) || divides(c->save_every, at) ||
                          f->ahead == HN_ENGINE_AHEAD || must_stop(f);
        HN_TRY(take_reports(f, wait));
        if (divides(c->save_every, at) && at < total) HN_TRY(save(f));
    }
    HN_TRY(take_reports(f, true)); /* a signal may have come between two of them */
    f->r->stopped = f->state.step < total;
    return f->r->stopped ? save(f) : HN_OK;
}

static void start_progress(const hn_phase_state *f, char *step, size_t size)
{
    hn_pearl *r = f->r;
    hn_progress_config config = hn_progress_detect(stderr);
    snprintf(step, size, "task %d/%d %s step", f->p->end, r->tasks, hn_phase_name(f->p->kind));
    config.every = r->c->log_every;
    config.step = step;
    config.unit = "img";
    if (r->json || !hn_pearl_leads(r)) config.to = NULL;
    hn_progress_start(&r->progress, &config, f->state.step, f->schedule.steps);
}

static hn_status train(hn_phase_state *f)
{
    char step[80];
    HN_TRY(hn_image_feed_new(f->loader, &f->job, &f->feed));
    f->feed->share = hn_team_share(f->r->team, f->r->per_step);
    if (hn_share_own(f->feed->share) > 0) /* else more ranks than micro-batches */
        HN_TRY(f->feed->start(f->feed, f->state.micro_batch));
    f->begun_ns = hn_clock_ns();
    start_progress(f, step, sizeof step);
    const hn_status st = loop(f);
    hn_progress_end(&f->r->progress);
    return st;
}

/* ---- all of it ---- */

/* What each rank has computed for itself. */
static hn_status compare_start(const hn_phase_state *f)
{
    const hn_phase *p = f->p;
    const hn_values *const set[] = {p->body, p->head, p->factors, p->fisher};
    return hn_pearl_same_values(f->r, "values in front of a phase", set, sizeof set / sizeof *set);
}

static hn_status run(hn_phase_state *f, hn_phase_end *e)
{
    bool there = false;
    HN_TRY(name_it(f));
    hn_team_at(f->r->team, HN_HUB_AT_LOAD, -1);
    HN_TRY(load_end(f, e, &there));
    if (there) return HN_OK;
    HN_TRY(compare_start(f));
    HN_TRY(hn_phase_open(f));
    HN_TRY(hn_phase_fill(f));
    HN_TRY(continue_it(f));
    HN_TRY(train(f));
    if (f->r->stopped) return HN_OK;
    HN_TRY(meet(f));
    HN_TRY(read_back(f, e));
    if (!hn_pearl_leads(f->r)) return HN_OK;
    HN_TRY(save_end(f, e));
    return hn_remove_tree(f->dir);
}

hn_status hn_phase_run(hn_pearl *r, const hn_phase *p, hn_phase_end *out)
{
    hn_phase_state f = {.r = r, .p = p, .saved = -1, .stop_at = -1};
    hn_phase_end e = {0};
    const hn_status st = run(&f, &e);
    hn_phase_close(&f);
    if (st == HN_OK && !r->stopped)
        *out = e;
    else
        hn_phase_end_free(&e);
    return st;
}
