/* plot.h - pictures through gnuplot. */
#ifndef HN_PLOT_H
#define HN_PLOT_H
#include <stdbool.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs a script; what it prints is dropped. A gnuplot that is not there, or has no PNG, is no
 * error: the script stays.
 * *drawn   out: whether it ended well */
HN_NODISCARD hn_status hn_plot_run(const char *script, bool *drawn);

#ifdef __cplusplus
}
#endif
#endif
