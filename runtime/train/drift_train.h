/* drift_train.h - trains a drift network on trajectories: a run with a folder of its own.
 *
 * A step: `tasks` tasks drawn from those of training, `points` points of each, its trajectories in
 * turn from one that is drawn, every time uniform in [0, 1); AdamW, warm-up and cosine; a moving
 * average of the weights, which is what is evaluated and is the result. Which tasks and times a
 * step has follows from (seed, step) alone. Evaluation: every held-out task, `points` times from 0
 * to 1, no noise; at step 0 that is the loss of a drift that stands still, as the network begins.
 *
 * Folder      checkpoint-<step> (state.h; averages among the moments), metrics.csv and .jsonl,
 *             run.yaml, and at the end drift.safetensors (drift_file.h)
 * A run that was stopped goes on from its newest checkpoint, bit for bit as if it had not been
 * stopped; another configuration, seed or data set is refused by name. A signal ends it behind a
 * step, or between two batches of an evaluation, which the run that goes on makes first.
 *
 * Ranks       `team`: every rank has an equal part of a step's tasks, in order (the last ones may
 *             have fewer, or none), and of the held-out tasks; the step is that of one rank, up to
 *             the order in which sums round. Rank 0 writes. The bits depend on the number of ranks:
 *             a run goes on with as many, or with resume_any.
 * Repeats     bit for bit. */
#ifndef HN_DRIFT_TRAIN_H
#define HN_DRIFT_TRAIN_H
#include "runtime/base/log.h"
#include "runtime/train/drift_file.h"
#include "runtime/train/drift_job.h"
#include "runtime/train/schedule.h"
#include "runtime/train/team.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const hn_team *team; /* that all call this with the same options; NULL: there are no others */
    hn_device *device;   /* with the team's collectives; NULL: the CPU, of one rank */
    hn_executor executor;
    const hn_drift_facts *facts; /* sizes, sigma, digests: of the result, too */
    const hn_drift_data *data;
    const float *features; /* [feature_rows, facts->config.features] */
    int64_t feature_rows;
    const int64_t *train, *held_out; /* [n_train], [n_held_out] tasks of the data */
    int64_t n_train, n_held_out;     /* n_held_out 0: nothing is evaluated */
    const char *data_digest;         /* of trajectories and features */
    hn_curve_kind curve;
    int64_t tasks, points; /* of a step: 16 and 16 are 64 trajectories at 4 times, of 4 a task */
    float noise;           /* on z: 0.05 */
    hn_schedule schedule;  /* cosine, lr 3e-4, 2000 steps of warm-up, 100000 steps */
    double weight_decay, max_grad_norm; /* 0.01; 0: no clipping */
    double average;                     /* 0.999 */
    hn_dtype dtype;
    hn_attention_impl attention;
    size_t memory; /* as of the engine */
    uint64_t seed;
    const char *out;    /* folder */
    const char *yaml;   /* all options, for run.yaml */
    bool resume;        /* from the newest checkpoint in `out`, where there is one */
    bool resume_any;    /* also on another number of ranks and on other kernels, with other bits */
    int64_t stop_after; /* end behind that step as if stopped; 0: do not */
    int64_t log_every, eval_every, save_every, keep; /* 0: only at the end; keep checkpoints */
    const hn_log *log;
    FILE *progress; /* NULL: none */
} hn_drift_train_options;

typedef struct {
    int64_t step;           /* done */
    bool finished;          /* all steps, and what belongs to the last: the result is written; else
                             * a signal or stop_after has stopped the run */
    double loss;            /* of the last step in this call; NaN: none */
    double first, held_out; /* held-out loss: at step 0 and last; NaN: not evaluated in this call */
    int64_t points;         /* that were trained on in this call, by all ranks */
    double seconds;         /* of the steps of this call */
} hn_drift_train_report;

/* The plan of such a run, without taking memory: *text is the caller's to hn_free. */
HN_NODISCARD hn_status hn_drift_train_plan(const hn_drift_train_options *o, char **text);

/* Errors  HN_ERR_ARG: options, a folder that holds another run or one of another number of ranks,
 *         ranks with other options than rank 0; HN_ERR_NUMERIC naming the step; those of engine,
 *         hub, checkpoints and files */
HN_NODISCARD hn_status hn_drift_train(const hn_drift_train_options *o, hn_drift_train_report *out);

#ifdef __cplusplus
}
#endif
#endif
