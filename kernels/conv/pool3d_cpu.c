#include <inttypes.h>
#include <math.h>

#include "kernels/conv/pool3d.h"
#include "runtime/base/check.h"

enum { MAX_SIZE = 6 };

static bool in_range(int64_t v) { return v >= 1 && v <= INT32_MAX; }

hn_status hn_pool3d_check_shape(const char *op, const hn_pool3d_shape *s)
{
    if (!in_range(s->n) || !in_range(s->d) || !in_range(s->h) || !in_range(s->w) ||
        !in_range(s->c) || s->n * s->d > INT32_MAX || s->n * s->d * s->h > INT32_MAX ||
        s->n * s->d * s->h > INT32_MAX / s->w)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: x is [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                       "], voxels and channels must be 1 to 2^31 - 1",
                       op, s->n, s->d, s->h, s->w, s->c);
    if (s->size < 1 || s->size > MAX_SIZE)
        return HN_FAIL(HN_ERR_SHAPE, "%s: size is %" PRId64 ", must be 1 to %d", op, s->size,
                       MAX_SIZE);
    if (s->size > s->d || s->size > s->h || s->size > s->w)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: cubes of %" PRId64 " are larger than volumes of %" PRId64 " x %" PRId64
                       " x %" PRId64,
                       op, s->size, s->d, s->h, s->w);
    return HN_OK;
}

hn_status hn_pool3d_check(const hn_pool3d_args *a)
{
    static const char op[] = "pool3d";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_pool3d_check_shape(op, &a->s));
    const int64_t rows = hn_pool3d_rows_out(&a->s);
    HN_TRY(hn_check_matrix(op, "x", a->x, a->s.n * a->s.d * a->s.h * a->s.w, a->s.c, a->ld_x));
    HN_TRY(hn_check_matrix(op, "y", a->y, rows, a->s.c, a->ld_y));
    return a->index ? hn_check_matrix(op, "index", a->index, rows, a->s.c, a->ld_index) : HN_OK;
}

hn_status hn_pool3d_bwd_check(const hn_pool3d_bwd_args *a)
{
    static const char op[] = "pool3d_bwd";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_pool3d_check_shape(op, &a->s));
    const int64_t rows = hn_pool3d_rows_out(&a->s);
    HN_TRY(hn_check_matrix(op, "dy", a->dy, rows, a->s.c, a->ld_dy));
    HN_TRY(hn_check_matrix(op, "index", a->index, rows, a->s.c, a->ld_index));
    return hn_check_matrix(op, "dx", a->dx, a->s.n * a->s.d * a->s.h * a->s.w, a->s.c, a->ld_dx);
}

static void one_maximum(const hn_pool3d_args *a, int64_t row, int64_t c)
{
    const hn_pool3d_shape s = a->s;
    const int64_t out_w = s.w / s.size, out_h = s.h / s.size, out_d = s.d / s.size;
    const int64_t v = row % out_w, q = row / out_w % out_h, p = row / out_w / out_h % out_d;
    const int64_t volume = row / out_w / out_h / out_d;
    float best = -INFINITY;
    int64_t at = -1;
    for (int64_t e = 0; e < s.size * s.size * s.size; e++) {
        const int64_t i = p * s.size + e / s.size / s.size, j = q * s.size + e / s.size % s.size;
        const int64_t k = v * s.size + e % s.size;
        const int64_t voxel = ((volume * s.d + i) * s.h + j) * s.w + k;
        const float x = hn_get_f32(a->x, a->dtype, voxel * a->ld_x + c);
        if (at >= 0 && !(x > best || isnan(x))) continue;
        best = x;
        at = e;
    }
    hn_set_f32(a->y, a->dtype, row * a->ld_y + c, best);
    if (a->index) a->index[row * a->ld_index + c] = (uint8_t)at;
}

hn_status hn_pool3d_fwd_cpu(const hn_pool3d_args *a)
{
    HN_TRY(hn_pool3d_check(a));
    for (int64_t row = 0; row < hn_pool3d_rows_out(&a->s); row++)
        for (int64_t c = 0; c < a->s.c; c++) one_maximum(a, row, c);
    return HN_OK;
}

/* The cube that the voxel lies in and its place there; -1: in none. */
static int64_t cube_of(const hn_pool3d_shape *s, int64_t voxel, int64_t *place)
{
    const int64_t size = s->size, out_d = s->d / size, out_h = s->h / size, out_w = s->w / size;
    const int64_t k = voxel % s->w, j = voxel / s->w % s->h, i = voxel / s->w / s->h % s->d;
    const int64_t volume = voxel / s->w / s->h / s->d;
    if (i / size >= out_d || j / size >= out_h || k / size >= out_w) return -1;
    *place = (i % size * size + j % size) * size + k % size;
    return ((volume * out_d + i / size) * out_h + j / size) * out_w + k / size;
}

hn_status hn_pool3d_bwd_cpu(const hn_pool3d_bwd_args *a)
{
    HN_TRY(hn_pool3d_bwd_check(a));
    const hn_pool3d_shape *const s = &a->s;
    for (int64_t voxel = 0; voxel < s->n * s->d * s->h * s->w; voxel++) {
        int64_t place = 0;
        const int64_t row = cube_of(s, voxel, &place);
        for (int64_t c = 0; c < s->c; c++) {
            const bool mine = row >= 0 && a->index[row * a->ld_index + c] == place;
            hn_set_f32(a->dx, a->dtype, voxel * a->ld_dx + c,
                       mine ? hn_get_f32(a->dy, a->dtype, row * a->ld_dy + c) : 0.0f);
        }
    }
    return HN_OK;
}
