/* What a run works on: device, model, images, stream of tasks, and the parts of the model. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/pearl_impl.h"

static const char *or_null(const char *text) { return text && text[0] ? text : NULL; }
static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

void hn_pearl_close(hn_pearl *r)
{
    hn_progress_end(&r->progress);
    hn_pearl_eval_close(r->evaluation);
    for (int t = 0; r->record && t < r->tasks; t++) {
        hn_pearl_record *k = &r->record[t];
        hn_values_free(&k->delta);
        hn_values_free(&k->fisher);
        for (int64_t l = 0; k->rank && l < r->n_layers; l++) hn_free(k->rank[l].s);
        hn_free(k->rank);
        hn_free(k->mean);
        hn_free(k->variance);
        json_decref(k->json);
    }
    hn_free(r->record);
    hn_cl_free(r->accuracy);
    for (int i = 0; i < HN_CHOOSERS; i++) hn_cl_free(r->chosen[i]);
    hn_values_free(&r->initial);
    hn_values_free(&r->reference);
    json_decref(r->index);
    hn_outdir_unlock(r->lock);
    hn_free(r->working);
    hn_free(r->out);
    hn_free(r->settings);
    hn_free(r->data_digest);
    hn_free(r->param);
    hn_free(r->layer);
    hn_arena_free(&r->arena);
    hn_task_stream_free(r->stream);
    hn_image_set_free(r->train);
    hn_image_set_free(r->eval);
    hn_model_close(&r->model);
    hn_device_close(r->device);
    *r = (hn_pearl){0};
}

/* ---- options ---- */

static void read_choices(hn_pearl *r)
{
    static const char *const rules[] = {"r1", "r2", "l1", "both"};
    const hn_pearl_config *c = r->c;
    r->strategy = hn_pearl_strategy_of(c->strategy);
    r->isolated = r->strategy <= HN_PEARL_SINGLE;
    r->norm = is(c->norm, "task")     ? HN_NORM_TASK
              : is(c->norm, "shared") ? HN_NORM_SHARED
                                      : HN_NORM_FROZEN;
    if (r->strategy == HN_PEARL_HEAD) r->norm = HN_NORM_FROZEN; /* a head and nothing else */
    if (r->strategy > HN_PEARL_HEAD) r->norm = HN_NORM_TASK;
    r->rule =
        (hn_rank_rule){.energy = c->energy, .eps = c->eps, .floor = c->floor, .cap = c->max_rank};
    for (int i = 0; i < 4; i++)
        if (is(c->rank_rule, rules[i])) r->rule.kind = (hn_rank_kind)i;
    r->json = is(c->log_format, "json");
}

static hn_status read_choosers(hn_pearl *r)
{
    char name[32];
    const bool reference = r->strategy <= HN_PEARL_HEAD;
    for (int64_t i = 0;; i++) {
        hn_chooser c;
        const int64_t n = hn_text_list_item(r->c->chooser, i, name, sizeof name);
        if (n < 0) break;
        if (n >= (int64_t)sizeof name) return HN_FAIL(HN_ERR_ARG, "--chooser: a name too long");
        HN_TRY(hn_chooser_of(name, &c));
        if (c == HN_CHOOSE_PROTOTYPE && !reference)
            return HN_FAIL(
                HN_ERR_ARG,
                "--chooser prototype: compares features of the reference, and --strategy "
                "%s has none",
                r->c->strategy);
        for (int k = 0; k < r->n_choosers; k++)
            if (r->chooser[k] == c) return HN_FAIL(HN_ERR_ARG, "--chooser: %s twice", name);
        r->chooser[r->n_choosers++] = c;
    }
    return HN_OK;
}

/* All that the strategy has. */
static void every_chooser(hn_pearl *r)
{
    const int n = r->strategy <= HN_PEARL_HEAD ? HN_CHOOSERS : HN_CHOOSE_PROTOTYPE;
    for (int i = 0; i < n; i++) r->chooser[r->n_choosers++] = (hn_chooser)i;
}

/* ---- model and data ---- */

