#include "kernels/conv/shortcut_a.h"

#include <inttypes.h>
#include <stdbool.h>

#include "runtime/base/check.h"

static bool in_range(int64_t v) { return v >= 1 && v <= INT32_MAX; }

static hn_status check_shape(const char *op, const hn_shortcut_a_shape *s)
{
    HN_TRY(hn_check_float(op, "dtype", s->dtype));
    if (!in_range(s->n) || !in_range(s->h) || !in_range(s->w) || !in_range(s->ci) ||
        !in_range(s->stride) || s->n * s->h > INT32_MAX || s->n * s->h * s->w > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: x is [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                       "], stride %" PRId64 ": pixels, channels and stride must be 1 to 2^31 - 1",
                       op, s->n, s->h, s->w, s->ci, s->stride);
    if (s->co < s->ci || s->co > INT32_MAX || (s->co - s->ci) % 2 != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: from %" PRId64 " to %" PRId64
                       " channels: as many zeros before as behind cannot be added",
                       op, s->ci, s->co);
    return HN_OK;
}

static int64_t out_rows(const hn_shortcut_a_shape *s)
{
    return s->n * hn_shortcut_a_out(s->h, s->stride) * hn_shortcut_a_out(s->w, s->stride);
}

hn_status hn_shortcut_a_check(const hn_shortcut_a_args *a)
{
    static const char op[] = "shortcut_a";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(check_shape(op, &a->s));
    HN_TRY(hn_check_matrix(op, "x", a->x, a->s.n * a->s.h * a->s.w, a->s.ci, a->ld_x));
    return hn_check_matrix(op, "y", a->y, out_rows(&a->s), a->s.co, a->ld_y);
}

hn_status hn_shortcut_a_bwd_check(const hn_shortcut_a_bwd_args *a)
{
    static const char op[] = "shortcut_a_bwd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(check_shape(op, &a->s));
    HN_TRY(hn_check_matrix(op, "dy", a->dy, out_rows(&a->s), a->s.co, a->ld_dy));
    return hn_check_matrix(op, "dx", a->dx, a->s.n * a->s.h * a->s.w, a->s.ci, a->ld_dx);
}

hn_status hn_shortcut_a_fwd_cpu(const hn_shortcut_a_args *a)
{
    HN_TRY(hn_shortcut_a_check(a));
    const hn_shortcut_a_shape *s = &a->s;
    const int64_t out_h = hn_shortcut_a_out(s->h, s->stride);
    const int64_t out_w = hn_shortcut_a_out(s->w, s->stride), before = (s->co - s->ci) / 2;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t p = 0; p < out_h; p++)
            for (int64_t q = 0; q < out_w; q++)
                for (int64_t k = 0; k < s->co; k++) {
                    const int64_t from = (n * s->h + p * s->stride) * s->w + q * s->stride;
                    const int64_t to = (n * out_h + p) * out_w + q, c = k - before;
                    const bool there = c >= 0 && c < s->ci;
                    hn_set_f32(a->y, s->dtype, to * a->ld_y + k,
                               there ? hn_get_f32(a->x, s->dtype, from * a->ld_x + c) : 0.0f);
                }
    return HN_OK;
}

hn_status hn_shortcut_a_bwd_cpu(const hn_shortcut_a_bwd_args *a)
{
    HN_TRY(hn_shortcut_a_bwd_check(a));
    const hn_shortcut_a_shape *s = &a->s;
    const int64_t out_h = hn_shortcut_a_out(s->h, s->stride);
    const int64_t out_w = hn_shortcut_a_out(s->w, s->stride), before = (s->co - s->ci) / 2;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t i = 0; i < s->h; i++)
            for (int64_t j = 0; j < s->w; j++)
                for (int64_t c = 0; c < s->ci; c++) {
                    const bool there = i % s->stride == 0 && j % s->stride == 0;
                    const int64_t from = (n * out_h + i / s->stride) * out_w + j / s->stride;
                    const int64_t to = (n * s->h + i) * s->w + j;
                    const float dy =
                        there ? hn_get_f32(a->dy, s->dtype, from * a->ld_dy + c + before) : 0.0f;
                    hn_set_f32(a->dx, s->dtype, to * a->ld_dx + c, dy);
                }
    return HN_OK;
}
