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

static hn_status compare_kernels(const hn_phase_state *f, const char *from)
{
    char now[4096];
    kernels_of(f, now, sizeof now);
    if (f->state.kernels == NULL || strcmp(f->state.kernels, now) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s ran on other kernels (%s) than this run (%s)", from,
                   f->state.kernels, now);
}

static hn_status save(hn_phase_state *f)
{
    if (f->saved == f->state.step) return HN_OK;
    hn_progress_pause(&f->r->progress);
    json_decref(f->state.gemm_plans);
    HN_TRY(hn_engine_gemm_plans(f->engine, &f->state.gemm_plans));
    HN_TRY(note_kernels(f));
    HN_TRY(hn_make_dirs(f->dir));
    HN_TRY(hn_state_save(f->dir, hn_engine_params(f->engine), &f->id, &f->state));
    f->saved = f->state.step;
    HN_TRY(hn_ckpt_prune(f->dir, 1, NULL));
    HN_TRY(save_seconds(f));
    hn_progress_resume(&f->r->progress);
    return HN_OK;
}

static hn_status continue_it(hn_phase_state *f)
{
    char *from = NULL;
    if (!hn_is_folder(f->dir)) return HN_OK;
    HN_TRY(hn_ckpt_newest(f->dir, &f->r->log, &from, NULL));
    if (from == NULL) return HN_OK;
    hn_status st = hn_state_load(from, hn_engine_params(f->engine), &f->id, 1, &f->state);
    if (st == HN_OK) st = hn_engine_use_gemm_plans(f->engine, f->state.gemm_plans, from);
    if (st == HN_OK) st = compare_kernels(f, from);
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
    if (!*there) goto done;
    HN_TRY_GOTO(st, hn_st_open(path, &file), done);
    if (strcmp(text_or(hn_st_metadata(file, "settings"), ""), f->settings) != 0) {
        st = HN_FAIL(HN_ERR_ARG, "%s: the run had other settings", path);
        goto done;
    }
    e->steps = strtoll(text_or(hn_st_metadata(file, "steps"), "0"), NULL, 10);
    e->seconds = strtod(text_or(hn_st_metadata(file, "seconds"), "0"), NULL);
    st = hn_values_load(path, &e->values);

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

static hn_status enqueue_step(hn_phase_state *f)
{
    const int64_t step = f->state.step + f->ahead;
    hn_engine_input in;
    HN_TRY(hn_engine_batch(f->engine, &in));
    HN_TRY(f->feed->next(f->feed, &in));
    HN_TRY(hn_engine_step(f->engine, step, hn_schedule_lr(&f->schedule, step), NULL));
    f->ahead++;
    return HN_OK;
}

static hn_status explain_nonfinite(hn_phase_state *f)
{
    hn_engine_input in;
    int64_t units = 0;
    HN_TRY(hn_engine_begin(f->engine, f->state.step));
    HN_TRY(hn_engine_batch(f->engine, &in));
    HN_TRY(f->feed->fill(f->feed, f->state.micro_batch, &in, &units));
    const hn_status st = hn_engine_find_nonfinite(f->engine, 0);
    if (st != HN_OK && st != HN_ERR_NUMERIC) return st;
    return HN_FAIL(HN_ERR_NUMERIC, "task %d, %s, step %" PRId64 ": %s", f->p->end,
                   hn_phase_name(f->p->kind), f->state.step + 1,
                   st == HN_OK ? "the gradient's norm is not finite" : hn_last_text());
}

static void say_step(const hn_phase_state *f, const hn_step_report *s, double lr)
{
    hn_pearl *r = f->r;
    char detail[96];
    const int64_t step = f->state.step;
    snprintf(detail, sizeof detail, "loss %.4f  lr %.2e", s->loss, lr);
    hn_progress_update(&r->progress, step, f->images, detail);
    if (!r->json || (step % r->c->log_every != 0 && step != f->schedule.steps)) return;
    fprintf(r->to,
            "{\"task\": %d, \"phase\": \"%s\", \"step\": %" PRId64 ", \"steps\": %" PRId64
            ", \"loss\": %.9g, \"grad_norm\": %.9g, \"lr\": %.9g}\n",
            f->p->end, hn_phase_name(f->p->kind), step, f->schedule.steps, s->loss, s->grad_norm,
            lr);
    fflush(r->to);
}

static hn_status end_step(hn_phase_state *f, const hn_step_report *s)
{
    const double lr = hn_schedule_lr(&f->schedule, f->state.step);
    if (s->skipped == HN_STEP_NONFINITE || !isfinite(s->loss)) return explain_nonfinite(f);
    f->ahead--;
    f->state.step++;
    f->state.micro_batch++;
    f->state.tokens += s->tokens;
    f->images += s->tokens;
    f->r->steps_here++;
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

static bool must_stop(const hn_phase_state *f)
{
    const hn_pearl *r = f->r;
    const int64_t limit = r->c->stop_after_steps;
    return hn_signals_caught() || (limit > 0 && r->steps_here + f->ahead >= limit);
}

static hn_status loop(hn_phase_state *f)
{
    const hn_pearl_config *c = f->r->c;
    const int64_t total = f->schedule.steps;
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
    if (r->json) config.to = NULL;
    hn_progress_start(&r->progress, &config, f->state.step, f->schedule.steps);
}

static hn_status train(hn_phase_state *f)
{
    char step[80];
    HN_TRY(hn_image_feed_new(f->loader, &f->job, &f->feed));
    HN_TRY(f->feed->start(f->feed, f->state.micro_batch));
    f->begun_ns = hn_clock_ns();
    start_progress(f, step, sizeof step);
    const hn_status st = loop(f);
    hn_progress_end(&f->r->progress);
    return st;
}

/* ---- all of it ---- */

static hn_status run(hn_phase_state *f, hn_phase_end *e)
{
    bool there = false;
    HN_TRY(name_it(f));
    HN_TRY(load_end(f, e, &there));
    if (there) return HN_OK;
    HN_TRY(hn_phase_open(f));
    HN_TRY(hn_phase_fill(f));
    HN_TRY(continue_it(f));
    HN_TRY(train(f));
    if (f->r->stopped) return HN_OK;
    HN_TRY(read_back(f, e));
    HN_TRY(save_end(f, e));
    return hn_remove_tree(f->dir);
}

hn_status hn_phase_run(hn_pearl *r, const hn_phase *p, hn_phase_end *out)
{
    hn_phase_state f = {.r = r, .p = p, .saved = -1};
    hn_phase_end e = {0};
    const hn_status st = run(&f, &e);
    hn_phase_close(&f);
    if (st == HN_OK && !r->stopped)
        *out = e;
    else
        hn_phase_end_free(&e);
    return st;
}
