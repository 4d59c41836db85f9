/* few_shot_view.h - how an image of few_shot_prep is augmented: the same bits on the host and in
 * kernels, for which image_box.h says how products and sums are written. For few_shot_prep's
 * sources.
 */
#ifndef HN_FEW_SHOT_VIEW_H
#define HN_FEW_SHOT_VIEW_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/vision/few_shot_prep.h"
#include "kernels/vision/image_box.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The rule of the clean rows, which are image_prep's. */
hn_image_rule hn_few_shot_rule_of(const hn_few_shot_prep_args *a);

/* Weights of the mean: a resized pixel's line takes HN_FEW_SHOT_ONE of its two source lines. */
enum { HN_FEW_SHOT_ONE = 1024 };

static HN_HOST_DEVICE inline int32_t hn_few_shot_weight(hn_image_tap tap)
{
    return (int32_t)(tap.weight * (float)HN_FEW_SHOT_ONE + 0.5f); /* an exact product */
}

/* M from the weighted sums of the bytes of each channel. */
static HN_HOST_DEVICE inline float hn_few_shot_mean(const hn_image_rule *rule, int32_t channels,
                                                    const int64_t sum[HN_IMAGE_CHANNELS])
{
    const int64_t pixels = (int64_t)rule->out_height * rule->out_width;
    const double weights = (double)(pixels * HN_FEW_SHOT_ONE * HN_FEW_SHOT_ONE);
    double mean = 0.0;
    for (int32_t k = 0; k < HN_IMAGE_CHANNELS; k++)
        if (k < channels)
            mean += fma((double)sum[k] / weights, (double)rule->factor[k], (double)rule->shift[k]);
    return (float)(mean / (double)channels);
}

/* What the random numbers make of a row. */
typedef struct {
    bool changed, flip; /* not changed: the clean image */
    int32_t down, right;
    float brightness, contrast, colour; /* b, c, c s */
} hn_few_shot_view;

static HN_HOST_DEVICE inline int32_t hn_few_shot_shift_(uint32_t word, int32_t side)
{
    const int32_t most = (side + 4) / 8;
    return hn_image_below_(word, 2 * most + 1) - most;
}

/* The augmented view of support row j of a replica. */
static HN_HOST_DEVICE inline hn_few_shot_view hn_few_shot_view_of(const hn_image_rule *rule,
                                                                  const hn_rng_state *state,
                                                                  uint64_t key, float augment,
                                                                  int64_t j)
{
    const hn_rng rng = hn_rng_make(state->seed, state->step, key);
    const uint64_t row = (uint64_t)(state->row_offset + j);
    uint32_t batch[4], word[4], shift[4];
    hn_rng_block(rng, 0, 2, batch);
    hn_rng_block(rng, row, 0, word);
    hn_rng_block(rng, row, 1, shift);
    hn_few_shot_view v;
    v.changed = hn_rng_unit(batch[0]) < augment;
    v.flip = hn_rng_unit(batch[1]) < 0.5f;
    v.down = hn_few_shot_shift_(shift[0], rule->out_height);
    v.right = hn_few_shot_shift_(shift[1], rule->out_width);
    v.brightness = hn_rng_unit(word[0]) - 0.5f;
    v.contrast = hn_rng_unit(word[2]) + 0.5f;
    v.colour = v.contrast * (2.0f * hn_rng_unit(word[1]));
    return v;
}

/* The state of replica g. */
static HN_HOST_DEVICE inline const hn_rng_state *hn_few_shot_state(const hn_rng_state *state,
                                                                   int64_t stride, int64_t g)
{
    return (const hn_rng_state *)(const void *)((const char *)state + g * stride);
}

/* Where pixel (r, q) of a view comes from in the clean image; false: from outside. */
static HN_HOST_DEVICE inline bool
hn_few_shot_source(const hn_image_rule *rule, const hn_few_shot_view *v, int32_t *r, int32_t *q)
{
    *r += v->down;
    *q += v->right;
    const bool inside = *r >= 0 && *r < rule->out_height && *q >= 0 && *q < rule->out_width;
    if (v->flip) *q = rule->out_width - 1 - *q;
    return inside;
}

/* The colours of a pixel of the clean image with mean M; `share` is 1 / channels. Loops go to the
 * most channels: a kernel keeps x in registers. */
static HN_HOST_DEVICE inline void hn_few_shot_colour(const hn_few_shot_view *v, float mean,
                                                     int32_t channels, float share,
                                                     float x[HN_IMAGE_CHANNELS])
{
    float sum = x[0];
    for (int32_t k = 1; k < HN_IMAGE_CHANNELS; k++)
        if (k < channels) sum += x[k];
    const float grey = fmaf(v->contrast, fmaf(sum, share, -mean), mean + v->brightness);
    for (int32_t k = 0; k < HN_IMAGE_CHANNELS; k++)
        if (k < channels) x[k] = fmaf(v->colour, fmaf(-sum, share, x[k]), grey);
}

#ifdef __cplusplus
}
#endif
#endif
