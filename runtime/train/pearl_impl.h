/* pearl_impl.h - what the files pearl_*.c share; for them only. */
#ifndef HN_PEARL_IMPL_H
#define HN_PEARL_IMPL_H
#include "runtime/adapt/rank_rule.h"
#include "runtime/base/json.h"
#include "runtime/base/progress.h"
#include "runtime/data/task_stream.h"
#include "runtime/file/checkpoint.h"
#include "runtime/model/model.h"
#include "runtime/train/cl_metrics.h"
#include "runtime/train/classifier_job.h"
#include "runtime/train/pearl.h"
#include "runtime/train/pearl_choose.h"
#include "runtime/train/pearl_values.h"
#include "runtime/train/team.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_PEARL_FORMAT = 1 }; /* of index.json and task.json; readers refuse newer ones */

typedef enum {
    HN_PEARL_PEARL,
    HN_PEARL_LORA,
    HN_PEARL_HEAD,
    HN_PEARL_SINGLE,
    HN_PEARL_SEQUENTIAL,
    HN_PEARL_JOINT,
    HN_PEARL_LWF,
    HN_PEARL_EWC
} hn_pearl_strategy;

typedef enum { HN_REF_FIRST, HN_REF_PRETRAINED, HN_REF_PREVIOUS, HN_REF_NEAREST } hn_pearl_ref;
typedef enum { HN_NORM_TASK, HN_NORM_SHARED, HN_NORM_FROZEN } hn_pearl_norm;

/* What a parameter of the model is to a task. */
typedef enum {
    HN_ROLE_OTHER, /* of the reference: biases, tokens, layers that are not adapted */
    HN_ROLE_LAYER, /* weight of an adapted layer */
    HN_ROLE_NORM,
    HN_ROLE_RUNNING,
    HN_ROLE_HEAD
} hn_pearl_role;

typedef struct {
    const char *name; /* of the parameter */
    hn_pearl_role role;
    int64_t layer; /* of HN_ROLE_LAYER: its number; else -1 */
    int64_t n;
} hn_pearl_param;

typedef struct {
    const char *module, *weight, *a, *b; /* names */
    int64_t m, n;
    bool conv;
    int64_t dense_from; /* as in hn_rank_layer */
} hn_pearl_layer;

/* What was found for one layer of a task. */
typedef struct {
    hn_rank_choice choice;
    hn_rank_proximity near;
    double *s; /* [r] singular values of Delta; owned */
    int64_t r;
} hn_pearl_rank;

/* What a task keeps, in memory. */
typedef struct {
    int64_t base;           /* the task whose network lies under its update; 0: the reference */
    hn_values delta;        /* by the names of checkpoints; without what others share */
    hn_values fisher;       /* ewc: of the layers so far */
    float *mean, *variance; /* NULL, or prototypes: [classes, width]; [width] within classes */
    int64_t images;         /* of training, that the prototypes saw */
    hn_pearl_rank *rank;    /* NULL, or [layers] */
    double threshold;       /* of a budget; NaN: none */
    double probe_s, rank_s, train_s, eval_s;
    int64_t steps, task_images; /* optimizer steps; images of training */
    json_t *json;               /* task.json of a record that was written; owned */
} hn_pearl_record;

typedef struct {
    const hn_pearl_config *c;
    const hn_verb_call *call;
    hn_log log;
    FILE *to;
    hn_pearl_strategy strategy;
    hn_pearl_ref ref;
    hn_pearl_norm norm;
    hn_rank_rule rule;
    hn_chooser chooser[HN_CHOOSERS];
    int n_choosers;
    bool isolated;    /* records hold networks that nothing changes any more */
    bool json;        /* lines for machines */
    hn_team *team;    /* the call's */
    int64_t per_step; /* micro-batches of a step, over all ranks */
    /* inputs */
    hn_device *device;
    hn_model model;
    hn_image_set *train, *eval;
    hn_task_stream *stream;
    int tasks;
    char *data_digest, *settings;
    const char *base_digest;
    hn_augment augment;
    /* the model's parts */
    hn_arena arena;
    hn_pearl_param *param;
    int64_t n_params;
    hn_pearl_layer *layer;
    int64_t n_layers;
    int64_t width; /* of the features */
    /* weights */
    hn_values initial;       /* body, before the first task */
    hn_values reference;     /* body; empty until it is there */
    hn_pearl_record *record; /* [tasks] */
    int done;                /* tasks that have one on disk */
    int learned;             /* in memory */
    /* evaluation */
    struct hn_pearl_eval *evaluation;
    hn_cl *accuracy, *chosen[HN_CHOOSERS];
    /* the run */
    char *out, *working;
    hn_outdir *lock;
    json_t *index;
    hn_progress progress;
    int64_t steps_here; /* optimizer steps of this call */
    bool stopped;
    bool only_compares; /* eval: logits that differ are told, not an error */
} hn_pearl;

