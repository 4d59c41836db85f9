/* op_sparse.h - what the rows of block_dw, block_gather and their like say in the same words. */
#ifndef HN_OP_SPARSE_H
#define HN_OP_SPARSE_H
#include "kernels/sparse/sparse_pool.h"
#include "runtime/graph/op_util.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline hn_block_shape hn_sparse_shape_of(const hn_node *n)
{
    return (hn_block_shape){n->attr.sparse.br, n->attr.sparse.bc};
}

/* The span of the node's matrix; NULL before memory is there. */
static inline const hn_sparse_span *hn_sparse_span_of(const hn_node *n, const hn_tensor *spans)
{
    if (spans->data == NULL) return NULL;
    return (const hn_sparse_span *)spans->data + n->attr.sparse.index;
}

/* spans u8 [16 n] with the matrix's, block i32 [blocks], the shape and capacity of the attributes
 * for a matrix [out, in], tile_first (NULL: not asked for) i32 [tiles + 1] exactly where the shape
 * is tiled. */
HN_NODISCARD hn_status hn_sparse_infer(const hn_node *n, const hn_tensor *spans,
                                       const hn_tensor *block, const hn_tensor *tile_first,
                                       bool wants_tiles, int64_t out, int64_t in);
/* One flat range of the pool, f32. */
HN_NODISCARD hn_status hn_sparse_infer_values(const hn_tensor *t);

/* For samples: a pool in which the node's matrix has `capacity` blocks but one, spread over the
 * matrix, behind some blocks and values of others. */
void hn_sparse_fill_spans(const hn_node *n, const hn_tensor *spans, void *data);
void hn_sparse_fill_blocks(const hn_node *n, const hn_tensor *block, int64_t out, int64_t in,
                           void *data);
void hn_sparse_fill_tiles(const hn_node *n, int64_t out, int64_t in, void *data);

#ifdef __cplusplus
}
#endif
#endif
