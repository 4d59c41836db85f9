#include <stddef.h>
#include <string.h>

#include "kernels/conv/shortcut_a.h"
#include "runtime/base/multiversion.h"

hn_status hn_shortcut_a_fwd_fast(const hn_shortcut_a_args *a)
{
    HN_TRY(hn_shortcut_a_check(a));
    const hn_shortcut_a_shape *s = &a->s;
    const int64_t out_h = hn_shortcut_a_out(s->h, s->stride);
    const int64_t out_w = hn_shortcut_a_out(s->w, s->stride);
    const size_t size = hn_dtype_size(s->dtype), middle = (size_t)s->ci * size;
    const size_t side = (size_t)((s->co - s->ci) / 2) * size;
#pragma omp parallel for schedule(static) if (s->n * out_h * out_w * s->co > HN_OMP_MIN)
    for (int64_t row = 0; row < s->n * out_h * out_w; row++) {
        const int64_t line = row / out_w, i = line % out_h * s->stride;
        const int64_t from = (line / out_h * s->h + i) * s->w + row % out_w * s->stride;
        char *const to = (char *)a->y + (size_t)(row * a->ld_y) * size;
        memset(to, 0, side);
        memcpy(to + side, (const char *)a->x + (size_t)(from * a->ld_x) * size, middle);
        memset(to + side + middle, 0, side);
    }
    return HN_OK;
}

hn_status hn_shortcut_a_bwd_fast(const hn_shortcut_a_bwd_args *a)
{
    HN_TRY(hn_shortcut_a_bwd_check(a));
    const hn_shortcut_a_shape *s = &a->s;
    const int64_t out_h = hn_shortcut_a_out(s->h, s->stride);
    const int64_t out_w = hn_shortcut_a_out(s->w, s->stride), before = (s->co - s->ci) / 2;
    const size_t size = hn_dtype_size(s->dtype), bytes = (size_t)s->ci * size;
#pragma omp parallel for schedule(static) if (s->n * s->h * s->w * s->ci > HN_OMP_MIN)
    for (int64_t row = 0; row < s->n * s->h * s->w; row++) {
        const int64_t line = row / s->w, i = line % s->h, j = row % s->w;
        const int64_t from = (line / s->h * out_h + i / s->stride) * out_w + j / s->stride;
        char *const to = (char *)a->dx + (size_t)(row * a->ld_dx) * size;
        if (i % s->stride == 0 && j % s->stride == 0)
            memcpy(to, (const char *)a->dy + (size_t)(from * a->ld_dy + before) * size, bytes);
        else
            memset(to, 0, bytes);
    }
    return HN_OK;
}
