/* nearest.h - "did you mean ...?": the known name closest to a misspelt one. */
#ifndef HN_NEAREST_H
#define HN_NEAREST_H
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_NEAREST_MAX = 64 }; /* longer words and names have no near match */

/* Number of characters to insert, delete, replace or swap with their neighbour to turn a into b
 * (optimal string alignment); '-' and '_' count as equal. A string longer than HN_NEAREST_MAX
 * gives HN_NEAREST_MAX + 1. */
int hn_edit_distance(const char *a, const char *b);

/* The name with the smallest distance to `word`, the first of equals; the part of a name behind
 * its last dot is tried too, so "rank" finds "lora.rank". NULL entries are skipped.
 * Returns NULL when nothing is within a third of the word's length (at least 1, at most 4). */
const char *hn_nearest(const char *word, const char *const *names, size_t n);

#ifdef __cplusplus
}
#endif
#endif
