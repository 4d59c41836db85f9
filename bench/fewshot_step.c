/* hone-bench-fewshot: fine-tuning of few-shot episodes, a group at once, with random weights.
 *
 * Every episode is made-up images of so many classes; it takes K steps (runtime/train/
 * few_shot_tune.h) from the same values, with its knots read back where the set has a theta. The
 * first groups warm up, then the time of every group is taken until --seconds are over. Prints one
 * JSON object: episodes/s, steps/s and images/s (support and query views alike) over the whole of
 * that time, times of a group (20th, 50th, 80th percentile), memory, and the mean loss of the
 * clean support images before and behind the steps.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/step_bench.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/rng.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/few_shot_tune.h"
#include "runtime/train/tune.h"

static const char PROGRAM[] = "hone-bench-fewshot";

typedef struct {
    const char *model, *dtype, *set, *attention, *device, *executor, *plans;
    int64_t at_once, way, shot, queries, side, images, k, knot_every, rank, warmup, groups, seed;
    double seconds, lr;
    bool profile, tune, plan;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"model",      FIELD(model),      "vit_tiny_patch16_224", 0, 0, NULL, "name of a vision transformer"},
    {"dtype",      FIELD(dtype),      "bf16", 0, 0, "f32|bf16", "of activations and of the weights that products read; masters are fp32"},
    {"set",        FIELD(set),        "qv",   0, 0, HN_TUNE_SETS, "what is trained"},
    {"rank",       FIELD(rank),       "0",    0, 1024, NULL, "of lora"},
    {"at-once",    FIELD(at_once),    "32",   1, 4096, NULL, "episodes in a group"},
    {"way",        FIELD(way),        "5",    2, 64, NULL, "classes of an episode"},
    {"shot",       FIELD(shot),       "5",    1, 1000, NULL, "support images of each"},
    {"queries",    FIELD(queries),    "0",    0, 1000, NULL, "query images of each; 0: trajectories alone"},
    {"side",       FIELD(side),       "32",   1, 1024, NULL, "of the images in memory, in pixels; they are resized to the model's"},
    {"images",     FIELD(images),     "20000", 1, 10000000, NULL, "of the set they come from"},
    {"k",          FIELD(k),          "50",   0, 10000, NULL, "steps of an episode"},
    {"knot-every", FIELD(knot_every), "5",    0, 10000, NULL, "steps between knots of qv and biases; 0: none"},
    {"lr",         FIELD(lr),         "1e-3", 0, 10, NULL, "learning rate of Adam"},
    {"warmup",     FIELD(warmup),     "1",    1, 1000, NULL, "groups before the clock starts"},
    {"seconds",    FIELD(seconds),    "6",    0, 3600, NULL, "the clock runs at least so long"},
    {"groups",     FIELD(groups),     "2",    1, 100000, NULL, "and at least so many groups"},
    {"attention",  FIELD(attention),  "auto", 0, 0, "auto|hone|cudnn|fast", "as in the trainers"},
    {"device",     FIELD(device),     "cuda", 0, 0, NULL, "cuda, cuda:N or cpu"},
    {"executor",   FIELD(executor),   "auto", 0, 0, "auto|cuda-graph|cuda|cuda-check", "on a GPU: captured (auto), or one by one"},
    {"profile",    FIELD(profile),    "off",  0, 0, NULL, "time every operation of a step instead: a Markdown table"},
    {"plan",       FIELD(plan),       "off",  0, 0, NULL, "print the plans of memory on standard error, too"},
    {"plans",      FIELD(plans),      "auto", 0, 0, NULL, "file of the fastest matrix products, as for train; off: the library's first choices"},
    {"tune",       FIELD(tune),       "off",  0, 0, NULL, "search for them first, and write the file"},
    {"seed",       FIELD(seed),       "0",    0, 1e15, NULL, "of weights, images and episodes"},
};
/* clang-format on */
enum { N_OPTIONS = sizeof options / sizeof *options, MAX_GROUPS = 1 << 16, CLASSES = 64 };