/* ---- pearl_options.c ---- */
hn_pearl_strategy hn_pearl_strategy_of(const char *name);
HN_NODISCARD hn_status hn_pearl_check_options(const hn_verb_call *call);

/* ---- pearl_open.c: data, model, and what its parameters are ---- */
/* Zeros but what the call says; it stays where it is until hn_pearl_close. */
hn_pearl hn_pearl_begin(const hn_verb_call *call);
/* Of several ranks: behind hn_team_join. */
HN_NODISCARD hn_status hn_pearl_open(hn_pearl *r);
void hn_pearl_close(hn_pearl *r);
/* The configuration with a head of so many classes. */
HN_NODISCARD hn_status hn_pearl_sizes(const hn_pearl *r, int64_t classes, hn_vision_config *out);
/* NULL: no parameter of the model. */
const hn_pearl_param *hn_pearl_find(const hn_pearl *r, const char *name);
/* Fills *initial: needs memory for the parameters once more. */
HN_NODISCARD hn_status hn_pearl_initial(hn_pearl *r);
/* Whether the reference is the network after the first task. */
bool hn_pearl_first_is_reference(const hn_pearl *r);
/* Of what is random in a phase: 1 + its kind; 0: a task's head. */
uint64_t hn_pearl_seed(const hn_pearl *r, int task, int phase);
int64_t hn_pearl_classes(const hn_pearl *r, int task);

/* ---- pearl_share.c: what ranks have from rank 0, and what they compare; of one rank nothing ----
 */
static inline bool hn_pearl_leads(const hn_pearl *r) { return hn_team_leads(r->team); }
/* What decides when ranks meet; before the first of that. */
HN_NODISCARD hn_status hn_pearl_same_course(const hn_pearl *r);
/* Options, data, model. */
HN_NODISCARD hn_status hn_pearl_same_inputs(const hn_pearl *r);
/* Errors  HN_ERR_NUMERIC: names ranks whose values are not rank 0's, bit for bit. NULL: a set that
 * is not there */
HN_NODISCARD hn_status hn_pearl_same_values(const hn_pearl *r, const char *what,
                                            const hn_values *const *set, int n);
/* Rank 0's, on all. */
HN_NODISCARD hn_status hn_pearl_share_flag(const hn_pearl *r, bool *flag);
HN_NODISCARD hn_status hn_pearl_share_values(const hn_pearl *r, hn_values *v);
/* Choices and proximities of all layers; spectra stay with rank 0. */
HN_NODISCARD hn_status hn_pearl_share_ranks(const hn_pearl *r, hn_pearl_record *record);

/* ---- pearl_phase.c: one engine, from its start to its end ---- */
typedef enum { HN_PHASE_DENSE, HN_PHASE_PROBE, HN_PHASE_FACTORS, HN_PHASE_HEAD } hn_phase_kind;

typedef struct {
    hn_phase_kind kind;
    int first, end; /* tasks */
    double epochs, lr;
    int64_t classes;                /* of the head */
    int64_t first_class, n_classes; /* columns of it that are trained; n 0: all */
    hn_task_labels labels;
    const hn_values *body;        /* starting values: all but the head */
    const hn_values *head;        /* NULL, or values of the head's first rows */
    const hn_values *factors;     /* FACTORS: NULL, or first directions of pairs */
    const hn_rank_choice *choice; /* FACTORS: [layers] */
    const hn_values *fisher;      /* ewc: NULL, or how firmly the body is held where it was */
} hn_phase;

typedef struct {
    hn_values values; /* all that was trained, and running statistics */
    double seconds;
    int64_t steps;
} hn_phase_end;

/* Runs it, or continues it, or reads its end where it was over before. r->stopped: asked to stop,
 * *out is empty; all else is saved. */
HN_NODISCARD hn_status hn_phase_run(hn_pearl *r, const hn_phase *p, hn_phase_end *out);
void hn_phase_end_free(hn_phase_end *e);
/* Planned only: bytes that it takes. */
HN_NODISCARD hn_status hn_phase_bytes(hn_pearl *r, const hn_phase *p, size_t *bytes);
const char *hn_phase_name(hn_phase_kind k);

/* ---- pearl_rank.c: spectra, ranks, factors ---- */
/* The ranks of a task, [layers], new, and for layers with a pair its first directions in *factors:
 * "<module>.lora_A.weight" of as many rows as the spectrum has for it. */
HN_NODISCARD hn_status hn_pearl_ranks(hn_pearl *r, const hn_values *base, const hn_values *probe,
                                      hn_pearl_record *record, hn_values *factors);
/* Pairs that training has made are cut down by the same rule; ranks and delta change. */
HN_NODISCARD hn_status hn_pearl_truncate(hn_pearl *r, const hn_values *base,
                                         hn_pearl_record *record);
