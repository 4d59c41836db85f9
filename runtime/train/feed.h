/* feed.h - where micro-batches come from, whatever they hold: a data loader and, for training, a
 * thread that reads ahead. A micro-batch is a function of its number alone. */
#ifndef HN_FEED_H
#define HN_FEED_H
#include "runtime/data/share.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_feed hn_feed;

struct hn_feed {
    int64_t rows, batch_rows; /* of an epoch, of a micro-batch */
    hn_share share;           /* of next; to be set before start. Zeros: every micro-batch */

    /* Fills a micro-batch. *units: how many tokens, images it has, padding left out. */
    hn_status (*fill)(hn_feed *f, int64_t micro_batch, const hn_engine_input *to, int64_t *units);
    /* Begins to read ahead, from that micro-batch on, with which a step begins; next gives those
     * of the share one by one. */
    hn_status (*start)(hn_feed *f, int64_t first);
    hn_status (*next)(hn_feed *f, const hn_engine_input *to);
    void (*free)(hn_feed *f);
};

static inline void hn_feed_free(hn_feed *f)
{
    if (f != NULL) f->free(f);
}

/* Epochs that are over when micro_batch begins, as a fraction. */
static inline double hn_feed_epoch_at(const hn_feed *f, int64_t micro_batch)
{
    return (double)(micro_batch * f->batch_rows) / (double)f->rows;
}

/* Micro-batches that cover all rows once. */
static inline int64_t hn_feed_batches(const hn_feed *f)
{
    return (f->rows + f->batch_rows - 1) / f->batch_rows;
}

#ifdef __cplusplus
}
#endif
#endif
