/* hone-bench-vision: continuous training steps of an image classifier with random weights, for
 * bench/vision.py.
 *
 * Every parameter is trained. The images are made up and lie in the device's memory as bytes; crop,
 * flip and normalisation are part of the step, and the loader's thread picks the images, as in a
 * trainer. Warm-up steps come first, then the time of every step is taken until --seconds are over.
 * Prints one JSON object: images/s over the whole of that time, step times (20th, 50th, 80th
 * percentile), memory, first and last loss, and the time of day when it began and ended, for a log
 * of clocks beside it.
 */
#include <inttypes.h>
#include <string.h>

#include "bench/bench_ranks.h"
#include "bench/step_bench.h"
#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/image_feed.h"
#include "runtime/train/tune.h"

static const char PROGRAM[] = "hone-bench-vision";

typedef struct {
    const char *model, *augment, *dtype, *optimizer, *device, *executor, *attention, *recompute,
        *plans, *gpus;
    int64_t batch, images, warmup, steps, seed;
    double seconds, lr, weight_decay;
    bool profile, tune;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"model",        FIELD(model),        NULL,   0, 0, NULL, "name of an architecture: resnet18-cifar, vit_tiny_patch16_224, mnist-cnn, ..."},
    {"dtype",        FIELD(dtype),        "bf16", 0, 0, "f32|bf16", "of activations and of the weights that products read; masters are fp32"},
    {"batch",        FIELD(batch),        "64",   1, 65536, NULL, "images in a step"},
    {"images",       FIELD(images),       "10000", 1, 10000000, NULL, "of the set they come from"},
    {"augment",      FIELD(augment),      "none", 0, 0, "none|crop-flip", "crop-flip: crop out of the image with 4 black pixels around, flip every other one"},
    {"optimizer",    FIELD(optimizer),    "sgd",  0, 0, "sgd|adamw", "sgd: momentum 0.9; adamw: betas 0.9, 0.999"},
    {"lr",           FIELD(lr),           "1e-2", 0, 10, NULL, "learning rate"},
    {"weight-decay", FIELD(weight_decay), "5e-4", 0, 1, NULL, "of matrices and filters"},
    {"warmup",       FIELD(warmup),       "10",   1, 1000, NULL, "steps before the clock starts"},
    {"seconds",      FIELD(seconds),      "6",    0, 3600, NULL, "the clock runs at least so long"},
    {"steps",        FIELD(steps),        "3",    1, 100000, NULL, "and at least so many steps"},
    {"recompute",    FIELD(recompute),    "auto", 0, 0, "auto|on|off", "run blocks' forward again in backward; auto: as few as fit"},
    {"device",       FIELD(device),       "cuda", 0, 0, NULL, "cuda, cuda:N or cpu"},
    {"gpus",         FIELD(gpus),         "1",    0, 0, NULL, "of this host, one process and one batch each; all: those that are visible. --steps counts then, not --seconds"},
    {"executor",     FIELD(executor),     "auto", 0, 0, "auto|cuda-graph|cuda", "on a GPU: captured (auto), or one by one"},
    {"attention",    FIELD(attention),    "auto", 0, 0, "auto|hone|cudnn|fast", "as in the trainers; of vision transformers"},
    {"profile",      FIELD(profile),      "off",  0, 0, NULL, "time every operation instead: a Markdown table"},
    {"plans",        FIELD(plans),        "auto", 0, 0, NULL, "file of the fastest matrix products, as for train; off: the library's first choices"},
    {"tune",         FIELD(tune),         "off",  0, 0, NULL, "search for them first, and write the file"},
    {"seed",         FIELD(seed),         "0",    0, 1e15, NULL, "of weights, images and their order"},
};
/* clang-format on */
enum { N_OPTIONS = sizeof options / sizeof *options };

enum {
    CLASSES = 10, /* that occur */
    BANDS = 4,    /* of an image: bright or dark by a bit of its class */
    STRAY = 4     /* one label in so many is drawn anew */
};

