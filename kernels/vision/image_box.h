/* image_box.h - which piece of an image a row takes, and where a resized pixel comes from: the same
 * bits on the host and in kernels. For the sources of this folder.
 *
 * Compilers may fuse a product and a sum where they stand side by side, each in its own way. So
 * what is multiplied and added is written as fma here, and products else only meet products.
 */
#ifndef HN_IMAGE_BOX_H
#define HN_IMAGE_BOX_H
#include <math.h>

#include "kernels/vision/image_prep.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_IMAGE_TRIES = 10 };

typedef struct {
    int32_t top, left, height, width; /* in pixels of the image; crops may begin outside */
    bool flip;
} hn_image_box;

/* What the boxes of a call depend on. */
typedef struct {
    hn_image_box fixed; /* without train */
    bool train, resized;
    int32_t height, width, out_height, out_width, pad;
    uint64_t flip_below; /* flip when the word is */
    double scale, scale_span, log_ratio, log_ratio_span;
    hn_image_box fallback;                                     /* when no try has fitted */
    float factor[HN_IMAGE_CHANNELS], shift[HN_IMAGE_CHANNELS]; /* y = v * factor + shift */
} hn_image_rule;

hn_image_rule hn_image_rule_of(const hn_image_prep_args *a);

/* e^x for |x| <= log 64: Taylor of e^(x/16), off by 1e-17, squared four times. */
static HN_HOST_DEVICE inline double hn_image_exp_(double x)
{
    const double y = x * 0.0625;
    double p = 1.0;
    for (int k = 13; k > 0; k--) p = fma(p, y * (1.0 / (double)k), 1.0);
    p *= p;
    p *= p;
    p *= p;
    return p * p;
}

static HN_HOST_DEVICE inline int32_t hn_image_below_(uint32_t word, int32_t n)
{
    return (int32_t)((uint64_t)word * (uint64_t)n >> 32);
}

/* The box of a global row. */
static HN_HOST_DEVICE inline hn_image_box hn_image_box_of(const hn_image_rule *r, hn_rng rng,
                                                          uint64_t row)
{
    uint32_t word[4];
    hn_rng_block(rng, row, 0, word);
    hn_image_box box = r->resized ? r->fallback : r->fixed;
    box.flip = word[2] < r->flip_below;
    if (!r->resized) {
        box.top = hn_image_below_(word[0], r->height + 2 * r->pad - r->out_height + 1) - r->pad;
        box.left = hn_image_below_(word[1], r->width + 2 * r->pad - r->out_width + 1) - r->pad;
        return box;
    }
    for (uint32_t t = 1; t <= HN_IMAGE_TRIES; t++) {
        hn_rng_block(rng, row, t, word);
        const double share = fma((double)word[0] * 0x1p-32, r->scale_span, r->scale);
        const double area = (double)r->height * (double)r->width * share;
        const double a =
            hn_image_exp_(fma((double)word[1] * 0x1p-32, r->log_ratio_span, r->log_ratio));
        const double width = floor(sqrt(area * a) + 0.5), height = floor(sqrt(area / a) + 0.5);
        if (!(width >= 1.0 && width <= (double)r->width && height >= 1.0 &&
              height <= (double)r->height))
            continue;
        box.width = (int32_t)width;
        box.height = (int32_t)height;
        box.top = hn_image_below_(word[2], r->height - box.height + 1);
        box.left = hn_image_below_(word[3], r->width - box.width + 1);
        return box;
    }
    return box;
}

/* Between which two of `size` pixels output pixel `at` of `out` lies. */
typedef struct {
    int32_t first, second;
    float weight; /* of the second */
} hn_image_tap;

static HN_HOST_DEVICE inline hn_image_tap hn_image_tap_of(int32_t at, int32_t out, int32_t size)
{
    hn_image_tap tap;
    float from = fmaf((float)at + 0.5f, (float)size / (float)out, -0.5f);
    if (from < 0.0f) from = 0.0f;
    tap.first = (int32_t)from < size - 1 ? (int32_t)from : size - 1;
    tap.second = tap.first + 1 < size ? tap.first + 1 : size - 1;
    tap.weight = from - (float)tap.first;
    return tap;
}

static HN_HOST_DEVICE inline float hn_image_mix(float a, float b, float weight)
{
    return fmaf(weight, b - a, a);
}

/* The box of row i of a call, whose replicas have `group` rows each. */
static HN_HOST_DEVICE inline hn_image_box hn_image_box_at(const hn_image_rule *r,
                                                          const hn_rng_state *state,
                                                          int64_t state_stride, int64_t group,
                                                          uint64_t key, int64_t i)
{
    const int64_t g = (uint32_t)i / (uint32_t)group; /* both below 2^31 */
    const hn_rng_state *const s =
        (const hn_rng_state *)(const void *)((const char *)state + g * state_stride);
    return hn_image_box_of(r, hn_rng_make(s->seed, s->step, key),
                           (uint64_t)(s->row_offset + i - g * group));
}

#ifdef __cplusplus
}
#endif
#endif
