/* plot.h - pictures through gnuplot. */
#ifndef HN_PLOT_H
#define HN_PLOT_H
#include <stdbool.h>
#include <stdio.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Text between single quotes of a script: a ' in it is doubled, nothing else has a meaning. */
void hn_plot_text(FILE *script, const char *text);

/* Runs a script; what it prints is dropped. A gnuplot that is not there, or has no PNG, is no
 * error: the script stays.
 * *drawn   out: whether it ended well */
HN_NODISCARD hn_status hn_plot_run(const char *script, bool *drawn);

#ifdef __cplusplus
}
#endif
#endif
