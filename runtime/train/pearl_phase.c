/* One phase of a task: an engine that is built, filled, run and read back. Ranks differ from task
 * to task, so every phase plans anew. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/file/folder.h"
#include "runtime/train/image_feed.h"
#include "runtime/train/pearl_impl.h"
#include "runtime/train/schedule.h"
#include "runtime/train/signals.h"
#include "runtime/train/state.h"

typedef struct {
    hn_pearl *r;
    const hn_phase *p;
    char *dir, *settings; /* of checkpoints; their identity */
    hn_vision_config config;
    hn_image_view view;
    hn_image_loader *loader;
    hn_adapt adapt;
    hn_classifier_job job;
    hn_engine *engine;
    hn_feed *feed;
    hn_run_identity id;
    hn_run_state state;
    hn_schedule schedule;
    int64_t ahead; /* steps that are enqueued behind state.step */
    int64_t saved, images;
    int64_t begun_ns; /* of this call */
    double before_s;  /* of calls before */
} phase;

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

/* ---- what is trained ---- */

static hn_adapt_kind trains(const void *context, const char *name)
{
    const phase *f = context;
    const hn_pearl *r = f->r;
    const hn_pearl_param *q = hn_pearl_find(r, name);
    const hn_phase_kind kind = f->p->kind;
    bool full = q->role == HN_ROLE_HEAD || kind == HN_PHASE_DENSE;
    if (q->role == HN_ROLE_LAYER)
        full |=
            kind == HN_PHASE_PROBE || (kind == HN_PHASE_FACTORS && f->p->choice[q->layer].dense);
    if (q->role == HN_ROLE_NORM) full |= kind != HN_PHASE_HEAD && r->norm != HN_NORM_FROZEN;
    return full ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
}

static hn_status update_of(const void *context, const char *module, int64_t in, int64_t out,
                           hn_lowrank *choice)
{
    const phase *f = context;
    (void)in, (void)out;
    *choice = (hn_lowrank){.scale = 1};
    for (int64_t k = 0; f->p->kind == HN_PHASE_FACTORS && k < f->r->n_layers; k++) {
        const hn_pearl_layer *l = &f->r->layer[k];
        if (strcmp(l->module, module) != 0) continue;
        choice->rank = f->p->choice[k].dense ? 0 : f->p->choice[k].rank;
        choice->materialise = l->conv;
    }
    return HN_OK;
}

/* ---- building ---- */

static bool on_gpu(const hn_pearl *r) { return hn_device_kind_of(r->device) == HN_DEVICE_CUDA; }

int64_t hn_phase_steps(const hn_pearl *r, const hn_phase *p, int64_t images)
{
    return (int64_t)ceil((double)images * p->epochs / (double)r->c->batch_size);
}

static hn_optimizer optimizer_of(const hn_pearl_config *c)
{
    return (hn_optimizer){.kind = strcmp(c->optimizer, "sgd") == 0 ? HN_OPTIMIZER_SGD
                                                                   : HN_OPTIMIZER_ADAMW,
                          .beta1 = c->beta1,
                          .beta2 = c->beta2,
                          .eps = c->adam_eps,
                          .momentum = c->momentum,
                          .nesterov = c->nesterov,
                          .weight_decay = c->weight_decay,
                          .max_grad_norm = c->max_grad_norm};
}

static hn_status open_images(phase *f)
{
    const hn_pearl *r = f->r;
    HN_TRY(hn_task_view_make(r->stream, r->train, f->p->first, f->p->end, f->p->labels, &f->view));
    f->view.n_classes = (int32_t)f->p->classes; /* a head that grows has those of tasks so far */
    const hn_image_loader_options o = {.batch = r->c->batch_size,
                                       .seed = (uint64_t)r->c->seed,
                                       .world = 1,
                                       .shuffle = true,
                                       .resident_bytes =
                                           on_gpu(r) ? (int64_t)(r->c->resident * 0x1p30) : 0,
                                       .salt = (uint32_t)f->p->first};
    return hn_image_loader_open(r->train, &f->view, &o, &f->loader);
}

static hn_status plan_steps(phase *f)
{
    const hn_pearl_config *c = f->r->c;
    const int64_t steps = hn_phase_steps(f->r, f->p, f->view.n);
    f->schedule = (hn_schedule){
        .lr = f->p->lr, .min_lr = c->min_lr, .warmup = c->warmup_steps, .steps = steps};
    if (c->warmup_steps < 0) f->schedule.warmup = steps * 3 / 100;
    if (f->schedule.warmup > steps)
        return HN_FAIL(HN_ERR_ARG,
                       "--warmup-steps %" PRId64 ": the %s of task %d has %" PRId64 " steps",
                       c->warmup_steps, hn_phase_name(f->p->kind), f->p->first + 1, steps);
    return hn_schedule_kind_of(c->schedule, &f->schedule.kind);
}

