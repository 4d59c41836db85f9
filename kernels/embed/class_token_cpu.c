#include "kernels/embed/class_token.h"

#include <inttypes.h>

#include "runtime/base/check.h"

static hn_status check_counts(const char *op, int64_t images, int64_t patches, int64_t replicas)
{
    if (images < 1 || patches < 1 || images > INT32_MAX || patches >= INT32_MAX ||
        images * (patches + 1) > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " images of %" PRId64
                       " patches, each must be 1 to 2^31 - 1, and all tokens together",
                       op, images, patches);
    return hn_check_replicas(op, images, replicas);
}

hn_status hn_class_token_check(const hn_class_token_args *a)
{
    static const char op[] = "class_token";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_float(op, "dtype of parameters", a->param_dtype));
    HN_TRY(check_counts(op, a->images, a->patches, a->replicas));
    const int64_t tokens = a->patches + (a->cls != NULL);
    HN_TRY(hn_check_matrix(op, "x", a->x, a->images * a->patches, a->dim, a->ld_x));
    HN_TRY(hn_check_matrix(op, "pos", a->pos, tokens, a->dim, a->ld_pos));
    HN_TRY(hn_check_matrix(op, "y", a->y, a->images * tokens, a->dim, a->ld_y));
    if (a->cls) HN_TRY(hn_check_read_stride(op, "cls", a->replicas, a->cls_stride, a->dim));
    return hn_check_read_stride(op, "pos", a->replicas, a->pos_stride,
                                (tokens - 1) * a->ld_pos + a->dim);
}

hn_status hn_class_token_bwd_check(const hn_class_token_bwd_args *a)
{
    static const char op[] = "class_token_bwd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(check_counts(op, a->images, a->patches, a->replicas));
    const int64_t tokens = a->patches + a->has_cls;
    HN_TRY(hn_check_matrix(op, "dy", a->dy, a->images * tokens, a->dim, a->ld_dy));
    if (a->dx) HN_TRY(hn_check_matrix(op, "dx", a->dx, a->images * a->patches, a->dim, a->ld_dx));
    if (a->dcls && !a->has_cls) return HN_FAIL(HN_ERR_ARG, "%s: dcls without a class token", op);
    if (a->dcls) HN_TRY(hn_check_stride(op, "dcls", a->replicas, a->dcls_stride, a->dim));
    if (a->dpos == NULL) return HN_OK;
    HN_TRY(hn_check_matrix(op, "dpos", a->dpos, tokens, a->dim, a->ld_dpos));
    return hn_check_stride(op, "dpos", a->replicas, a->dpos_stride,
                           (tokens - 1) * a->ld_dpos + a->dim);
}

hn_status hn_class_token_fwd_cpu(const hn_class_token_args *a)
{
    HN_TRY(hn_class_token_check(a));
    const int64_t has = a->cls != NULL, tokens = a->patches + has;
    const int64_t group = a->images / hn_replica_count(a->replicas);
    for (int64_t n = 0; n < a->images; n++)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t j = 0; j < a->dim; j++) {
                const int64_t g = n / group, row = n * a->patches + t - has;
                const float token = t < has
                                        ? hn_get_f32(a->cls, a->param_dtype, g * a->cls_stride + j)
                                        : hn_get_f32(a->x, a->dtype, row * a->ld_x + j);
                const float pos =
                    hn_get_f32(a->pos, a->param_dtype, g * a->pos_stride + t * a->ld_pos + j);
                hn_set_f32(a->y, a->dtype, (n * tokens + t) * a->ld_y + j, token + pos);
            }
    return HN_OK;
}

/* Column j of token t in the images of replica g. */
static void bwd_column(const hn_class_token_bwd_args *a, int64_t g, int64_t t, int64_t j)
{
    const int64_t has = a->has_cls, tokens = a->patches + has;
    const int64_t group = a->images / hn_replica_count(a->replicas);
    double sum = 0;
    for (int64_t n = g * group; n < (g + 1) * group; n++) {
        const float dy = hn_get_f32(a->dy, a->dtype, (n * tokens + t) * a->ld_dy + j);
        sum += (double)dy;
        if (a->dx && t >= has)
            hn_set_f32(a->dx, a->dtype, (n * a->patches + t - has) * a->ld_dx + j, dy);
    }
    if (a->dpos) a->dpos[g * a->dpos_stride + t * a->ld_dpos + j] += (float)sum;
    if (a->dcls && t == 0) a->dcls[g * a->dcls_stride + j] += (float)sum;
}

hn_status hn_class_token_bwd_cpu(const hn_class_token_bwd_args *a)
{
    HN_TRY(hn_class_token_bwd_check(a));
    for (int64_t g = 0; g < hn_replica_count(a->replicas); g++)
        for (int64_t t = 0; t < a->patches + a->has_cls; t++)
            for (int64_t j = 0; j < a->dim; j++) bwd_column(a, g, t, j);
    return HN_OK;
}
