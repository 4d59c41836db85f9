#include "runtime/data/images.h"

#include <inttypes.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/data/data_util.h"
#include "runtime/data/image_decode.h"
#include "runtime/data/images_impl.h"
#include "runtime/data/source_reader.h"

hn_status hn_image_kind_parse(const char *name, hn_image_kind *out)
{
    static const char *const kinds[] = {"auto", "idx", "cifar10", "cifar100", "folder"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name, kinds[i]) == 0) {
            *out = (hn_image_kind)i;
            return HN_OK;
        }
    return HN_FAIL(HN_ERR_ARG, "kind of image data '%s': one of %s", name, HN_IMAGE_KINDS);
}

/* ---- bytes of a file ---- */

void hn_data_bytes_free(hn_data_bytes *b)
{
    hn_mapfile_close(&b->map);
    hn_free(b->owned);
    *b = (hn_data_bytes){0};
}

/* An idx header bounds what may follow it: one byte more is enough to see that it lies. */
static hn_status unpack(const char *path, int64_t max_bytes, hn_data_bytes *b)
{
    enum { STEP = 1 << 20 };
    hn_reader *r = NULL;
    HN_TRY(hn_reader_open(path, &r));
    hn_status st = HN_OK;
    int64_t room = 0, n = 0;
    uint64_t most = (uint64_t)max_bytes;
    for (size_t got = 1; st == HN_OK && got > 0 && (uint64_t)n <= most;) {
        st = hn_reserve(&b->owned, &room, n + STEP, 1);
        if (st == HN_OK) st = hn_reader_read(r, b->owned + n, STEP, &got);
        if (st != HN_OK) break;
        /* the reader gives the first bytes in small pieces */
        const uint64_t promised = n < STEP ? hn_idx_bytes(b->owned, (size_t)n + got) : 0;
        if (promised > 0 && promised < most) most = promised;
        n += (int64_t)got;
    }
    hn_reader_close(r);
    if (st == HN_OK && (uint64_t)n > most)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: decompresses to more than %" PRIu64 " bytes, %s", path,
                     most, most < (uint64_t)max_bytes ? "as its header promises" : "the limit");
    if (st == HN_OK) {
        uint8_t *tight = hn_realloc(b->owned, n ? (size_t)n : 1);
        if (tight != NULL) b->owned = tight;
        b->data = b->owned;
        b->n_bytes = (size_t)n;
    }
    return st;
}

hn_status hn_data_bytes_read(const char *path, int64_t max_bytes, hn_data_bytes *out)
{
    hn_data_bytes b = {0};
    const size_t n = strlen(path);
    HN_TRY(hn_mapfile_open(path, &b.map));
    const bool packed = b.map.size >= 2 && b.map.data[0] == 0x1f && b.map.data[1] == 0x8b;
    hn_status st = HN_OK;
    if (packed || (n > 3 && strcmp(path + n - 3, ".gz") == 0)) {
        hn_mapfile_close(&b.map);
        st = unpack(path, max_bytes, &b);
    } else {
        b.data = b.map.data ? b.map.data : (const uint8_t *)"";
        b.n_bytes = b.map.size;
    }
    if (st == HN_OK)
        *out = b;
    else
        hn_data_bytes_free(&b);
    return st;
}

/* ---- classes ---- */

static void free_names(hn_image_set *s)
{
    for (int32_t i = 0; s->class_name != NULL && i < s->v.n_classes; i++) hn_free(s->class_name[i]);
    hn_free(s->class_name);
    s->class_name = NULL;
}

