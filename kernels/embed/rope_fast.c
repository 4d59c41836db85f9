#include <string.h>

#include "kernels/embed/rope.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* n pairs of each of `heads` heads, whose columns begin head_dim apart: (u, v) lie at x + k and
 * x + gap + k, or side by side when gap is 1 (and n pairs are 2n columns). sign is 1 or -1. */
HN_MULTIVERSION static void turn_span(const float *x, float *y, const float *c, const float *s,
                                      float sign, int64_t n, int64_t gap, int64_t heads,
                                      int64_t head_dim)
{
    for (int64_t h = 0; h < heads; h++, x += head_dim, y += head_dim)
#pragma omp simd
        for (int64_t k = 0; k < n; k++) {
            const float u = x[k], v = x[gap + k], sine = sign * s[k];
            y[k] = u * c[k] - v * sine;
            y[gap + k] = v * c[k] + u * sine;
        }
}

HN_MULTIVERSION static void turn_neighbours(const float *x, float *y, const float *c,
                                            const float *s, float sign, int64_t n)
{
#pragma omp simd
    for (int64_t k = 0; k < n; k++) {
        const float u = x[2 * k], v = x[2 * k + 1], sine = sign * s[k];
        y[2 * k] = u * c[k] - v * sine;
        y[2 * k + 1] = v * c[k] + u * sine;
    }
}

/* One head in blocks of pairs, through buffers. */
static void turn_head(const hn_rope_args *a, int64_t x_at, int64_t y_at, int64_t t_at, int64_t half,
                      float sign)
{
    enum { PAIRS = HN_BLOCK / 2 };
    const hn_dtype t = a->dtype;
    float in[HN_BLOCK], out[HN_BLOCK];
    for (int64_t k = 0; k < half; k += PAIRS) {
        const int64_t n = half - k < PAIRS ? half - k : PAIRS;
        const float *const c = a->cos + t_at + k, *const s = a->sin + t_at + k;
        if (a->interleaved) {
            hn_to_f32(a->x, t, x_at + 2 * k, 2 * n, in);
            turn_neighbours(in, out, c, s, sign, n);
            hn_from_f32(out, 2 * n, a->y, t, y_at + 2 * k);
        } else {
            hn_to_f32(a->x, t, x_at + k, n, in);
            hn_to_f32(a->x, t, x_at + half + k, n, in + PAIRS);
            turn_span(in, out, c, s, sign, n, PAIRS, 1, 0);
            hn_from_f32(out, n, a->y, t, y_at + k);
            hn_from_f32(out + PAIRS, n, a->y, t, y_at + half + k);
        }
    }
}

static void copy_rest(const hn_rope_args *a, int64_t x_at, int64_t y_at, int64_t rotary)
{
    const size_t size = hn_dtype_size(a->dtype);
    if (a->x == a->y || rotary == a->head_dim) return;
    memcpy((char *)a->y + (size_t)(y_at + rotary) * size,
           (const char *)a->x + (size_t)(x_at + rotary) * size,
           (size_t)(a->head_dim - rotary) * size);
}

hn_status hn_rope_fast(const hn_rope_args *a)
{
    HN_TRY(hn_rope_check(a));
    const int64_t rotary = a->rotary_dim ? a->rotary_dim : a->head_dim, half = rotary / 2;
    const float sign = a->inverse ? -1.0f : 1.0f;
    const bool direct = a->dtype == HN_F32 && !a->interleaved;
#pragma omp parallel for schedule(static) if (a->rows * a->heads * a->head_dim > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t t_at = a->position[i] * a->ld_table;
        if (direct)
            turn_span((const float *)a->x + i * a->ld_x, (float *)a->y + i * a->ld_y, a->cos + t_at,
                      a->sin + t_at, sign, half, half, a->heads, a->head_dim);
        for (int64_t h = 0; h < a->heads; h++) {
            const int64_t x_at = i * a->ld_x + h * a->head_dim;
            const int64_t y_at = i * a->ld_y + h * a->head_dim;
            if (!direct) turn_head(a, x_at, y_at, t_at, half, sign);
            copy_rest(a, x_at, y_at, rotary);
        }
    }
    return HN_OK;
}
