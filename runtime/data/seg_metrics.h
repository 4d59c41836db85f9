/* seg_metrics.h - how well masks agree: Dice by class, and the 95th percentile of the distances
 * between their surfaces.
 *
 * Dice       2 |A and B| / (|A| + |B|) over the voxels of a class.
 * surface    voxels of the class with one of six neighbours outside of it; what is beyond the
 *            volume's border is outside.
 * distance   in mm between middles of voxels, from each surface voxel of A to the nearest of B and
 *            the other way round: exact, by the distance transform of Felzenszwalb and Huttenlocher
 *            (Theory of Computing 8, 2012), squared distances in fp64, voxels of any shape.
 * hd95       the 95th percentile of both sets of distances together (as MedPy's hd95), with numpy's
 *            linear interpolation between neighbours.
 * Empty      neither mask has the class: Dice 1, hd95 0. One of them has not: Dice 0, hd95 the
 *            volume's diagonal in mm (BraTS: 373.13 for 240 x 240 x 155 of 1 mm). The counts tell
 *            these cases apart.
 */
#ifndef HN_SEG_METRICS_H
#define HN_SEG_METRICS_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t got, want, both; /* voxels of the class in either mask, in both */
    double dice;
    double hd95; /* mm; NaN where it was not asked for */
} hn_seg_score;

/* HN_ERR_ARG: a side of a voxel that is not 1e-6 to 1e6 mm, which distances are not made for. */
HN_NODISCARD hn_status hn_seg_check_mm(const double voxel_mm[3]);

/* got, want  [d, h, w] masks
 * n_classes  classes 0 .. n_classes - 1 are scored, 1 to 256; other labels agree with none
 * score      out [n_classes]; hd95 is NaN
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE */
HN_NODISCARD hn_status hn_seg_dice(const uint8_t *got, const uint8_t *want, const int64_t size[3],
                                   int n_classes, hn_seg_score *score);
/* The same with the surface distances of every class but 0.
 * voxel_mm   of a voxel along d, h, w: 1e-6 to 1e6
 * Memory     at most 26 bytes a voxel of the box around a class
 * Errors     also HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_seg_metrics(const uint8_t *got, const uint8_t *want,
                                      const int64_t size[3], const double voxel_mm[3],
                                      int n_classes, hn_seg_score *score);

/* Squared distance, in mm, of every voxel to the nearest one that is set; infinity without any.
 * set        [d, h, w], not 0: set
 * out        [d, h, w]
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_distance_transform(const uint8_t *set, const int64_t size[3],
                                             const double voxel_mm[3], double *out);

#ifdef __cplusplus
}
#endif
#endif
