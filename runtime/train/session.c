#define _POSIX_C_SOURCE 200809L
#include "runtime/train/session.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/option_kinds.h"
#include "runtime/train/session_impl.h"
#include "runtime/train/team.h"
#include "runtime/train/tune.h"

bool hn_session_has_images(const hn_session *s) { return s->model.kind == HN_MODEL_CLASSIFIER; }

static const hn_method_hooks no_hooks = {NULL};

static const hn_method_hooks *hooks_of(const hn_session *s)
{
    return s->method && s->method->hooks ? s->method->hooks : &no_hooks;
}

void hn_session_close(hn_session *s)
{
    if (s->extra != NULL) hooks_of(s)->close(s);
    hn_engine_free(s->engine);
    hn_team_close(&s->team);
    hn_feed_free(s->train);
    hn_feed_free(s->eval);
    hn_text_close(&s->text);
    hn_images_close(&s->images);
    hn_peft_config_clear(&s->fresh);
    hn_peft_clear(&s->adapter);
    hn_model_close(&s->model);
    hn_device_close(s->device);
    *s = (hn_session){0};
}

/* Bytes that may be taken; 0: no limit. */
static size_t memory_of(const hn_run_config *c) { return (size_t)(c->memory * 0x1p30); }

static hn_status open_absent(hn_session *s, hn_status st)
{
    char why[256];
    if (st != HN_ERR_UNSUPPORTED || strncmp(s->run->device, "cuda", 4) != 0) return st;
    snprintf(why, sizeof why, "%s", hn_last_text());
    return hn_device_open_absent(memory_of(s->run), why, &s->device);
}

hn_status hn_session_device(hn_session *s, bool plan_only)
{
    if (s->run->threads > 0) omp_set_num_threads((int)s->run->threads);
    const char *spec = hn_team_device(&s->team, s->run->device);
    const hn_status st = hn_device_open(spec, &s->device);
    if (st != HN_OK) HN_TRY(plan_only ? open_absent(s, st) : st);
    hn_info(&s->log, "device: %s", hn_device_text(s->device));
    return HN_OK;
}

hn_status hn_session_machine(hn_session *s, bool plan_only)
{
    HN_TRY(hn_session_device(s, plan_only));
    const bool absent =
        hn_device_kind_of(s->device) == HN_DEVICE_CUDA && hn_device_gemm(s->device) == NULL;
    if (absent) return HN_OK; /* a plan for a GPU that is not here */
    return hn_tune_use(s->device, s->run->plans, &s->log);
}

hn_optimizer hn_session_optimizer(const hn_run_config *c)
{
    return (hn_optimizer){
        .kind = c->optimizer && strcmp(c->optimizer, "sgd") == 0 ? HN_OPTIMIZER_SGD
                                                                 : HN_OPTIMIZER_ADAMW,
        .beta1 = c->beta1,
        .beta2 = c->beta2,
        .eps = c->eps,
        .momentum = c->momentum,
        .nesterov = c->nesterov,
        .weight_decay = c->weight_decay,
        .max_grad_norm = c->max_grad_norm,
    };
}

static hn_adapt_kind train_all(const void *context, const char *name)
{
    (void)context, (void)name;
    return HN_ADAPT_FULL;
}

static hn_status holds_file(const char *dir, const char *name, bool *out)
{
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", dir);
    *out = hn_is_file(path);
    hn_free(path);
    return HN_OK;
}

