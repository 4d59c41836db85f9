#define _POSIX_C_SOURCE 200809L
#include "runtime/base/alloc.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t calls;
static atomic_uint_fast64_t fail_at; /* call number that fails; 0: none */

static int refused(void)
{
    const uint_fast64_t n = atomic_fetch_add(&calls, 1) + 1;
    return n == atomic_load(&fail_at);
}

uint64_t hn_alloc_calls(void) { return atomic_load(&calls); }

void hn_alloc_fail_at(uint64_t nth) { atomic_store(&fail_at, nth ? atomic_load(&calls) + nth : 0); }

void *hn_malloc(size_t n_bytes) { return refused() ? NULL : malloc(n_bytes ? n_bytes : 1); }

void *hn_calloc(size_t n, size_t n_bytes)
{
    if (refused()) return NULL;
    return n == 0 || n_bytes == 0 ? calloc(1, 1) : calloc(n, n_bytes);
}

void *hn_realloc(void *p, size_t n_bytes)
{
    return refused() ? NULL : realloc(p, n_bytes ? n_bytes : 1);
}

char *hn_strndup(const char *s, size_t n)
{
    const size_t len = strnlen(s, n);
    char *copy = hn_malloc(len + 1);
    if (copy == NULL) return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *hn_strdup(const char *s) { return hn_strndup(s, strlen(s)); }

void *hn_aligned_alloc(size_t align, size_t n_bytes)
{
    void *p = NULL;
    if (refused() || posix_memalign(&p, align, n_bytes ? n_bytes : 1) != 0) return NULL;
    return p;
}

void hn_free(void *p) { free(p); }

char *hn_asprintf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) return NULL;
    char *s = hn_malloc((size_t)n + 1);
    if (s == NULL) return NULL;
    va_start(ap, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return s;
}

hn_status hn_grow(void *array, int64_t *cap, int64_t n, size_t size)
{
    if (n < *cap) return HN_OK;
    const int64_t wanted = *cap < 8 ? 16 : *cap * 2;
    void *old;
    memcpy(&old, array, sizeof old);
    if ((uint64_t)wanted > SIZE_MAX / 2 / size)
        return HN_FAIL(HN_ERR_MEMORY, "array of %lld elements", (long long)wanted);
    void *grown = hn_realloc(old, (size_t)wanted * size);
    if (grown == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for an array", (size_t)wanted * size);
    memcpy(array, &grown, sizeof grown);
    *cap = wanted;
    return HN_OK;
}
