/* volume_patch.h - regions of volumes as sites, and patches out of them.
 *
 * region   a box of a volume, the site that it belongs to, and what its scanner does to values: v
 *          of channel c becomes scale[c] * v + shift[c]. A patch never sees a voxel outside of its
 *          region.
 * patch    [d, h, w, channels] values and [d, h, w] labels. Where the region is at least as long
 *          as the patch along an axis, the patch lies inside, at a random place; where it is
 *          shorter, its middle is the region's, and what is outside is padding: value `pad`, label
 *          -100 (ignored).
 *          With probability `foreground` the place is one that holds a voxel drawn from all those
 *          of the region whose label is not 0: every such voxel is equally likely, then every place
 *          that holds it. A region without such voxels draws as if foreground were 0.
 *          Then each axis is flipped with its probability.
 * random   a patch is a function of (seed, row, region): of no thread, batch or order.
 * tiles    for evaluation: a region as patches side by side, none flipped; the last ones reach over
 *          its end and are padded. Every voxel is in exactly one tile. A patch longer than the
 *          region has its middle, as above.
 *
 * A sampler does not change: any number of threads may draw. Drawing allocates nothing.
 */
#ifndef HN_VOLUME_PATCH_H
#define HN_VOLUME_PATCH_H
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/data/volumes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- sites ---- */

typedef struct {
    int64_t volume;
    int64_t at[3], size[3]; /* d, h, w */
    int32_t site;           /* from 0 */
    /* of each channel; 1 and 0: intensities as they are */
    float scale[HN_VOLUME_CHANNELS], shift[HN_VOLUME_CHANNELS];
} hn_region;

typedef struct {
    int64_t count;
    hn_region *region;
    int32_t n_sites;
} hn_regions;

void hn_regions_free(hn_regions *r); /* accepts an empty one */

/* A region for each volume, all of it; sites by their names in the set, numbered as they come, or,
 * where none is named, one for each volume.
 * out      changed only on success, as below
 * Errors   HN_ERR_ARG: sites for some of the volumes only; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_regions_of_volumes(const hn_volumes *v, hn_regions *out);

typedef struct {
    int64_t cuts[3];    /* boxes along d, h, w; at least 1 */
    float scale_spread; /* scale is uniform in 1 - spread .. 1 + spread; below 1 */
    float shift_spread; /* shift is uniform in -spread .. spread */
    uint64_t seed;      /* scale and shift are a function of (seed, site, channel) */
} hn_site_options;

/* Every volume's box of labelled voxels (unlabelled: all of it), cut into cuts[0] x cuts[1] x
 * cuts[2] boxes of nearly equal size, each a site.
 * Errors   HN_ERR_ARG: options; HN_ERR_SHAPE: more cuts than voxels; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_regions_cut(const hn_volumes *v, const hn_site_options *o,
                                      hn_regions *out);
/* Cuts each region across its longest axis (the first of equals): the last `share` of it, rounded,
 * at least one slice and never all, is held out.
 * Errors   HN_ERR_ARG: share not in (0, 1); HN_ERR_SHAPE: a region of one voxel; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_regions_hold_out(const hn_regions *r, double share, hn_regions *train,
                                           hn_regions *eval);

/* ---- patches ---- */

typedef struct {
    int64_t size[3];   /* of a patch: d, h, w */
    double foreground; /* 0..1 */
    double flip[3];    /* 0..1, of each axis */
    float pad;         /* value outside of the region, after scale and shift */
    uint64_t seed;
} hn_patch_options;

/* Where a patch came from. */
typedef struct {
    int64_t at[3]; /* of its first voxel in the volume, before it is flipped; may be negative */
    bool flip[3];
} hn_patch_place;

typedef struct hn_patches hn_patches;

/* v, r     must outlive the sampler
 * Errors   HN_ERR_ARG: options, a region outside its volume; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_patches_open(const hn_volumes *v, const hn_regions *r,
                                       const hn_patch_options *o, hn_patches **out);
void hn_patches_free(hn_patches *p); /* accepts NULL */

int64_t hn_patches_voxels(const hn_patches *p); /* of a patch */
int32_t hn_patches_channels(const hn_patches *p);
int64_t hn_patches_values(const hn_patches *p); /* voxels x channels */
const hn_patch_options *hn_patches_settings(const hn_patches *p);
const hn_regions *hn_patches_regions(const hn_patches *p);
int64_t hn_patches_foreground(const hn_patches *p, int64_t region); /* labelled voxels */

/* row      number since the start of training: keys what is random
 * value    out [d, h, w, channels]
 * label    out [d, h, w], -100: padding; NULL: not wanted (unlabelled volumes: must be)
 * place    out; NULL: not wanted
 * Errors   HN_ERR_ARG: no such region, or labels that there are not */
HN_NODISCARD hn_status hn_patches_draw(const hn_patches *p, int64_t region, uint64_t row,
                                       float *value, int32_t *label, hn_patch_place *place);

/* n patches of one batch: row first_row + i of region[i]; -1 is padding (value pad, label -100).
 * value    out [n, d, h, w, channels]
 * label    out [n, d, h, w], or NULL */
HN_NODISCARD hn_status hn_patches_batch(const hn_patches *p, const int32_t *region, int64_t n,
                                        uint64_t first_row, float *value, int32_t *label);

int64_t hn_patches_tiles(const hn_patches *p, int64_t region); /* of a region */
/* Errors   HN_ERR_ARG: also no such tile */
HN_NODISCARD hn_status hn_patches_tile(const hn_patches *p, int64_t region, int64_t tile,
                                       float *value, int32_t *label, hn_patch_place *place);
/* A patch of padding only. */
void hn_patches_padding(const hn_patches *p, float *value, int32_t *label);

#ifdef __cplusplus
}
#endif
#endif
