/* volume_feed.h - micro-batches of patches out of volumes, for the job of a segmenter.
 *
 * Training    an epoch has `per_region` patches of every region, in an order that is a function of
 *             (seed, epoch); batches go on from one epoch into the next. Row r since the start is
 *             row r of hn_patches_draw.
 * Evaluation  the tiles of every region, once, then padding. */
#ifndef HN_VOLUME_FEED_H
#define HN_VOLUME_FEED_H
#include "runtime/data/volume_patch.h"
#include "runtime/train/feed.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t batch;      /* patches of a micro-batch */
    int64_t per_region; /* training: patches of a region in an epoch */
    uint64_t seed;      /* of the order; that of the patches is the sampler's */
    bool once;          /* evaluation; the two above are not read */
} hn_volume_feed_options;

/* p        must outlive the feed; fields 0 and 1 of a micro-batch are values and labels of its
 *          patches (hn_segmenter_batch)
 * Errors   HN_ERR_ARG; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_volume_feed_new(const hn_patches *p, const hn_volume_feed_options *o,
                                          hn_feed **out);

#ifdef __cplusplus
}
#endif
#endif
