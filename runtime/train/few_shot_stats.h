/* few_shot_stats.h - what accuracies of many episodes say, with their uncertainty.
 *
 *   mean = sum_i a_i / n
 *   sd   = sqrt(sum_i (a_i - mean)^2 / n)
 *   ci95 = 1.96 sd / sqrt(n)              mean +- ci95
 *
 * as few-shot tables have them (google-research/meta-dataset @1676095, trainer.py; divisor n, not
 * n - 1). Two methods over the same episodes are compared by the differences a_i - b_i: their
 * interval is free of what makes an episode hard for both. Sums are in the order of the episodes,
 * in double; the same bits for the same numbers.
 *
 * Errors     HN_ERR_ARG: n below 1, a NULL array; HN_ERR_NUMERIC: a value (named by its episode)
 *            that is no finite number. *out is not changed then.
 */
#ifndef HN_FEW_SHOT_STATS_H
#define HN_FEW_SHOT_STATS_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t n;
    double mean, sd, ci95; /* n 1: sd and ci95 are 0 and say nothing */
} hn_few_shot_mean;

/* value    [n], e.g. accuracies from 0 to 1 */
HN_NODISCARD hn_status hn_few_shot_mean_of(const double *value, int64_t n, hn_few_shot_mean *out);
/* Of a_i - b_i.
 * a, b     [n] of the same episodes in the same order: a promise of the caller */
HN_NODISCARD hn_status hn_few_shot_difference(const double *a, const double *b, int64_t n,
                                              hn_few_shot_mean *out);
/* Over K domains that weigh alike, however many episodes each has:
 *   mean = sum_k mean_k / K
 *   ci95 = 1.96 sqrt(sum_k sd_k^2 / n_k) / K = sqrt(sum_k ci95_k^2) / K
 *   sd   = sqrt(sum_k sd_k^2 / K),  n = sum_k n_k
 * The episodes are what is drawn, the domains are given: what domains differ by from each other is
 * not in the interval, which speaks of these domains only.
 * of       [domains] e.g. differences of each
 * Errors   HN_ERR_ARG also for a domain (by its number) with one episode: it has no interval */
HN_NODISCARD hn_status hn_few_shot_over_domains(const hn_few_shot_mean *of, int64_t domains,
                                                hn_few_shot_mean *out);
/* The interval does not contain 0 (n 1: never). */
bool hn_few_shot_differs(const hn_few_shot_mean *d);

#ifdef __cplusplus
}
#endif
#endif
