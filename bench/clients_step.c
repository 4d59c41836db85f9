/* hone-bench-clients: rounds of federated clients of an image classifier with random weights.
 *
 * Every client has as many made-up images as the others and trains so many epochs on them, from the
 * same values, with every parameter or the head alone; what comes back is read once, as a server
 * would. The first rounds warm up, then the time of every round is taken until --seconds are over.
 * Of several ranks (--gpus, --ranks) each trains its share of the clients, and rank 0 takes all
 * results. Prints one JSON object: client-steps/s and images/s over the whole of that time, round
 * times (20th, 50th, 80th percentile), the share of them in which clients train, memory, mean loss
 * of the first and of the last round.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/step_bench.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/rng.h"
#include "runtime/train/client_batch.h"
#include "runtime/train/client_block.h"
#include "runtime/train/fed_client.h"
#include "runtime/train/fed_ranks.h"
#include "runtime/train/tune.h"

static const char PROGRAM[] = "hone-bench-clients";

typedef struct {
    const char *model, *dtype, *simulation, *payload, *augment, *device, *executor, *plans;
    int64_t clients, at_once, batch, images, epochs, warmup, rounds, seed;
    double seconds, lr, momentum, mu;
    bool profile, tune;
    hn_team_options team;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"model",      FIELD(model),      "femnist-cnn", 0, 0, NULL, "name of an architecture without batch norm: femnist-cnn, cinic-cnn, mnist-cnn, ..."},
    {"dtype",      FIELD(dtype),      "f32",  0, 0, "f32|bf16", "of activations and of the weights that products read; masters are fp32"},
    {"simulation", FIELD(simulation), "replicas", 0, 0, "one|replicas|block", "one client after the other, groups as replicas of one engine, or each in a block of the GPU"},
    {"payload",    FIELD(payload),    "full", 0, 0, "full|head", "what clients train"},
    {"clients",    FIELD(clients),    "100",  1, 100000, NULL, "of a round"},
    {"at-once",    FIELD(at_once),    "100",  2, 65535, NULL, "clients in a group, of each rank"},
    {"batch",      FIELD(batch),      "32",   1, 65536, NULL, "images in a client's step"},
    {"images",     FIELD(images),     "320",  1, 100000, NULL, "of each client"},
    {"epochs",     FIELD(epochs),     "1",    1, 1000, NULL, "over them, in a round"},
    {"augment",    FIELD(augment),    "none", 0, 0, "none|crop-flip", "crop-flip: crop out of the image with 4 black pixels around, flip every other one"},
    {"lr",         FIELD(lr),         "1e-2", 0, 10, NULL, "learning rate of SGD"},
    {"momentum",   FIELD(momentum),   "0",    0, 1, NULL, "of SGD"},
    {"mu",         FIELD(mu),         "0",    0, 10, NULL, "weight of FedProx's penalty"},
    {"warmup",     FIELD(warmup),     "1",    1, 1000, NULL, "rounds before the clock starts"},
    {"seconds",    FIELD(seconds),    "6",    0, 3600, NULL, "the clock runs at least so long"},
    {"rounds",     FIELD(rounds),     "3",    1, 100000, NULL, "and at least so many rounds"},
    {"device",     FIELD(device),     "cuda", 0, 0, NULL, "cuda, cuda:N or cpu"},
    {"gpus",       FIELD(team.gpus),  "1",    0, 0, NULL, "all, or so many of this host: they share the clients of a round"},
    {"ranks",      FIELD(team.ranks), "1",    1, 4096, NULL, "with --device cpu: processes that do"},
    {"executor",   FIELD(executor),   "auto", 0, 0, "auto|cuda-graph|cuda|cuda-check", "on a GPU: captured (auto), or one by one"},
    {"profile",    FIELD(profile),    "off",  0, 0, NULL, "time every operation of a step instead: a Markdown table"},
    {"plans",      FIELD(plans),      "auto", 0, 0, NULL, "file of the fastest matrix products, as for train; off: the library's first choices"},
    {"tune",       FIELD(tune),       "off",  0, 0, NULL, "search for them first, and write the file"},
    {"seed",       FIELD(seed),       "0",    0, 1e15, NULL, "of weights, images and their order"},
};
/* clang-format on */
enum { N_OPTIONS = sizeof options / sizeof *options, MAX_ROUNDS = 1 << 20 };

