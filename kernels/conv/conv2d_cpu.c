#include <inttypes.h>

#include "kernels/conv/conv2d.h"
#include "runtime/base/check.h"

/* HN_ERR_SHAPE unless the product of the three, each at least 1, is below 2^31. */
static hn_status check_product(const char *op, const char *what, int64_t a, int64_t b, int64_t c)
{
    if (a <= INT32_MAX / b && a * b <= INT32_MAX / c) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE,
                   "%s: %s, %" PRId64 " x %" PRId64 " x %" PRId64 ", are more than 2^31 - 1", op,
                   what, a, b, c);
}

hn_status hn_conv2d_check_shape(const char *op, const hn_conv2d_shape *s)
{
    const struct {
        const char *name;
        int64_t value, least;
    } numbers[] = {{"n", s->n, 1},          {"h", s->h, 1},
                   {"w", s->w, 1},          {"in", s->in, 1},
                   {"out", s->out, 1},      {"kh", s->kh, 1},
                   {"kw", s->kw, 1},        {"stride", s->stride, 1},
                   {"pad", s->pad, 0},      {"dilation", s->dilation, 1},
                   {"groups", s->groups, 1}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value < numbers[i].least || numbers[i].value > INT32_MAX)
            return HN_FAIL(HN_ERR_SHAPE, "%s: %s is %" PRId64 ", must be %" PRId64 " to 2^31 - 1",
                           op, numbers[i].name, numbers[i].value, numbers[i].least);
    if (s->in % s->groups != 0 || s->out % s->groups != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " and %" PRId64 " channels do not split into %" PRId64
                       " groups",
                       op, s->in, s->out, s->groups);
    const int64_t out_h = hn_conv2d_out_h(s), out_w = hn_conv2d_out_w(s);
    if (out_h < 1 || out_w < 1)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: a kernel of %" PRId64 " x %" PRId64 " with dilation %" PRId64
                       " is larger than images of %" PRId64 " x %" PRId64 " with padding %" PRId64,
                       op, s->kh, s->kw, s->dilation, s->h, s->w, s->pad);
    HN_TRY(check_product(op, "the pixels of x", s->n, s->h, s->w));
    HN_TRY(check_product(op, "the pixels of y", s->n, out_h, out_w));
    return check_product(op, "the columns of w", s->kh, s->kw, s->in / s->groups);
}

static int64_t pixels_in(const hn_conv2d_shape *s) { return s->n * s->h * s->w; }
static int64_t pixels_out(const hn_conv2d_shape *s)
{
    return s->n * hn_conv2d_out_h(s) * hn_conv2d_out_w(s);
}

hn_status hn_conv2d_check(const hn_conv2d_args *a)
{
    HN_TRY(hn_check_pointer("conv2d", "args", a));
    const hn_conv2d_shape *const s = &a->shape;
    HN_TRY(hn_check_float("conv2d", "dtype", a->dtype));
    HN_TRY(hn_conv2d_check_shape("conv2d", s));
    HN_TRY(hn_check_matrix("conv2d", "x", a->x, pixels_in(s), s->in, a->ld_x));
    HN_TRY(hn_check_matrix("conv2d", "w", a->w, s->out, hn_conv2d_taps(s), a->ld_w));
    HN_TRY(hn_check_matrix("conv2d", "y", a->y, pixels_out(s), s->out, a->ld_y));
    HN_TRY(hn_check_replicas("conv2d", s->n, a->replicas));
    HN_TRY(hn_check_read_stride("conv2d", "w", a->replicas, a->w_stride, s->out * a->ld_w));
    if (a->bias == NULL) return HN_OK;
    HN_TRY(hn_check_float("conv2d", "bias_dtype", a->bias_dtype));
    return hn_check_read_stride("conv2d", "bias", a->replicas, a->bias_stride, s->out);
}

