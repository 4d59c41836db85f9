/* few_shot_tune.h - fine-tuning of many episodes of a domain at once, and their evaluation: the
 * methods that HyperFlow is measured against, and the trajectories that it learns from.
 *
 * An episode is a replica of an engine (few_shot_job.h). The recipe is P>M>F's (Hu et al., CVPR
 * 2022): every episode begins at the model as it is; a step's prototypes are the clean support
 * images, its queries their augmented views; Adam (0.9, 0.999, 1e-8), no weight decay; the scale of
 * the cosine stays. What is trained:
 *
 *   none    nothing: direct transfer
 *   qv      the biases of queries and values                              (theta.h)
 *   biases  all biases of the blocks but the key's, which do nothing      (theta.h)
 *   ln      gains and biases of the layer norms
 *   full    everything but the key's biases
 *   lora    low-rank pairs on the projections of queries, keys and values: scale 1, B 0 at first
 *   head    a linear layer on the features, on the host                   (few_shot_head.h)
 *
 * Tuning and evaluation are engines of their own (an episode is 2 support images in one, support
 * and queries in the other); values go from one to the other on the device. On a GPU both are
 * captured; a step waits for nothing, knots are copied out between steps.
 *
 * Ranks      tune tasks of their own each, in engines without collectives. Of tuners that they have
 *            together at_once is the smallest of all, and hn_few_shot_choose_lr shares its groups
 *            of at_once among them; both are calls of all ranks then.
 * Repeats    bit for bit. A result depends on the task, the options and, for the rounding of
 *            products, on the task's place in its group of at_once; not on the other tasks. So who
 *            goes on with a list begins at a multiple of at_once.
 */
#ifndef HN_FEW_SHOT_TUNE_H
#define HN_FEW_SHOT_TUNE_H
#include "runtime/data/episodes.h"
#include "runtime/model/model.h"
#include "runtime/train/engine.h"
#include "runtime/train/team.h"
#include "runtime/train/theta.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_TUNE_NONE,
    HN_TUNE_QV,
    HN_TUNE_BIASES,
    HN_TUNE_LN,
    HN_TUNE_FULL,
    HN_TUNE_LORA,
    HN_TUNE_HEAD
} hn_tune_set;
#define HN_TUNE_SETS "none|qv|biases|ln|full|lora|head" /* in that order */

typedef struct {
    hn_device *device; /* must outlive the tuner; NULL: the CPU */
    hn_executor executor;
    const hn_model *model;   /* a vision transformer; must outlive the tuner */
    const hn_images *images; /* of the domain; the same */
    hn_tune_set set;
    int64_t rank;             /* of lora; else 0 */
    int64_t at_once;          /* episodes, G; lora: at least 2 */
    bool shrink;              /* half of them, and half again, until the plans fit */
    int64_t support, queries; /* rows: the most of an episode. queries 0: nothing is evaluated */
    int64_t ways;             /* the most of an episode */
    int64_t steps;            /* K; 0: values as they are given are evaluated */
    int64_t knot_every;       /* steps between knots of trajectories; 0: none. Divides K */
    float augment;            /* 0.9 */
    float scale, offset;      /* 10, 0 */
    hn_attention_impl attention;
    hn_recompute recompute;
    size_t memory;       /* as of the engine */
    uint64_t seed;       /* of parameters that are in no file, and of lora's A */
    const hn_team *team; /* hears of every step (hn_few_shot_tuner_at); NULL: nobody does */
    bool together;       /* its ranks all have such a tuner */
    /* Asked in front of every group of at_once, on the CPU of every operation (hn_signals_caught,
     * say): what is not 0 ends a call with HN_ERR_STOPPED, there within a step. The group at hand
     * is lost, nobody hears of it, and the tuner is only to be freed. NULL: nobody asks. */
    int (*stop)(void);
} hn_few_shot_tune_options;

typedef struct {
    const hn_episode *episode;
    double lr;          /* 0: no steps */
    uint64_t seed;      /* of its augmentation */
    const float *theta; /* [D] where it begins, of qv and biases; NULL: at the model's own */
} hn_few_shot_task;

