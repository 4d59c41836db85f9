/* decoder_feed.h - rows of tokens out of a loader, for the job of a decoder. */
#ifndef HN_DECODER_FEED_H
#define HN_DECODER_FEED_H
#include "runtime/data/loader.h"
#include "runtime/train/feed.h"

#ifdef __cplusplus
extern "C" {
#endif

/* l         must outlive the feed
 * max_seqs  sequences that the job's micro-batches have room for
 * Errors    HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_decoder_feed_new(const hn_loader *l, int64_t max_seqs, hn_feed **out);

#ifdef __cplusplus
}
#endif
#endif
