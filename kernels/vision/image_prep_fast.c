/* Image by image, line by line. A crop looks its 256 values a channel up; a resized line has its
 * two source lines, and columns with their weights found once an image. */
#include <string.h>

#include "kernels/vision/image_box.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

enum { LINE = 64 }; /* output pixels at a time */

typedef struct {
    float value[HN_IMAGE_CHANNELS][256]; /* of a byte, normalised */
} value_table;

/* Pixels q .. q + n of an output line as floats, `channels` each; q counts after flipping. */
static void crop_line(const hn_image_prep_args *a, const value_table *t, const hn_image_box *b,
                      int64_t image, int64_t r, int64_t q, int64_t n, float *to)
{
    const int64_t row = b->top + r, c = a->channels;
    const uint8_t *const line = a->images + (image * a->height + row) * a->width * a->ld_images;
    for (int64_t i = 0; i < n; i++, to += c) {
        const int64_t col = b->left + (b->flip ? a->out_width - 1 - (q + i) : q + i);
        const bool inside = row >= 0 && row < a->height && col >= 0 && col < a->width;
        for (int64_t k = 0; k < c; k++)
            to[k] = t->value[k][inside ? line[col * a->ld_images + k] : 0];
    }
}

HN_MULTIVERSION static void resized_line(const hn_image_prep_args *a, const hn_image_rule *rule,
                                         const hn_image_box *b, int64_t image, int64_t r, int64_t q,
                                         int64_t n, float *to)
{
    const int64_t c = a->channels;
    const hn_image_tap y = hn_image_tap_of((int32_t)r, rule->out_height, b->height);
    const uint8_t *const base = a->images + image * a->height * a->width * a->ld_images;
    const uint8_t *const above = base + (b->top + y.first) * a->width * a->ld_images;
    const uint8_t *const below = base + (b->top + y.second) * a->width * a->ld_images;
    for (int64_t i = 0; i < n; i++, to += c) {
        const int64_t col = b->flip ? a->out_width - 1 - (q + i) : q + i;
        const hn_image_tap x = hn_image_tap_of((int32_t)col, rule->out_width, b->width);
        const int64_t first = (b->left + x.first) * a->ld_images;
        const int64_t second = (b->left + x.second) * a->ld_images;
        for (int64_t k = 0; k < c; k++) {
            const float up =
                hn_image_mix((float)above[first + k], (float)above[second + k], x.weight);
            const float down =
                hn_image_mix((float)below[first + k], (float)below[second + k], x.weight);
            to[k] = fmaf(hn_image_mix(up, down, y.weight), rule->factor[k], rule->shift[k]);
        }
    }
}

/* n pixels of y from element `at` on; v holds `channels` each, NULL: zeros. */
static void store(const hn_image_prep_args *a, int64_t at, int64_t n, const float *v)
{
    const int64_t c = v ? a->channels : 0;
    for (int64_t i = 0; i < n; i++, at += a->ld_y) {
        for (int64_t k = 0; k < c; k++) hn_set_f32(a->y, a->dtype, at + k, v[i * c + k]);
        for (int64_t k = c; k < a->out_channels; k++) hn_set_f32(a->y, a->dtype, at + k, 0.0f);
    }
}

static void run_row(const hn_image_prep_args *a, const hn_image_rule *rule, const value_table *t,
                    int64_t i)
{
    const int64_t image = a->index[i], pixels = a->out_height * a->out_width;
    float line[LINE * HN_IMAGE_CHANNELS];
    if (a->y_labels) a->y_labels[i] = image >= 0 ? a->labels[image] : HN_LABEL_IGNORED;
    if (image < 0) {
        store(a, i * pixels * a->ld_y, pixels, NULL);
        return;
    }
    hn_image_box box = rule->fixed;
    if (a->train)
        box = hn_image_box_at(rule, a->state, a->state_stride, a->n / hn_replica_count(a->replicas),
                              a->key, i);
    for (int64_t r = 0; r < a->out_height; r++)
        for (int64_t q = 0; q < a->out_width; q += LINE) {
            const int64_t n = a->out_width - q < LINE ? a->out_width - q : LINE;
            if (a->resized)
                resized_line(a, rule, &box, image, r, q, n, line);
            else
                crop_line(a, t, &box, image, r, q, n, line);
            store(a, (i * pixels + r * a->out_width + q) * a->ld_y, n, line);
        }
}

hn_status hn_image_prep_fast(const hn_image_prep_args *a)
{
    HN_TRY(hn_image_prep_check(a));
    HN_TRY(hn_image_prep_check_index(a));
    const hn_image_rule rule = hn_image_rule_of(a);
    value_table t;
    for (int k = 0; k < HN_IMAGE_CHANNELS; k++)
        for (int v = 0; v < 256; v++) t.value[k][v] = fmaf((float)v, rule.factor[k], rule.shift[k]);
#pragma omp parallel for schedule(static) if (a->n * a->out_height * a->out_width > HN_OMP_MIN)
    for (int64_t i = 0; i < a->n; i++) run_row(a, &rule, &t, i);
    return HN_OK;
}
