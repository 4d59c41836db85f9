/* verb_call.h - one call of a verb of a program with verbs of its own: hone-pearl, hone-fedref. */
#ifndef HN_VERB_CALL_H
#define HN_VERB_CALL_H
#include <stdio.h>

#include "runtime/base/log.h"
#include "runtime/base/options.h"
#include "runtime/train/team.h"

typedef struct {
    const void *config;            /* the program's: hn_pearl_config, hn_fedref_config */
    const hn_options_store *given; /* what the user has set; NULL: nothing is refused for it */
    const char *yaml;              /* the options that reproduce the run, for run.yaml */
    hn_log log;
    FILE *to; /* results */
    /* The ranks of a verb that has some, started, but not joined yet; of others only what the
     * options ask for (request), where the program has such options. Never NULL. */
    hn_team *team;
} hn_verb_call;

#endif
