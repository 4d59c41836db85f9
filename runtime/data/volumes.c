#include "runtime/data/volumes.h"

#include <inttypes.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/seg_metrics.h"
#include "runtime/data/volumes_impl.h"

/* ---- labels ---- */

static bool number(const char **text, uint8_t *out)
{
    char *end = NULL;
    if (**text < '0' || **text > '9') return false;
    const long v = strtol(*text, &end, 10);
    *text = end;
    *out = (uint8_t)v;
    return v <= 255;
}

hn_status hn_relabel_parse(const char *text, hn_relabel *out, int room, int *n)
{
    int found = 0;
    for (const char *p = text; *p != '\0' && found < room; found++) {
        hn_relabel *r = &out[found];
        if (!number(&p, &r->from) || *p++ != ':' || !number(&p, &r->to) ||
            (*p != '\0' && *p != ','))
            return HN_FAIL(HN_ERR_ARG, "new labels '%s': like 4:3,2:1, from 0 to 255", text);
        for (int i = 0; i < found; i++)
            if (out[i].from == r->from)
                return HN_FAIL(HN_ERR_ARG, "new labels '%s': %d twice", text, (int)r->from);
        if (*p == ',' && *++p == '\0')
            return HN_FAIL(HN_ERR_ARG, "new labels '%s': a comma at the end", text);
        if (*p != '\0' && found + 1 == room)
            return HN_FAIL(HN_ERR_ARG, "new labels '%s': more than %d", text, room);
    }
    *n = found;
    return HN_OK;
}

static void rename_labels(const hn_volume_options *o, uint8_t *label, int64_t n)
{
    uint8_t map[256];
    for (int i = 0; i < 256; i++) map[i] = (uint8_t)i;
    for (int i = 0; i < o->n_relabel; i++) map[o->relabel[i].from] = o->relabel[i].to;
    for (int64_t i = 0; i < n; i++) label[i] = map[label[i]];
}

void hn_volume_histogram(const hn_volume *v, int32_t n_classes, int64_t *count)
{
    const int64_t n = hn_volume_voxels(v);
    memset(count, 0, (size_t)n_classes * sizeof *count);
    for (int64_t i = 0; i < n; i++) count[v->label[i]]++;
}

/* ---- checks ---- */

static hn_status voxel_fault(const char *name, const int64_t size[3], int64_t i, const char *what)
{
    const int64_t h = size[1], w = size[2];
    return HN_FAIL(HN_ERR_FORMAT, "%s: voxel (%" PRId64 ", %" PRId64 ", %" PRId64 ") %s", name,
                   i / w / h, i / w % h, i % w, what);
}

/* value    [size, channels] */
static hn_status check_values(const char *name, const int64_t size[3], int32_t channels,
                              const float *value)
{
    const int64_t n = size[0] * size[1] * size[2] * channels;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(value[i])) return voxel_fault(name, size, i / channels, "is NaN or infinite");
    return HN_OK;
}

static hn_status check_labels(const char *name, const int64_t size[3], int32_t n_classes,
                              const uint8_t *label)
{
    char what[64];
    const int64_t n = size[0] * size[1] * size[2];
    for (int64_t i = 0; i < n; i++) {
        if (label[i] < n_classes) continue;
        snprintf(what, sizeof what, "has label %d: there are %d classes", (int)label[i],
                 (int)n_classes);
        return voxel_fault(name, size, i, what);
    }
    return HN_OK;
}

/* Settles the number of classes, or holds the labels against it. */
static hn_status check_classes(hn_volumes *s, int32_t n_classes)
{
    uint8_t most = 0;
    if (!s->labelled) return HN_OK;
    if (n_classes < 0 || n_classes > 256)
        return HN_FAIL(HN_ERR_ARG, "%d classes of voxels: at most 256", (int)n_classes);
    for (int64_t k = 0; k < s->count; k++) {
        const hn_volume *v = &s->volume[k];
        const int64_t n = hn_volume_voxels(v);
        if (n_classes > 0) HN_TRY(check_labels(v->name, v->size, n_classes, v->label));
        for (int64_t i = 0; i < n; i++)
            if (v->label[i] > most) most = v->label[i];
    }
    s->n_classes = n_classes > 0 ? n_classes : most + 1;
    return HN_OK;
}

