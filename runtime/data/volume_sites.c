/* Regions of volumes: whole ones, boxes of tissue as sites, held-out ends. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/data/volume_patch.h"

void hn_regions_free(hn_regions *r)
{
    if (r == NULL) return;
    hn_free(r->region);
    *r = (hn_regions){0};
}

static hn_status room(int64_t count, hn_regions *out)
{
    if (count > INT32_MAX) return HN_FAIL(HN_ERR_ARG, "%" PRId64 " regions of volumes", count);
    *out = (hn_regions){.count = count, .region = hn_calloc((size_t)count, sizeof *out->region)};
    if (out->region == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " regions", count);
    for (int64_t i = 0; i < count; i++)
        for (int c = 0; c < HN_VOLUME_CHANNELS; c++) out->region[i].scale[c] = 1;
    return HN_OK;
}

/* ---- volumes ---- */

/* The number of the first volume with the site of volume i. */
static int64_t first_of_site(const hn_volumes *v, int64_t i)
{
    int64_t k = 0;
    while (strcmp(v->volume[k].site, v->volume[i].site) != 0) k++;
    return k;
}

hn_status hn_regions_of_volumes(const hn_volumes *v, hn_regions *out)
{
    hn_regions r = {0};
    const bool named = v->volume[0].site[0] != '\0';
    for (int64_t i = 0; i < v->count; i++)
        if ((v->volume[i].site[0] != '\0') != named)
            return HN_FAIL(HN_ERR_ARG, "%s has a site, %s has none", v->volume[named ? 0 : i].name,
                           v->volume[named ? i : 0].name);
    HN_TRY(room(v->count, &r));
    for (int64_t i = 0; i < v->count; i++) {
        hn_region *p = &r.region[i];
        p->volume = i;
        memcpy(p->size, v->volume[i].size, sizeof p->size);
        const int64_t first = named ? first_of_site(v, i) : i;
        p->site = first < i ? r.region[first].site : r.n_sites++;
    }
    *out = r;
    return HN_OK;
}

/* ---- boxes ---- */

/* The smallest box that holds all labelled voxels; the volume where there are none. */
static void tissue_box(const hn_volume *v, int64_t at[3], int64_t size[3])
{
    int64_t low[3] = {v->size[0], v->size[1], v->size[2]}, high[3] = {-1, -1, -1};
    const uint8_t *label = v->label;
    for (int64_t x = 0; x < v->size[0] && label != NULL; x++)
        for (int64_t y = 0; y < v->size[1]; y++)
            for (int64_t z = 0; z < v->size[2]; z++) {
                if (*label++ == 0) continue;
                const int64_t place[3] = {x, y, z};
                for (int a = 0; a < 3; a++) {
                    if (place[a] < low[a]) low[a] = place[a];
                    if (place[a] > high[a]) high[a] = place[a];
                }
            }
    for (int a = 0; a < 3; a++) {
        at[a] = high[0] < 0 ? 0 : low[a];
        size[a] = high[0] < 0 ? v->size[a] : high[a] + 1 - low[a];
    }
}

static float spread(float around, float width, uint32_t word)
{
    return around + width * (2 * hn_rng_unit(word) - 1);
}

static void cut_box(const hn_site_options *o, int64_t volume, const int64_t at[3],
                    const int64_t size[3], hn_regions *r)
{
    const hn_rng rng = hn_rng_make(o->seed, 0, hn_hash_name("volume site"));
    const int64_t *cuts = o->cuts, boxes = cuts[0] * cuts[1] * cuts[2];
    for (int64_t i = 0; i < boxes; i++) {
        const int64_t box[3] = {i / (cuts[1] * cuts[2]), i / cuts[2] % cuts[1], i % cuts[2]};
        hn_region *p = &r->region[r->n_sites];
        uint32_t word[4];
        p->volume = volume;
        p->site = r->n_sites++;
        for (int a = 0; a < 3; a++) {
            const int64_t from = box[a] * size[a] / cuts[a], to = (box[a] + 1) * size[a] / cuts[a];
            p->at[a] = at[a] + from;
            p->size[a] = to - from;
        }
        for (uint32_t c = 0; c < HN_VOLUME_CHANNELS; c++) {
            hn_rng_block(rng, (uint64_t)p->site, c, word);
            p->scale[c] = spread(1, o->scale_spread, word[0]);
            p->shift[c] = spread(0, o->shift_spread, word[1]);
        }
    }
}

