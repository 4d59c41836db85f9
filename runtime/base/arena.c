#include "runtime/base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"

enum { BLOCK = 1 << 16, ALIGN = 16 };

struct hn_arena_block {
    struct hn_arena_block *older;
    size_t used, size; /* bytes behind this header */
};

static size_t round_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

void *hn_arena_take(hn_arena *a, size_t n_bytes)
{
    const size_t header = round_up(sizeof(struct hn_arena_block));
    if (n_bytes > SIZE_MAX / 2) return NULL;
    const size_t need = round_up(n_bytes ? n_bytes : 1);
    struct hn_arena_block *b = a->block;
    if (b == NULL || b->size - b->used < need) {
        const size_t size = need > BLOCK ? need : BLOCK;
        b = hn_malloc(header + size);
        if (b == NULL) return NULL;
        *b = (struct hn_arena_block){.older = a->block, .size = size};
        a->block = b;
    }
    void *p = (char *)b + header + b->used;
    b->used += need;
    return memset(p, 0, need);
}

char *hn_arena_text(hn_arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *s = n < 0 ? NULL : hn_arena_take(a, (size_t)n + 1);
    if (s == NULL) return NULL;
    va_start(ap, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return s;
}

void hn_arena_free(hn_arena *a)
{
    while (a->block != NULL) {
        struct hn_arena_block *older = a->block->older;
        hn_free(a->block);
        a->block = older;
    }
}
