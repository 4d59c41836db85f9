#include "runtime/data/image_loader.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/rng.h"
#include "runtime/data/data_util.h"
#include "runtime/data/loader.h" /* HN_LABEL_IGNORED */
#include "runtime/data/prefetch_ring.h"
#include "runtime/data/row_order.h"

struct hn_image_loader {
    hn_image_loader_options o; /* world settled */
    const hn_image_set *set;
    hn_image_view view; /* index NULL: the whole set */
    int64_t rows;       /* images of an epoch */
    int64_t batches;    /* of an epoch; JOIN: not used */
    bool resident;
    hn_row_order order;
};

static bool joins(const hn_image_loader *l)
{
    return !l->o.once && l->o.epoch_end == HN_EPOCH_JOIN;
}

/* ---- open ---- */

static hn_status settle(hn_image_loader *l)
{
    hn_image_loader_options *o = &l->o;
    if (o->world == 0) o->world = 1;
    if (o->world < 1 || o->rank < 0 || o->rank >= o->world)
        return HN_FAIL(HN_ERR_ARG, "rank %d of %d", o->rank, o->world);
    if (o->batch < 1 || o->batch > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "batch of %" PRId64 " images: 1..%d", o->batch, INT32_MAX);
    const int64_t step = o->batch * o->world;
    const bool drops = !o->once && o->epoch_end == HN_EPOCH_DROP;
    l->batches = drops ? l->rows / step : (l->rows + step - 1) / step;
    if (l->batches == 0)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: %" PRId64 " images do not fill one batch of %" PRId64
                       ", and batches that are not full are dropped",
                       hn_image_set_name(l->set), l->rows, step);
    l->resident = hn_image_set_bytes(l->set) <= o->resident_bytes;
    return HN_OK;
}

static hn_status copy_view(const hn_image_view *v, int64_t count, hn_image_view *to)
{
    const size_t n = (size_t)v->n * sizeof *v->index;
    if (v->n < 1) return HN_FAIL(HN_ERR_ARG, "a view of no images");
    for (int64_t i = 0; i < v->n; i++)
        if (v->index[i] < 0 || v->index[i] >= count)
            return HN_FAIL(HN_ERR_ARG, "image %d of %" PRId64, (int)v->index[i], count);
    *to = (hn_image_view){
        .index = hn_malloc(n), .label = hn_malloc(n), .n = v->n, .n_classes = v->n_classes};
    if (to->index == NULL || to->label == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " image numbers", v->n);
    memcpy(to->index, v->index, n);
    memcpy(to->label, v->label, n);
    return HN_OK;
}