/* ---- a set from its parts ---- */

void hn_volumes_free(hn_volumes *s)
{
    if (s == NULL) return;
    for (int64_t i = 0; i < s->count; i++) {
        const hn_volume *v = &s->volume[i];
        hn_free((void *)v->name);
        hn_free((void *)v->site);
        hn_free((void *)v->value);
        hn_free((void *)v->label);
    }
    hn_free(s->volume);
    *s = (hn_volumes){0};
}

static hn_status digest(hn_volumes *s)
{
    unsigned char sum[32];
    EVP_MD_CTX *m = EVP_MD_CTX_new();
    const int64_t head[2] = {s->count, s->n_classes};
    bool ok = m != NULL && EVP_DigestInit_ex(m, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(m, "hone volumes 1", 15) == 1 &&
              EVP_DigestUpdate(m, head, sizeof head) == 1 &&
              (s->channels == 1 || EVP_DigestUpdate(m, &s->channels, sizeof s->channels) == 1);
    for (int64_t i = 0; ok && i < s->count; i++) {
        const hn_volume *v = &s->volume[i];
        const size_t n = (size_t)hn_volume_voxels(v);
        ok = EVP_DigestUpdate(m, v->size, sizeof v->size) == 1 &&
             EVP_DigestUpdate(m, v->site, strlen(v->site) + 1) == 1 &&
             EVP_DigestUpdate(m, v->value, n * (size_t)s->channels * sizeof *v->value) == 1 &&
             (v->label == NULL || EVP_DigestUpdate(m, v->label, n) == 1);
    }
    ok = ok && EVP_DigestFinal_ex(m, sum, NULL) == 1;
    EVP_MD_CTX_free(m);
    if (!ok) return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of the volumes failed");
    for (int i = 0; i < 32; i++)
        snprintf(s->digest + (ptrdiff_t)2 * i, 3, "%02x", (unsigned)sum[i]);
    return HN_OK;
}

/* The last step: classes, size and digest. */
static hn_status seal(hn_volumes *s, int32_t n_classes)
{
    HN_TRY(check_classes(s, n_classes));
    s->n_bytes = 0;
    for (int64_t i = 0; i < s->count; i++)
        s->n_bytes += hn_volume_voxels(&s->volume[i]) * (4 * s->channels + (s->labelled ? 1 : 0));
    return digest(s);
}

static hn_status make_room(int64_t n, int32_t channels, bool labelled, hn_volumes *s)
{
    s->volume = hn_calloc((size_t)n, sizeof *s->volume);
    if (s->volume == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " volumes", n);
    s->channels = channels;
    s->labelled = labelled;
    return HN_OK;
}

/* Name and site, copied. The volume counts as the set's from here on. */
static hn_status begin_volume(hn_volumes *s, char *name, const char *site)
{
    hn_volume *v = &s->volume[s->count++];
    v->name = name;
    v->channels = s->channels;
    v->site = hn_strdup(site ? site : "");
    return name && v->site ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the name of a volume");
}

static int32_t channels_of(const hn_volume *v) { return v->channels != 0 ? v->channels : 1; }

static hn_status copy_volume(const hn_volume *from, hn_volumes *s)
{
    if (channels_of(from) != s->channels)
        return HN_FAIL(HN_ERR_SHAPE, "volumes of %d and of %d channels", (int)s->channels,
                       (int)channels_of(from));
    if (from->value == NULL || (from->label != NULL) != s->labelled)
        return HN_FAIL(HN_ERR_ARG, "volumes without values, or labels for some of them only");
    for (int i = 0; i < 3; i++)
        if (from->size[i] < 1 || from->size[i] > HN_NIFTI_MAX_SIDE)
            return HN_FAIL(HN_ERR_SHAPE, "axis %d of a volume has length %" PRId64, i,
                           from->size[i]);
    HN_TRY(begin_volume(s, hn_strdup(from->name ? from->name : "volume"), from->site));
    hn_volume *v = &s->volume[s->count - 1];
    const size_t n = (size_t)hn_volume_voxels(from), n_values = n * (size_t)s->channels;
    float *value = hn_malloc(n_values * sizeof *value);
    uint8_t *label = s->labelled ? hn_malloc(n) : NULL;
    v->value = value;
    v->label = label;
    v->info = from->info;
    v->info.nx = from->size[0], v->info.ny = from->size[1], v->info.nz = from->size[2];
    memcpy(v->size, from->size, sizeof v->size);
    for (int a = 0; a < 3; a++)
        if (v->info.voxel_mm[a] == 0) v->info.voxel_mm[a] = 1;
    if (value == NULL || (s->labelled && label == NULL))
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %zu voxels", v->name, n);
    memcpy(value, from->value, n_values * sizeof *value);
    if (label != NULL) memcpy(label, from->label, n);
    return check_values(v->name, v->size, s->channels, v->value);
}

hn_status hn_volumes_make(const hn_volume *v, int64_t n, int32_t n_classes, hn_volumes *out)
{
    hn_volumes s = {0};
    if (n < 1) return HN_FAIL(HN_ERR_ARG, "a set of %" PRId64 " volumes", n);
    const int32_t channels = channels_of(v);
    if (channels < 1 || channels > HN_VOLUME_CHANNELS)
        return HN_FAIL(HN_ERR_SHAPE, "volumes of %d channels: 1 to %d", (int)channels,
                       HN_VOLUME_CHANNELS);
    hn_status st = make_room(n, channels, v->label != NULL, &s);
    for (int64_t i = 0; st == HN_OK && i < n; i++) st = copy_volume(&v[i], &s);
    if (st == HN_OK) st = seal(&s, n_classes);
    if (st == HN_OK)
        *out = s;
    else
        hn_volumes_free(&s);
    return st;
}

/* ---- out of files ---- */

/* Sizes of a volume and its place: those of its first channel. */
static void place_volume(const hn_nifti_info *i, hn_volume *v)
{
    v->info = *i;
    v->size[0] = i->nx;
    v->size[1] = i->ny;
    v->size[2] = i->nz;
}

/* How far the places that two files of one shape give a voxel lie apart, at most: mm. It is convex
 * in the voxel's place: largest in a corner. */
static double distance(const hn_nifti_info *a, const hn_nifti_info *b)
{
    double most = 0;
    for (int corner = 0; corner < 8; corner++) {
        const double at[4] = {corner & 1 ? (double)(a->nx - 1) : 0,
                              corner & 2 ? (double)(a->ny - 1) : 0,
                              corner & 4 ? (double)(a->nz - 1) : 0, 1};
        double squares = 0;
        for (int row = 0; row < 3; row++) {
            double d = 0;
            for (int k = 0; k < 4; k++) d += (a->affine[row][k] - b->affine[row][k]) * at[k];
            squares += d * d;
        }
        if (!(squares <= most * most)) most = sqrt(squares);
    }
    return most;
}

/* Another file of a volume beside the one that says where it lies. what: "the channels", .. */
static hn_status check_place(const hn_nifti_info *first, const char *first_path,
                             const hn_nifti_info *i, const char *path, const char *what)
{
    const double *mm = first->voxel_mm;
    for (int a = 0; a < 3; a++)
        if (!(fabs(i->voxel_mm[a] - mm[a]) <= 1e-3 * mm[a]))
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: voxels of %g x %g x %g mm, in %s they are of %g x %g x %g mm", path,
                           i->voxel_mm[0], i->voxel_mm[1], i->voxel_mm[2], first_path, mm[0], mm[1],
                           mm[2]);
    const double apart = distance(first, i), side = fmin(mm[0], fmin(mm[1], mm[2]));
    if (!(apart <= 1e-2 * side))
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: voxels lie up to %.3g mm from where %s has them: %s of a volume have "
                       "one place in space",
                       path, apart, first_path, what);
    return HN_OK;
}

