#include <string.h>

#include "kernels/embed/embedding.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

hn_status hn_embedding_fwd_fast(const hn_embedding_args *a)
{
    HN_TRY(hn_embedding_check(a));
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    const size_t size = hn_dtype_size(a->dtype), n_bytes = (size_t)a->dim * size;
#pragma omp parallel for schedule(static) if (a->rows * a->dim > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t from = i / group * a->w_stride + a->id[i] * a->ld_w;
        memcpy((char *)a->y + (size_t)(i * a->ld_y) * size,
               (const char *)a->w + (size_t)from * size, n_bytes);
    }
    return HN_OK;
}

HN_MULTIVERSION static void add_to(const float *restrict x, int64_t n, float *restrict sum)
{
    for (int64_t j = 0; j < n; j++) sum[j] += x[j];
}

/* A thread owns columns, not tokens: each walks all rows in order, so that no two threads meet in
 * dw and a token that fills half the batch costs no more than any other. */
enum { WIDTH = 64 };

hn_status hn_embedding_dw_fast(const hn_embedding_dw_args *a)
{
    HN_TRY(hn_embedding_dw_check(a));
    const int64_t replicas = hn_replica_count(a->replicas), group = a->rows / replicas;
    const int64_t pieces = (a->dim + WIDTH - 1) / WIDTH;
#pragma omp parallel for schedule(static) if (a->rows * a->dim > HN_OMP_MIN)
    for (int64_t piece = 0; piece < replicas * pieces; piece++) {
        const int64_t g = piece / pieces, j = piece % pieces * WIDTH;
        const int64_t n = a->dim - j < WIDTH ? a->dim - j : WIDTH;
        float buffer[HN_BLOCK];
        for (int64_t i = g * group; i < (g + 1) * group; i++)
            add_to(hn_load_f32(a->dy, a->dtype, i * a->ld_dy + j, n, buffer), n,
                   a->dw + g * a->dw_stride + a->id[i] * a->ld_dw + j);
    }
    return HN_OK;
}
