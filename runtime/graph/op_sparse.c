#include "runtime/graph/op_sparse.h"

#include <inttypes.h>

hn_status hn_sparse_infer(const hn_node *n, const hn_tensor *spans, const hn_tensor *block,
                          const hn_tensor *tile_first, bool wants_tiles, int64_t out, int64_t in)
{
    const hn_block_shape s = hn_sparse_shape_of(n);
    const int64_t index = n->attr.sparse.index, capacity = n->attr.sparse.capacity;
    const int64_t size = (int64_t)sizeof(hn_sparse_span);
    if (spans->type.dtype != HN_U8 || spans->type.ndim != 1 || spans->type.dim[0] % size != 0 ||
        index < 0 || index >= spans->type.dim[0] / size)
        return HN_FAIL(HN_ERR_SHAPE, "spans u8 [16 n] with a span %" PRId64, index);
    if (block->type.dtype != HN_I32 || block->type.ndim != 1)
        return HN_FAIL(HN_ERR_SHAPE, "block i32 [blocks]");
    HN_TRY(hn_block_shape_check("sparse", s, out, in));
    if (capacity < 1 || capacity > hn_block_total(s, out, in) || capacity > block->type.dim[0])
        return HN_FAIL(HN_ERR_SHAPE,
                       "capacity %" PRId64 " of %" PRId64 " blocks, in a pool of %" PRId64,
                       capacity, hn_block_total(s, out, in), block->type.dim[0]);
    if (!wants_tiles) return HN_OK;
    if ((tile_first != NULL) != hn_block_tiled(s))
        return HN_FAIL(HN_ERR_SHAPE,
                       "tile_first is for blocks of at most 64 x 64, and they need it");
    if (tile_first != NULL && (tile_first->type.dtype != HN_I32 || tile_first->type.ndim != 1 ||
                               tile_first->type.dim[0] != hn_sparse_tiles(out, in) + 1))
        return HN_FAIL(HN_ERR_SHAPE, "tile_first i32 [%" PRId64 "]", hn_sparse_tiles(out, in) + 1);
    return HN_OK;
}

hn_status hn_sparse_infer_values(const hn_tensor *t)
{
    if (t->type.dtype != HN_F32 || t->type.ndim != 1)
        return HN_FAIL(HN_ERR_SHAPE, "values f32 [pool]");
    if (hn_replicas_of(t) > 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "a pool of chosen blocks has no replicas");
    return HN_OK;
}

/* ---- samples ---- */

enum { OTHER_BLOCKS = 2, OTHER_VALUES = 5 }; /* in front */

static int64_t sample_count(const hn_node *n)
{
    return n->attr.sparse.capacity > 1 ? n->attr.sparse.capacity - 1 : 1;
}

void hn_sparse_fill_spans(const hn_node *n, const hn_tensor *spans, void *data)
{
    const int64_t n_spans = spans->type.dim[0] / (int64_t)sizeof(hn_sparse_span);
    for (int64_t i = 0; i < n_spans; i++)
        ((hn_sparse_span *)data)[i] =
            i == n->attr.sparse.index
                ? (hn_sparse_span){OTHER_VALUES, OTHER_BLOCKS, (int32_t)sample_count(n)}
                : (hn_sparse_span){0};
}

static int32_t sample_id(const hn_node *n, int64_t i, int64_t out, int64_t in)
{
    return (int32_t)(i * hn_block_total(hn_sparse_shape_of(n), out, in) / sample_count(n));
}

void hn_sparse_fill_blocks(const hn_node *n, const hn_tensor *block, int64_t out, int64_t in,
                           void *data)
{
    const hn_block_shape s = hn_sparse_shape_of(n);
    int32_t *const id = (int32_t *)data + OTHER_BLOCKS;
    for (int64_t i = 0; i < block->type.dim[0]; i++) ((int32_t *)data)[i] = INT32_MAX; /* unused */
    for (int64_t i = 0; i < sample_count(n); i++) {
        const int32_t next = sample_id(n, i, out, in);
        int64_t k = i;
        for (; k > 0 && hn_block_place(s, in, id[k - 1]) > hn_block_place(s, in, next); k--)
            id[k] = id[k - 1];
        id[k] = next;
    }
}

void hn_sparse_fill_tiles(const hn_node *n, int64_t out, int64_t in, void *data)
{
    const hn_block_shape s = hn_sparse_shape_of(n);
    int32_t *const first = data;
    for (int64_t t = 0; t <= hn_sparse_tiles(out, in); t++) {
        first[t] = 0;
        for (int64_t i = 0; i < sample_count(n); i++)
            first[t] += hn_block_tile(s, in, sample_id(n, i, out, in)) < t;
    }
}
