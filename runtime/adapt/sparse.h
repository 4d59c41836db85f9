/* sparse.h - matrices of which chosen blocks are trained.
 *
 * W stays where it is stored, so forward and dx are the plain products. What belongs to the chosen
 * blocks lies in one pool that all matrices share (kernels/sparse/sparse_pool.h): their change
 * `delta` in fp32 with gradient and moments, behind the other trained values (hn_flat.n_dense), and
 * `frozen`, what W had there. After every update  W[block] = round(frozen + delta).
 *
 * Life
 *   hn_params_create        makes it, with everything empty: capacity is all that a plan knows
 *   hn_sparse_fill          behind the plan's memory: tables
 *   ... the weights are loaded ...
 *   hn_sparse_select        a support: which blocks are trained; again at every reselection
 *   hn_sparse_revert        W is what was loaded, bit for bit
 *
 * Which blocks are the best is found in two stages (hn_engine_gather), in W's coordinates:
 *   hn_sparse_begin         forgets the last selection
 *   ... steps with HN_GATHER_SCORES: scores of all blocks of a batch's gradient; per matrix the
 *       best ones are kept, with their sums (kernels/sparse/score_merge.h) ...
 *   hn_sparse_scores        reads them
 *   hn_sparse_watch         blocks whose gradients are to be gathered exactly, besides the trained
 *   ... steps with HN_GATHER_WINDOW: sums and sums of squares of whole-batch gradients, as the
 *       update sees them: means, clipped with all others; of hn_engine_discard, not clipped ...
 *   hn_sparse_get           HN_SPARSE_SUM, ...; then hn_sparse_select
 *
 * Shares. A matrix with a part p of all values has p of the pool as its share. It may have at most
 * `ceiling` times that: `capacity`, which sizes grids. Scores are kept of `kept` blocks: of
 * `candidates` / 2 times as many.
 *
 * Lists. Everywhere here the blocks of a matrix stand by ascending id, and values block by block,
 * row-major inside; the order on the device is nobody's business.
 *
 * Host functions wait for the device. Errors, if nothing else is said: HN_ERR_ARG, HN_ERR_SHAPE
 * naming the matrix and the limit, HN_ERR_MEMORY, HN_ERR_CUDA; lists are checked before anything
 * changes.
 */
#ifndef HN_SPARSE_H
#define HN_SPARSE_H
#include "kernels/sparse/block_score.h"
#include "runtime/graph/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_SPARSE_GROUPS = 16 }; /* of matrices that take turns, at most: each has a graph */

/* What a selection reads, and with it what is planned for it. */
typedef enum {
    HN_STAGES_BOTH,
    HN_STAGES_SCORES, /* scores alone: nothing is watched */
    HN_STAGES_SUMS,   /* sums of gradients alone: what is watched comes from outside */
} hn_sparse_stages;

typedef struct {
    /* Values that blocks may have in all: one of the two. density: so many whole blocks as fit
     * into this part of the values of all matrices. */
    int64_t values;
    double density;
    double ceiling;    /* the most that a matrix may have, in shares; 0: 4 */
    double candidates; /* of a selection, in pools: 2; 0: supports come from outside only */
    hn_sparse_stages stages;
    bool once;    /* the first support alone comes from gradients: those of trained blocks are not
                   * added up */
    bool squares; /* of gradients of watched blocks, for the moments that new ones begin with */
    hn_score_kind score;
    /* Bytes of dense fp32 gradients for steps that gather scores over several micro-batches: groups
     * of matrices that fit take turns from one such step to the next. 0: no buffers, and these
     * steps have one micro-batch, which scores all matrices, one after the other. */
    size_t select_memory;
} hn_sparse_options;

/* A weight of which blocks are trained. */
typedef struct {
    const char *name; /* "model.layers.0.mlp.up_proj.weight" */
    hn_tensor *w;     /* [out, in], frozen; a view where it is stored with others */
    hn_block_shape shape;
} hn_sparse_weight;

typedef struct {
    const char *name;
    hn_tensor *w;
    hn_block_shape shape;
    int64_t out, in, blocks; /* of the matrix */
    int64_t values;          /* of a block */
    double share;            /* of the pool, in blocks */
    int64_t capacity, kept;  /* blocks; kept: 0 without candidates */
} hn_sparse_matrix;

