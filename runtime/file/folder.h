/* folder.h - a folder that is either old or new, never half.
 *
 * New content is written to `.<name>.tmp-<pid>` beside the final folder; commit makes it durable
 * and renames it; abort removes it. A temporary folder whose process has died is removed by the
 * next hn_folder_begin or hn_folder_sweep. Processes of other hosts cannot be told from dead ones:
 * one folder is written by one process at a time (hn_outdir_lock).
 */
#ifndef HN_FOLDER_H
#define HN_FOLDER_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_folder hn_folder;

/* Creates the temporary folder (missing parents too). A trailing '/' of path is ignored. */
HN_NODISCARD hn_status hn_folder_begin(const char *path, hn_folder **out);
const char *hn_folder_temporary(const hn_folder *f); /* write here */
const char *hn_folder_path(const hn_folder *f);      /* will be here */

/* Frees f in every case. An empty folder at the final place is replaced; one with content only
 * when `replace` (the two are exchanged in one step, then the old one is removed), otherwise
 * HN_ERR_IO. A full or failing disk is HN_ERR_WRITE (hn_write_status). After an error the final
 * place is as it was, or new when only flushing the parent failed. */
HN_NODISCARD hn_status hn_folder_commit(hn_folder *f, bool replace);
void hn_folder_abort(hn_folder *f); /* accepts NULL */

/* Removes the temporary folders of dead processes in `parent` whose final name begins with
 * `prefix`. A missing parent is fine. */
HN_NODISCARD hn_status hn_folder_sweep(const char *parent, const char *prefix);

/* The names in a folder without "." and "..", in byte order; free with hn_folder_names_free. */
HN_NODISCARD hn_status hn_folder_names(const char *path, char ***names, int64_t *n);
void hn_folder_names_free(char **names, int64_t n);

/* Copies a regular file durably (through hn_saver). */
HN_NODISCARD hn_status hn_copy_file(const char *from, const char *to);

bool hn_is_folder(const char *path); /* follows links */
bool hn_is_file(const char *path);   /* a regular file, follows links */

#ifdef __cplusplus
}
#endif
#endif
