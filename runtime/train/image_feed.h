/* image_feed.h - micro-batches of images out of a loader, for the job of a classifier. */
#ifndef HN_IMAGE_FEED_H
#define HN_IMAGE_FEED_H
#include "runtime/data/image_loader.h"
#include "runtime/train/classifier_job.h"
#include "runtime/train/feed.h"

#ifdef __cplusplus
extern "C" {
#endif

/* l, j     must outlive the feed; the loader streams where the job does
 * Errors   HN_ERR_UNSUPPORTED: a loader for training that pads (HN_EPOCH_PAD), and a model whose
 *          batch norm would take the padding for images; HN_ERR_ARG: loader and job do not agree
 *          about batch and streaming; HN_ERR_SHAPE: more classes than the model has; HN_ERR_MEMORY
 */
HN_NODISCARD hn_status hn_image_feed_new(const hn_image_loader *l, const hn_classifier_job *j,
                                         hn_feed **out);

#ifdef __cplusplus
}
#endif
#endif
