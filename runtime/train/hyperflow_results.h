/* hyperflow_results.h - the cells of a run, read; for the files hyperflow_*.c only. */
#ifndef HN_HYPERFLOW_RESULTS_H
#define HN_HYPERFLOW_RESULTS_H
#include "runtime/train/hyperflow_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    json_t *json;
    const char *method, *domain, *digest;
    bool in_domain;
    double *accuracy;
    int64_t n;
    hn_few_shot_mean mean, difference; /* difference: to direct; n 0: none */
    double chosen;                     /* learning rate, stop time; NaN: none */
} hn_hf_result;

typedef struct {
    hn_hf_result *cell;
    int64_t n, cap;
    const char **method, **domain; /* in the order of the table */
    int64_t n_methods, n_domains;
    json_t **descent; /* files cells/descent*.json */
    int64_t n_descents;
} hn_hf_results;

/* NULL: it is not there. */
const hn_hf_result *hn_hf_result_of(const hn_hf_results *s, const char *method, const char *domain);

typedef struct {
    int64_t domains; /* 0: none */
    double mean;     /* of their means */
    hn_few_shot_mean difference;
    const hn_hf_result *worst; /* whose interval of the difference ends lowest */
} hn_hf_summary;

/* Over the domains where both the method and direct transfer are there, on the same episodes; those
 * of one episode, which have no interval, are left out. */
HN_NODISCARD hn_status hn_hf_summarize(const hn_hf_results *s, const char *method, bool in_domain,
                                       hn_hf_summary *out);

/* ---- hyperflow_acceptance.c: what is expected of an integrated network ----
 *   1  On tasks of training the support loss falls by at least 80 % of what tuning takes off it.
 *   2  On no domain of training the interval of the paired difference to direct transfer lies
 *      below 0.
 *   3  The mean of the paired differences over all other domains (hn_few_shot_over_domains) has an
 *      interval above 0.
 *   4  Memory and operations of an episode are there as figures of this run's plans, beside those
 *      of full fine-tuning. */

/* A list for result.json: number, what, method, holds (null: its cells are not there), text and the
 * figures. */
HN_NODISCARD hn_status hn_hf_acceptance(const hn_hf_results *s, json_t **out);
void hn_hf_acceptance_print(const json_t *list, FILE *to);

#ifdef __cplusplus
}
#endif
#endif
