/* run_options.h - the options that all trainers share.
 *
 * A trainer's own config struct begins with an hn_run_config; its options follow the shared ones
 * in one table (hn_run_table). Every verb takes the groups that it needs. */
#ifndef HN_RUN_OPTIONS_H
#define HN_RUN_OPTIONS_H
#include "runtime/base/options.h"
#include "runtime/train/team_options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    /* model */
    const char *model, *weights, *adapter, *tokenizer, *dtype;
    /* images */
    const char *data_kind, *augment, *frozen_norm, *new_head, *mean_std;
    int64_t image_size, channels, classes, pad;
    double label_smoothing, resident;
    bool coarse;
    /* data */
    const char *data, *eval_data, *format, *prompt_key, *completion_key, *text_key, *cache_dir;
    double eval_split;
    int64_t seq_len, batch_size, data_threads;
    bool packing, train_on_prompt;
    const char *attention;
    /* training */
    const char *out, *schedule, *optimizer, *resume, *resume_device, *log_format, *result;
    int64_t steps, stop_after, accumulation, warmup_steps, seed;
    double epochs, lr, min_lr, beta1, beta2, eps, weight_decay, momentum, max_grad_norm;
    bool nesterov;
    const char *recompute;
    double memory;
    int64_t log_every, eval_every, save_every, keep, patience;
    /* machine */
    const char *device, *executor, *plans;
    int64_t threads;
    hn_team_options team;
    bool shard_base; /* of several ranks, as the next */
    int64_t zero;
    /* generation */
    const char *prompt;
    int64_t max_new_tokens, top_k;
    double temperature, top_p;
    bool ignore_eos;
    /* prediction */
    hn_text_list images;
    int64_t top;
    /* export */
    const char *checkpoint, *to, *kind;
    /* info */
    const char *path;
} hn_run_config;

/* Groups of options; a verb's table is the sum of some. */
enum {
    HN_GROUP_MODEL = 1,
    HN_GROUP_DATA = 2,
    HN_GROUP_TRAIN = 4,
    HN_GROUP_MACHINE = 8,
    HN_GROUP_GENERATE = 16,
    HN_GROUP_EXPORT = 32,
    HN_GROUP_METHOD = 64, /* the trainer's own rows */
    HN_GROUP_BATCH = 128,
    HN_GROUP_INFO = 256,
    HN_GROUP_IMAGE = 512,    /* sizes */
    HN_GROUP_CLASSES = 1024, /* where no data tell them */
    HN_GROUP_IMAGE_TRAIN = 2048,
    HN_GROUP_PREDICT = 4096,
    HN_GROUP_COUNT = 8192, /* how many ranks; as the next, of one run, not of its record */
    HN_GROUP_RANKS = 16384,
    HN_GROUP_SHARD = 32768, /* what ranks share: the base, optimizer state */
    HN_GROUP_ZERO = 65536,
};

typedef struct {
    hn_option *row;
    size_t n;
} hn_option_table;

/* Joins the shared groups and the method's rows. hn_free(out->row) frees it. */
HN_NODISCARD hn_status hn_run_table(unsigned groups, const hn_option *method, size_t n_method,
                                    hn_option_table *out);

/* Options of a training run that contradict each other or would be without effect.
 * Errors: HN_ERR_ARG naming them */
HN_NODISCARD hn_status hn_run_config_check(const hn_run_config *c);

#ifdef __cplusplus
}
#endif
#endif
