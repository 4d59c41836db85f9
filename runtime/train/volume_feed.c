#include "runtime/train/volume_feed.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/data/prefetch_ring.h"
#include "runtime/data/row_order.h"

enum { PREFETCH = 3, VALUE = 0, LABEL = 1 };

typedef struct {
    hn_feed feed;
    const hn_patches *patches;
    hn_volume_feed_options o;
    hn_row_order order;
    int64_t *first_tile; /* [regions + 1], evaluation */
    int64_t first;       /* micro-batch that was read ahead first */
    float *value[PREFETCH];
    int32_t *label[PREFETCH];
    hn_ring *ring; /* NULL: nobody reads ahead */
} volume_feed;

/* ---- rows ---- */

static hn_status training_row(const volume_feed *d, int64_t row, float *value, int32_t *label)
{
    const int64_t rows = d->feed.rows;
    const int64_t at = hn_row_order_at(&d->order, row / rows, row % rows);
    return hn_patches_draw(d->patches, at / d->o.per_region, (uint64_t)row, value, label, NULL);
}

static hn_status tile_row(const volume_feed *d, int64_t row, float *value, int32_t *label)
{
    int64_t region = 0;
    if (row >= d->feed.rows) {
        hn_patches_padding(d->patches, value, label);
        return HN_OK;
    }
    while (d->first_tile[region + 1] <= row) region++;
    return hn_patches_tile(d->patches, region, row - d->first_tile[region], value, label, NULL);
}

static hn_status fill_arrays(const volume_feed *d, int64_t micro_batch, float *value,
                             int32_t *label)
{
    const int64_t batch = d->o.batch, voxels = hn_patches_voxels(d->patches);
    const int64_t values = hn_patches_values(d->patches);
    if (micro_batch < 0 || micro_batch > INT64_MAX / batch - 1)
        return HN_FAIL(HN_ERR_ARG, "micro-batch %" PRId64, micro_batch);
    for (int64_t i = 0; i < batch; i++) {
        float *const v = value + i * values;
        int32_t *const l = label + i * voxels;
        const int64_t row = micro_batch * batch + i;
        HN_TRY(d->o.once ? tile_row(d, row, v, l) : training_row(d, row, v, l));
    }
    return HN_OK;
}

/* ---- the face ---- */

static hn_status fill(hn_feed *f, int64_t micro_batch, const hn_engine_input *to, int64_t *units)
{
    const volume_feed *d = (const volume_feed *)f;
    HN_TRY(fill_arrays(d, micro_batch, to->field[VALUE], to->field[LABEL]));
    const int64_t left = f->rows - micro_batch * d->o.batch;
    *units = !d->o.once || left > d->o.batch ? d->o.batch : left > 0 ? left : 0;
    return HN_OK;
}

static hn_status fill_slot(void *context, int64_t number, int slot)
{
    const volume_feed *d = context;
    const int64_t micro_batch = hn_share_at(d->feed.share, d->first, number);
    return fill_arrays(d, micro_batch, d->value[slot], d->label[slot]);
}

static hn_status start(hn_feed *f, int64_t first)
{
    volume_feed *d = (volume_feed *)f;
    const size_t n = (size_t)(d->o.batch * hn_patches_voxels(d->patches));
    const size_t values = (size_t)(d->o.batch * hn_patches_values(d->patches));
    d->first = first;
    for (int i = 0; i < PREFETCH; i++) {
        d->value[i] = hn_malloc(values * sizeof **d->value);
        d->label[i] = hn_malloc(n * sizeof **d->label);
        if (d->value[i] == NULL || d->label[i] == NULL)
            return HN_FAIL(HN_ERR_MEMORY, "no memory to read %zu voxels ahead", n);
    }
    return hn_ring_start(fill_slot, d, PREFETCH, -1, &d->ring);
}

static hn_status next(hn_feed *f, const hn_engine_input *to)
{
    const volume_feed *d = (const volume_feed *)f;
    const size_t n = (size_t)(d->o.batch * hn_patches_voxels(d->patches));
    const size_t values = (size_t)(d->o.batch * hn_patches_values(d->patches));
    int slot = -1;
    HN_TRY(hn_ring_next(d->ring, &slot));
    memcpy(to->field[VALUE], d->value[slot], values * sizeof **d->value);
    memcpy(to->field[LABEL], d->label[slot], n * sizeof **d->label);
    return HN_OK;
}

static void release(hn_feed *f)
{
    volume_feed *d = (volume_feed *)f;
    hn_ring_stop(d->ring);
    for (int i = 0; i < PREFETCH; i++) {
        hn_free(d->value[i]);
        hn_free(d->label[i]);
    }
    hn_free(d->first_tile);
    hn_free(d);
}

/* ---- opening ---- */

static hn_status count_tiles(volume_feed *d)
{
    const int64_t regions = hn_patches_regions(d->patches)->count;
    d->first_tile = hn_calloc((size_t)regions + 1, sizeof *d->first_tile);
    if (d->first_tile == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " regions", regions);
    for (int64_t i = 0; i < regions; i++)
        d->first_tile[i + 1] = d->first_tile[i] + hn_patches_tiles(d->patches, i);
    d->feed.rows = d->first_tile[regions];
    return HN_OK;
}

static hn_status check(const hn_patches *p, const hn_volume_feed_options *o)
{
    const int64_t regions = hn_patches_regions(p)->count;
    if (o->batch < 1 || o->batch > HN_NIFTI_MAX_VOXELS / hn_patches_voxels(p))
        return HN_FAIL(HN_ERR_ARG, "batches of %" PRId64 " patches of %" PRId64 " voxels", o->batch,
                       hn_patches_voxels(p));
    if (!o->once && (o->per_region < 1 || o->per_region > INT32_MAX / regions))
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " patches of each of %" PRId64 " regions",
                       o->per_region, regions);
    return HN_OK;
}

hn_status hn_volume_feed_new(const hn_patches *p, const hn_volume_feed_options *o, hn_feed **out)
{
    HN_TRY(check(p, o));
    volume_feed *d = hn_calloc(1, sizeof *d);
    if (d == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a feed", sizeof *d);
    *d = (volume_feed){.feed = {.rows = hn_patches_regions(p)->count * o->per_region,
                                .batch_rows = o->batch,
                                .fill = fill,
                                .start = start,
                                .next = next,
                                .free = release},
                       .patches = p,
                       .o = *o};
    const hn_status st = o->once ? count_tiles(d) : HN_OK;
    if (st != HN_OK) {
        release(&d->feed);
        return st;
    }
    if (!o->once) d->order = hn_row_order_make(o->seed, hn_hash_name("volume feed"), d->feed.rows);
    *out = &d->feed;
    return HN_OK;
}