hn_status hn_conv2d_dx_check(const hn_conv2d_dx_args *a)
{
    HN_TRY(hn_check_pointer("conv2d_dx", "args", a));
    const hn_conv2d_shape *const s = &a->shape;
    HN_TRY(hn_check_float("conv2d_dx", "dtype", a->dtype));
    HN_TRY(hn_conv2d_check_shape("conv2d_dx", s));
    HN_TRY(hn_check_matrix("conv2d_dx", "dy", a->dy, pixels_out(s), s->out, a->ld_dy));
    HN_TRY(hn_check_matrix("conv2d_dx", "w", a->w, s->out, hn_conv2d_taps(s), a->ld_w));
    HN_TRY(hn_check_matrix("conv2d_dx", "dx", a->dx, pixels_in(s), s->in, a->ld_dx));
    if (a->add) HN_TRY(hn_check_matrix("conv2d_dx", "add", a->add, pixels_in(s), s->in, a->ld_add));
    HN_TRY(hn_check_in_place("conv2d_dx", a->add, a->ld_add, a->dx, a->ld_dx));
    HN_TRY(hn_check_replicas("conv2d_dx", s->n, a->replicas));
    return hn_check_read_stride("conv2d_dx", "w", a->replicas, a->w_stride, s->out * a->ld_w);
}

hn_status hn_conv2d_dw_check(const hn_conv2d_dw_args *a)
{
    HN_TRY(hn_check_pointer("conv2d_dw", "args", a));
    const hn_conv2d_shape *const s = &a->shape;
    HN_TRY(hn_check_float("conv2d_dw", "dtype", a->dtype));
    HN_TRY(hn_conv2d_check_shape("conv2d_dw", s));
    HN_TRY(hn_check_matrix("conv2d_dw", "dy", a->dy, pixels_out(s), s->out, a->ld_dy));
    HN_TRY(hn_check_matrix("conv2d_dw", "x", a->x, pixels_in(s), s->in, a->ld_x));
    HN_TRY(hn_check_matrix("conv2d_dw", "dw", a->dw, s->out, hn_conv2d_taps(s), a->ld_dw));
    HN_TRY(hn_check_replicas("conv2d_dw", s->n, a->replicas));
    return hn_check_stride("conv2d_dw", "dw", a->replicas, a->dw_stride, s->out * a->ld_dw);
}

/* The pixel of x under kernel row r and column t of y[n,p,q], or -1 outside the image. */
static int64_t under(const hn_conv2d_shape *s, int64_t n, int64_t p, int64_t q, int64_t r,
                     int64_t t)
{
    const int64_t i = p * s->stride - s->pad + r * s->dilation;
    const int64_t j = q * s->stride - s->pad + t * s->dilation;
    return i < 0 || i >= s->h || j < 0 || j >= s->w ? -1 : (n * s->h + i) * s->w + j;
}

static double element(const hn_conv2d_args *a, int64_t n, int64_t p, int64_t q, int64_t o)
{
    const hn_conv2d_shape *const s = &a->shape;
    const int64_t depth = s->in / s->groups, first = o / (s->out / s->groups) * depth;
    const int64_t replica = n / (s->n / hn_replica_count(a->replicas));
    const int64_t w_row = replica * a->w_stride + o * a->ld_w;
    double sum = 0.0;
    for (int64_t r = 0; r < s->kh; r++)
        for (int64_t t = 0; t < s->kw; t++) {
            const int64_t pixel = under(s, n, p, q, r, t);
            if (pixel < 0) continue;
            for (int64_t c = 0; c < depth; c++)
                sum += (double)hn_get_f32(a->x, a->dtype, pixel * a->ld_x + first + c) *
                       (double)hn_get_f32(a->w, a->dtype, w_row + (r * s->kw + t) * depth + c);
        }
    if (a->bias) sum += (double)hn_get_f32(a->bias, a->bias_dtype, replica * a->bias_stride + o);
    return a->relu && sum < 0.0 ? 0.0 : sum;
}

hn_status hn_conv2d_fwd_cpu(const hn_conv2d_args *a)
{
    HN_TRY(hn_conv2d_check(a));
    const hn_conv2d_shape *const s = &a->shape;
    const int64_t out_h = hn_conv2d_out_h(s), out_w = hn_conv2d_out_w(s);
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t p = 0; p < out_h; p++)
            for (int64_t q = 0; q < out_w; q++)
                for (int64_t o = 0; o < s->out; o++)
                    hn_set_f32(a->y, a->dtype, ((n * out_h + p) * out_w + q) * a->ld_y + o,
                               (float)element(a, n, p, q, o));
    return HN_OK;
}

