/* Twin and fast function in one: image by image, every pixel worked out where it is wanted. */
#include "kernels/vision/few_shot_prep.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/vision/few_shot_view.h"
#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

static const char op[] = "few_shot_prep";

/* The call of image_prep that makes the clean images. */
static hn_image_prep_args clean_of(const hn_few_shot_prep_args *a)
{
    hn_image_prep_args c = {
        .images = a->images,
        .labels = a->labels,
        .index = a->index,
        .y = a->y,
        .y_labels = a->y_labels,
        .count = a->count,
        .height = a->height,
        .width = a->width,
        .channels = a->channels,
        .ld_images = a->ld_images,
        .n = 2 * hn_replica_count(a->replicas) * a->support,
        .out_height = a->out_height,
        .out_width = a->out_width,
        .out_channels = a->out_channels,
        .ld_y = a->ld_y,
        .resized = true,
        .dtype = a->dtype,
    };
    memcpy(c.mean, a->mean, sizeof c.mean);
    memcpy(c.std, a->std, sizeof c.std);
    return c;
}

hn_image_rule hn_few_shot_rule_of(const hn_few_shot_prep_args *a)
{
    const hn_image_prep_args clean = clean_of(a);
    return hn_image_rule_of(&clean);
}

hn_status hn_few_shot_prep_check(const hn_few_shot_prep_args *a)
{
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "random state", a->state));
    if (a->replicas < 0 || a->replicas > INT32_MAX || a->support < 1 || a->support > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " replicas of %" PRId64 " support rows", op,
                       a->replicas, a->support);
    if (a->height > HN_FEW_SHOT_SIDE || a->width > HN_FEW_SHOT_SIDE)
        return HN_FAIL(HN_ERR_SHAPE, "%s: images of %" PRId64 " x %" PRId64 ", sides at most %d",
                       op, a->height, a->width, HN_FEW_SHOT_SIDE);
    if (!(a->augment >= 0.0f && a->augment <= 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: augment %g is not in [0, 1]", op, (double)a->augment);
    const hn_image_prep_args clean = clean_of(a);
    return hn_image_prep_check(&clean);
}

hn_status hn_few_shot_prep_check_index(const hn_few_shot_prep_args *a)
{
    for (int64_t i = 0; i < hn_replica_count(a->replicas) * a->support; i++)
        if (a->index[i] < -1 || a->index[i] >= a->count)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: index %" PRId32 " of row %" PRId64 " is neither 0 to %" PRId64
                           " nor -1",
                           op, a->index[i], i, a->count - 1);
    return HN_OK;
}

/* weight[s]: how much of source line s of `size` the `out` lines of a resized image take. */
static void sum_weights(int32_t out, int32_t size, int32_t *weight)
{
    memset(weight, 0, (size_t)size * sizeof *weight);
    for (int32_t at = 0; at < out; at++) {
        const hn_image_tap tap = hn_image_tap_of(at, out, size);
        const int32_t second = hn_few_shot_weight(tap);
        weight[tap.first] += HN_FEW_SHOT_ONE - second;
        weight[tap.second] += second;
    }
}

typedef struct {
    const hn_few_shot_prep_args *a;
    hn_image_rule rule;
    int32_t channels;
    float share;                           /* 1 / channels */
    int32_t *row_weights, *column_weights; /* of the box */
} few_shot;

/* Channel k of pixel (row, col) of the box. */
static uint8_t byte_at(const few_shot *f, int64_t image, int64_t row, int64_t col, int64_t k)
{
    const hn_few_shot_prep_args *const a = f->a;
    row += f->rule.fixed.top;
    col += f->rule.fixed.left;
    return a->images[((image * a->height + row) * a->width + col) * a->ld_images + k];
}

