/* tfevents.h - scalars in a TensorBoard event file.
 *
 * One new file per writer, `events.out.tfevents.<seconds>.<host>.<pid>.<counter>`; an old one is
 * never appended to. TensorBoard merges the files of a folder by step. Each call is one record
 * {length, CRC-32C, event, CRC-32C} in one write, so a reader sees it at once. After a failed
 * write the file is cut back to its last whole record.
 *
 * Limits     tags of 1 to 200 bytes; a record of 64 KiB. No allocation after opening.
 * Errors     HN_ERR_IO, HN_ERR_WRITE naming the file; HN_ERR_ARG; HN_ERR_MEMORY.
 * Source     conventions.md part 12.
 */
#ifndef HN_TFEVENTS_H
#define HN_TFEVENTS_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_tfevents hn_tfevents;

typedef struct {
    const char *tag; /* "train/loss" */
    float value;
} hn_tf_scalar;

/* Creates the folder if need be, and the file with its first record. */
HN_NODISCARD hn_status hn_tfevents_open(const char *dir, hn_tfevents **out);
/* One event at `wall_time` (seconds since 1970; 0: now). */
HN_NODISCARD hn_status hn_tfevents_scalars(hn_tfevents *w, double wall_time, int64_t step,
                                           const hn_tf_scalar *scalars, int n);
const char *hn_tfevents_path(const hn_tfevents *w);
void hn_tfevents_close(hn_tfevents *w); /* accepts NULL */

/* CRC-32C (Castagnoli) of n bytes, and the masked form that the records hold. */
uint32_t hn_crc32c(const void *data, size_t n);
uint32_t hn_crc32c_masked(const void *data, size_t n);

#ifdef __cplusplus
}
#endif
#endif
