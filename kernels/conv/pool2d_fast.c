#include <math.h>
#include <stddef.h>
#include <string.h>

#include "kernels/conv/pool2d_window.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* A thread owns output pixels (dx: input pixels) and walks channels in blocks: each result is a sum
 * in the order of the windows, whoever works it out. */

HN_MULTIVERSION static void add_to(const float *restrict x, int64_t n, float *restrict sum)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] += x[j];
}

HN_MULTIVERSION static void add_share(const float *restrict x, float count, int64_t n,
                                      float *restrict sum)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] += x[j] / count;
}

HN_MULTIVERSION static void divide(float count, int64_t n, float *restrict x)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) x[j] /= count;
}

/* at: where the best value so far was. NaN is better than anything. */
HN_MULTIVERSION static void keep_best(const float *restrict x, int32_t here, int64_t n,
                                      float *restrict best, int32_t *restrict at)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float v = x[j];
        const int better = v > best[j] || v != v;
        best[j] = better ? v : best[j];
        at[j] = better ? here : at[j];
    }
}

/* What is not positive becomes zero, and nobody's. */
HN_MULTIVERSION static void cut(int64_t n, float *restrict best, int32_t *restrict at)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const int off = best[j] <= 0.0f;
        best[j] = off ? 0.0f : best[j];
        at[j] = off ? HN_POOL2D_NONE : at[j];
    }
}

/* Adds where the index names this pixel. */
HN_MULTIVERSION static void add_where(const float *restrict x, const uint8_t *restrict index,
                                      int32_t here, int64_t n, float *restrict sum)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] += index[j] == here ? x[j] : 0.0f;
}

/* Of the window of output (p, q). */
static float count_of(const hn_pool2d_shape *s, int p, int q)
{
    if (s->count_include_pad) return (float)(s->size * s->size);
    const int size = (int)s->size, stride = (int)s->stride, pad = (int)s->pad;
    const hn_pool2d_range u = hn_pool2d_inside(p * stride - pad, size, (int)s->h);
    const hn_pool2d_range v = hn_pool2d_inside(q * stride - pad, size, (int)s->w);
    return (float)((u.end - u.first) * (v.end - v.first));
}

/* A block of channels of one window; the result is in value. */
typedef struct {
    float value[HN_BLOCK], buffer[HN_BLOCK];
    int32_t at[HN_BLOCK];
} block;

static void max_block(const hn_pool2d_args *a, int64_t image, int p, int q, int64_t c, int64_t n,
                      block *b)
{
    const hn_pool2d_shape *s = &a->s;
    const int size = (int)s->size, top = p * (int)s->stride - (int)s->pad;
    const int left = q * (int)s->stride - (int)s->pad;
    const hn_pool2d_range u = hn_pool2d_inside(top, size, (int)s->h);
    const hn_pool2d_range v = hn_pool2d_inside(left, size, (int)s->w);
    for (int64_t j = 0; j < n; j++) b->value[j] = -INFINITY;
    for (int64_t j = 0; j < n; j++) b->at[j] = u.first * size + v.first;
    for (int i = u.first; i < u.end; i++)
        for (int j = v.first; j < v.end; j++) {
            const int64_t pixel = (image * s->h + top + i) * s->w + left + j;
            keep_best(hn_load_f32(a->x, s->dtype, pixel * a->ld_x + c, n, b->buffer), i * size + j,
                      n, b->value, b->at);
        }
    if (s->relu) cut(n, b->value, b->at);
}

static void avg_block(const hn_pool2d_args *a, int64_t image, int p, int q, int64_t c, int64_t n,
                      block *b)
{
    const hn_pool2d_shape *s = &a->s;
    const int top = p * (int)s->stride - (int)s->pad, left = q * (int)s->stride - (int)s->pad;
    const hn_pool2d_range u = hn_pool2d_inside(top, (int)s->size, (int)s->h);
    const hn_pool2d_range v = hn_pool2d_inside(left, (int)s->size, (int)s->w);
    memset(b->value, 0, (size_t)n * sizeof(float));
    for (int i = u.first; i < u.end; i++)
        for (int j = v.first; j < v.end; j++) {
            const int64_t pixel = (image * s->h + top + i) * s->w + left + j;
            add_to(hn_load_f32(a->x, s->dtype, pixel * a->ld_x + c, n, b->buffer), n, b->value);
        }
    divide(count_of(s, p, q), n, b->value);
}

