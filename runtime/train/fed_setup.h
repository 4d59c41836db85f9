/* fed_setup.h - what a client of federated training is made of: model, images, local training and
 * payload, from options. hone-fedref's simulated clients and those of hone_client.h share it.
 *
 * payload   what is trained, and travels
 *   full    every parameter, and running statistics
 *   lora    low-rank pairs and the head (lora_hook.h), and running statistics
 *   head    the head alone: the body, batch norms included, stays as it is
 *   sparse  changes of blocks of weights, chosen once on the server (fed_sparse.h), the head, and
 *           running statistics; the server sends the blocks' ids first, once
 *
 * Running statistics that stay (frozen_norm, head) do not travel.
 */
#ifndef HN_FED_SETUP_H
#define HN_FED_SETUP_H
#include "runtime/base/options.h"
#include "runtime/fed/message.h"
#include "runtime/file/peft.h"
#include "runtime/train/fed_client.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    /* model */
    const char *model, *weights, *dtype;
    int64_t image_size, classes;
    /* data */
    const char *data, *eval_data, *data_kind, *augment;
    bool coarse;
    double eval_split, resident;
    int64_t pad, eval_batch;
    /* local training */
    int64_t epochs, batch_size;
    const char *optimizer, *epoch_end;
    double lr, lr_decay, momentum, beta1, beta2, adam_eps, weight_decay, max_grad_norm, mu;
    double label_smoothing;
    bool nesterov, frozen_norm;
    /* payload */
    const char *payload, *encoding;
    int64_t lora_rank;
    double lora_alpha, topk;
    hn_text_list lora_targets, sparse_targets;
    const char *sparse_block, *sparse_budget, *sparse_score, *sparse_mask;
    int64_t sparse_lift_rank;
    bool feedback;
    int64_t seed;
    /* machine */
    const char *device, *executor;
    int64_t threads;
} hn_fed_config;

/* The rows of a table whose config begins with an hn_fed_config; a group has its title. */
typedef enum {
    HN_FED_ROWS_MODEL, /* and data */
    HN_FED_ROWS_LOCAL, /* and payload, seed */
    HN_FED_ROWS_MACHINE,
    HN_FED_ROWS_GROUPS
} hn_fed_row_group;
const hn_option *hn_fed_option_rows(hn_fed_row_group g, size_t *n);

/* Why an option means nothing beside the others; NULL: it does, or is none of these. */
const char *hn_fed_reason(const hn_fed_config *c, const char *option);
/* Errors: HN_ERR_ARG naming an option that was given and means nothing, or values that do not fit
 * together. given NULL: only the latter */
HN_NODISCARD hn_status hn_fed_check_options(const hn_fed_config *c, const hn_options_store *given);

/* Must stay where it is while it is used. Zero before the first use. */
typedef struct {
    const hn_fed_config *c;
    hn_log log;
    hn_device *device;
    hn_model model;
    const char *base_digest;
    hn_image_set *train, *eval; /* eval NULL: nothing is held out */
    hn_peft_config peft;        /* of lora; targets of sparse */
    hn_fed_support support;     /* of sparse: empty until it is chosen or taken */
    hn_adapt adapt;
    hn_fed_sim_options sim; /* images: those of `train`; at_once 1 */
} hn_fed_setup;

/* Errors name the option: HN_ERR_ARG and those of what is opened. *s is to be closed in any case.
 */
HN_NODISCARD hn_status hn_fed_setup_open(const hn_fed_config *c, const hn_log *log,
                                         hn_fed_setup *s);
void hn_fed_setup_close(hn_fed_setup *s);

/* Payload sparse, before there is a client: the server chooses the blocks, a client takes what it
 * is sent (hn_fed_support_encode). With another payload the first does nothing, the second fails.
 * Errors  those of hn_fed_sparse_choose, hn_fed_support_decode and hn_fed_sparse_check; HN_ERR_ARG:
 *         another payload, or ids a second time */
HN_NODISCARD hn_status hn_fed_setup_choose(hn_fed_setup *s);
HN_NODISCARD hn_status hn_fed_setup_take(hn_fed_setup *s, const void *bytes, size_t n);

/* A client that evaluates only, in batches of eval_batch; no more than the held-out images. */
HN_NODISCARD hn_status hn_fed_setup_evaluator(const hn_fed_setup *s, hn_fed_client **out);
/* Names and shapes of what travels. Where something stays it belongs to that, and is bound to it
 * (hn_fed_layout_bind): the tensors of the base's files or, without any, its configuration and
 * seed; the images' size; lora's scale; the blocks of sparse. */
HN_NODISCARD hn_status hn_fed_setup_layout(const hn_fed_setup *s, const hn_fed_client *c,
                                           hn_fed_layout *out);
/* What clients do, as far as the kind of their data has nothing to do with it: batch, optimizer,
 * mu, the end of an epoch. */
hn_fed_local hn_fed_setup_local(const hn_fed_config *c);
/* lr lr_decay^(round - 1); rounds count from 1. */
double hn_fed_setup_lr(const hn_fed_config *c, int64_t round);
/* Encoding and, of topk, the number of values of a layout that are sent: at least one. */
hn_fed_encoding hn_fed_setup_encoding(const hn_fed_config *c);
int64_t hn_fed_setup_topk(const hn_fed_config *c, const hn_fed_layout *l);

#ifdef __cplusplus
}
#endif
#endif
