/* source_reader.h - the bytes of one data file from first to last, decompressed.
 *
 * A file that starts with the gzip magic is decompressed as it is read (several members in
 * a row are one text); a UTF-8 byte order mark at the start is skipped. Memory is two
 * fixed buffers, whatever the file's size.
 */
#ifndef HN_SOURCE_READER_H
#define HN_SOURCE_READER_H
#include <stddef.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_reader hn_reader;

/* Opens a regular file: the loader reads data twice, so a pipe is refused.
 * Errors  HN_ERR_IO; HN_ERR_FORMAT (a name in .gz without gzip data); HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_reader_open(const char *path, hn_reader **out);
/* The same over memory that stays the caller's; `name` is used in errors. */
HN_NODISCARD hn_status hn_reader_open_memory(const void *data, size_t n_bytes, const char *name,
                                             hn_reader **out);
/* Binary data: no mark is skipped, and what ends in .gz, and nothing else, is decompressed.
 * data     NULL: the file of that name; else its n_bytes, which stay the caller's */
HN_NODISCARD hn_status hn_reader_open_binary(const char *name, const void *data, size_t n_bytes,
                                             hn_reader **out);
/* At most `room` (> 0) bytes; *got is 0 only at the end.
 * Errors  HN_ERR_IO; HN_ERR_FORMAT when gzip data is damaged or cut off */
HN_NODISCARD hn_status hn_reader_read(hn_reader *r, void *to, size_t room, size_t *got);
void hn_reader_close(hn_reader *r); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
