/* hone-bench-drift: what a drift network costs, with random weights.
 *
 *   train      steps of its training: --episodes tasks of 16 points each
 *   integrate  from features of the support images to theta, --steps steps, --episodes tasks at
 *              once
 *   adapt      from support images to theta: encoder, integration; what a task costs a device that
 *              has no use for the predictions yet, and plan_gib is the memory that it takes (beside
 *              a step of full fine-tuning: hone-hyperflow plan)
 *   whole      from images to predictions: encoder, integration, backbone with the new biases
 *
 * All but train: runs of which the host waits for each (latency: run_ms), then runs behind
 * each other until --seconds are over (episodes_per_s); every run sends its inputs anew. Prints one
 * JSON object; flops are those of matrix products, convolutions and attention of a run.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bench/step_bench.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/convert.h"
#include "runtime/base/label.h"
#include "runtime/base/rng.h"
#include "runtime/base/version.h"
#include "runtime/train/adaptor.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/drift_job.h"
#include "runtime/train/tune.h"

static const char PROGRAM[] = "hone-bench-drift";

typedef struct {
    const char *form, *model, *encoder, *integrator, *dtype, *device, *executor, *attention, *plans;
    int64_t encoder_image, episodes, ways, shots, queries, steps, points, width, blocks, warmup,
        runs, seed;
    double seconds;
    bool profile, tune;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"form",       FIELD(form),       "integrate", 0, 0, "train|integrate|adapt|whole", "what is timed"},
    {"model",      FIELD(model),      "vit_tiny_patch16_224", 0, 0, NULL, "backbone: its biases of queries and values are the tokens"},
    {"encoder",    FIELD(encoder),    "resnet18", 0, 0, NULL, "of support images"},
    {"encoder-image", FIELD(encoder_image), "128", 8, 1024, NULL, "side of the images that it reads, and of all images of the set"},
    {"width",      FIELD(width),      "256", 64, 4096, NULL, "of the drift network, heads of 64, MLP four times as wide"},
    {"blocks",     FIELD(blocks),     "4",    1, 64, NULL, "of the drift network"},
    {"episodes",   FIELD(episodes),   "256",  1, 65536, NULL, "tasks at once"},
    {"ways",       FIELD(ways),       "5",    1, 64, NULL, "classes of a task"},
    {"shots",      FIELD(shots),      "5",    1, 512, NULL, "support images of a class"},
    {"queries",    FIELD(queries),    "15",   1, 512, NULL, "query images of a class, of whole"},
    {"steps",      FIELD(steps),      "10",   1, 1000, NULL, "of the integration"},
    {"integrator", FIELD(integrator), "euler", 0, 0, "euler|midpoint|rk4", "how many slopes a step has: 1, 2, 4"},
    {"points",     FIELD(points),     "16",   1, 1024, NULL, "of a task, in training"},
    {"dtype",      FIELD(dtype),      "bf16", 0, 0, "f32|bf16", "of activations and weights"},
    {"warmup",     FIELD(warmup),     "5",    1, 1000, NULL, "runs before the clock starts"},
    {"seconds",    FIELD(seconds),    "3",    0, 3600, NULL, "the clock runs at least so long"},
    {"runs",       FIELD(runs),       "5",    1, 100000, NULL, "and at least so many runs"},
    {"device",     FIELD(device),     "cuda", 0, 0, NULL, "cuda, cuda:N or cpu"},
    {"executor",   FIELD(executor),   "auto", 0, 0, "auto|cuda-graph|cuda", "on a GPU: captured (auto), or one by one"},
    {"attention",  FIELD(attention),  "auto", 0, 0, "auto|hone|cudnn|fast", "as in the trainers"},
    {"profile",    FIELD(profile),    "off",  0, 0, NULL, "time every operation instead: a Markdown table"},
    {"plans",      FIELD(plans),      "auto", 0, 0, NULL, "file of the fastest matrix products, as for train; off: the library's first choices"},
    {"tune",       FIELD(tune),       "off",  0, 0, NULL, "search for them first, and write the file"},
    {"seed",       FIELD(seed),       "0",    0, 1e15, NULL, "of weights and inputs"},
};
/* clang-format on */
enum { N_OPTIONS = sizeof options / sizeof *options, MAX_RUNS = 1 << 16 };

enum {
    IMAGES = 512, /* of the set that tasks draw from */
    TRAJECTORIES = 4,
    KNOTS = 11
};

