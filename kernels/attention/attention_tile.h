/* attention_tile.h - packed tiles and small matrix products, for the sources of this folder.
 *
 * A tile is f32, row-major, its row length rounded up to a multiple of 8; the columns that
 * the padding adds hold 0. */
#ifndef HN_ATTENTION_TILE_H
#define HN_ATTENTION_TILE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"

enum { HN_TILE_ = 64 }; /* keys in a tile */

static inline int64_t hn_round8_(int64_t n) { return (n + 7) / 8 * 8; }

/* Rows of x (f32 or bf16, starting at element x0, ld apart) as a tile [rows, round8(cols)]. */
void hn_tile_pack_(const void *x, hn_dtype t, int64_t x0, int64_t ld, int64_t rows, int64_t cols,
                   float *tile);
/* The same transposed: a tile [cols, HN_TILE_], columns from `rows` on 0; rows <= HN_TILE_. */
void hn_tile_pack_transposed_(const void *x, hn_dtype t, int64_t x0, int64_t ld, int64_t rows,
                              int64_t cols, float *tile);

/* c[i,j] = (add ? c[i,j] : 0) + sum_k a[i * rs + k * ks] b[k * ld_b + j]
 * n is a multiple of 8; c overlaps neither a nor b. Each element is summed over k in order,
 * whatever m and n are. */
typedef struct {
    const float *a, *b;
    float *c;
    int64_t rs, ks, ld_b, ld_c;
    int64_t m, n, k;
    bool add;
} hn_tile_product_args_;

void hn_tile_product_(const hn_tile_product_args_ *p);

/* What a function takes piece by piece from its scratch; with base NULL it only counts. */
typedef struct {
    char *base;
    size_t used; /* bytes, a multiple of 64 */
} hn_scratch_;

static inline float *hn_scratch_floats_(hn_scratch_ *s, int64_t n)
{
    float *p = s->base ? (float *)(void *)(s->base + s->used) : NULL;
    s->used += ((size_t)n * sizeof(float) + 63) / 64 * 64;
    return p;
}

#endif
