/* volume_window.h - a volume through a network in windows: where they lie, and their logits
 * blended.
 *
 * windows  of one size, in the order of their places. Along an axis of length n with windows of
 *          length w: w < n: starts 0, s, 2 s .. with s = max(1, floor(w (1 - overlap))), the last
 *          one moved back to n - w; else one window that starts at -((w - n) / 2), so that the
 *          volume has padding on both sides, the odd one behind. (Whole volume at once: a window at
 *          least as large.)
 * blend    mean of the logits of all windows that see a voxel, weighted alike or by a Gaussian of
 *          the voxel's place in its window: the product over the axes of
 *          exp(-(i - (w - 1) / 2)^2 / (2 (w / 8)^2)), but at least 0.001. fp32 sums in the order in
 *          which windows are added; any number of threads gives the same bits.
 * argmax   of the mean; the lower class of equals.
 */
#ifndef HN_VOLUME_WINDOW_H
#define HN_VOLUME_WINDOW_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t volume[3], size[3]; /* of the volume, of a window: d, h, w */
    int64_t along[3], step[3];  /* windows along each axis, distance of their starts */
    int64_t count;              /* product of along */
} hn_windows;

/* overlap  0..1, 1 excluded
 * Errors   HN_ERR_ARG, HN_ERR_SHAPE: sizes below 1 or above HN_NIFTI_MAX_SIDE */
HN_NODISCARD hn_status hn_windows_plan(const int64_t volume[3], const int64_t size[3],
                                       double overlap, hn_windows *out);
/* Place of window i's first voxel in the volume; negative where it begins with padding.
 * i        in [0, count) */
void hn_windows_at(const hn_windows *w, int64_t i, int64_t at[3]);
/* The voxels of window i.
 * value    [volume, channels]
 * out      [size, channels]; outside of the volume: pad */
void hn_windows_cut(const hn_windows *w, int64_t i, const float *value, int64_t channels, float pad,
                    float *out);

typedef struct hn_blend hn_blend;

/* w        copied
 * Memory   4 (classes + 1) bytes a voxel of the volume
 * Errors   HN_ERR_ARG: no classes, more than 256; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_blend_new(const hn_windows *w, int classes, bool gaussian,
                                    hn_blend **out);
void hn_blend_free(hn_blend *b); /* accepts NULL */
/* logits   [size, classes] of window i. Padding is left out. */
void hn_blend_add(hn_blend *b, int64_t i, const float *logits);
/* mask     out [volume]
 * Errors   HN_ERR_ARG: a voxel that no window has seen; HN_ERR_NUMERIC: a logit that is NaN */
HN_NODISCARD hn_status hn_blend_argmax(const hn_blend *b, uint8_t *mask);
/* logits   out [volume, classes], means */
HN_NODISCARD hn_status hn_blend_logits(const hn_blend *b, float *logits);

#ifdef __cplusplus
}
#endif
#endif
