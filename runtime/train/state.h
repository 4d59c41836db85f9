/* state.h - what a checkpoint of a run holds (design.md section 7).
 *
 *   delta.safetensors         trained values in fp32 by parameter name; metadata delta.manifest:
 *                             format version, base digest, encodings dense, lowrank, dora, and
 *                             those of blocks (sparse_state.h)
 *   buffers.safetensors       "buffers" [ranks, values]: running values of several ranks, where
 *                             each goes on with its own (rank_buffers.h)
 *   optimizer-0.safetensors   moments, "<parameter>.m" and "<parameter>.v"; averages,
 *                             "<parameter>.a"; where ranks share them, state_shares.h
 *   state.json                format version, step, counters, identities, log, plans of the matrix
 *                             products on a GPU
 *   trainer_state.json        the same log in the words of Hugging Face's Trainer
 *   run.yaml                  the options that reproduce the run
 *
 * A state that was saved and loaded continues bit for bit. Readers refuse newer versions and
 * another base model, data set, tokenizer or set of options that decide about the result. */
#ifndef HN_STATE_H
#define HN_STATE_H
#include "runtime/adapt/params.h"
#include "runtime/file/peft.h"
#include "runtime/model/vision_config.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_STATE_VERSION = 1 };

struct json_t; /* Jansson's json_t */

/* Who made the run: a resumed one must be the same. */
typedef struct {
    const char *method; /* "lora" */
    const char *base_path, *base_digest, *data_digest, *tokenizer_digest;
    const char *settings;           /* options that decide about the result, as text */
    const char *yaml;               /* all options */
    const hn_vision_config *vision; /* of a classifier, else NULL; not compared: it follows from */
    const hn_names *class_names;    /* the others. Names: none, or as many as classes */
} hn_run_identity;

typedef struct {
    int64_t step;
    double loss, lr, grad_norm, eval_loss; /* NaN: not in this entry */
} hn_log_entry;

typedef struct {
    int64_t step;        /* optimizer steps done */
    int64_t micro_batch; /* position in the data: micro-batches read */
    int64_t
        per_step; /* of an optimizer step, over all ranks; 0: an old checkpoint's, --accumulation */
    int64_t tokens;   /* trained tokens so far */
    double best_loss; /* of evaluations; NaN: none yet */
    int64_t best_step, evals_since_best;
    bool evaluate_first; /* the evaluation that belongs to `step` has not been made: it comes before
                          * the next step */
    hn_log_entry *log;
    int64_t n_log, cap_log;
    char *kernels; /* owned; whose kernels it runs on (hn_plan_notes); NULL: not known */
    /* Running values that ranks go on with, each its own, [ranks, n_buffers], rows in the order of
     * hn_params_get_buffers; owned. NULL: those of the parameters are everybody's. */
    float *buffers;
    int64_t ranks, n_buffers;
    struct json_t *gemm_plans; /* owned; of a run on a GPU (hn_engine_gemm_plans), else NULL */
} hn_run_state;

/* room: entries that hn_run_state_log will take without allocating. */
HN_NODISCARD hn_status hn_run_state_init(hn_run_state *s, int64_t room);
void hn_run_state_clear(hn_run_state *s);
void hn_run_state_log(hn_run_state *s, const hn_log_entry *entry); /* dropped when out of room */

/* Writes checkpoint-<step> of out_dir. */
HN_NODISCARD hn_status hn_state_save(const char *out_dir, const hn_params *p,
                                     const hn_run_identity *id, const hn_run_state *s);

/* Fills parameters, moments and *s from a checkpoint folder, which is verified first.
 * room      as hn_run_state_init, besides what the checkpoint's log holds
 * Errors    HN_ERR_FORMAT (damaged, another version), HN_ERR_ARG (another run) naming what differs
 */
HN_NODISCARD hn_status hn_state_load(const char *dir, const hn_params *p, const hn_run_identity *id,
                                     int64_t room, hn_run_state *s);

/* What the data of a classifier's run have decided about its model: the number of classes, and what
 * pixels are normalised by.
 * v        of the model; its classes, mean and std are set
 * names    filled with those of the classes where the data had some; the caller's to clear
 * Errors   HN_ERR_FORMAT: a decoder's, another number of channels, or damaged */
HN_NODISCARD hn_status hn_state_classes(const char *dir, hn_vision_config *v, hn_names *names);

/* per_step of a checkpoint, before anything else of it is read. */
HN_NODISCARD hn_status hn_state_per_step(const char *dir, int64_t *out);

/* Fills the parameters only, for evaluation and export.
 * base_digest   of the model that p holds
 * Errors        HN_ERR_ARG when the delta was made on another one; HN_ERR_FORMAT when its manifest
 *               describes other tensors, ranks or scales than p has */
HN_NODISCARD hn_status hn_state_load_delta(const char *dir, const hn_params *p,
                                           const char *base_digest);

#ifdef __cplusplus
}
#endif
#endif
