/* hone-bench-volumes: continuous training steps of a segmenter of volumes with random weights.
 * bench/peer_volumes.py does the same steps in PyTorch.
 *
 * Every parameter is trained; the loss is soft Dice and cross-entropy. Patches are made up, bright
 * boxes in noise. The host fills each of its places for micro-batches once: every step sends one to
 * the device, values and labels, and draws none, so that the device's work is what is timed.
 * Warm-up steps come first, then the time of every step is taken until --seconds are over. Prints
 * one JSON object: patches/s over the whole of that time, step times (20th, 50th, 80th percentile),
 * memory, first and last loss.
 */
#include <string.h>

#include "bench/step_bench.h"
#include "runtime/base/rng.h"
#include "runtime/train/segmenter_job.h"
#include "runtime/train/tune.h"

static const char PROGRAM[] = "hone-bench-volumes";

typedef struct {
    const char *model, *dtype, *optimizer, *device, *executor, *recompute, *plans;
    int64_t batch, patch, classes, warmup, steps, seed;
    double seconds, lr;
    bool profile, tune;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"model",     FIELD(model),     "unet3d-fets", 0, 0, NULL, "name of an architecture: unet3d-fets, meshnet5, meshnet20"},
    {"classes",   FIELD(classes),   "0",    0, 16, NULL, "of the voxels; 0: as the name says"},
    {"dtype",     FIELD(dtype),     "bf16", 0, 0, "f32|bf16", "of activations and of the weights that products read; masters are fp32"},
    {"batch",     FIELD(batch),     "1",    1, 4096, NULL, "patches in a step"},
    {"patch",     FIELD(patch),     "128",  8, 1024, NULL, "side of a patch, in voxels"},
    {"optimizer", FIELD(optimizer), "sgd",  0, 0, "sgd|adamw", "sgd: momentum 0.9; adamw: betas 0.9, 0.999"},
    {"lr",        FIELD(lr),        "1e-2", 0, 10, NULL, "learning rate"},
    {"warmup",    FIELD(warmup),    "10",   2, 1000, NULL, "steps before the clock starts"},
    {"seconds",   FIELD(seconds),   "6",    0, 3600, NULL, "the clock runs at least so long"},
    {"steps",     FIELD(steps),     "3",    1, 100000, NULL, "and at least so many steps"},
    {"recompute", FIELD(recompute), "auto", 0, 0, "auto|on|off", "run blocks' forward again in backward; auto: as few as fit"},
    {"device",    FIELD(device),    "cuda", 0, 0, NULL, "cuda, cuda:N or cpu"},
    {"executor",  FIELD(executor),  "auto", 0, 0, "auto|cuda-graph|cuda", "on a GPU: captured (auto), or one by one"},
    {"profile",   FIELD(profile),   "off",  0, 0, NULL, "time every operation instead: a Markdown table"},
    {"plans",     FIELD(plans),     "auto", 0, 0, NULL, "file of the fastest matrix products, as for train; off: the library's first choices"},
    {"tune",      FIELD(tune),      "off",  0, 0, NULL, "search for them first, and write the file"},
    {"seed",      FIELD(seed),      "0",    0, 1e15, NULL, "of weights and patches"},
};
/* clang-format on */
enum { N_OPTIONS = sizeof options / sizeof *options };

enum { PLACES = 8 }; /* at most; the engine has a few, in turn */

typedef struct {
    const config *c;
    hn_device *device;
    hn_seg_config model;
    hn_segmenter_job job;
    hn_adapt adapt;
    hn_engine *engine;
    const float *place[PLACES]; /* of micro-batches that are filled */
    int filled;
    hn_step_bench steps;
} bench;

/* ---- patches ---- */

/* Uniform noise; class k in a box of its own, a third of the side long, brighter by k. */
static void fill_patch(const bench *b, int64_t number, float *value, int32_t *label)
{
    const int64_t side = b->c->patch, n = side * side * side;
    const hn_rng noise = hn_rng_make((uint64_t)b->c->seed, 0, hn_hash_name("patches"));
#pragma omp parallel for
    for (int64_t block = 0; block < (n + 3) / 4; block++) {
        uint32_t word[4];
        hn_rng_block(noise, (uint64_t)number, (uint32_t)block, word);
        for (int64_t i = 4 * block; i < n && i < 4 * block + 4; i++) {
            const int64_t third[3] = {i / side / side * 3 / side, i / side % side * 3 / side,
                                      i % side * 3 / side};
            const int64_t box = third[0] == third[1] ? third[2] + 3 * third[0] : 0;
            label[i] = (int32_t)(box % b->model.classes);
            value[i] = 2 * hn_rng_unit(word[i - 4 * block]) - 1 + (float)label[i];
        }
    }
}

