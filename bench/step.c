/* hone-bench-step: continuous LoRA steps of a decoder with random weights, for bench/step.py.
 *
 * All seven linears get an adapter; tokens and labels are random and every label counts. Warm-up
 * steps come first, then the time of every step is taken until --seconds are over. Prints one JSON
 * object: tokens/s over the whole of that time, step times (20th, 50th, 80th percentile), memory,
 * first and last loss, and the time of day when it began and ended, for a log of clocks beside it.
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/adapt/hn_adapt.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/options.h"
#include "runtime/base/rng.h"
#include "runtime/base/version.h"
#include "runtime/device/device.h"
#include "runtime/graph/tensor.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/tune.h"

typedef struct {
    const char *model, *dtype, *device, *executor, *attention, *recompute, *plans;
    int64_t batch, length, rank, warmup, steps, seed, side_sms;
    double seconds, lr;
    bool profile, tune;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"model",     FIELD(model),     NULL,   0, 0, NULL, "config.json of a decoder; its weights are random"},
    {"dtype",     FIELD(dtype),     "bf16", 0, 0, "f32|bf16", "of the base weights and activations"},
    {"batch",     FIELD(batch),     "8",    1, 4096, NULL, "sequences in a step"},
    {"length",    FIELD(length),    "2048", 1, 1048576, NULL, "tokens of a sequence"},
    {"rank",      FIELD(rank),      "16",   1, 65536, NULL, "of the adapters"},
    {"warmup",    FIELD(warmup),    "5",    1, 1000, NULL, "steps before the clock starts"},
    {"seconds",   FIELD(seconds),   "8",    0, 3600, NULL, "the clock runs at least so long"},
    {"steps",     FIELD(steps),     "3",    1, 100000, NULL, "and at least so many steps"},
    {"lr",        FIELD(lr),        "1e-4", 0, 1, NULL, "learning rate"},
    {"recompute", FIELD(recompute), "auto", 0, 0, "auto|on|off", "run layers' forward again in backward; auto: as few as fit"},
    {"device",    FIELD(device),    "cuda", 0, 0, NULL, "cuda, cuda:N or cpu"},
    {"executor",  FIELD(executor),  "auto", 0, 0, "auto|cuda-graph|cuda", "on a GPU: captured (auto), or one by one"},
    {"attention", FIELD(attention), "auto", 0, 0, "auto|hone|cudnn|fast", "as in the trainers"},
    {"profile",   FIELD(profile),   "off",  0, 0, NULL, "time every operation instead: a Markdown table"},
    {"plans",     FIELD(plans),     "auto", 0, 0, NULL, "file of the fastest matrix products, as for train; off: the library's first choices"},
    {"tune",      FIELD(tune),      "off",  0, 0, NULL, "search for them first, and write the file"},
    {"side-sms",  FIELD(side_sms),  "-2",   -2, 1024, NULL, "multiprocessors for the gradients of adapters, beside others; 0: those that are free, -1: in their place among the others, -2: as in the trainers"},
    {"seed",      FIELD(seed),      "0",    0, 1e15, NULL, "of weights and tokens"},
};
/* clang-format on */
enum { N_OPTIONS = sizeof options / sizeof *options };

enum {
    BATCHES = 8,       /* different ones, in turn */
    POOL = 1 << 22,    /* random weights; every tensor starts elsewhere in them */
    MAX_STEPS = 100000 /* that are kept */
};

typedef struct {
    const config *c;
    hn_device *device;
    hn_model model;
    hn_peft_config lora; /* all of it constant: nothing to clear */
    hn_adapt adapt;
    hn_decoder_job job;
    hn_engine *engine;
    int32_t *tokens; /* [BATCHES][batch * length + 1]: labels are the next tokens */
    double *step_ms;
    int64_t n_done, n_steps; /* the second without warm-up */
    double loss_first, loss_last, elapsed_s, begin_s, end_s;
} bench;

/* ---- weights and tokens ---- */

/* A matrix of the pool's values. The pool is used up round and round, from anywhere, instead of
 * drawing eight billion numbers one by one. */
static hn_status write_random(const hn_tensor *t, const char *pool, int64_t first)
{
    const int64_t cols = hn_type_cols(&t->type), rows = hn_type_rows(&t->type);
    const size_t elem = hn_dtype_size(t->type.dtype), row = (size_t)cols * elem;
    if (cols > POOL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "rows of %" PRId64 " random weights: at most %d", cols,
                       POOL);
    for (int64_t done = 0, n; done < rows; done += n) {
        const int64_t left = (POOL - first) / cols, want = rows - done;
        n = left < want ? left : want; /* 0: the next row begins at the pool's start */
        if (n > 0) HN_TRY(hn_tensor_write_rows(t, done, n, pool + (size_t)first * elem, row));
        first = 0;
    }
    return HN_OK;
}

