/* few_shot_job.h - episodes as a job of the engine: an episode is a replica, classified by the
 * prototypes of its support images (kernels/loss/proto_ce.h) behind a body without a head.
 *
 * The images of one domain lie on the device as bytes, at their own size; a micro-batch is numbers
 * of images and labels. Two forms:
 *
 *   tuning      rows of an episode: `support`. Support images, clean, make the prototypes;
 * augmented ones are the queries (kernels/vision/few_shot_prep.h). Evaluation takes the clean
 *               images for both: the support loss.
 *   evaluation  rows of an episode: `support`, then `queries`. Forward only, images as they are.
 */
#ifndef HN_FEW_SHOT_JOB_H
#define HN_FEW_SHOT_JOB_H
#include "runtime/data/images.h"
#include "runtime/model/vision.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const hn_vision_config *config; /* its head, if it has one, is left out; copied */
    const hn_images *images;        /* of the domain; must outlive the job */
    int64_t replicas;               /* episodes of a micro-batch, as of the engine */
    int64_t support, queries;       /* rows of an episode; queries 0: tuning */
    int64_t ways;                   /* at most, of an episode */
    float scale, offset;            /* logits = scale (cosine + offset) */
    float augment;                  /* of tuning: probability; 0: never */
    hn_dtype dtype;
    hn_attention_impl attention;
} hn_few_shot_job_options;

typedef struct {
    hn_job job;
    hn_few_shot_job_options o;
    hn_vision_config body; /* without a head */
    hn_tensor *images;
    hn_vision_tables tables;
    /* Of evaluation, until the next graph runs. */
    hn_tensor *features;   /* [replicas (support + queries), width] in the run's dtype */
    hn_tensor *prediction; /* i32 [replicas queries]; NULL in tuning */
} hn_few_shot_job;

/* The job must stay where it is while an engine has it.
 * Errors  HN_ERR_SHAPE: sizes, channels of images that are not the model's; HN_ERR_ARG */
HN_NODISCARD hn_status hn_few_shot_job_init(hn_few_shot_job *j, const hn_few_shot_job_options *o);

/* The fields of a micro-batch: [replicas][rows of an episode]; padding: -1 and HN_LABEL_IGNORED. */
typedef struct {
    int32_t *index, *label;
} hn_few_shot_batch;

hn_few_shot_batch hn_few_shot_batch_of(const hn_engine_input *in);

#ifdef __cplusplus
}
#endif
#endif
