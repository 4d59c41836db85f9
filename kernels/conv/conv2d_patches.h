/* conv2d_patches.h - rows of patches: what the fast convolutions multiply matrices with.
 *
 * Positions (u, v) of a grid look at an image through taps: tap (r, s) of position (u, v) sees the
 * pixel u stride + down.first + r down.step, v stride + across.first + s across.step, or zeros
 * outside the image. A row of patches is one position: for each tap, across fastest, the channels
 * of one group. Forward and the weight gradient look at x from the pixels of y. The input gradient
 * looks at dy from the pixels of dx that have the same remainders by the stride: they share their
 * taps, and neighbours among them see neighbours.
 */
#ifndef HN_CONV2D_PATCHES_H
#define HN_CONV2D_PATCHES_H

#include "kernels/conv/conv2d.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t grid;                /* positions */
    int64_t taps;                /* that look from each; may be 0 */
    int64_t first, step;         /* of the taps */
    int64_t kernel, kernel_step; /* row or column of the kernel: kernel + tap kernel_step */
} hn_conv2d_axis_;

typedef struct {
    const void *p; /* images [n, h, w, groups channels] */
    hn_dtype dtype;
    int64_t h, w, ld;
    int64_t channels; /* of a group */
    int64_t stride;
    hn_conv2d_axis_ down, across;
} hn_conv2d_patches_;

/* x from the pixels of y. */
hn_conv2d_patches_ hn_conv2d_patches_x_(const hn_conv2d_shape *s, const void *x, hn_dtype t,
                                        int64_t ld);
/* dy from the pixels of dx whose row is `down` by the stride, and whose column is `across`; both
 * below the stride. An axis may have no positions. */
hn_conv2d_patches_ hn_conv2d_patches_dy_(const hn_conv2d_shape *s, const void *dy, hn_dtype t,
                                         int64_t ld, int64_t down, int64_t across);

/* Columns of a row. */
static inline int64_t hn_conv2d_columns_(const hn_conv2d_patches_ *s)
{
    return s->down.taps * s->across.taps * s->channels;
}

/* Rows are the pixels themselves: nothing to gather where they are f32. */
bool hn_conv2d_plain_(const hn_conv2d_patches_ *s);

/* to[rows, cols] = columns col .. col + cols of the rows from `row` on, as f32. */
void hn_conv2d_gather_(const hn_conv2d_patches_ *s, int64_t group, int64_t row, int64_t rows,
                       int64_t col, int64_t cols, float *to);

#ifdef __cplusplus
}
#endif
#endif
