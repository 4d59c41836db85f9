/* sparse_pool.h - how the chosen blocks of chosen matrices lie in one flat pool.
 *
 * A matrix W [out, in] is cut into blocks of br x bc elements; block id = R * (in / bc) + C for the
 * block in row R and column C of blocks. Some blocks are chosen. What belongs to them (change,
 * gradient, moments, frozen values) lies in flat ranges that all matrices share:
 *
 *   values  | span of matrix 0 | span of matrix 1 | ... | unused |   br * bc a block, row-major
 *   blocks  | span of matrix 0 | span of matrix 1 | ... | unused |   one id (int32) a block
 *
 * Spans have no holes between them. A selection changes their contents and never an address:
 * kernels read span, ids and tile_first when they run; their grids come from `capacity`, the most
 * blocks that a matrix may ever have.
 *
 * Order inside a span. Tiled shapes (br, bc <= 64): by tile of HN_SPARSE_TILE x HN_SPARSE_TILE
 * elements of the matrix, tiles row-major (those at the edges may be part-filled), inside a tile by
 * id; tile_first[t] .. tile_first[t+1] are the blocks of tile t, counted from the span's first.
 * Other shapes: by id, and there is no tile_first.
 *
 * Use
 *   hn_block_shape_check(op, shape, out, in)     once
 *   hn_sparse_order(shape, out, in, id, n, tile_first, order)
 *   for i < n: block[span.first_block + i] = id[order[i]], and so for whatever the blocks have
 */
#ifndef HN_SPARSE_POOL_H
#define HN_SPARSE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_SPARSE_TILE = 128 }; /* rows and columns of a tile */

/* Rows and columns of a block: {1, 1}, {4, 4}, {16, 16}, {32, 32}, {64, 64}, {128, 128},
 * {256, 256}, a row {1, in} or a column {out, 1}. */
typedef struct {
    int64_t br, bc;
} hn_block_shape;

/* The part of the pool that belongs to one matrix; 16 bytes, also in device memory. */
typedef struct {
    int64_t first_value;
    int32_t first_block, count;
} hn_sparse_span;

/* HN_ERR_SHAPE unless the shape is one of those above and divides [out, in] into fewer than 2^31
 * blocks. */
HN_NODISCARD hn_status hn_block_shape_check(const char *op, hn_block_shape s, int64_t out,
                                            int64_t in);

static inline int64_t hn_block_values(hn_block_shape s) { return s.br * s.bc; }
static inline int64_t hn_block_total(hn_block_shape s, int64_t out, int64_t in)
{
    return (out / s.br) * (in / s.bc);
}

/* The first row and column of a block. */
static inline int64_t hn_block_row(hn_block_shape s, int64_t in, int64_t id)
{
    return id / (in / s.bc) * s.br;
}
static inline int64_t hn_block_col(hn_block_shape s, int64_t in, int64_t id)
{
    return id % (in / s.bc) * s.bc;
}

static inline bool hn_block_tiled(hn_block_shape s) { return s.br <= 64 && s.bc <= 64; }
static inline int64_t hn_sparse_tiles_across(int64_t in)
{
    return (in + HN_SPARSE_TILE - 1) / HN_SPARSE_TILE;
}
static inline int64_t hn_sparse_tiles(int64_t out, int64_t in)
{
    return (out + HN_SPARSE_TILE - 1) / HN_SPARSE_TILE * hn_sparse_tiles_across(in);
}
/* Of a tiled shape: no block lies in two tiles. */
static inline int64_t hn_block_tile(hn_block_shape s, int64_t in, int64_t id)
{
    return hn_block_row(s, in, id) / HN_SPARSE_TILE * hn_sparse_tiles_across(in) +
           hn_block_col(s, in, id) / HN_SPARSE_TILE;
}

/* Blocks stand in a span by ascending place. */
static inline uint64_t hn_block_place(hn_block_shape s, int64_t in, int64_t id)
{
    const uint64_t tile = hn_block_tiled(s) ? (uint64_t)hn_block_tile(s, in, id) : 0;
    return tile << 32 | (uint64_t)id;
}

/* The order of n ids in a span, in time n + tiles.
 * id          ascending, each once
 * tile_first  out [hn_sparse_tiles + 1] for tiled shapes; else NULL
 * order       out [n]: the i-th block of the span is id[order[i]]
 * Errors      HN_ERR_ARG names the first id that is out of range or not above the one before;
 *             HN_ERR_SHAPE as hn_block_shape_check. Nothing is written then. */
HN_NODISCARD hn_status hn_sparse_order(hn_block_shape s, int64_t out, int64_t in, const int32_t *id,
                                       int64_t n, int32_t *tile_first, int32_t *order);

/* HN_ERR_ARG unless the span of a matrix lies inside the pool, has at most `capacity` blocks with
 * ids of the matrix, and tile_first (NULL for shapes without) covers it. Host memory. */
HN_NODISCARD hn_status hn_sparse_span_check(const char *op, const hn_sparse_span *span,
                                            hn_block_shape s, int64_t out, int64_t in,
                                            int64_t capacity, const int32_t *block,
                                            int64_t pool_blocks, int64_t pool_values,
                                            const int32_t *tile_first);

#ifdef __cplusplus
}
#endif
#endif
