/* hone-bench-comm: how fast the ranks of a job add up their gradients.
 *
 * One rank a GPU: forked here (--gpus), or started by torchrun, srun or mpirun. On the CPU the
 * processes of --ranks. Every size is summed over and over on the device's stream, each call
 * between two marks of the device's clock. What is summed is small enough that in-place sums of a
 * run of calls stay finite, and is written anew before the next run; the first call behind that is
 * not counted, as ranks wait in it for each other. Rank 0 prints a JSON object a size: time of a
 * call (20th, 50th, 80th percentile), bytes over the median (alg_gb_s), and what a link then
 * carries (bus_gb_s: times 2 (R - 1) / R for all_reduce, (R - 1) / R for the others), as NCCL's own
 * tests count.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_ranks.h"
#include "bench/step_bench.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/rng.h"
#include "runtime/base/version.h"
#include "runtime/comm/hn_comm.h"

static const char PROGRAM[] = "hone-bench-comm";

typedef struct {
    const char *collective, *megabytes, *device, *gpus, *rank, *size, *local_rank, *local_size,
        *rendezvous;
    int64_t ranks, calls;
    double seconds;
    bool captured;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"collective", FIELD(collective), "all_reduce", 0, 0, "all_reduce|reduce_scatter|all_gather", "what is timed"},
    {"mb",         FIELD(megabytes),  "45,168,4900", 0, 0, NULL, "sizes in 10^6 bytes, of all ranks' parts together: gradients of LoRA on 1B and 8B, of all weights of 1B"},
    {"seconds",    FIELD(seconds),    "2",    0, 3600, NULL, "each size is timed at least so long"},
    {"calls",      FIELD(calls),      "30",   1, 1000000, NULL, "and at least so many times"},
    {"captured",   FIELD(captured),   "off",  0, 0, NULL, "on GPUs: calls are launches of a captured graph"},
    {"device",     FIELD(device),     "cuda", 0, 0, "cuda|cpu", "of all ranks"},
    {"gpus",       FIELD(gpus),       "all",  0, 0, NULL, "how many GPUs of this host, one rank each; all: those that are visible"},
    {"ranks",      FIELD(ranks),      "2",    1, 64, NULL, "processes on this host, with --device cpu"},
    {"job-rank",   FIELD(rank),       "",     0, 0, NULL, "this process's number, where no launcher says it"},
    {"job-size",   FIELD(size),       "",     0, 0, NULL, "number of ranks, with --job-rank"},
    {"local-rank", FIELD(local_rank), "",     0, 0, NULL, "with --job-rank: this process's number on its host, that of its GPU"},
    {"local-size", FIELD(local_size), "",     0, 0, NULL, "with --job-rank: processes on this host"},
    {"rendezvous", FIELD(rendezvous), "",     0, 0, NULL, "where rank 0 listens: tcp:HOST:PORT or file:PATH"},
};
/* clang-format on */

enum { RUN = 16 }; /* calls between two writes of what is summed: 8^16 times 1e-20 is small */

typedef struct {
    const config *c;
    hn_hub *hub;
    hn_device *device;
    hn_comm *comm;
    const hn_collectives *calls;
    float *x, *start; /* [n]; start: what x is written from */
    int64_t n;        /* elements, a multiple of the ranks */
    hn_device_graph *graph;
    double *ms;
    int64_t n_ms, cap_ms;
} bench;

static hn_status call(const bench *b)
{
    const hn_collectives *t = b->calls;
    const hn_stream stream = hn_device_stream(b->device);
    const int64_t part = b->n / t->ranks;
    const hn_collective_span span = {.data = b->x, .n = b->n};
    float *mine = b->x + t->rank * part;
    if (b->graph) return hn_device_launch(b->device, b->graph);
    if (strcmp(b->c->collective, "all_reduce") == 0)
        return t->all_reduce(t->context, &span, 1, stream);
    if (strcmp(b->c->collective, "reduce_scatter") == 0)
        return t->reduce_scatter(t->context, b->x, mine, part, stream);
    return t->all_gather(t->context, mine, b->x, (size_t)part * sizeof(float), stream);
}

static hn_status write_anew(const bench *b)
{
    return hn_device_copy(b->device, b->x, b->start, (size_t)b->n * sizeof(float));
}

