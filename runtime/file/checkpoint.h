/* checkpoint.h - folders checkpoint-<step> that are complete or do not count.
 *
 * A checkpoint is written into a temporary folder; commit records size and SHA-256 of every file
 * in COMPLETE, written last, and renames the folder. What the files hold is the caller's business.
 * A kill at any moment leaves the newest complete checkpoint as it was; what a dead process left
 * is removed by the next hn_ckpt_begin.
 *
 * COMPLETE   {"format": 1, "step": S, "files": [{"name", "bytes", "sha256"}, ...]}
 * Limits     plain files only, no folders below; one writer for an out folder (hn_outdir_lock),
 *            who may have others write files of a checkpoint (hn_ckpt_has).
 * Errors     HN_ERR_IO, HN_ERR_WRITE; HN_ERR_FORMAT naming the file when a checkpoint is damaged or
 *            incomplete.
 */
#ifndef HN_CHECKPOINT_H
#define HN_CHECKPOINT_H
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_ckpt hn_ckpt;

HN_NODISCARD hn_status hn_ckpt_begin(const char *out_dir, int64_t step, hn_ckpt **out);
/* Where to write the file `name` of the checkpoint; *out lives until commit or abort.
 * Errors   HN_ERR_ARG for a name with '/', a leading '.' or that of the marker; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_ckpt_path(hn_ckpt *c, const char *name, const char **out);
const char *hn_ckpt_folder(const hn_ckpt *c); /* the temporary one */
/* Another process has written the file `name` there, to the disk, and knows its size and digest:
 * commit takes its word. Errors: those of hn_ckpt_path; commit's is HN_ERR_FORMAT where the file is
 * not there or has another size */
HN_NODISCARD hn_status hn_ckpt_has(hn_ckpt *c, const char *name, uint64_t n_bytes, const char *hex);
/* Frees c in every case; an existing checkpoint of that step is replaced in one step. */
HN_NODISCARD hn_status hn_ckpt_commit(hn_ckpt *c);
void hn_ckpt_abort(hn_ckpt *c); /* accepts NULL */

/* Every file that COMPLETE lists has its size and digest, and there is no other. */
HN_NODISCARD hn_status hn_ckpt_verify(const char *dir);

/* The newest checkpoint that verifies; a line in the log names each newer one that does not.
 * path   out: hn_free it; NULL when there is none (that is no error)
 * step   out: its step, -1 when there is none; may be NULL */
HN_NODISCARD hn_status hn_ckpt_newest(const char *out_dir, const hn_log *log, char **path,
                                      int64_t *step);

/* Removes complete checkpoints but the newest keep_n (at least 1) and the one at
 * `protected_path` (NULL: none). One that goes is renamed out of sight first, so a kill leaves none
 * that is half. Folders without COMPLETE are left alone: they may be another tool's. */
HN_NODISCARD hn_status hn_ckpt_prune(const char *out_dir, int64_t keep_n,
                                     const char *protected_path);

/* One process an out folder. The lock is the kernel's: it ends with the process. */
typedef struct hn_outdir hn_outdir;
/* Creates the folder if need be. Errors: HN_ERR_IO "out folder ... in use by process ..." */
HN_NODISCARD hn_status hn_outdir_lock(const char *out_dir, hn_outdir **out);
void hn_outdir_unlock(hn_outdir *lock); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
