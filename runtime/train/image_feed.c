#include "runtime/train/image_feed.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"

enum { PREFETCH = 3 };

typedef struct {
    hn_feed feed;
    const hn_image_loader *loader;
    const hn_classifier_job *job;
    hn_image_batch batch[PREFETCH];
    hn_image_prefetch *prefetch; /* NULL: nobody reads ahead */
} image_feed;

static hn_status fill(hn_feed *f, int64_t micro_batch, const hn_engine_input *to, int64_t *units)
{
    const image_feed *d = (const image_feed *)f;
    const hn_classifier_batch in = hn_classifier_batch_of(d->job, to);
    hn_image_batch b = {.index = in.index, .label = in.label, .pixel = in.pixel};
    HN_TRY(hn_image_loader_fill(d->loader, micro_batch, &b));
    *units = b.n_images;
    return HN_OK;
}

static hn_status start(hn_feed *f, int64_t first)
{
    image_feed *d = (image_feed *)f;
    for (int i = 0; i < PREFETCH; i++) HN_TRY(hn_image_batch_make(d->loader, &d->batch[i]));
    return hn_image_prefetch_start(d->loader, first, f->share, -1, d->batch, PREFETCH,
                                   &d->prefetch);
}

static hn_status next(hn_feed *f, const hn_engine_input *to)
{
    const image_feed *d = (const image_feed *)f;
    const hn_classifier_batch in = hn_classifier_batch_of(d->job, to);
    const hn_images *s = hn_image_set_view(hn_image_loader_set(d->loader));
    const size_t n = (size_t)f->batch_rows;
    const hn_image_batch *b = NULL;
    HN_TRY(hn_image_prefetch_next(d->prefetch, &b));
    memcpy(in.index, b->index, n * sizeof *in.index);
    memcpy(in.label, b->label, n * sizeof *in.label);
    if (b->pixel != NULL) memcpy(in.pixel, b->pixel, n * (size_t)(s->h * s->w * s->c));
    return HN_OK;
}

static void release(hn_feed *f)
{
    image_feed *d = (image_feed *)f;
    hn_image_prefetch_stop(d->prefetch);
    for (int i = 0; i < PREFETCH; i++) hn_image_batch_free(&d->batch[i]);
    hn_free(d);
}

static hn_status check(const hn_image_loader *l, const hn_classifier_job *j)
{
    const hn_image_loader_options *o = hn_image_loader_settings(l);
    const bool streams = o->once ? j->o.stream_eval : j->o.stream_train;
    if (o->batch != j->o.batch || hn_image_loader_resident(l) == streams)
        return HN_FAIL(
            HN_ERR_ARG, "the loader has batches of %" PRId64 "%s, the job of %" PRId64 "%s",
            o->batch, streams ? "" : " with pixels", j->o.batch, streams ? " with pixels" : "");
    if (hn_image_loader_classes(l) > j->o.config->classes)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " classes, the data have %d",
                       j->o.config->architecture, j->o.config->classes,
                       (int)hn_image_loader_classes(l));
    if (!o->once && o->epoch_end == HN_EPOCH_PAD && !j->o.frozen_norm &&
        hn_vision_has_batch_norm(j->o.config))
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: epochs that end with padding, which batch norm would count as images",
                       j->o.config->architecture);
    return HN_OK;
}

hn_status hn_image_feed_new(const hn_image_loader *l, const hn_classifier_job *j, hn_feed **out)
{
    HN_TRY(check(l, j));
    image_feed *d = hn_calloc(1, sizeof *d);
    if (d == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a feed", sizeof *d);
    *d = (image_feed){.feed = {.rows = hn_image_loader_rows(l),
                               .batch_rows = hn_image_loader_settings(l)->batch,
                               .fill = fill,
                               .start = start,
                               .next = next,
                               .free = release},
                      .loader = l,
                      .job = j};
    *out = &d->feed;
    return HN_OK;
}
