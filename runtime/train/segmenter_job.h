/* segmenter_job.h - a network that gives every voxel a class, as a job of the engine.
 *
 * A micro-batch is patches of volumes with a label for each voxel (runtime/data/volume_patch.h,
 * volume_feed.h). Loss: kernels/loss/seg_loss.h: the mean over patches of soft Dice, focal loss and
 * cross-entropy as they are weighted. Evaluation counts patches; hits adds up the shares of their
 * voxels that came out right, and hn_eval_sums has that sum rounded down: masks and their Dice
 * (hn_segmenter_volume, runtime/data/seg_metrics.h) say more. */
#ifndef HN_SEGMENTER_JOB_H
#define HN_SEGMENTER_JOB_H
#include "kernels/loss/seg_loss.h"
#include "runtime/model/seg.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const hn_seg_config *config; /* must outlive the job */
    int64_t batch;               /* patches of a micro-batch; 0: none */
    int64_t patch[3];            /* d, h, w */
    hn_seg_terms terms;          /* of the loss */
    int64_t window[3];           /* of hn_segmenter_volume; zeros: there is none */
    hn_dtype dtype;
} hn_segmenter_options;

typedef struct {
    hn_job job;
    hn_segmenter_options o;
    struct {
        hn_tensor *values, *logits;
    } probe;
} hn_segmenter_job;

/* The job must stay where it is while an engine has it. */
void hn_segmenter_job_init(hn_segmenter_job *j, const hn_segmenter_options *o);

/* The fields of a micro-batch. A patch whose labels are all ignored adds nothing. */
typedef struct {
    float *value;   /* [batch, d, h, w, channels of the network] */
    int32_t *label; /* [batch, d, h, w]; HN_LABEL_IGNORED: the voxel takes no part */
} hn_segmenter_batch;

hn_segmenter_batch hn_segmenter_batch_of(const hn_engine_input *in);

/* How a volume goes through windows (runtime/data/volume_window.h). */
typedef struct {
    double overlap;    /* 0..1, 1 excluded */
    bool gaussian;     /* weights of the blend; else all windows count alike */
    float pad;         /* value outside of the volume */
    int (*stop)(void); /* asked in front of every window: what is not 0 ends it with HN_ERR_STOPPED;
                        * NULL: nobody is */
} hn_segmenter_blend;

/* The class of every voxel of a volume, by the parameters as they are.
 * value    [size, channels of the network]
 * mask     out [size]
 * Errors   HN_ERR_ARG: the job has no window; those of hn_windows_plan and of a run;
 *          HN_ERR_NUMERIC: a logit that is NaN; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_segmenter_volume(const hn_segmenter_job *j, hn_engine *e,
                                           const float *value, const int64_t size[3],
                                           const hn_segmenter_blend *how, uint8_t *mask);

#ifdef __cplusplus
}
#endif
#endif
