/* verb_call.h - one call of a verb of a program with verbs of its own: hone-pearl, hone-fedref. */
#ifndef HN_VERB_CALL_H
#define HN_VERB_CALL_H
#include <stdio.h>

#include "runtime/base/log.h"
#include "runtime/base/options.h"

typedef struct {
    const void *config;            /* the program's: hn_pearl_config, hn_fedref_config */
    const hn_options_store *given; /* what the user has set; NULL: nothing is refused for it */
    const char *yaml;              /* the options that reproduce the run, for run.yaml */
    hn_log log;
    FILE *to; /* results */
} hn_verb_call;

#endif