static hn_status open_adapter(hn_session *s, bool training)
{
    const char *dir = s->run->adapter;
    if (training && !s->method->adapter)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "--adapter %s: %s trains the model itself; merge the adapter into it first",
                       dir, s->method->program);
    bool checkpoint = false, adapter = false, result = false, taken = false;
    for (const char *const *o = s->method->adapter_options; training && *o != NULL; o++)
        if (hn_options_given(s->given, *o))
            return HN_FAIL(HN_ERR_ARG, "--%s: decided by the adapter that --adapter loads", *o);
    if (hooks_of(s)->adapter != NULL) HN_TRY(hooks_of(s)->adapter(s, training, &taken));
    if (taken) return HN_OK;
    HN_TRY(holds_file(dir, "COMPLETE", &checkpoint));
    HN_TRY(holds_file(dir, "adapter_config.json", &adapter));
    HN_TRY(holds_file(dir, "adapter/adapter_config.json", &result));
    if (checkpoint)
        return HN_FAIL(
            HN_ERR_ARG,
            "--adapter %s is a checkpoint; write an adapter with: %s export --checkpoint "
            "%s --model %s --to DIR",
            dir, s->method->program, dir, s->run->model);
    if (!adapter)
        return HN_FAIL(HN_ERR_IO, "--adapter %s: no adapter_config.json there%s", dir,
                       result ? "; it is a run's folder, its result is in adapter/" : "");
    HN_TRY(hn_peft_load(dir, &s->adapter));
    s->peft = &s->adapter.config;
    return HN_OK;
}

/* A name that matches no module would train less than was asked for, without a word. */
static hn_status check_names(const hn_session *s)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_model_declare(&s->model, p);
    if (st == HN_OK) st = hn_lora_check_names(p, &s->fresh.targets.list, "--targets");
    if (st == HN_OK) st = hn_lora_check_names(p, &s->fresh.exclude.list, "--exclude");
    if (st == HN_OK) st = hn_lora_check_layers(p, &s->fresh);
    hn_params_free(p);
    return st;
}

static hn_status choose_adapter(hn_session *s)
{
    const bool text = !hn_session_has_images(s); /* PEFT has no name for the task of images */
    HN_TRY(s->method->choose(s->config, &s->model, &s->fresh));
    s->fresh.base_model = hn_strdup(s->run->model);
    s->fresh.task_type = text ? hn_strdup("CAUSAL_LM") : NULL;
    if (s->fresh.base_model == NULL || (text && s->fresh.task_type == NULL))
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the adapter's configuration");
    HN_TRY(check_names(s));
    s->peft = &s->fresh;
    return HN_OK;
}

/* A head that the adapter brings along says how many classes there are. */
static hn_status take_saved_head(hn_session *s)
{
    char name[HN_MODEL_HEAD];
    const hn_names *saved = &s->adapter.config.saved;
    const char *head =
        hn_session_has_images(s) ? hn_model_head(&s->model, name, sizeof name) : NULL;
    if (saved->n == 0) return HN_OK;
    const size_t n = head ? strlen(head) - strlen(".weight") : 0;
    if (saved->n > 1 || n == 0 || strlen(saved->items[0]) != n ||
        strncmp(saved->items[0], head, n) != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "--adapter %s: modules_to_save names '%.80s'; only the head of an image "
                       "classifier can be there",
                       s->run->adapter, saved->items[0]);
    const hn_peft_tensor *t = hn_peft_saved(&s->adapter, head);
    const hn_vision_override o = {.classes = t ? t->dim[0] : 0};
    return t ? hn_model_override(&s->model, &o, true)
             : HN_FAIL(HN_ERR_FORMAT, "--adapter %s: no tensor %s, though modules_to_save names it",
                       s->run->adapter, head);
}

static void tell_model(const hn_session *s)
{
    const char *dtype = hn_dtype_name(s->model.dtype);
    const hn_decoder *c = &s->model.decoder;
    const hn_vision_config *v = &s->model.vision;
    if (hn_session_has_images(s))
        hn_info(&s->log,
                "model: %s, %s%s, images of %" PRId64 " x %" PRId64 " pixels, %" PRId64
                " channel(s), %" PRId64 " classes, computing in %s",
                s->run->model, v->architecture, s->model.dir ? "" : " with random weights",
                v->image, v->image, v->channels, v->classes, dtype);
    else
        hn_info(&s->log,
                "model: %s, %s, %" PRId64 " layers, hidden %" PRId64 ", %" PRId64 "/%" PRId64
                " heads of %" PRId64 ", vocabulary %" PRId64 ", computing in %s",
                s->run->model, c->class_name, c->layers, c->hidden, c->heads, c->kv_heads,
                c->head_dim, c->vocab, dtype);
}

