/* hone-bench-step: continuous LoRA steps, or others, of a decoder with random weights, for
 * bench/step.py.
 *
 * All seven linears get an adapter, or with --block random blocks of their weights are trained
 * (step_blocks.h), or with --full all weights; tokens and labels are random and every label counts.
 * Warm-up steps come first, then the time of every step is taken until --seconds are over. Prints
 * one JSON object: tokens/s over the whole of that time, step times (20th, 50th, 80th percentile),
 * memory, first and last loss, and the time of day when it began and ended, for a log of clocks
 * beside it.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "bench/bench_ranks.h"
#include "bench/step_bench.h"
#include "bench/step_blocks.h"
#include "runtime/adapt/hn_adapt.h"
#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/tune.h"

typedef struct {
    const char *model, *dtype, *device, *executor, *attention, *recompute, *plans;
    const char *gather, *gpus;
    int64_t batch, length, rank, warmup, steps, seed, side_sms, block, zero;
    double seconds, lr, density;
    bool full, dora, profile, tune, shard_base;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"model",     FIELD(model),     NULL,   0, 0, NULL, "config.json of a decoder; its weights are random"},
    {"dtype",     FIELD(dtype),     "bf16", 0, 0, "f32|bf16", "of the base weights and activations"},
    {"batch",     FIELD(batch),     "8",    1, 4096, NULL, "sequences in a step"},
    {"length",    FIELD(length),    "2048", 1, 1048576, NULL, "tokens of a sequence"},
    {"rank",      FIELD(rank),      "16",   1, 65536, NULL, "of the adapters"},
    {"dora",      FIELD(dora),      "off",  0, 0, NULL, "magnitudes besides, as hone-lora --dora"},
    {"full",      FIELD(full),      "off",  0, 0, NULL, "train all weights instead"},
    {"block",     FIELD(block),     "0",    0, 256, NULL, "train blocks of so many rows and columns instead of adapters; 1: single values"},
    {"density",   FIELD(density),   "0",    0, 1, NULL, "with --block: part of the weights; 0: as many values as the adapters would have"},
    {"gather",    FIELD(gather),    "nothing", 0, 0, "nothing|scores|window", "with --block: what every step gathers besides, for a selection"},
    {"warmup",    FIELD(warmup),    "5",    1, 1000, NULL, "steps before the clock starts"},
    {"seconds",   FIELD(seconds),   "8",    0, 3600, NULL, "the clock runs at least so long"},
    {"steps",     FIELD(steps),     "3",    1, 100000, NULL, "and at least so many steps"},
    {"lr",        FIELD(lr),        "1e-4", 0, 1, NULL, "learning rate"},
    {"recompute", FIELD(recompute), "auto", 0, 0, "auto|on|off", "run layers' forward again in backward; auto: as few as fit"},
    {"device",    FIELD(device),    "cuda", 0, 0, NULL, "cuda, cuda:N or cpu"},
    {"gpus",      FIELD(gpus),      "1",    0, 0, NULL, "of this host, one process and one batch each; all: those that are visible. --steps counts then, not --seconds"},
    {"shard-base", FIELD(shard_base), "off", 0, 0, NULL, "with --gpus: each GPU keeps a share of the layers' frozen weights, as in hone-lora"},
    {"zero",      FIELD(zero),      "0",    0, 1, NULL, "with --full and --gpus, 1: each GPU keeps a share of the optimizer's state, as in hone-full"},
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
    BATCHES = 8,   /* different ones, in turn */
    POOL = 1 << 22 /* random weights; every tensor starts elsewhere in them */
};

typedef struct {
    const config *c;
    hn_device *device;
    hn_bench_ranks ranks;
    hn_model model;
    hn_peft_config lora; /* all of it constant: nothing to clear */
    hn_step_blocks blocks;
    hn_adapt adapt;
    hn_decoder_job job;
    hn_engine *engine;
    int32_t *tokens; /* [BATCHES][batch * length + 1]: labels are the next tokens */
    hn_step_bench steps;
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
    return hn_params_measure(params);
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
    if (b->tokens == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " tokens", n);
    for (int64_t i = 0; i < n; i++)
        b->tokens[i] = (int32_t)hn_rng_below(r, (uint64_t)i, 0, (uint64_t)b->model.decoder.vocab);
    return HN_OK;
}

