#include <inttypes.h>
#include <math.h>

#include "kernels/conv/pool2d_window.h"
#include "runtime/base/check.h"

int64_t hn_pool2d_out(int64_t length, int64_t size, int64_t stride, int64_t pad)
{
    return length + 2 * pad < size ? 0 : (length + 2 * pad - size) / stride + 1;
}

enum { MAX_SIZE = 1 << 15, MAX_INDEXED = 16, MAX_SIDE = 1 << 30 };

static bool in_range(int64_t v) { return v >= 1 && v <= INT32_MAX; }

static hn_status check_window(const char *op, const hn_pool2d_shape *s)
{
    if (s->size < 1 || s->size > MAX_SIZE || s->stride < 1 || s->stride > MAX_SIZE || s->pad < 0 ||
        2 * s->pad > s->size)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: size %" PRId64 ", stride %" PRId64 ", pad %" PRId64
                       ": size and stride must be 1 to %d, pad 0 to half of size",
                       op, s->size, s->stride, s->pad, MAX_SIZE);
    if (s->kind == HN_POOL_MAX && s->size > MAX_INDEXED)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: maxima over windows of %" PRId64 ", at most %d", op,
                       s->size, MAX_INDEXED);
    if (s->relu && s->size == MAX_INDEXED)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: with relu over windows of %d, at most %d", op,
                       MAX_INDEXED, MAX_INDEXED - 1);
    if (s->out_h != hn_pool2d_out(s->h, s->size, s->stride, s->pad) ||
        s->out_w != hn_pool2d_out(s->w, s->size, s->stride, s->pad) || s->out_h < 1 || s->out_w < 1)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: images of %" PRId64 " x %" PRId64 " do not give %" PRId64 " x %" PRId64
                       " with windows of %" PRId64 ", stride %" PRId64 ", pad %" PRId64,
                       op, s->h, s->w, s->out_h, s->out_w, s->size, s->stride, s->pad);
    return HN_OK;
}

