/* classifier_job.h - an image classifier as a job of the engine.
 *
 * A micro-batch is numbers of images and their labels. The pixels lie in the device's memory as
 * bytes, a whole set at once, or come along with every micro-batch; crop, flip and normalisation
 * are an operation of the step (kernels/vision/image_prep.h). Loss: softmax cross-entropy
 * (kernels/loss/class_ce.h); right answers are counted in evaluation. */
#ifndef HN_CLASSIFIER_JOB_H
#define HN_CLASSIFIER_JOB_H
#include "runtime/data/images.h"
#include "runtime/model/vision.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What training does to an image; all zero: nothing. */
typedef struct {
    int64_t pad;              /* random crop out of the image with so many black pixels around */
    float flip;               /* probability of a horizontal flip */
    bool resized;             /* instead of the crop: a random box, resized */
    float scale[2], ratio[2]; /* of that box */
} hn_augment;

/* Learning without forgetting (Li and Hoiem, 2016): what a network knew of some classes is held by
 * distillation (kernels/loss/distill.h) from a teacher, a copy of that network that stays as it is.
 * It sees the images that the network sees, augmented alike; its batch norm is by running values.
 */
typedef struct {
    float weight;                   /* of the term; 0: there is no teacher */
    float temperature;              /* 0: 1 */
    int64_t first_class, n_classes; /* columns of both heads; n 0: all behind first */
} hn_teaching;

typedef struct {
    const hn_vision_config *config; /* must outlive the job */
    int64_t batch;                  /* images of a micro-batch; 0: none */
    const hn_images *train, *eval;  /* NULL: no such set; must outlive the job */
    bool stream_train, stream_eval; /* pixels come with the micro-batch */
    hn_augment augment;
    float smoothing;                /* of labels, in training */
    bool frozen_norm;               /* batch norm by its running values in training, too */
    int64_t first_class, n_classes; /* columns of the head that take part; n 0: all behind first */
    hn_teaching distill;            /* added to the training loss, which reports have with it */
    hn_dtype dtype;
    hn_attention_impl attention;
    int64_t probe_images; /* at most, of hn_classifier_outputs; 0: there is none */
    bool predictions;     /* evaluation keeps them, of a micro-batch */
} hn_classifier_options;

typedef struct {
    hn_job job;
    hn_classifier_options o;
    hn_tensor *train, *eval; /* pixels that lie on the device */
    hn_tensor *prediction;   /* [batch] class of each row, until the next hn_engine_eval_batch */
    hn_vision_tables tables;
    hn_params *teacher;
    struct {
        hn_vision_tables tables;
        hn_tensor *pixels, *index, *logits, *features;
    } probe;
} hn_classifier_job;

/* The job must stay where it is while an engine has it. */
void hn_classifier_job_init(hn_classifier_job *j, const hn_classifier_options *o);

/* The teacher's parameters, named as the model's own: zeros after hn_engine_allocate, the caller's
 * to fill (hn_param_set). Checkpoints do not hold them. NULL: none; it lives as long as the
 * engine's program. */
hn_params *hn_classifier_teacher(const hn_classifier_job *j);

/* The fields of a micro-batch. Padding adds nothing to loss, gradients, count and hits; but batch
 * norm by the batch takes it for black images: none of it then in training (image_feed.h). */
typedef struct {
    int32_t *index, *label; /* [batch]; padding: -1 and -100 */
    uint8_t *pixel;         /* [batch, h, w, c]; NULL: nothing is streamed */
} hn_classifier_batch;

hn_classifier_batch hn_classifier_batch_of(const hn_classifier_job *j, const hn_engine_input *in);

/* What the model makes of images as evaluation sees them.
 * pixels    [n, image, image, channels], 1 <= n <= probe_images
 * logits    [probe_images, classes], features (the head's input) [probe_images, width]: the first n
 *           rows, until the next call, in the run's dtype (hn_tensor_get). Either may be NULL.
 * Errors    HN_ERR_ARG: no probe, or another n; those of a run */
HN_NODISCARD hn_status hn_classifier_outputs(const hn_classifier_job *j, hn_engine *e,
                                             const uint8_t *pixels, int64_t n,
                                             const hn_tensor **logits, const hn_tensor **features);

#ifdef __cplusplus
}
#endif
#endif
