#include <inttypes.h>

#include "kernels/conv/conv3d.h"
#include "runtime/base/check.h"

/* HN_ERR_SHAPE unless the product of the four, each at least 1, is below 2^31. */
static hn_status check_product(const char *op, const char *what, int64_t a, int64_t b, int64_t c,
                               int64_t d)
{
    if (a <= INT32_MAX / b && a * b <= INT32_MAX / c && a * b * c <= INT32_MAX / d) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE,
                   "%s: %s, %" PRId64 " x %" PRId64 " x %" PRId64 " x %" PRId64
                   ", are more than 2^31 - 1",
                   op, what, a, b, c, d);
}

hn_status hn_conv3d_check_shape(const char *op, const hn_conv3d_shape *s)
{
    const struct {
        const char *name;
        int64_t value, least;
    } numbers[] = {{"n", s->n, 1},           {"d", s->d, 1},     {"h", s->h, 1},
                   {"w", s->w, 1},           {"in", s->in, 1},   {"out", s->out, 1},
                   {"kd", s->kd, 1},         {"kh", s->kh, 1},   {"kw", s->kw, 1},
                   {"stride", s->stride, 1}, {"pad", s->pad, 0}, {"dilation", s->dilation, 1}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value < numbers[i].least || numbers[i].value > INT32_MAX)
            return HN_FAIL(HN_ERR_SHAPE, "%s: %s is %" PRId64 ", must be %" PRId64 " to 2^31 - 1",
                           op, numbers[i].name, numbers[i].value, numbers[i].least);
    const int64_t out_d = hn_conv3d_out_d(s), out_h = hn_conv3d_out_h(s);
    const int64_t out_w = hn_conv3d_out_w(s);
    const int64_t longest = s->d > s->h ? (s->d > s->w ? s->d : s->w) : (s->h > s->w ? s->h : s->w);
    if (longest + 2 * s->pad > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: sides of %" PRId64 " with padding %" PRId64 " are longer than 2^31 - 1",
                       op, longest, s->pad);
    if (out_d < 1 || out_h < 1 || out_w < 1)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: a kernel of %" PRId64 " x %" PRId64 " x %" PRId64
                       " with dilation %" PRId64 " is larger than volumes of %" PRId64 " x %" PRId64
                       " x %" PRId64 " with padding %" PRId64,
                       op, s->kd, s->kh, s->kw, s->dilation, s->d, s->h, s->w, s->pad);
    HN_TRY(check_product(op, "the voxels of x", s->n, s->d, s->h, s->w));
    HN_TRY(check_product(op, "the voxels of y", s->n, out_d, out_h, out_w));
    return check_product(op, "the columns of w", s->kd, s->kh, s->kw, s->in);
}

hn_status hn_conv3d_check(const hn_conv3d_args *a)
{
    static const char op[] = "conv3d";
    HN_TRY(hn_check_pointer(op, "args", a));
    const hn_conv3d_shape *const s = &a->shape;
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_conv3d_check_shape(op, s));
    HN_TRY(hn_check_matrix(op, "x", a->x, hn_conv3d_voxels_in(s), s->in, a->ld_x));
    HN_TRY(hn_check_matrix(op, "w", a->w, s->out, hn_conv3d_taps(s), a->ld_w));
    HN_TRY(hn_check_matrix(op, "y", a->y, hn_conv3d_voxels_out(s), s->out, a->ld_y));
    HN_TRY(hn_check_replicas(op, s->n, a->replicas));
    HN_TRY(hn_check_read_stride(op, "w", a->replicas, a->w_stride, s->out * a->ld_w));
    if (a->bias == NULL) return HN_OK;
    HN_TRY(hn_check_float(op, "bias_dtype", a->bias_dtype));
    return hn_check_read_stride(op, "bias", a->replicas, a->bias_stride, s->out);
}