/* Sizes of the images, where they are not to be the model's. */
static hn_status set_sizes(hn_session *s)
{
    const hn_vision_override sizes = {.image = s->run->image_size, .channels = s->run->channels};
    if (!hn_session_has_images(s) || (sizes.image == 0 && sizes.channels == 0)) return HN_OK;
    return hn_model_override(&s->model, &sizes, false);
}

hn_status hn_session_model(hn_session *s, bool training)
{
    const hn_model_options o = {
        .path = s->run->model, .weights = hn_text_or_null(s->run->weights), .dtype = s->run->dtype};
    HN_TRY(hn_model_open_as(&o, &s->log, &s->model));
    HN_TRY(hn_check_option_kinds(s));
    HN_TRY(set_sizes(s));
    if (s->run->adapter[0] != '\0') {
        HN_TRY(open_adapter(s, training));
        HN_TRY(take_saved_head(s));
    } else if (training && s->method->adapter) {
        HN_TRY(choose_adapter(s));
    }
    if (s->peft != NULL)
        s->adapt = hn_lora_hook(s->peft);
    else if (training)
        s->adapt = (hn_adapt){.parameter = train_all};
    if (hooks_of(s)->open != NULL) HN_TRY(hooks_of(s)->open(s, training));
    tell_model(s);
    return HN_OK;
}

/* ---- data ---- */

void hn_session_progress(hn_session *s, const char *step, const char *unit, int64_t total)
{
    hn_progress_config config = hn_progress_detect(hn_team_leads(&s->team) ? stderr : NULL);
    config.step = step;
    config.unit = unit;
    config.every = 0; /* without a terminal only by time: most of this is over in a moment */
    hn_progress_start(&s->progress, &config, 0, total);
}

/* Without a terminal the end goes unsaid: a report of what was done follows. */
void hn_session_show(hn_session *s, int64_t done, int64_t units)
{
    if (s->progress.config.is_tty || done < s->progress.total)
        hn_progress_update(&s->progress, done, units, NULL);
    if (done >= s->progress.total) hn_progress_end(&s->progress);
}

/* What was asked of held-out data that are not there. */
static hn_status check_held_out(const hn_session *s)
{
    const hn_run_config *c = s->run;
    if (s->text.eval_data || s->images.eval || (c->patience == 0 && c->eval_every == 0))
        return HN_OK;
    return HN_FAIL(
        HN_ERR_ARG, "--%s %" PRId64 ": nothing is held out; --eval-data or --eval-split says what",
        c->patience ? "patience" : "eval-every", c->patience ? c->patience : c->eval_every);
}

hn_status hn_session_data(hn_session *s, bool held_out_only)
{
    const bool images = hn_session_has_images(s);
    HN_TRY(images ? hn_images_open(s, held_out_only) : hn_text_open(s, held_out_only));
    return held_out_only ? HN_OK : check_held_out(s);
}

const char *hn_session_unit(const hn_session *s)
{
    return hn_session_has_images(s) ? "images" : "tokens";
}

const char *hn_session_data_digest(const hn_session *s)
{
    return hn_session_has_images(s) ? hn_image_set_digest(s->images.train)
                                    : hn_dataset_digest(s->text.train_data);
}

const char *hn_session_held_out_digest(const hn_session *s)
{
    if (s->images.eval != NULL) return hn_image_set_digest(s->images.eval);
    return s->text.eval_data != NULL ? hn_dataset_digest(s->text.eval_data) : "none";
}

const char *hn_session_tokenizer_digest(const hn_session *s)
{
    return hn_session_has_images(s) ? "none" : hn_tokenizer_digest(s->text.tokenizer);
}

/* ---- engine ---- */

static hn_status make_job(hn_session *s, bool probe, bool dry)
{
    return hn_session_has_images(s) ? hn_images_job(s, probe, dry) : hn_text_job(s, probe, dry);
}

/* Rank 0's word to the others: whether a probe comes. */
static hn_status say_help(const hn_session *s, bool *probe)
{
    char word = *probe;
    *probe = false;
    if (s->team.hub == NULL || !s->run->shard_base) return HN_OK;
    HN_TRY(hn_hub_share(s->team.hub, &word, 1, 0));
    *probe = word != 0;
    return HN_OK;
}

