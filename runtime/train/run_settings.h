/* run_settings.h - which options decide about a run's bits: what a continuation is compared by. */
#ifndef HN_RUN_SETTINGS_H
#define HN_RUN_SETTINGS_H
#include <stddef.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The lines of a run's YAML without comments and without the options that may change between a run
 * and its continuation, free_key [n]. *out: hn_free it */
HN_NODISCARD hn_status hn_run_settings(const char *yaml, const char *const *free_key, size_t n,
                                       char **out);
/* Errors: HN_ERR_ARG naming `where` and the first line that differs */
HN_NODISCARD hn_status hn_run_settings_same(const char *where, const char *then, const char *now);

#ifdef __cplusplus
}
#endif
#endif