hn_status hn_conv3d_dx_check(const hn_conv3d_dx_args *a)
{
    static const char op[] = "conv3d_dx";
    HN_TRY(hn_check_pointer(op, "args", a));
    const hn_conv3d_shape *const s = &a->shape;
    const int64_t voxels = hn_conv3d_voxels_in(s);
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_conv3d_check_shape(op, s));
    HN_TRY(hn_check_matrix(op, "dy", a->dy, hn_conv3d_voxels_out(s), s->out, a->ld_dy));
    HN_TRY(hn_check_matrix(op, "w", a->w, s->out, hn_conv3d_taps(s), a->ld_w));
    HN_TRY(hn_check_matrix(op, "dx", a->dx, voxels, s->in, a->ld_dx));
    if (a->add) HN_TRY(hn_check_matrix(op, "add", a->add, voxels, s->in, a->ld_add));
    HN_TRY(hn_check_in_place(op, a->add, a->ld_add, a->dx, a->ld_dx));
    HN_TRY(hn_check_replicas(op, s->n, a->replicas));
    return hn_check_read_stride(op, "w", a->replicas, a->w_stride, s->out * a->ld_w);
}

hn_status hn_conv3d_dw_check(const hn_conv3d_dw_args *a)
{
    static const char op[] = "conv3d_dw";
    HN_TRY(hn_check_pointer(op, "args", a));
    const hn_conv3d_shape *const s = &a->shape;
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_conv3d_check_shape(op, s));
    HN_TRY(hn_check_matrix(op, "dy", a->dy, hn_conv3d_voxels_out(s), s->out, a->ld_dy));
    HN_TRY(hn_check_matrix(op, "x", a->x, hn_conv3d_voxels_in(s), s->in, a->ld_x));
    HN_TRY(hn_check_matrix(op, "dw", a->dw, s->out, hn_conv3d_taps(s), a->ld_dw));
    HN_TRY(hn_check_replicas(op, s->n, a->replicas));
    return hn_check_stride(op, "dw", a->replicas, a->dw_stride, s->out * a->ld_dw);
}

/* A voxel of x or y. */
typedef struct {
    int64_t n, i, j, k;
} voxel;

/* The number of the voxel of x under kernel place (r, u, t) of y's voxel, or -1 outside. */
static int64_t under(const hn_conv3d_shape *s, const voxel *y, int64_t r, int64_t u, int64_t t)
{
    const int64_t i = y->i * s->stride - s->pad + r * s->dilation;
    const int64_t j = y->j * s->stride - s->pad + u * s->dilation;
    const int64_t k = y->k * s->stride - s->pad + t * s->dilation;
    const bool inside = i >= 0 && i < s->d && j >= 0 && j < s->h && k >= 0 && k < s->w;
    return inside ? ((y->n * s->d + i) * s->h + j) * s->w + k : -1;
}

/* The place of y that reads place i of x through place r of the kernel, or -1. */
static int64_t reader(int64_t i, int64_t r, const hn_conv3d_shape *s, int64_t out_size)
{
    const int64_t at = i + s->pad - r * s->dilation;
    return at < 0 || at % s->stride != 0 || at / s->stride >= out_size ? -1 : at / s->stride;
}

/* Voxel number `at` of volumes of d x h x w. */
static voxel voxel_of(int64_t at, int64_t d, int64_t h, int64_t w)
{
    return (voxel){at / w / h / d, at / w / h % d, at / w % h, at % w};
}

static double element(const hn_conv3d_args *a, const voxel *y, int64_t o)
{
    const hn_conv3d_shape *const s = &a->shape;
    const int64_t replica = y->n / (s->n / hn_replica_count(a->replicas));
    int64_t w = replica * a->w_stride + o * a->ld_w;
    double sum = 0.0;
    for (int64_t r = 0; r < s->kd; r++)
        for (int64_t u = 0; u < s->kh; u++)
            for (int64_t t = 0; t < s->kw; t++, w += s->in) {
                const int64_t x = under(s, y, r, u, t);
                for (int64_t c = 0; x >= 0 && c < s->in; c++)
                    sum += (double)hn_get_f32(a->x, a->dtype, x * a->ld_x + c) *
                           (double)hn_get_f32(a->w, a->dtype, w + c);
            }
    if (a->bias) sum += (double)hn_get_f32(a->bias, a->bias_dtype, replica * a->bias_stride + o);
    return sum;
}