static hn_status read_ref(hn_pearl *r)
{
    static const char *const refs[] = {"first", "pretrained", "previous", "nearest"};
    const hn_pearl_config *c = r->c;
    r->ref = r->model.dir != NULL ? HN_REF_PRETRAINED : HN_REF_FIRST;
    for (int i = 0; i < 4; i++)
        if (is(c->ref, refs[i])) r->ref = (hn_pearl_ref)i;
    if (r->ref == HN_REF_PRETRAINED && r->model.dir == NULL)
        return HN_FAIL(HN_ERR_ARG,
                       "--ref pretrained: model %s begins with random weights; --weights FILE, a "
                       "folder, or --ref first",
                       c->model);
    if (r->ref == HN_REF_NEAREST && r->strategy != HN_PEARL_PEARL)
        return HN_FAIL(HN_ERR_ARG, "--ref nearest: nearest to a probe, which --strategy %s has not",
                       c->strategy);
    return HN_OK;
}

static hn_status open_model(hn_pearl *r)
{
    const hn_pearl_config *c = r->c;
    const hn_model_options o = {
        .path = c->model, .weights = or_null(c->weights), .dtype = c->dtype};
    const hn_vision_override sizes = {.image = c->image_size, .classes = 1};
    HN_TRY(hn_model_open_as(&o, &r->log, &r->model));
    if (r->model.kind != HN_MODEL_CLASSIFIER)
        return HN_FAIL(HN_ERR_ARG, "--model %s: a decoder; tasks are learned by image classifiers",
                       c->model);
    HN_TRY(hn_model_override(&r->model, &sizes, true)); /* heads are the tasks' own */
    HN_TRY(hn_model_digest(&r->model, (uint64_t)c->seed, &r->base_digest));
    r->width = hn_vision_width(&r->model.vision);
    return read_ref(r);
}

static hn_status open_images(hn_pearl *r)
{
    const hn_pearl_config *c = r->c;
    const hn_vision_config *v = &r->model.vision;
    hn_image_options o = {.data = c->data,
                          .eval_data = or_null(c->eval_data),
                          .eval_split = c->eval_split,
                          .coarse = c->coarse,
                          .image_size = v->image,
                          .channels = (int)v->channels};
    HN_TRY(hn_image_kind_parse(c->data_kind, &o.kind));
    HN_TRY(hn_image_sets_open(&o, &r->train, &r->eval));
    if (r->eval == NULL)
        return HN_FAIL(HN_ERR_ARG,
                       "--data %s: nothing is held out to measure with; --eval-data or "
                       "--eval-split says what",
                       c->data);
    hn_image_set_report(r->train, &r->log);
    hn_image_set_report(r->eval, &r->log);
    return HN_OK;
}

static hn_status open_stream(hn_pearl *r)
{
    const hn_pearl_config *c = r->c;
    const hn_task_options o = {.tasks = or_null(c->tasks),
                               .order = or_null(c->order),
                               .shuffle = c->shuffle_classes,
                               .seed = (uint64_t)c->seed,
                               .init_cls = c->init_cls,
                               .increment = c->increment,
                               .by_part = c->by_part,
                               .allow_repeats = c->allow_repeats};
    HN_TRY(hn_task_stream_make(r->train, &o, &r->stream));
    r->tasks = hn_task_stream_tasks(r->stream);
    hn_task_stream_report(r->stream, r->train, r->eval, &r->log);
    int64_t sum = 0;
    for (int t = 0; t < r->tasks; t++) sum += hn_pearl_classes(r, t);
    if (r->strategy == HN_PEARL_LWF && sum != hn_task_stream_seen(r->stream, r->tasks))
        return HN_FAIL(HN_ERR_ARG, "--strategy lwf: its head grows by a task's classes, and the "
                                   "stream repeats some");
    r->data_digest = hn_asprintf("%s held out %s tasks %s", hn_image_set_digest(r->train),
                                 hn_image_set_digest(r->eval), hn_task_stream_text(r->stream));
    return r->data_digest ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the data's digest");
}

