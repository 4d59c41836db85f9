/* signals.h - SIGINT, SIGTERM and SIGUSR1 (what SLURM sends ahead of the time limit, if asked to)
 * ask a run to save and end; a second SIGINT ends it at once. */
#ifndef HN_SIGNALS_H
#define HN_SIGNALS_H
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

void hn_signals_watch(void);      /* from now on signals are only noted */
void hn_signals_release(void);    /* the default actions again */
int hn_signals_caught(void);      /* number of the first signal noted, 0: none */
const char *hn_signals_name(int); /* "SIGINT" */

#ifdef __cplusplus
}
#endif
#endif