static hn_status open_engine(phase *f)
{
    const hn_pearl *r = f->r;
    const hn_phase *p = f->p;
    const bool stream = !hn_image_loader_resident(f->loader);
    HN_TRY(hn_pearl_sizes(r, p->classes, &f->config));
    const hn_classifier_options co = {
        .config = &f->config,
        .batch = r->c->batch_size,
        .train = hn_image_set_view(r->train),
        .stream_train = stream,
        .augment = r->augment,
        .smoothing = (float)r->c->label_smoothing,
        .frozen_norm =
            p->kind != HN_PHASE_DENSE && (p->kind == HN_PHASE_HEAD || r->norm == HN_NORM_FROZEN),
        .first_class = p->first_class,
        .n_classes = p->n_classes,
        .distill = {.weight = p->first_class > 0 ? (float)r->c->lwf_weight : 0,
                    .temperature = (float)r->c->lwf_temperature,
                    .n_classes = p->first_class},
        .dtype = r->model.dtype};
    hn_classifier_job_init(&f->job, &co);
    f->adapt = (hn_adapt){.parameter = trains, .linear = update_of, .context = f};
    const hn_engine_options o = {
        .device = r->device,
        .executor = hn_executor_of(r->c->executor),
        .job = &f->job.job,
        .adapt = &f->adapt,
        .dtype = r->model.dtype,
        .train = true,
        .recompute = HN_RECOMPUTE_AUTO,
        .optimizer = optimizer_of(r->c),
        .anchor = {.weight = p->fisher ? (float)r->c->ewc_weight : 0, .fisher = p->fisher != NULL},
        .seed = hn_pearl_seed(r, p->first, 1 + (int)p->kind)};
    return hn_engine_new(&o, &f->engine);
}

/* ---- starting values ---- */

/* The first rows or columns of a pair, or rows of a head: the rest stays as it is. */
static hn_status lay_over(const hn_value *part, const hn_param *q, bool columns)
{
    const int64_t n = hn_param_values(q), to = n / q->file_dim[0], from = hn_value_cols(part);
    float *dense = hn_malloc((size_t)n * sizeof *dense);
    if (dense == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", q->name);
    const bool fits = part->dim[0] <= q->file_dim[0] && (columns ? from <= to : from == to);
    hn_status st = fits ? hn_param_get(q, dense)
                        : HN_FAIL(HN_ERR_SHAPE, "%s: more values than the model has", q->name);
    for (int64_t i = 0; st == HN_OK && i < part->dim[0]; i++)
        memcpy(dense + i * to, part->v + i * from, (size_t)from * sizeof *dense);
    if (st == HN_OK) st = hn_param_set(q, dense);
    hn_free(dense);
    return st;
}

/* A fresh pair has a random A and a zero B: directions behind those of the spectrum, which a floor
 * asks for, begin so. */
static hn_status fill_one(const phase *f, const hn_param *q, bool adapter, bool head)
{
    const hn_phase *p = f->p;
    const hn_values *over = adapter ? p->factors : head ? p->head : NULL;
    if (!adapter && !head) return hn_values_write(p->body, q);
    const int number = adapter ? 1 + (int)p->kind : 0;
    HN_TRY(hn_param_init(q, hn_pearl_seed(f->r, p->first, number)));
    const hn_value *part = over ? hn_values_find(over, q->name) : NULL;
    return part ? lay_over(part, q, adapter && q->init == HN_INIT_ZERO) : HN_OK;
}

static hn_status fill_params(const phase *f, const hn_params *p)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_pearl_param *part = hn_pearl_find(f->r, q->name);
        HN_TRY(fill_one(f, q, q->adapter, part && part->role == HN_ROLE_HEAD));
    }
    return HN_OK;
}

/* The body is held where it begins. */
static hn_status fill_anchor(const phase *f)
{
    const hn_params *p = hn_engine_params(f->engine);
    for (int64_t i = 0; f->p->fisher != NULL && i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_value *fisher = hn_values_find(f->p->fisher, q->name);
        if (!q->trained || fisher == NULL) continue;
        HN_TRY(
            hn_engine_anchor_set(f->engine, q, hn_values_find(f->p->body, q->name)->v, fisher->v));
    }
    return HN_OK;
}

static hn_status fill(phase *f)
{
    HN_TRY(hn_engine_allocate(f->engine));
    HN_TRY(fill_params(f, hn_engine_params(f->engine)));
    HN_TRY(fill_anchor(f));
    const hn_params *teacher = hn_classifier_teacher(&f->job); /* the same, before training */
    return teacher ? fill_params(f, teacher) : HN_OK;
}

/* ---- checkpoints inside a phase ---- */

static char *path_of(const phase *f, const char *end)
{
    return hn_asprintf("%s/task-%03d-%s%s", f->r->working, f->p->end, hn_phase_name(f->p->kind),
                       end);
}

static hn_status name_it(phase *f)
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

static double seconds(const phase *f)
{
    return f->before_s + (double)(hn_clock_ns() - f->begun_ns) * 1e-9;
}