typedef struct {
    const config *c;
    hn_device *device;
    hn_bench_ranks ranks;
    hn_vision_config model;
    hn_image_set *set;
    hn_image_loader *loader;
    hn_classifier_job job;
    hn_adapt adapt;
    hn_engine *engine;
    hn_feed *feed;
    hn_step_bench steps;
} bench;

/* ---- images and weights ---- */

/* Noise, brighter in those of four bands whose bit is set in the class: the loss falls, while the
 * stray labels keep gradients from vanishing. bench/peer_vision.py makes them alike. */
static void fill_image(const bench *b, int64_t i, uint8_t *pixel, int32_t *label)
{
    const int64_t side = b->model.image, row = side * b->model.channels, n = side * row;
    const uint64_t seed = (uint64_t)b->c->seed;
    const hn_rng noise = hn_rng_make(seed, 0, hn_hash_name("images"));
    const hn_rng labels = hn_rng_make(seed, 0, hn_hash_name("labels"));
    const uint64_t class = hn_rng_below(labels, (uint64_t)i, 0, CLASSES);
    const bool stray = hn_rng_below(labels, (uint64_t)i, 1, STRAY) == 0;
    uint8_t byte[16];
    for (int64_t k = 0; k < n; k++) {
        const int64_t band = k / row * BANDS / side;
        const int bright = class >> band & 1 ? 64 : 0;
        uint32_t w[4];
        if (k % 16 == 0) {
            hn_rng_block(noise, (uint64_t)i, (uint32_t)(k / 16), w);
            memcpy(byte, w, sizeof byte);
        }
        pixel[k] = (uint8_t)(byte[k % 16] % 192 + bright);
    }
    *label = (int32_t)(stray ? hn_rng_below(labels, (uint64_t)i, 2, CLASSES) : class);
}

static hn_status make_set(bench *b)
{
    const hn_vision_config *m = &b->model;
    const int64_t n = b->c->images, each = m->image * m->image * m->channels;
    uint8_t *pixel = hn_malloc((size_t)(n * each));
    int32_t *label = hn_malloc((size_t)n * sizeof *label);
    hn_status st = HN_OK;
    if (pixel == NULL || label == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " images", n);
        goto done;
    }
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++) fill_image(b, i, pixel + i * each, label + i);
    const hn_images view = {.count = n,
                            .h = m->image,
                            .w = m->image,
                            .c = (int)m->channels,
                            .pixel = pixel,
                            .label = label,
                            .n_classes = (int32_t)m->classes};
    st = hn_image_set_make(&view, "noise", &b->set);

done:
    hn_free(pixel);
    hn_free(label);
    return st;
}

static hn_status random_weights(const bench *b)
{
    const hn_params *params = hn_engine_params(b->engine);
    for (int64_t i = 0; i < hn_params_count(params); i++)
        HN_TRY(hn_param_init(hn_params_at(params, i), (uint64_t)b->c->seed));
    return HN_OK;
}

static hn_adapt_kind train_all(const void *context, const char *name)
{
    (void)context, (void)name;
    return HN_ADAPT_FULL;
}

/* ---- steps ---- */

static hn_status enqueue_step(void *context, int64_t step)
{
    const bench *b = context;
    hn_engine_input in;
    HN_TRY(hn_engine_batch(b->engine, &in));
    HN_TRY(b->feed->next(b->feed, &in));
    return hn_engine_step(b->engine, step, b->c->lr, NULL);
}

/* ---- set-up ---- */

static hn_status open_data(bench *b)
{
    const config *c = b->c;
    HN_TRY(make_set(b));
    const hn_image_loader_options o = {.batch = c->batch,
                                       .seed = (uint64_t)c->seed,
                                       .shuffle = true,
                                       .resident_bytes = hn_image_set_bytes(b->set)};
    return hn_image_loader_open(b->set, NULL, &o, &b->loader);
}

