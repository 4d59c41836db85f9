/* method.h - what makes a trainer: its options and what they choose to train. */
#ifndef HN_METHOD_H
#define HN_METHOD_H
#include "runtime/adapt/params.h"
#include "runtime/base/options.h"
#include "runtime/file/peft.h"
#include "runtime/model/model.h"

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

    /* adapter: fills the PEFT configuration of a fresh run on that model from the options.
     * else: NULL, and every parameter of the model is trained */
    hn_status (*choose)(const void *config, const hn_model *m, hn_peft_config *out);
    /* adapter: names of the options that a loaded adapter decides, NULL at the end. With --adapter
     * they are refused, and the run record leaves them out. */
    const char *const *adapter_options;
} hn_method;

#ifdef __cplusplus
}
#endif
#endif
