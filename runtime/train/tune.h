/* tune.h - the fastest matrix products of a GPU: searched for once, written to a file, used by
 * every run that finds it (gemm_cache.h). On the CPU nothing of this has an effect.
 *
 * `option` is --plans: auto, off, or a file.
 */
#ifndef HN_TUNE_H
#define HN_TUNE_H
#include <stdio.h>

#include "runtime/base/log.h"
#include "runtime/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Before the first product runs: offers the file's plans to the device. Without a file of the
 * default name, or with one for another GPU or library (a warning), the library's choices stand.
 * Errors  HN_ERR_IO, HN_ERR_FORMAT, HN_ERR_UNSUPPORTED: name the file */
HN_NODISCARD hn_status hn_tune_use(hn_device *d, const char *option, const hn_log *log);

/* Once every product has run: how many of them run as they were tuned. */
void hn_tune_tell(const hn_device *d, const hn_log *log);

/* Where hn_tune_save would write; hn_free(*path). Refuses what it could not write to: `off`, no
 * home folder, a damaged file, one for another GPU or library. */
HN_NODISCARD hn_status hn_tune_path(const hn_device *d, const char *option, char **path);

/* Searches for the fastest algorithm of every product that has run on the device, and puts it in
 * force for launches from now on. Minutes; progress to standard error, a table of all products to
 * `table`. */
HN_NODISCARD hn_status hn_tune_search(hn_device *d, FILE *table);

/* Writes the plans in force to the file, beside those of other products that are there. */
HN_NODISCARD hn_status hn_tune_save(const hn_device *d, const char *path);

#ifdef __cplusplus
}
#endif
#endif