static hn_status fill_weights(bench *b, void *pool)
{
    const hn_params *params = hn_engine_params(b->engine);
    const hn_dtype dtype = b->model.dtype;
    const uint64_t seed = (uint64_t)b->c->seed;
    const hn_rng r = hn_rng_make(seed, 0, hn_hash_name("weights"));
    const double deviation = b->model.decoder.init_range;
#pragma omp parallel for
    for (int64_t i = 0; i < POOL; i++) {
        uint32_t w[4];
        hn_rng_block(r, (uint64_t)i, 0, w);
        const double radius = sqrt(-2.0 * log(1.0 - (double)hn_rng_unit(w[0])));
        const double z = radius * cos(6.283185307179586 * (double)hn_rng_unit(w[1]));
        hn_set_f32(pool, dtype, i, (float)(deviation * z));
    }
    for (int64_t i = 0; i < hn_params_count(params); i++) {
        const hn_param *p = hn_params_at(params, i);
        const bool from_pool = !p->trained && p->init == HN_INIT_NORMAL;
        const int64_t first = (int64_t)hn_rng_below(r, (uint64_t)(POOL + i), 0, POOL);
        HN_TRY(from_pool ? write_random(p->value, pool, first) : hn_param_init(p, seed));
    }
    return HN_OK;
}

static hn_status random_weights(bench *b)
{
    void *pool = hn_malloc(POOL * hn_dtype_size(b->model.dtype));
    if (pool == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for random weights");
    const hn_status st = fill_weights(b, pool);
    hn_free(pool);
    return st;
}

static hn_status random_tokens(bench *b)
{
    const int64_t n = BATCHES * (b->c->batch * b->c->length + 1);
    const hn_rng r = hn_rng_make((uint64_t)b->c->seed, 0, hn_hash_name("tokens"));
    b->tokens = hn_malloc((size_t)n * sizeof *b->tokens);
    b->step_ms = hn_malloc(MAX_STEPS * sizeof *b->step_ms);
    if (b->tokens == NULL || b->step_ms == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " tokens", n);
    for (int64_t i = 0; i < n; i++)
        b->tokens[i] = (int32_t)hn_rng_below(r, (uint64_t)i, 0, (uint64_t)b->model.decoder.vocab);
    return HN_OK;
}

/* ---- set-up ---- */

static void print_log(void *context, hn_log_level level, const char *text)
{
    (void)context;
    fprintf(stderr, "hone-bench-step: %s%s\n", level == HN_LOG_WARN ? "warning: " : "", text);
}

static const hn_log to_stderr = {.line = print_log};

/* The products of this very engine, with its memory in place. */
static hn_status tune(bench *b)
{
    char *path;
    if (hn_device_kind_of(b->device) != HN_DEVICE_CUDA)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "--tune measures the matrix products of a GPU, this is %s",
                       hn_device_text(b->device));
    HN_TRY(hn_tune_path(b->device, b->c->plans, &path));
    hn_status st = hn_tune_search(b->device, stderr);
    if (st == HN_OK) st = hn_tune_save(b->device, path);
    hn_free(path);
    return st == HN_OK ? hn_engine_capture_anew(b->engine) : st;
}

