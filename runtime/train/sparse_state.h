/* sparse_state.h - what a checkpoint holds of matrices that are trained in blocks (state.h).
 *
 *   delta.safetensors        ids and changes of all blocks, as sparse_pack.h says, in front of
 *                            them W at the blocks that are kept
 *   optimizer-0.safetensors  <weight>.sparse_m, .sparse_v    f32 [blocks, values of a block]
 *                            <weight>.sparse_age             i32 [blocks]
 *   inside a selection       sparse.progress                 i64 [2]: hn_sparse_progress
 *                            <weight>.score_ids, .score_sums, .window_sum, .watched_ids,
 *                            .watched_sum, .watched_square
 *
 * A state that was saved and loaded continues bit for bit, also inside a selection. The weights
 * have been loaded before: changes are added to what they are.
 */
#ifndef HN_SPARSE_STATE_H
#define HN_SPARSE_STATE_H
#include "runtime/adapt/params.h"
#include "runtime/file/sparse_pack.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Entries of a file with the memory behind them; zero before the first use. */
typedef struct {
    hn_st_entry *entry; /* [n] */
    int64_t n, cap;
    hn_arena arena; /* names and values */
} hn_sparse_entries;
void hn_sparse_entries_free(hn_sparse_entries *e); /* accepts an empty one */

/* Adds ids and changes of all matrices to w, and their rows of the manifest. values: new memory
 * that must live until w has been written; hn_free it. s may be NULL: nothing. */
HN_NODISCARD hn_status hn_sparse_save_delta(const hn_sparse *s, hn_pack_writer *w, float **values);
/* Adds what belongs into the optimizer's file; s may be NULL. */
HN_NODISCARD hn_status hn_sparse_save_moments(const hn_sparse *s, hn_sparse_entries *e);

/* Takes the rows of blocks out of `rows` (a manifest's `tensors`): the support and the changes of
 * hn_params_sparse, with moments and ages of zero; where nothing is trained, W with the change.
 * *n: rows that were taken.
 * Errors  HN_ERR_FORMAT: a matrix or shape of blocks that p has not, or one that it misses */
HN_NODISCARD hn_status hn_sparse_load_delta(const hn_st_file *f, json_t *rows, const hn_params *p,
                                            int64_t *n);
HN_NODISCARD hn_status hn_sparse_load_moments(const hn_st_file *f, hn_sparse *s);

#ifdef __cplusplus
}
#endif
#endif