/* ---- steps ---- */

static hn_status fill_batch(bench *b, int64_t step)
{
    const config *c = b->c;
    const int64_t n = c->batch * c->length;
    const int32_t *from = b->tokens + (step + b->ranks.rank) % BATCHES * (n + 1);
    hn_engine_input in;
    HN_TRY(hn_engine_batch(b->engine, &in));
    const hn_decoder_batch to = hn_decoder_batch_of(&in);
    memcpy(to.tokens, from, (size_t)n * sizeof *from);
    memcpy(to.labels, from + 1, (size_t)n * sizeof *from);
    for (int64_t i = 0; i < n; i++) to.positions[i] = (int32_t)(i % c->length);
    for (int64_t s = 0; s <= c->batch; s++) to.offsets[s] = (int32_t)(s * c->length);
    return HN_OK;
}

static hn_status enqueue_step(void *context, int64_t step)
{
    bench *b = context;
    HN_TRY(fill_batch(b, step));
    return hn_engine_step(b->engine, step, b->c->lr, NULL);
}

/* ---- set-up ---- */

static hn_gather gather_of(const config *c)
{
    if (strcmp(c->gather, "scores") == 0) return HN_GATHER_SCORES;
    return strcmp(c->gather, "window") == 0 ? HN_GATHER_WINDOW : HN_GATHER_NOTHING;
}

static hn_adapt_kind every_weight(const void *context, const char *name)
{
    (void)context;
    (void)name;
    return HN_ADAPT_FULL;
}

static hn_adapt hook_of(const bench *b)
{
    if (b->c->full) return (hn_adapt){.parameter = every_weight};
    return b->c->block > 0 ? hn_step_blocks_hook(&b->blocks) : hn_lora_hook(&b->lora);
}

static hn_status set_up(bench *b)
{
    static char *const linears[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                    "gate_proj", "up_proj", "down_proj"};
    const config *c = b->c;
    b->lora = (hn_peft_config){
        .r = c->rank,
        .alpha = 2.0 * (double)c->rank,
        .dora = c->dora,
        .targets = {.list = {.items = (char **)(size_t)linears, .n = 7}},
    };
    b->blocks = (hn_step_blocks){&b->lora, {c->block, c->block}};
    b->adapt = hook_of(b);
    if (c->full && c->block > 0)
        return HN_FAIL(HN_ERR_ARG, "--full and --block exclude each other");
    if (c->shard_base && (c->full || c->block > 0 || b->ranks.size < 2))
        return HN_FAIL(HN_ERR_ARG, "--shard-base goes with adapters and --gpus of 2 or more");
    if (c->zero > 0 && (!c->full || b->ranks.size < 2))
        return HN_FAIL(HN_ERR_ARG, "--zero 1 goes with --full and --gpus of 2 or more");
    if (c->dora && (c->full || c->block > 0))
        return HN_FAIL(HN_ERR_ARG, "--dora goes with adapters, not with --full or --block");
    if (c->block == 0 && (c->density > 0 || gather_of(c) != HN_GATHER_NOTHING))
        return HN_FAIL(HN_ERR_ARG, "--density and --gather go with --block");
    const hn_log log = hn_step_bench_log("hone-bench-step");
    if (b->ranks.device != NULL)
        b->device = b->ranks.device;
    else
        HN_TRY(hn_device_open(c->device, &b->device));
    if (!c->tune) HN_TRY(hn_tune_use(b->device, c->plans, &log));
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
    hn_sparse_options sparse = {.density = c->density,
                                .candidates = gather_of(c) == HN_GATHER_NOTHING ? 0 : 2,
                                .squares = true};
    if (c->block > 0 && !(c->density > 0))
        HN_TRY(hn_step_blocks_as_pairs(&b->blocks, &b->job.job, c->rank, &sparse.values));
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
        .base_shares = c->shard_base ? b->ranks.size : 0,
        .zero_ranks = c->zero > 0 ? b->ranks.size : 0,
        .sparse = sparse,
        .seed = (uint64_t)c->seed,
        .side = c->side_sms == -2   ? HN_SIDE_AUTO
                : c->side_sms == -1 ? HN_SIDE_OFF
                                    : HN_SIDE_ON,
        .side_sms = c->side_sms > 0 ? (int)c->side_sms : 0,
    };
    HN_TRY(hn_engine_new(&o, &b->engine));
    HN_TRY(hn_engine_allocate(b->engine));
    b->steps = (hn_step_bench){.device = b->device,
                               .engine = b->engine,
                               .enqueue = enqueue_step,
                               .context = b,
                               .rows = c->batch * c->length * b->ranks.size,
                               .warmup = c->warmup,
                               .steps = c->steps,
                               .seconds = b->ranks.size > 1 ? 0 : c->seconds};
    if (c->tune)
        HN_TRY(hn_step_bench_tune(&b->steps, c->plans));
    else
        hn_tune_tell(b->device, &log);
    HN_TRY(random_weights(b));
    hn_sparse *blocks = hn_params_sparse(hn_engine_params(b->engine));
    if (blocks != NULL) HN_TRY(hn_step_blocks_choose(blocks, (uint64_t)c->seed));
    if (blocks != NULL) HN_TRY(hn_engine_gather(b->engine, gather_of(c)));
    return random_tokens(b);
}

