#define _POSIX_C_SOURCE 200809L
#include "runtime/train/session.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/export.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/tune.h"

enum { DEFAULT_SEQ_LEN = 1024 };

void hn_session_close(hn_session *s)
{
    hn_engine_free(s->engine);
    hn_feed_free(s->train);
    hn_feed_free(s->eval);
    hn_loader_free(s->train_loader);
    hn_loader_free(s->eval_loader);
    hn_dataset_free(s->train_data);
    hn_dataset_free(s->eval_data);
    hn_peft_config_clear(&s->fresh);
    hn_peft_clear(&s->adapter);
    hn_tokenizer_free(s->tokenizer);
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
    const hn_status st = hn_device_open(s->run->device, &s->device);
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
    bool checkpoint = false, adapter = false, result = false;
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
    for (const char *const *o = s->method->adapter_options; training && *o != NULL; o++)
        if (hn_options_given(s->given, *o))
            return HN_FAIL(HN_ERR_ARG, "--%s: decided by the adapter that --adapter loads", *o);
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
    hn_params_free(p);
    return st;
}

hn_status hn_session_model(hn_session *s, bool training)
{
    HN_TRY(hn_model_open(s->run->model, s->run->dtype, &s->log, &s->model));
    if (s->run->adapter[0] != '\0')
        HN_TRY(open_adapter(s, training));
    else if (training && s->method->adapter) {
        HN_TRY(s->method->choose(s->config, &s->fresh));
        s->fresh.base_model = hn_strdup(s->run->model);
        s->fresh.task_type = hn_strdup("CAUSAL_LM");
        if (s->fresh.base_model == NULL || s->fresh.task_type == NULL)
            return HN_FAIL(HN_ERR_MEMORY, "no memory for the adapter's configuration");
        HN_TRY(check_names(s));
        s->peft = &s->fresh;
    }
    if (s->peft != NULL)
        s->adapt = hn_lora_hook(s->peft);
    else if (training)
        s->adapt = (hn_adapt){.parameter = train_all};
    const hn_decoder *c = &s->model.decoder;
    hn_info(&s->log,
            "model: %s, %s, %" PRId64 " layers, hidden %" PRId64 ", %" PRId64 "/%" PRId64
            " heads of %" PRId64 ", vocabulary %" PRId64 ", computing in %s",
            s->run->model, c->class_name, c->layers, c->hidden, c->heads, c->kv_heads, c->head_dim,
            c->vocab, hn_dtype_name(s->model.dtype));
    return HN_OK;
}

