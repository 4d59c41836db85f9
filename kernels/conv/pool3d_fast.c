/* A thread takes lines of the result (dx: of the input) and walks their voxels and channels: few
 * channels leave nothing to gain from wide loops over them. */
#include "kernels/conv/pool3d.h"
#include "runtime/base/multiversion.h"

/* One line of y: `v` of the first voxels that its cubes see begins at element `at`. */
typedef struct {
    int64_t plane, line; /* elements from one plane and line of x to the next */
    int64_t at, row;     /* first element of x, and voxel of y */
    int64_t out_w;
} span;

HN_INLINE float value_of(const void *x, hn_dtype t, int64_t at)
{
    return t == HN_F32 ? ((const float *)x)[at] : hn_bf16_to_f32(((const hn_bf16 *)x)[at]);
}

HN_INLINE void max_line(const hn_pool3d_args *a, const span *l, hn_dtype t)
{
    const int64_t size = a->s.size;
    for (int64_t v = 0; v < l->out_w; v++)
        for (int64_t c = 0; c < a->s.c; c++) {
            int64_t best_at = 0, best_e = 0, e = 0;
            float best = 0.0f;
            for (int64_t r = 0; r < size; r++)
                for (int64_t s = 0; s < size; s++)
                    for (int64_t u = 0; u < size; u++, e++) {
                        const int64_t at =
                            l->at + r * l->plane + s * l->line + (v * size + u) * a->ld_x + c;
                        const float x = value_of(a->x, t, at);
                        if (e > 0 && !(x > best || x != x)) continue;
                        best = x, best_at = at, best_e = e;
                    }
            const int64_t to = (l->row + v) * a->ld_y + c;
            if (t == HN_F32)
                ((float *)a->y)[to] = ((const float *)a->x)[best_at];
            else
                ((hn_bf16 *)a->y)[to] = ((const hn_bf16 *)a->x)[best_at];
            if (a->index) a->index[(l->row + v) * a->ld_index + c] = (uint8_t)best_e;
        }
}

hn_status hn_pool3d_fwd_fast(const hn_pool3d_args *a)
{
    HN_TRY(hn_pool3d_check(a));
    const hn_pool3d_shape s = a->s;
    const int64_t out_d = s.d / s.size, out_h = s.h / s.size, out_w = s.w / s.size;
    const int64_t lines = s.n * out_d * out_h;
#pragma omp parallel for schedule(static) if (s.n * s.d * s.h * s.w * s.c > HN_OMP_MIN)
    for (int64_t i = 0; i < lines; i++) {
        const int64_t q = i % out_h, p = i / out_h % out_d, volume = i / out_h / out_d;
        const span l = {.plane = s.h * s.w * a->ld_x,
                        .line = s.w * a->ld_x,
                        .at = ((volume * s.d + p * s.size) * s.h + q * s.size) * s.w * a->ld_x,
                        .row = i * out_w,
                        .out_w = out_w};
        if (a->dtype == HN_F32)
            max_line(a, &l, HN_F32);
        else
            max_line(a, &l, HN_BF16);
    }
    return HN_OK;
}

/* A line of dx; row: the first of its cubes, -1 where they are none. place: of its first voxel. */
HN_INLINE void spread_line(const hn_pool3d_bwd_args *a, int64_t voxel, int64_t row, int64_t place,
                           hn_dtype t)
{
    const int64_t size = a->s.size, inside = row < 0 ? 0 : a->s.w / size * size;
    for (int64_t k = 0; k < a->s.w; k++) {
        const int64_t cube = row + k / size, to = (voxel + k) * a->ld_dx;
        for (int64_t c = 0; c < a->s.c; c++) {
            const bool mine = k < inside && a->index[cube * a->ld_index + c] == place + k % size;
            if (t == HN_F32)
                ((float *)a->dx)[to + c] = mine ? ((const float *)a->dy)[cube * a->ld_dy + c] : 0;
            else
                ((hn_bf16 *)a->dx)[to + c] =
                    mine ? ((const hn_bf16 *)a->dy)[cube * a->ld_dy + c] : (hn_bf16){0};
        }
    }
}

hn_status hn_pool3d_bwd_fast(const hn_pool3d_bwd_args *a)
{
    HN_TRY(hn_pool3d_bwd_check(a));
    const hn_pool3d_shape s = a->s;
    const int64_t out_d = s.d / s.size, out_h = s.h / s.size, out_w = s.w / s.size;
    const int64_t lines = s.n * s.d * s.h;
#pragma omp parallel for schedule(static) if (lines * s.w * s.c > HN_OMP_MIN)
    for (int64_t l = 0; l < lines; l++) {
        const int64_t j = l % s.h, i = l / s.h % s.d, volume = l / s.h / s.d;
        const int64_t p = i / s.size, q = j / s.size;
        const int64_t row =
            p < out_d && q < out_h ? ((volume * out_d + p) * out_h + q) * out_w : -1;
        const int64_t place = (i % s.size * s.size + j % s.size) * s.size;
        if (a->dtype == HN_F32)
            spread_line(a, l * s.w, row, place, HN_F32);
        else
            spread_line(a, l * s.w, row, place, HN_BF16);
    }
    return HN_OK;
}
