#include <inttypes.h>
#include <math.h>

#include "kernels/vision/image_box.h"
#include "runtime/base/check.h"

enum { MOST = 65535 }; /* of a side */

static const char op[] = "image_prep";

static hn_status check_side(const char *name, int64_t size, int64_t least)
{
    if (size < least || size > MOST)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %s %" PRId64 " is not in %" PRId64 " .. %d", op, name,
                       size, least, MOST);
    return HN_OK;
}

static hn_status check_numbers(const hn_image_prep_args *a)
{
    if (!(a->flip >= 0.0f && a->flip <= 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: flip %g is not in [0, 1]", op, (double)a->flip);
    if (!(a->scale[0] >= 0.0f && a->scale[0] <= a->scale[1] && a->scale[1] <= 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: scale %g .. %g is not a range in [0, 1]", op,
                       (double)a->scale[0], (double)a->scale[1]);
    if (a->ratio[1] != 0.0f &&
        !(a->ratio[0] >= 1.0f / 64 && a->ratio[0] <= a->ratio[1] && a->ratio[1] <= 64.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: ratio %g .. %g is not a range in [1/64, 64]", op,
                       (double)a->ratio[0], (double)a->ratio[1]);
    if (!(a->centre >= 0.0f && a->centre <= 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: centre %g is not in [0, 1]", op, (double)a->centre);
    for (int64_t k = 0; k < a->channels; k++)
        if (!isfinite(a->mean[k]) || !(a->std[k] >= 0.0f) || !isfinite(a->std[k]))
            return HN_FAIL(HN_ERR_ARG, "%s: channel %" PRId64 " has mean %g and std %g", op, k,
                           (double)a->mean[k], (double)a->std[k]);
    return HN_OK;
}

hn_status hn_image_prep_check(const hn_image_prep_args *a)
{
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_pointer(op, "index", a->index));
    if (a->y_labels) HN_TRY(hn_check_pointer(op, "labels", a->labels));
    if (a->train) HN_TRY(hn_check_pointer(op, "random state", a->state));
    HN_TRY(check_side("height", a->height, 1));
    HN_TRY(check_side("width", a->width, 1));
    HN_TRY(check_side("output height", a->out_height, 1));
    HN_TRY(check_side("output width", a->out_width, 1));
    HN_TRY(check_side("pad", a->pad, 0));
    if (a->out_height * a->out_width > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " x %" PRId64 " output pixels", op,
                       a->out_height, a->out_width);
    if (a->channels < 1 || a->channels > HN_IMAGE_CHANNELS || a->out_channels < a->channels)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " channels (1 to %d) become %" PRId64 " (not fewer)", op,
                       a->channels, HN_IMAGE_CHANNELS, a->out_channels);
    if (!a->resized &&
        (a->out_height > a->height + 2 * a->pad || a->out_width > a->width + 2 * a->pad))
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: a crop of %" PRId64 " x %" PRId64 " from %" PRId64 " x %" PRId64
                       " with pad %" PRId64,
                       op, a->out_height, a->out_width, a->height, a->width, a->pad);
    if (a->count < 1 || a->n < 1 || a->count > INT32_MAX || a->n > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " rows of %" PRId64 " images", op, a->n,
                       a->count);
    if (a->replicas < 0 || a->n % hn_replica_count(a->replicas) != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " rows of %" PRId64 " replicas", op, a->n,
                       a->replicas);
    HN_TRY(hn_check_stride(op, "random state", a->train ? a->replicas : 0, a->state_stride,
                           (int64_t)sizeof *a->state));
    HN_TRY(hn_check_matrix(op, "a row of images", a->images, a->width, a->channels, a->ld_images));
    HN_TRY(hn_check_matrix(op, "a row of y", a->y, a->out_width, a->out_channels, a->ld_y));
    return check_numbers(a);
}

hn_status hn_image_prep_check_index(const hn_image_prep_args *a)
{
    for (int64_t i = 0; i < a->n; i++)
        if (a->index[i] < -1 || a->index[i] >= a->count)
            return HN_FAIL(HN_ERR_ARG,
                           "image_prep: index %" PRId32 " of row %" PRId64
                           " is neither 0 to %" PRId64 " nor -1",
                           a->index[i], i, a->count - 1);
    return HN_OK;
}

/* A box in the middle, at least one pixel and at most the image. */
static hn_image_box middle(const hn_image_prep_args *a, double height, double width)
{
    hn_image_box b = {.height = (int32_t)floor(height + 0.5), .width = (int32_t)floor(width + 0.5)};
    b.height = b.height < 1 ? 1 : b.height > a->height ? (int32_t)a->height : b.height;
    b.width = b.width < 1 ? 1 : b.width > a->width ? (int32_t)a->width : b.width;
    b.top = ((int32_t)a->height - b.height) / 2;
    b.left = ((int32_t)a->width - b.width) / 2;
    return b;
}

static hn_image_box fixed_box(const hn_image_prep_args *a)
{
    if (!a->resized)
        return (hn_image_box){
            .top = (int32_t)((a->height + 2 * a->pad - a->out_height) / 2 - a->pad),
            .left = (int32_t)((a->width + 2 * a->pad - a->out_width) / 2 - a->pad),
            .height = (int32_t)a->out_height,
            .width = (int32_t)a->out_width};
    double height = (double)a->height, width = (double)a->width;
    if (a->width * a->out_height <= a->height * a->out_width)
        height = width * (double)a->out_height / (double)a->out_width;
    else
        width = height * (double)a->out_width / (double)a->out_height;
    const double centre = a->centre != 0.0f ? (double)a->centre : 1.0;
    return middle(a, height * centre, width * centre);
}

hn_image_rule hn_image_rule_of(const hn_image_prep_args *a)
{
    const bool scaled = a->scale[1] != 0.0f, shaped = a->ratio[1] != 0.0f;
    const double s0 = scaled ? (double)a->scale[0] : 0.08;
    const double s1 = scaled ? (double)a->scale[1] : 1.0;
    const double r0 = shaped ? (double)a->ratio[0] : 3.0 / 4.0;
    const double r1 = shaped ? (double)a->ratio[1] : 4.0 / 3.0;
    const double height = (double)a->height, width = (double)a->width;
    hn_image_rule r = {
        .fixed = fixed_box(a),
        .train = a->train,
        .resized = a->resized,
        .height = (int32_t)a->height,
        .width = (int32_t)a->width,
        .out_height = (int32_t)a->out_height,
        .out_width = (int32_t)a->out_width,
        .pad = (int32_t)a->pad,
        .flip_below = (uint64_t)((double)a->flip * 4294967296.0),
        .scale = s0,
        .scale_span = s1 - s0,
        .log_ratio = log(r0),
        .log_ratio_span = log(r1) - log(r0),
        .fallback = width / height < r0   ? middle(a, width / r0, width)
                    : width / height > r1 ? middle(a, height, height * r1)
                                          : middle(a, height, width),
    };
    for (int k = 0; k < HN_IMAGE_CHANNELS; k++) {
        const double std = a->std[k] != 0.0f ? (double)a->std[k] : 1.0;
        r.factor[k] = (float)(1.0 / (255.0 * std));
        r.shift[k] = (float)(-(double)a->mean[k] / std);
    }
    return r;
}

/* Channel k of the image's pixel (row, col); black outside. */
static float pixel(const hn_image_prep_args *a, int64_t image, int64_t row, int64_t col, int64_t k)
{
    if (row < 0 || row >= a->height || col < 0 || col >= a->width) return 0.0f;
    return (float)a->images[((image * a->height + row) * a->width + col) * a->ld_images + k];
}

/* v[k] of output pixel (r, q), where q is counted before flipping. */
static float value(const hn_image_prep_args *a, const hn_image_box *b, int64_t image, int64_t r,
                   int64_t q, int64_t k)
{
    if (!a->resized) return pixel(a, image, b->top + r, b->left + q, k);
    const hn_image_tap y = hn_image_tap_of((int32_t)r, (int32_t)a->out_height, b->height);
    const hn_image_tap x = hn_image_tap_of((int32_t)q, (int32_t)a->out_width, b->width);
    const int64_t top = b->top, left = b->left;
    return hn_image_mix(hn_image_mix(pixel(a, image, top + y.first, left + x.first, k),
                                     pixel(a, image, top + y.first, left + x.second, k), x.weight),
                        hn_image_mix(pixel(a, image, top + y.second, left + x.first, k),
                                     pixel(a, image, top + y.second, left + x.second, k), x.weight),
                        y.weight);
}

hn_status hn_image_prep_cpu(const hn_image_prep_args *a)
{
    HN_TRY(hn_image_prep_check(a));
    HN_TRY(hn_image_prep_check_index(a));
    const hn_image_rule rule = hn_image_rule_of(a);
    for (int64_t i = 0; i < a->n; i++) {
        const int64_t image = a->index[i];
        hn_image_box box = rule.fixed;
        if (a->train)
            box = hn_image_box_at(&rule, a->state, a->state_stride,
                                  a->n / hn_replica_count(a->replicas), a->key, i);
        for (int64_t p = 0; p < a->out_height * a->out_width; p++) {
            const int64_t r = p / a->out_width, q = p % a->out_width;
            const int64_t at = (i * a->out_height * a->out_width + p) * a->ld_y;
            for (int64_t k = 0; k < a->out_channels; k++) {
                float y = 0.0f;
                if (image >= 0 && k < a->channels)
                    y = fmaf(value(a, &box, image, r, box.flip ? a->out_width - 1 - q : q, k),
                             rule.factor[k], rule.shift[k]);
                hn_set_f32(a->y, a->dtype, at + k, y);
            }
        }
        if (a->y_labels) a->y_labels[i] = image >= 0 ? a->labels[image] : HN_LABEL_IGNORED;
    }
    return HN_OK;
}