typedef struct {
    const config *c;
    hn_device *device;
    hn_model model;
    hn_image_set *set;
    hn_few_shot_tuner *tuner;
    hn_episode *episode;    /* [at_once] */
    hn_few_shot_task *task; /* [at_once] */
    double first, last;     /* mean losses of the running group */
    double *group_ms;       /* timed groups */
    int64_t n_groups;
    double elapsed_s;
} bench;

/* ---- images, episodes ---- */

/* Noise, brighter in those of six bands whose bit is set in the class, i mod CLASSES. */
static hn_status make_set(bench *b)
{
    const int64_t n = b->c->images, side = b->c->side, channels = b->model.vision.channels;
    const int64_t row = side * channels, each = side * row;
    const hn_rng noise = hn_rng_make((uint64_t)b->c->seed, 0, hn_hash_name("images"));
    uint8_t *pixel = hn_malloc((size_t)(n * each));
    int32_t *label = hn_malloc((size_t)n * sizeof *label);
    hn_status st = HN_OK;
    if (pixel == NULL || label == NULL)
        HN_TRY_GOTO(st, HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " images", n), done);
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        label[i] = (int32_t)(i % CLASSES);
        for (int64_t k = 0; k < each; k++)
            pixel[i * each + k] = (uint8_t)(hn_rng_u32(noise, (uint64_t)i, (uint32_t)k) % 192 +
                                            (label[i] >> (k / row * 6 / side) & 1 ? 63 : 0));
    }
    const hn_images view = {.count = n,
                            .h = side,
                            .w = side,
                            .c = (int)channels,
                            .pixel = pixel,
                            .label = label,
                            .n_classes = CLASSES};
    HN_TRY_GOTO(st, hn_image_set_make(&view, "noise", &b->set), done);

done:
    hn_free(pixel);
    hn_free(label);
    return st;
}

