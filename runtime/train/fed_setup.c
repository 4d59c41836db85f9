#include "runtime/train/fed_setup.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/fed_sparse.h"
#include "runtime/train/lora_hook.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }
static const char *or_null(const char *text) { return text && text[0] ? text : NULL; }

void hn_fed_setup_close(hn_fed_setup *s)
{
    hn_peft_config_clear(&s->peft);
    hn_fed_support_free(&s->support);
    hn_image_set_free(s->train);
    hn_image_set_free(s->eval);
    hn_model_close(&s->model);
    hn_device_close(s->device);
    *s = (hn_fed_setup){0};
}

/* ---- model and data ---- */

static hn_status open_model(hn_fed_setup *s)
{
    const hn_fed_config *c = s->c;
    const hn_model_options o = {
        .path = c->model, .weights = or_null(c->weights), .dtype = c->dtype};
    HN_TRY(hn_model_open_as(&o, &s->log, &s->model));
    if (s->model.kind != HN_MODEL_CLASSIFIER)
        return HN_FAIL(HN_ERR_ARG, "--model %s: a decoder; clients train image classifiers",
                       c->model);
    const hn_vision_override sizes = {.image = c->image_size};
    return hn_model_override(&s->model, &sizes, false);
}

static hn_status open_images(hn_fed_setup *s)
{
    const hn_fed_config *c = s->c;
    const hn_vision_config *v = &s->model.vision;
    hn_image_options o = {.data = c->data,
                          .eval_data = or_null(c->eval_data),
                          .eval_split = c->eval_split,
                          .coarse = c->coarse,
                          .image_size = v->image,
                          .channels = (int)v->channels};
    HN_TRY(hn_image_kind_parse(c->data_kind, &o.kind));
    HN_TRY(hn_image_sets_open(&o, &s->train, &s->eval));
    hn_image_set_report(s->train, &s->log);
    if (s->eval) hn_image_set_report(s->eval, &s->log);
    return HN_OK;
}

/* The head has the classes of the data, or more. */
static hn_status fit_head(hn_fed_setup *s)
{
    const int64_t there = hn_image_set_view(s->train)->n_classes, asked = s->c->classes;
    const hn_vision_override o = {.classes = asked > 0 ? asked : there};
    if (o.classes < there)
        return HN_FAIL(HN_ERR_ARG, "--classes %" PRId64 ": the images have %" PRId64, asked, there);
    if (o.classes < 2)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: images of one class: --classes says how many the model is for",
                       s->c->data);
    HN_TRY(hn_model_override(&s->model, &o, false));
    if (s->model.fresh_head) hn_info(&s->log, "head: a new one, of %" PRId64 " classes", o.classes);
    return hn_model_digest(&s->model, (uint64_t)s->c->seed, &s->base_digest);
}

/* ---- what is trained ---- */

static hn_adapt_kind every_parameter(const void *context, const char *name)
{
    (void)context, (void)name;
    return HN_ADAPT_FULL;
}

static hn_adapt_kind head_only(const void *context, const char *name)
{
    const hn_fed_setup *s = context;
    const char *head = hn_vision_head(&s->model.vision);
    const size_t n = strlen(head);
    return strncmp(name, head, n) == 0 && name[n] == '.' ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
}

static hn_status add_targets(hn_text_list from, const char *option, hn_names *to)
{
    char name[256];
    for (int64_t i = 0;; i++) {
        const int64_t n = hn_text_list_item(from, i, name, sizeof name);
        if (n < 0) return HN_OK;
        if (n >= (int64_t)sizeof name)
            return HN_FAIL(HN_ERR_ARG, "%s: a name of %" PRId64 " bytes", option, n);
        HN_TRY(hn_names_add(to, name));
    }
}

static hn_status check_lora(const hn_fed_setup *s)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(&s->adapt, &p));
    hn_status st = hn_vision_declare(&s->model.vision, p);
    if (st == HN_OK && !is(s->c->lora_targets.joined, "all-linear"))
        st = hn_lora_check_names(p, &s->peft.targets.list, "--lora-targets");
    if (st == HN_OK) st = hn_lora_check_layers(p, &s->peft);
    hn_params_free(p);
    return st;
}

static hn_status choose_lora(hn_fed_setup *s)
{
    const hn_fed_config *c = s->c;
    s->peft.r = c->lora_rank;
    s->peft.alpha = c->lora_alpha;
    if (is(c->lora_targets.joined, "all-linear"))
        HN_TRY(hn_lora_every_layer(&s->model, &s->peft.targets.list));
    else
        HN_TRY(add_targets(c->lora_targets, "--lora-targets", &s->peft.targets.list));
    HN_TRY(hn_lora_save_head(&s->model, "--lora-targets", &s->peft));
    s->adapt = hn_lora_hook(&s->peft);
    return check_lora(s);
}

static hn_status blocks_of(const void *context, const char *module, int64_t in, int64_t out,
                           hn_block_shape *choice)
{
    const hn_fed_setup *s = context;
    (void)in, (void)out;
    *choice = hn_fed_sparse_shape(&s->support, module);
    return HN_OK;
}

