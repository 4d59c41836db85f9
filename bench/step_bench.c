#include "bench/step_bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/version.h"
#include "runtime/train/tune.h"

enum { MAX_STEPS = 1 << 20 }; /* whose times are kept */

static void print_log(void *context, hn_log_level level, const char *text)
{
    fprintf(stderr, "%s: %s%s\n", (const char *)context, level == HN_LOG_WARN ? "warning: " : "",
            text);
}

hn_log hn_step_bench_log(const char *program)
{
    return (hn_log){.line = print_log, .context = (void *)(size_t)program};
}

hn_status hn_step_bench_tune(hn_step_bench *b, const char *plans)
{
    char *path;
    if (hn_device_kind_of(b->device) != HN_DEVICE_CUDA)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "--tune measures the matrix products of a GPU, this is %s",
                       hn_device_text(b->device));
    HN_TRY(hn_tune_path(b->device, plans, &path));
    hn_status st = hn_tune_search(b->device, stderr);
    if (st == HN_OK) st = hn_tune_save(b->device, path);
    hn_free(path);
    return st == HN_OK ? hn_engine_capture_anew(b->engine) : st;
}

/* ---- steps ---- */

/* The steps that are done; wait: all that were enqueued. *at: the time of the last one before.
 * Steps whose reports come together share the time since then. Without room for times none is
 * taken. */
static hn_status take_reports(hn_step_bench *b, bool wait, int64_t *at)
{
    const int64_t before = b->n_done;
    for (;;) {
        bool there;
        hn_step_report r;
        HN_TRY(hn_engine_report(b->engine, wait, &there, &r));
        if (!there) break;
        if (r.skipped != 0 || !isfinite(r.loss) || r.tokens != b->rows)
            return HN_FAIL(HN_ERR_NUMERIC,
                           "step %" PRId64 ": the loss is %g, the gradient's norm %g, of %" PRId64
                           " rows in %" PRId64,
                           b->n_done + 1, r.loss, r.grad_norm, r.tokens, b->rows);
        if (b->n_done++ == 0) b->loss_first = r.loss;
        b->loss_last = r.loss;
    }
    if (b->n_done == before) return HN_OK;
    const int64_t now = hn_clock_ns(), each = (now - *at) / (b->n_done - before);
    for (int64_t i = before; i < b->n_done && b->step_ms != NULL; i++)
        if (i >= b->warmup) b->step_ms[b->n_steps++] = 1e-6 * (double)each;
    *at = now;
    return HN_OK;
}

static hn_status one_step(hn_step_bench *b, int64_t step)
{
    int64_t at = 0;
    HN_TRY(b->enqueue(b->context, step));
    return take_reports(b, true, &at);
}

