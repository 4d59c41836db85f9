/* session.h - what a verb works with: model, tokenizer, data, engine, opened in that order. */
#ifndef HN_SESSION_H
#define HN_SESSION_H
#include "runtime/base/progress.h"
#include "runtime/data/tokenizer.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_feed.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/method.h"
#include "runtime/train/run_options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const hn_method *method;
    const void *config;
    const hn_run_config *run; /* the same, as the shared part */
    const hn_options_store *given;
    hn_log log;
    hn_device *device;
    hn_model model;
    hn_tokenizer *tokenizer;
    hn_peft_config fresh;       /* of a new adapter */
    hn_peft_adapter adapter;    /* that was loaded */
    const hn_peft_config *peft; /* one of the two; NULL: no adapter in this session */
    hn_adapt adapt;
    hn_dataset *train_data, *eval_data;
    hn_loader *train_loader, *eval_loader;
    hn_feed *train, *eval; /* eval NULL: nothing is held out */
    int64_t seq_len, max_seqs;
    bool several_pieces; /* some row of the data holds more than one piece of text */
    hn_decoder_job job;
    hn_engine *engine;
    hn_progress progress; /* of reading data and of evaluation */
} hn_session;

/* Opens model and adapter. training: without --adapter a fresh one is chosen by the method. */
HN_NODISCARD hn_status hn_session_model(hn_session *s, bool training);
HN_NODISCARD hn_status hn_session_tokenizer(hn_session *s);
/* s->seq_len out of the options and the model's positions. */
HN_NODISCARD hn_status hn_session_seq_len(hn_session *s);
/* Opens the data. held_out_only: --data itself is what is to be evaluated. */
HN_NODISCARD hn_status hn_session_data(hn_session *s, bool held_out_only);
/* Records and plans; prints the plan. Nothing is allocated for tensors. */
HN_NODISCARD hn_status hn_session_plan(hn_session *s, bool train, int64_t logits_rows);
/* Records and plans a training run without its data: s->engine. Prints nothing. */
HN_NODISCARD hn_status hn_session_engine(hn_session *s, hn_executor executor);
/* Takes the memory and loads weights and adapter. */
HN_NODISCARD hn_status hn_session_load(hn_session *s);
/* Sums over the held-out data. */
HN_NODISCARD hn_status hn_session_evaluate(hn_session *s, hn_eval_sums *out);
void hn_session_close(hn_session *s);

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
