/* metrics.h - metrics.csv and metrics.jsonl: one row a logging step, appended line by line.
 *
 * The columns are fixed when the files are opened; "step" is the first. A value that a row does
 * not give is an empty cell in the CSV and absent from the JSON object; NaN and infinity are
 * spelled nan, inf, -inf in the CSV and null in the JSON. Whole numbers are written as such,
 * others with 9 digits (what a float needs).
 *
 * Resuming   rows with a step above the resumed one, those of that step that come anew, and a line
 *            that a kill cut short, are dropped (the files are rewritten atomically); the rest
 *            stays byte for byte.
 * Limits     64 columns of 1 to 100 printable characters without ',' and '"'. No allocation after
 *            opening.
 * Errors     HN_ERR_IO, HN_ERR_WRITE naming the file; HN_ERR_FORMAT when a file to resume has other
 *            columns; HN_ERR_ARG; HN_ERR_MEMORY.
 */
#ifndef HN_METRICS_H
#define HN_METRICS_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_metrics hn_metrics;

typedef struct {
    const char *column;
    double value;
} hn_metric;

/* columns       [n] without "step"; copied
 * resume_step   -1: start new files (old ones are replaced); else the step resumed from
 * anew          of that step rows with a value in this column are dropped, too: they come again.
 *               NULL: none */
HN_NODISCARD hn_status hn_metrics_open(const char *dir, const char *const *columns, int n,
                                       int64_t resume_step, const char *anew, hn_metrics **out);
/* Errors besides those of writing: HN_ERR_ARG for a column that was not given when opening, or
 * twice. */
HN_NODISCARD hn_status hn_metrics_row(hn_metrics *m, int64_t step, const hn_metric *values, int n);
void hn_metrics_close(hn_metrics *m); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