static hn_status save_seconds(const phase *f)
{
    char text[40];
    char *path = hn_asprintf("%s.seconds", f->dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    snprintf(text, sizeof text, "%.6f\n", seconds(f));
    const hn_status st = hn_save_text(path, text);
    hn_free(path);
    return st;
}

static void read_seconds(phase *f)
{
    char *path = hn_asprintf("%s.seconds", f->dir);
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file && fscanf(file, "%lf", &f->before_s) != 1) f->before_s = 0;
    if (file) fclose(file);
    hn_free(path);
}

static hn_status save(phase *f)
{
    if (f->saved == f->state.step) return HN_OK;
    hn_progress_pause(&f->r->progress);
    json_decref(f->state.gemm_plans);
    HN_TRY(hn_engine_gemm_plans(f->engine, &f->state.gemm_plans));
    HN_TRY(hn_make_dirs(f->dir));
    HN_TRY(hn_state_save(f->dir, hn_engine_params(f->engine), &f->id, &f->state));
    f->saved = f->state.step;
    HN_TRY(hn_ckpt_prune(f->dir, 1, NULL));
    HN_TRY(save_seconds(f));
    hn_progress_resume(&f->r->progress);
    return HN_OK;
}

static hn_status continue_it(phase *f)
{
    char *from = NULL;
    if (!hn_is_folder(f->dir)) return HN_OK;
    HN_TRY(hn_ckpt_newest(f->dir, &f->r->log, &from, NULL));
    if (from == NULL) return HN_OK;
    hn_status st = hn_state_load(from, hn_engine_params(f->engine), &f->id, 1, &f->state);
    if (st == HN_OK) st = hn_engine_use_gemm_plans(f->engine, f->state.gemm_plans, from);
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

static hn_status save_end(const phase *f, hn_phase_end *e)
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
static hn_status load_end(const phase *f, hn_phase_end *e, bool *there)
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

static hn_status read_back(const phase *f, hn_phase_end *e)
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

static hn_status enqueue_step(phase *f)
{
    const int64_t step = f->state.step + f->ahead;
    hn_engine_input in;
    HN_TRY(hn_engine_begin(f->engine, step));
    HN_TRY(hn_engine_batch(f->engine, &in));
    HN_TRY(f->feed->next(f->feed, &in));
    HN_TRY(hn_engine_micro(f->engine, 0));
    HN_TRY(hn_engine_update(f->engine, hn_schedule_lr(&f->schedule, step), NULL));
    f->ahead++;
    return HN_OK;
}

static hn_status explain_nonfinite(phase *f)
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

static void say_step(const phase *f, const hn_step_report *s, double lr)
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

static hn_status end_step(phase *f, const hn_step_report *s)
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
static hn_status take_reports(phase *f, bool wait)
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

static bool must_stop(const phase *f)
{
    const hn_pearl *r = f->r;
    const int64_t limit = r->c->stop_after_steps;
    return hn_signals_caught() || (limit > 0 && r->steps_here + f->ahead >= limit);
}

static hn_status loop(phase *f)
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

static void start_progress(const phase *f, char *step, size_t size)
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

static hn_status train(phase *f)
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

static void close_phase(phase *f)
{
    hn_feed_free(f->feed);
    hn_engine_free(f->engine);
    hn_image_loader_free(f->loader);
    hn_image_view_free(&f->view);
    hn_run_state_clear(&f->state);
    hn_free(f->dir);
    hn_free(f->settings);
}

static hn_status run(phase *f, hn_phase_end *e)
{
    bool there = false;
    HN_TRY(name_it(f));
    HN_TRY(load_end(f, e, &there));
    if (there) return HN_OK;
    HN_TRY(open_images(f));
    HN_TRY(plan_steps(f));
    HN_TRY(open_engine(f));
    HN_TRY(fill(f));
    HN_TRY(continue_it(f));
    HN_TRY(train(f));
    if (f->r->stopped) return HN_OK;
    HN_TRY(read_back(f, e));
    HN_TRY(save_end(f, e));
    return hn_remove_tree(f->dir);
}

hn_status hn_phase_run(hn_pearl *r, const hn_phase *p, hn_phase_end *out)
{
    phase f = {.r = r, .p = p, .saved = -1};
    hn_phase_end e = {0};
    const hn_status st = run(&f, &e);
    close_phase(&f);
    if (st == HN_OK && !r->stopped)
        *out = e;
    else
        hn_phase_end_free(&e);
    return st;
}

hn_status hn_phase_bytes(hn_pearl *r, const hn_phase *p, size_t *bytes)
{
    phase f = {.r = r, .p = p};
    hn_plan_sizes sizes;
    hn_status st = open_images(&f);
    if (st == HN_OK) st = open_engine(&f);
    if (st == HN_OK) {
        hn_plan_sizes_of(hn_engine_program(f.engine), &sizes);
        *bytes = sizes.total_bytes;
    }
    close_phase(&f);
    return st;
}
