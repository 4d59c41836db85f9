#include "kernels/sparse/block_store.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

static const char op[] = "block_store";

hn_status hn_block_store_check(const hn_block_store_args *a)
{
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "w", a->dtype));
    HN_TRY(hn_check_matrix(op, "w", a->w, a->out, a->in, a->ld_w));
    HN_TRY(hn_block_shape_check(op, a->shape, a->out, a->in));
    HN_TRY(hn_check_pointer(op, "span", a->span));
    HN_TRY(hn_check_pointer(op, "block", a->block));
    HN_TRY(hn_check_pointer(op, "frozen", a->frozen));
    const int64_t total = hn_block_total(a->shape, a->out, a->in);
    if (hn_block_values(a->shape) > 1 << 30)
        return HN_FAIL(HN_ERR_SHAPE, "%s: blocks of %" PRId64 " values, at most 2^30", op,
                       hn_block_values(a->shape));
    if (a->capacity < 1 || a->capacity > total)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: capacity of %" PRId64 " blocks, must be 1 to the matrix's %" PRId64, op,
                       a->capacity, total);
    return HN_OK;
}

static hn_status check_span(const hn_block_store_args *a)
{
    HN_TRY(hn_block_store_check(a));
    return hn_sparse_span_check(op, a->span, a->shape, a->out, a->in, a->capacity, a->block,
                                a->blocks, a->values, NULL);
}

/* Where a block begins in w and in the pool, in elements. */
typedef struct {
    int64_t w, pool;
} place;

static place place_of(const hn_block_store_args *a, int64_t b)
{
    const int64_t id = a->block[a->span->first_block + b];
    return (place){hn_block_row(a->shape, a->in, id) * a->ld_w + hn_block_col(a->shape, a->in, id),
                   a->span->first_value + b * hn_block_values(a->shape)};
}

static void store_block(const hn_block_store_args *a, int64_t b)
{
    const place at = place_of(a, b);
    for (int64_t i = 0; i < a->shape.br; i++)
        for (int64_t j = 0; j < a->shape.bc; j++) {
            const int64_t k = at.pool + i * a->shape.bc + j;
            const float w = hn_get_f32(a->frozen, a->dtype, k) + a->delta[k];
            hn_set_f32(a->w, a->dtype, at.w + i * a->ld_w + j, w);
        }
}

hn_status hn_block_store_cpu(const hn_block_store_args *a)
{
    HN_TRY(check_span(a));
    HN_TRY(hn_check_pointer(op, "delta", a->delta));
    for (int64_t b = 0; b < a->span->count; b++) store_block(a, b);
    return HN_OK;
}

hn_status hn_block_store_fast(const hn_block_store_args *a)
{
    HN_TRY(check_span(a));
    HN_TRY(hn_check_pointer(op, "delta", a->delta));
    const int64_t n = a->span->count;
#pragma omp parallel for schedule(static) if (n * hn_block_values(a->shape) > HN_OMP_MIN)
    for (int64_t b = 0; b < n; b++) store_block(a, b);
    return HN_OK;
}

static void copy_block(const hn_block_store_args *a, int64_t b, bool keep)
{
    const place at = place_of(a, b);
    const size_t size = hn_dtype_size(a->dtype), row = (size_t)a->shape.bc * size;
    for (int64_t i = 0; i < a->shape.br; i++) {
        char *const w = (char *)a->w + (size_t)(at.w + i * a->ld_w) * size;
        char *const frozen = (char *)a->frozen + (size_t)(at.pool + i * a->shape.bc) * size;
        memcpy(keep ? frozen : w, keep ? w : frozen, row);
    }
}

static hn_status copy_blocks(const hn_block_store_args *a, bool keep)
{
    HN_TRY(check_span(a));
    const int64_t n = a->span->count;
#pragma omp parallel for schedule(static) if (n * hn_block_values(a->shape) > HN_OMP_MIN)
    for (int64_t b = 0; b < n; b++) copy_block(a, b, keep);
    return HN_OK;
}

hn_status hn_block_keep_cpu(const hn_block_store_args *a) { return copy_blocks(a, true); }

hn_status hn_block_restore_cpu(const hn_block_store_args *a) { return copy_blocks(a, false); }
