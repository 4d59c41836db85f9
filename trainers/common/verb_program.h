/* verb_program.h - a program with verbs of its own as tables: its options in groups, its verbs.
 *
 *   int main(int argc, char **argv)
 *   {
 *       const hn_verb_program p = {...};
 *       return hn_verb_program_main(&p, argc, argv);
 *   }
 *
 * finds the verb (or says which is nearest), lists options for --help, reads them, writes down
 * those that reproduce the run, calls the verb, and says on standard error what went wrong. */
#ifndef HN_VERB_PROGRAM_H
#define HN_VERB_PROGRAM_H
#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/options.h"
#include "runtime/train/verb_call.h"

/* Options that a verb has together. */
typedef struct {
    const hn_option *row;
    size_t n;
} hn_verb_rows;

typedef struct {
    const char *name, *help;
    hn_status (*run)(const hn_verb_call *c);
    unsigned groups; /* bit g: it has the options of group g */
    bool of_run;     /* --run names a folder whose run.yaml is read before the user's options */
    bool ranks;      /* it runs as the ranks that the options ask for (team.h) */
} hn_verb;

/* Where a config has the options of ranks: offsets of the fields. */
typedef struct {
    size_t options;         /* hn_team_options */
    size_t device, threads; /* const char *, int64_t */
} hn_verb_team;

typedef struct {
    const char *name, *summary;
    const hn_verb *verb;
    int n_verbs;
    const hn_verb_rows *group; /* a verb's options are in this order */
    int n_groups;              /* at most 32 */
    unsigned recorded;         /* bits of the groups whose options reproduce a run: run.yaml */
    size_t config_size;        /* what the options are read into; zero before */
    /* Why an option means nothing beside the others, and so is no part of a record; NULL: it does.
     * The verbs refuse such options where they are given. */
    const char *(*reason)(const void *config, const char *option);
    const char *const *of_call; /* options of one call, not of the run; ends with NULL */
    const hn_verb_team *team;   /* NULL: no verb has ranks */
} hn_verb_program;

/* What main returns: 0 done, 2 bad usage or input, 1 a failure while running. */
int hn_verb_program_main(const hn_verb_program *p, int argc, char **argv);

#endif
