#include <inttypes.h>
#include <stddef.h>

#include "kernels/activation/add.h"

hn_status hn_add_check(const hn_add_args *a)
{
    if (!a || !a->a || !a->b || !a->z) return HN_FAIL(HN_ERR_ARG, "null pointer");
    if (a->dtype != HN_F32 && a->dtype != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "add: %s, only f32 and bf16", hn_dtype_name(a->dtype));
    if (a->rows < 1 || a->cols < 1 || a->ld_a < a->cols || a->ld_b < a->cols || a->ld_z < a->cols)
        return HN_FAIL(HN_ERR_SHAPE,
                       "add: [%" PRId64 ", %" PRId64 "] with leading dimensions %" PRId64
                       ", %" PRId64 ", %" PRId64,
                       a->rows, a->cols, a->ld_a, a->ld_b, a->ld_z);
    return HN_OK;
}

hn_status hn_add_cpu(const hn_add_args *a)
{
    HN_TRY(hn_add_check(a));
    for (int64_t i = 0; i < a->rows; i++) {
        if (a->dtype == HN_F32) {
            const float *p = (const float *)a->a + i * a->ld_a;
            const float *q = (const float *)a->b + i * a->ld_b;
            float *z = (float *)a->z + i * a->ld_z;
            for (int64_t j = 0; j < a->cols; j++) z[j] = p[j] + q[j];
        } else {
            const hn_bf16 *p = (const hn_bf16 *)a->a + i * a->ld_a;
            const hn_bf16 *q = (const hn_bf16 *)a->b + i * a->ld_b;
            hn_bf16 *z = (hn_bf16 *)a->z + i * a->ld_z;
            for (int64_t j = 0; j < a->cols; j++)
                z[j] = hn_bf16_from_f32(hn_bf16_to_f32(p[j]) + hn_bf16_to_f32(q[j]));
        }
    }
    return HN_OK;
}
