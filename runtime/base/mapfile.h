/* mapfile.h - a whole file as read-only memory. */
#ifndef HN_MAPFILE_H
#define HN_MAPFILE_H
#include <stddef.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const unsigned char *data; /* NULL when the file is empty or nothing is open */
    size_t size;               /* bytes */
} hn_mapfile;

/* Maps a regular file (a folder, a pipe or a missing file is HN_ERR_IO).
 * out      changed only on success; hn_mapfile_close frees it */
HN_NODISCARD hn_status hn_mapfile_open(const char *path, hn_mapfile *out);
void hn_mapfile_close(hn_mapfile *m); /* accepts an empty one */

#ifdef __cplusplus
}
#endif
#endif
