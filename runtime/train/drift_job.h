/* drift_job.h - a drift network that learns the slopes of trajectories, as a job of the engine.
 *
 * A micro-batch is `tasks` support sets, with `points` points of each: a trajectory and a time.
 * Knots and features lie in the device's memory, whole; what the host fills in are numbers of rows,
 * labels, and for every point the weights of the curve at its time (runtime/flow/curve.h) and the
 * time's sinusoids. In the step: point z and slope z' in normalised coordinates, in training with
 * noise on z (kernels/hyperflow/curve_point.h); context of the support sets; the network. Loss: the
 * mean over the coordinates of (h(z, t | support) - z')^2 (kernels/hyperflow/regression.h); a row
 * that counts is a point. */
#ifndef HN_DRIFT_JOB_H
#define HN_DRIFT_JOB_H
#include "runtime/flow/curve.h"
#include "runtime/model/drift.h"
#include "runtime/train/drift_data.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const hn_drift_config *config; /* this and what follows must outlive the job */
    const hn_drift_data *data;
    const float *features; /* [feature_rows, config.features] */
    int64_t feature_rows;
    const float *sigma; /* [config.tokens], above 0 */
    hn_drift_rows rows; /* of a micro-batch; support as data has it */
    float noise;        /* in training: standard deviation on z */
    hn_dtype dtype;
    hn_attention_impl attention;
} hn_drift_job_options;

typedef struct {
    hn_job job;
    hn_drift_job_options o;
    hn_drift_tables tables;
    hn_tensor *knots, *unit, *features, *inv_sigma;
} hn_drift_job;

/* The job must stay where it is while an engine has it.
 * Errors: HN_ERR_SHAPE, HN_ERR_ARG: what does not fit together */
HN_NODISCARD hn_status hn_drift_job_init(hn_drift_job *j, const hn_drift_job_options *o);

/* The fields of a micro-batch, empty: no task, no point. */
typedef struct {
    const hn_drift_job *job;
    int32_t *row, *label, *offsets; /* [tasks support], [tasks support], [2 tasks + 1] */
    int32_t *trajectory;            /* [tasks points]; HN_LABEL_IGNORED: none */
    float *weights, *sinusoids;     /* [tasks points, 2 knots], [tasks points, config.time] */
} hn_drift_batch;

hn_drift_batch hn_drift_batch_empty(const hn_drift_job *j, const hn_engine_input *in);
/* Place i of the batch gets the support set of a task of the data. */
void hn_drift_put_task(const hn_drift_batch *b, int64_t i, int64_t task);
/* Place k among the points of place i: a trajectory of its task, at time t on the curve.
 * Errors: those of hn_curve_row */
HN_NODISCARD hn_status hn_drift_put_point(const hn_drift_batch *b, int64_t i, int64_t k,
                                          int64_t trajectory, const hn_curve *curve, double t);

#ifdef __cplusplus
}
#endif
#endif
