/* Reading: the header, the sizes against the file's, then slabs of slices, converted and turned
 * from first-axis-fastest to last-axis-fastest. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/data/nifti.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/alloc.h"
#include "runtime/data/nifti_impl.h"
#include "runtime/data/source_reader.h"

enum {
    SLAB = 16,       /* slices that are turned together: runs of 64 bytes are written */
    GZIP_MOST = 1032 /* deflate makes at most so many bytes of one (zlib, technical notes) */
};

/* The files of a volume. */
typedef struct {
    const char *name;            /* as the caller gave it */
    char *head_path, *data_path; /* the same one, but for a pair */
    const void *memory;          /* NULL: files */
    size_t memory_bytes;
} source;

/* ---- names ---- */

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* The one that is there of stem + ending and stem + ending + ".gz". */
static hn_status partner(const char *name, size_t stem, const char *ending, char **out)
{
    char *plain = hn_asprintf("%.*s%s", (int)stem, name, ending);
    char *packed = hn_asprintf("%.*s%s.gz", (int)stem, name, ending);
    hn_status st = HN_OK;
    if (plain == NULL || packed == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    } else {
        const bool a = is_file(plain), b = is_file(packed);
        if (!a && !b)
            st = HN_FAIL(HN_ERR_IO, "%s: there is neither %s nor %s", name, plain, packed);
        else if (a && b)
            st = HN_FAIL(HN_ERR_ARG, "%s: which one, %s or %s?", name, plain, packed);
        char **const taken = a ? &plain : &packed;
        *out = st == HN_OK ? *taken : NULL;
        if (st == HN_OK) *taken = NULL;
    }
    hn_free(plain);
    hn_free(packed);
    return st;
}

static void source_free(source *s)
{
    hn_free(s->head_path);
    if (s->data_path != s->head_path) hn_free(s->data_path);
}

static hn_status source_open(const char *name, const void *memory, size_t n_bytes, source *s)
{
    static const char *const pair[] = {".hdr", ".hdr.gz", ".img", ".img.gz"};
    *s = (source){.name = name, .memory = memory, .memory_bytes = n_bytes};
    if (ends_with(name, ".nii") || ends_with(name, ".nii.gz")) {
        s->head_path = s->data_path = hn_strdup(name);
        return s->head_path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    for (int i = 0; i < 4 && memory == NULL; i++) {
        if (!ends_with(name, pair[i])) continue;
        const size_t stem = strlen(name) - strlen(pair[i]);
        char **const given = i < 2 ? &s->head_path : &s->data_path;
        *given = hn_strdup(name);
        if (*given == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
        return partner(name, stem, i < 2 ? ".img" : ".hdr", i < 2 ? &s->data_path : &s->head_path);
    }
    return HN_FAIL(HN_ERR_ARG, "%s: the name of a NIfTI file ends in .nii, .nii.gz%s", name,
                   memory ? "" : ", .hdr or .img");
}

static hn_status file_bytes(const source *s, int64_t *out)
{
    struct stat info;
    if (s->memory != NULL) {
        *out = (int64_t)s->memory_bytes;
        return HN_OK;
    }
    if (stat(s->data_path, &info) != 0)
        return HN_FAIL(HN_ERR_IO, "stat %s: %s", s->data_path, strerror(errno));
    *out = (int64_t)info.st_size;
    return HN_OK;
}

/* ---- header ---- */

/* Up to n bytes; fewer at the end only. */
static hn_status read_up_to(hn_reader *r, uint8_t *to, size_t n, size_t *got)
{
    size_t piece = 1;
    for (*got = 0; *got < n && piece > 0; *got += piece)
        HN_TRY(hn_reader_read(r, to + *got, n - *got, &piece));
    return HN_OK;
}

static hn_status read_head(const source *s, int64_t max_voxels, hn_nifti_info *info,
                           hn_nifti_place *place)
{
    uint8_t head[HN_NIFTI_HEAD_ROOM];
    size_t n = 0;
    hn_reader *r = NULL;
    HN_TRY(hn_reader_open_binary(s->head_path, s->memory, s->memory_bytes, &r));
    const hn_status st = read_up_to(r, head, sizeof head, &n);
    hn_reader_close(r);
    HN_TRY(st);
    HN_TRY(hn_nifti_parse(head, n, s->head_path, max_voxels, info, place));
    const bool pair = s->head_path != s->data_path;
    if (info->pair != pair)
        return HN_FAIL(HN_ERR_FORMAT, "%s: the header says that the data are in %s", s->head_path,
                       pair ? "this file, not in an .img beside it" : "an .img file beside it");
    info->gzip = ends_with(s->data_path, ".gz");
    return HN_OK;
}

/* What the header promises against what the file can hold. */
static hn_status check_bytes(const source *s, const hn_nifti_info *info,
                             const hn_nifti_place *place)
{
    int64_t size = 0;
    HN_TRY(file_bytes(s, &size));
    if (info->gzip) {
        if (place->end / GZIP_MOST <= size) return HN_OK;
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %" PRId64 " bytes of gzip data cannot hold the %" PRId64
                       " bytes that the header promises",
                       s->data_path, size, place->end);
    }
    if (size < place->end)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: cut off: %" PRId64 " bytes, the header promises %" PRId64, s->data_path,
                       size, place->end);
    if (size - place->end > HN_NIFTI_MAX_TAIL)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %" PRId64 " bytes behind the data: at most %d are skipped",
                       s->data_path, size - place->end, HN_NIFTI_MAX_TAIL);
    return HN_OK;
}

