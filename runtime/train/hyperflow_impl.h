/* hyperflow_impl.h - what the files hyperflow_*.c share; for them only. */
#ifndef HN_HYPERFLOW_IMPL_H
#define HN_HYPERFLOW_IMPL_H
#include "runtime/base/json.h"
#include "runtime/base/progress.h"
#include "runtime/data/episodes.h"
#include "runtime/data/omniglot_runs.h"
#include "runtime/file/checkpoint.h"
#include "runtime/graph/run.h"
#include "runtime/model/model.h"
#include "runtime/train/few_shot_stats.h"
#include "runtime/train/hyperflow.h"
#include "runtime/train/theta.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_HYPERFLOW_FORMAT = 1,   /* of index.json and cells; readers refuse newer ones */
    HN_HYPERFLOW_CHOICES = 16, /* learning rates, stop times that are tried */
    HN_HYPERFLOW_NAME = 64     /* bytes of a domain's name */
};

/* What a domain's classes, or images, are for. Of a domain of training: classes of its split, those
 * of --hold-out apart. Of another one: TEST is all of them with most of their images, VALID the
 * same classes with the others: as classes of their own, behind those of TEST. */
typedef enum { HN_HF_TRAIN, HN_HF_VALID, HN_HF_TEST, HN_HF_HELD, HN_HF_PARTS } hn_hf_part;
const char *hn_hf_part_name(hn_hf_part p); /* "train", "valid", "test", "held-out" */

typedef struct {
    char name[HN_HYPERFLOW_NAME];
    char *path;
    bool trains; /* it is one of --train-domains */
    /* NULL, or its test episodes: then its images are those of the runs and, behind them, those of
     * the validation classes, and there is no source for TEST. */
    const hn_omniglot_runs *runs;
    hn_image_set *images;
    hn_class_groups groups;                 /* of the classes of images; n 0: none */
    bool alphabets;                         /* groups by names: Meta-Dataset's episodes keep them */
    hn_episode_source *source[HN_HF_PARTS]; /* NULL: no class */
} hn_hf_domain;

/* What eval measures: one of --test-domains. */
typedef struct {
    char name[HN_HYPERFLOW_NAME + 16]; /* with '-' for ':' */
    int64_t domain;
    hn_hf_part part;
} hn_hf_target;

typedef struct {
    const hn_hyperflow_config *c;
    const hn_verb_call *call;
    hn_log log;
    FILE *to;
    /* inputs */
    hn_device *device;
    int64_t at_once; /* --at-once, or what that is on the device */
    hn_model model;
    const char *base_digest;
    int64_t shorter_side; /* that a folder's images get before the centre is cut; 0: as they are */
    hn_theta theta;       /* what is adapted */
    hn_model encoder;     /* once a stage wants it */
    const char *encoder_digest;
    hn_hf_domain *domain; /* those of training first */
    int64_t n_domains, n_train;
    hn_hf_target *target;
    int64_t n_targets;
    hn_omniglot_runs *runs; /* of --one-shot-runs; NULL: none */
    double rate[HN_HYPERFLOW_CHOICES];
    int n_rates;
    /* the run */
    char *out, *settings;
    hn_outdir *lock;
    json_t *index;
    hn_progress progress;
    bool stopped; /* asked to */
} hn_hyperflow;

/* ---- hyperflow_options.c ---- */
HN_NODISCARD hn_status hn_hyperflow_check_options(const hn_verb_call *call);
/* Of a verb that works on one. Errors: HN_ERR_UNSUPPORTED: --gpus asks for others */
HN_NODISCARD hn_status hn_hyperflow_one_gpu(const hn_hyperflow_config *c);
/* out [HN_HYPERFLOW_CHOICES]. Errors: HN_ERR_ARG naming the option */
HN_NODISCARD hn_status hn_hyperflow_numbers(hn_text_list list, const char *option, double least,
                                            double most, double *out, int *n);

/* ---- hyperflow_domain.c ---- */
HN_NODISCARD hn_status hn_hyperflow_domains(hn_hyperflow *r);
void hn_hyperflow_domains_free(hn_hyperflow *r);
/* cifar100:test, or cifar100-test as files have it; NULL: none of --test-domains */
const hn_hf_target *hn_hf_target_of(const hn_hyperflow *r, const char *name);
/* Adds --one-shot-runs as a domain and a target, "omniglot-runs"; nothing where it is not given. */
HN_NODISCARD hn_status hn_hyperflow_one_shot(hn_hyperflow *r); /* hyperflow_one_shot.c */
/* Episodes of a part: --way becomes the number of classes where there are fewer. */
HN_NODISCARD hn_status hn_hyperflow_sampler(const hn_hyperflow *r, const hn_hf_domain *d,
                                            hn_hf_part part, hn_episode_sampler **out);

/* ---- hyperflow_open.c: model, machine, domains ---- */
/* domains: their images are read, and compared with those of the run. */
HN_NODISCARD hn_status hn_hyperflow_open(const hn_verb_call *call, bool domains, hn_hyperflow *r);
/* The same of a verb that has ranks, with domains: they have met. sums: engines that train on
 * r->device train together (hn_team_devices). */
HN_NODISCARD hn_status hn_hyperflow_open_ranks(const hn_verb_call *call, bool sums,
                                               hn_hyperflow *r);
/* Threads and device alone. */
HN_NODISCARD hn_status hn_hyperflow_machine(hn_hyperflow *r);
void hn_hyperflow_close(hn_hyperflow *r);
/* Whether a signal has come, or --stop-after is reached. */
bool hn_hyperflow_must_stop(const hn_hyperflow *r, int64_t done_here);
/* Of a stage; without a terminal a line every so many units. */
void hn_hyperflow_progress(const hn_hyperflow *r, hn_progress *p, const char *step,
                           const char *unit, int64_t done, int64_t total);