static hn_status check_channel(const hn_nifti_info *first, const char *first_path,
                               const hn_nifti_info *i, const char *path)
{
    if (i->nx != first->nx || i->ny != first->ny || i->nz != first->nz)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " x %" PRId64 " x %" PRId64
                       " voxels, the channels of a volume have one shape: %s has %" PRId64
                       " x %" PRId64 " x %" PRId64,
                       path, i->nx, i->ny, i->nz, first_path, first->nx, first->ny, first->nz);
    return check_place(first, first_path, i, path, "the channels");
}

/* Channel c of a volume out of its values, which may be taken over. */
static hn_status put_channel(int32_t c, hn_nifti *image, hn_volume *v)
{
    const int64_t n = hn_volume_voxels(v), channels = v->channels;
    if (channels == 1) {
        v->value = image->value;
        image->value = NULL;
        return HN_OK;
    }
    if (c == 0) v->value = hn_malloc((size_t)(n * channels) * sizeof *v->value);
    if (v->value == NULL)
        return HN_FAIL(HN_ERR_MEMORY,
                       "%s: no memory for %" PRId64 " voxels of %" PRId64 " channels", v->name, n,
                       channels);
    float *const to = (float *)v->value;
#pragma omp parallel for if (n > 65536)
    for (int64_t i = 0; i < n; i++) to[i * channels + c] = image->value[i];
    return HN_OK;
}

