/* save.h - files that are either old or new, never half.
 *
 * A saver writes to `<path>.tmp-<pid>` in the same folder; commit flushes,
 * renames over `path` and flushes the folder; abort (or a failure) removes the
 * temporary file and leaves `path` as it was. Write errors (disk full) are kept
 * and reported by the next call. Every byte also goes through SHA-256.
 */
#ifndef HN_SAVE_H
#define HN_SAVE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_SHA256_HEX = 65 }; /* 64 hex digits and the final zero */

/* What a write that failed with errno `why` is: HN_ERR_IO where the place is at fault (no such
 * folder, no permission, a file in the way), so that another path would do; else HN_ERR_WRITE. */
hn_status hn_write_status(int why);

typedef struct hn_saver hn_saver;

HN_NODISCARD hn_status hn_saver_open(const char *path, hn_saver **out);
HN_NODISCARD hn_status hn_saver_write(hn_saver *s, const void *data, size_t n_bytes);
/* Frees s in every case. hex: NULL or the digest of what was written. */
HN_NODISCARD hn_status hn_saver_commit(hn_saver *s, uint64_t *n_bytes, char hex[HN_SHA256_HEX]);
void hn_saver_abort(hn_saver *s); /* accepts NULL */

HN_NODISCARD hn_status hn_save_file(const char *path, const void *data, size_t n_bytes);
HN_NODISCARD hn_status hn_save_text(const char *path, const char *text);

/* Digest of memory or of a whole file. */
HN_NODISCARD hn_status hn_sha256(const void *data, size_t n_bytes, char hex[HN_SHA256_HEX]);
HN_NODISCARD hn_status hn_sha256_file(const char *path, uint64_t *n_bytes, char hex[HN_SHA256_HEX]);

/* Creates a folder and its missing parents; an existing folder is fine. */
HN_NODISCARD hn_status hn_make_dirs(const char *path);
/* Removes a folder with everything below it; a missing one is fine. */
HN_NODISCARD hn_status hn_remove_tree(const char *path);
/* Makes renames and removals inside a folder durable. */
HN_NODISCARD hn_status hn_sync_dir(const char *path);

#ifdef __cplusplus
}
#endif
#endif