static hn_status make_episodes(bench *b)
{
    const config *c = b->c;
    const int64_t support = c->way * c->shot, queries = c->way * c->queries;
    if (c->images < CLASSES * (c->shot + c->queries))
        return HN_FAIL(HN_ERR_ARG, "--images: at least %" PRId64, CLASSES * (c->shot + c->queries));
    b->episode = hn_calloc((size_t)c->at_once, sizeof *b->episode);
    b->task = hn_calloc((size_t)c->at_once, sizeof *b->task);
    if (b->episode == NULL || b->task == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " episodes", c->at_once);
    for (int64_t g = 0; g < c->at_once; g++) {
        hn_episode *e = &b->episode[g];
        e->way = (int32_t)c->way;
        e->n_support = (int32_t)support;
        e->n_query = (int32_t)queries;
        e->support = hn_calloc((size_t)(2 * (support + queries)), sizeof *e->support);
        if (e->support == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for an episode");
        e->support_label = e->support + support;
        e->query = e->support_label + support;
        e->query_label = e->query + queries;
        b->task[g] = (hn_few_shot_task){.episode = e, .lr = c->lr};
    }
    return HN_OK;
}

/* Group number `group`: its classes and images follow those of the one before. */
static void draw_episodes(bench *b, int64_t group)
{
    const config *c = b->c;
    const int64_t of_class = c->images / CLASSES, each = c->shot + c->queries;
    for (int64_t g = 0; g < c->at_once; g++) {
        hn_episode *e = &b->episode[g];
        e->number = group * c->at_once + g;
        b->task[g].seed = (uint64_t)(c->seed + e->number);
        for (int64_t w = 0; w < c->way; w++)
            for (int64_t i = 0; i < each; i++) {
                const int64_t class = (e->number * c->way + w) % CLASSES;
                const int64_t image = (e->number * each + i) % of_class * CLASSES + class;
                const bool query = i >= c->shot;
                const int64_t at = query ? w * c->queries + i - c->shot : w * c->shot + i;
                (query ? e->query : e->support)[at] = (int32_t)image;
                (query ? e->query_label : e->support_label)[at] = (int32_t)w;
            }
    }
}

/* ---- set-up ---- */

static hn_tune_set set_of(const char *name)
{
    const char *at = strstr(HN_TUNE_SETS, name);
    int set = 0;
    for (const char *p = HN_TUNE_SETS; p < at; p++) set += *p == '|';
    return (hn_tune_set)set;
}

static hn_status set_up(bench *b)
{
    const config *c = b->c;
    const hn_log log = hn_step_bench_log(PROGRAM);
    HN_TRY(hn_device_open(c->device, &b->device));
    if (!c->tune) HN_TRY(hn_tune_use(b->device, c->plans, &log));
    HN_TRY(hn_model_open(c->model, c->dtype, &log, &b->model));
    HN_TRY(make_set(b));
    HN_TRY(make_episodes(b));
    const hn_tune_set set = set_of(c->set);
    const hn_few_shot_tune_options o = {
        .device = b->device,
        .executor = hn_executor_of(c->executor),
        .model = &b->model,
        .images = hn_image_set_view(b->set),
        .set = set,
        .rank = c->rank,
        .at_once = c->at_once,
        .support = c->way * c->shot,
        .queries = c->way * c->queries,
        .ways = c->way,
        .steps = c->k,
        .knot_every = set == HN_TUNE_QV || set == HN_TUNE_BIASES ? c->knot_every : 0,
        .augment = 0.9f,
        .scale = 10,
        .attention = hn_attention_of(c->attention),
        .recompute = HN_RECOMPUTE_AUTO,
        .seed = (uint64_t)c->seed};
    HN_TRY(hn_few_shot_tuner_new(&o, &b->tuner));
    if (c->plan) {
        char *text = hn_few_shot_tuner_plan_text(b->tuner);
        if (text) fputs(text, stderr);
        hn_free(text);
    }
    HN_TRY(hn_few_shot_tuner_open(b->tuner));
    b->group_ms = hn_malloc(MAX_GROUPS * sizeof *b->group_ms);
    return b->group_ms ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the times of groups");
}

/* ---- groups ---- */

static hn_status take(void *context, int64_t i, const hn_few_shot_result *r)
{
    bench *b = context;
    if (r->skipped > 0)
        return HN_FAIL(HN_ERR_NUMERIC, "episode %" PRId64 ": %" PRId64 " steps were no numbers", i,
                       r->skipped);
    b->first += r->loss_first / (double)b->c->at_once;
    b->last += r->loss_last / (double)b->c->at_once;
    return HN_OK;
}

static hn_status run_group(bench *b, int64_t group)
{
    draw_episodes(b, group);
    b->first = b->last = 0;
    return hn_few_shot_tune(b->tuner, b->task, b->c->at_once, take, b);
}

static hn_status warm_up(bench *b)
{
    const config *c = b->c;
    for (int64_t i = 0; i < c->warmup; i++) HN_TRY(run_group(b, i));
    hn_step_bench t = {.device = b->device, .engine = hn_few_shot_tuner_engine(b->tuner)};
    return c->tune ? hn_step_bench_tune(&t, c->plans) : HN_OK;
}

static hn_status run_groups(bench *b)
{
    const config *c = b->c;
    const int64_t begin = hn_clock_ns();
    int64_t last = begin;
    while ((b->n_groups < c->groups || (double)(last - begin) < 1e9 * c->seconds) &&
           b->n_groups < MAX_GROUPS) {
        HN_TRY(run_group(b, c->warmup + b->n_groups));
        const int64_t now = hn_clock_ns();
        b->group_ms[b->n_groups++] = 1e-6 * (double)(now - last);
        last = now;
    }
    b->elapsed_s = 1e-9 * (double)(last - begin);
    return HN_OK;
}

static hn_status profile(bench *b)
{
    hn_profile *p = NULL;
    hn_engine *e = hn_few_shot_tuner_engine(b->tuner);
    HN_TRY(hn_profile_new(&p));
    hn_engine_profile(e, p);
    hn_status st = run_group(b, b->c->warmup);
    hn_engine_profile(e, NULL);
    char *text = st == HN_OK ? hn_profile_text(p, b->c->k > 0 ? b->c->k : 1) : NULL;
    if (text) fputs(text, stdout);
    if (st == HN_OK && text == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for the table");
    hn_free(text);
    hn_profile_free(p);
    return st;
}

/* ---- result ---- */

static hn_status print_result(bench *b)
{
    const config *c = b->c;
    const double episodes = (double)(b->n_groups * c->at_once), gib = 1.0 / (1 << 30);
    const double views = episodes * (double)(2 * c->k * c->way * c->shot);
    const hn_engine *e = hn_few_shot_tuner_engine(b->tuner);
    hn_plan_sizes plan;
    size_t used = 0;
    char notes[4096];
    hn_plan_notes(hn_engine_program(e), ';', notes, sizeof notes);
    hn_plan_sizes_of(hn_engine_program(e), &plan);
    HN_TRY(hn_device_used(b->device, &used));
    hn_step_bench_sort(b->group_ms, b->n_groups);
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:[f,f,f], s:f, "
        "s:f, s:f, s:f, s:I, s:s, s:s, s:s}",
        "who", "hone", "model", c->model, "dtype", c->dtype, "set", c->set, "trained",
        (json_int_t)hn_few_shot_tuner_trained(b->tuner), "at_once", (json_int_t)c->at_once, "way",
        (json_int_t)c->way, "shot", (json_int_t)c->shot, "queries", (json_int_t)c->queries, "k",
        (json_int_t)c->k, "episodes_per_s", episodes / b->elapsed_s, "steps_per_s",
        (double)(b->n_groups * c->k) / b->elapsed_s, "images_per_s", views / b->elapsed_s, "groups",
        (json_int_t)b->n_groups, "group_ms", hn_step_bench_quantile(b->group_ms, b->n_groups, 0.2),
        hn_step_bench_quantile(b->group_ms, b->n_groups, 0.5),
        hn_step_bench_quantile(b->group_ms, b->n_groups, 0.8), "peak_gib", (double)used * gib,
        "plan_gib", (double)plan.total_bytes * gib, "loss_first", isfinite(b->first) ? b->first : 0,
        "loss_last", isfinite(b->last) ? b->last : 0, "nodes", (json_int_t)plan.n_nodes, "executor",
        hn_executor_name(hn_engine_executor(e)), "device", hn_device_text(b->device), "notes",
        notes);
    char *text = o ? json_dumps(o, JSON_REAL_PRECISION(15)) : NULL;
    if (text) puts(text);
    const hn_status st = text ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the result");
    free(text); /* jansson's */
    json_decref(o);
    return st;
}

static hn_status measure(const void *given)
{
    const config *c = given;
    bench b = {.c = c};
    hn_status st = set_up(&b);
    if (st == HN_OK) st = warm_up(&b);
    if (st == HN_OK && c->profile) {
        st = profile(&b);
    } else if (st == HN_OK) {
        st = run_groups(&b);
        if (st == HN_OK) st = print_result(&b);
    }
    hn_few_shot_tuner_free(b.tuner);
    for (int64_t g = 0; g < c->at_once && b.episode; g++) hn_free(b.episode[g].support);
    hn_free(b.episode);
    hn_free(b.task);
    hn_free(b.group_ms);
    hn_image_set_free(b.set);
    hn_model_close(&b.model);
    hn_device_close(b.device);
    return st;
}

int main(int argc, char **argv)
{
    static const hn_step_program program = {
        .name = PROGRAM,
        .summary = "fine-tuning of few-shot episodes with random weights",
        .options = options,
        .n_options = N_OPTIONS,
        .measure = measure,
    };
    config c = {0};
    return hn_step_bench_main(&program, argc, argv, &c);
}