static hn_status choose_payload(hn_fed_setup *s)
{
    if (is(s->c->payload, "sparse")) {
        s->adapt = (hn_adapt){.parameter = head_only, .sparse = blocks_of, .context = s};
        return HN_OK;
    }
    s->adapt = (hn_adapt){.parameter = is(s->c->payload, "head") ? head_only : every_parameter,
                          .context = s};
    return is(s->c->payload, "lora") ? choose_lora(s) : HN_OK;
}

/* Every parameter of the model is where it is to be read from. */
static hn_status check_files(const hn_fed_setup *s)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_vision_declare(&s->model.vision, p);
    if (st == HN_OK) st = hn_model_check(&s->model, p, &s->log);
    hn_params_free(p);
    return st;
}

/* ---- what clients do ---- */

static hn_augment augment_of(const hn_fed_config *c)
{
    if (is(c->augment, "none")) return (hn_augment){0};
    if (is(c->augment, "resized-crop-flip"))
        return (hn_augment){
            .resized = true, .scale = {0.08f, 1}, .ratio = {3.0f / 4, 4.0f / 3}, .flip = 0.5f};
    return (hn_augment){.pad = c->pad, .flip = is(c->augment, "crop-flip") ? 0.5f : 0};
}

static hn_optimizer optimizer_of(const hn_fed_config *c)
{
    const bool sgd = is(c->optimizer, "sgd");
    return (hn_optimizer){.kind = sgd ? HN_OPTIMIZER_SGD : HN_OPTIMIZER_ADAMW,
                          .beta1 = c->beta1,
                          .beta2 = c->beta2,
                          .eps = c->adam_eps,
                          .momentum = sgd ? c->momentum : 0,
                          .nesterov = sgd && c->nesterov,
                          .weight_decay = c->weight_decay,
                          .max_grad_norm = c->max_grad_norm};
}

hn_fed_local hn_fed_setup_local(const hn_fed_config *c)
{
    return (hn_fed_local){.batch = c->batch_size,
                          .optimizer = optimizer_of(c),
                          .mu = (float)c->mu,
                          .join = is(c->epoch_end, "join")};
}

static void fill_simulation(hn_fed_setup *s)
{
    const hn_fed_config *c = s->c;
    hn_fed_local local = hn_fed_setup_local(c);
    local.augment = augment_of(c);
    local.smoothing = (float)c->label_smoothing;
    local.frozen_norm = c->frozen_norm || is(c->payload, "head");
    if (is(c->payload, "sparse")) local.support = &s->support;
    s->sim = (hn_fed_sim_options){.device = s->device,
                                  .executor = hn_executor_of(c->executor),
                                  .model = &s->model,
                                  .adapt = &s->adapt,
                                  .images = hn_image_set_view(s->train),
                                  .resident = c->resident,
                                  .local = local,
                                  .seed = (uint64_t)c->seed,
                                  .at_once = 1};
}

static hn_status check_epoch_end(const hn_fed_setup *s)
{
    const hn_fed_local *l = &s->sim.local;
    if (l->join || l->frozen_norm || !hn_vision_has_batch_norm(&s->model.vision)) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "--epoch-end part: %s has batch norm, which would count what fills up the last "
                   "batch as images; use --epoch-end join or --frozen-norm",
                   s->c->model);
}

hn_status hn_fed_setup_open(const hn_fed_config *c, const hn_log *log, hn_fed_setup *s)
{
    *s = (hn_fed_setup){.c = c};
    if (log != NULL) s->log = *log;
    if (c->threads > 0) omp_set_num_threads((int)c->threads);
    HN_TRY(open_model(s));
    HN_TRY(open_images(s));
    HN_TRY(fit_head(s));
    HN_TRY(check_files(s));
    HN_TRY(choose_payload(s));
    HN_TRY(hn_device_open(c->device, &s->device));
    hn_info(&s->log, "device: %s", hn_device_text(s->device));
    fill_simulation(s);
    return check_epoch_end(s);
}

/* ---- blocks ---- */

static hn_status find_targets(hn_fed_setup *s)
{
    const hn_text_list wanted = s->c->sparse_targets;
    hn_params *p = NULL;
    if (is(wanted.joined, "all-linear"))
        HN_TRY(hn_lora_every_layer(&s->model, &s->peft.targets.list));
    else
        HN_TRY(add_targets(wanted, "--sparse-targets", &s->peft.targets.list));
    HN_TRY(hn_lora_save_head(&s->model, "--sparse-targets", &s->peft));
    if (is(wanted.joined, "all-linear")) return HN_OK;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_vision_declare(&s->model.vision, p);
    if (st == HN_OK) st = hn_lora_check_names(p, &s->peft.targets.list, "--sparse-targets");
    hn_params_free(p);
    return st;
}

