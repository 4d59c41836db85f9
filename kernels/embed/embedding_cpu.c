#include "kernels/embed/embedding.h"

#include <inttypes.h>

#include "runtime/base/check.h"

static hn_status check_ids(const char *op, const int32_t *id, int64_t rows, int64_t vocab)
{
    for (int64_t i = 0; i < rows; i++)
        if (id[i] < 0 || id[i] >= vocab)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: id %" PRId32 " in row %" PRId64 " is not in [0, %" PRId64 ")", op,
                           id[i], i, vocab);
    return HN_OK;
}

hn_status hn_embedding_check_shapes(const hn_embedding_args *a)
{
    HN_TRY(hn_check_pointer("embedding", "args", a));
    HN_TRY(hn_check_float("embedding", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("embedding", "w", a->w, a->vocab, a->dim, a->ld_w));
    HN_TRY(hn_check_matrix("embedding", "y", a->y, a->rows, a->dim, a->ld_y));
    HN_TRY(hn_check_replicas("embedding", a->rows, a->replicas));
    HN_TRY(hn_check_read_stride("embedding", "w", a->replicas, a->w_stride, a->vocab * a->ld_w));
    return hn_check_pointer("embedding", "id", a->id);
}

hn_status hn_embedding_dw_check_shapes(const hn_embedding_dw_args *a)
{
    HN_TRY(hn_check_pointer("embedding_dw", "args", a));
    HN_TRY(hn_check_float("embedding_dw", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("embedding_dw", "dw", a->dw, a->vocab, a->dim, a->ld_dw));
    HN_TRY(hn_check_matrix("embedding_dw", "dy", a->dy, a->rows, a->dim, a->ld_dy));
    HN_TRY(hn_check_replicas("embedding_dw", a->rows, a->replicas));
    HN_TRY(hn_check_stride("embedding_dw", "dw", a->replicas, a->dw_stride, a->vocab * a->ld_dw));
    return hn_check_pointer("embedding_dw", "id", a->id);
}

hn_status hn_embedding_check(const hn_embedding_args *a)
{
    HN_TRY(hn_embedding_check_shapes(a));
    return check_ids("embedding", a->id, a->rows, a->vocab);
}

hn_status hn_embedding_dw_check(const hn_embedding_dw_args *a)
{
    HN_TRY(hn_embedding_dw_check_shapes(a));
    return check_ids("embedding_dw", a->id, a->rows, a->vocab);
}

hn_status hn_embedding_fwd_cpu(const hn_embedding_args *a)
{
    HN_TRY(hn_embedding_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->dim; j++) {
            const int64_t at = i / group * a->w_stride + a->id[i] * a->ld_w + j;
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j, hn_get_f32(a->w, a->dtype, at));
        }
    return HN_OK;
}

/* The sums run in fp32 in the order of the rows, because the contract says so. */
hn_status hn_embedding_dw_cpu(const hn_embedding_dw_args *a)
{
    HN_TRY(hn_embedding_dw_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->dim; j++) {
            const int64_t at = i / group * a->dw_stride + a->id[i] * a->ld_dw + j;
            a->dw[at] += hn_get_f32(a->dy, a->dtype, i * a->ld_dy + j);
        }
    return HN_OK;
}