typedef struct hn_sparse hn_sparse;

/* Persistent tensors, all empty. The weights' names must outlive it.
 * Errors  HN_ERR_ARG: a budget of zero, or of none of the blocks; HN_ERR_UNSUPPORTED: replicas */
HN_NODISCARD hn_status hn_sparse_new(hn_program *program, const hn_sparse_weight *weight, int64_t n,
                                     const hn_sparse_options *o, hn_sparse **out);
void hn_sparse_free(hn_sparse *s); /* accepts NULL; tensors belong to the program */

int64_t hn_sparse_matrices(const hn_sparse *s);
const hn_sparse_matrix *hn_sparse_at(const hn_sparse *s, int64_t i);
int64_t hn_sparse_find(const hn_sparse *s, const char *name); /* -1: none */
int64_t hn_sparse_pool_values(const hn_sparse *s);            /* of the trained blocks */

/* ---- recording ---- */

/* What gradient rules record in the graph whose hn_graph_backward comes next. */
typedef enum {
    HN_GATHER_NOTHING, /* gradients of trained blocks alone */
    HN_GATHER_SCORES,  /* and the scores of all blocks, of the group of matrices whose turn it is */
    HN_GATHER_WINDOW,  /* and gradients of watched blocks */
} hn_gather;

/* count  of trained tokens, behind all gradients; scores without buffers are recorded with it
 * group  of HN_GATHER_SCORES, 0 to hn_sparse_groups - 1 */
void hn_sparse_record(hn_sparse *s, hn_gather what, int64_t group, hn_tensor *count);
int64_t hn_sparse_groups(const hn_sparse *s); /* 0: nothing is scored */
bool hn_sparse_watches(const hn_sparse *s);   /* whether there is room for watched blocks */
/* What follows the last micro-batch of such a step, in two parts.
 *   gathered  gradients of trained blocks out of the buffers of a group. *gathered is what the end
 *             reads besides the gradients: sums of a rank among others until somebody makes them
 *             those of all
 *   end       scores out of these buffers (nothing without buffers); sums of the window, behind
 *             grad_norm, which says by what to scale */
HN_NODISCARD hn_status hn_sparse_record_gathered(hn_sparse *s, hn_graph *g, hn_gather what,
                                                 int64_t group, hn_tensor **gathered);
HN_NODISCARD hn_status hn_sparse_record_end(hn_sparse *s, hn_graph *g, hn_gather what,
                                            int64_t group);
/* AdamW on the pool, then W anew; adamw: attributes of that operation. */
HN_NODISCARD hn_status hn_sparse_record_update(hn_sparse *s, hn_graph *g, const hn_attr *adamw);

/* ---- supports ---- */

/* Tables that the plan's memory has to hold; the betas of the update. */
HN_NODISCARD hn_status hn_sparse_fill(hn_sparse *s, double beta1, double beta2);

/* Blocks of all matrices: those of matrix i are id[first[i]] to id[first[i + 1] - 1], ascending. */
typedef struct {
    const int64_t *first; /* [matrices + 1] */
    const int32_t *id;
} hn_block_lists;

/* How blocks begin that are new in a support; NULL: with zeros. Values of all blocks of the list;
 * those of blocks that were trained already are not looked at. */
typedef struct {
    const float *moment1, *moment2;
    const uint16_t *age; /* updates that the moments stand for, a block */
} hn_block_start;

/* A new support. Blocks that stay keep delta, moments and age; W is restored where blocks go, or
 * with `keep_dropped` stays as it is there, and the block becomes one of those that are kept.
 * start   NULL: new blocks begin at zero */
HN_NODISCARD hn_status hn_sparse_select(hn_sparse *s, const hn_block_lists *l,
                                        const hn_block_start *start, bool keep_dropped);
HN_NODISCARD hn_status hn_sparse_revert(hn_sparse *s);
/* Blocks are as young as at the beginning; changes and moments stay.
 * Errors  HN_ERR_UNSUPPORTED where selections gather */
HN_NODISCARD hn_status hn_sparse_restart(hn_sparse *s);

/* Blocks that went and kept their change (sparse_kept.c), of matrix i; they may have come back.
 * What W had there at first is kept aside, for hn_sparse_revert. */
