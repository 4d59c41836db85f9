/* session.h - what a verb works with: model, data, engine, opened in that order.
 *
 * The model decides about the rest: a decoder reads rows of tokens (session_text.c), a classifier
 * images (session_images.c). What verbs and the training loop do with a session is the same. */
#ifndef HN_SESSION_H
#define HN_SESSION_H
#include "runtime/base/progress.h"
#include "runtime/data/image_loader.h"
#include "runtime/data/tokenizer.h"
#include "runtime/model/model.h"
#include "runtime/train/classifier_job.h"
#include "runtime/train/decoder_feed.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/method.h"
#include "runtime/train/run_options.h"
#include "runtime/train/team.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of a decoder. */
typedef struct {
    hn_tokenizer *tokenizer;
    hn_dataset *train_data, *eval_data;
    hn_loader *train_loader, *eval_loader;
    int64_t seq_len, max_seqs;
    bool several_pieces; /* some row of the data holds more than one piece of text */
    hn_decoder_job job;
} hn_text_session;

/* Of a classifier. */
typedef struct {
    hn_image_set *train, *eval;
    hn_image_loader *train_loader, *eval_loader;
    hn_names classes;     /* names, as the data have them; empty: not known */
    int64_t probe_images; /* of the probe; 0: a few */
    hn_images blank;      /* stands for the data where a plan is made without them */
    hn_classifier_job job;
} hn_image_session;

struct hn_session {
    const hn_method *method;
    const void *config;
    const hn_run_config *run; /* the same, as the shared part */
    const hn_options_store *given;
    hn_log log;
    hn_device *device;
    hn_model model;
    hn_peft_config fresh;       /* of a new adapter */
    hn_peft_adapter adapter;    /* that was loaded */
    const hn_peft_config *peft; /* one of the two; NULL: no adapter in this session */
    hn_adapt adapt;
    hn_text_session text; /* that of the model's kind counts */
    hn_image_session images;
    hn_feed *train, *eval; /* eval NULL: nothing is held out */
    hn_job *job;
    hn_engine *engine;
    hn_progress progress; /* of reading data and of evaluation */
    void *extra;          /* the method's hooks */
    int64_t per_step;     /* hn_session_per_step reads it; 0: not settled */
    int64_t step;         /* of training, for messages of its evaluations */
    int planned_ranks;    /* of a step of a plan; 0: those that are here */
    hn_team team;         /* several ranks; zeros: this process is alone */
};

/* Opens model and adapter, and refuses options of the other kind of model. training: without
 * --adapter a fresh one is chosen by the method. */
HN_NODISCARD hn_status hn_session_model(hn_session *s, bool training);
bool hn_session_has_images(const hn_session *s); /* else text */
HN_NODISCARD hn_status hn_session_tokenizer(hn_session *s);
/* Opens the data, the tokenizer before them; a classifier gets the classes of the data.
 * held_out_only: --data itself is what is to be evaluated. */
HN_NODISCARD hn_status hn_session_data(hn_session *s, bool held_out_only);
/* Without data: a classifier with these classes. */
HN_NODISCARD hn_status hn_session_classes(hn_session *s, int64_t classes);
/* Records and plans; prints the plan. Nothing is allocated for tensors. probe: with the graph of
 * hn_session_probe. */
HN_NODISCARD hn_status hn_session_plan(hn_session *s, bool train, bool probe);
/* Records and plans a training run without its data: s->engine. Prints nothing. */
HN_NODISCARD hn_status hn_session_engine(hn_session *s, hn_executor executor);
/* Takes the memory and loads weights and adapter. */
HN_NODISCARD hn_status hn_session_load(hn_session *s);
HN_NODISCARD hn_status hn_session_load_base(hn_session *s); /* the weights alone */
/* The values of the adapter, into parameters that hold the model's weights. */
HN_NODISCARD hn_status hn_session_adapt(hn_session *s, const hn_params *p);
/* What the command line says about ranks. */
hn_team_request hn_session_team(const hn_session *s);
/* Micro-batches of an optimizer step, over all ranks; where nobody trains, --accumulation. */
int64_t hn_session_per_step(const hn_session *s);
/* Optimizer steps of the run; 0: by --epochs, and the data are not there. Errors: HN_ERR_ARG */
HN_NODISCARD hn_status hn_session_steps(const hn_session *s, int64_t *out);
/* Sums over the held-out data. Ranks have their batches in turn. The sums of a batch are fp32, and
 * are added in fp64: each rank's own, then those of the ranks in their order, on all with the same
 * bits. That rounds nothing, so that neither order nor number of ranks shows, as long as the
 * smallest sum that is not 0 is above 2^-29 of the total.
 * Errors  HN_ERR_COMM: another rank is dead; HN_ERR_STOPPED: between two batches, on all ranks
 *         behind the same one: a signal has come to one of them, where signals are watched
 *         (signals.h); those of the engine and the feed */
HN_NODISCARD hn_status hn_session_evaluate(hn_session *s, hn_eval_sums *out);
/* Logits of made-up inputs, always the same ones: *out, *n values in fp32, is the caller's to
 * hn_free. */
HN_NODISCARD hn_status hn_session_probe(hn_session *s, float **out, int64_t *n);
/* Where ranks share the base (--shard-base), at the end of a run: rank 0 alone computes logits, and
 * the others help until it says that it needs no more. Else nothing. */
HN_NODISCARD hn_status hn_session_help(hn_session *s);
HN_NODISCARD hn_status hn_session_need_no_help(hn_session *s);
void hn_session_close(hn_session *s);

/* Lines of progress for work that is not training; `step` names what is counted. */
void hn_session_progress(hn_session *s, const char *step, const char *unit, int64_t total);
void hn_session_show(hn_session *s, int64_t done, int64_t units);

/* What is counted, "tokens" or "images"; whose data and tokenizer a run has. */
const char *hn_session_unit(const hn_session *s);
const char *hn_session_data_digest(const hn_session *s);
const char *hn_session_held_out_digest(const hn_session *s); /* "none": nothing is held out */
const char *hn_session_tokenizer_digest(const hn_session *s);

/* Optimizer settings out of the options. */
hn_optimizer hn_session_optimizer(const hn_run_config *c);
/* CPU threads; opens the device and says which it is. plan_only: a GPU that is asked for and not
 * there will do. */
HN_NODISCARD hn_status hn_session_device(hn_session *s, bool plan_only);
/* The same, and takes up the plans of matrix products that tune has written. */
HN_NODISCARD hn_status hn_session_machine(hn_session *s, bool plan_only);

#ifdef __cplusplus
}
#endif
#endif