/* Room for n names, all NULL. */
static hn_status name_room(hn_image_set *s, int32_t n)
{
    free_names(s);
    s->class_name = hn_calloc((size_t)n, sizeof *s->class_name);
    if (s->class_name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d names", (int)n);
    s->v.n_classes = n;
    return HN_OK;
}

hn_status hn_images_number_classes(hn_image_set *s, int32_t n)
{
    HN_TRY(name_room(s, n));
    for (int32_t i = 0; i < n; i++) {
        s->class_name[i] = hn_asprintf("%d", (int)i);
        if (s->class_name[i] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    s->named = false;
    return HN_OK;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The first name that stands twice, or NULL. */
static hn_status repeated_name(const hn_image_set *s, const char **out)
{
    const size_t n = (size_t)s->v.n_classes;
    char **sorted = hn_malloc(n * sizeof *sorted);
    if (sorted == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %zu names", n);
    memcpy(sorted, s->class_name, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, name_order);
    *out = NULL;
    for (size_t i = 1; i < n && *out == NULL; i++)
        if (strcmp(sorted[i - 1], sorted[i]) == 0) *out = sorted[i];
    hn_free(sorted);
    return HN_OK;
}

/* Lines of a text as names; blank lines at the end do not count. */
static hn_status names_of_lines(hn_image_set *s, const char *path, const char *text, size_t n_bytes,
                                int32_t wanted)
{
    enum { MOST = 1 << 20 };
    int32_t n = 0, lines = 0;
    for (size_t i = 0, from = 0; i <= n_bytes && lines < MOST; i++) {
        if (i < n_bytes && text[i] != '\n') continue;
        if (i > from && !(i == from + 1 && text[from] == '\r')) n = lines + 1;
        lines++;
        from = i + 1;
    }
    if (n < 1 || (wanted > 0 && n != wanted))
        return HN_FAIL(HN_ERR_FORMAT, "%s: %d names of classes%s", path, (int)n,
                       wanted == 10    ? ", the data have 10"
                       : wanted == 20  ? ", the data have 20"
                       : wanted == 100 ? ", the data have 100"
                                       : "");
    HN_TRY(name_room(s, n));
    for (int32_t i = 0; i < n; i++) {
        const char *end = memchr(text, '\n', n_bytes);
        const size_t line = end ? (size_t)(end - text) : n_bytes;
        const size_t length = line > 0 && text[line - 1] == '\r' ? line - 1 : line;
        if (length == 0)
            return HN_FAIL(HN_ERR_FORMAT, "%s:%d: an empty name of a class", path, (int)i + 1);
        s->class_name[i] = hn_strndup(text, length);
        if (s->class_name[i] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
        text += end ? line + 1 : line;
        n_bytes -= end ? line + 1 : line;
    }
    const char *twice = NULL;
    HN_TRY(repeated_name(s, &twice));
    if (twice != NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: class '%s' stands twice", path, twice);
    s->named = true;
    return HN_OK;
}

hn_status hn_images_name_classes(hn_image_set *s, const char *folder, const char *const *names,
                                 int32_t n)
{
    for (; *names != NULL; names++) {
        struct stat info;
        hn_mapfile m = {0};
        char *path = hn_asprintf("%s/%s", folder, *names);
        if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
        const bool there = stat(path, &info) == 0;
        hn_status st = there ? hn_mapfile_open(path, &m) : HN_OK;
        if (there && st == HN_OK)
            st = names_of_lines(s, path, m.data ? (const char *)m.data : "", m.size, n);
        hn_mapfile_close(&m);
        hn_free(path);
        if (there || st != HN_OK) return st;
    }
    return HN_OK;
}

/* ---- superclasses ---- */

static void free_superclasses(hn_image_set *s)
{
    for (int32_t i = 0; s->super_name != NULL && i < s->n_super; i++) hn_free(s->super_name[i]);
    hn_free(s->super_name);
    hn_free(s->super_of);
    s->super_name = NULL;
    s->super_of = NULL;
    s->n_super = 0;
}

hn_status hn_images_copy_superclasses(hn_image_set *s, const hn_image_set *from)
{
    free_superclasses(s);
    if (from->n_super == 0) return HN_OK;
    const size_t n = (size_t)from->v.n_classes;
    s->super_of = hn_malloc(n * sizeof *s->super_of);
    s->super_name = hn_calloc((size_t)from->n_super, sizeof *s->super_name);
    if (s->super_of == NULL || s->super_name == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for superclasses");
    s->n_super = from->n_super;
    memcpy(s->super_of, from->super_of, n * sizeof *s->super_of);
    for (int32_t i = 0; i < s->n_super; i++) {
        s->super_name[i] = hn_strdup(from->super_name[i]);
        if (s->super_name[i] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    return HN_OK;
}

int32_t hn_image_set_superclasses(const hn_image_set *s, const int32_t **of_class,
                                  const char *const **name)
{
    if (s->n_super == 0) return 0;
    *of_class = s->super_of;
    *name = (const char *const *)s->super_name;
    return s->n_super;
}

hn_status hn_images_check_labels(const hn_image_set *s, const char *path)
{
    for (int64_t i = 0; i < s->v.count; i++)
        if (s->label[i] < 0 || s->label[i] >= s->v.n_classes)
            return HN_FAIL(HN_ERR_FORMAT, "%s: image %" PRId64 ": label %d is not in 0..%d", path,
                           i, (int)s->label[i], (int)s->v.n_classes - 1);
    return HN_OK;
}

int32_t hn_image_set_class(const hn_image_set *s, const char *name)
{
    char *end = NULL;
    for (int32_t i = 0; i < s->v.n_classes; i++)
        if (strcmp(s->class_name[i], name) == 0) return i;
    if (*name < '0' || *name > '9') return -1;
    const long v = strtol(name, &end, 10);
    return *end == '\0' && v >= 0 && v < s->v.n_classes ? (int32_t)v : -1;
}

/* ---- a set from its parts ---- */

void hn_image_set_free(hn_image_set *s)
{
    if (s == NULL) return;
    free_superclasses(s);
    free_names(s);
    hn_mapfile_close(&s->map);
    hn_free(s->pixel);
    hn_free(s->label);
    hn_free(s->part_class);
    hn_free(s->name);
    hn_free(s->first_skipped);
    hn_free(s);
}

hn_status hn_images_new(const char *name, hn_image_set **out)
{
    hn_image_set *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for an image set", sizeof *s);
    s->kind = "images";
    s->name = hn_strdup(name);
    if (s->name == NULL) {
        hn_free(s);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    *out = s;
    return HN_OK;
}

static hn_status digest(hn_image_set *s)
{
    const hn_images *v = &s->v;
    const uint64_t size[] = {(uint64_t)v->count, (uint64_t)v->h, (uint64_t)v->w, (uint64_t)v->c,
                             (uint64_t)v->n_classes};
    unsigned char sum[32], head[sizeof size];
    for (size_t i = 0; i < sizeof size; i++) head[i] = (unsigned char)(size[i / 8] >> i % 8 * 8);
    EVP_MD_CTX *m = EVP_MD_CTX_new();
    bool ok = m != NULL && EVP_DigestInit_ex(m, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(m, "hone images 1", 14) == 1 &&
              EVP_DigestUpdate(m, head, sizeof head) == 1;
    for (int32_t i = 0; ok && i < v->n_classes; i++)
        ok = EVP_DigestUpdate(m, s->class_name[i], strlen(s->class_name[i]) + 1) == 1;
    ok = ok && EVP_DigestUpdate(m, s->label, (size_t)v->count * sizeof *s->label) == 1 &&
         EVP_DigestUpdate(m, v->pixel, (size_t)hn_image_set_bytes(s)) == 1 &&
         EVP_DigestFinal_ex(m, sum, NULL) == 1;
    EVP_MD_CTX_free(m);
    if (!ok) return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of the images failed");
    for (int i = 0; i < 32; i++)
        snprintf(s->digest + (ptrdiff_t)2 * i, 3, "%02x", (unsigned)sum[i]);
    return HN_OK;
}

/* The last step: the face's pointers and the digest. */
hn_status hn_images_seal(hn_image_set *s)
{
    if (s->part_class == NULL) {
        s->part_class = hn_calloc(2, sizeof *s->part_class);
        if (s->part_class == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for an image set");
        s->v.n_parts = 1;
        s->part_class[1] = s->v.n_classes;
    }
    s->v.label = s->label;
    s->v.class_name = (const char *const *)s->class_name;
    s->v.part_class = s->part_class;
    return digest(s);
}

/* Room for `count` images of the size of v and their labels. */
hn_status hn_images_room(hn_image_set *s, const hn_images *v, int64_t count)
{
    const int64_t image = v->h * v->w * v->c;
    s->v.count = count;
    s->v.h = v->h;
    s->v.w = v->w;
    s->v.c = v->c;
    s->pixel = hn_malloc((size_t)(count * image));
    s->label = hn_malloc((size_t)count * sizeof *s->label);
    s->v.pixel = s->pixel;
    if (s->pixel == NULL || s->label == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " images of %" PRId64 " bytes",
                       count, image);
    return HN_OK;
}

hn_status hn_images_copy_names(hn_image_set *s, const char *const *name, int32_t n)
{
    HN_TRY(name_room(s, n));
    for (int32_t i = 0; i < n; i++) {
        s->class_name[i] = hn_strdup(name[i]);
        if (s->class_name[i] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    return HN_OK;
}

hn_status hn_images_copy_parts(hn_image_set *s, const int32_t *part_class, int n)
{
    hn_free(s->part_class);
    s->part_class = hn_malloc(((size_t)n + 1) * sizeof *s->part_class);
    if (s->part_class == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for an image set");
    memcpy(s->part_class, part_class, ((size_t)n + 1) * sizeof *s->part_class);
    s->v.n_parts = n;
    return HN_OK;
}

hn_status hn_image_set_make(const hn_images *v, const char *name, hn_image_set **out)
{
    hn_image_set *s = NULL;
    hn_status st = HN_OK;
    if (v->count < 1 || v->count > INT32_MAX || v->h < 1 || v->w < 1 || v->h > HN_IMAGE_MAX_SIDE ||
        v->w > HN_IMAGE_MAX_SIDE || v->c < 1 || v->c > HN_IMAGE_MAX_CHANNELS || v->n_classes < 1)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " images of %" PRId64 " x %" PRId64 " x %d in %d classes",
                       name, v->count, v->h, v->w, v->c, (int)v->n_classes);
    HN_TRY(hn_images_new(name, &s));
    HN_TRY_GOTO(st, hn_images_room(s, v, v->count), done);
    memcpy(s->label, v->label, (size_t)v->count * sizeof *s->label);
    memcpy(s->pixel, v->pixel, (size_t)(v->count * v->h * v->w * v->c));
    s->named = v->class_name != NULL;
    HN_TRY_GOTO(st,
                s->named ? hn_images_copy_names(s, v->class_name, v->n_classes)
                         : hn_images_number_classes(s, v->n_classes),
                done);
    if (v->part_class != NULL)
        HN_TRY_GOTO(st, hn_images_copy_parts(s, v->part_class, v->n_parts), done);
    HN_TRY_GOTO(st, hn_images_check_labels(s, name), done);
    HN_TRY_GOTO(st, hn_images_seal(s), done);
    *out = s;
    s = NULL;

done:
    hn_image_set_free(s);
    return st;
}

/* ---- channels, sizes ---- */

/* Grey images as three equal channels. */
static hn_status make_colour(hn_image_set *s)
{
    const int64_t n = s->v.count * s->v.h * s->v.w;
    uint8_t *pixel = hn_malloc((size_t)(3 * n));
    if (pixel == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " bytes for pixels", 3 * n);
    for (int64_t i = 0; i < n; i++)
        pixel[3 * i] = pixel[3 * i + 1] = pixel[3 * i + 2] = s->v.pixel[i];
    hn_free(s->pixel);
    hn_mapfile_close(&s->map);
    s->v.pixel = s->pixel = pixel;
    s->v.c = 3;
    s->n_grey = s->v.count;
    return HN_OK;
}

/* Every image as a square of that side. */
static hn_status make_square(hn_image_set *s, int64_t size, int64_t max_bytes)
{
    const hn_images v = s->v;
    const int64_t from = v.h * v.w * v.c, to = size * size * v.c;
    if (v.count > max_bytes / to)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %" PRId64 " images of %" PRId64 " bytes are more than the limit of "
                       "%" PRId64 " bytes",
                       s->name, v.count, to, max_bytes);
    uint8_t *pixel = hn_malloc((size_t)(v.count * to));
    if (pixel == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " bytes for pixels", v.count * to);
    int64_t failed = 0;
#pragma omp parallel for reduction(+ : failed)
    for (int64_t i = 0; i < v.count; i++)
        failed += hn_image_resize_crop(v.pixel + i * from, v.h, v.w, v.c, size, size,
                                       pixel + i * to) != HN_OK;
    if (failed > 0) {
        hn_free(pixel);
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory to resize images", s->name);
    }
    hn_free(s->pixel);
    hn_mapfile_close(&s->map);
    s->v.pixel = s->pixel = pixel;
    s->v.h = s->v.w = size;
    s->n_resized = v.count;
    return HN_OK;
}

hn_status hn_images_settle(hn_image_set *s, const hn_image_options *o)
{
    const int64_t most = o->limits.max_bytes ? o->limits.max_bytes : HN_IMAGE_MAX_BYTES;
    const int64_t size = o->image_size;
    if (size > 0 && (s->v.h != size || s->v.w != size)) HN_TRY(make_square(s, size, most));
    if (o->channels == 0 || o->channels == s->v.c) return HN_OK;
    if (o->channels == 3 && s->v.c == 1) return make_colour(s);
    return HN_FAIL(HN_ERR_SHAPE, "%s: images have %d channel(s), wanted are %d", s->name, s->v.c,
                   o->channels);
}

/* ---- what callers read ---- */

const hn_images *hn_image_set_view(const hn_image_set *s) { return &s->v; }
const char *hn_image_set_name(const hn_image_set *s) { return s->name; }
const char *hn_image_set_kind(const hn_image_set *s) { return s->kind; }
const char *hn_image_set_digest(const hn_image_set *s) { return s->digest; }

int64_t hn_image_set_bytes(const hn_image_set *s) { return s->v.count * s->v.h * s->v.w * s->v.c; }