typedef struct {
    const config *c;
    hn_device *device;
    hn_vision_config model, encoder;
    hn_theta theta;
    hn_drift_config drift;
    int64_t support; /* images of a task */
    uint8_t *pixel;
    float *numbers; /* features, and whatever else is random */
    int64_t n_numbers;
    hn_images images;
    hn_adaptor *adaptor;
    double *ms; /* [n] of runs that were waited for */
    int64_t n;
    double runs_per_s;
    /* train */
    hn_drift_data data;
    hn_drift_job job;
    hn_adapt adapt;
    hn_curve *curve;
    hn_engine *engine;
    hn_step_bench steps;
} bench;

/* Support images, not their features, are what a run begins with. */
static bool encodes(const config *c)
{
    return strcmp(c->form, "adapt") == 0 || strcmp(c->form, "whole") == 0;
}

static bool classifies(const config *c) { return strcmp(c->form, "whole") == 0; }

static hn_dtype dtype_of(const config *c)
{
    return strcmp(c->dtype, "bf16") == 0 ? HN_BF16 : HN_F32;
}

/* ---- made-up data ---- */

static hn_status make_numbers(bench *b)
{
    const hn_rng r = hn_rng_make((uint64_t)b->c->seed, 0, hn_hash_name("numbers"));
    const int64_t bytes = IMAGES * b->encoder.image * b->encoder.image * b->encoder.channels;
    b->n_numbers = IMAGES * b->drift.features;
    b->numbers = hn_malloc((size_t)b->n_numbers * sizeof *b->numbers);
    b->pixel = hn_malloc((size_t)bytes);
    if (b->numbers == NULL || b->pixel == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %d images", IMAGES);
    for (int64_t i = 0; i < b->n_numbers; i++)
        b->numbers[i] = 2 * hn_rng_unit(hn_rng_u32(r, (uint64_t)i, 0)) - 1;
    for (int64_t i = 0; i < bytes; i++)
        b->pixel[i] = (uint8_t)hn_rng_u32(r, (uint64_t)(i / 4096), (uint32_t)(1 + i % 4096));
    b->images = (hn_images){.count = IMAGES,
                            .h = b->encoder.image,
                            .w = b->encoder.image,
                            .c = (int)b->encoder.channels,
                            .pixel = b->pixel};
    return HN_OK;
}

/* Number k of task e: some image. */
static int32_t image_of(int64_t e, int64_t k) { return (int32_t)((31 * e + 7 * k) % IMAGES); }

static hn_status open_models(bench *b)
{
    const config *c = b->c;
    HN_TRY(hn_vision_config_named(c->model, NULL, &b->model));
    const hn_vision_override side = {.image = c->encoder_image};
    HN_TRY(hn_vision_config_named(c->encoder, &side, &b->encoder));
    HN_TRY(hn_theta_make(&b->model, HN_THETA_QV, &b->theta));
    b->drift =
        hn_drift_config_default(b->theta.tokens, b->theta.width, hn_vision_width(&b->encoder));
    b->drift.width = c->width;
    b->drift.heads = c->width / 64;
    b->drift.intermediate = 4 * c->width;
    b->drift.blocks = c->blocks;
    b->support = c->ways * c->shots;
    if (b->support + 4 > IMAGES || c->ways * c->queries > IMAGES)
        return HN_FAIL(HN_ERR_ARG, "%s: tasks draw from %d images", PROGRAM, IMAGES);
    return make_numbers(b);
}

static hn_status random_weights(const bench *b, const hn_params *p)
{
    for (int64_t i = 0; p != NULL && i < hn_params_count(p); i++)
        HN_TRY(hn_param_init(hn_params_at(p, i), (uint64_t)b->c->seed));
    return HN_OK;
}

/* ---- training ---- */

/* Every trajectory has the same knots: what they say makes no difference to the time. */
static hn_status make_data(bench *b)
{
    const config *c = b->c;
    const int64_t n = TRAJECTORIES * c->episodes, numbers = KNOTS * b->theta.count;
    const int64_t rows = c->episodes * b->support;
    const size_t bytes = (size_t)n * (sizeof(hn_f16 *) + sizeof(float)) +
                         (size_t)(c->episodes + 1) * sizeof(int64_t) +
                         (size_t)(c->episodes + 2 * rows) * sizeof(int32_t) +
                         (size_t)numbers * sizeof(hn_f16);
    b->data = (hn_drift_data){.n = n,
                              .knots = KNOTS,
                              .tasks = c->episodes,
                              .support = b->support,
                              .memory = hn_calloc(1, bytes)};
    if (b->data.memory == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes of trajectories", bytes);
    const hn_f16 **const knot = b->data.memory;
    int64_t *const first = (int64_t *)(void *)(knot + n);
    float *const unit = (float *)(void *)(first + c->episodes + 1);
    int32_t *const images = (int32_t *)(void *)(unit + n);
    int32_t *const row = images + c->episodes, *const label = row + rows;
    hn_f16 *const values = (hn_f16 *)(void *)(label + rows);
    for (int64_t i = 0; i < numbers; i++)
        hn_from_f32(&b->numbers[i % b->n_numbers], 1, values, HN_F16, i);
    for (int64_t i = 0; i < n; i++) knot[i] = values, unit[i] = 1e-3f;
    for (int64_t e = 0; e <= c->episodes; e++) first[e] = TRAJECTORIES * e;
    for (int64_t e = 0; e < c->episodes; e++) images[e] = (int32_t)b->support;
    for (int64_t i = 0; i < rows; i++) {
        row[i] = image_of(i / b->support, i % b->support);
        label[i] = (int32_t)(i % b->support / c->shots);
    }
    b->data.knot = knot, b->data.unit = unit, b->data.first = first, b->data.images = images;
    b->data.row = row, b->data.label = label;
    return HN_OK;
}

static hn_status enqueue_step(void *context, int64_t step)
{
    const bench *b = context;
    const config *c = b->c;
    hn_engine_input in;
    HN_TRY(hn_engine_batch(b->engine, &in));
    const hn_drift_batch batch = hn_drift_batch_empty(&b->job, &in);
    for (int64_t e = 0; e < c->episodes; e++) {
        hn_drift_put_task(&batch, e, e);
        for (int64_t k = 0; k < c->points; k++)
            HN_TRY(hn_drift_put_point(&batch, e, k, TRAJECTORIES * e + k % TRAJECTORIES, b->curve,
                                      (double)((step + k) % 64) / 64));
    }
    return hn_engine_step(b->engine, step, 3e-4, NULL);
}

static hn_adapt_kind train_all(const void *context, const char *name)
{
    (void)context, (void)name;
    return HN_ADAPT_FULL;
}

static hn_status open_training(bench *b)
{
    const config *c = b->c;
    float *sigma = hn_malloc((size_t)b->theta.tokens * sizeof *sigma);
    if (sigma == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for sigma");
    for (int64_t i = 0; i < b->theta.tokens; i++) sigma[i] = 0.01f;
    const hn_drift_job_options o = {
        .config = &b->drift,
        .data = &b->data,
        .features = b->numbers,
        .feature_rows = IMAGES,
        .sigma = sigma,
        .rows = {.tasks = c->episodes, .support = b->support, .points = c->points},
        .noise = 0.05f,
        .dtype = dtype_of(c),
        .attention = hn_attention_of(c->attention)};
    b->adapt = (hn_adapt){.parameter = train_all};
    const hn_engine_options eo = {.device = b->device,
                                  .executor = hn_executor_of(c->executor),
                                  .job = &b->job.job,
                                  .adapt = &b->adapt,
                                  .dtype = o.dtype,
                                  .train = true,
                                  .optimizer = {.kind = HN_OPTIMIZER_ADAMW,
                                                .beta1 = 0.9,
                                                .beta2 = 0.999,
                                                .eps = 1e-8,
                                                .weight_decay = 0.01},
                                  .average = 0.999,
                                  .seed = (uint64_t)c->seed};
    hn_status st = make_data(b);
    if (st == HN_OK) st = hn_drift_job_init(&b->job, &o);
    if (st == HN_OK) st = hn_curve_make(HN_CURVE_SPLINE, KNOTS, &b->curve);
    if (st == HN_OK) st = hn_engine_new(&eo, &b->engine);
    if (st == HN_OK) st = hn_engine_allocate(b->engine); /* copies sigma */
    hn_free(sigma);
    return st;
}

static hn_status train(bench *b)
{
    const config *c = b->c;
    HN_TRY(open_training(b));
    b->steps = (hn_step_bench){.device = b->device,
                               .engine = b->engine,
                               .enqueue = enqueue_step,
                               .context = b,
                               .rows = c->episodes * c->points,
                               .warmup = c->warmup,
                               .steps = c->runs,
                               .seconds = c->seconds};
    if (c->tune) HN_TRY(hn_step_bench_tune(&b->steps, c->plans));
    HN_TRY(random_weights(b, hn_engine_params(b->engine)));
    if (c->profile) return hn_step_bench_profile(&b->steps);
    HN_TRY(hn_step_bench_run(&b->steps));
    const hn_drift_rows rows = b->job.o.rows;
    json_t *own = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:f}", "who", "hone", "form", c->form, "dtype",
        c->dtype, "episodes", (json_int_t)c->episodes, "support", (json_int_t)b->support, "points",
        (json_int_t)c->points, "width", (json_int_t)c->width, "tokens", (json_int_t)b->theta.tokens,
        "forward_gflop",
        1e-9 * (hn_drift_task_flops(&b->drift, &rows) + hn_drift_slope_flops(&b->drift, &rows)));
    return hn_step_bench_print(&b->steps, own, "points", c->tune);
}

/* ---- adaptation ---- */

static hn_status open_adaptor(bench *b)
{
    const config *c = b->c;
    hn_adaptor_options o = {.device = b->device,
                            .executor = hn_executor_of(c->executor),
                            .drift = &b->drift,
                            .steps = c->steps,
                            .episodes = c->episodes,
                            .support = b->support,
                            .dtype = dtype_of(c),
                            .attention = hn_attention_of(c->attention),
                            .workspace = c->episodes == 1 ? HN_ADAPTOR_WORKSPACE : 0};
    while (strcmp(hn_integrator_of(o.integrator)->name, c->integrator) != 0) o.integrator++;
    if (encodes(c)) {
        o.encoder = &b->encoder;
        o.images = &b->images;
        o.theta = &b->theta;
    }
    if (classifies(c)) {
        o.backbone = &b->model;
        o.queries = c->ways * c->queries;
        o.ways = c->ways;
        o.scale = 10;
    }
    HN_TRY(hn_adaptor_new(&o, &b->adaptor));
    HN_TRY(hn_adaptor_allocate(b->adaptor));
    HN_TRY(random_weights(b, hn_adaptor_drift(b->adaptor)));
    HN_TRY(random_weights(b, hn_adaptor_encoder(b->adaptor)));
    return random_weights(b, hn_adaptor_backbone(b->adaptor));
}

static hn_status put_task(bench *b, const hn_adaptor_batch *batch, int64_t e)
{
    int32_t image[2 * IMAGES], label[2 * IMAGES];
    const config *c = b->c;
    const int64_t queries = classifies(c) ? c->ways * c->queries : 0;
    for (int64_t k = 0; k < b->support + queries; k++) {
        const bool support = k < b->support;
        image[k] = image_of(e, k);
        label[k] = (int32_t)(support ? k / c->shots : (k - b->support) / c->queries);
    }
    const hn_adaptor_task t = {.support = image,
                               .support_label = label,
                               .query = image + b->support,
                               .query_label = label + b->support,
                               .features =
                                   encodes(c) ? NULL : b->numbers + e % 4 * b->drift.features,
                               .n_support = b->support,
                               .n_query = queries};
    return hn_adaptor_put(b->adaptor, batch, e, &t);
}

static hn_status fill(bench *b)
{
    hn_adaptor_batch batch;
    HN_TRY(hn_adaptor_batch_of(b->adaptor, &batch));
    for (int64_t e = 0; e < b->c->episodes; e++) HN_TRY(put_task(b, &batch, e));
    return HN_OK;
}

static hn_status waited(bench *b)
{
    HN_TRY(hn_adaptor_run(b->adaptor));
    return hn_device_wait(b->device);
}

/* One by one for half of the time, then behind each other. */
static hn_status time_runs(bench *b)
{
    const config *c = b->c;
    int64_t begin = hn_clock_ns(), last = begin, runs = 0;
    b->ms = hn_malloc(MAX_RUNS * sizeof *b->ms);
    if (b->ms == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for times");
    while (b->n < MAX_RUNS && (b->n < c->runs || (double)(last - begin) < 5e8 * c->seconds)) {
        HN_TRY(waited(b));
        const int64_t now = hn_clock_ns();
        b->ms[b->n++] = 1e-6 * (double)(now - last);
        last = now;
    }
    begin = last;
    for (; runs < c->runs || (double)(last - begin) < 5e8 * c->seconds; last = hn_clock_ns()) {
        for (int64_t i = 0; i < c->runs; i++, runs++) HN_TRY(hn_adaptor_run(b->adaptor));
        HN_TRY(hn_device_wait(b->device));
    }
    b->runs_per_s = 1e9 * (double)runs / (double)(last - begin);
    return HN_OK;
}

static hn_status print_runs(bench *b)
{
    const config *c = b->c;
    const hn_adaptor_cost cost = hn_adaptor_flops(b->adaptor);
    const double all = cost.encoder + cost.drift + cost.backbone;
    hn_plan_sizes plan;
    hn_plan_sizes_of(hn_engine_program(hn_adaptor_engine(b->adaptor)), &plan);
    hn_step_bench_sort(b->ms, b->n);
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:I, s:I, s:[f,f,f], s:f, s:f, s:f, s:f, s:f, "
        "s:I, s:f, s:s, s:s, s:s}",
        "who", "hone", "form", c->form, "model", c->model, "dtype", c->dtype, "episodes",
        (json_int_t)c->episodes, "support", (json_int_t)b->support, "steps", (json_int_t)c->steps,
        "integrator", c->integrator, "width", (json_int_t)c->width, "runs", (json_int_t)b->n,
        "run_ms", hn_step_bench_quantile(b->ms, b->n, 0.2),
        hn_step_bench_quantile(b->ms, b->n, 0.5), hn_step_bench_quantile(b->ms, b->n, 0.8),
        "episodes_per_s", b->runs_per_s * (double)c->episodes, "tflop_s",
        1e-12 * all * b->runs_per_s, "encoder_gflop", 1e-9 * cost.encoder, "drift_gflop",
        1e-9 * cost.drift, "backbone_gflop", 1e-9 * cost.backbone, "nodes",
        (json_int_t)plan.n_nodes, "plan_gib", (double)plan.total_bytes / (1 << 30), "executor",
        hn_executor_name(hn_engine_executor(hn_adaptor_engine(b->adaptor))), "device",
        hn_device_text(b->device), "versions", "hone " HN_VERSION);
    char *text = o ? json_dumps(o, JSON_REAL_PRECISION(15)) : NULL;
    json_decref(o);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the result");
    puts(text);
    free(text); /* jansson's */
    return HN_OK;
}

static hn_status profile(bench *b)
{
    hn_profile *p = NULL;
    hn_status st = HN_OK;
    HN_TRY(hn_profile_new(&p));
    hn_engine_profile(hn_adaptor_engine(b->adaptor), p);
    for (int64_t i = 0; i < b->c->runs && st == HN_OK; i++) st = waited(b);
    char *text = st == HN_OK ? hn_profile_text(p, b->c->runs) : NULL;
    if (text) fputs(text, stdout);
    if (st == HN_OK && text == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for the table");
    hn_free(text);
    hn_profile_free(p);
    return st;
}

static hn_status adaptation(bench *b)
{
    const config *c = b->c;
    HN_TRY(open_adaptor(b));
    if (c->tune) {
        hn_step_bench s = {.device = b->device, .engine = hn_adaptor_engine(b->adaptor)};
        HN_TRY(hn_step_bench_tune(&s, c->plans));
    }
    HN_TRY(fill(b));
    for (int64_t i = 0; i < c->warmup; i++) HN_TRY(waited(b));
    if (c->profile) return profile(b);
    HN_TRY(time_runs(b));
    return print_runs(b);
}

/* ---- */

static hn_status measure(const void *given)
{
    const config *c = given;
    const hn_log log = hn_step_bench_log(PROGRAM);
    bench b = {.c = c};
    hn_status st = hn_device_open(c->device, &b.device);
    if (st == HN_OK && !c->tune) st = hn_tune_use(b.device, c->plans, &log);
    if (st == HN_OK) st = open_models(&b);
    if (st == HN_OK) st = strcmp(c->form, "train") == 0 ? train(&b) : adaptation(&b);
    hn_step_bench_free(&b.steps);
    hn_adaptor_free(b.adaptor);
    hn_engine_free(b.engine);
    hn_curve_free(b.curve);
    hn_drift_data_free(&b.data);
    hn_theta_free(&b.theta);
    hn_free(b.ms);
    hn_free(b.numbers);
    hn_free(b.pixel);
    hn_device_close(b.device);
    return st;
}

int main(int argc, char **argv)
{
    static const hn_step_program program = {
        .name = PROGRAM,
        .summary = "training, integration and use of a drift network with random weights",
        .options = options,
        .n_options = N_OPTIONS,
        .measure = measure,
    };
    config c = {0};
    return hn_step_bench_main(&program, argc, argv, &c);
}
