#include "runtime/data/volume_patch.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/base/rng.h"

/* What a row's random words are for. */
enum { DRAW_CHANCE, DRAW_VOXEL, DRAW_PLACE /* and the two behind it */ };

struct hn_patches {
    const hn_volumes *v;
    const hn_regions *r;
    hn_patch_options o;
    hn_rng rng;
    int64_t *
        *before; /* [regions][lines + 1] labelled voxels before each line along w; NULL: none */
};

/* ---- opening ---- */

static bool share(double p) { return p >= 0 && p <= 1; }

static hn_status check(const hn_volumes *v, const hn_regions *r, const hn_patch_options *o)
{
    for (int a = 0; a < 3; a++)
        if (o->size[a] < 1 || o->size[a] > HN_NIFTI_MAX_SIDE)
            return HN_FAIL(HN_ERR_ARG, "patches of %" PRId64 " x %" PRId64 " x %" PRId64 " voxels",
                           o->size[0], o->size[1], o->size[2]);
    if (o->size[0] * o->size[1] * o->size[2] > HN_NIFTI_MAX_VOXELS)
        return HN_FAIL(HN_ERR_ARG, "patches of more than %d voxels", HN_NIFTI_MAX_VOXELS);
    if (!share(o->foreground) || !share(o->flip[0]) || !share(o->flip[1]) || !share(o->flip[2]) ||
        !isfinite(o->pad))
        return HN_FAIL(HN_ERR_ARG, "patches: foreground %g, flips %g %g %g, padding %g",
                       o->foreground, o->flip[0], o->flip[1], o->flip[2], (double)o->pad);
    if (o->foreground > 0 && !v->labelled)
        return HN_FAIL(HN_ERR_ARG, "patches that hold foreground of volumes without labels");
    if (r->count < 1) return HN_FAIL(HN_ERR_ARG, "patches out of no region");
    for (int64_t i = 0; i < r->count; i++) {
        const hn_region *p = &r->region[i];
        bool inside = p->volume >= 0 && p->volume < v->count;
        for (int a = 0; a < 3 && inside; a++) {
            const int64_t length = v->volume[p->volume].size[a];
            inside = p->at[a] >= 0 && p->size[a] >= 1 && p->size[a] <= length &&
                     p->at[a] <= length - p->size[a];
        }
        if (!inside) return HN_FAIL(HN_ERR_ARG, "region %" PRId64 " is outside of its volume", i);
    }
    return HN_OK;
}

/* Labelled voxels of the line (x, y) of a region. */
static const uint8_t *label_line(const hn_volume *v, const hn_region *p, int64_t x, int64_t y)
{
    return v->label + ((p->at[0] + x) * v->size[1] + p->at[1] + y) * v->size[2] + p->at[2];
}

static hn_status count_region(hn_patches *s, int64_t i)
{
    const hn_region *p = &s->r->region[i];
    const hn_volume *v = &s->v->volume[p->volume];
    const int64_t lines = p->size[0] * p->size[1];
    int64_t *before = hn_malloc(((size_t)lines + 1) * sizeof *before);
    s->before[i] = before;
    if (before == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " lines", lines);
    before[0] = 0;
    for (int64_t l = 0; l < lines; l++) {
        const uint8_t *label = label_line(v, p, l / p->size[1], l % p->size[1]);
        int64_t n = 0;
        for (int64_t z = 0; z < p->size[2]; z++) n += label[z] != 0;
        before[l + 1] = before[l] + n;
    }
    return HN_OK;
}