static void init_job(bench *b)
{
    const config *c = b->c;
    const bool augment = strcmp(c->augment, "crop-flip") == 0;
    const hn_classifier_options o = {
        .config = &b->model,
        .batch = c->batch,
        .train = hn_image_set_view(b->set),
        .augment = {.pad = augment ? 4 : 0, .flip = augment ? 0.5f : 0},
        .dtype = strcmp(c->dtype, "bf16") == 0 ? HN_BF16 : HN_F32,
        .attention = hn_attention_of(c->attention),
    };
    hn_classifier_job_init(&b->job, &o);
}

static hn_status make_engine(bench *b)
{
    const config *c = b->c;
    const bool sgd = strcmp(c->optimizer, "sgd") == 0;
    b->adapt = (hn_adapt){.parameter = train_all};
    const hn_engine_options o = {
        .device = b->device,
        .executor = hn_executor_of(c->executor),
        .job = &b->job.job,
        .adapt = &b->adapt,
        .dtype = b->job.o.dtype,
        .train = true,
        .recompute = hn_recompute_of(c->recompute),
        .optimizer = {.kind = sgd ? HN_OPTIMIZER_SGD : HN_OPTIMIZER_ADAMW,
                      .beta1 = 0.9,
                      .beta2 = 0.999,
                      .eps = 1e-8,
                      .momentum = 0.9,
                      .weight_decay = c->weight_decay},
        .seed = (uint64_t)c->seed,
    };
    HN_TRY(hn_engine_new(&o, &b->engine));
    return hn_engine_allocate(b->engine);
}

static hn_status set_up(bench *b)
{
    const config *c = b->c;
    const hn_log log = hn_step_bench_log(PROGRAM);
    if (b->ranks.device != NULL)
        b->device = b->ranks.device;
    else
        HN_TRY(hn_device_open(c->device, &b->device));
    if (!c->tune) HN_TRY(hn_tune_use(b->device, c->plans, &log));
    HN_TRY(hn_vision_config_named(c->model, NULL, &b->model));
    HN_TRY(open_data(b));
    init_job(b);
    HN_TRY(make_engine(b));
    b->steps = (hn_step_bench){.device = b->device,
                               .engine = b->engine,
                               .enqueue = enqueue_step,
                               .context = b,
                               .rows = c->batch * b->ranks.size,
                               .warmup = c->warmup,
                               .steps = c->steps,
                               .seconds = b->ranks.size > 1 ? 0 : c->seconds};
    if (c->tune)
        HN_TRY(hn_step_bench_tune(&b->steps, c->plans));
    else
        hn_tune_tell(b->device, &log);
    HN_TRY(random_weights(b));
    HN_TRY(hn_image_feed_new(b->loader, &b->job, &b->feed));
    b->feed->share = (hn_share){b->ranks.rank, b->ranks.size, b->ranks.size};
    return b->feed->start(b->feed, 0);
}

/* ---- result ---- */

static hn_status print_result(bench *b)
{
    const config *c = b->c;
    json_t *own =
        json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:s, s:s}", "who", "hone", "gpus", b->ranks.size,
                  "model", c->model, "dtype", c->dtype, "batch", (json_int_t)c->batch, "images",
                  (json_int_t)c->images, "augment", c->augment, "optimizer", c->optimizer);
    return hn_step_bench_print(&b->steps, own, "images", c->tune);
}

static hn_status measure(const void *given)
{
    const config *c = given;
    bench b = {.c = c};
    const hn_log log = hn_step_bench_log(PROGRAM);
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
    hn_feed_free(b.feed);
    hn_engine_free(b.engine);
    hn_image_loader_free(b.loader);
    hn_image_set_free(b.set);
    if (b.ranks.device == NULL) hn_device_close(b.device);
    hn_bench_ranks_close(&b.ranks, st);
    return st;
}

int main(int argc, char **argv)
{
    static const hn_step_program program = {
        .name = PROGRAM,
        .summary = "training steps of an image classifier with random weights",
        .options = options,
        .n_options = N_OPTIONS,
        .measure = measure,
    };
    config c = {0};
    return hn_step_bench_main(&program, argc, argv, &c);
}
