/* packing.h - samples cut into pieces, pieces packed into rows of seq_len positions.
 *
 * Piece     `n` inputs, word[at .. at+n-1]; the target of input i is word[at+i+1] of the same
 * sample. So the last token of a sample is a target only, and no target ever comes from another
 *           sample. A sample of t tokens has t-1 inputs.
 * Long      text goes on: consecutive pieces of seq_len inputs, each token but the first
 *           predicted exactly once. Prompt/completion rows are cut off on the right (counted).
 * Dropped   pieces without a trained target (counted).
 * Row       pieces one after the other; positions that remain are padding, one more sequence.
 * Packing   in shuffled order (seed): from a window of 256 pieces the longest starts a row and the
 *           longest that still fits joins it, until none fits. In file order: a row takes the next
 *           pieces as long as they fit. Packing off: one piece a row.
 *
 * Rows are made once; epochs only permute them (loader.h). So their number is the same in every
 * epoch and a position in training needs no replay; the price is that the same samples share
 * a row in each epoch, which no sample can see.
 *
 * Repeats   a function of tokens and options only.
 * Memory    16 bytes a piece, 8 a row; twice that while packing.
 */
#ifndef HN_PACKING_H
#define HN_PACKING_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/data/token_cache.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t at; /* word index of the first input */
    int32_t n;  /* inputs, 1..seq_len */
    int32_t n_trained;
} hn_piece;

typedef struct {
    int64_t seq_len;      /* 1..2^31-1 */
    int64_t seqs_per_row; /* padding included; at least 2 */
    bool packing, shuffle, continues;
    uint64_t seed;
    const char *where; /* names the data in errors; NULL: "the data" */
} hn_packing_options;

typedef struct {
    int64_t samples, truncated; /* truncated: longer than a row and cut off there */
    int64_t dropped;            /* pieces without a trained target, or without a target */
    int64_t pieces, rows, inputs, trained; /* of one epoch */
    int64_t most_seqs;                     /* in any row, padding included; at least 1 */
    int64_t most_pieces;                   /* in any row */
} hn_packing_stats;

typedef struct {
    hn_piece *piece;    /* [stats.pieces] in row order */
    int64_t *row_first; /* [stats.rows + 1] index of a row's first piece */
    hn_packing_stats stats;
} hn_packing;

/* Errors  HN_ERR_ARG; HN_ERR_MEMORY; HN_ERR_FORMAT "no trained tokens" when no piece is left */
HN_NODISCARD hn_status hn_packing_make(const hn_token_cache *tokens, const hn_packing_options *o,
                                       hn_packing *out);
void hn_packing_free(hn_packing *p); /* accepts an empty one */

#ifdef __cplusplus
}
#endif
#endif
