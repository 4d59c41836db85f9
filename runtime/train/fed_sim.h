/* fed_sim.h - clients of a federated round, simulated: what a client does, and who does it.
 *
 * A *task* is a client's work in a round: from the global values on, so many steps over its own
 * images. A *simulation* runs the tasks of a round, one by one or many at once:
 *
 *   one        an engine of one replica, a task after the other; any model (fed_client.h)
 *   replicas   an engine with a replica axis (client_batch.h)
 *   block      a block of a GPU each, in one launch: the smallest networks (client_block.h)
 *   ranks      one of these on each of several GPUs, which share the tasks (fed_ranks.h)
 *
 * All of them do what stands here, and give the same values up to the rounding of fp32.
 *
 * values     what travels: one fp32 vector, the trained parameters and the buffers of the model in
 *            the order of hn_params (hn_params_count), each dense and in the order of files, as
 *            hn_param_get gives it. hn_fed_values_* below. What does not change does not travel:
 *            parameters that are not trained, and buffers with frozen_norm, are those of the model
 *            on every client, from the same seed.
 * step       mean gradient over the images of a batch (+ mu (w - global values) of the trained
 *            ones: FedProx, Li et al., 2020, equation 2), norm clipped where asked for, then the
 *            optimizer, whose state begins with zeros in every task; step s of a task, from 0, is
 *            the optimizer's step s.
 * order      batch s of a task has the rows s B .. s B + B - 1 of hn_fed_rows. Epochs end with a
 *            batch that is not full: the rest is padding (index -1, label -100), which counts
 *            nowhere. With `join` it goes on in the next epoch instead and is always full: for
 *            models whose batch norm would take padding for images.
 * random     crop, flip and dropout: keyed by (task.seed, step of the task from 1, row of the
 *            batch): the step block's seed, step and row_offset 0 (runtime/base/step_block.h)
 * loss       mean over the images of the task's last E steps (all, where it has fewer), E those of
 *            an epoch; the penalty is not in it. NaN where any step of the task had a loss that is
 * not finite, or a gradient, for which the step was left out: whoever aggregates refuses it
 */
#ifndef HN_FED_SIM_H
#define HN_FED_SIM_H
#include "runtime/adapt/params.h"
#include "runtime/data/images.h"
#include "runtime/fed/support.h"
#include "runtime/model/model.h"
#include "runtime/train/classifier_job.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What clients do with their images; the same for all of a run. */
typedef struct {
    int64_t batch; /* B */
    hn_optimizer optimizer;
    float mu; /* FedProx; 0: no penalty */
    hn_augment augment;
    float smoothing;  /* of labels */
    bool frozen_norm; /* batch norm by its running values */
    bool join;        /* batches are always full */
    /* Blocks of weights that adapt.sparse names, whose changes are trained and travel behind the
     * other values (fed_sparse.h); NULL: none. `one` only */
    const hn_fed_support *support;
    int64_t fisher_images; /* for the diagonal Fisher that clients send besides (fed_fisher.h), at
                            * most so many of a client; 0: none. `one` only */
} hn_fed_local;

typedef struct {
    hn_device *device; /* must outlive the simulation */
    hn_executor executor;
    const hn_model *model;   /* the same; its dtype is the one to compute in */
    const hn_adapt *adapt;   /* the same; what is trained, and so travels */
    const hn_images *images; /* of all clients together, with the labels that count; the same */
    double resident;         /* GiB of a GPU's memory for their pixels, else they are streamed */
    hn_fed_local local;
    uint64_t seed;          /* of parameters that are in no file */
    int64_t at_once;        /* tasks in a group, at most; one by one for `one`, but for its lanes */
    int64_t together;       /* results of a group that are handed over at a time, at most; 0: as
                             * many as HN_FED_TOGETHER bytes hold */
    hn_device *const *lane; /* [lanes - 1] of `one`: more devices like the first, of one GPU */
    int64_t lanes;          /* 0 and 1: one task after the other */
} hn_fed_sim_options;

/* A client's work in a round. */
typedef struct {
    int64_t client;
    const int32_t *index; /* [n] its images */
    int64_t n;            /* at least 1 */
    int64_t steps;        /* at least 1 */
    double lr;
    uint64_t seed; /* hn_fed_task_seed */
} hn_fed_task;

typedef struct {
    const float *value;  /* [n_values] after the last step */
    const float *fisher; /* NULL, or of the trained ones, as long */
    float loss;
    double seconds; /* of this task; where many run at once: its share */
} hn_fed_trained;

/* Receives the result of task i of the round; value lives until it returns. Errors end the round.
 */
typedef hn_status (*hn_fed_take)(void *context, int64_t i, const hn_fed_trained *t);
/* Does ahead of it what needs no order: for several results at a time, on several threads. Where a
 * round ends early, some of them are never taken. With a prepare, what take gets may have no value
 * and no fisher any more (NULL): `ranks` lets go of them in between. */
typedef void (*hn_fed_prepare)(void *context, int64_t i, const hn_fed_trained *t);

