/* seg_sums.h - what the segmentation losses make of the sums over an image. For the sources of this
 * folder only; also for device code. */
#ifndef HN_SEG_SUMS_H
#define HN_SEG_SUMS_H
#include "kernels/loss/seg_loss.h"

#ifdef __CUDACC__
#define HN_SEG_INLINE static __host__ __device__ inline
#else
#define HN_SEG_INLINE static inline
#endif

/* Sums over voxels, HN_SEG_SUMS doubles: for each class five, then three of the image. */
enum {
    HN_SEG_BOTH,   /* of p t */
    HN_SEG_P,      /* of p */
    HN_SEG_T,      /* of t */
    HN_SEG_FOCAL,  /* of a q^gamma b */
    HN_SEG_WEIGHT, /* of q^gamma */
    HN_SEG_EACH,
    HN_SEG_CROSS = HN_SEG_EACH * HN_SEG_CLASSES, /* of -log p[y] */
    HN_SEG_VOXELS,
    HN_SEG_HITS,
    HN_SEG_SUMS
};

/* What the gradient of one voxel needs:
 *   d dice term / d p[c] = dice_t[c] t + dice[c]
 *   d focal term / d z[c] = focal[c] (a q^gamma b)' - weight[c] (q^gamma)' */
typedef struct {
    float dice_t[HN_SEG_CLASSES], dice[HN_SEG_CLASSES];
    float focal[HN_SEG_CLASSES], weight[HN_SEG_CLASSES];
    float cross; /* d / d (-log p[y]) */
} hn_seg_slopes;

/* The loss of an image from its sums; NaN sums give NaN. */
HN_SEG_INLINE double hn_seg_image(const double *s, int64_t classes, const hn_seg_terms *t,
                                  hn_seg_slopes *to)
{
    double dice = 0.0, focal = 0.0;
    const double voxels = s[HN_SEG_VOXELS];
    for (int64_t c = 0; c < classes; c++) {
        const double *const e = s + c * HN_SEG_EACH;
        const double top = 2.0 * e[HN_SEG_BOTH] + (double)t->smooth;
        const double size = e[HN_SEG_P] + e[HN_SEG_T] + (double)t->smooth;
        const double share = e[HN_SEG_T] > 0.0 ? (double)t->w_dice / (double)classes : 0.0;
        const double weight = e[HN_SEG_WEIGHT] < 1e-6 ? 1e-6 : e[HN_SEG_WEIGHT];
        const double scale = (double)t->w_focal / weight;
        dice += share * (1.0 - top / size);
        focal += scale * e[HN_SEG_FOCAL];
        to->dice_t[c] = (float)(-2.0 * share / size);
        to->dice[c] = (float)(share * top / (size * size));
        to->focal[c] = (float)scale;
        to->weight[c] = e[HN_SEG_WEIGHT] < 1e-6 ? 0.0f : (float)(scale * e[HN_SEG_FOCAL] / weight);
    }
    to->cross = voxels > 0.0 ? (float)((double)t->w_cross / voxels) : 0.0f;
    if (!(voxels > 0.0)) return 0.0;
    return dice + focal + (double)t->w_cross * s[HN_SEG_CROSS] / voxels;
}
#endif