hn_status hn_patches_open(const hn_volumes *v, const hn_regions *r, const hn_patch_options *o,
                          hn_patches **out)
{
    HN_TRY(check(v, r, o));
    hn_patches *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for patches", sizeof *s);
    *s = (hn_patches){.v = v, .r = r, .o = *o};
    s->rng = hn_rng_make(o->seed, 0, hn_hash_name("volume patch"));
    hn_status st = HN_OK;
    if (v->labelled) {
        s->before = hn_calloc((size_t)r->count, sizeof *s->before);
        if (s->before == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for patches");
        for (int64_t i = 0; st == HN_OK && i < r->count; i++) st = count_region(s, i);
    }
    if (st == HN_OK)
        *out = s;
    else
        hn_patches_free(s);
    return st;
}

void hn_patches_free(hn_patches *s)
{
    if (s == NULL) return;
    for (int64_t i = 0; s->before != NULL && i < s->r->count; i++) hn_free(s->before[i]);
    hn_free(s->before);
    hn_free(s);
}

int64_t hn_patches_voxels(const hn_patches *s)
{
    return s->o.size[0] * s->o.size[1] * s->o.size[2];
}
int32_t hn_patches_channels(const hn_patches *s) { return s->v->channels; }
int64_t hn_patches_values(const hn_patches *s) { return hn_patches_voxels(s) * s->v->channels; }
const hn_patch_options *hn_patches_settings(const hn_patches *s) { return &s->o; }
const hn_regions *hn_patches_regions(const hn_patches *s) { return s->r; }

int64_t hn_patches_foreground(const hn_patches *s, int64_t region)
{
    const int64_t *size = s->r->region[region].size;
    return s->before ? s->before[region][size[0] * size[1]] : 0;
}

/* ---- places ---- */

/* Labelled voxel k of a region, in its order, counted in the volume. */
static void find_voxel(const hn_patches *s, int64_t region, int64_t k, int64_t place[3])
{
    const hn_region *p = &s->r->region[region];
    const int64_t *before = s->before[region];
    int64_t low = 0, high = p->size[0] * p->size[1]; /* before[low] <= k < before[high] */
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (before[middle] <= k)
            low = middle;
        else
            high = middle;
    }
    const int64_t x = low / p->size[1], y = low % p->size[1];
    const uint8_t *label = label_line(&s->v->volume[p->volume], p, x, y);
    int64_t z = 0;
    for (int64_t left = k - before[low]; label[z] == 0 || left-- > 0;) z++;
    place[0] = p->at[0] + x;
    place[1] = p->at[1] + y;
    place[2] = p->at[2] + z;
}

static void draw_place(const hn_patches *s, int64_t region, uint64_t row, hn_patch_place *out)
{
    const hn_region *p = &s->r->region[region];
    const int64_t labelled = hn_patches_foreground(s, region);
    int64_t voxel[3] = {0};
    uint32_t word[4];
    hn_rng_block(s->rng, row, DRAW_CHANCE, word);
    const bool around = labelled > 0 && (double)hn_rng_unit(word[0]) < s->o.foreground;
    if (around)
        find_voxel(s, region, (int64_t)hn_rng_below(s->rng, row, DRAW_VOXEL, (uint64_t)labelled),
                   voxel);
    for (int a = 0; a < 3; a++) {
        const int64_t size = s->o.size[a], spare = p->size[a] - size;
        int64_t low = p->at[a], high = p->at[a] + spare;
        if (around && low < voxel[a] - size + 1) low = voxel[a] - size + 1;
        if (around && high > voxel[a]) high = voxel[a];
        out->flip[a] = (double)hn_rng_unit(word[1 + a]) < s->o.flip[a];
        out->at[a] = spare < 0
                         ? p->at[a] - (-spare) / 2
                         : low + (int64_t)hn_rng_below(s->rng, row, (uint32_t)(DRAW_PLACE + a),
                                                       (uint64_t)(high - low + 1));
    }
}

/* ---- voxels ---- */

/* n voxels of padding. */
static void pad_line(const hn_patches *s, int64_t n, float *value, int32_t *label)
{
    const int64_t values = n * s->v->channels;
    for (int64_t i = 0; i < values; i++) value[i] = s->o.pad;
    for (int64_t i = 0; label != NULL && i < n; i++) label[i] = HN_LABEL_IGNORED;
}

/* The voxels of one line along w, the first of them at place (x, y, z) of the volume: padding, and
 * over it those of the region. */
static void copy_line(const hn_patches *s, const hn_region *p, const int64_t from[3], bool flip,
                      float *value, int32_t *label)
{
    const hn_volume *v = &s->v->volume[p->volume];
    const int64_t n = s->o.size[2], channels = v->channels, ahead = p->at[2] - from[2];
    bool inside = true;
    for (int a = 0; a < 2; a++)
        inside = inside && from[a] >= p->at[a] && from[a] < p->at[a] + p->size[a];
    const int64_t low = ahead > 0 ? ahead : 0; /* voxels low .. high - 1, before they are flipped */
    const int64_t high = !inside ? low : ahead + p->size[2] < n ? ahead + p->size[2] : n;
    const int64_t base = inside ? (from[0] * v->size[1] + from[1]) * v->size[2] + from[2] : 0;
    const int64_t start = flip ? n - 1 : 0, step = flip ? -1 : 1;
    if (high - low < n) pad_line(s, n, value, label);
    for (int64_t c = 0; c < channels; c++) {
        const float scale = p->scale[c], shift = p->shift[c];
        for (int64_t k = low; k < high; k++)
            value[(start + step * k) * channels + c] =
                scale * v->value[(base + k) * channels + c] + shift;
    }
    for (int64_t k = low; k < high && label != NULL; k++)
        label[start + step * k] = (int32_t)v->label[base + k];
}

