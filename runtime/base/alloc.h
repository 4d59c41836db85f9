/* alloc.h - the one way to host memory.
 *
 * Every allocation of the library goes through here, so that a test can count
 * them (nobody allocates inside a planned step) and make the n-th one fail.
 * The counters are the library's only mutable globals besides the error text;
 * they are atomic.
 */
#ifndef HN_ALLOC_H
#define HN_ALLOC_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* NULL when out of memory; a size of 0 gives a valid pointer. hn_free accepts NULL. */
void *hn_malloc(size_t n_bytes);
void *hn_calloc(size_t n, size_t n_bytes); /* zeroed; NULL as well when n * n_bytes overflows */
void *hn_realloc(void *p, size_t n_bytes); /* p stays valid when NULL comes back */
char *hn_strdup(const char *s);
char *hn_strndup(const char *s, size_t n);
void *hn_aligned_alloc(size_t align, size_t n_bytes); /* align a power of two, at least 8 */
void hn_free(void *p);

/* "a/b" and other short texts: printf into a fresh string; NULL when out of memory. */
char *hn_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Makes room for one more element behind an array that grows by doubling.
 * array    in/out; *array holds *cap elements of `size` bytes, `n` of them in use
 * Errors   HN_ERR_MEMORY; nothing changes then */
HN_NODISCARD hn_status hn_grow(void *array, int64_t *cap, int64_t n, size_t size);

/* For tests. */
uint64_t hn_alloc_calls(void);       /* calls that could have allocated, in this process */
void hn_alloc_fail_at(uint64_t nth); /* the nth call from now returns NULL; 0: never */

#ifdef __cplusplus
}
#endif
#endif