typedef struct {
    double loss_first, loss_last; /* mean over the clean support images; NaN without steps */
    int64_t skipped;              /* steps that were no numbers and changed nothing */
    int64_t queries, hits;        /* that have a label; 0 where nothing is evaluated */
    const int32_t *prediction;    /* [queries of the episode]; NULL where nothing is evaluated */
    const float *knot;            /* [knots][D] theta - theta_0; NULL without knots */
} hn_few_shot_result;

/* Receives the result of task i; what it points to lives until it returns. Errors end the run. */
typedef hn_status (*hn_few_shot_take)(void *context, int64_t i, const hn_few_shot_result *r);

typedef struct hn_few_shot_tuner hn_few_shot_tuner;

/* Makes the plans; takes no memory of the device.
 * Errors  HN_ERR_ARG, HN_ERR_SHAPE: options that do not fit together, by name; HN_ERR_MEMORY: with
 *         `shrink`, not even one episode fits; those of hn_engine_new */
HN_NODISCARD hn_status hn_few_shot_tuner_new(const hn_few_shot_tune_options *o,
                                             hn_few_shot_tuner **out);
void hn_few_shot_tuner_free(hn_few_shot_tuner *t); /* accepts NULL */
/* Takes memory, loads the model. Errors: those of hn_engine_allocate and hn_model_load */
HN_NODISCARD hn_status hn_few_shot_tuner_open(hn_few_shot_tuner *t);

int64_t hn_few_shot_tuner_at_once(const hn_few_shot_tuner *t);
int64_t hn_few_shot_tuner_trained(const hn_few_shot_tuner *t); /* values of an episode */
int64_t hn_few_shot_tuner_knots(const hn_few_shot_tuner *t);   /* K / knot_every + 1; 0: none */
size_t hn_few_shot_tuner_bytes(const hn_few_shot_tuner *t);    /* planned, of both engines */
/* Which numbers theta is, and theta_0 [D] once it is open; NULL for other sets. */
const hn_theta *hn_few_shot_tuner_theta(const hn_few_shot_tuner *t);
const float *hn_few_shot_tuner_theta0(const hn_few_shot_tuner *t);
/* Plans of both engines, a title above each; hn_free it. NULL: no memory. */
char *hn_few_shot_tuner_plan_text(const hn_few_shot_tuner *t);

/* Where the team is from now on, for its watchdog: with every step of this tuner it has gone on. */
void hn_few_shot_tuner_at(hn_few_shot_tuner *t, hn_hub_phase phase, int64_t number);

/* The engine of tuning, else that of evaluation: its plan and profile; not to be stepped. */
hn_engine *hn_few_shot_tuner_engine(const hn_few_shot_tuner *t);

/* Runs task[0 .. n); take gets them in that order.
 * Errors  HN_ERR_ARG: an episode that does not fit the rows, a theta that the set has none of, an
 *         lr that is no number; HN_ERR_STOPPED; those of a run */
HN_NODISCARD hn_status hn_few_shot_tune(hn_few_shot_tuner *t, const hn_few_shot_task *task,
                                        int64_t n, hn_few_shot_take take, void *context);

/* The learning rate of a domain by its validation episodes: all lr [n_lr] on all episodes [n],
 * accuracy [n_lr] the mean over episodes of the share of queries that come out right. best: of the
 * largest accuracy; of equal ones the smallest lr. An lr of 0 is direct transfer.
 * Errors  HN_ERR_ARG: no queries, no lr; HN_ERR_STOPPED: any rank's `stop` said so, on all of them;
 *         those of hn_few_shot_tune */
HN_NODISCARD hn_status hn_few_shot_choose_lr(hn_few_shot_tuner *t, const hn_episode *episode,
                                             int64_t n, const double *lr, int64_t n_lr,
                                             uint64_t seed, double *accuracy, int64_t *best);

#ifdef __cplusplus
}
#endif
#endif