hn_status hn_session_help(hn_session *s)
{
    for (bool probe = false;;) {
        HN_TRY(say_help(s, &probe));
        if (!probe) return HN_OK;
        HN_TRY(hn_engine_idle_probe(s->engine));
    }
}

hn_status hn_session_need_no_help(hn_session *s)
{
    bool probe = false;
    return say_help(s, &probe);
}

hn_status hn_session_probe(hn_session *s, float **out, int64_t *n)
{
    bool probe = true;
    HN_TRY(say_help(s, &probe));
    return hn_session_has_images(s) ? hn_images_probe(s, out, n) : hn_text_probe(s, out, n);
}

static void print_lines(const hn_log *log, char *text)
{
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        hn_info(log, "%s", line);
}

static int ranks_of(const hn_session *s)
{
    return s->planned_ranks > 0 ? s->planned_ranks : (int)hn_team_size(&s->team);
}

static hn_status check_shares(const hn_session *s)
{
    if (ranks_of(s) > 1 || (!s->run->shard_base && s->run->zero == 0)) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "--%s: there is one rank, nobody to share with",
                   s->run->shard_base ? "shard-base" : "zero 1");
}

static hn_engine_options engine_options(const hn_session *s, bool train)
{
    const hn_run_config *c = s->run;
    return (hn_engine_options){
        .device = s->device,
        .executor = hn_executor_of(c->executor),
        .job = s->job,
        .adapt = &s->adapt,
        .dtype = s->model.dtype,
        .train = train,
        .eval = s->eval != NULL,
        .recompute = hn_recompute_of(c->recompute),
        .memory = memory_of(c),
        .base_shares = c->shard_base ? ranks_of(s) : 0,
        .zero_ranks = train && c->zero > 0 ? ranks_of(s) : 0,
        .optimizer = hn_session_optimizer(c),
        .seed = (uint64_t)c->seed,
    };
}

hn_status hn_session_plan(hn_session *s, bool train, bool probe)
{
    HN_TRY(make_job(s, probe, false));
    HN_TRY(check_shares(s));
    hn_engine_options o = engine_options(s, train);
    if (train && hooks_of(s)->plan != NULL) HN_TRY(hooks_of(s)->plan(s, &o));
    HN_TRY(hn_engine_new(&o, &s->engine));
    const hn_params *p = hn_engine_params(s->engine);
    HN_TRY(hn_model_check(&s->model, p, &s->log));
    const double trained = (double)hn_params_trained(p), total = (double)hn_params_total(p);
    if (train)
        hn_info(&s->log, "trained: %.0f values, %.3f %% of the model's %.0f", trained,
                100 * trained / total, total);
    char *text = hn_engine_plan_text(s->engine);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the plan's text");
    print_lines(&s->log, text);
    hn_free(text);
    return HN_OK;
}

hn_status hn_session_engine(hn_session *s, hn_executor executor)
{
    HN_TRY(make_job(s, true, true));
    HN_TRY(check_shares(s));
    hn_engine_options o = engine_options(s, true);
    o.executor = executor;
    if (hooks_of(s)->plan != NULL) HN_TRY(hooks_of(s)->plan(s, &o));
    return hn_engine_new(&o, &s->engine);
}

hn_status hn_session_load(hn_session *s)
{
    HN_TRY(hn_session_load_base(s));
    return hn_session_adapt(s, hn_engine_params(s->engine));
}

/* What else there is to make a plan fit; eval has no --recompute. */
static const char *smaller(const hn_session *s)
{
    const bool all = hn_engine_recomputed(s->engine) == hn_model_layers(&s->model);
    const bool shares = s->method->adapter && !s->method->pack && !hn_session_has_images(s);
    if (s->run->recompute != NULL) return all ? "" : ", or --recompute on,";
    return shares && !s->run->shard_base ? ", or --shard-base on several GPUs," : "";
}

hn_status hn_session_load_base(hn_session *s)
{
    const hn_params *p = hn_engine_params(s->engine);
    const hn_status st = hn_engine_allocate(s->engine);
    if (st == HN_ERR_MEMORY)
        return HN_FAIL(st, "%s; a smaller --batch-size%s%s needs less", hn_last_text(),
                       hn_session_has_images(s) ? "" : " or --seq-len", smaller(s));
    HN_TRY(st);
    hn_tune_tell(s->device, &s->log);
    return hn_model_load(&s->model, p, (uint64_t)s->run->seed);
}

