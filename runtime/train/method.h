/* method.h - what makes a trainer: its options and what they choose to train. */
#ifndef HN_METHOD_H
#define HN_METHOD_H
#include "runtime/adapt/params.h"
#include "runtime/base/options.h"
#include "runtime/file/peft.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name;         /* "lora": names the kind of delta */
    const char *program;      /* "hone-lora" */
    const char *summary;      /* one line for --help */
    const hn_option *options; /* rows behind the shared ones; fields of the config struct, whose
                               * first member is an hn_run_config */
    size_t n_options, config_size;
    bool adapter; /* the result is a PEFT adapter; else a whole model */

    /* adapter: fills the PEFT configuration of a fresh run from the options.
     * else: NULL, and every parameter of the model is trained */
    hn_status (*choose)(const void *config, hn_peft_config *out);
    /* adapter: an error when the user has set an option that a loaded adapter decides */
    hn_status (*check_given)(const hn_options_store *given);
} hn_method;

#ifdef __cplusplus
}
#endif
#endif