hn_status hn_conv3d_fwd_cpu(const hn_conv3d_args *a)
{
    HN_TRY(hn_conv3d_check(a));
    const hn_conv3d_shape *const s = &a->shape;
    for (int64_t at = 0; at < hn_conv3d_voxels_out(s); at++) {
        const voxel y = voxel_of(at, hn_conv3d_out_d(s), hn_conv3d_out_h(s), hn_conv3d_out_w(s));
        for (int64_t o = 0; o < s->out; o++)
            hn_set_f32(a->y, a->dtype, at * a->ld_y + o, (float)element(a, &y, o));
    }
    return HN_OK;
}

static double dx_element(const hn_conv3d_dx_args *a, const voxel *x, int64_t c)
{
    const hn_conv3d_shape *const s = &a->shape;
    const int64_t out_d = hn_conv3d_out_d(s), out_h = hn_conv3d_out_h(s);
    const int64_t out_w = hn_conv3d_out_w(s);
    int64_t w = x->n / (s->n / hn_replica_count(a->replicas)) * a->w_stride + c;
    double sum = 0.0;
    for (int64_t r = 0; r < s->kd; r++)
        for (int64_t u = 0; u < s->kh; u++)
            for (int64_t t = 0; t < s->kw; t++, w += s->in) {
                const int64_t p = reader(x->i, r, s, out_d), q = reader(x->j, u, s, out_h);
                const int64_t v = reader(x->k, t, s, out_w);
                if (p < 0 || q < 0 || v < 0) continue;
                const int64_t row = (((x->n * out_d + p) * out_h + q) * out_w + v) * a->ld_dy;
                for (int64_t o = 0; o < s->out; o++)
                    sum += (double)hn_get_f32(a->dy, a->dtype, row + o) *
                           (double)hn_get_f32(a->w, a->dtype, w + o * a->ld_w);
            }
    return sum;
}

hn_status hn_conv3d_dx_cpu(const hn_conv3d_dx_args *a)
{
    HN_TRY(hn_conv3d_dx_check(a));
    const hn_conv3d_shape *const s = &a->shape;
    for (int64_t at = 0; at < hn_conv3d_voxels_in(s); at++) {
        const voxel x = voxel_of(at, s->d, s->h, s->w);
        for (int64_t c = 0; c < s->in; c++) {
            double dx = dx_element(a, &x, c);
            if (a->add) dx += (double)hn_get_f32(a->add, a->dtype, at * a->ld_add + c);
            hn_set_f32(a->dx, a->dtype, at * a->ld_dx + c, (float)dx);
        }
    }
    return HN_OK;
}

/* Column `col` of row o of dw: the sum over the volumes of one replica. */
static double dw_element(const hn_conv3d_dw_args *a, int64_t replica, int64_t o, int64_t col)
{
    const hn_conv3d_shape *const s = &a->shape;
    const int64_t c = col % s->in, tap = col / s->in;
    const int64_t rows = hn_conv3d_voxels_out(s) / hn_replica_count(a->replicas);
    double sum = 0.0;
    for (int64_t at = replica * rows; at < (replica + 1) * rows; at++) {
        const voxel y = voxel_of(at, hn_conv3d_out_d(s), hn_conv3d_out_h(s), hn_conv3d_out_w(s));
        const int64_t x = under(s, &y, tap / s->kw / s->kh, tap / s->kw % s->kh, tap % s->kw);
        if (x < 0) continue;
        sum += (double)hn_get_f32(a->dy, a->dtype, at * a->ld_dy + o) *
               (double)hn_get_f32(a->x, a->dtype, x * a->ld_x + c);
    }
    return sum;
}

hn_status hn_conv3d_dw_cpu(const hn_conv3d_dw_args *a)
{
    HN_TRY(hn_conv3d_dw_check(a));
    const hn_conv3d_shape *const s = &a->shape;
    for (int64_t g = 0; g < hn_replica_count(a->replicas); g++)
        for (int64_t o = 0; o < s->out; o++)
            for (int64_t col = 0; col < hn_conv3d_taps(s); col++) {
                float *const dw = a->dw + g * a->dw_stride + o * a->ld_dw + col;
                *dw = (float)((double)*dw + dw_element(a, g, o, col));
            }
    return HN_OK;
}