hn_status hn_fed_setup_choose(hn_fed_setup *s)
{
    const hn_fed_config *c = s->c;
    const hn_fed_sparse_options o = {.block = c->sparse_block,
                                     .budget = c->sparse_budget,
                                     .score = c->sparse_score,
                                     .lift_rank = c->sparse_lift_rank,
                                     .mask = or_null(c->sparse_mask),
                                     .seed = (uint64_t)c->seed};
    if (!is(c->payload, "sparse")) return HN_OK;
    HN_TRY(find_targets(s));
    HN_TRY(hn_fed_sparse_choose(&o, &s->model, &s->peft, &s->support));
    hn_info(&s->log,
            "blocks: %" PRId64 " in %" PRId64 " matrices, %" PRId64 " values, chosen by %s",
            s->support.blocks, s->support.count, s->support.values,
            o.mask ? "--sparse-mask" : c->sparse_score);
    return HN_OK;
}

/* Against the model as it is declared: before an engine makes room for what a message says. */
static hn_status check_support(const hn_fed_setup *s)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_vision_declare(&s->model.vision, p);
    if (st == HN_OK) st = hn_fed_sparse_check(&s->support, p);
    hn_params_free(p);
    return st;
}

hn_status hn_fed_setup_take(hn_fed_setup *s, const void *bytes, size_t n)
{
    if (!is(s->c->payload, "sparse"))
        return HN_FAIL(HN_ERR_ARG, "ids of blocks, for a payload %s", s->c->payload);
    if (s->support.count > 0) return HN_FAIL(HN_ERR_ARG, "a second message with ids of blocks");
    HN_TRY(hn_fed_support_decode(bytes, n, &s->support));
    const hn_status st = check_support(s);
    if (st != HN_OK) hn_fed_support_free(&s->support);
    return st;
}

/* ---- clients ---- */

/* No more than there are. */
static int64_t eval_batch(const hn_fed_setup *s)
{
    enum { MOST = 1024, SIDE = 112 }; /* by default: and their pixels */
    const int64_t side = s->model.vision.image, n = hn_image_set_view(s->eval)->count;
    const int64_t fit = MOST * SIDE * SIDE / (side * side);
    const int64_t few = fit < 1 ? 1 : fit < MOST ? fit : MOST;
    const int64_t batch = s->c->eval_batch > 0 ? s->c->eval_batch : few;
    return batch < n ? batch : n;
}

hn_status hn_fed_setup_evaluator(const hn_fed_setup *s, hn_fed_client **out)
{
    hn_fed_sim_options o = s->sim;
    o.images = NULL;
    o.local.batch = eval_batch(s);
    return hn_fed_client_new(&o, hn_image_set_view(s->eval), out);
}

/* A fresh head travels, so where there are files the seed is nothing to what stays. */
static hn_status bind_base(const hn_fed_setup *s, hn_fed_layout *l)
{
    const hn_vision_config *v = &s->model.vision;
    const bool lora = is(s->c->payload, "lora"), sparse = is(s->c->payload, "sparse");
    char base[HN_SHA256_HEX], ids[HN_SHA256_HEX], text[384], more[96] = "";
    if (s->model.dir)
        HN_TRY(hn_model_dir_digest(s->model.dir, base));
    else
        snprintf(base, sizeof base, "%s", s->base_digest);
    if (sparse) HN_TRY(hn_fed_support_digest(&s->support, ids));
    if (sparse) snprintf(more, sizeof more, ", blocks %s", ids);
    if (lora) snprintf(more, sizeof more, ", lora scale %.9g", s->peft.alpha / (double)s->peft.r);
    snprintf(text, sizeof text, "base %s, images of side %" PRId64 " and %" PRId64 " channels%s",
             base, v->image, v->channels, more);
    return hn_fed_layout_bind(l, text);
}

static bool everything_travels(const hn_fed_setup *s)
{
    const bool stays = s->sim.local.frozen_norm && hn_vision_has_batch_norm(&s->model.vision);
    return is(s->c->payload, "full") && !stays;
}

hn_status hn_fed_setup_layout(const hn_fed_setup *s, const hn_fed_client *c, hn_fed_layout *out)
{
    HN_TRY(hn_fed_values_layout(&s->sim.local, hn_engine_params(hn_fed_client_engine(c)), out));
    HN_TRY(hn_fed_sparse_layout(&s->support, out));
    return everything_travels(s) ? HN_OK : bind_base(s, out);
}

double hn_fed_setup_lr(const hn_fed_config *c, int64_t round)
{
    return c->lr * pow(c->lr_decay, (double)(round - 1));
}

hn_fed_encoding hn_fed_setup_encoding(const hn_fed_config *c)
{
    if (is(c->encoding, "topk")) return HN_FED_TOPK;
    return is(c->encoding, "bf16") ? HN_FED_BF16 : HN_FED_F32;
}

int64_t hn_fed_setup_topk(const hn_fed_config *c, const hn_fed_layout *l)
{
    const int64_t k = (int64_t)ceil(c->topk * (double)l->values);
    return k < 1 ? 1 : k > l->values ? l->values : k;
}