/* auto: what is usual for images of that size; grey ones (digits, letters) as they are. */
static hn_status choose_augment(hn_pearl *r)
{
    const hn_vision_config *v = &r->model.vision;
    const hn_pearl_config *c = r->c;
    const bool grey = hn_image_set_view(r->train)->c == 1;
    const char *name = c->augment;
    if (is(name, "auto")) {
        name = grey ? "none" : v->image > 64 ? "resized-crop-flip" : "crop-flip";
        hn_info(&r->log, "augmentation: %s", name);
    }
    if (is(name, "resized-crop-flip"))
        r->augment = (hn_augment){
            .resized = true, .scale = {0.08f, 1}, .ratio = {3.0f / 4, 4.0f / 3}, .flip = 0.5f};
    else if (!is(name, "none"))
        r->augment = (hn_augment){.pad = c->pad, .flip = is(name, "crop-flip") ? 0.5f : 0};
    return HN_OK;
}

/* ---- the parts of the model ---- */

hn_status hn_pearl_sizes(const hn_pearl *r, int64_t classes, hn_vision_config *out)
{
    const hn_vision_override o = {.classes = classes};
    *out = r->model.vision;
    return hn_vision_config_override(out, &o, r->c->model);
}

const hn_pearl_param *hn_pearl_find(const hn_pearl *r, const char *name)
{
    for (int64_t i = 0; i < r->n_params; i++)
        if (is(r->param[i].name, name)) return &r->param[i];
    return NULL;
}

/* What --layers calls a layer; patches are embedded by a convolution that is nobody's. */
static const char *kind_of(const hn_pearl *r, const hn_linear_layer *l)
{
    const bool vit = r->model.vision.family == HN_VISION_VIT;
    if (l->kh > 0) return vit ? "" : "conv";
    return vit && (strstr(l->module, "attn.") || strstr(l->module, "attention.")) ? "attention"
                                                                                  : "mlp";
}

static bool wanted(const hn_pearl *r, const char *kind)
{
    char name[32];
    for (int64_t i = 0; hn_text_list_item(r->c->layers, i, name, sizeof name) >= 0; i++)
        if (is(name, "all") || is(name, kind)) return true;
    return false;
}

static bool is_head(const hn_pearl *r, const char *module)
{
    return is(module, hn_vision_head(&r->model.vision));
}

static hn_status add_layers(hn_pearl *r, const hn_params *p)
{
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        const char *kind = kind_of(r, l);
        if (is_head(r, l->module) || kind[0] == '\0' || !wanted(r, kind)) continue;
        hn_pearl_layer *to = &r->layer[r->n_layers++];
        *to = (hn_pearl_layer){.module = hn_arena_text(&r->arena, "%s", l->module),
                               .weight = hn_arena_text(&r->arena, "%s", l->weight->name),
                               .a = hn_arena_text(&r->arena, "%s.lora_A.weight", l->module),
                               .b = hn_arena_text(&r->arena, "%s.lora_B.weight", l->module),
                               .m = l->out,
                               .n = l->in,
                               .conv = l->kh > 0,
                               .dense_from = l->groups > 1 ? 5 : 0};
        if (!to->module || !to->weight || !to->a || !to->b)
            return HN_FAIL(HN_ERR_MEMORY, "no memory for the layers' names");
    }
    if (r->n_layers == 0)
        return HN_FAIL(HN_ERR_ARG, "--layers %s: %s has no such layer", r->c->layers.joined,
                       r->c->model);
    return HN_OK;
}

/* Vectors that begin with ones or zeros and are nobody's bias are those of norms. */
static hn_pearl_role role_of(const hn_pearl *r, const hn_params *p, const hn_param *q,
                             int64_t *layer)
{
    *layer = -1;
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (q != l->weight && q != l->bias) continue;
        if (is_head(r, l->module)) return HN_ROLE_HEAD;
        for (int64_t k = 0; q == l->weight && k < r->n_layers; k++)
            if (is(r->layer[k].weight, q->name)) *layer = k;
        return *layer >= 0 ? HN_ROLE_LAYER : HN_ROLE_OTHER;
    }
    if (q->buffer) return HN_ROLE_RUNNING;
    const bool norm = q->ndim == 1 && (q->init == HN_INIT_ONE || q->init == HN_INIT_ZERO);
    return norm ? HN_ROLE_NORM : HN_ROLE_OTHER;
}