/* path     [channels] of the volume */
static hn_status read_channel(const hn_volume_options *o, char *const *path, int32_t c,
                              hn_volume *v)
{
    hn_nifti image = {0};
    hn_status st = HN_OK;
    HN_TRY(hn_nifti_read(path[c], o->volume, o->max_voxels, &image));
    if (c == 0)
        place_volume(&image.info, v);
    else
        HN_TRY_GOTO(st, check_channel(&v->info, path[0], &image.info, path[c]), done);
    HN_TRY_GOTO(st, check_values(path[c], v->size, 1, image.value), done);
    hn_intensity_apply(o->intensity, image.value, hn_volume_voxels(v));
    HN_TRY_GOTO(st, check_values(path[c], v->size, 1, image.value), done); /* a range beyond fp32 */
    st = put_channel(c, &image, v);

done:
    hn_nifti_free(&image);
    return st;
}

/* of       the file that says where v lies */
static hn_status read_labels(const hn_volume_options *o, const char *path, const char *of,
                             const hn_volume *v, uint8_t **out)
{
    hn_nifti image = {0};
    hn_status st = HN_OK;
    uint8_t *label = NULL;
    const int64_t n = hn_volume_voxels(v);
    HN_TRY(hn_nifti_read(path, 0, o->max_voxels, &image));
    const hn_nifti_info *i = &image.info;
    if (i->nx != v->size[0] || i->ny != v->size[1] || i->nz != v->size[2] || i->volumes != 1) {
        st = HN_FAIL(HN_ERR_SHAPE,
                     "%s: labels of %" PRId64 " x %" PRId64 " x %" PRId64 " x %" PRId64
                     " voxels for a volume of %" PRId64 " x %" PRId64 " x %" PRId64,
                     path, i->nx, i->ny, i->nz, i->volumes, v->size[0], v->size[1], v->size[2]);
        goto done;
    }
    HN_TRY_GOTO(st, check_place(&v->info, of, i, path, "the voxels and the labels"), done);
    label = hn_malloc((size_t)n);
    if (label == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " labels", path, n);
        goto done;
    }
    HN_TRY_GOTO(st, hn_nifti_labels(&image, path, label), done);
    rename_labels(o, label, n);
    if (o->n_classes > 0) HN_TRY_GOTO(st, check_labels(path, v->size, o->n_classes, label), done);
    *out = label;
    label = NULL;

done:
    hn_free(label);
    hn_nifti_free(&image);
    return st;
}

static hn_status read_volume(const hn_volume_options *o, const hn_volume_files *f, int64_t i,
                             hn_volumes *s)
{
    char *const *path = f->image.path + i * f->channels;
    HN_TRY(begin_volume(s, hn_volume_name(path[0], &o->channels), f->site.path[i]));
    hn_volume *v = &s->volume[s->count - 1];
    for (int32_t c = 0; c < f->channels; c++) HN_TRY(read_channel(o, path, c, v));
    if (!s->labelled) return HN_OK;
    uint8_t *label = NULL;
    HN_TRY(read_labels(o, f->label.path[i], path[0], v, &label));
    v->label = label;
    return HN_OK;
}