/* Random, of both signs, so that links and arithmetic switch as they do in training. */
static hn_status fill(const bench *b)
{
    enum { PIECE = 1 << 20 };
    const hn_rng rng = hn_rng_make((uint64_t)b->calls->rank, 0, hn_hash_name("gradients"));
    float *piece = hn_malloc(PIECE * sizeof *piece);
    hn_status st = HN_OK;
    if (piece == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d values", PIECE);
    for (int64_t i = 0; i < PIECE; i++)
        piece[i] = 2e-20f * (hn_rng_unit(hn_rng_u32(rng, (uint64_t)i, 0)) - 0.5f);
    for (int64_t i = 0; i < b->n && st == HN_OK; i += PIECE)
        st = hn_device_write(b->device, b->start + i, piece,
                             (size_t)(b->n - i < PIECE ? b->n - i : PIECE) * sizeof *piece);
    hn_free(piece);
    return st;
}

/* All ranks' sums have to be alike, and no longer what a rank began with. */
static hn_status check(const bench *b)
{
    enum { LOOKED_AT = 1024 };
    const size_t bytes = sizeof(float[LOOKED_AT]);
    float mine[LOOKED_AT], was[LOOKED_AT], first[LOOKED_AT];
    const int64_t at = b->n > LOOKED_AT ? (b->n - LOOKED_AT) / 2 : 0;
    if (strcmp(b->c->collective, "all_reduce") != 0 || b->n < LOOKED_AT) return HN_OK;
    HN_TRY(write_anew(b));
    HN_TRY(call(b));
    HN_TRY(hn_device_read(b->device, mine, b->x + at, bytes));
    HN_TRY(hn_device_read(b->device, was, b->start + at, bytes));
    memcpy(first, mine, bytes);
    HN_TRY(hn_hub_share(b->hub, first, bytes, 0));
    if (memcmp(mine, first, bytes) == 0 && memcmp(mine, was, bytes) != 0) return HN_OK;
    return HN_FAIL(HN_ERR_NUMERIC, "rank %d: the sums are not those of rank 0", b->calls->rank);
}

static hn_status capture(bench *b)
{
    HN_TRY(call(b)); /* everything is loaded and connected */
    HN_TRY(hn_device_wait(b->device));
    HN_TRY(hn_device_capture_begin(b->device));
    const hn_status st = call(b);
    if (st == HN_OK) return hn_device_capture_end(b->device, &b->graph);
    (void)!hn_device_capture_end(b->device, NULL);
    return st;
}

/* A write, a call that is not counted, the others; their times behind those that there are. */
static hn_status time_run(bench *b)
{
    while (b->cap_ms < b->n_ms + RUN) HN_TRY(hn_grow(&b->ms, &b->cap_ms, b->cap_ms, sizeof *b->ms));
    HN_TRY(write_anew(b));
    HN_TRY(call(b));
    for (int64_t i = 0; i < RUN; i++) {
        HN_TRY(hn_device_mark(b->device, i));
        if (i < RUN - 1) HN_TRY(call(b));
    }
    HN_TRY(hn_device_marks(b->device, RUN - 1, b->ms + b->n_ms));
    b->n_ms += RUN - 1;
    return HN_OK;
}

/* Rank 0's clock decides for all when it is enough. */
static hn_status time_size(bench *b)
{
    const int64_t begin = hn_clock_ns();
    b->n_ms = 0;
    for (char more = 1; more;) {
        HN_TRY(time_run(b));
        more = 1e-9 * (double)(hn_clock_ns() - begin) < b->c->seconds || b->n_ms < b->c->calls;
        HN_TRY(hn_hub_share(b->hub, &more, sizeof more, 0));
        hn_hub_at(b->hub, HN_HUB_AT_STEP, b->n_ms);
    }
    return HN_OK;
}

static hn_status print(bench *b)
{
    const int ranks = b->calls->ranks;
    const double bytes = (double)b->n * sizeof(float), share = (double)(ranks - 1) / ranks;
    const double factor = strcmp(b->c->collective, "all_reduce") == 0 ? 2 * share : share;
    hn_step_bench_sort(b->ms, b->n_ms);
    const double p50 = hn_step_bench_quantile(b->ms, b->n_ms, 0.5);
    json_t *j = json_pack(
        "{s:s, s:s, s:i, s:f, s:[f,f,f], s:I, s:f, s:f, s:b, s:s, s:s, s:s}", "bench",
        b->c->collective, "dtype", "f32", "ranks", ranks, "mb", 1e-6 * bytes, "us",
        1e3 * hn_step_bench_quantile(b->ms, b->n_ms, 0.2), 1e3 * p50,
        1e3 * hn_step_bench_quantile(b->ms, b->n_ms, 0.8), "calls", (json_int_t)b->n_ms, "alg_gb_s",
        1e-6 * bytes / p50, "bus_gb_s", 1e-6 * bytes / p50 * factor, "captured", b->graph != NULL,
        "by", b->calls->text, "device", hn_device_text(b->device), "versions", "hone " HN_VERSION);
    char *text = j ? json_dumps(j, JSON_REAL_PRECISION(6)) : NULL;
    if (text) puts(text);
    const hn_status st = text ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the result");
    free(text); /* jansson's */
    json_decref(j);
    return st;
}

static hn_status measure_size(bench *b, double megabytes)
{
    const int ranks = b->calls->ranks;
    void *x = NULL, *start = NULL;
    hn_status st = HN_OK;
    b->n = (int64_t)(1e6 * megabytes / sizeof(float)) / ranks * ranks;
    if (b->n == 0) return HN_FAIL(HN_ERR_ARG, "--mb %g: not a value a rank", megabytes);
    HN_TRY_GOTO(st, hn_device_alloc(b->device, (size_t)b->n * sizeof(float), &x), done);
    HN_TRY_GOTO(st, hn_device_alloc(b->device, (size_t)b->n * sizeof(float), &start), done);
    b->x = x;
    b->start = start;
    HN_TRY_GOTO(st, fill(b), done);
    HN_TRY_GOTO(st, check(b), done);
    if (b->c->captured) HN_TRY_GOTO(st, capture(b), done);
    HN_TRY_GOTO(st, time_run(b), done); /* warm-up */
    HN_TRY_GOTO(st, time_size(b), done);
    if (b->calls->rank == 0) st = print(b);

done:
    hn_device_graph_free(b->graph);
    b->graph = NULL;
    if (x != NULL) hn_device_release(b->device, x);
    if (start != NULL) hn_device_release(b->device, start);
    return st;
}

/* The next size of the list, and what is behind it; NULL: that was the last one. */
static hn_status next_size(const config *c, const char **at, double *mb)
{
    char *end;
    *mb = strtod(*at, &end);
    if (end == *at || !(*mb > 0 && *mb < 1e9) || (*end != ',' && *end != '\0'))
        return HN_FAIL(HN_ERR_ARG, "--mb %s: numbers above 0 with commas between them",
                       c->megabytes);
    *at = *end == ',' ? end + 1 : NULL;
    return HN_OK;
}

static hn_status measure_sizes(bench *b)
{
    for (const char *at = b->c->megabytes; at != NULL;) {
        double mb;
        HN_TRY(next_size(b->c, &at, &mb));
        HN_TRY(measure_size(b, mb));
    }
    return HN_OK;
}

/* Before there are several who would all say it. */
static hn_status check_config(const config *c)
{
    for (const char *at = c->megabytes; at != NULL;) {
        double mb;
        HN_TRY(next_size(c, &at, &mb));
    }
    if (c->captured && strcmp(c->device, "cpu") == 0)
        return HN_FAIL(HN_ERR_ARG, "--captured: only GPUs capture graphs");
    return HN_OK;
}

/* ---- ranks ---- */

static hn_status find_ranks(const config *c, hn_ranks *out)
{
    const hn_ranks_request asked = {.rank = c->rank,
                                    .size = c->size,
                                    .local_rank = c->local_rank,
                                    .local_size = c->local_size,
                                    .rendezvous = c->rendezvous};
    return hn_ranks_find(&asked, NULL, NULL, out);
}

static hn_status run_rank(const config *c, const hn_ranks *r, const hn_log *log)
{
    bench b = {.c = c};
    hn_hub_options o;
    if (r->size == 1) return HN_FAIL(HN_ERR_ARG, "one rank has nothing to add up");
    hn_comm_hub_options(r, &o);
    o.log = log;
    hn_status st = hn_hub_open(&o, &b.hub);
    if (st != HN_OK) return st;
    if (strcmp(c->device, "cuda") == 0)
        st = hn_bench_rank_device(r, &b.device);
    else
        st = hn_device_open("cpu", &b.device);
    if (st != HN_OK) goto done;
    HN_TRY_GOTO(st, hn_comm_open(b.hub, b.device, &b.comm), done);
    b.calls = hn_comm_collectives(b.comm);
    st = measure_sizes(&b);

done:
    if (st != HN_OK) hn_hub_fail(b.hub, hn_last_text());
    hn_comm_close(b.comm, st == HN_OK);
    hn_device_close(b.device);
    hn_hub_close(b.hub);
    hn_free(b.ms);
    return st;
}

/* Ranks of a launcher, else forked ones. */
static hn_status measure(const void *context)
{
    const config *c = context;
    const hn_log log = hn_step_bench_log(PROGRAM);
    hn_ranks r;
    HN_TRY(check_config(c));
    HN_TRY(find_ranks(c, &r));
    if (r.launcher == HN_LAUNCHER_NONE) {
        hn_launch_options o = {.n = (int)c->ranks, .log = &log};
        hn_launched job = {0};
        if (strcmp(c->device, "cuda") == 0) HN_TRY(hn_bench_gpus(c->gpus, &o.n));
        HN_TRY(hn_launch(&o, &job));
        if (!job.is_rank) exit(job.exit_code);
        HN_TRY(find_ranks(c, &r));
    }
    return run_rank(c, &r, &log);
}

int main(int argc, char **argv)
{
    config c;
    const hn_step_program p = {.name = PROGRAM,
                               .summary = "sums over the ranks of a job",
                               .options = options,
                               .n_options = sizeof options / sizeof *options,
                               .measure = measure};
    return hn_step_bench_main(&p, argc, argv, &c);
}
