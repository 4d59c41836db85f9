/* fed_segment.h - federated training of segmenters: clients whose data are regions of volumes.
 *
 * The simulation `one` of fed_sim.h, on an engine of one replica, with patches for images:
 *
 * sample   number s of a task's index is a patch of region s / per_region of the sampler; an epoch
 *          of a client with all samples of its regions has per_region patches of each. Which sample
 *          belongs to which site: hn_fed_segment_sites, groups for hn_partition_make.
 * random   the patch of row i of step s of a task is that of row hn_fed_task_seed(task.seed, s, i)
 *          of hn_patches_draw: another one every time, the same one again for the same task.
 * loss     mean over patches, of the steps that fed_sim.h names
 */
#ifndef HN_FED_SEGMENT_H
#define HN_FED_SEGMENT_H
#include "runtime/data/seg_metrics.h"
#include "runtime/data/volume_patch.h"
#include "runtime/train/fed_sim.h"
#include "runtime/train/segmenter_job.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_device *device; /* must outlive the simulation, as all that is pointed to */
    hn_executor executor;
    hn_dtype dtype;
    const hn_seg_config *config;
    const hn_adapt *adapt; /* what is trained, and so travels */
    hn_seg_terms terms;
    const hn_patches *train; /* of all clients together */
    bool trains;             /* false: for hn_fed_segment_evaluate alone, with memory for no more */
    int64_t per_region;
    hn_fed_local local; /* augment, smoothing and frozen_norm are of images, fisher_images of `one`
                         * (fed_sim.h): zeros */
    int64_t window[3];  /* of hn_fed_segment_evaluate */
    uint64_t seed;      /* of the first values */
} hn_fed_segment_options;

int64_t hn_fed_segment_samples(const hn_patches *p, int64_t per_region);
/* group    out [samples] the site of each */
void hn_fed_segment_sites(const hn_patches *p, int64_t per_region, int32_t *group);

/* Errors  HN_ERR_ARG: options; HN_ERR_SHAPE: volumes of other channels than the network's; those of
 *         hn_engine_new */
HN_NODISCARD hn_status hn_fed_segment_new(const hn_fed_segment_options *o, hn_fed_sim **out);
/* The engine behind it: parameters, plan and memory; not to be stepped. Its values are those of the
 * seed until hn_fed_values_set or a round. */
hn_engine *hn_fed_segment_engine(const hn_fed_sim *s);

typedef struct {
    double dice[HN_SEG_CLASSES]; /* of the voxels of all regions together */
    double hd95[HN_SEG_CLASSES]; /* mm, mean over regions (seg_metrics.h has what empty ones count);
                                  * NaN for class 0 */
    double mean_dice, mean_hd95; /* over the classes but 0 */
    int64_t voxels;
} hn_fed_segment_scores;

/* Segments regions with the engine's values as they are, with the intensities of their sites, each
 * through windows that see nothing outside of it.
 * Errors   HN_ERR_ARG: volumes without labels, a class that the network does not have;
 *          HN_ERR_SHAPE: other channels than the network's; those of hn_segmenter_volume */
HN_NODISCARD hn_status hn_fed_segment_evaluate(hn_fed_sim *s, const hn_volumes *v,
                                               const hn_regions *r, const hn_segmenter_blend *how,
                                               hn_fed_segment_scores *out);

/* The same in parts, for those who share them: region i alone. score [classes of the network] */
HN_NODISCARD hn_status hn_fed_segment_measure(hn_fed_sim *s, const hn_volumes *v,
                                              const hn_regions *r, const hn_segmenter_blend *how,
                                              int64_t i, hn_seg_score *score);
/* Of all regions: score [r->count][classes] */
void hn_fed_segment_score(const hn_fed_sim *s, const hn_regions *r, const hn_seg_score *score,
                          hn_fed_segment_scores *out);

#ifdef __cplusplus
}
#endif
#endif
