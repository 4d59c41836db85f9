/* method.h - what makes a trainer: its options and what they choose to train. */
#ifndef HN_METHOD_H
#define HN_METHOD_H
#include "runtime/adapt/params.h"
#include "runtime/base/options.h"
#include "runtime/file/peft.h"
#include "runtime/model/model.h"
#include "runtime/train/engine.h"
#include "runtime/train/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_session hn_session; /* session.h */

/* What a method adds to a session and to the training loop, in the order of a run; each may be
 * NULL. What it keeps for itself lies behind s->extra. */
typedef struct {
    /* The options have been parsed: fills in what they leave open. row [n]: those of the verb */
    hn_status (*settle)(void *config, const hn_option *row, size_t n,
                        const hn_options_store *given);
    /* The folder of --adapter, which is none of PEFT's: opens it, without its values.
     * *taken: whether it is of the method's own kind */
    hn_status (*adapter)(hn_session *s, bool training, bool *taken);
    /* The model is open; what is trained has been chosen: s->peft (NULL: nothing), s->adapt. */
    hn_status (*open)(hn_session *s, bool training);
    /* Training is about to be planned. */
    hn_status (*plan)(hn_session *s, hn_engine_options *o);
    /* p holds the model's weights, and those of a PEFT adapter. */
    hn_status (*load)(hn_session *s, const hn_params *p);
    /* The loop begins behind `step` steps; a checkpoint has been loaded where that is not 0, and
     * may have been at 0, of a run that was stopped in here or behind it. */
    hn_status (*begin)(hn_session *s, const hn_schedule *schedule, int64_t step);
    /* In front of hn_engine_begin of a step, while earlier ones may still be under way. */
    hn_status (*before)(hn_session *s, int64_t step);
    /* Whether the host waits behind the first `step` steps, for `behind` to follow: before they
     * are evaluated or saved. log: for what it has to say */
    bool (*looks)(const hn_session *s, int64_t step);
    hn_status (*behind)(hn_session *s, int64_t step, const hn_log *log);
    /* The result has been written. out: the run's folder */
    hn_status (*end)(hn_session *s, const char *out);
    void (*close)(hn_session *s); /* frees s->extra */
} hn_method_hooks;

typedef struct {
    const char *name;         /* "lora": names the kind of delta */
    const char *program;      /* "hone-lora" */
    const char *summary;      /* one line for --help */
    const hn_option *options; /* rows behind the shared ones; fields of the config struct, whose
                               * first member is an hn_run_config */
    size_t n_options, config_size;
    bool adapter; /* the result is an adapter; else a whole model */
    bool pack;    /* the adapter is a delta pack (runtime/file/sparse_pack.h), else one of PEFT's */

    /* adapter: fills the PEFT configuration of a fresh run on that model from the options.
     * else: NULL, and every parameter of the model is trained */
    hn_status (*choose)(const void *config, const hn_model *m, hn_peft_config *out);
    /* adapter: names of the options that a loaded adapter decides, NULL at the end. With --adapter
     * they are refused, and the run record leaves them out. */
    const char *const *adapter_options;
    /* Why an option of the method is without effect beside the others; NULL: it has one. Given to a
     * training run it is refused, and the run record leaves it out. NULL: all have one */
    const char *(*idle)(const void *config, const char *option);
    const hn_method_hooks *hooks; /* NULL: none */
} hn_method;

#ifdef __cplusplus
}
#endif
#endif