hn_status hn_image_loader_open(const hn_image_set *s, const hn_image_view *view,
                               const hn_image_loader_options *o, hn_image_loader **out)
{
    hn_status st = HN_OK;
    const int64_t count = hn_image_set_view(s)->count;
    hn_image_loader *l = hn_calloc(1, sizeof *l);
    if (l == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a loader", sizeof *l);
    l->o = *o;
    l->set = s;
    l->rows = view ? view->n : count;
    if (view != NULL) HN_TRY_GOTO(st, copy_view(view, count, &l->view), done);
    HN_TRY_GOTO(st, settle(l), done);
    /* streams 2n and 2n + 1 are the same one to hn_rng_make */
    const uint64_t stream = hn_hash_name("data.images") + UINT64_C(2) * o->salt;
    l->order = hn_row_order_make(o->seed, stream, l->rows);
    *out = l;
    l = NULL;

done:
    hn_image_loader_free(l);
    return st;
}

void hn_image_loader_free(hn_image_loader *l)
{
    if (l == NULL) return;
    hn_image_view_free(&l->view);
    hn_free(l);
}

/* ---- filling ---- */

/* Epoch and place in it of row i of a micro-batch; false: padding. */
static bool place_of(const hn_image_loader *l, int64_t micro_batch, int64_t i, int64_t *epoch,
                     int64_t *at)
{
    const int64_t batch = l->o.batch, world = l->o.world;
    if (joins(l)) {
        const int64_t g = (micro_batch * world + l->o.rank) * batch + i;
        *epoch = g / l->rows;
        *at = g % l->rows;
        return true;
    }
    *epoch = micro_batch / l->batches;
    *at = (micro_batch % l->batches * world + l->o.rank) * batch + i;
    return *at < l->rows && (!l->o.once || *epoch == 0);
}

static void fill_row(const hn_image_loader *l, int64_t micro_batch, int64_t i, hn_image_batch *b)
{
    const hn_images *v = hn_image_set_view(l->set);
    const size_t image = (size_t)(v->h * v->w * v->c);
    int64_t epoch = 0, at = 0;
    int32_t number = -1, label = HN_LABEL_IGNORED;
    if (place_of(l, micro_batch, i, &epoch, &at)) {
        const int64_t row = l->o.shuffle ? hn_row_order_at(&l->order, epoch, at) : at;
        number = l->view.index ? l->view.index[row] : (int32_t)row;
        label = l->view.label ? l->view.label[row] : v->label[number];
        b->n_images++;
    }
    if (b->image != NULL) b->image[i] = number;
    b->label[i] = label;
    if (b->index != NULL) b->index[i] = number < 0 || l->resident ? number : (int32_t)i;
    if (l->resident) return;
    if (number < 0)
        memset(b->pixel + (size_t)i * image, 0, image);
    else
        memcpy(b->pixel + (size_t)i * image, v->pixel + (size_t)number * image, image);
}

hn_status hn_image_loader_fill(const hn_image_loader *l, int64_t micro_batch, hn_image_batch *b)
{
    const int64_t batch = l->o.batch, world = l->o.world;
    if (micro_batch < 0 || micro_batch > INT64_MAX / batch / world - 1)
        return HN_FAIL(HN_ERR_ARG, "micro-batch %" PRId64, micro_batch);
    const bool numbers = b->image != NULL || b->index != NULL;
    if (!numbers || b->label == NULL || (!l->resident && b->pixel == NULL))
        return HN_FAIL(HN_ERR_ARG, "a batch without room for %s",
                       numbers && b->label ? "pixels" : "numbers and labels");
    b->n_images = 0;
    b->first_row = (micro_batch * world + l->o.rank) * batch;
    for (int64_t i = 0; i < batch; i++) fill_row(l, micro_batch, i, b);
    return HN_OK;
}

/* ---- figures ---- */

const hn_image_loader_options *hn_image_loader_settings(const hn_image_loader *l) { return &l->o; }
const hn_image_set *hn_image_loader_set(const hn_image_loader *l) { return l->set; }
bool hn_image_loader_resident(const hn_image_loader *l) { return l->resident; }
int64_t hn_image_loader_rows(const hn_image_loader *l) { return l->rows; }

int32_t hn_image_loader_classes(const hn_image_loader *l)
{
    return l->view.index ? l->view.n_classes : hn_image_set_view(l->set)->n_classes;
}

int64_t hn_image_loader_batches(const hn_image_loader *l, int64_t epoch)
{
    const int64_t step = l->o.batch * l->o.world;
    if (l->o.once) return epoch == 0 ? l->batches : 0;
    if (!joins(l)) return l->batches;
    return ((epoch + 1) * l->rows + step - 1) / step - (epoch * l->rows + step - 1) / step;
}

double hn_image_loader_epoch_at(const hn_image_loader *l, int64_t micro_batch)
{
    if (!joins(l)) return (double)micro_batch / (double)l->batches;
    return (double)micro_batch * (double)(l->o.batch * l->o.world) / (double)l->rows;
}

/* ---- batches ---- */

hn_status hn_image_batch_make(const hn_image_loader *l, hn_image_batch *out)
{
    const hn_images *v = hn_image_set_view(l->set);
    const size_t n = (size_t)l->o.batch, numbers = n * sizeof(int32_t);
    const size_t pixels = l->resident ? 0 : n * (size_t)(v->h * v->w * v->c);
    hn_image_batch b = {.image = hn_malloc(numbers),
                        .index = hn_malloc(numbers),
                        .label = hn_malloc(numbers),
                        .pixel = l->resident ? NULL : hn_malloc(pixels)};
    if (b.image == NULL || b.index == NULL || b.label == NULL || (pixels > 0 && b.pixel == NULL)) {
        hn_image_batch_free(&b);
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a batch", 3 * numbers + pixels);
    }
    *out = b;
    return HN_OK;
}

void hn_image_batch_free(hn_image_batch *b)
{
    if (b == NULL) return;
    hn_free(b->image);
    hn_free(b->index);
    hn_free(b->label);
    hn_free(b->pixel);
    *b = (hn_image_batch){0};
}

/* ---- ahead of the caller ---- */

struct hn_image_prefetch {
    const hn_image_loader *loader;
    hn_image_batch *batch;
    int64_t first;
    hn_share share;
    hn_ring *ring;
};

static hn_status fill(void *context, int64_t number, int slot)
{
    const hn_image_prefetch *p = context;
    return hn_image_loader_fill(p->loader, hn_share_at(p->share, p->first, number),
                                &p->batch[slot]);
}

hn_status hn_image_prefetch_start(const hn_image_loader *l, int64_t first, hn_share share,
                                  int64_t n_total, hn_image_batch *batch, int n,
                                  hn_image_prefetch **out)
{
    if (n < 2 || n_total < -1 || first < 0)
        return HN_FAIL(HN_ERR_ARG,
                       "prefetch of %" PRId64 " batches from %" PRId64 " through %d buffers",
                       n_total, first, n);
    hn_image_prefetch *p = hn_calloc(1, sizeof *p);
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

hn_status hn_image_prefetch_next(hn_image_prefetch *p, const hn_image_batch **out)
{
    int slot = -1;
    HN_TRY(hn_ring_next(p->ring, &slot));
    *out = slot < 0 ? NULL : &p->batch[slot];
    return HN_OK;
}

void hn_image_prefetch_stop(hn_image_prefetch *p)
{
    if (p == NULL) return;
    hn_ring_stop(p->ring);
    hn_free(p);
}
