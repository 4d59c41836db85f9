#include "runtime/train/decoder_feed.h"

#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/decoder_job.h"

enum { PREFETCH = 3 };

typedef struct {
    hn_feed feed;
    const hn_loader *loader;
    int64_t max_seqs;
    hn_batch batch[PREFETCH];
    hn_prefetch *prefetch; /* NULL: nobody reads ahead */
} decoder_feed;

static hn_status fill(hn_feed *f, int64_t micro_batch, const hn_engine_input *to, int64_t *units)
{
    const decoder_feed *d = (const decoder_feed *)f;
    const hn_decoder_batch in = hn_decoder_batch_of(to);
    hn_batch b = {.tokens = in.tokens,
                  .labels = in.labels,
                  .positions = in.positions,
                  .seq_offsets = in.offsets,
                  .max_seqs = d->max_seqs};
    HN_TRY(hn_loader_fill(d->loader, micro_batch, &b));
    *units = b.n_tokens;
    return HN_OK;
}

static hn_status start(hn_feed *f, int64_t first)
{
    decoder_feed *d = (decoder_feed *)f;
    for (int i = 0; i < PREFETCH; i++) HN_TRY(hn_batch_make(d->loader, d->max_seqs, &d->batch[i]));
    return hn_prefetch_start(d->loader, first, f->share, -1, d->batch, PREFETCH, &d->prefetch);
}

static hn_status next(hn_feed *f, const hn_engine_input *to)
{
    const decoder_feed *d = (const decoder_feed *)f;
    const hn_decoder_batch in = hn_decoder_batch_of(to);
    const size_t n = (size_t)(f->batch_rows * hn_loader_settings(d->loader)->seq_len);
    const hn_batch *b = NULL;
    HN_TRY(hn_prefetch_next(d->prefetch, &b));
    memcpy(in.tokens, b->tokens, n * sizeof *in.tokens);
    memcpy(in.labels, b->labels, n * sizeof *in.labels);
    memcpy(in.positions, b->positions, n * sizeof *in.positions);
    memcpy(in.offsets, b->seq_offsets, ((size_t)d->max_seqs + 1) * sizeof *in.offsets);
    return HN_OK;
}

static void release(hn_feed *f)
{
    decoder_feed *d = (decoder_feed *)f;
    hn_prefetch_stop(d->prefetch);
    for (int i = 0; i < PREFETCH; i++) hn_batch_free(&d->batch[i]);
    hn_free(d);
}

hn_status hn_decoder_feed_new(const hn_loader *l, int64_t max_seqs, hn_feed **out)
{
    decoder_feed *d = hn_calloc(1, sizeof *d);
    if (d == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a feed", sizeof *d);
    *d = (decoder_feed){.feed = {.rows = hn_loader_rows_per_epoch(l),
                                 .batch_rows = hn_loader_settings(l)->batch_rows,
                                 .fill = fill,
                                 .start = start,
                                 .next = next,
                                 .free = release},
                        .loader = l,
                        .max_seqs = max_seqs};
    *out = &d->feed;
    return HN_OK;
}
