/* Batches of tokens through a ring (prefetch_ring.h). */
#include <inttypes.h>

#include "runtime/data/data_util.h"
#include "runtime/data/loader.h"
#include "runtime/data/prefetch_ring.h"

struct hn_prefetch {
    const hn_loader *loader;
    hn_batch *batch;
    int64_t first;
    hn_share share;
    hn_ring *ring;
};

static hn_status fill(void *context, int64_t number, int slot)
{
    const hn_prefetch *p = context;
    return hn_loader_fill(p->loader, hn_share_at(p->share, p->first, number), &p->batch[slot]);
}

hn_status hn_prefetch_start(const hn_loader *l, int64_t first, hn_share share, int64_t n_total,
                            hn_batch *batch, int n, hn_prefetch **out)
{
    if (n < 2 || n_total < -1 || first < 0)
        return HN_FAIL(HN_ERR_ARG,
                       "prefetch of %" PRId64 " batches from %" PRId64 " through %d buffers",
                       n_total, first, n);
    hn_prefetch *p = hn_calloc(1, sizeof *p);
    if (p == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for prefetching", sizeof *p);
    p->loader = l;
    p->batch = batch;
    p->first = first;
    p->share = share;
    const hn_status st = hn_ring_start(fill, p, n, n_total, &p->ring);
    if (st == HN_OK)
        *out = p;
    else
        hn_free(p);
    return st;
}

hn_status hn_prefetch_next(hn_prefetch *p, const hn_batch **out)
{
    int slot = -1;
    HN_TRY(hn_ring_next(p->ring, &slot));
    *out = slot < 0 ? NULL : &p->batch[slot];
    return HN_OK;
}

void hn_prefetch_stop(hn_prefetch *p)
{
    if (p == NULL) return;
    hn_ring_stop(p->ring);
    hn_free(p);
}