static void copy_patch(const hn_patches *s, const hn_region *p, const hn_patch_place *place,
                       float *value, int32_t *label)
{
    const int64_t *size = s->o.size;
    for (int64_t i = 0; i < size[0]; i++)
        for (int64_t j = 0; j < size[1]; j++) {
            const int64_t from[3] = {place->at[0] + (place->flip[0] ? size[0] - 1 - i : i),
                                     place->at[1] + (place->flip[1] ? size[1] - 1 - j : j),
                                     place->at[2]};
            const int64_t at = (i * size[1] + j) * size[2];
            copy_line(s, p, from, place->flip[2], value + at * s->v->channels,
                      label ? label + at : NULL);
        }
}

static hn_status check_call(const hn_patches *s, int64_t region, const int32_t *label)
{
    if (region < 0 || region >= s->r->count)
        return HN_FAIL(HN_ERR_ARG, "a patch of region %" PRId64 " of %" PRId64, region,
                       s->r->count);
    if (label != NULL && !s->v->labelled)
        return HN_FAIL(HN_ERR_ARG, "labels of volumes without labels");
    return HN_OK;
}

hn_status hn_patches_draw(const hn_patches *s, int64_t region, uint64_t row, float *value,
                          int32_t *label, hn_patch_place *place)
{
    hn_patch_place where;
    HN_TRY(check_call(s, region, label));
    draw_place(s, region, row, &where);
    copy_patch(s, &s->r->region[region], &where, value, label);
    if (place != NULL) *place = where;
    return HN_OK;
}

void hn_patches_padding(const hn_patches *s, float *value, int32_t *label)
{
    pad_line(s, hn_patches_voxels(s), value, label);
}

hn_status hn_patches_batch(const hn_patches *s, const int32_t *region, int64_t n,
                           uint64_t first_row, float *value, int32_t *label)
{
    const int64_t voxels = hn_patches_voxels(s), values = hn_patches_values(s);
    for (int64_t i = 0; i < n; i++) {
        float *v = value + i * values;
        int32_t *l = label ? label + i * voxels : NULL;
        if (region[i] == -1)
            hn_patches_padding(s, v, l);
        else
            HN_TRY(hn_patches_draw(s, region[i], first_row + (uint64_t)i, v, l, NULL));
    }
    return HN_OK;
}

/* ---- tiles ---- */

static int64_t tiles_along(const hn_patches *s, const hn_region *p, int axis)
{
    return (p->size[axis] + s->o.size[axis] - 1) / s->o.size[axis];
}

int64_t hn_patches_tiles(const hn_patches *s, int64_t region)
{
    const hn_region *p = &s->r->region[region];
    return tiles_along(s, p, 0) * tiles_along(s, p, 1) * tiles_along(s, p, 2);
}

hn_status hn_patches_tile(const hn_patches *s, int64_t region, int64_t tile, float *value,
                          int32_t *label, hn_patch_place *place)
{
    HN_TRY(check_call(s, region, label));
    const hn_region *p = &s->r->region[region];
    if (tile < 0 || tile >= hn_patches_tiles(s, region))
        return HN_FAIL(HN_ERR_ARG, "tile %" PRId64 " of %" PRId64, tile,
                       hn_patches_tiles(s, region));
    const int64_t h = tiles_along(s, p, 1), w = tiles_along(s, p, 2);
    const int64_t number[3] = {tile / w / h, tile / w % h, tile % w};
    hn_patch_place where = {0};
    for (int a = 0; a < 3; a++) {
        const int64_t spare = p->size[a] - s->o.size[a];
        where.at[a] = p->at[a] + (spare < 0 ? -(-spare / 2) : number[a] * s->o.size[a]);
    }
    copy_patch(s, p, &where, value, label);
    if (place != NULL) *place = where;
    return HN_OK;
}