/* ---- result ---- */

static hn_status print_result(bench *b)
{
    const config *c = b->c;
    json_t *own = json_pack(
        "{s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:s, s:b, s:I, s:b}", "who",
        "hone", "gpus", b->ranks.size, "model", c->model, "dtype", c->dtype, "batch",
        (json_int_t)c->batch, "length", (json_int_t)c->length, "rank", (json_int_t)c->rank,
        "side_sms", (json_int_t)c->side_sms, "block", (json_int_t)c->block, "full", c->full,
        "trained", (json_int_t)hn_params_trained(hn_engine_params(b->engine)), "gather", c->gather,
        "shard_base", c->shard_base, "zero", (json_int_t)c->zero, "dora", c->dora);
    return hn_step_bench_print(&b->steps, own, "tokens", c->tune);
}

static hn_status measure(const void *given)
{
    const config *c = given;
    bench b = {.c = c};
    const hn_log log = hn_step_bench_log("hone-bench-step");
    hn_status st = hn_bench_ranks_open(c->gpus, &log, &b.ranks);
    if (st == HN_OK && b.ranks.size > 1 && (c->profile || c->tune))
        st = HN_FAIL(HN_ERR_ARG, "--profile and --tune are of one GPU");
    if (st == HN_OK && b.ranks.size > 1 && strcmp(c->device, "cuda") != 0)
        st = HN_FAIL(HN_ERR_ARG, "--device %s: with --gpus it is cuda", c->device);
    if (st == HN_OK) st = set_up(&b);
    if (st == HN_OK && c->profile) {
        st = hn_step_bench_profile(&b.steps);
    } else if (st == HN_OK) {
        st = hn_step_bench_run(&b.steps);
        if (st == HN_OK && b.ranks.rank == 0) st = print_result(&b);
    }
    hn_step_bench_free(&b.steps);
    hn_free(b.tokens);
    hn_engine_free(b.engine);
    hn_model_close(&b.model);
    if (b.ranks.device == NULL) hn_device_close(b.device);
    hn_bench_ranks_close(&b.ranks, st);
    return st;
}

int main(int argc, char **argv)
{
    static const hn_step_program program = {
        .name = "hone-bench-step",
        .summary = "LoRA, sparse or full steps of a decoder with random weights",
        .options = options,
        .n_options = N_OPTIONS,
        .measure = measure,
    };
    config c = {0};
    return hn_step_bench_main(&program, argc, argv, &c);
}
