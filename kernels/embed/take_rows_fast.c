#include <stddef.h>
#include <string.h>

#include "kernels/embed/take_rows.h"
#include "runtime/base/multiversion.h"

hn_status hn_take_rows_fwd_fast(const hn_take_rows_args *a)
{
    HN_TRY(hn_take_rows_check(a));
    const size_t size = hn_dtype_size(a->dtype), bytes = (size_t)a->cols * size;
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++)
        memcpy((char *)a->y + (size_t)(i * a->ld_y) * size,
               (const char *)a->x + (size_t)((i * a->stride + a->offset) * a->ld_x) * size, bytes);
    return HN_OK;
}

hn_status hn_take_rows_bwd_fast(const hn_take_rows_bwd_args *a)
{
    HN_TRY(hn_take_rows_bwd_check(a));
    const size_t size = hn_dtype_size(a->dtype), bytes = (size_t)a->cols * size;
#pragma omp parallel for schedule(static) if (a->rows * a->stride * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows * a->stride; i++) {
        char *const to = (char *)a->dx + (size_t)(i * a->ld_dx) * size;
        if (i % a->stride == a->offset)
            memcpy(to, (const char *)a->dy + (size_t)(i / a->stride * a->ld_dy) * size, bytes);
        else
            memset(to, 0, bytes);
    }
    return HN_OK;
}
