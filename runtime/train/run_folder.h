/* run_folder.h - the folder of a run: how it is named, and whether a call may write into it. */
#ifndef HN_RUN_FOLDER_H
#define HN_RUN_FOLDER_H
#include <stdbool.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --out, or the folder that --resume names, or runs/<program>-<time>.
 * resume  "", "auto" or a folder
 * path    out: hn_free it
 * Errors  HN_ERR_ARG: --resume and --out name two folders */
HN_NODISCARD hn_status hn_run_folder_choose(const char *program, const char *out,
                                            const char *resume, char **path);
/* A run that is there is only gone on with, and only one that is there.
 * there   whether the folder holds a run
 * Errors  HN_ERR_ARG */
HN_NODISCARD hn_status hn_run_folder_check(const char *path, const char *resume, bool there);

#ifdef __cplusplus
}
#endif
#endif