int64_t hn_sparse_kept_count(const hn_sparse *s, int64_t i);
const int32_t *hn_sparse_kept_ids(const hn_sparse *s, int64_t i); /* ascending */
/* [count][block values]: W there, without the change of blocks that are trained now. */
HN_NODISCARD hn_status hn_sparse_kept_values(const hn_sparse *s, int64_t i, float *out);
/* Of a state that is loaded: behind hn_sparse_revert, in front of the support. W gets the values.
 * Errors  HN_ERR_ARG also: there are kept or trained blocks */
HN_NODISCARD hn_status hn_sparse_set_kept(hn_sparse *s, int64_t i, const int32_t *id, int64_t n,
                                          const float *value);

/* The support, and the watched blocks. */
typedef enum { HN_BLOCKS_TRAINED, HN_BLOCKS_WATCHED, HN_BLOCKS_COUNT } hn_block_set;
int64_t hn_sparse_count(const hn_sparse *s, hn_block_set pool, int64_t i);
const int32_t *hn_sparse_ids(const hn_sparse *s, hn_block_set pool, int64_t i);

typedef enum {
    HN_SPARSE_DELTA,
    HN_SPARSE_FROZEN,
    HN_SPARSE_GRAD,
    HN_SPARSE_MOMENT1,
    HN_SPARSE_MOMENT2,
    HN_SPARSE_SUM,            /* over the window, of whole-batch gradients */
    HN_SPARSE_WATCHED_SUM,    /* the same of watched blocks, ... */
    HN_SPARSE_WATCHED_SQUARE, /* ... and of the squares */
    HN_SPARSE_PART_COUNT
} hn_sparse_part;
hn_block_set hn_sparse_set_of(hn_sparse_part part);

/* Values [count][block values] of matrix i, as a list. Setting a delta leaves W as it is until
 * hn_sparse_store. Frozen values can be read only (HN_ERR_ARG).
 * Errors  HN_ERR_ARG: sums that hn_sparse_options does not ask for */
HN_NODISCARD hn_status hn_sparse_get(const hn_sparse *s, hn_sparse_part part, int64_t i,
                                     float *out);
bool hn_sparse_has(const hn_sparse *s, hn_sparse_part part); /* whether it is asked for */
HN_NODISCARD hn_status hn_sparse_set(hn_sparse *s, hn_sparse_part part, int64_t i,
                                     const float *value);
HN_NODISCARD hn_status hn_sparse_get_ages(const hn_sparse *s, int64_t i, uint16_t *out);
HN_NODISCARD hn_status hn_sparse_set_ages(hn_sparse *s, int64_t i, const uint16_t *age);
/* W = round(frozen + delta) at all trained blocks. */
HN_NODISCARD hn_status hn_sparse_store(hn_sparse *s);

/* ---- a selection ---- */

/* Steps of the running selection. */
typedef struct {
    int64_t score_steps, window_steps;
} hn_sparse_progress;
hn_sparse_progress *hn_sparse_progress_of(hn_sparse *s); /* the engine counts */
/* Steps so far in which matrix i was scored: sums of scores are over these. */
int64_t hn_sparse_scored(const hn_sparse *s, int64_t i);

/* Clears scores and sums; nothing is watched: in front of a selection, and behind it, so that
 * checkpoints need not hold what it has gathered. Errors: HN_ERR_ARG without candidates */
HN_NODISCARD hn_status hn_sparse_begin(hn_sparse *s);
/* Memory of all that selections alone read. */
size_t hn_sparse_selection_bytes(const hn_sparse *s);
/* The candidates of matrix i so far, ids ascending, and the sums of their scores.
 * ids, sum  [kept]; *n of them are filled, 0 where nothing is scored */
HN_NODISCARD hn_status hn_sparse_scores(const hn_sparse *s, int64_t i, int32_t *ids, float *sum,
                                        int64_t *n);
HN_NODISCARD hn_status hn_sparse_set_scores(hn_sparse *s, int64_t i, const int32_t *ids,
                                            const float *sum, int64_t n);
/* Blocks whose gradients are gathered from now on; sums of the window begin anew.
 * Errors: HN_ERR_ARG with HN_STAGES_SCORES, or without candidates */
HN_NODISCARD hn_status hn_sparse_watch(hn_sparse *s, const hn_block_lists *l);

#ifdef __cplusplus
}
#endif
#endif