/* The row of y that reads position i of x through kernel row r, or -1. */
static int64_t reader(int64_t i, int64_t r, const hn_conv2d_shape *s, int64_t out_size)
{
    const int64_t at = i + s->pad - r * s->dilation;
    return at < 0 || at % s->stride != 0 || at / s->stride >= out_size ? -1 : at / s->stride;
}

static double dx_element(const hn_conv2d_dx_args *a, int64_t n, int64_t i, int64_t j, int64_t k)
{
    const hn_conv2d_shape *const s = &a->shape;
    const int64_t depth = s->in / s->groups, width = s->out / s->groups, c = k % depth;
    const int64_t out_h = hn_conv2d_out_h(s), out_w = hn_conv2d_out_w(s);
    const int64_t w_at = n / (s->n / hn_replica_count(a->replicas)) * a->w_stride + c;
    double sum = 0.0;
    for (int64_t r = 0; r < s->kh; r++)
        for (int64_t t = 0; t < s->kw; t++) {
            const int64_t p = reader(i, r, s, out_h), q = reader(j, t, s, out_w);
            if (p < 0 || q < 0) continue;
            const int64_t row = ((n * out_h + p) * out_w + q) * a->ld_dy;
            for (int64_t o = k / depth * width; o < (k / depth + 1) * width; o++)
                sum += (double)hn_get_f32(a->dy, a->dtype, row + o) *
                       (double)hn_get_f32(a->w, a->dtype,
                                          w_at + o * a->ld_w + (r * s->kw + t) * depth);
        }
    return sum;
}

hn_status hn_conv2d_dx_cpu(const hn_conv2d_dx_args *a)
{
    HN_TRY(hn_conv2d_dx_check(a));
    const hn_conv2d_shape *const s = &a->shape;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t i = 0; i < s->h; i++)
            for (int64_t j = 0; j < s->w; j++)
                for (int64_t k = 0; k < s->in; k++) {
                    const int64_t row = (n * s->h + i) * s->w + j;
                    double dx = dx_element(a, n, i, j, k);
                    if (a->add) dx += (double)hn_get_f32(a->add, a->dtype, row * a->ld_add + k);
                    hn_set_f32(a->dx, a->dtype, row * a->ld_dx + k, (float)dx);
                }
    return HN_OK;
}

/* Sum over the images of one replica for dw[o,r,t,c]. */
static double dw_element(const hn_conv2d_dw_args *a, int64_t replica, int64_t o, int64_t r,
                         int64_t t, int64_t c)
{
    const hn_conv2d_shape *const s = &a->shape;
    const int64_t out_h = hn_conv2d_out_h(s), out_w = hn_conv2d_out_w(s);
    const int64_t images = s->n / hn_replica_count(a->replicas);
    const int64_t k = o / (s->out / s->groups) * (s->in / s->groups) + c;
    double sum = 0.0;
    for (int64_t n = replica * images; n < (replica + 1) * images; n++)
        for (int64_t p = 0; p < out_h; p++)
            for (int64_t q = 0; q < out_w; q++) {
                const int64_t row = (n * out_h + p) * out_w + q, pixel = under(s, n, p, q, r, t);
                if (pixel < 0) continue;
                sum += (double)hn_get_f32(a->dy, a->dtype, row * a->ld_dy + o) *
                       (double)hn_get_f32(a->x, a->dtype, pixel * a->ld_x + k);
            }
    return sum;
}

hn_status hn_conv2d_dw_cpu(const hn_conv2d_dw_args *a)
{
    HN_TRY(hn_conv2d_dw_check(a));
    const hn_conv2d_shape *const s = &a->shape;
    const int64_t depth = s->in / s->groups;
    for (int64_t g = 0; g < hn_replica_count(a->replicas); g++)
        for (int64_t o = 0; o < s->out; o++)
            for (int64_t r = 0; r < s->kh; r++)
                for (int64_t t = 0; t < s->kw; t++)
                    for (int64_t c = 0; c < depth; c++) {
                        float *const dw =
                            a->dw + g * a->dw_stride + o * a->ld_dw + (r * s->kw + t) * depth + c;
                        *dw = (float)((double)*dw + dw_element(a, g, o, r, t, c));
                    }
    return HN_OK;
}