typedef struct {
    const config *c;
    hn_log log;
    hn_team team;
    hn_device *device;
    hn_model model;
    hn_image_set *set;
    hn_adapt adapt;
    hn_fed_sim *own, *all; /* of this rank; of all ranks: NULL where there is one */
    hn_fed_sim *sim;       /* the one whose rounds are timed */
    hn_engine *engine;     /* behind its own; NULL: blocks have none */
    float *global;
    int32_t *index; /* [clients images] */
    hn_fed_task *task;
    int64_t steps; /* of a client in a round */
    double loss;   /* summed, of the running round */
    double train_s;
    double *round_ms; /* timed rounds */
    int64_t n_rounds;
    double loss_first, loss_last, elapsed_s;
} bench;

/* ---- images, tasks ---- */

static hn_status make_set(bench *b)
{
    const hn_vision_config *m = &b->model.vision;
    const int64_t n = b->c->clients * b->c->images, each = m->image * m->image * m->channels;
    const hn_rng noise = hn_rng_make((uint64_t)b->c->seed, 0, hn_hash_name("images"));
    uint8_t *pixel = hn_malloc((size_t)(n * each));
    int32_t *label = hn_malloc((size_t)n * sizeof *label);
    hn_status st = HN_OK;
    if (pixel == NULL || label == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " images", n);
        goto done;
    }
    /* noise, brighter in one of eight bands: something can be learnt */
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        label[i] = (int32_t)hn_rng_below(noise, (uint64_t)i, 1u << 20, (uint32_t)m->classes);
        for (int64_t k = 0; k < each; k++)
            pixel[i * each + k] = (uint8_t)(hn_rng_u32(noise, (uint64_t)i, (uint32_t)k) % 192 +
                                            (k * 8 / each == label[i] % 8 ? 63 : 0));
    }
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

static hn_status make_tasks(bench *b, const hn_fed_local *l)
{
    const config *c = b->c;
    b->index = hn_malloc((size_t)(c->clients * c->images) * sizeof *b->index);
    b->task = hn_calloc((size_t)c->clients, sizeof *b->task);
    if (b->index == NULL || b->task == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " clients", c->clients);
    b->steps = hn_fed_steps(l, c->images, c->epochs);
    for (int64_t i = 0; i < c->clients * c->images; i++) b->index[i] = (int32_t)i;
    for (int64_t k = 0; k < c->clients; k++)
        b->task[k] = (hn_fed_task){.client = k,
                                   .index = b->index + k * c->images,
                                   .n = c->images,
                                   .steps = b->steps,
                                   .lr = c->lr};
    return HN_OK;
}

/* ---- set-up ---- */

static hn_adapt_kind choose(const void *context, const char *name)
{
    const bench *b = context;
    const size_t n = strlen(hn_vision_head(&b->model.vision));
    const bool head = strncmp(name, hn_vision_head(&b->model.vision), n) == 0 && name[n] == '.';
    return head || strcmp(b->c->payload, "full") == 0 ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
}

/* Blocks have the values of the same network's engine. */
static hn_status block_values(bench *b, const hn_fed_sim_options *o)
{
    hn_fed_sim *one = NULL;
    HN_TRY(hn_fed_one_new(o, &one));
    const hn_status st = hn_fed_client_get(hn_fed_one_client(one, 0), b->global);
    hn_fed_sim_free(one);
    return st;
}

static hn_status open_own(bench *b, const hn_fed_sim_options *o)
{
    const char *how = b->c->simulation;
    if (strcmp(how, "block") == 0) return hn_fed_blocks_new(o, &b->own);
    if (strcmp(how, "one") == 0) {
        HN_TRY(hn_fed_one_new(o, &b->own));
        b->engine = hn_fed_client_engine(hn_fed_one_client(b->own, 0));
    } else {
        HN_TRY(hn_fed_replicas_new(o, &b->own));
        b->engine = hn_fed_replicas_engine(b->own);
    }
    return HN_OK;
}

static hn_status open_all(bench *b)
{
    const hn_fed_ranks_options o = {.hub = b->team.hub,
                                    .log = &b->log,
                                    .sim = b->own,
                                    .most = b->c->clients,
                                    .images = b->c->clients * b->c->images};
    b->sim = b->own;
    if (hn_team_alone(&b->team)) return HN_OK;
    HN_TRY(hn_team_places(&b->team, b->device));
    HN_TRY(hn_fed_ranks_new(&o, &b->all));
    b->sim = b->all;
    return HN_OK;
}

