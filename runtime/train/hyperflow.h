/* hyperflow.h - few-shot adaptation without gradients: hone-hyperflow's options and verbs.
 *
 * Fine-tuning of a backbone's biases on many small tasks (few_shot_tune.h) leaves trajectories; a
 * drift network learns their time derivative out of the adapted biases, the time and the support
 * images (drift_train.h); a new task is adapted to by integrating it (adaptor.h). The stages are
 * verbs on one run; each goes on where it was stopped, with the bits of an uninterrupted one.
 *
 *   generate   trajectories of episodes of the training domains
 *   train      encoder (where it is to be trained here), its features, the drift network
 *   eval       methods on test episodes, the same ones for every method: a cell for each pair of
 *              method and domain; what is chosen (learning rate, stop time) is chosen on validation
 *              episodes, which hold no test image and, of a domain of training, no test class;
 *              --one-shot-runs adds Omniglot's own 20 episodes as a domain
 *   adapt      one support set: its biases as a file, predictions
 *   export     backbone, encoder and drift network as one file
 *   apply      adapt with that file alone
 *
 * generate, train and eval run on several ranks (team.h). Trajectories and cells are made in groups
 * of at_once episodes, which the ranks share: on the CPU, and on GPUs of one kind, with the bits of
 * one rank, and each stage goes on with any number of them. The drift network is trained by all on
 * parts of every step (drift_train.h); the encoder, and curves of `descent`, by rank 0 alone.
 *
 * A signal ends a stage behind a group, a batch of features or a step; generate, eval and features
 * on the CPU between two operations already: a group takes minutes there. Nothing of the group, of
 * the cell or of the domain's features is on disk then. Among ranks those that got the signal wait
 * for the groups of the others.
 * at_once is 32 on a GPU where nobody says it, on the CPU 4. Products of 4 episodes of a ViT-Tiny
 * are large enough there: 16 trajectories of one step and 10 images took 107 s on two shared cores,
 * as one by one; 1.5 GiB in place of 0.4, and 16 at once 5.7. Groups that are not full are computed
 * whole.
 *
 * generate says what it takes on disk before it begins; how long it takes as soon as that is known:
 * from pace.json at once where a run goes on with the same device and number of ranks, else from
 * the tuning that learning rates are chosen by, else from its first group.
 *
 * A run's folder:
 *   run.yaml  index.json        options of generate; what a continuation is compared by
 *                               (at_once: how many episodes of a domain were tuned at once)
 *   rates.json                  learning rates that were chosen for the trajectories, by domain
 *   pace.json                   how long generate's groups have taken at last, on which device and
 *                               how many ranks: for the time that it says, and nothing else
 *   trajectories.bin            runtime/flow/trajectory.h
 *   encoder/                    a model folder, where it was trained here: one for all networks
 *   features/<domain>.safetensors  of all its images, by the encoder
 *   <drift>/                    network of that name: drift_train.h has its files; encoder.json
 *   cells/<method>.<domain>.json   accuracies of every episode, what was chosen, seconds; of an
 *                               integration what an episode costs beside full fine-tuning, and the
 *                               method's name says what is not the default
 *   cells/descent.json          support loss of training tasks along integration, and along tuning
 *   result.json  accuracy.*  descent.*   all cells with paired differences, whether they are what
 *                               is expected (hyperflow_results.h); pictures
 */
#ifndef HN_HYPERFLOW_H
#define HN_HYPERFLOW_H
#include "runtime/train/verb_call.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_HYPERFLOW_AT_ONCE = 4096 }; /* at_once, at most */

typedef struct {
    /* backbone */
    const char *model, *weights, *dtype, *adapted;
    int64_t image_size;
    double scale, offset;
    /* encoder */
    const char *encoder, *encoder_weights;
    int64_t encoder_image, encoder_epochs, encoder_batch;
    double encoder_lr;
    /* domains */
    const char *data, *split;
    hn_text_list train_domains, test_domains;
    hn_text_list splits, hold_out;
    int64_t class_images;
    double held_images;
    /* episodes */
    const char *protocol;
    int64_t way, way_most, shot, shot_most, query, max_support, max_query, test_episodes,
        valid_episodes;
    /* fine-tuning */
    int64_t tune_steps, at_once, lora_rank;
    hn_text_list rates, full_rates;
    bool augment;
    /* trajectories */
    int64_t trajectories, inits, knots;
    double noise, budget;
    /* drift network */
    const char *drift, *curve;
    int64_t width, blocks, mlp, queries, iterations, drift_batch, times, warmup;
    double drift_lr, drift_decay, ema, jitter;
    /* integration */
    const char *integrator;
    int64_t integration_steps;
    hn_text_list stops;
    /* the run */
    const char *out, *resume, *resume_device;
    int64_t stop_after, log_every, save_every, seed;
    /* machine */
    const char *device, *executor;
    int64_t threads;
    hn_team_options team; /* of a verb on one GPU only `gpus` */
    /* verbs on a run that is there */
    const char *run, *to, *file;
    hn_text_list methods, only;
    const char *one_shot_runs;
    /* adapt */
    const char *support, *query_images, *of;
    int64_t episode;
    double stop;
} hn_hyperflow_config;

/* The config of a call is an hn_hyperflow_config.
 * Errors name option, file, domain or episode: HN_ERR_ARG and the like for wrong input, others
 * while running (hn_status_exit_code). A signal ends a stage behind its last whole unit: HN_OK. */

/* Why an option means nothing beside the others; NULL: it does. Such options are refused where they
 * are given, and a run's record leaves them out. */
const char *hn_hyperflow_reason(const hn_hyperflow_config *c, const char *option);

/* The options of train, which its stage is compared by. */
const hn_option *hn_hyperflow_train_rows(size_t *n);

HN_NODISCARD hn_status hn_hyperflow_generate(const hn_verb_call *c);
HN_NODISCARD hn_status hn_hyperflow_train(const hn_verb_call *c);
HN_NODISCARD hn_status hn_hyperflow_eval(const hn_verb_call *c);
HN_NODISCARD hn_status hn_hyperflow_adapt(const hn_verb_call *c);
HN_NODISCARD hn_status hn_hyperflow_export(const hn_verb_call *c);
HN_NODISCARD hn_status hn_hyperflow_apply(const hn_verb_call *c);
/* Domains and their classes, layout of what is adapted, disk and work of every stage. */
HN_NODISCARD hn_status hn_hyperflow_check(const hn_verb_call *c);
/* Memory of every stage's engine, and operations of an adaptation beside those of fine-tuning. */
HN_NODISCARD hn_status hn_hyperflow_plan(const hn_verb_call *c);
/* Where each stage of a run is. */
HN_NODISCARD hn_status hn_hyperflow_info(const hn_verb_call *c);
/* Table and pictures anew from the cells that are there. */
HN_NODISCARD hn_status hn_hyperflow_report(const hn_verb_call *c);

#ifdef __cplusplus
}
#endif
#endif