static void image_block(const hn_pool2d_args *a, int64_t image, int64_t c, int64_t n, block *b)
{
    const hn_pool2d_shape *s = &a->s;
    const int64_t pixels = s->h * s->w;
    memset(b->value, 0, (size_t)n * sizeof(float));
    for (int64_t i = image * pixels; i < (image + 1) * pixels; i++)
        add_to(hn_load_f32(a->x, s->dtype, i * a->ld_x + c, n, b->buffer), n, b->value);
    divide((float)pixels, n, b->value);
}

static void fwd_pixel(const hn_pool2d_args *a, int64_t row)
{
    const hn_pool2d_shape *s = &a->s;
    const int64_t image = row / (s->out_h * s->out_w);
    const int p = (int)(row / s->out_w % s->out_h), q = (int)(row % s->out_w);
    block b;
    for (int64_t c = 0; c < s->c; c += HN_BLOCK) {
        const int64_t n = hn_block_len(c, s->c);
        if (s->size == 0)
            image_block(a, image, c, n, &b);
        else if (s->kind == HN_POOL_MAX)
            max_block(a, image, p, q, c, n, &b);
        else
            avg_block(a, image, p, q, c, n, &b);
        hn_from_f32(b.value, n, a->y, s->dtype, row * a->ld_y + c);
        for (int64_t j = 0; a->index && j < n; j++)
            a->index[row * a->ld_index + c + j] = (uint8_t)b.at[j];
    }
}

hn_status hn_pool2d_fwd_fast(const hn_pool2d_args *a)
{
    HN_TRY(hn_pool2d_check(a));
    const int64_t rows = a->s.n * a->s.out_h * a->s.out_w;
#pragma omp parallel for schedule(static) if (a->s.n * a->s.h * a->s.w * a->s.c > HN_OMP_MIN)
    for (int64_t row = 0; row < rows; row++) fwd_pixel(a, row);
    return HN_OK;
}

/* Gradients that arrive at pixel (i, j) in a block of channels, into b->value. */
static void bwd_block(const hn_pool2d_bwd_args *a, int64_t image, int i, int j, int64_t c,
                      int64_t n, block *b)
{
    const hn_pool2d_shape *s = &a->s;
    const int size = (int)s->size, stride = (int)s->stride, pad = (int)s->pad;
    const hn_pool2d_range ps = hn_pool2d_holding(i, size, stride, pad, (int)s->out_h);
    const hn_pool2d_range qs = hn_pool2d_holding(j, size, stride, pad, (int)s->out_w);
    memset(b->value, 0, (size_t)n * sizeof(float));
    for (int p = ps.first; p < ps.end; p++)
        for (int q = qs.first; q < qs.end; q++) {
            const int64_t row = (image * s->out_h + p) * s->out_w + q;
            const int here = (i + pad - p * stride) * size + j + pad - q * stride;
            const float *const dy = hn_load_f32(a->dy, s->dtype, row * a->ld_dy + c, n, b->buffer);
            if (s->kind == HN_POOL_MAX)
                add_where(dy, a->index + row * a->ld_index + c, here, n, b->value);
            else
                add_share(dy, count_of(s, p, q), n, b->value);
        }
}

static void bwd_pixel(const hn_pool2d_bwd_args *a, int64_t row)
{
    const hn_pool2d_shape *s = &a->s;
    const int64_t image = row / (s->h * s->w);
    const int i = (int)(row / s->w % s->h), j = (int)(row % s->w);
    block b;
    for (int64_t c = 0; c < s->c; c += HN_BLOCK) {
        const int64_t n = hn_block_len(c, s->c);
        if (s->size == 0) {
            hn_to_f32(a->dy, s->dtype, image * a->ld_dy + c, n, b.value);
            divide((float)(s->h * s->w), n, b.value);
        } else {
            bwd_block(a, image, i, j, c, n, &b);
        }
        hn_from_f32(b.value, n, a->dx, s->dtype, row * a->ld_dx + c);
    }
}

hn_status hn_pool2d_bwd_fast(const hn_pool2d_bwd_args *a)
{
    HN_TRY(hn_pool2d_bwd_check(a));
    const int64_t rows = a->s.n * a->s.h * a->s.w;
#pragma omp parallel for schedule(static) if (rows * a->s.c > HN_OMP_MIN)
    for (int64_t row = 0; row < rows; row++) bwd_pixel(a, row);
    return HN_OK;
}
