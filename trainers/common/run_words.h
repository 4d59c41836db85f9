/* run_words.h - verbs on a run that is there read its run.yaml before the user's own options. */
#ifndef HN_RUN_WORDS_H
#define HN_RUN_WORDS_H
#include "runtime/base/status.h"

/* Puts --config=<run>/run.yaml in front of the words behind argv[0], where --run names a folder.
 * *argc   becomes the new number of words
 * *list   out: the new argument list, for hn_run_words_free; NULL where nothing is to be added */
HN_NODISCARD hn_status hn_run_words(int *argc, char *const *argv, char ***list);
void hn_run_words_free(char **list); /* accepts NULL */

#endif
