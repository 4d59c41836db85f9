/* A thread takes lines of y (of dx). A voxel's channels are copied as bytes; sums are made in the
 * order of the voxels of y, whoever makes them. */
#include <string.h>

#include "kernels/vision/upsample.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

static void copy_line(const hn_upsample_args *a, int64_t line)
{
    const hn_upsample_shape *const s = &a->s;
    const size_t each = hn_dtype_size(a->dtype);
    const int64_t q = line % s->out_h, p = line / s->out_h % s->out_d,
                  n = line / s->out_h / s->out_d;
    const int64_t x = ((n * s->d + p * s->d / s->out_d) * s->h + q * s->h / s->out_h) * s->w;
    for (int64_t v = 0; v < s->out_w; v++) {
        const int64_t row = line * s->out_w + v;
        char *const y = (char *)a->y + (size_t)(row * a->ld_y) * each;
        const char *const from =
            (const char *)a->x + (size_t)((x + v * s->w / s->out_w) * a->ld_x) * each;
        if (a->skip)
            memcpy(y, (const char *)a->skip + (size_t)(row * a->ld_skip) * each,
                   (size_t)a->c_skip * each);
        memcpy(y + (size_t)a->c_skip * each, from, (size_t)s->c * each);
    }
}

hn_status hn_upsample_fwd_fast(const hn_upsample_args *a)
{
    HN_TRY(hn_upsample_check(a));
    const int64_t lines = a->s.n * a->s.out_d * a->s.out_h;
#pragma omp parallel for schedule(static) if (lines * a->s.out_w * a->s.c > HN_OMP_MIN)
    for (int64_t line = 0; line < lines; line++) copy_line(a, line);
    return HN_OK;
}

HN_MULTIVERSION static void add_to(const float *restrict x, int64_t n, float *restrict sum)
{
    for (int64_t c = 0; c < n; c++) sum[c] += x[c];
}

/* Channels c .. c + n of voxel (i, j, k) of volume `image`. */
static void sum_voxel(const hn_upsample_bwd_args *a, const int64_t at[4], int64_t c, int64_t n,
                      float *sum)
{
    const hn_upsample_shape *const s = &a->s;
    float buffer[HN_BLOCK];
    memset(sum, 0, (size_t)n * sizeof(float));
    for (int64_t p = hn_upsample_first(at[1], s->d, s->out_d);
         p < hn_upsample_first(at[1] + 1, s->d, s->out_d); p++)
        for (int64_t q = hn_upsample_first(at[2], s->h, s->out_h);
             q < hn_upsample_first(at[2] + 1, s->h, s->out_h); q++)
            for (int64_t v = hn_upsample_first(at[3], s->w, s->out_w);
                 v < hn_upsample_first(at[3] + 1, s->w, s->out_w); v++) {
                const int64_t row = ((at[0] * s->out_d + p) * s->out_h + q) * s->out_w + v;
                add_to(hn_load_f32(a->dy, a->dtype, row * a->ld_dy + c, n, buffer), n, sum);
            }
}

hn_status hn_upsample_bwd_fast(const hn_upsample_bwd_args *a)
{
    HN_TRY(hn_upsample_bwd_check(a));
    const hn_upsample_shape *const s = &a->s;
    const int64_t lines = s->n * s->d * s->h;
#pragma omp parallel for schedule(static) if (hn_upsample_rows_out(s) * s->c > HN_OMP_MIN)
    for (int64_t line = 0; line < lines; line++)
        for (int64_t k = 0; k < s->w; k++)
            for (int64_t c = 0; c < s->c; c += HN_BLOCK) {
                const int64_t at[] = {line / s->h / s->d, line / s->h % s->d, line % s->h, k};
                const int64_t n = hn_block_len(c, s->c);
                float sum[HN_BLOCK];
                sum_voxel(a, at, c, n, sum);
                hn_from_f32(sum, n, a->dx, a->dtype, (line * s->w + k) * a->ld_dx + c);
            }
    return HN_OK;
}
