/* few_shot_tune_impl.h - the insides of hn_few_shot_tuner; for few_shot_tune*.c only. */
#ifndef HN_FEW_SHOT_TUNE_IMPL_H
#define HN_FEW_SHOT_TUNE_IMPL_H
#include "runtime/train/few_shot_job.h"
#include "runtime/train/few_shot_tune.h"

/* Trained values of an engine, replica by replica, as they lie on the device: masters, and working
 * copies where there are some. Both engines have them alike. */
typedef struct {
    size_t bytes, work_bytes; /* of a replica; work 0: there are none */
    float *base;              /* those of the model, on the host as what follows */
    hn_bf16 *work_base;
    float *start;        /* [at_once] where episodes begin; NULL: never elsewhere than the model */
    hn_bf16 *work_start; /* NULL: there are none */
    float *knot;         /* [knots][at_once]; NULL: not wanted */
    int64_t *place;      /* [D] of theta's numbers, in a replica's masters */
    float *out;          /* [knots][D] of one episode */
} hn_few_shot_values;

/* An episode of the running group. */
typedef struct {
    const hn_few_shot_task *task;
    int64_t skipped;
} hn_few_shot_slot;

struct hn_few_shot_tuner {
    hn_few_shot_tune_options o;
    hn_theta theta; /* empty for other sets */
    float *theta0;  /* [D]; NULL until it is open, and for other sets */
    hn_adapt hook;
    hn_few_shot_job tune_job, eval_job;
    hn_engine *tune, *eval; /* NULL: no steps; no queries */
    hn_hub_phase phase;     /* for the watchdog */
    int64_t number;
    hn_few_shot_values values;
    /* [at_once] */
    hn_few_shot_slot *slot;
    hn_replica_step *how;
    hn_step_report *report;
    hn_eval_sums *first, *last; /* of the support images */
    hn_eval_sums *sums;         /* of queries */
    int32_t *prediction;        /* [at_once][queries] */
    int32_t *label;             /* [support] */
    float *feature;             /* [at_once (support + queries), width]; NULL but for head */
};

hn_device *hn_few_shot_device(const hn_few_shot_tuner *t);

/* As hn_few_shot_tune, of groups `rank`, rank + ranks, ... alone. */
HN_NODISCARD hn_status hn_few_shot_tune_part(hn_few_shot_tuner *t, const hn_few_shot_task *task,
                                             int64_t n, int rank, int ranks, hn_few_shot_take take,
                                             void *context);

/* few_shot_values.c */

HN_NODISCARD hn_status hn_few_shot_values_open(hn_few_shot_tuner *t);
void hn_few_shot_values_free(hn_few_shot_tuner *t);
/* Every replica of e begins at the model or at its task's theta; moments are 0, if there are some.
 */
HN_NODISCARD hn_status hn_few_shot_values_start(hn_few_shot_tuner *t, hn_engine *e, int64_t n);
/* The values as they are now on their way to knot k. */
HN_NODISCARD hn_status hn_few_shot_values_knot(hn_few_shot_tuner *t, int64_t k);
/* Those of tuning become those of evaluation. */
HN_NODISCARD hn_status hn_few_shot_values_pass(hn_few_shot_tuner *t);
/* Knots of replica g, which have arrived: theta - theta_0, [knots][D]. */
const float *hn_few_shot_values_knots(hn_few_shot_tuner *t, int64_t g);
#endif
