/* fed_sparse.h - blocks of weights as a federated payload: which ones, and their changes in
 * engines.
 *
 * The server chooses once, by the weights alone (sparse_score.h), so that no client's images are
 * asked for: every matrix has its share of the budget by size, and its best blocks. Clients train
 * the changes of these blocks (runtime/adapt/sparse.h: by AdamW, whose weight decay pulls changes
 * to zero), and the changes are what travels: W = round(W of the model + change).
 *
 * values     changes matrix by matrix, blocks by ascending id, row-major inside
 */
#ifndef HN_FED_SPARSE_H
#define HN_FED_SPARSE_H
#include "runtime/adapt/params.h"
#include "runtime/fed/support.h"
#include "runtime/file/peft.h"
#include "runtime/model/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *block;  /* auto|1x1|4x4|...|row|column; auto: 16x16, 4x4 or 1x1, the first that
                         * divides the matrix */
    const char *budget; /* sparse_select.h */
    const char *score;  /* magnitude|random|lift|diagonal */
    int64_t lift_rank;  /* of lift */
    const char *mask;   /* NULL, or a delta pack whose blocks are taken: block, budget and score are
                         * not read */
    uint64_t seed;      /* of random, of lift's sketch, and of parameters that are in no file */
} hn_fed_sparse_options;

/* targets: the modules (hn_peft_matches). *out: empty before; hn_fed_support_free it
 * Errors  HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_FORMAT naming option, file or matrix; those of
 *         hn_model_load */
HN_NODISCARD hn_status hn_fed_sparse_choose(const hn_fed_sparse_options *o, const hn_model *m,
                                            const hn_peft_config *targets, hn_fed_support *out);

/* What hn_adapt.sparse says of a module: {0, 0} where it has no blocks. */
hn_block_shape hn_fed_sparse_shape(const hn_fed_support *s, const char *module);
/* Errors  HN_ERR_SHAPE naming a matrix that the model has not, or has in another shape */
HN_NODISCARD hn_status hn_fed_sparse_check(const hn_fed_support *s, const hn_params *p);
/* Room for them in an engine that trains: hn_engine_options.sparse. */
hn_sparse_options hn_fed_sparse_room(const hn_fed_support *s);
/* Tensors "<weight>.blocks" [n, br, bc] behind those of a layout. */
HN_NODISCARD hn_status hn_fed_sparse_layout(const hn_fed_support *s, hn_fed_layout *l);

/* The blocks of an engine: its pool, or, where it does not train, places of its weights. */
typedef struct hn_fed_sparse hn_fed_sparse;

/* Behind hn_model_load: the changes are 0. s and p must outlive it.
 * Errors  those of hn_fed_sparse_check */
HN_NODISCARD hn_status hn_fed_sparse_new(const hn_fed_support *s, const hn_params *p,
                                         hn_fed_sparse **out);
void hn_fed_sparse_free(hn_fed_sparse *b); /* accepts NULL */
/* value [s->values] */
HN_NODISCARD hn_status hn_fed_sparse_get(const hn_fed_sparse *b, float *value);
HN_NODISCARD hn_status hn_fed_sparse_set(hn_fed_sparse *b, const float *value);

#ifdef __cplusplus
}
#endif
#endif