hn_status hn_session_tokenizer(hn_session *s)
{
    const char *path = s->run->tokenizer;
    char *folder = NULL;
    if (path[0] == '\0' && s->model.dir == NULL) { /* beside the config.json */
        const char *slash = strrchr(s->run->model, '/');
        folder =
            slash ? hn_strndup(s->run->model, (size_t)(slash - s->run->model) + 1) : hn_strdup(".");
        if (folder == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the tokenizer's path");
        path = folder;
    }
    const hn_status st = hn_tokenizer_load(path[0] ? path : s->run->model, &s->tokenizer);
    hn_free(folder);
    HN_TRY(st);
    if (hn_tokenizer_vocab_size(s->tokenizer) > s->model.decoder.vocab)
        return HN_FAIL(HN_ERR_SHAPE,
                       "tokenizer %s has %" PRId64 " tokens, the model's vocabulary %" PRId64,
                       hn_tokenizer_source(s->tokenizer), hn_tokenizer_vocab_size(s->tokenizer),
                       s->model.decoder.vocab);
    hn_info(&s->log, "tokenizer: %s, %" PRId64 " tokens", hn_tokenizer_source(s->tokenizer),
            hn_tokenizer_vocab_size(s->tokenizer));
    return HN_OK;
}

static const char *or_null(const char *text) { return text && text[0] ? text : NULL; }

static hn_status open_loader(hn_session *s, const hn_dataset *d, bool once, hn_loader **out)
{
    const int32_t eos = hn_tokenizer_eos(s->tokenizer);
    const hn_loader_options o = {.batch_rows = s->run->batch_size,
                                 .seq_len = s->seq_len,
                                 .seed = (uint64_t)s->run->seed,
                                 .world = 1,
                                 .shuffle = !once,
                                 .packing = s->run->packing,
                                 .once = once,
                                 .pad_id = eos >= 0 ? eos : 0};
    HN_TRY(hn_loader_open(d, &o, out));
    if (hn_loader_max_seqs(*out) > s->max_seqs) s->max_seqs = hn_loader_max_seqs(*out);
    s->several_pieces |= hn_loader_stats(*out)->most_pieces > 1;
    return HN_OK;
}

hn_status hn_session_seq_len(hn_session *s)
{
    const int64_t limit = s->model.decoder.max_positions;
    s->seq_len = s->run->seq_len;
    if (s->seq_len == 0) s->seq_len = limit < DEFAULT_SEQ_LEN ? limit : DEFAULT_SEQ_LEN;
    if (s->seq_len > limit)
        return HN_FAIL(HN_ERR_SHAPE, "--seq-len %" PRId64 ": the model has %" PRId64 " positions",
                       s->seq_len, limit);
    return HN_OK;
}

/* Lines of progress for work that is not training; `step` names what is counted. */
static void start_progress(hn_session *s, const char *step, const char *unit, int64_t total)
{
    hn_progress_config config = hn_progress_detect(stderr);
    config.step = step;
    config.unit = unit;
    config.every = 0; /* without a terminal only by time: most of this is over in a moment */
    hn_progress_start(&s->progress, &config, 0, total);
}

/* Without a terminal the end goes unsaid: a report of what was done follows. */
static void show_progress(hn_session *s, int64_t done, int64_t units)
{
    if (s->progress.config.is_tty || done < s->progress.total)
        hn_progress_update(&s->progress, done, units, NULL);
    if (done >= s->progress.total) hn_progress_end(&s->progress);
}

static void tell_tokens(void *context, const hn_data_progress *p)
{
    hn_session *s = context;
    const int64_t done = (int64_t)(p->share * 1000);
    if (s->progress.total != 1000) start_progress(s, "tokenising", "rows", 1000);
    show_progress(s, done, p->rows);
    if (done >= 1000) s->progress.total = 0;
}

static hn_status check_held_out(const hn_session *s)
{
    const hn_run_config *c = s->run;
    if (s->eval_data != NULL || (c->patience == 0 && c->eval_every == 0)) return HN_OK;
    return HN_FAIL(
        HN_ERR_ARG, "--%s %" PRId64 ": nothing is held out; --eval-data or --eval-split says what",
        c->patience ? "patience" : "eval-every", c->patience ? c->patience : c->eval_every);
}

/* When all loaders are open: micro-batches of both have room for the most sequences. */
static hn_status make_feeds(hn_session *s)
{
    if (s->train_loader) HN_TRY(hn_decoder_feed_new(s->train_loader, s->max_seqs, &s->train));
    if (s->eval_loader) HN_TRY(hn_decoder_feed_new(s->eval_loader, s->max_seqs, &s->eval));
    return HN_OK;
}

hn_status hn_session_data(hn_session *s, bool held_out_only)
{
    const hn_run_config *c = s->run;
    hn_dataset_options o = {.data = c->data,
                            .eval_data = or_null(c->eval_data),
                            .eval_split = c->eval_split,
                            .format = {.text_key = or_null(c->text_key),
                                       .prompt_key = or_null(c->prompt_key),
                                       .completion_key = or_null(c->completion_key)},
                            .train_on_prompt = c->train_on_prompt,
                            .threads = (int)c->data_threads,
                            .cache_dir = strcmp(c->cache_dir, "auto") == 0 ? NULL : c->cache_dir,
                            .log = &s->log,
                            .tell = tell_tokens,
                            .tell_context = s};
    HN_TRY(hn_data_format_parse(c->format, &o.format.format));
    HN_TRY(hn_session_seq_len(s));
    if (held_out_only) {
        const bool split = o.eval_data || o.eval_split > 0;
        HN_TRY(split ? hn_dataset_open(&o, s->tokenizer, NULL, &s->eval_data)
                     : hn_dataset_open(&o, s->tokenizer, &s->eval_data, NULL));
    } else {
        HN_TRY(hn_dataset_open(&o, s->tokenizer, &s->train_data, &s->eval_data));
        HN_TRY(check_held_out(s));
        hn_dataset_report(s->train_data, &s->log);
        HN_TRY(open_loader(s, s->train_data, false, &s->train_loader));
        hn_loader_report(s->train_loader, &s->log);
    }
    if (s->eval_data != NULL) {
        hn_dataset_report(s->eval_data, &s->log);
        HN_TRY(open_loader(s, s->eval_data, true, &s->eval_loader));
    }
    return make_feeds(s);
}

static void print_lines(const hn_log *log, char *text)
{
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        hn_info(log, "%s", line);
}

hn_status hn_session_plan(hn_session *s, bool train, int64_t logits_rows)
{
    const hn_decoder_options decoder = {
        .decoder = &s->model.decoder,
        .batch_rows = s->train || s->eval ? s->run->batch_size : 0,
        .seq_len = s->seq_len,
        .max_seqs = s->max_seqs,
        .attention = hn_attention_of(s->run->attention),
        .even_rows = !s->several_pieces,
        .logits_rows = logits_rows,
    };
    hn_decoder_job_init(&s->job, &decoder);
    const hn_engine_options o = {
        .device = s->device,
        .executor = hn_executor_of(s->run->executor),
        .job = &s->job.job,
        .adapt = &s->adapt,
        .dtype = s->model.dtype,
        .train = train,
        .eval = s->eval != NULL,
        .recompute = hn_recompute_of(s->run->recompute),
        .memory = memory_of(s->run),
        .optimizer = hn_session_optimizer(s->run),
        .seed = (uint64_t)s->run->seed,
    };
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
    const hn_run_config *c = s->run;
    const hn_decoder_options decoder = {.decoder = &s->model.decoder,
                                        .batch_rows = c->batch_size,
                                        .seq_len = s->seq_len,
                                        .max_seqs = 2 * c->batch_size,
                                        .attention = hn_attention_of(c->attention),
                                        .logits_rows = HN_EXPORT_PROBE_ROWS};
    hn_decoder_job_init(&s->job, &decoder);
    const hn_engine_options o = {.device = s->device,
                                 .executor = executor,
                                 .job = &s->job.job,
                                 .adapt = &s->adapt,
                                 .dtype = s->model.dtype,
                                 .train = true,
                                 .recompute = hn_recompute_of(c->recompute),
                                 .memory = memory_of(c),
                                 .optimizer = hn_session_optimizer(c)};
    return hn_engine_new(&o, &s->engine);
}

hn_status hn_session_load(hn_session *s)
{
    const hn_params *p = hn_engine_params(s->engine);
    const hn_status st = hn_engine_allocate(s->engine);
    const bool all = hn_engine_recomputed(s->engine) == s->model.decoder.layers;
    if (st == HN_ERR_MEMORY)
        return HN_FAIL(st, "%s; a smaller --batch-size or --seq-len%s needs less", hn_last_text(),
                       all ? "" : ", or --recompute on,");
    HN_TRY(st);
    hn_tune_tell(s->device, &s->log);
    HN_TRY(hn_model_load(&s->model, p, (uint64_t)s->run->seed));
    return s->adapter.n > 0 ? hn_lora_set(p, &s->adapter, s->run->adapter) : HN_OK;
}

hn_status hn_session_evaluate(hn_session *s, hn_eval_sums *out)
{
    const int64_t n = hn_feed_batches(s->eval);
    int64_t read = 0;
    *out = (hn_eval_sums){0};
    start_progress(s, "evaluation batch", "tokens", n);
    for (int64_t i = 0; i < n; i++) { /* sums of one batch are exact enough in fp32, of all not */
        hn_eval_sums batch;
        hn_engine_input in;
        int64_t units = 0;
        HN_TRY(hn_engine_batch(s->engine, &in));
        HN_TRY(s->eval->fill(s->eval, i, &in, &units));
        HN_TRY(hn_engine_eval_begin(s->engine));
        HN_TRY(hn_engine_eval_batch(s->engine));
        HN_TRY(hn_engine_eval_sums(s->engine, &batch));
        out->loss += batch.loss;
        out->rows += batch.rows;
        out->hits += batch.hits;
        read += units;
        show_progress(s, i + 1, read);
    }
    return HN_OK;
}
