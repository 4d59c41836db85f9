/* The engine of a phase and the values it begins with. Ranks differ from task to task, so every
 * phase plans anew. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/pearl_phase.h"

/* ---- what is trained ---- */

static hn_adapt_kind trains(const void *context, const char *name)
{
    const hn_phase_state *f = context;
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
    const hn_phase_state *f = context;
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

static hn_status open_images(hn_phase_state *f)
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

static hn_status plan_steps(hn_phase_state *f)
{
    const hn_pearl_config *c = f->r->c;
    const double images = (double)f->view.n * f->p->epochs;
    const double batch = (double)(c->batch_size * f->r->per_step);
    const int64_t steps = (int64_t)ceil(images / batch);
    f->schedule = (hn_schedule){
        .lr = f->p->lr, .min_lr = c->min_lr, .warmup = c->warmup_steps, .steps = steps};
    if (c->warmup_steps < 0) f->schedule.warmup = steps * 3 / 100;
    if (f->schedule.warmup > steps)
        return HN_FAIL(HN_ERR_ARG,
                       "--warmup-steps %" PRId64 ": the %s of task %d has %" PRId64 " steps",
                       c->warmup_steps, hn_phase_name(f->p->kind), f->p->end, steps);
    return hn_schedule_kind_of(c->schedule, &f->schedule.kind);
}

static hn_status open_engine(hn_phase_state *f)
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
static hn_status fill_one(const hn_phase_state *f, const hn_param *q, bool adapter, bool head)
{
    const hn_phase *p = f->p;
    const hn_values *over = adapter ? p->factors : head ? p->head : NULL;
    if (!adapter && !head) return hn_values_write(p->body, q);
    const int number = adapter ? 1 + (int)p->kind : 0;
    HN_TRY(hn_param_init(q, hn_pearl_seed(f->r, p->first, number)));
    const hn_value *part = over ? hn_values_find(over, q->name) : NULL;
    return part ? lay_over(part, q, adapter && q->init == HN_INIT_ZERO) : HN_OK;
}

static hn_status fill_params(const hn_phase_state *f, const hn_params *p)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_pearl_param *part = hn_pearl_find(f->r, q->name);
        HN_TRY(fill_one(f, q, q->adapter, part && part->role == HN_ROLE_HEAD));
    }
    return HN_OK;
}

/* The body is held where it begins. */
static hn_status fill_anchor(const hn_phase_state *f)
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

hn_status hn_phase_fill(hn_phase_state *f)
{
    HN_TRY(hn_engine_allocate(f->engine));
    HN_TRY(fill_params(f, hn_engine_params(f->engine)));
    HN_TRY(fill_anchor(f));
    const hn_params *teacher = hn_classifier_teacher(&f->job); /* the same, before training */
    return teacher ? fill_params(f, teacher) : HN_OK;
}

/* ---- all of it ---- */

void hn_phase_close(hn_phase_state *f)
{
    hn_feed_free(f->feed);
    hn_engine_free(f->engine);
    hn_image_loader_free(f->loader);
    hn_image_view_free(&f->view);
    hn_run_state_clear(&f->state);
    hn_free(f->dir);
    hn_free(f->settings);
}

hn_status hn_phase_open(hn_phase_state *f)
{
    HN_TRY(open_images(f));
    HN_TRY(plan_steps(f));
    return open_engine(f);
}

hn_status hn_phase_bytes(hn_pearl *r, const hn_phase *p, size_t *bytes)
{
    hn_phase_state f = {.r = r, .p = p};
    hn_plan_sizes sizes;
    hn_status st = open_images(&f);
    if (st == HN_OK) st = open_engine(&f);
    if (st == HN_OK) {
        hn_plan_sizes_of(hn_engine_program(f.engine), &sizes);
        *bytes = sizes.total_bytes;
    }
    hn_phase_close(&f);
    return st;
}