static hn_status check_shape(const char *op, const hn_pool2d_shape *s)
{
    HN_TRY(hn_check_float(op, "dtype", s->dtype));
    if (s->kind != HN_POOL_MAX && s->kind != HN_POOL_AVG)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: there is no kind %d", op, s->kind);
    if (!in_range(s->n) || !in_range(s->h) || !in_range(s->w) || !in_range(s->c) ||
        s->h > MAX_SIDE || s->w > MAX_SIDE || s->n * s->h > INT32_MAX ||
        s->n * s->h * s->w > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: x is [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                       "], pixels and channels must be 1 to 2^31 - 1, sides 1 to 2^30",
                       op, s->n, s->h, s->w, s->c);
    if (s->relu && s->kind != HN_POOL_MAX)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: relu belongs to maxima", op);
    if (s->size != 0) return check_window(op, s);
    if (s->kind == HN_POOL_MAX)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: over whole images there are means only", op);
    if (s->out_h != 1 || s->out_w != 1)
        return HN_FAIL(HN_ERR_SHAPE, "%s: over whole images there is one output pixel", op);
    return HN_OK;
}

hn_status hn_pool2d_check(const hn_pool2d_args *a)
{
    static const char op[] = "pool2d";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(check_shape(op, &a->s));
    const int64_t rows = a->s.n * a->s.out_h * a->s.out_w;
    HN_TRY(hn_check_matrix(op, "x", a->x, a->s.n * a->s.h * a->s.w, a->s.c, a->ld_x));
    HN_TRY(hn_check_matrix(op, "y", a->y, rows, a->s.c, a->ld_y));
    if (a->index == NULL) return HN_OK;
    if (a->s.kind != HN_POOL_MAX) return HN_FAIL(HN_ERR_ARG, "%s: means have no index", op);
    return hn_check_matrix(op, "index", a->index, rows, a->s.c, a->ld_index);
}

hn_status hn_pool2d_bwd_check(const hn_pool2d_bwd_args *a)
{
    static const char op[] = "pool2d_bwd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(check_shape(op, &a->s));
    const int64_t rows = a->s.n * a->s.out_h * a->s.out_w;
    HN_TRY(hn_check_matrix(op, "dy", a->dy, rows, a->s.c, a->ld_dy));
    HN_TRY(hn_check_matrix(op, "dx", a->dx, a->s.n * a->s.h * a->s.w, a->s.c, a->ld_dx));
    if (a->s.kind == HN_POOL_MAX)
        return hn_check_matrix(op, "index", a->index, rows, a->s.c, a->ld_index);
    return a->index ? HN_FAIL(HN_ERR_ARG, "%s: means have no index", op) : HN_OK;
}

/* What one output reads. */
typedef struct {
    hn_pool2d_range u, v;
    int top, left; /* pixel of u = v = 0 */
    double count;
} window;

static window window_of(const hn_pool2d_shape *s, int64_t p, int64_t q)
{
    window w = {.u = {0, (int)s->h}, .v = {0, (int)s->w}};
    if (s->size > 0) {
        w.top = (int)(p * s->stride - s->pad);
        w.left = (int)(q * s->stride - s->pad);
        w.u = hn_pool2d_inside(w.top, (int)s->size, (int)s->h);
        w.v = hn_pool2d_inside(w.left, (int)s->size, (int)s->w);
    }
    w.count = s->size > 0 && s->count_include_pad
                  ? (double)s->size * (double)s->size
                  : (double)(w.u.end - w.u.first) * (double)(w.v.end - w.v.first);
    return w;
}

static void fwd_value(const hn_pool2d_args *a, int64_t image, int64_t p, int64_t q, int64_t c)
{
    const hn_pool2d_shape s = a->s;
    const window w = window_of(&s, p, q);
    const int64_t row = (image * s.out_h + p) * s.out_w + q;
    double sum = 0;
    float best = -INFINITY;
    int at = -1;
    for (int u = w.u.first; u < w.u.end; u++)
        for (int v = w.v.first; v < w.v.end; v++) {
            const int64_t pixel = (image * s.h + w.top + u) * s.w + w.left + v;
            const float x = hn_get_f32(a->x, s.dtype, pixel * a->ld_x + c);
            sum += (double)x;
            if (at >= 0 && !(x > best || isnan(x))) continue;
            best = x;
            at = (int)(u * s.size + v);
        }
    if (s.relu && best <= 0.0f) {
        best = 0.0f;
        at = HN_POOL2D_NONE;
    }
    const float y = s.kind == HN_POOL_MAX ? best : (float)(sum / w.count);
    hn_set_f32(a->y, s.dtype, row * a->ld_y + c, y);
    if (a->index) a->index[row * a->ld_index + c] = (uint8_t)at;
}

hn_status hn_pool2d_fwd_cpu(const hn_pool2d_args *a)
{
    HN_TRY(hn_pool2d_check(a));
    for (int64_t image = 0; image < a->s.n; image++)
        for (int64_t p = 0; p < a->s.out_h; p++)
            for (int64_t q = 0; q < a->s.out_w; q++)
                for (int64_t c = 0; c < a->s.c; c++) fwd_value(a, image, p, q, c);
    return HN_OK;
}

/* Asks every window of the image: the fast functions know which ones hold the pixel. */
static void bwd_channel(const hn_pool2d_bwd_args *a, int64_t image, int64_t i, int64_t j, int64_t c)
{
    const hn_pool2d_shape s = a->s;
    double sum = 0;
    for (int64_t p = 0; p < s.out_h; p++)
        for (int64_t q = 0; q < s.out_w; q++) {
            const window w = window_of(&s, p, q);
            const int64_t u = i - w.top, v = j - w.left, row = (image * s.out_h + p) * s.out_w + q;
            if (u < w.u.first || u >= w.u.end || v < w.v.first || v >= w.v.end) continue;
            const double dy = (double)hn_get_f32(a->dy, s.dtype, row * a->ld_dy + c);
            if (s.kind == HN_POOL_AVG)
                sum += dy / w.count;
            else if (a->index[row * a->ld_index + c] == u * s.size + v)
                sum += dy;
        }
    hn_set_f32(a->dx, s.dtype, ((image * s.h + i) * s.w + j) * a->ld_dx + c, (float)sum);
}

hn_status hn_pool2d_bwd_cpu(const hn_pool2d_bwd_args *a)
{
    HN_TRY(hn_pool2d_bwd_check(a));
    for (int64_t image = 0; image < a->s.n; image++)
        for (int64_t i = 0; i < a->s.h; i++)
            for (int64_t j = 0; j < a->s.w; j++)
                for (int64_t c = 0; c < a->s.c; c++) bwd_channel(a, image, i, j, c);
    return HN_OK;
}