hn_status hn_session_adapt(hn_session *s, const hn_params *p)
{
    if (s->adapter.n > 0) HN_TRY(hn_lora_set(p, &s->adapter, s->run->adapter));
    return hooks_of(s)->load ? hooks_of(s)->load(s, p) : HN_OK;
}

hn_team_request hn_session_team(const hn_session *s)
{
    return (hn_team_request){.options = &s->run->team,
                             .given = s->given,
                             .device = s->run->device,
                             .threads = s->run->threads};
}

int64_t hn_session_per_step(const hn_session *s)
{
    return s->per_step > 0 ? s->per_step : s->run->accumulation;
}

hn_status hn_session_steps(const hn_session *s, int64_t *out)
{
    const hn_run_config *c = s->run;
    const double batch = (double)(c->batch_size * hn_session_per_step(s));
    *out = c->steps;
    if (c->steps > 0 || s->train == NULL) return HN_OK;
    *out = (int64_t)ceil((double)s->train->rows * c->epochs / batch);
    return *out >= 1 ? HN_OK : HN_FAIL(HN_ERR_ARG, "--epochs %g gives no step", c->epochs);
}

/* A batch of its own: sums of one are exact enough in fp32, of all not. */
static hn_status evaluate_batch(hn_session *s, int64_t i, double sum[3], int64_t *units)
{
    hn_eval_sums batch;
    hn_engine_input in;
    HN_TRY(hn_engine_batch(s->engine, &in));
    HN_TRY(s->eval->fill(s->eval, i, &in, units));
    HN_TRY(hn_engine_eval_begin(s->engine));
    HN_TRY(hn_engine_eval_batch(s->engine));
    HN_TRY(hn_engine_eval_sums(s->engine, &batch));
    sum[0] += batch.loss;
    sum[1] += (double)batch.rows;
    sum[2] += (double)batch.hits;
    return HN_OK;
}

hn_status hn_session_evaluate(hn_session *s, hn_eval_sums *out)
{
    const int64_t n = hn_feed_batches(s->eval), ranks = hn_team_size(&s->team);
    hn_team_looks looks = {0};
    bool asked = false;
    int64_t read = 0;
    double sum[3] = {0};
    if (s->team.hub != NULL && s->train != NULL)
        HN_TRY(hn_engine_average_buffers(
            s->engine, s->team.hub, hn_share_own(hn_team_share(&s->team, hn_session_per_step(s)))));
    hn_session_progress(s, "evaluation batch", hn_session_unit(s), n);
    for (int64_t first = 0; first < n; first += ranks) {
        const int64_t i = first + s->team.ranks.rank;
        int64_t units = 0;
        const char *dead = hn_hub_dead(s->team.hub); /* no need to go on to the sums to hear that */
        if (dead != NULL) return HN_FAIL(HN_ERR_COMM, "%s", dead);
        hn_team_at(&s->team, HN_HUB_AT_EVALUATE, s->train ? s->step : -1);
        HN_TRY(hn_team_asked(&s->team, &looks, &asked));
        if (asked) {
            hn_progress_end(&s->progress);
            return HN_FAIL(HN_ERR_STOPPED,
                           "asked to stop in front of evaluation batch %" PRId64 " of %" PRId64,
                           first + 1, n);
        }
        if (i >= n) { /* others have one more */
            HN_TRY(hn_engine_idle_eval_batch(s->engine));
            break;
        }
        HN_TRY(evaluate_batch(s, i, sum, &units));
        read += units * ranks;
        hn_session_show(s, i + ranks < n ? i + 1 : n, read);
    }
    if (s->team.hub != NULL) HN_TRY(hn_hub_sum_f64(s->team.hub, sum, 3));
    *out = (hn_eval_sums){.loss = sum[0], .rows = (int64_t)sum[1], .hits = (int64_t)sum[2]};
    return HN_OK;
}