static bool is_filled(const bench *b, const float *place)
{
    int i = 0;
    while (i < b->filled && b->place[i] != place) i++;
    return i < b->filled;
}

static hn_status enqueue_step(void *context, int64_t step)
{
    bench *b = context;
    const int64_t voxels = b->c->patch * b->c->patch * b->c->patch;
    hn_engine_input in;
    HN_TRY(hn_engine_batch(b->engine, &in));
    const hn_segmenter_batch to = hn_segmenter_batch_of(&in);
    if (!is_filled(b, to.value)) {
        for (int64_t i = 0; i < b->c->batch; i++)
            fill_patch(b, b->filled * b->c->batch + i, to.value + i * voxels,
                       to.label + i * voxels);
        if (b->filled < PLACES) b->place[b->filled++] = to.value;
    }
    return hn_engine_step(b->engine, step, b->c->lr, NULL);
}

/* ---- set-up ---- */

static hn_adapt_kind train_all(const void *context, const char *name)
{
    (void)context, (void)name;
    return HN_ADAPT_FULL;
}

static hn_status make_engine(bench *b)
{
    const config *c = b->c;
    const bool sgd = strcmp(c->optimizer, "sgd") == 0;
    const hn_segmenter_options job = {.config = &b->model,
                                      .batch = c->batch,
                                      .patch = {c->patch, c->patch, c->patch},
                                      .terms = {.w_dice = 1, .w_cross = 1, .smooth = 1e-5f},
                                      .dtype = strcmp(c->dtype, "bf16") == 0 ? HN_BF16 : HN_F32};
    hn_segmenter_job_init(&b->job, &job);
    b->adapt = (hn_adapt){.parameter = train_all};
    const hn_engine_options o = {
        .device = b->device,
        .executor = hn_executor_of(c->executor),
        .job = &b->job.job,
        .adapt = &b->adapt,
        .dtype = job.dtype,
        .train = true,
        .recompute = hn_recompute_of(c->recompute),
        .optimizer = {.kind = sgd ? HN_OPTIMIZER_SGD : HN_OPTIMIZER_ADAMW,
                      .beta1 = 0.9,
                      .beta2 = 0.999,
                      .eps = 1e-8,
                      .momentum = sgd ? 0.9 : 0},
        .seed = (uint64_t)c->seed,
    };
    HN_TRY(hn_engine_new(&o, &b->engine));
    return hn_engine_allocate(b->engine);
}

static hn_status random_weights(const bench *b)
{
    const hn_params *params = hn_engine_params(b->engine);
    for (int64_t i = 0; i < hn_params_count(params); i++)
        HN_TRY(hn_param_init(hn_params_at(params, i), (uint64_t)b->c->seed));
    return HN_OK;
}

static hn_status set_up(bench *b)
{
    const config *c = b->c;
    const hn_log log = hn_step_bench_log(PROGRAM);
    HN_TRY(hn_device_open(c->device, &b->device));
    if (!c->tune) HN_TRY(hn_tune_use(b->device, c->plans, &log));
    HN_TRY(hn_seg_config_named(c->model, 0, c->classes, &b->model));
    HN_TRY(make_engine(b));
    b->steps = (hn_step_bench){.device = b->device,
                               .engine = b->engine,
                               .enqueue = enqueue_step,
                               .context = b,
                               .rows = c->batch,
                               .warmup = c->warmup,
                               .steps = c->steps,
                               .seconds = c->seconds};
    if (c->tune)
        HN_TRY(hn_step_bench_tune(&b->steps, c->plans));
    else
        hn_tune_tell(b->device, &log);
    return random_weights(b);
}

static hn_status print_result(bench *b)
{
    const config *c = b->c;
    json_t *own =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "who", "hone", "model", c->model, "dtype",
                  c->dtype, "batch", (json_int_t)c->batch, "patch", (json_int_t)c->patch, "classes",
                  (json_int_t)b->model.classes, "optimizer", c->optimizer);
    return hn_step_bench_print(&b->steps, own, "patches", c->tune);
}

static hn_status measure(const void *given)
{
    const config *c = given;
    bench b = {.c = c};
    hn_status st = set_up(&b);
    if (st == HN_OK && c->profile) {
        st = hn_step_bench_profile(&b.steps);
    } else if (st == HN_OK) {
        st = hn_step_bench_run(&b.steps);
        if (st == HN_OK) st = print_result(&b);
    }
    hn_step_bench_free(&b.steps);
    hn_engine_free(b.engine);
    hn_device_close(b.device);
    return st;
}

int main(int argc, char **argv)
{
    static const hn_step_program program = {
        .name = PROGRAM,
        .summary = "training steps of a segmenter of volumes with random weights",
        .options = options,
        .n_options = N_OPTIONS,
        .measure = measure,
    };
    config c = {0};
    return hn_step_bench_main(&program, argc, argv, &c);
}
