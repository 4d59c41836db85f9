#include "runtime/data/volumes.h"

#include <inttypes.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
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

static hn_status voxel_fault(const hn_volume *v, int64_t i, const char *what)
{
    const int64_t h = v->size[1], w = v->size[2];
    return HN_FAIL(HN_ERR_FORMAT, "%s: voxel (%" PRId64 ", %" PRId64 ", %" PRId64 ") %s", v->name,
                   i / w / h, i / w % h, i % w, what);
}

static hn_status check_values(const hn_volume *v)
{
    const int64_t n = hn_volume_voxels(v);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v->value[i])) return voxel_fault(v, i, "is NaN or infinite");
    return HN_OK;
}

/* Settles the number of classes, or holds the labels against it. */
static hn_status check_classes(hn_volumes *s, int32_t n_classes)
{
    char what[64];
    uint8_t most = 0;
    if (!s->labelled) return HN_OK;
    if (n_classes < 0 || n_classes > 256)
        return HN_FAIL(HN_ERR_ARG, "%d classes of voxels: at most 256", (int)n_classes);
    for (int64_t k = 0; k < s->count; k++) {
        const hn_volume *v = &s->volume[k];
        const int64_t n = hn_volume_voxels(v);
        for (int64_t i = 0; i < n; i++) {
            if (v->label[i] > most) most = v->label[i];
            if (n_classes == 0 || v->label[i] < n_classes) continue;
            snprintf(what, sizeof what, "has label %d: there are %d classes", (int)v->label[i],
                     (int)n_classes);
            return voxel_fault(v, i, what);
        }
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
              EVP_DigestUpdate(m, head, sizeof head) == 1;
    for (int64_t i = 0; ok && i < s->count; i++) {
        const hn_volume *v = &s->volume[i];
        const size_t n = (size_t)hn_volume_voxels(v);
        ok = EVP_DigestUpdate(m, v->size, sizeof v->size) == 1 &&
             EVP_DigestUpdate(m, v->site, strlen(v->site) + 1) == 1 &&
             EVP_DigestUpdate(m, v->value, n * sizeof *v->value) == 1 &&
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
        s->n_bytes += hn_volume_voxels(&s->volume[i]) * (s->labelled ? 5 : 4);
    return digest(s);
}

static hn_status make_room(int64_t n, bool labelled, hn_volumes *s)
{
    s->volume = hn_calloc((size_t)n, sizeof *s->volume);
    if (s->volume == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " volumes", n);
    s->labelled = labelled;
    return HN_OK;
}

/* Name and site, copied. The volume counts as the set's from here on. */
static hn_status begin_volume(hn_volumes *s, char *name, const char *site)
{
    hn_volume *v = &s->volume[s->count++];
    v->name = name;
    v->site = hn_strdup(site ? site : "");
    return name && v->site ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the name of a volume");
}

static hn_status copy_volume(const hn_volume *from, hn_volumes *s)
{
    if (from->value == NULL || (from->label != NULL) != s->labelled)
        return HN_FAIL(HN_ERR_ARG, "volumes without values, or labels for some of them only");
    for (int i = 0; i < 3; i++)
        if (from->size[i] < 1 || from->size[i] > HN_NIFTI_MAX_SIDE)
            return HN_FAIL(HN_ERR_SHAPE, "axis %d of a volume has length %" PRId64, i,
                           from->size[i]);
    HN_TRY(begin_volume(s, hn_strdup(from->name ? from->name : "volume"), from->site));
    hn_volume *v = &s->volume[s->count - 1];
    const size_t n = (size_t)hn_volume_voxels(from);
    float *value = hn_malloc(n * sizeof *value);
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
    memcpy(value, from->value, n * sizeof *value);
    if (label != NULL) memcpy(label, from->label, n);
    return check_values(v);
}

hn_status hn_volumes_make(const hn_volume *v, int64_t n, int32_t n_classes, hn_volumes *out)
{
    hn_volumes s = {0};
    if (n < 1) return HN_FAIL(HN_ERR_ARG, "a set of %" PRId64 " volumes", n);
    hn_status st = make_room(n, v->label != NULL, &s);
    for (int64_t i = 0; st == HN_OK && i < n; i++) st = copy_volume(&v[i], &s);
    if (st == HN_OK) st = seal(&s, n_classes);
    if (st == HN_OK)
        *out = s;
    else
        hn_volumes_free(&s);
    return st;
}

/* ---- out of files ---- */

static hn_status read_labels(const hn_volume_options *o, const char *path, const hn_volume *v,
                             uint8_t **out)
{
    hn_nifti image = {0};
    hn_status st = HN_OK;
    const int64_t n = hn_volume_voxels(v);
    HN_TRY(hn_nifti_read(path, 0, o->max_voxels, &image));
    const hn_nifti_info *i = &image.info;
    uint8_t *label = NULL;
    if (i->nx != v->size[0] || i->ny != v->size[1] || i->nz != v->size[2] || i->volumes != 1) {
        st = HN_FAIL(HN_ERR_SHAPE,
                     "%s: labels of %" PRId64 " x %" PRId64 " x %" PRId64 " x %" PRId64
                     " voxels for a volume of %" PRId64 " x %" PRId64 " x %" PRId64,
                     path, i->nx, i->ny, i->nz, i->volumes, v->size[0], v->size[1], v->size[2]);
    } else {
        label = hn_malloc((size_t)n);
        st = label ? hn_nifti_labels(&image, path, label)
                   : HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " labels", path, n);
    }
    hn_nifti_free(&image);
    if (st == HN_OK) {
        rename_labels(o, label, n);
        *out = label;
    } else {
        hn_free(label);
    }
    return st;
}

static hn_status read_volume(const hn_volume_options *o, const hn_volume_files *f, int64_t i,
                             hn_volumes *s)
{
    hn_nifti image = {0};
    const char *path = f->image.path[i];
    HN_TRY(begin_volume(s, hn_volume_name(path), f->site.path[i]));
    hn_volume *v = &s->volume[s->count - 1];
    HN_TRY(hn_nifti_read(path, o->volume, o->max_voxels, &image));
    v->value = image.value; /* the set's from here on */
    v->info = image.info;
    v->size[0] = image.info.nx;
    v->size[1] = image.info.ny;
    v->size[2] = image.info.nz;
    HN_TRY(check_values(v));
    hn_intensity_apply(o->intensity, image.value, hn_volume_voxels(v));
    HN_TRY(check_values(v)); /* a range beyond fp32 */
    if (!s->labelled) return HN_OK;
    uint8_t *label = NULL;
    HN_TRY(read_labels(o, f->label.path[i], v, &label));
    v->label = label;
    return HN_OK;
}

/* Before a volume is read: all of them against the limit. */
static hn_status check_limit(const hn_volume_options *o, const hn_volume_files *f)
{
    const int64_t most = o->max_bytes > 0 ? o->max_bytes : HN_VOLUMES_MAX_BYTES;
    int64_t n_bytes = 0;
    for (int64_t i = 0; i < f->image.n; i++) {
        hn_nifti_info info;
        HN_TRY(hn_nifti_probe(f->image.path[i], o->max_voxels, &info));
        n_bytes += info.nx * info.ny * info.nz * (o->unlabelled ? 4 : 5);
        if (n_bytes > most)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: %" PRId64 " of %" PRId64
                           " volumes are more than the limit of %" PRId64 " bytes",
                           o->data, i + 1, f->image.n, most);
    }
    return HN_OK;
}

hn_status hn_volumes_open(const hn_volume_options *o, hn_volumes *out)
{
    hn_volume_files f = {0};
    hn_volumes s = {0};
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, hn_volume_files_find(o, &f), done);
    HN_TRY_GOTO(st, check_limit(o, &f), done);
    HN_TRY_GOTO(st, make_room(f.image.n, !o->unlabelled, &s), done);
    for (int64_t i = 0; i < f.image.n; i++) HN_TRY_GOTO(st, read_volume(o, &f, i, &s), done);
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
    const hn_volume *first = &s->volume[0];
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
            " voxels of %g x %g x %g mm",
            s->count, same ? "" : "of several sizes, the first ", first->size[0], first->size[1],
            first->size[2], first->info.voxel_mm[0], first->info.voxel_mm[1],
            first->info.voxel_mm[2]);
    if (s->labelled) report_shares(s, total, voxels, log);
}
