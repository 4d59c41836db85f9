/* data_util.h - two things that the files of this folder share. */
#ifndef HN_DATA_UTIL_H
#define HN_DATA_UTIL_H
#include <stdint.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Room for `need` elements in an array that grows by half, at least.
 * array    in/out; holds *cap elements of `size` bytes
 * Errors   HN_ERR_MEMORY; nothing changes then */
HN_NODISCARD static inline hn_status hn_reserve(void *array, int64_t *cap, int64_t need,
                                                size_t size)
{
    if (need <= *cap) return HN_OK;
    int64_t wanted = *cap + *cap / 2 + 16;
    if (wanted < need) wanted = need;
    if ((uint64_t)wanted > SIZE_MAX / 2 / size)
        return HN_FAIL(HN_ERR_MEMORY, "array of %lld elements", (long long)wanted);
    void *old;
    memcpy(&old, array, sizeof old);
    void *grown = hn_realloc(old, (size_t)wanted * size);
    if (grown == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for an array", (size_t)wanted * size);
    memcpy(array, &grown, sizeof grown);
    *cap = wanted;
    return HN_OK;
}

/* The error text of another thread without the place where it was noticed, so that the
 * thread that reports it can fail with the same words. */
static inline const char *hn_error_reason(hn_status code, const char *text)
{
    const char *name = hn_status_name(code), *at = strstr(text, name);
    return at != NULL && at[strlen(name)] == ':' ? at + strlen(name) + 2 : text;
}

#ifdef __cplusplus
}
#endif
#endif