static hn_status set_up(bench *b)
{
    static char *const linears[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                    "gate_proj", "up_proj", "down_proj"};
    const config *c = b->c;
    b->lora = (hn_peft_config){
        .r = c->rank,
        .alpha = 2.0 * (double)c->rank,
        .targets = {.list = {.items = (char **)(size_t)linears, .n = 7}},
    };
    b->adapt = hn_lora_hook(&b->lora);
    HN_TRY(hn_device_open(c->device, &b->device));
    if (!c->tune) HN_TRY(hn_tune_use(b->device, c->plans, &to_stderr));
    HN_TRY(hn_model_open(c->model, c->dtype, NULL, &b->model));
    const hn_decoder_options decoder = {
        .decoder = &b->model.decoder,
        .batch_rows = c->batch,
        .seq_len = c->length,
        .max_seqs = c->batch,
        .attention = hn_attention_of(c->attention),
        .even_rows = true,
    };
    hn_decoder_job_init(&b->job, &decoder);
    const hn_engine_options o = {
        .device = b->device,
        .executor = hn_executor_of(c->executor),
        .job = &b->job.job,
        .adapt = &b->adapt,
        .dtype = b->model.dtype,
        .train = true,
        .recompute = hn_recompute_of(c->recompute),
        .optimizer = {.kind = HN_OPTIMIZER_ADAMW,
                      .beta1 = 0.9,
                      .beta2 = 0.999,
                      .eps = 1e-8,
                      .max_grad_norm = 1.0},
        .seed = (uint64_t)c->seed,
        .side = c->side_sms == -2   ? HN_SIDE_AUTO
                : c->side_sms == -1 ? HN_SIDE_OFF
                                    : HN_SIDE_ON,
        .side_sms = c->side_sms > 0 ? (int)c->side_sms : 0,
    };
    HN_TRY(hn_engine_new(&o, &b->engine));
    HN_TRY(hn_engine_allocate(b->engine));
    if (c->tune)
        HN_TRY(tune(b));
    else
        hn_tune_tell(b->device, &to_stderr);
    HN_TRY(random_weights(b));
    return random_tokens(b);
}

/* ---- steps ---- */

static hn_status fill_batch(bench *b, int64_t step)
{
    const config *c = b->c;
    const int64_t n = c->batch * c->length;
    const int32_t *from = b->tokens + (step % BATCHES) * (n + 1);
    hn_engine_input in;
    HN_TRY(hn_engine_batch(b->engine, &in));
    const hn_decoder_batch to = hn_decoder_batch_of(&in);
    memcpy(to.tokens, from, (size_t)n * sizeof *from);
    memcpy(to.labels, from + 1, (size_t)n * sizeof *from);
    for (int64_t i = 0; i < n; i++) to.positions[i] = (int32_t)(i % c->length);
    for (int64_t s = 0; s <= c->batch; s++) to.offsets[s] = (int32_t)(s * c->length);
    return HN_OK;
}

static hn_status enqueue_step(bench *b, int64_t step)
{
    HN_TRY(hn_engine_begin(b->engine, step));
    HN_TRY(fill_batch(b, step));
    HN_TRY(hn_engine_micro(b->engine, 0));
    return hn_engine_update(b->engine, b->c->lr, NULL);
}

/* The steps that are done; wait: all that were enqueued. *at: the time of the last one before.
 * Steps whose reports come together share the time since then. */
static hn_status take_reports(bench *b, bool wait, int64_t *at)
{
    const int64_t before = b->n_done;
    for (;;) {
        bool there;
        hn_step_report r;
        HN_TRY(hn_engine_report(b->engine, wait, &there, &r));
        if (!there) break;
        if (r.skipped != 0 || !isfinite(r.loss) || r.tokens != b->c->batch * b->c->length)
            return HN_FAIL(HN_ERR_NUMERIC,
                           "a step's loss is %g, its gradient's norm %g, %" PRId64 " tokens",
                           r.loss, r.grad_norm, r.tokens);
        if (b->n_done++ == 0) b->loss_first = r.loss;
        b->loss_last = r.loss;
    }
    if (b->n_done == before) return HN_OK;
    const int64_t now = hn_clock_ns(), each = (now - *at) / (b->n_done - before);
    for (int64_t i = before; i < b->n_done; i++)
        if (i >= b->c->warmup) b->step_ms[b->n_steps++] = 1e-6 * (double)each;
    *at = now;
    return HN_OK;
}

static hn_status one_step(bench *b, int64_t step)
{
    int64_t at = 0;
    HN_TRY(enqueue_step(b, step));
    return take_reports(b, true, &at);
}

/* The host runs ahead of the GPU, as in training between two lines of the log. */
static hn_status run_steps(bench *b)
{
    const config *c = b->c;
    int64_t step = 0, last = 0;
    for (; step < c->warmup; step++) HN_TRY(one_step(b, step));
    b->begin_s = hn_clock_wall_s();
    const int64_t begin = hn_clock_ns();
    last = begin;
    while ((b->n_steps < c->steps || (double)(last - begin) < 1e9 * c->seconds) &&
           b->n_steps + HN_ENGINE_AHEAD < MAX_STEPS) {
        HN_TRY(enqueue_step(b, step++));
        HN_TRY(take_reports(b, false, &last));
    }
    HN_TRY(take_reports(b, true, &last));
    b->elapsed_s = 1e-9 * (double)(last - begin);
    b->end_s = hn_clock_wall_s();
    return HN_OK;
}

/* ---- profile ---- */