hn_status hn_step_bench_run(hn_step_bench *b)
{
    int64_t step = 0, last = 0;
    b->step_ms = hn_malloc(MAX_STEPS * sizeof *b->step_ms);
    if (b->step_ms == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the times of steps");
    for (; step < b->warmup; step++) HN_TRY(one_step(b, step));
    b->begin_s = hn_clock_wall_s();
    const int64_t begin = hn_clock_ns();
    last = begin;
    while ((b->n_steps < b->steps || (double)(last - begin) < 1e9 * b->seconds) &&
           b->n_steps + HN_ENGINE_AHEAD < MAX_STEPS) {
        HN_TRY(b->enqueue(b->context, step++));
        HN_TRY(take_reports(b, false, &last));
    }
    HN_TRY(take_reports(b, true, &last));
    b->elapsed_s = 1e-9 * (double)(last - begin);
    b->end_s = hn_clock_wall_s();
    return HN_OK;
}

hn_status hn_step_bench_profile(hn_step_bench *b)
{
    hn_profile *p = NULL;
    HN_TRY(hn_profile_new(&p));
    hn_status st = HN_OK;
    int64_t step = 0;
    for (; step < b->warmup && st == HN_OK; step++) st = one_step(b, step);
    hn_engine_profile(b->engine, p);
    for (int64_t i = 0; i < b->steps && st == HN_OK; i++) st = one_step(b, step++);
    hn_engine_profile(b->engine, NULL);
    char *text = st == HN_OK ? hn_profile_text(p, b->steps) : NULL;
    if (text) fputs(text, stdout);
    if (st == HN_OK && text == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for the table");
    hn_free(text);
    hn_profile_free(p);
    return st;
}

void hn_step_bench_free(hn_step_bench *b)
{
    hn_free(b->step_ms);
    b->step_ms = NULL;
}

/* ---- result ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void hn_step_bench_sort(double *v, int64_t n) { qsort(v, (size_t)n, sizeof *v, by_size); }

double hn_step_bench_quantile(const double *v, int64_t n, double q)
{
    return v[(int64_t)(q * (double)(n - 1) + 0.5)];
}

static int64_t tuned_products(const hn_device *d)
{
    int64_t plans, offered = 0;
    if (hn_device_kind_of(d) == HN_DEVICE_CUDA)
        hn_gemm_cuda_count(hn_device_gemm(d), &plans, &offered);
    return offered;
}

static hn_status shared_keys(hn_step_bench *b, bool tuned, json_t **out)
{
    const double gib = 1.0 / (1 << 30);
    const hn_program *program = hn_engine_program(b->engine);
    hn_plan_sizes plan;
    size_t used = 0;
    char notes[4096];
    hn_plan_notes(program, ';', notes, sizeof notes);
    hn_plan_sizes_of(program, &plan);
    HN_TRY(hn_device_used(b->device, &used));
    hn_step_bench_sort(b->step_ms, b->n_steps);
    *out = json_pack(
        "{s:I, s:f, s:[f,f,f], s:f, s:f, s:f, s:f, s:I, s:s, s:s, s:s, s:s, s:b, s:I, s:I, "
        "s:[f,f]}",
        "steps", (json_int_t)b->n_steps, "seconds", b->elapsed_s, "step_ms",
        hn_step_bench_quantile(b->step_ms, b->n_steps, 0.2),
        hn_step_bench_quantile(b->step_ms, b->n_steps, 0.5),
        hn_step_bench_quantile(b->step_ms, b->n_steps, 0.8), "peak_gib", (double)used * gib,
        "plan_gib", (double)plan.total_bytes * gib, "loss_first", b->loss_first, "loss_last",
        b->loss_last, "trained", (json_int_t)hn_params_trained(hn_engine_params(b->engine)),
        "executor", hn_executor_name(hn_engine_executor(b->engine)), "device",
        hn_device_text(b->device), "versions", "hone " HN_VERSION, "notes", notes, "tuned",
        tuned || tuned_products(b->device) > 0, "recomputed",
        (json_int_t)hn_engine_recomputed(b->engine), "side", (json_int_t)plan.n_side, "window",
        b->begin_s, b->end_s);
    return HN_OK;
}

hn_status hn_step_bench_print(hn_step_bench *b, json_t *own, const char *unit, bool tuned)
{
    json_t *shared = NULL;
    char *text = NULL, rate[64];
    hn_status st = shared_keys(b, tuned, &shared);
    snprintf(rate, sizeof rate, "%s_per_s", unit);
    const double per_s = (double)(b->rows * b->n_steps) / b->elapsed_s;
    if (st == HN_OK && json_object_set_new(own, rate, json_real(per_s)) == 0 &&
        json_object_update(own, shared) == 0)
        text = json_dumps(own, JSON_REAL_PRECISION(15));
    if (text) puts(text);
    if (st == HN_OK && text == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for the result");
    free(text); /* jansson's */
    json_decref(shared);
    json_decref(own);
    return st;
}

int hn_step_bench_main(const hn_step_program *p, int argc, char **argv, void *config)
{
    hn_options_store *store = NULL;
    hn_status st = hn_options_parse(p->options, p->n_options, argc, argv, config, &store);
    const bool bad_usage = st != HN_OK;
    if (st == HN_OK && hn_options_help_wanted(store)) {
        printf("%s: %s; one JSON line\n\n", p->name, p->summary);
        hn_options_help(p->options, p->n_options, stdout);
    } else if (st == HN_OK) {
        st = p->measure(config);
    }
    if (st != HN_OK) fprintf(stderr, "%s: %s\n", p->name, hn_last_error());
    hn_options_free(store);
    return st == HN_OK ? 0 : bad_usage ? 2 : 1;
}
