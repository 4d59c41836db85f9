/* volumes_impl.h - private to volumes*.c: which files a set is made of. */
#ifndef HN_VOLUMES_IMPL_H
#define HN_VOLUMES_IMPL_H
#include "runtime/data/images_impl.h" /* hn_paths */
#include "runtime/data/volumes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One behind the other: volumes, each with a file for every channel; their labels (none when
 * unlabelled); their sites ("": unknown). */
typedef struct {
    int32_t channels;
    hn_paths image, label, site; /* site.n volumes */
} hn_volume_files;

void hn_volume_files_free(hn_volume_files *f);
HN_NODISCARD hn_status hn_volume_files_find(const hn_volume_options *o, hn_volume_files *out);
/* The name of a volume: that of its first file without folder, NIfTI ending and _<channel>; the
 * caller's. NULL: no memory. */
char *hn_volume_name(const char *path, const hn_volume_channels *channels);

#ifdef __cplusplus
}
#endif
#endif