static hn_status print_profile(bench *b)
{
    hn_profile *p = NULL;
    HN_TRY(hn_profile_new(&p));
    hn_status st = HN_OK;
    int64_t step = 0;
    for (; step < b->c->warmup && st == HN_OK; step++) st = one_step(b, step);
    hn_engine_profile(b->engine, p);
    for (int64_t i = 0; i < b->c->steps && st == HN_OK; i++) st = one_step(b, step++);
    hn_engine_profile(b->engine, NULL);
    char *text = st == HN_OK ? hn_profile_text(p, b->c->steps) : NULL;
    if (text) fputs(text, stdout);
    if (st == HN_OK && text == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for the table");
    hn_free(text);
    hn_profile_free(p);
    return st;
}

/* ---- result ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const bench *b, double q)
{
    return b->step_ms[(int64_t)(q * (double)(b->n_steps - 1) + 0.5)];
}

static int64_t tuned_products(const hn_device *d)
{
    int64_t plans, offered = 0;
    if (hn_device_kind_of(d) == HN_DEVICE_CUDA)
        hn_gemm_cuda_count(hn_device_gemm(d), &plans, &offered);
    return offered;
}

static hn_status print_result(bench *b)
{
    const config *c = b->c;
    const double gib = 1.0 / (1 << 30), tokens = (double)(c->batch * c->length);
    hn_plan_sizes plan;
    size_t used = 0;
    char notes[4096];
    hn_plan_notes(hn_engine_program(b->engine), ';', notes, sizeof notes);
    hn_plan_sizes_of(hn_engine_program(b->engine), &plan);
    HN_TRY(hn_device_used(b->device, &used));
    qsort(b->step_ms, (size_t)b->n_steps, sizeof *b->step_ms, by_size);
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:[f,f,f], s:f, s:f, s:f, s:f, s:I, s:s, "
        "s:s, s:s, s:s, s:b, s:I, s:I, s:I, s:[f,f]}",
        "who", "hone", "model", c->model, "dtype", c->dtype, "batch", (json_int_t)c->batch,
        "length", (json_int_t)c->length, "rank", (json_int_t)c->rank, "steps",
        (json_int_t)b->n_steps, "seconds", b->elapsed_s, "tokens_per_s",
        tokens * (double)b->n_steps / b->elapsed_s, "step_ms", quantile(b, 0.2), quantile(b, 0.5),
        quantile(b, 0.8), "peak_gib", (double)used * gib, "plan_gib",
        (double)plan.total_bytes * gib, "loss_first", b->loss_first, "loss_last", b->loss_last,
        "trained", (json_int_t)hn_params_trained(hn_engine_params(b->engine)), "executor",
        hn_executor_name(hn_engine_executor(b->engine)), "device", hn_device_text(b->device),
        "versions", "hone " HN_VERSION, "notes", notes, "tuned",
        tuned_products(b->device) > 0 || c->tune, "recomputed",
        (json_int_t)hn_engine_recomputed(b->engine), "side_sms", (json_int_t)c->side_sms, "side",
        (json_int_t)plan.n_side, "window", b->begin_s, b->end_s);
    char *text = o ? json_dumps(o, JSON_REAL_PRECISION(15)) : NULL;
    json_decref(o);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the result");
    puts(text);
    free(text); /* jansson's */
    return HN_OK;
}

static hn_status measure(const config *c)
{
    bench b = {.c = c};
    hn_status st = set_up(&b);
    if (st == HN_OK && c->profile) {
        st = print_profile(&b);
    } else if (st == HN_OK) {
        st = run_steps(&b);
        if (st == HN_OK) st = print_result(&b);
    }
    hn_free(b.tokens);
    hn_free(b.step_ms);
    hn_engine_free(b.engine);
    hn_model_close(&b.model);
    hn_device_close(b.device);
    return st;
}

int main(int argc, char **argv)
{
    config c = {0};
    hn_options_store *store = NULL;
    hn_status st = hn_options_parse(options, N_OPTIONS, argc, argv, &c, &store);
    const bool bad_usage = st != HN_OK;
    if (st == HN_OK && hn_options_help_wanted(store)) {
        puts("hone-bench-step: LoRA steps of a decoder with random weights; one JSON line\n");
        hn_options_help(options, N_OPTIONS, stdout);
    } else if (st == HN_OK) {
        st = measure(&c);
    }
    if (st != HN_OK) fprintf(stderr, "hone-bench-step: %s\n", hn_last_error());
    hn_options_free(store);
    return st == HN_OK ? 0 : bad_usage ? 2 : 1;
}