hn_status hn_regions_cut(const hn_volumes *v, const hn_site_options *o, hn_regions *out)
{
    hn_regions r = {0};
    const int64_t *cuts = o->cuts;
    for (int a = 0; a < 3; a++)
        if (cuts[a] < 1 || cuts[a] > HN_NIFTI_MAX_SIDE)
            return HN_FAIL(HN_ERR_ARG, "%" PRId64 " x %" PRId64 " x %" PRId64 " sites of a volume",
                           cuts[0], cuts[1], cuts[2]);
    if (!(o->scale_spread >= 0 && o->scale_spread < 1) ||
        !(o->shift_spread >= 0 && isfinite(o->shift_spread)))
        return HN_FAIL(HN_ERR_ARG, "sites: scale by 1 +- %g (below 1), shift by +- %g",
                       (double)o->scale_spread, (double)o->shift_spread);
    const int64_t boxes = cuts[0] * cuts[1] * cuts[2]; /* below 2^45 */
    if (boxes > INT32_MAX / v->count)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " sites of each of %" PRId64 " volumes", boxes,
                       v->count);
    HN_TRY(room(v->count * boxes, &r));
    for (int64_t i = 0; i < v->count; i++) {
        int64_t at[3], size[3];
        tissue_box(&v->volume[i], at, size);
        for (int a = 0; a < 3; a++)
            if (cuts[a] > size[a]) {
                hn_regions_free(&r);
                return HN_FAIL(HN_ERR_SHAPE,
                               "%s: %" PRId64 " sites along axis %d of %" PRId64 " voxels",
                               v->volume[i].name, cuts[a], a, size[a]);
            }
        cut_box(o, i, at, size, &r);
    }
    *out = r;
    return HN_OK;
}

/* ---- held-out ends ---- */

hn_status hn_regions_hold_out(const hn_regions *r, double share, hn_regions *train,
                              hn_regions *eval)
{
    hn_regions a = {0}, b = {0};
    hn_status st = HN_OK;
    if (!(share > 0 && share < 1))
        return HN_FAIL(HN_ERR_ARG, "a share of %g held out: between 0 and 1", share);
    HN_TRY_GOTO(st, room(r->count, &a), done);
    HN_TRY_GOTO(st, room(r->count, &b), done);
    a.n_sites = b.n_sites = r->n_sites;
    for (int64_t i = 0; i < r->count; i++) {
        const int64_t *size = r->region[i].size;
        const int axis = size[1] > size[0]   ? (size[2] > size[1] ? 2 : 1)
                         : size[2] > size[0] ? 2
                                             : 0;
        const int64_t n = size[axis];
        int64_t held = (int64_t)llround(share * (double)n);
        if (n < 2) {
            st = HN_FAIL(HN_ERR_SHAPE, "region %" PRId64 " has one voxel: nothing can be held out",
                         i);
            goto done;
        }
        if (held < 1) held = 1;
        if (held > n - 1) held = n - 1;
        a.region[i] = b.region[i] = r->region[i];
        a.region[i].size[axis] = n - held;
        b.region[i].at[axis] += n - held;
        b.region[i].size[axis] = held;
    }
    *train = a;
    *eval = b;
    a = b = (hn_regions){0};

done:
    hn_regions_free(&a);
    hn_regions_free(&b);
    return st;
}