typedef struct hn_fed_sim hn_fed_sim;
struct hn_fed_sim {
    int64_t n_values;
    /* Of whoever calls round, with its context; NULL: nothing to do. moved: a sign of progress,
     * from the thread that called round, step by step where a simulation takes them one by one,
     * else between groups; an error ends the round. */
    hn_fed_prepare prepare;
    hn_status (*moved)(void *context);
    int64_t number; /* of the round, for messages */
    /* Runs task[0 .. n) from the same global values [n_values]; take gets them in that order.
     * NaN that training made is a result as others are: whoever aggregates refuses it.
     * Errors   HN_ERR_ARG: a task without images or steps, an image out of range; those of a run */
    hn_status (*round)(hn_fed_sim *s, const float *global, const hn_fed_task *task, int64_t n,
                       hn_fed_take take, void *context);
    void (*free)(hn_fed_sim *s);
};

static inline void hn_fed_sim_free(hn_fed_sim *s)
{
    if (s != NULL) s->free(s);
}

/* ---- what all simulations share (fed_sim.c) ---- */

/* Whether the model can be trained or evaluated on a set: HN_ERR_ARG, HN_ERR_SHAPE (more classes
 * than it has). */
HN_NODISCARD hn_status hn_fed_check_images(const hn_fed_sim_options *o, const hn_images *set);
/* HN_ERR_UNSUPPORTED: batches that may be padded, and a model whose batch norm would count it. */
HN_NODISCARD hn_status hn_fed_check_padding(const hn_fed_sim_options *o);
/* HN_ERR_UNSUPPORTED: changes of blocks, in a simulation that is not `one`. */
HN_NODISCARD hn_status hn_fed_check_dense(const hn_fed_local *l, const char *simulation);
/* HN_ERR_ARG: no images or steps, an image that the set does not have. */
HN_NODISCARD hn_status hn_fed_check_task(const hn_fed_sim_options *o, const hn_fed_task *t);
/* Whether the pixels come along with every micro-batch: they do not lie on a GPU. */
bool hn_fed_streams(const hn_fed_sim_options *o, const hn_images *set);
/* Image numbers of rows (-1: padding) as `rows` rows of a micro-batch from row `first` on. */
void hn_fed_put_rows(const hn_images *set, bool streams, const int32_t *image, int64_t first,
                     int64_t rows, const hn_classifier_batch *out);

HN_NODISCARD static inline hn_status hn_fed_moved(const hn_fed_sim *s, void *context)
{
    return s->moved == NULL ? HN_OK : s->moved(context);
}

enum { HN_FED_TOGETHER = 1 << 26 }; /* bytes */
/* How many results of n_values each a group hands over at a time, at least 1. */
int64_t hn_fed_together(const hn_fed_sim_options *o, int64_t n_values);
/* Hands results t[0 .. n) of the tasks from `first` on over: prepare on all threads, then take. */
HN_NODISCARD hn_status hn_fed_hand_over(const hn_fed_sim *s, int64_t first, int64_t n,
                                        const hn_fed_trained *t, hn_fed_take take, void *context);

/* Of the order of images and of all that is random: a function of (seed, round, client). */
uint64_t hn_fed_task_seed(uint64_t seed, int64_t round, int64_t client);
/* Steps of so many epochs over n images; with `join` the epochs are one stream of images. */
int64_t hn_fed_steps(const hn_fed_local *l, int64_t n, int64_t epochs);
/* E of `loss`. */
int64_t hn_fed_epoch_steps(const hn_fed_local *l, int64_t n);
/* Rows of batch `step` of the task: numbers of images into image[batch], -1 is padding.
 * returns  how many are no padding */
int64_t hn_fed_rows(const hn_fed_local *l, const hn_fed_task *t, int64_t step, int32_t *image);

/* `loss` of a task out of the reports of its steps, in order. */
typedef struct {
    int64_t from;  /* the first step that counts, from 0 */
    int64_t taken; /* reports so far */
    double sum;
    int64_t images;
} hn_fed_loss;

hn_fed_loss hn_fed_loss_begin(const hn_fed_local *l, const hn_fed_task *t);
void hn_fed_loss_add(hn_fed_loss *l, const hn_step_report *r);
float hn_fed_loss_mean(const hn_fed_loss *l); /* NaN without images */

/* Values that travel, of parameters that have been created or only declared: all but changes of
 * blocks. */
int64_t hn_fed_values_count(const hn_fed_local *l, const hn_params *p);
/* Whether q is part of them: it changes. */
bool hn_fed_travels(const hn_fed_local *l, const hn_param *q);
/* Their names, shapes in files and roles; the message of a real client has the same. */
HN_NODISCARD hn_status hn_fed_values_layout(const hn_fed_local *l, const hn_params *p,
                                            hn_fed_layout *out);
/* Out of an engine of one replica, and into it. */
HN_NODISCARD hn_status hn_fed_values_get(const hn_fed_local *l, const hn_params *p, float *value);
HN_NODISCARD hn_status hn_fed_values_set(const hn_fed_local *l, const hn_params *p,
                                         const float *value);

#ifdef __cplusplus
}
#endif
#endif