/* ---- hyperflow_team.c: calls of all ranks; of one rank they do nothing ---- */
bool hn_hyperflow_leads(const hn_hyperflow *r); /* rank 0, which writes and prints */
int64_t hn_hyperflow_ranks(const hn_hyperflow *r);
/* Whether a group of work, by its number among those that are shared, is this rank's. */
bool hn_hyperflow_is_own(const hn_hyperflow *r, int64_t group);
void hn_hyperflow_at(const hn_hyperflow *r, hn_hub_phase phase,
                     int64_t number); /* no call of all */
/* x [n]: becomes the sum over the ranks, exact where all but one have 0. */
HN_NODISCARD hn_status hn_hyperflow_total(const hn_hyperflow *r, double *x, int64_t n);
/* r->stopped: whether any rank must stop (hn_hyperflow_must_stop), or has stopped. */
HN_NODISCARD hn_status hn_hyperflow_ask(hn_hyperflow *r, int64_t done_here);
/* Rank 0's bytes, and JSON, for all; the others' *o is NULL before. */
HN_NODISCARD hn_status hn_hyperflow_share(const hn_hyperflow *r, void *data, size_t n_bytes);
HN_NODISCARD hn_status hn_hyperflow_share_json(const hn_hyperflow *r, const char *where,
                                               json_t **o);
/* Options, settings, model and data. Errors: HN_ERR_ARG naming the rank */
HN_NODISCARD hn_status hn_hyperflow_same(const hn_hyperflow *r);

/* ---- hyperflow_encoder.c ---- */
/* Where an encoder is. path "": in the run's folder, trained there. */
typedef struct {
    const char *path, *weights; /* weights: NULL or "" without a file of them */
    int64_t image;              /* side that it reads; 0: as it says */
} hn_hf_encoder;
bool hn_hf_encoder_is_trained(const hn_hyperflow_config *c); /* by train's options, here */
HN_NODISCARD hn_status hn_hyperflow_encoder_open(hn_hyperflow *r, const hn_hf_encoder *from);
/* By train's options, on all ranks. r->encoder: opened, after it was trained, by rank 0, where it
 * has to be. r->stopped: asked to stop. */
HN_NODISCARD hn_status hn_hyperflow_encoder(hn_hyperflow *r);

/* ---- hyperflow_features.c ---- */
/* out [images of the domain, width of the encoder's features], read or made.
 * Errors  HN_ERR_STOPPED: a signal has come, and there is no file of them */
HN_NODISCARD hn_status hn_hyperflow_features(const hn_hyperflow *r, const hn_hf_domain *d,
                                             float *out);
/* The same on all ranks: rank 0 first, so that the others find the file. HN_ERR_STOPPED on all of
 * them if on any. */
HN_NODISCARD hn_status hn_hyperflow_features_of_all(const hn_hyperflow *r, const hn_hf_domain *d,
                                                    float *out);

/* ---- hyperflow_cell.c ---- */
/* What was chosen on validation episodes; value 0 is no adaptation, and always tried. */
typedef struct {
    const char *what; /* "lr", "stop" */
    const char *on;   /* which episodes */
    double value[HN_HYPERFLOW_CHOICES + 1], accuracy[HN_HYPERFLOW_CHOICES + 1];
    int n, best; /* n 0: nothing was */
} hn_hf_choice;

/* Of one episode (hyperflow_cost.h). */
typedef struct {
    uint64_t adapt_bytes, whole_bytes, full_bytes; /* to biases; to predictions; full fine-tuning */
    double encoder_flops, drift_flops, classify_flops, full_flops;
} hn_hf_cost;

typedef struct {
    const char *label, *domain, *settings;
    const char *sampler, *digest; /* which episodes: text and digest of the sampler */
    const char *device;
    bool in_domain;
    hn_hf_choice choice;
    const double *accuracy; /* [episodes] */
    int64_t episodes;
    double seconds;         /* of the test episodes */
    double flops;           /* of integrating one episode; 0: not counted */
    uint64_t planned_bytes; /* of the engines that adapt and classify */
    hn_hf_cost cost;        /* full_bytes 0: not looked at */
} hn_hf_cell;

/* domain NULL: of a cell that is of no domain. */
HN_NODISCARD hn_status hn_hf_cell_path(const hn_hyperflow *r, const char *label, const char *domain,
                                       char **path);
/* Errors: HN_ERR_ARG where it is there with other settings, naming the first that differs */
HN_NODISCARD hn_status hn_hf_cell_there(const char *path, const char *settings, bool *there);
HN_NODISCARD hn_status hn_hf_cell_save(const char *path, const hn_hf_cell *c);

/* ---- hyperflow_folder.c ---- */
/* <run>/<name>; hn_free it. */
HN_NODISCARD hn_status hn_hyperflow_path(const hn_hyperflow *r, const char *name, char **path);
/* Takes the folder of generate, checks that what is there is this run's, or begins. Rank 0 does;
 * the others have its path and its index from it, here and in the next. */
HN_NODISCARD hn_status hn_hyperflow_folder_open(hn_hyperflow *r);
/* The same for a run that is there. write: files of it will be, so it is taken; else only read. */
HN_NODISCARD hn_status hn_hyperflow_folder_read(hn_hyperflow *r, bool write);

#ifdef __cplusplus
}
#endif
#endif
