#include "kernels/sparse/sparse_pool.h"

#include <assert.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

static_assert(sizeof(hn_sparse_span) == 16, "spans lie in device memory, 16 bytes each");

static bool known(hn_block_shape s, int64_t out, int64_t in)
{
    static const int64_t side[] = {1, 4, 16, 32, 64, 128, 256};
    if ((s.br == 1 && s.bc == in) || (s.bc == 1 && s.br == out)) return true;
    for (size_t i = 0; i < sizeof side / sizeof *side; i++)
        if (s.br == side[i] && s.bc == side[i]) return true;
    return false;
}

hn_status hn_block_shape_check(const char *op, hn_block_shape s, int64_t out, int64_t in)
{
    if (out < 1 || in < 1 || out > INT32_MAX || in > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: matrix [%" PRId64 ", %" PRId64 "], each must be 1 to 2^31 - 1", op, out,
                       in);
    if (!known(s, out, in))
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: blocks of %" PRId64 " x %" PRId64 " in [%" PRId64 ", %" PRId64
                       "]; squares of 1, 4, 16, 32, 64, 128 or 256, rows and columns are there",
                       op, s.br, s.bc, out, in);
    if (out % s.br != 0 || in % s.bc != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: blocks of %" PRId64 " x %" PRId64 " do not divide [%" PRId64
                       ", %" PRId64 "]",
                       op, s.br, s.bc, out, in);
    if (hn_block_total(s, out, in) > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: [%" PRId64 ", %" PRId64 "] has %" PRId64
                       " blocks, at most 2^31 - 1 have ids",
                       op, out, in, hn_block_total(s, out, in));
    return HN_OK;
}

static hn_status check_ids(hn_block_shape s, int64_t out, int64_t in, const int32_t *id, int64_t n)
{
    const int64_t total = hn_block_total(s, out, in);
    for (int64_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= total || (i > 0 && id[i] <= id[i - 1]))
            return HN_FAIL(HN_ERR_ARG,
                           "sparse_order: id %" PRId32 " at %" PRId64 "; ids of %" PRId64
                           " blocks must ascend",
                           id[i], i, total);
    return HN_OK;
}

hn_status hn_sparse_order(hn_block_shape s, int64_t out, int64_t in, const int32_t *id, int64_t n,
                          int32_t *tile_first, int32_t *order)
{
    HN_TRY(hn_block_shape_check("sparse_order", s, out, in));
    HN_TRY(check_ids(s, out, in, id, n));
    if (!hn_block_tiled(s)) {
        for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
        return HN_OK;
    }
    /* Count, add up, put in place: tile_first[t] runs from the first to behind the last block of
     * tile t, which is where tile t + 1 begins, and moves up by one tile in the end. */
    const int64_t tiles = hn_sparse_tiles(out, in);
    memset(tile_first, 0, (size_t)(tiles + 1) * sizeof *tile_first);
    for (int64_t i = 0; i < n; i++) tile_first[hn_block_tile(s, in, id[i]) + 1]++;
    for (int64_t t = 0; t < tiles; t++) tile_first[t + 1] += tile_first[t];
    for (int64_t i = 0; i < n; i++) order[tile_first[hn_block_tile(s, in, id[i])]++] = (int32_t)i;
    memmove(tile_first + 1, tile_first, (size_t)tiles * sizeof *tile_first);
    tile_first[0] = 0;
    return HN_OK;
}

static hn_status check_tiles(const char *op, const hn_sparse_span *span, hn_block_shape s,
                             int64_t out, int64_t in, const int32_t *tile_first)
{
    if (tile_first == NULL || !hn_block_tiled(s)) return HN_OK;
    const int64_t tiles = hn_sparse_tiles(out, in);
    bool fits = tile_first[0] == 0 && tile_first[tiles] == span->count;
    for (int64_t t = 0; t < tiles; t++) fits &= tile_first[t] <= tile_first[t + 1];
    return fits ? HN_OK
                : HN_FAIL(HN_ERR_ARG,
                          "%s: tile_first must ascend from 0 to the %" PRId32 " blocks of the span",
                          op, span->count);
}

hn_status hn_sparse_span_check(const char *op, const hn_sparse_span *span, hn_block_shape s,
                               int64_t out, int64_t in, int64_t capacity, const int32_t *block,
                               int64_t pool_blocks, int64_t pool_values, const int32_t *tile_first)
{
    const int64_t total = hn_block_total(s, out, in), values = hn_block_values(s);
    if (span->count < 0 || span->count > capacity || span->first_block < 0 ||
        span->first_value < 0 || span->first_block > pool_blocks - span->count ||
        span->first_value > pool_values - span->count * values)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: span of %" PRId32 " blocks from block %" PRId32 " and value %" PRId64
                       " on; capacity %" PRId64 ", pool of %" PRId64 " blocks and %" PRId64
                       " values",
                       op, span->count, span->first_block, span->first_value, capacity, pool_blocks,
                       pool_values);
    HN_TRY(check_tiles(op, span, s, out, in, tile_first));
    uint64_t least = 0;
    for (int64_t i = 0; i < span->count; i++) {
        const int32_t id = block[span->first_block + i];
        if (id < 0 || id >= total || hn_block_place(s, in, id) < least)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: block %" PRId64 " of the span has id %" PRId32
                           ", out of range or out of order",
                           op, i, id);
        least = hn_block_place(s, in, id) + 1;
        if (tile_first == NULL) continue;
        const int64_t t = hn_block_tile(s, in, id);
        if (i < tile_first[t] || i >= tile_first[t + 1])
            return HN_FAIL(HN_ERR_ARG,
                           "%s: tile_first does not put block %" PRId64 " into tile %" PRId64, op,
                           i, t);
    }
    return HN_OK;
}
