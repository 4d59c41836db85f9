#include <inttypes.h>

#include "kernels/sparse/block_gather.h"
#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

hn_status hn_block_gather_check(const hn_block_gather_args *a)
{
    HN_TRY(hn_check_pointer("block_gather", "args", a));
    HN_TRY(hn_check_matrix("block_gather", "dw", a->dw, a->out, a->in, a->ld_dw));
    HN_TRY(hn_block_shape_check("block_gather", a->shape, a->out, a->in));
    HN_TRY(hn_check_pointer("block_gather", "span", a->span));
    HN_TRY(hn_check_pointer("block_gather", "block", a->block));
    HN_TRY(hn_check_pointer("block_gather", "grad", a->grad));
    if (a->capacity < 1 || a->capacity > hn_block_total(a->shape, a->out, a->in))
        return HN_FAIL(HN_ERR_SHAPE,
                       "block_gather: capacity of %" PRId64
                       " blocks, must be 1 to the matrix's %" PRId64,
                       a->capacity, hn_block_total(a->shape, a->out, a->in));
    return HN_OK;
}

static void add_block(const hn_block_gather_args *a, int64_t b)
{
    const int64_t id = a->block[a->span->first_block + b], br = a->shape.br, bc = a->shape.bc;
    const float alpha = a->alpha == 0.0f ? 1.0f : a->alpha;
    const float *const dw =
        a->dw + hn_block_row(a->shape, a->in, id) * a->ld_dw + hn_block_col(a->shape, a->in, id);
    float *const grad = a->grad + a->span->first_value + b * br * bc;
    for (int64_t i = 0; i < br; i++)
        for (int64_t j = 0; j < bc; j++) grad[i * bc + j] += alpha * dw[i * a->ld_dw + j];
}

static hn_status check_span(const hn_block_gather_args *a)
{
    HN_TRY(hn_block_gather_check(a));
    return hn_sparse_span_check("block_gather", a->span, a->shape, a->out, a->in, a->capacity,
                                a->block, a->blocks, a->values, NULL);
}

hn_status hn_block_gather_cpu(const hn_block_gather_args *a)
{
    HN_TRY(check_span(a));
    for (int64_t b = 0; b < a->span->count; b++) add_block(a, b);
    return HN_OK;
}

hn_status hn_block_gather_fast(const hn_block_gather_args *a)
{
    HN_TRY(check_span(a));
    const int64_t n = a->span->count;
#pragma omp parallel for schedule(static) if (n * a->shape.br * a->shape.bc > HN_OMP_MIN)
    for (int64_t b = 0; b < n; b++) add_block(a, b);
    return HN_OK;
}