/* Before a volume is read: the channels of each, and all of them against the limit. */
static hn_status check_files(const hn_volume_options *o, const hn_volume_files *f)
{
    const int64_t most = o->max_bytes > 0 ? o->max_bytes : HN_VOLUMES_MAX_BYTES;
    int64_t n_bytes = 0;
    for (int64_t i = 0; i < f->site.n; i++) {
        char *const *path = f->image.path + i * f->channels;
        hn_nifti_info first, info;
        HN_TRY(hn_nifti_probe(path[0], o->max_voxels, &first));
        if (hn_seg_check_mm(first.voxel_mm) != HN_OK)
            return HN_FAIL(HN_ERR_FORMAT, "%s: %s", path[0], hn_last_text());
        for (int32_t c = 1; c < f->channels; c++) {
            HN_TRY(hn_nifti_probe(path[c], o->max_voxels, &info));
            HN_TRY(check_channel(&first, path[0], &info, path[c]));
        }
        n_bytes += first.nx * first.ny * first.nz * (4 * f->channels + (o->unlabelled ? 0 : 1));
        if (n_bytes > most)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: %" PRId64 " of %" PRId64
                           " volumes are more than the limit of %" PRId64 " bytes",
                           o->data, i + 1, f->site.n, most);
    }
    return HN_OK;
}

hn_status hn_volumes_open(const hn_volume_options *o, hn_volumes *out)
{
    hn_volume_files f = {0};
    hn_volumes s = {0};
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, hn_volume_files_find(o, &f), done);
    HN_TRY_GOTO(st, check_files(o, &f), done);
    HN_TRY_GOTO(st, make_room(f.site.n, f.channels, !o->unlabelled, &s), done);
    for (int64_t i = 0; i < f.site.n; i++) HN_TRY_GOTO(st, read_volume(o, &f, i, &s), done);
    HN_TRY_GOTO(st, seal(&s, o->n_classes), done);
    *out = s;
    s = (hn_volumes){0};

done:
    hn_volumes_free(&s);
    hn_volume_files_free(&f);
    return st;
}

/* ---- report ---- */

static void report_shares(const hn_volumes *s, const int64_t *total, int64_t voxels,
                          const hn_log *log)
{
    enum { SHOWN = 12 };
    char list[512] = "";
    size_t n = 0;
    const int32_t shown = s->n_classes < SHOWN ? s->n_classes : SHOWN;
    for (int32_t c = 0; c < shown && n < sizeof list; c++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%d %.2f %%", c ? ", " : "", (int)c,
                              100.0 * (double)total[c] / (double)voxels);
    hn_info(log, "  %d classes of voxels: %s%s", (int)s->n_classes, list,
            s->n_classes > shown ? ", ..." : "");
}

void hn_volumes_report(const hn_volumes *s, const hn_log *log)
{
    int64_t total[256] = {0}, voxels = 0;
    bool same = true;
    char channels[32] = "";
    const hn_volume *first = &s->volume[0];
    if (s->channels > 1) snprintf(channels, sizeof channels, ", %d channels", (int)s->channels);
    for (int64_t i = 0; i < s->count; i++) {
        const hn_volume *v = &s->volume[i];
        int64_t count[256] = {0};
        same = same && memcmp(v->size, first->size, sizeof v->size) == 0;
        voxels += hn_volume_voxels(v);
        if (s->labelled) hn_volume_histogram(v, s->n_classes, count);
        for (int32_t c = 0; c < s->n_classes; c++) total[c] += count[c];
    }
    hn_info(log,
            "%" PRId64 " volume(s), %s%" PRId64 " x %" PRId64 " x %" PRId64
            " voxels of %g x %g x %g mm%s",
            s->count, same ? "" : "of several sizes, the first ", first->size[0], first->size[1],
            first->size[2], first->info.voxel_mm[0], first->info.voxel_mm[1],
            first->info.voxel_mm[2], channels);
    if (s->labelled) report_shares(s, total, voxels, log);
}