/* Ranks of strategy lora, and what is to be said of its pairs when they are trained. */
HN_NODISCARD hn_status hn_pearl_fixed_ranks(hn_pearl *r, hn_pearl_record *record);
HN_NODISCARD hn_status hn_pearl_measure(hn_pearl *r, const hn_values *base,
                                        hn_pearl_record *record);
/* The task, among the reference and those with a record, whose network is nearest to the probe. */
HN_NODISCARD hn_status hn_pearl_nearest(hn_pearl *r, const hn_values *probe, int64_t *base);

/* ---- pearl_fisher.c ---- */
/* Of the body of a network that has learned a task; before: NULL, or what the tasks before it have
 * left. */
HN_NODISCARD hn_status hn_pearl_fisher(hn_pearl *r, int task, const hn_values *network,
                                       const hn_values *before, hn_values *out);

/* ---- pearl_learn.c: what each strategy does with a task ---- */
/* Learns tasks first .. end-1 into r->record[end - 1], which stays in memory. */
HN_NODISCARD hn_status hn_pearl_learn(hn_pearl *r, int first, int end);
double hn_pearl_probe_epochs(const hn_pearl *r);
/* Of a body that was trained on, the newest copy is all that is needed in memory. */
void hn_pearl_forget_body(hn_pearl *r, int task);

/* ---- pearl_folder.c: the run's folder ---- */
/* Takes the folder, reads the records that are there, checks that they are this run's. */
HN_NODISCARD hn_status hn_pearl_folder_open(hn_pearl *r);
/* The same for a run that is there, to be read only. */
HN_NODISCARD hn_status hn_pearl_folder_read(hn_pearl *r);
HN_NODISCARD hn_status hn_pearl_index_save(const hn_pearl *r);
HN_NODISCARD hn_status hn_pearl_index_add(hn_pearl *r, int task);

/* ---- pearl_record.c ---- */
/* The record becomes part of the run, working/ is emptied. digests: of the logits of all tasks. */
HN_NODISCARD hn_status hn_pearl_record_write(hn_pearl *r, int task, json_t *digests);
/* sha256: of its task.json */
HN_NODISCARD hn_status hn_pearl_record_read(hn_pearl *r, int task, const char *sha256);
/* What decides about bits: the CPU (any number of threads), or which GPU. */
const char *hn_pearl_machine(const hn_pearl *r);
/* want: NULL: the index has none. Errors: HN_ERR_FORMAT */
HN_NODISCARD hn_status hn_pearl_verify(const char *path, const char *want);

/* ---- pearl_network.c ---- */
/* The network of a task (0: the reference) without its head. */
HN_NODISCARD hn_status hn_pearl_network(const hn_pearl *r, int64_t task, hn_values *out);
/* delta over base: W + B A; everything else is replaced. */
HN_NODISCARD hn_status hn_pearl_merge(const hn_pearl *r, const hn_values *delta, hn_values *body);
/* Into reference/, and its digest into the index. */
HN_NODISCARD hn_status hn_pearl_reference_write(hn_pearl *r);
/* model.safetensors and config.json into a folder; head NULL: none, and no classes. */
HN_NODISCARD hn_status hn_pearl_model_write(const hn_pearl *r, const char *dir,
                                            const hn_values *body, const hn_values *head,
                                            const char *const *class_name, int64_t classes,
                                            char hex[HN_SHA256_HEX]);
/* Weight [classes, width] and bias [classes] of a task's columns, in one fresh array. */
HN_NODISCARD hn_status hn_pearl_head(const hn_pearl *r, int task, float **out);
/* Values that a task has added, by kind; pairs and dense layers come first. */
typedef struct {
    int64_t low_rank, dense, head, norm, running, total;
} hn_pearl_count;
void hn_pearl_count_of(const hn_pearl *r, int task, hn_pearl_count *out);
int64_t hn_pearl_body_values(const hn_pearl *r);

/* ---- pearl_eval.c ---- */
/* Accuracies of all tasks up to `task` (from 0), by r->record, into accuracy and chosen; digests
 * are compared with those of the records and put into *digests, a list. */
HN_NODISCARD hn_status hn_pearl_evaluate(hn_pearl *r, int task, json_t **digests);
HN_NODISCARD hn_status hn_pearl_prototypes(hn_pearl *r, int task);
void hn_pearl_eval_close(struct hn_pearl_eval *e);

/* ---- pearl_report.c ---- */
/* CSV files and result.json. */
HN_NODISCARD hn_status hn_pearl_report_write(const hn_pearl *r);
/* What has been learned, in a few lines of the log. */
void hn_pearl_say_task(const hn_pearl *r, int task);
/* Ranks of layers and tasks. */
void hn_pearl_heat_map(const hn_pearl *r, FILE *to);
/* Accuracies, parameters, times and ranks of all tasks. */
void hn_pearl_print_tables(const hn_pearl *r, FILE *to);

#ifdef __cplusplus
}
#endif
#endif