/* ---- values ---- */

static uint64_t load(const uint8_t *p, int n, bool big)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * (big ? n - 1 - i : i);
    return v;
}

static double value_at(const uint8_t *p, hn_nifti_type type, bool big)
{
    switch (type) {
    case HN_NIFTI_U8: return (double)*p;
    case HN_NIFTI_I8: return (double)(int8_t)*p;
    case HN_NIFTI_I16: return (double)(int16_t)load(p, 2, big);
    case HN_NIFTI_U16: return (double)load(p, 2, big);
    case HN_NIFTI_I32: return (double)(int32_t)load(p, 4, big);
    case HN_NIFTI_U32: return (double)load(p, 4, big);
    case HN_NIFTI_F32: {
        const uint32_t u = (uint32_t)load(p, 4, big);
        float v;
        memcpy(&v, &u, sizeof v);
        return (double)v;
    }
    case HN_NIFTI_F64: break;
    }
    const uint64_t u = load(p, 8, big);
    double v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* A stored double may be beyond fp32: it becomes infinity, as every conversion makes of it. */
static void convert(const uint8_t *raw, int64_t n, const hn_nifti_info *info,
                    const hn_nifti_place *place, float *out)
{
    const int64_t size = place->volume_bytes / place->voxels;
    for (int64_t i = 0; i < n; i++) {
        const double v = value_at(raw + i * size, place->type, info->big_endian);
        out[i] = (float)(info->scaled ? info->slope * v + info->inter : v);
    }
}

/* slab     [n, ny, nx], slices z0 .. z0 + n of the file
 * value    [nx, ny, nz] */
static void turn(const float *slab, const hn_nifti_info *info, int64_t z0, int64_t n, float *value)
{
    const int64_t nx = info->nx, ny = info->ny, nz = info->nz;
#pragma omp parallel for if (nx * ny * n > 65536)
    for (int64_t x = 0; x < nx; x++)
        for (int64_t y = 0; y < ny; y++)
            for (int64_t z = 0; z < n; z++)
                value[(x * ny + y) * nz + z0 + z] = slab[(z * ny + y) * nx + x];
}

/* ---- data ---- */

static hn_status read_exactly(hn_reader *r, uint8_t *to, int64_t n, const char *name)
{
    size_t got = 0;
    HN_TRY(read_up_to(r, to, (size_t)n, &got));
    if ((int64_t)got < n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: cut off in the data: %" PRId64 " bytes are missing",
                       name, n - (int64_t)got);
    return HN_OK;
}

static hn_status skip(hn_reader *r, int64_t n, const char *name)
{
    uint8_t room[1 << 14];
    for (int64_t piece; n > 0; n -= piece) {
        piece = n < (int64_t)sizeof room ? n : (int64_t)sizeof room;
        HN_TRY(read_exactly(r, room, piece, name));
    }
    return HN_OK;
}

/* To the end of the file, where gzip's checksum is. */
static hn_status finish(hn_reader *r, const char *name)
{
    uint8_t room[1 << 14];
    size_t got = 1;
    for (int64_t n = 0; got > 0; n += (int64_t)got) {
        if (n > HN_NIFTI_MAX_TAIL)
            return HN_FAIL(HN_ERR_FORMAT, "%s: more than %d bytes behind the data", name,
                           HN_NIFTI_MAX_TAIL);
        HN_TRY(hn_reader_read(r, room, sizeof room, &got));
    }
    return HN_OK;
}

static hn_status read_volume(hn_reader *r, const char *name, const hn_nifti_info *info,
                             const hn_nifti_place *place, float *value)
{
    const int64_t slice = info->nx * info->ny, size = place->volume_bytes / place->voxels;
    const int64_t most = info->nz < SLAB ? info->nz : SLAB;
    hn_status st = HN_OK;
    uint8_t *raw = hn_malloc((size_t)(slice * size));
    float *slab = hn_malloc((size_t)(most * slice) * sizeof *slab);
    if (raw == NULL || slab == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for slices of %s", name);
    for (int64_t z = 0; st == HN_OK && z < info->nz; z += most) {
        const int64_t n = info->nz - z < most ? info->nz - z : most;
        for (int64_t i = 0; st == HN_OK && i < n; i++) {
            st = read_exactly(r, raw, slice * size, name);
            if (st == HN_OK) convert(raw, slice, info, place, slab + i * slice);
        }
        if (st == HN_OK) turn(slab, info, z, n, value);
    }
    hn_free(raw);
    hn_free(slab);
    return st;
}

static hn_status read_data(const source *s, const hn_nifti_info *info, const hn_nifti_place *place,
                           int64_t volume, float *value)
{
    hn_reader *r = NULL;
    const char *name = s->data_path;
    const int64_t behind = (info->volumes - 1 - volume) * place->volume_bytes;
    HN_TRY(hn_reader_open_binary(name, s->memory, s->memory_bytes, &r));
    hn_status st = skip(r, place->offset + volume * place->volume_bytes, name);
    if (st == HN_OK) st = read_volume(r, name, info, place, value);
    if (st == HN_OK) st = skip(r, behind, name);
    if (st == HN_OK) st = finish(r, name);
    hn_reader_close(r);
    return st;
}

static hn_status read_all(const source *s, int64_t volume, int64_t max_voxels, hn_nifti *out)
{
    hn_nifti v = {0};
    hn_nifti_place place;
    HN_TRY(read_head(s, max_voxels, &v.info, &place));
    HN_TRY(check_bytes(s, &v.info, &place));
    if (volume < 0 || volume >= v.info.volumes)
        return HN_FAIL(HN_ERR_ARG, "%s: volume %" PRId64 ": the file has %" PRId64, s->name, volume,
                       v.info.volumes);
    v.value = hn_malloc((size_t)place.voxels * sizeof *v.value);
    if (v.value == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " voxels", s->name,
                       place.voxels);
    const hn_status st = read_data(s, &v.info, &place, volume, v.value);
    if (st == HN_OK)
        *out = v;
    else
        hn_nifti_free(&v);
    return st;
}

/* ---- the face ---- */

hn_status hn_nifti_probe(const char *path, int64_t max_voxels, hn_nifti_info *out)
{
    source s;
    hn_nifti_info info;
    hn_nifti_place place;
    hn_status st = source_open(path, NULL, 0, &s);
    if (st == HN_OK) st = read_head(&s, max_voxels, &info, &place);
    if (st == HN_OK) st = check_bytes(&s, &info, &place);
    if (st == HN_OK) *out = info;
    source_free(&s);
    return st;
}

hn_status hn_nifti_read(const char *path, int64_t volume, int64_t max_voxels, hn_nifti *out)
{
    source s;
    hn_status st = source_open(path, NULL, 0, &s);
    if (st == HN_OK) st = read_all(&s, volume, max_voxels, out);
    source_free(&s);
    return st;
}

hn_status hn_nifti_read_memory(const char *name, const void *data, size_t n_bytes, int64_t volume,
                               int64_t max_voxels, hn_nifti *out)
{
    source s;
    hn_status st = source_open(name, data ? data : "", n_bytes, &s);
    if (st == HN_OK) st = read_all(&s, volume, max_voxels, out);
    source_free(&s);
    return st;
}

void hn_nifti_free(hn_nifti *v)
{
    if (v == NULL) return;
    hn_free(v->value);
    *v = (hn_nifti){0};
}

hn_status hn_nifti_labels(const hn_nifti *v, const char *name, uint8_t *label)
{
    const int64_t ny = v->info.ny, nz = v->info.nz, n = v->info.nx * ny * nz;
    for (int64_t i = 0; i < n; i++) {
        const float f = v->value[i];
        if (!(f >= 0 && f <= 255) || f != (float)(uint8_t)f)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: voxel (%" PRId64 ", %" PRId64 ", %" PRId64
                           ") is %g: labels are whole numbers from 0 to 255",
                           name, i / nz / ny, i / nz % ny, i % nz, (double)f);
        label[i] = (uint8_t)f;
    }
    return HN_OK;
}
