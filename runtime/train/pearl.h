/* pearl.h - continual learning: an image classifier learns the tasks of a stream one after the
 * other. hone-pearl's options and verbs.
 *
 * pearl follows arXiv 2505.11998 as far as its abstract and introduction tell; ranks, phases and
 * records are ours (rank_rule.h has the rules). For each task:
 *
 *   probe     the adapted layers, head and norms are trained densely from the reference W_ref
 *   ranks     Delta = W_probe - W_ref of every layer, its singular values, k by the rule
 *   factors   B A of rank k, from the probe's directions, are trained on the frozen reference, with
 *             head and norms; layers of which B A would save nothing are trained as they are
 *   record    what the task keeps: B A, head, norms, running statistics. Nothing of it changes any
 *             more, so accuracy on a task that is known by its number is never lost.
 *
 * The other strategies are what it is compared with:
 *   lora        one rank for all layers, no probe         head        a new head on the reference
 *   single      a network a task                          sequential  one body, trained on and on
 *   joint       all tasks at once                         lwf, ewc    sequential, held back
 *
 * A run's folder:
 *   run.yaml  index.json       options; SHA-256 of what follows
 *   reference/                 W_ref as a model (config.json, model.safetensors)
 *   task-001/ ...              records: delta.safetensors in the format of checkpoints (state.h),
 *                              task.json: ranks, spectra, accuracies, digests, times
 *   working/                   of the task that is being learned: checkpoints, ends of phases
 *   accuracy.csv metrics.csv   a_{t,i} and what follows from it (cl_metrics.h), the task being
 * known classil-<chooser>.csv      a_{t,i} where a chooser finds the task (pearl_choose.h)
 *   ranks.csv result.json      rank_table.h; one cell of a table
 *
 * A kill loses at most --save-every steps; a continued run has the bits of an uninterrupted one.
 *
 * On several ranks (team.h) steps are data parallel: each has --accumulation micro-batches from
 * every rank, and a run keeps its number of micro-batches. What the ranks compute from the same
 * numbers in the same way each computes for itself; what a library decides (spectra, and ranks by
 * them) rank 0 computes for all. Held-out images and those of the Fisher information are split.
 * Rank 0 writes; the others read what it has written, and compare. */
#ifndef HN_PEARL_H
#define HN_PEARL_H
#include "runtime/train/team_options.h"
#include "runtime/train/verb_call.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    /* model */
    const char *model, *weights, *dtype;
    int64_t image_size;
    /* data */
    const char *data, *eval_data, *data_kind, *augment;
    bool coarse;
    double eval_split, resident;
    int64_t pad;
    /* stream */
    const char *tasks, *order;
    int64_t init_cls, increment;
    bool by_part, shuffle_classes, allow_repeats;
    /* strategy */
    const char *strategy, *ref, *rank_rule, *allocator, *init, *norm;
    double energy, eps, probe_epochs, probe_lr;
    int64_t floor, max_rank, budget, rank;
    bool truncate;
    hn_text_list layers, chooser;
    double lwf_weight, lwf_temperature, ewc_weight, ewc_decay;
    int64_t ewc_images;
    /* training */
    double epochs, lr, min_lr, beta1, beta2, adam_eps, momentum, weight_decay, max_grad_norm;
    double label_smoothing;
    bool nesterov;
    const char *optimizer, *schedule;
    int64_t batch_size, accumulation, warmup_steps, seed;
    /* the run */
    const char *out, *resume, *resume_device, *log_format;
    int64_t start_from, stop_after, stop_after_steps, save_every, log_every;
    /* machine */
    const char *device, *executor;
    int64_t threads;
    hn_team_options team;
    /* verbs on a run that is there */
    const char *run, *to;
    int64_t task;
} hn_pearl_config;

/* The config of a call is an hn_pearl_config.
 * Errors name option, file or task: HN_ERR_ARG and the like for wrong input, others while running
 * (hn_status_exit_code). */

/* Why an option means nothing beside the others; NULL: it does. Such options are refused where they
 * are given, and a run's record leaves them out. */
const char *hn_pearl_reason(const hn_pearl_config *c, const char *option);

/* Learns the tasks that have no record yet, on several ranks where options or a launcher want it. A
 * signal or --stop-after-steps saves and ends: HN_OK. A signal also while images are evaluated or
 * the Fisher information is gathered: of that nothing is kept, of the phases in front of it all. */
HN_NODISCARD hn_status hn_pearl_train(const hn_verb_call *c);
/* What train would do: tasks, layers with shapes and caps, memory of the largest phase. */
HN_NODISCARD hn_status hn_pearl_check(const hn_verb_call *c);
/* Accuracies once more, from the records of the run in `run`, and whether they are the same. */
HN_NODISCARD hn_status hn_pearl_eval(const hn_verb_call *c);
/* The network of task `task` of `run` as a model folder `to`. */
HN_NODISCARD hn_status hn_pearl_export(const hn_verb_call *c);
/* Tables and CSV files anew from the records of `run`. */
HN_NODISCARD hn_status hn_pearl_report(const hn_verb_call *c);

#ifdef __cplusplus
}
#endif
#endif
