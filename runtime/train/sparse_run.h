/* sparse_run.h - what hone-sparse keeps in a session: shared by sparse_method.c, sparse_loop.c,
 * sparse_weigh.c, sparse_gathered.c and sparse_adapter.c. */
#ifndef HN_SPARSE_RUN_H
#define HN_SPARSE_RUN_H
#include "runtime/file/sparse_pack.h"
#include "runtime/train/session.h"
#include "runtime/train/sparse_method.h"
#include "runtime/train/sparse_score.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_session *s;
    const hn_sparse_config *c;
    hn_adapt lora;      /* the low-rank pairs and the head */
    char block[16];     /* --block, auto settled */
    int64_t parameters; /* of the model */
    hn_sparse_rules rules;
    hn_params *declared;      /* whose names `matrix` borrows */
    hn_select_matrix *matrix; /* [n], in the order of hn_sparse_at */
    int64_t n, k;             /* matrices; blocks to choose */
    hn_pack pack;             /* of --adapter or --mask */
    bool loaded;              /* --adapter */
    int64_t rank;             /* of the low-rank pairs */
} hn_sparse_run;

/* s->extra, where there is none yet. */
HN_NODISCARD hn_status hn_sparse_run_new(hn_session *s, hn_sparse_run **out);
/* Of an engine that trains. */
hn_sparse *hn_sparse_run_blocks(const hn_sparse_run *r);

/* Scores of some blocks of every matrix; they own what they point to. */
typedef struct {
    hn_score_list *list; /* [n]; ids ascend */
    int64_t n;
} hn_scores;

HN_NODISCARD hn_status hn_scores_new(int64_t n, hn_scores *out);
/* Room for k blocks of matrix i, which the caller fills in. */
HN_NODISCARD hn_status hn_scores_room(hn_scores *s, int64_t i, int64_t k, int32_t **id,
                                      float **score);
void hn_scores_free(hn_scores *s);

/* sparse_weigh.c: by the weights as they are now, or by nothing: the best `most` of each matrix.
 * rule: none of those by gradients */
HN_NODISCARD hn_status hn_weigh(const hn_sparse_run *r, hn_score_rule rule, hn_scores *out);
/* Whether the shares of all matrices are parts of their diagonals: HN_ERR_SHAPE naming the first
 * that is none. */
HN_NODISCARD hn_status hn_sparse_check_diagonal(const hn_sparse_run *r);
/* |rank-r weight|^gamma on scores of blocks, with --lift-gamma. */
HN_NODISCARD hn_status hn_weigh_prior(const hn_sparse_run *r, const hn_scores *s);
/* Whether a matrix reads a hidden layer, or heads, whose channels are then its columns. */
bool hn_coupled_columns(const char *module);

/* sparse_gathered.c: by the gradients that have been gathered. */

/* Sums of scores of all that were kept, by step. */
HN_NODISCARD hn_status hn_gathered_scores(const hn_sparse_run *r, hn_scores *out);
/* Of watched blocks, or of trained ones: by the sums of their gradients. */
HN_NODISCARD hn_status hn_gathered_sums(const hn_sparse_run *r, hn_block_set set, hn_scores *out);

/* sparse_adapter.c: packs that are read. */

/* hn_method_hooks.adapter and .load */
HN_NODISCARD hn_status hn_sparse_open_adapter(hn_session *s, bool training, bool *taken);
HN_NODISCARD hn_status hn_sparse_load_adapter(hn_session *s, const hn_params *p);
/* What the pack has of a weight; NULL: nothing. */
const hn_pack_matrix *hn_sparse_run_packed(const hn_sparse_run *r, const char *weight);
/* Shares of a run that goes on with a pack: as many blocks as it has. */
HN_NODISCARD hn_status hn_sparse_pack_budget(hn_sparse_run *r);
/* --mask: reads it; whether it fits the matrices, which make room for it; as a support. */
HN_NODISCARD hn_status hn_sparse_open_mask(hn_sparse_run *r);
HN_NODISCARD hn_status hn_sparse_check_mask(hn_sparse_run *r);
HN_NODISCARD hn_status hn_sparse_mask_support(const hn_sparse_run *r, hn_support *out);

#ifdef __cplusplus
}
#endif
#endif
