/* step_bench.h - what the programs that time whole training steps share: the loop and its clock,
 * --tune, --profile, the JSON line, and main.
 *
 * Warm-up steps come first, the host waiting for each; then the host runs ahead of the GPU, as in
 * training between two lines of the log, and the time of every step is taken until both `seconds`
 * and `steps` are over. */
#ifndef HN_STEP_BENCH_H
#define HN_STEP_BENCH_H
#include <jansson.h>

#include "runtime/base/log.h"
#include "runtime/base/options.h"
#include "runtime/device/device.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    /* The program's. */
    hn_device *device;
    hn_engine *engine; /* allocated */
    /* Enqueues an optimizer step whose report is left for hn_engine_report. */
    hn_status (*enqueue)(void *context, int64_t step);
    void *context;
    int64_t rows;          /* tokens, images that every step has to report */
    int64_t warmup, steps; /* at least 1 each */
    double seconds;
    /* What came of it. */
    double *step_ms;         /* [n_steps], without warm-up */
    int64_t n_done, n_steps; /* reports, warm-up included; timed steps */
    double loss_first, loss_last;
    double elapsed_s, begin_s, end_s; /* of the timed steps; times of day */
} hn_step_bench;

/* Lines of the library, on standard error with the program's name before them. */
hn_log hn_step_bench_log(const char *program);

/* --tune, with the engine's memory in place: searches for the fastest products of its graphs and
 * writes them to the file that --plans names. Errors: HN_ERR_UNSUPPORTED on the CPU; tune.h */
HN_NODISCARD hn_status hn_step_bench_tune(hn_step_bench *b, const char *plans);

/* Errors: HN_ERR_NUMERIC: a step that is not finite, was skipped or left rows out */
HN_NODISCARD hn_status hn_step_bench_run(hn_step_bench *b);

/* --profile: the time of every operation of `steps` steps, as a Markdown table. */
HN_NODISCARD hn_status hn_step_bench_profile(hn_step_bench *b);

/* After a run: one line, the program's own keys (taken over, also on errors) and behind them those
 * of every step benchmark. <unit>_per_s is among them. step_ms is sorted by it.
 * tuned    products run by plans that were searched for */
HN_NODISCARD hn_status hn_step_bench_print(hn_step_bench *b, json_t *own, const char *unit,
                                           bool tuned);

void hn_step_bench_sort(double *v, int64_t n);
/* The value of sorted ones that lies nearest to the q-quantile, 0 to 1; n >= 1. */
double hn_step_bench_quantile(const double *v, int64_t n, double q);

void hn_step_bench_free(hn_step_bench *b); /* accepts an empty one; the engine stays */

/* Options, help, errors: the exit status. */
typedef struct {
    const char *name, *summary;
    const hn_option *options;
    size_t n_options;
    hn_status (*measure)(const void *config);
} hn_step_program;
int hn_step_bench_main(const hn_step_program *p, int argc, char **argv, void *config);

#ifdef __cplusplus
}
#endif
#endif
