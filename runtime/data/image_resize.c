/* Bilinear reduction as Pillow's Resample.c does it for 8-bit channels, so that pixels equal those
 * of the usual PyTorch pipelines. Only what the crop shows is computed. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/image_decode.h"

enum { PRECISION = 32 - 8 - 2 }; /* bits behind the point: sums of 255 * weight fit 32 bits */

/* Weights of outputs first .. first+n-1 of an axis that goes from `in` to `out` samples. */
typedef struct {
    int64_t n, room; /* room: weights an output has at most */
    int64_t *from;   /* [n] first input */
    int64_t *count;  /* [n] inputs */
    int32_t *weight; /* [n, room] */
} axis;

static void axis_free(axis *a)
{
    hn_free(a->from);
    hn_free(a->count);
    hn_free(a->weight);
    *a = (axis){0};
}

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

static hn_status axis_make(int64_t in, int64_t out, int64_t first, int64_t n, axis *a)
{
    const double scale = (double)in / (double)out, filter = scale < 1 ? 1 : scale;
    a->n = n;
    a->room = (int64_t)ceil(filter) * 2 + 1;
    a->from = hn_malloc((size_t)n * sizeof *a->from);
    a->count = hn_malloc((size_t)n * sizeof *a->count);
    a->weight = hn_calloc((size_t)(n * a->room), sizeof *a->weight);
    double *w = hn_malloc((size_t)a->room * sizeof *w);
    if (a->from == NULL || a->count == NULL || a->weight == NULL || w == NULL) {
        hn_free(w);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the weights of a resize");
    }
    for (int64_t i = 0; i < n; i++) {
        const double centre = ((double)(first + i) + 0.5) * scale, step = 1.0 / filter;
        int64_t from = (int64_t)(centre - filter + 0.5), to = (int64_t)(centre + filter + 0.5);
        double sum = 0;
        if (from < 0) from = 0;
        if (to > in) to = in;
        for (int64_t x = from; x < to; x++) {
            w[x - from] = triangle(((double)x - centre + 0.5) * step);
            sum += w[x - from];
        }
        a->from[i] = from;
        a->count[i] = to - from;
        for (int64_t x = 0; x < to - from; x++)
            a->weight[i * a->room + x] = (int32_t)(0.5 + w[x] / sum * (1 << PRECISION));
    }
    hn_free(w);
    return HN_OK;
}

static uint8_t rounded(int32_t sum)
{
    const int32_t v = sum >> PRECISION;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Output i of an axis for c channels; `stride` from one input to the next. */
static void blend(const axis *a, int64_t i, const uint8_t *src, int64_t stride, int c, uint8_t *dst)
{
    const int32_t *w = a->weight + i * a->room;
    for (int k = 0; k < c; k++) {
        int32_t sum = 1 << (PRECISION - 1);
        for (int64_t x = 0; x < a->count[i]; x++) sum += src[(a->from[i] + x) * stride + k] * w[x];
        dst[k] = rounded(sum);
    }
}

/* Python's round((long - size) / 2): a half goes to the even neighbour. */
static int64_t crop_at(int64_t side, int64_t size)
{
    const int64_t rest = side - size, half = rest / 2;
    return rest % 2 != 0 && half % 2 != 0 ? half + 1 : half;
}

hn_status hn_image_resize_crop(const uint8_t *src, int64_t h, int64_t w, int c, int64_t side,
                               int64_t size, uint8_t *dst)
{
    if (h < 1 || w < 1 || c < 1 || c > 4 || size < 1 || h > HN_IMAGE_MAX_SIDE ||
        w > HN_IMAGE_MAX_SIDE || side > HN_IMAGE_MAX_SIDE)
        return HN_FAIL(HN_ERR_SHAPE,
                       "resize of %" PRId64 " x %" PRId64 " x %d to %" PRId64 " pixels", w, h, c,
                       side);
    if (size > side)
        return HN_FAIL(HN_ERR_SHAPE, "%" PRId64 " pixels cut from %" PRId64, size, side);
    const int64_t shorter = h < w ? h : w, new_h = side * h / shorter, new_w = side * w / shorter;
    const int64_t top = crop_at(new_h, size), left = crop_at(new_w, size);
    hn_status st = HN_OK;
    axis ax = {0}, ay = {0};
    uint8_t *wide = NULL; /* the rows that are needed, columns done */
    /* An axis that keeps its length has weights of exactly 1 and 0: the same bits, no case. */
    HN_TRY_GOTO(st, axis_make(w, new_w, left, size, &ax), done);
    HN_TRY_GOTO(st, axis_make(h, new_h, top, size, &ay), done);
    const int64_t first = ay.from[0], end = ay.from[size - 1] + ay.count[size - 1];
    wide = hn_malloc((size_t)((end - first) * size * c));
    if (wide == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to resize an image");
        goto done;
    }
    for (int64_t y = first; y < end; y++)
        for (int64_t x = 0; x < size; x++)
            blend(&ax, x, src + y * w * c, c, c, wide + ((y - first) * size + x) * c);
    for (int64_t y = 0; y < size; y++) ay.from[y] -= first;
    for (int64_t y = 0; y < size; y++)
        for (int64_t x = 0; x < size; x++)
            blend(&ay, y, wide + x * c, size * c, c, dst + (y * size + x) * c);

done:
    axis_free(&ax);
    axis_free(&ay);
    hn_free(wide);
    return st;
}
