/* bench_result.h - results of benchmarks as JSON lines, and the comparison of two files of them. */
#ifndef HN_BENCH_RESULT_H
#define HN_BENCH_RESULT_H
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_BENCH_AXES = 6, HN_BENCH_KEY = 192, HN_BENCH_TEXT = 64 };

typedef struct {
    char bench[HN_BENCH_TEXT];
    char dtype[16];
    int n_axes;
    char axis[HN_BENCH_AXES][24];
    int64_t size[HN_BENCH_AXES];
    double us_p20, us_p50, us_p80; /* of one call */
    double gb_s, tflop_s;          /* at p50; 0: not known */
    double of_copy, of_gemm;       /* 0: not known */
    int64_t batches, calls, sets;  /* timed, in a batch, argument sets */
    char gpu[HN_BENCH_TEXT * 2], commit[HN_BENCH_TEXT];
} hn_bench_result;

/* "add_rmsnorm_fwd bf16 rows=16384 cols=2048": what results are matched by. */
void hn_bench_key(const hn_bench_result *r, char key[HN_BENCH_KEY]);

/* One JSON line, with the newline. Errors: HN_ERR_MEMORY, HN_ERR_IO, HN_ERR_WRITE. */
HN_NODISCARD hn_status hn_bench_result_write(const hn_bench_result *r, FILE *to);

typedef struct {
    hn_bench_result *at;
    int64_t n, cap;
} hn_bench_results;

HN_NODISCARD hn_status hn_bench_results_add(hn_bench_results *list, const hn_bench_result *r);
/* Reads a file of JSON lines; empty lines are skipped.
 * Errors  HN_ERR_IO; HN_ERR_FORMAT with file and line: no JSON, a field missing, a time that is
 *         not above 0, percentiles out of order, a key twice, no line at all; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_bench_results_read(const char *path, hn_bench_results *out);
void hn_bench_results_free(hn_bench_results *list); /* accepts an empty list */

/* Prints old and new side by side, matched by key. A result is slower when its p50 is more than
 * threshold percent above the old one and the two p20..p80 ranges do not meet; faster likewise.
 * Returns how many are slower. *matched: NULL, or how many keys are in both. */
int64_t hn_bench_compare(const hn_bench_results *old, const hn_bench_results *now, double threshold,
                         FILE *to, int64_t *matched);

#ifdef __cplusplus
}
#endif
#endif
