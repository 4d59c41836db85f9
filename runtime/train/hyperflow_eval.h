/* hyperflow_eval.h - what eval's files share; for the files hyperflow_*.c only. */
#ifndef HN_HYPERFLOW_EVAL_H
#define HN_HYPERFLOW_EVAL_H
#include "runtime/train/hyperflow_tune.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_HF_LABEL = 128 };

/* A drift network that is ready to be integrated, and features of the domains' images. */
typedef struct hn_hf_drift hn_hf_drift;

typedef struct {
    hn_hyperflow *r;
    hn_hf_drift *drift; /* NULL: no method wants it */
    const hn_hf_target *target;
    hn_hf_bench bench;
    double *accuracy;   /* [test episodes, or runs] of the cell at hand; 0 of other ranks' */
    int64_t done, here; /* cells that are behind; of them, made in this call */
    char what[HN_HF_LABEL + 96];
} hn_hf_eval;

typedef struct {
    double *accuracy;
    int64_t first;   /* episode of task 0 */
    int64_t skipped; /* steps that were no numbers */
    bool stopped;    /* before the last group; of the one at hand nothing is known */
} hn_hf_scores;
/* An hn_few_shot_take into hn_hf_scores. */
hn_status hn_hf_take_accuracy(void *context, int64_t i, const hn_few_shot_result *t);

/* What the ranks have found of the test episodes of a cell, e->accuracy among it, for all; seconds:
 * the sum of theirs. Errors: HN_ERR_STOPPED, on all of them: one has stopped */
HN_NODISCARD hn_status hn_hf_gather(hn_hf_eval *e, hn_hf_scores *s, double *seconds);
void hn_hf_eval_show(const hn_hf_eval *e, int64_t episodes);
void hn_hf_label(const hn_hyperflow *r, const char *method, char label[HN_HF_LABEL]);

/* ---- hyperflow_drift.c ---- */
/* The network of --drift and its encoder. Errors: HN_ERR_ARG where train has not ended */
HN_NODISCARD hn_status hn_hf_drift_open(hn_hyperflow *r, hn_hf_drift **out);
void hn_hf_drift_close(hn_hf_drift *d); /* accepts NULL */
const char *hn_hf_drift_digest(const hn_hf_drift *d);
/* Of method hyperflow (stop time by the domain's validation episodes) and hyperflow-global (by
 * those of the training domains). */
HN_NODISCARD hn_status hn_hf_drift_cell(hn_hf_eval *e, const char *method, hn_hf_cell *cell);
/* cells/descent.json: support loss along the integration, and along tuning, of training tasks. Of
 * one rank, not of all. Errors: HN_ERR_STOPPED: asked to stop before it was there */
HN_NODISCARD hn_status hn_hf_descent(hn_hf_eval *e);

/* ---- hyperflow_report.c ---- */
/* result.json and pictures out of the cells that are there; a table to r->to. */
HN_NODISCARD hn_status hn_hyperflow_write_results(const hn_hyperflow *r);

#ifdef __cplusplus
}
#endif
#endif