static hn_status open_sim(bench *b, const hn_fed_local *l)
{
    const config *c = b->c;
    const hn_fed_sim_options o = {.device = b->device,
                                  .executor = hn_executor_of(c->executor),
                                  .model = &b->model,
                                  .adapt = &b->adapt,
                                  .images = hn_image_set_view(b->set),
                                  .resident = 64,
                                  .local = *l,
                                  .seed = (uint64_t)c->seed,
                                  .at_once = c->at_once};
    HN_TRY(open_own(b, &o));
    HN_TRY(open_all(b));
    b->global = hn_calloc((size_t)b->sim->n_values, sizeof *b->global);
    if (b->global == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values", b->sim->n_values);
    if (b->engine == NULL) return block_values(b, &o);
    return hn_fed_values_get(l, hn_engine_params(b->engine), b->global);
}

static hn_status set_up(bench *b)
{
    const config *c = b->c;
    const bool augment = strcmp(c->augment, "crop-flip") == 0;
    const hn_fed_local l = {
        .batch = c->batch,
        .optimizer = {.kind = HN_OPTIMIZER_SGD, .momentum = c->momentum},
        .mu = (float)c->mu,
        .augment = {.pad = augment ? 4 : 0, .flip = augment ? 0.5f : 0},
    };
    HN_TRY(hn_team_join(&b->team));
    HN_TRY(hn_device_open(hn_team_device(&b->team, c->device), &b->device));
    if (!c->tune) HN_TRY(hn_tune_use(b->device, c->plans, &b->log));
    HN_TRY(hn_model_open(c->model, c->dtype, &b->log, &b->model));
    b->adapt = (hn_adapt){.parameter = choose, .context = b};
    HN_TRY(make_set(b));
    HN_TRY(make_tasks(b, &l));
    HN_TRY(open_sim(b, &l));
    b->round_ms = hn_malloc(MAX_ROUNDS * sizeof *b->round_ms);
    return b->round_ms ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the times of rounds");
}

/* ---- rounds ---- */

static hn_status take(void *context, int64_t i, const hn_fed_trained *t)
{
    bench *b = context;
    if (!isfinite(t->loss))
        return HN_FAIL(HN_ERR_NUMERIC, "client %" PRId64 ": the loss is %g", i, (double)t->loss);
    b->loss += (double)t->loss / (double)b->c->clients;
    b->train_s += t->seconds;
    return HN_OK;
}

/* What a server would do ahead has no place here; with it results are let go of as they come. */
static void let_go(void *context, int64_t i, const hn_fed_trained *t)
{
    (void)context, (void)i, (void)t;
}

static hn_status run_round(bench *b, int64_t round)
{
    for (int64_t k = 0; k < b->c->clients; k++)
        b->task[k].seed = hn_fed_task_seed((uint64_t)b->c->seed, round, k);
    b->loss = 0;
    b->sim->prepare = let_go;
    b->sim->number = round + 1;
    return b->sim->round(b->sim, b->global, b->task, b->c->clients, take, b);
}

static hn_status warm_up(bench *b)
{
    const config *c = b->c;
    for (int64_t i = 0; i < c->warmup; i++) HN_TRY(run_round(b, i));
    b->loss_first = b->loss;
    const hn_step_bench tuned = {.device = b->device, .engine = b->engine};
    hn_step_bench t = tuned;
    return c->tune ? hn_step_bench_tune(&t, c->plans) : HN_OK;
}

static hn_status run_rounds(bench *b)
{
    const config *c = b->c;
    const int64_t begin = hn_clock_ns();
    int64_t last = begin;
    b->train_s = 0;
    while ((b->n_rounds < c->rounds || (double)(last - begin) < 1e9 * c->seconds) &&
           b->n_rounds < MAX_ROUNDS) {
        HN_TRY(run_round(b, c->warmup + b->n_rounds));
        const int64_t now = hn_clock_ns();
        b->round_ms[b->n_rounds++] = 1e-6 * (double)(now - last);
        last = now;
    }
    b->loss_last = b->loss;
    b->elapsed_s = 1e-9 * (double)(last - begin);
    return HN_OK;
}

static hn_status profile(bench *b)
{
    hn_profile *p = NULL;
    HN_TRY(hn_profile_new(&p));
    hn_engine_profile(b->engine, p);
    hn_status st = run_round(b, b->c->warmup);
    hn_engine_profile(b->engine, NULL);
    const bool one = strcmp(b->c->simulation, "one") == 0;
    const int64_t groups = (b->c->clients + b->c->at_once - 1) / b->c->at_once;
    char *text = st == HN_OK ? hn_profile_text(p, b->steps * (one ? b->c->clients : groups)) : NULL;
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
    const double rounds = (double)b->n_rounds, gib = 1.0 / (1 << 30);
    const double steps = rounds * (double)(b->steps * c->clients);
    const double images = rounds * (double)(c->images * c->epochs * c->clients);
    hn_plan_sizes plan = {0};
    size_t used = 0;
    char notes[4096] = "";
    if (b->engine) hn_plan_notes(hn_engine_program(b->engine), ';', notes, sizeof notes);
    if (b->engine) hn_plan_sizes_of(hn_engine_program(b->engine), &plan);
    HN_TRY(hn_device_used(b->device, &used));
    hn_step_bench_sort(b->round_ms, b->n_rounds);
    json_t *o = json_pack(
        "{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:f, s:[f,f,f], "
        "s:f, s:f, s:f, s:f, s:f, s:I, s:s, s:s, s:s}",
        "who", "hone", "ranks", (json_int_t)hn_team_size(&b->team), "simulation", c->simulation,
        "model", c->model, "dtype", c->dtype, "payload", c->payload, "clients",
        (json_int_t)c->clients, "at_once", (json_int_t)c->at_once, "batch", (json_int_t)c->batch,
        "images", (json_int_t)c->images, "values", (json_int_t)b->sim->n_values, "mu", c->mu,
        "client_steps_per_s", steps / b->elapsed_s, "rounds", (json_int_t)b->n_rounds,
        "images_per_s", images / b->elapsed_s, "round_ms",
        hn_step_bench_quantile(b->round_ms, b->n_rounds, 0.2),
        hn_step_bench_quantile(b->round_ms, b->n_rounds, 0.5),
        hn_step_bench_quantile(b->round_ms, b->n_rounds, 0.8), "train_share",
        b->train_s / b->elapsed_s / (double)hn_team_size(&b->team), "peak_gib", (double)used * gib,
        "plan_gib", (double)plan.total_bytes * gib, "loss_first", b->loss_first, "loss_last",
        b->loss_last, "nodes", (json_int_t)plan.n_nodes, "executor",
        b->engine ? hn_executor_name(hn_engine_executor(b->engine)) : "block", "device",
        hn_device_text(b->device), "notes", notes);
    char *text = o ? json_dumps(o, JSON_REAL_PRECISION(15)) : NULL;
    if (text) puts(text);
    const hn_status st = text ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the result");
    free(text); /* jansson's */
    json_decref(o);
    return st;
}

/* Rank 0, or the only one. */
static hn_status lead(bench *b)
{
    const config *c = b->c;
    HN_TRY(warm_up(b));
    if (c->profile) return profile(b);
    HN_TRY(run_rounds(b));
    if (b->all) HN_TRY(hn_fed_ranks_end(b->all));
    return print_result(b);
}

static int never(void) { return 0; }

static hn_status run(bench *b)
{
    HN_TRY(set_up(b));
    return hn_team_leads(&b->team) ? lead(b) : hn_fed_ranks_serve(b->all, never);
}

static hn_status start(bench *b)
{
    const config *c = b->c;
    const hn_team_request q = {.options = &c->team, .device = c->device};
    bool go_on = true;
    int exit_code = 0;
    const bool several = c->team.ranks > 1 || strcmp(c->team.gpus, "1") != 0;
    if (several && (c->tune || c->profile))
        return HN_FAIL(HN_ERR_ARG, "--tune, --profile: of one rank");
    if ((c->tune || c->profile) && strcmp(c->simulation, "block") == 0)
        return HN_FAIL(HN_ERR_ARG, "--tune, --profile: blocks have no operations");
    HN_TRY(hn_team_start(&b->team, &q, &b->log, &go_on, &exit_code));
    if (!go_on) exit(exit_code);
    return HN_OK;
}

static hn_status measure(const void *given)
{
    const config *c = given;
    bench b = {.c = c, .log = hn_step_bench_log(PROGRAM)};
    hn_status st = start(&b);
    if (st == HN_OK) st = run(&b);
    hn_team_leave(&b.team, st);
    hn_fed_sim_free(b.all);
    hn_fed_sim_free(b.own);
    hn_free(b.global);
    hn_free(b.index);
    hn_free(b.task);
    hn_free(b.round_ms);
    hn_image_set_free(b.set);
    hn_model_close(&b.model);
    hn_device_close(b.device);
    hn_team_close(&b.team);
    return st;
}

int main(int argc, char **argv)
{
    static const hn_step_program program = {
        .name = PROGRAM,
        .summary = "rounds of federated clients with random weights",
        .options = options,
        .n_options = N_OPTIONS,
        .measure = measure,
    };
    config c = {
        .team = {.rank = "", .size = "", .local_rank = "", .local_size = "", .rendezvous = ""}};
    return hn_step_bench_main(&program, argc, argv, &c);
}