static hn_status add_parts(hn_pearl *r, const hn_params *p)
{
    const size_t n = (size_t)hn_params_count(p);
    r->param = hn_calloc(n, sizeof *r->param);
    r->layer = hn_calloc((size_t)hn_params_linears(p), sizeof *r->layer);
    if (r->param == NULL || r->layer == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %zu parameters", n);
    HN_TRY(add_layers(r, p));
    for (int64_t i = 0; i < (int64_t)n; i++) {
        const hn_param *q = hn_params_at(p, i);
        hn_pearl_param *to = &r->param[r->n_params++];
        to->name = hn_arena_text(&r->arena, "%s", q->name);
        if (to->name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", q->name);
        to->role = role_of(r, p, q, &to->layer);
        to->n = hn_param_values(q);
    }
    return HN_OK;
}

static hn_status find_parts(hn_pearl *r)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_vision_declare(&r->model.vision, p);
    if (st == HN_OK) st = hn_model_check(&r->model, p, &r->log);
    if (st == HN_OK) st = add_parts(r, p);
    hn_params_free(p);
    return st;
}

/* An engine without a graph, on the CPU and in fp32: its parameters are what files or seed say. */
hn_status hn_pearl_initial(hn_pearl *r)
{
    hn_classifier_job job;
    hn_engine *e = NULL;
    const hn_classifier_options co = {.config = &r->model.vision, .dtype = HN_F32};
    hn_classifier_job_init(&job, &co);
    const hn_engine_options o = {.executor = HN_EXECUTOR_CPU,
                                 .job = &job.job,
                                 .dtype = HN_F32,
                                 .seed = (uint64_t)r->c->seed};
    HN_TRY(hn_engine_new(&o, &e));
    const hn_params *p = hn_engine_params(e);
    hn_status st = hn_engine_allocate(e);
    if (st == HN_OK) st = hn_model_load(&r->model, p, (uint64_t)r->c->seed);
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++)
        if (hn_pearl_find(r, hn_params_at(p, i)->name)->role != HN_ROLE_HEAD)
            st = hn_values_read(&r->initial, hn_params_at(p, i));
    hn_engine_free(e);
    return st;
}

/* ---- all of it ---- */

bool hn_pearl_first_is_reference(const hn_pearl *r)
{
    return r->strategy <= HN_PEARL_HEAD && (r->ref == HN_REF_FIRST || r->model.dir == NULL);
}

int64_t hn_pearl_classes(const hn_pearl *r, int task)
{
    const int32_t *classes;
    return hn_task_stream_classes(r->stream, task, &classes);
}

uint64_t hn_pearl_seed(const hn_pearl *r, int task, int phase)
{
    return (uint64_t)r->c->seed + 0x9e3779b97f4a7c15u * (uint64_t)(8 * (task + 1) + phase);
}

static hn_status make_tables(hn_pearl *r)
{
    r->record = hn_calloc((size_t)r->tasks, sizeof *r->record);
    if (r->record == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %d tasks", r->tasks);
    HN_TRY(hn_cl_new(r->tasks, &r->accuracy));
    for (int i = 0; i < r->n_choosers; i++) HN_TRY(hn_cl_new(r->tasks, &r->chosen[i]));
    return HN_OK;
}

hn_pearl hn_pearl_begin(const hn_verb_call *call)
{
    return (hn_pearl){
        .c = call->config, .call = call, .log = call->log, .to = call->to, .team = call->team};
}

static hn_status open_device(hn_pearl *r)
{
    HN_TRY(hn_device_open(hn_team_device(r->team, r->c->device), &r->device));
    hn_info(&r->log, "device: %s", hn_device_text(r->device));
    return hn_team_devices(r->team, r->device);
}

hn_status hn_pearl_open(hn_pearl *r)
{
    hn_team_at(r->team, HN_HUB_AT_LOAD, -1);
    HN_TRY(hn_pearl_check_options(r->call));
    read_choices(r);
    if (is(r->c->chooser.joined, "auto"))
        every_chooser(r);
    else
        HN_TRY(read_choosers(r));
    if (r->c->threads > 0) omp_set_num_threads((int)r->c->threads);
    HN_TRY(open_model(r));
    HN_TRY(find_parts(r));
    HN_TRY(open_images(r));
    HN_TRY(open_stream(r));
    HN_TRY(choose_augment(r));
    HN_TRY(make_tables(r));
    return open_device(r);
}
