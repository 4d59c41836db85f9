#include "kernels/sparse/block_dw.h"

#include <inttypes.h>

#include "runtime/base/check.h"

hn_status hn_block_dw_check(const hn_block_dw_args *a)
{
    HN_TRY(hn_check_pointer("block_dw", "args", a));
    HN_TRY(hn_check_float("block_dw", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("block_dw", "dy", a->dy, a->rows, a->out, a->ld_dy));
    HN_TRY(hn_check_matrix("block_dw", "x", a->x, a->rows, a->in, a->ld_x));
    HN_TRY(hn_block_shape_check("block_dw", a->shape, a->out, a->in));
    HN_TRY(hn_check_pointer("block_dw", "span", a->span));
    HN_TRY(hn_check_pointer("block_dw", "block", a->block));
    HN_TRY(hn_check_pointer("block_dw", "grad", a->grad));
    if (hn_block_tiled(a->shape)) HN_TRY(hn_check_pointer("block_dw", "tile_first", a->tile_first));
    if (a->capacity < 1 || a->capacity > hn_block_total(a->shape, a->out, a->in))
        return HN_FAIL(HN_ERR_SHAPE,
                       "block_dw: capacity of %" PRId64
                       " blocks, must be 1 to the matrix's %" PRId64,
                       a->capacity, hn_block_total(a->shape, a->out, a->in));
    if ((unsigned)a->way > HN_BLOCK_DW_WHOLE)
        return HN_FAIL(HN_ERR_ARG, "block_dw: way %d is none", (int)a->way);
    return HN_OK;
}

hn_status hn_block_dw_cpu(const hn_block_dw_args *a)
{
    HN_TRY(hn_block_dw_check(a));
    HN_TRY(hn_sparse_span_check("block_dw", a->span, a->shape, a->out, a->in, a->capacity, a->block,
                                a->blocks, a->values, a->tile_first));
    const double alpha = a->alpha == 0.0f ? 1.0 : (double)a->alpha;
    const int64_t br = a->shape.br, bc = a->shape.bc;
    for (int64_t b = 0; b < a->span->count; b++) {
        const int64_t id = a->block[a->span->first_block + b];
        const int64_t row = hn_block_row(a->shape, a->in, id);
        const int64_t col = hn_block_col(a->shape, a->in, id);
        float *const grad = a->grad + a->span->first_value + b * br * bc;
        for (int64_t i = 0; i < br; i++)
            for (int64_t j = 0; j < bc; j++) {
                double sum = 0.0;
                for (int64_t t = 0; t < a->rows; t++)
                    sum += (double)hn_get_f32(a->dy, a->dtype, t * a->ld_dy + row + i) *
                           (double)hn_get_f32(a->x, a->dtype, t * a->ld_x + col + j);
                grad[i * bc + j] = (float)((double)grad[i * bc + j] + alpha * sum);
            }
    }
    return HN_OK;
}
