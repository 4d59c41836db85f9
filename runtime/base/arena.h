/* arena.h - many small objects with one life.
 *
 * Memory comes in blocks that are chained and freed together:
 *
 *   arena -> [block: header | object | pad | object | ... | free ] -> [older block] -> NULL
 *
 * Objects are 16-byte aligned and zeroed. Blocks never move, so pointers stay valid. */
#ifndef HN_ARENA_H
#define HN_ARENA_H
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    struct hn_arena_block *block; /* newest; NULL when empty */
} hn_arena;

void *hn_arena_take(hn_arena *a, size_t n_bytes); /* zeroed; NULL when out of memory */
char *hn_arena_text(hn_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void hn_arena_free(hn_arena *a); /* everything at once; accepts an empty one */

#ifdef __cplusplus
}
#endif
#endif