static float mean_of(const few_shot *f, int64_t image)
{
    int64_t sum[HN_IMAGE_CHANNELS] = {0};
    for (int32_t row = 0; row < f->rule.fixed.height; row++)
        for (int32_t col = 0; col < f->rule.fixed.width; col++) {
            const int64_t weight = (int64_t)f->row_weights[row] * f->column_weights[col];
            for (int32_t k = 0; k < f->channels; k++)
                sum[k] += weight * byte_at(f, image, row, col, k);
        }
    return hn_few_shot_mean(&f->rule, f->channels, sum);
}

/* Pixel (r, q) of the clean image. */
static void clean_pixel(const few_shot *f, int64_t image, int32_t r, int32_t q, float *x)
{
    const hn_image_tap y = hn_image_tap_of(r, f->rule.out_height, f->rule.fixed.height);
    const hn_image_tap c = hn_image_tap_of(q, f->rule.out_width, f->rule.fixed.width);
    for (int32_t k = 0; k < f->channels; k++) {
        const float up = hn_image_mix((float)byte_at(f, image, y.first, c.first, k),
                                      (float)byte_at(f, image, y.first, c.second, k), c.weight);
        const float down = hn_image_mix((float)byte_at(f, image, y.second, c.first, k),
                                        (float)byte_at(f, image, y.second, c.second, k), c.weight);
        x[k] = fmaf(hn_image_mix(up, down, y.weight), f->rule.factor[k], f->rule.shift[k]);
    }
}

/* Row `row` of y: a view of the image, -1: padding. */
HN_MULTIVERSION static void write_row(const few_shot *f, int64_t row, int64_t image,
                                      const hn_few_shot_view *view, float mean)
{
    const hn_few_shot_prep_args *const a = f->a;
    for (int64_t p = 0; p < a->out_height * a->out_width; p++) {
        int32_t r = (int32_t)(p / a->out_width), q = (int32_t)(p % a->out_width);
        float x[HN_IMAGE_CHANNELS] = {0};
        if (image >= 0 && (!view->changed || hn_few_shot_source(&f->rule, view, &r, &q))) {
            clean_pixel(f, image, r, q, x);
            if (view->changed) hn_few_shot_colour(view, mean, f->channels, f->share, x);
        }
        const int64_t at = (row * a->out_height * a->out_width + p) * a->ld_y;
        for (int64_t k = 0; k < a->out_channels; k++)
            hn_set_f32(a->y, a->dtype, at + k, k < f->channels ? x[k] : 0.0f);
    }
}

size_t hn_few_shot_prep_cpu_scratch(const hn_few_shot_prep_args *a)
{
    return (size_t)(a->height + a->width) * sizeof(int32_t);
}

hn_status hn_few_shot_prep_cpu(const hn_few_shot_prep_args *a, void *scratch)
{
    HN_TRY(hn_few_shot_prep_check(a));
    HN_TRY(hn_check_pointer(op, "scratch", scratch));
    HN_TRY(hn_few_shot_prep_check_index(a));
    few_shot f = {.a = a, .rule = hn_few_shot_rule_of(a), .channels = (int32_t)a->channels};
    f.share = 1.0f / (float)f.channels;
    f.row_weights = scratch;
    f.column_weights = f.row_weights + f.rule.fixed.height;
    sum_weights(f.rule.out_height, f.rule.fixed.height, f.row_weights);
    sum_weights(f.rule.out_width, f.rule.fixed.width, f.column_weights);
    const hn_few_shot_view clean = {.changed = false};
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < hn_replica_count(a->replicas) * a->support; i++) {
        const int64_t g = i / a->support, j = i % a->support, image = a->index[i];
        const hn_rng_state *const state = hn_few_shot_state(a->state, a->state_stride, g);
        const hn_few_shot_view view = hn_few_shot_view_of(&f.rule, state, a->key, a->augment, j);
        const int64_t row = 2 * g * a->support + j;
        write_row(&f, row, image, &clean, 0.0f);
        write_row(&f, row + a->support, image, &view, image >= 0 ? mean_of(&f, image) : 0.0f);
        if (a->y_labels)
            a->y_labels[row] = a->y_labels[row + a->support] =
                image >= 0 ? a->labels[i] : HN_LABEL_IGNORED;
    }
    return HN_OK;
}
