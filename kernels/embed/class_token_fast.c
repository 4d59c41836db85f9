#include <stddef.h>
#include <string.h>

#include "kernels/embed/class_token.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

HN_MULTIVERSION static void add_rows(const float *restrict a, const float *restrict b, int64_t n,
                                     float *restrict sum)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] = a[j] + b[j];
}

HN_MULTIVERSION static void add_to(const float *restrict x, int64_t n, float *restrict sum)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] += x[j];
}

hn_status hn_class_token_fwd_fast(const hn_class_token_args *a)
{
    HN_TRY(hn_class_token_check(a));
    const int64_t has = a->cls != NULL, tokens = a->patches + has;
    const int64_t group = a->images / hn_replica_count(a->replicas);
#pragma omp parallel for schedule(static) if (a->images * tokens * a->dim > HN_OMP_MIN)
    for (int64_t row = 0; row < a->images * tokens; row++) {
        const int64_t n = row / tokens, t = row % tokens, g = n / group;
        const void *const token = t < has ? a->cls : a->x;
        const hn_dtype type = t < has ? a->param_dtype : a->dtype;
        const int64_t at = t < has ? g * a->cls_stride : (n * a->patches + t - has) * a->ld_x;
        float b[3][HN_BLOCK];
        for (int64_t j = 0; j < a->dim; j += HN_BLOCK) {
            const int64_t len = hn_block_len(j, a->dim), to = row * a->ld_y + j;
            float *const y = hn_target_f32(a->y, a->dtype, to, b[2]);
            add_rows(hn_load_f32(token, type, at + j, len, b[0]),
                     hn_load_f32(a->pos, a->param_dtype, g * a->pos_stride + t * a->ld_pos + j, len,
                                 b[1]),
                     len, y);
            hn_store_f32(y, len, a->y, a->dtype, to);
        }
    }
    return HN_OK;
}

/* A thread owns a token's place: it walks the images in order. */
static void sum_token(const hn_class_token_bwd_args *a, int64_t g, int64_t t)
{
    const int64_t tokens = a->patches + a->has_cls;
    const int64_t group = a->images / hn_replica_count(a->replicas);
    float *const dpos = a->dpos ? a->dpos + g * a->dpos_stride + t * a->ld_dpos : NULL;
    float *const dcls = a->dcls && t == 0 ? a->dcls + g * a->dcls_stride : NULL;
    float sum[HN_BLOCK], buffer[HN_BLOCK];
    if (dpos == NULL && dcls == NULL) return;
    for (int64_t j = 0; j < a->dim; j += HN_BLOCK) {
        const int64_t len = hn_block_len(j, a->dim);
        memset(sum, 0, sizeof sum);
        for (int64_t n = g * group; n < (g + 1) * group; n++)
            add_to(hn_load_f32(a->dy, a->dtype, (n * tokens + t) * a->ld_dy + j, len, buffer), len,
                   sum);
        if (dpos) add_to(sum, len, dpos + j);
        if (dcls) add_to(sum, len, dcls + j);
    }
}

hn_status hn_class_token_bwd_fast(const hn_class_token_bwd_args *a)
{
    HN_TRY(hn_class_token_bwd_check(a));
    const int64_t has = a->has_cls, tokens = a->patches + has;
    const int64_t replicas = hn_replica_count(a->replicas), group = a->images / replicas;
    const size_t size = hn_dtype_size(a->dtype);
#pragma omp parallel for schedule(static) if (a->images * tokens * a->dim > HN_OMP_MIN)
    for (int64_t item = 0; item < replicas * tokens; item++) {
        const int64_t g = item / tokens, t = item % tokens;
        for (int64_t n = g * group; a->dx && t >= has && n < (g + 1) * group; n++)
            memcpy((char *)a->dx + (size_t)((n * a->patches + t - has) * a->ld_dx) * size,
                   (const char *)a->dy + (size_t)((n * tokens + t) * a->ld_dy) * size,
                   (size_t)a->dim * size);
        sum_token(a, g, t);
    }
    return HN_OK;
}
