/* idx: 0, 0, element type, number of dimensions, the dimensions in 4 bytes each (big endian), then
 * the elements (yann.lecun.com/exdb/mnist). */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/image_decode.h"
#include "runtime/data/images_impl.h"

enum { U8 = 0x08, I8 = 0x09, I16 = 0x0b, I32 = 0x0c, F32 = 0x0d, F64 = 0x0e, MAX_DIMS = 4 };

typedef struct {
    int type, n_dims;
    uint32_t dim[MAX_DIMS];
    size_t head;       /* bytes before the elements */
    uint64_t elements; /* UINT64_MAX: too many to be counted */
} idx_head;

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int size_of(int type)
{
    switch (type) {
    case U8:
    case I8: return 1;
    case I16: return 2;
    case I32:
    case F32: return 4;
    case F64: return 8;
    default: return 0;
    }
}

/* false: these bytes do not begin like idx. */
static bool read_head(const uint8_t *p, size_t n_bytes, idx_head *h)
{
    *h = (idx_head){0};
    if (n_bytes < 4 || p[0] != 0 || p[1] != 0 || size_of(p[2]) == 0 || p[3] < 1 || p[3] > MAX_DIMS)
        return false;
    h->type = p[2];
    h->n_dims = p[3];
    h->head = 4 + 4 * (size_t)h->n_dims;
    if (n_bytes < h->head) return false;
    h->elements = 1;
    for (int i = 0; i < h->n_dims; i++) {
        h->dim[i] = big_endian(p + 4 + (ptrdiff_t)4 * i);
        if (__builtin_mul_overflow(h->elements, h->dim[i], &h->elements)) h->elements = UINT64_MAX;
    }
    return true;
}

uint64_t hn_idx_bytes(const uint8_t *head, size_t n_bytes)
{
    idx_head h;
    if (!read_head(head, n_bytes, &h)) return 0;
    const uint64_t most = (UINT64_MAX - h.head) / (uint64_t)size_of(h.type);
    return h.elements > most ? UINT64_MAX : h.head + h.elements * (uint64_t)size_of(h.type);
}

static hn_status check_head(const uint8_t *data, size_t n_bytes, const char *name, idx_head *h)
{
    if (!read_head(data, n_bytes, h)) {
        if (n_bytes < 4) return HN_FAIL(HN_ERR_FORMAT, "%s: cut off inside the idx header", name);
        if (data[0] != 0 || data[1] != 0 || size_of(data[2]) == 0)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: not idx: begins with %02x %02x %02x %02x, not with 00 00 and an "
                           "element type",
                           name, data[0], data[1], data[2], data[3]);
        if (data[3] < 1 || data[3] > MAX_DIMS)
            return HN_FAIL(HN_ERR_FORMAT, "%s: idx with %d dimensions: 1..%d", name, data[3],
                           MAX_DIMS);
        return HN_FAIL(HN_ERR_FORMAT, "%s: cut off inside the idx header", name);
    }
    const uint64_t wanted = hn_idx_bytes(data, n_bytes);
    if (wanted != n_bytes)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %zu bytes, but the header promises %" PRIu64 " (%s)",
                       name, n_bytes, wanted,
                       n_bytes < wanted ? "the file is cut off" : "something follows");
    return HN_OK;
}

hn_status hn_idx_parse_images(const uint8_t *data, size_t n_bytes, const char *name,
                              const hn_image_limits *limits, hn_idx_images *out)
{
    idx_head h;
    const int64_t most = limits->max_pixels ? limits->max_pixels : HN_IMAGE_MAX_PIXELS;
    HN_TRY(check_head(data, n_bytes, name, &h));
    if (h.type != U8 || h.n_dims < 3)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: idx of type 0x%02x with %d dimensions; images are bytes (0x08) with 3 "
                       "(count, height, width) or 4 (and channels)",
                       name, (unsigned)h.type, h.n_dims);
    const int64_t count = h.dim[0], rows = h.dim[1], cols = h.dim[2];
    const int64_t c = h.n_dims == 4 ? h.dim[3] : 1;
    if (count < 1 || count > INT32_MAX)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " images: 1..%d", name, count, INT32_MAX);
    if (rows < 1 || cols < 1 || rows > HN_IMAGE_MAX_SIDE || cols > HN_IMAGE_MAX_SIDE ||
        rows * cols > most || c < 1 || c > HN_IMAGE_MAX_CHANNELS)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: images of %" PRId64 " x %" PRId64 " pixels and %" PRId64
                       " channels: sides 1..%d, at most %" PRId64 " pixels, channels 1..%d",
                       name, cols, rows, c, HN_IMAGE_MAX_SIDE, most, HN_IMAGE_MAX_CHANNELS);
    *out =
        (hn_idx_images){.count = count, .h = rows, .w = cols, .c = (int)c, .pixel = data + h.head};
    return HN_OK;
}

hn_status hn_idx_parse_labels(const uint8_t *data, size_t n_bytes, const char *name, int64_t count,
                              int32_t *label)
{
    idx_head h;
    HN_TRY(check_head(data, n_bytes, name, &h));
    if ((h.type != U8 && h.type != I16 && h.type != I32) || h.n_dims != 1)
        return HN_FAIL(
            HN_ERR_FORMAT,
            "%s: idx of type 0x%02x with %d dimension(s); labels are bytes (0x08), int16 "
            "(0x0b) or int32 (0x0c) with one",
            name, (unsigned)h.type, h.n_dims);
    if (h.dim[0] != count)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRIu32 " labels for %" PRId64 " images", name,
                       h.dim[0], count);
    const uint8_t *p = data + h.head;
    for (int64_t i = 0; i < count; i++) {
        if (h.type == U8)
            label[i] = p[i];
        else if (h.type == I16)
            label[i] = (int16_t)(uint16_t)(p[2 * i] << 8 | p[2 * i + 1]);
        else
            label[i] = (int32_t)big_endian(p + 4 * i);
    }
    return HN_OK;
}

/* Names from classes.txt, else as many numbers as the largest label asks for. */
static hn_status settle_classes(const hn_image_files *f, hn_image_set *s)
{
    enum { MOST = 1 << 20 };
    static const char *const names[] = {"classes.txt", NULL};
    int32_t most = 0;
    HN_TRY(hn_images_name_classes(s, f->folder, names, 0));
    if (s->class_name != NULL) return hn_images_check_labels(s, f->labels);
    s->v.n_classes = MOST;
    HN_TRY(hn_images_check_labels(s, f->labels));
    for (int64_t i = 0; i < s->v.count; i++)
        if (s->label[i] > most) most = s->label[i];
    return hn_images_number_classes(s, most + 1);
}

hn_status hn_images_read_idx(const hn_image_files *f, const hn_image_options *o, hn_image_set *s)
{
    hn_status st = HN_OK;
    hn_data_bytes images = {0}, labels = {0};
    hn_idx_images found = {0};
    const int64_t most = o->limits.max_bytes ? o->limits.max_bytes : HN_IMAGE_MAX_BYTES;
    const char *path = f->files.path[0];
    HN_TRY_GOTO(st, hn_data_bytes_read(path, most, &images), done);
    HN_TRY_GOTO(st, hn_data_bytes_read(f->labels, most, &labels), done);
    HN_TRY_GOTO(st, hn_idx_parse_images(images.data, images.n_bytes, path, &o->limits, &found),
                done);
    s->kind = "idx";
    s->v.count = found.count;
    s->v.h = found.h;
    s->v.w = found.w;
    s->v.c = found.c;
    s->v.pixel = found.pixel;
    s->map = images.map; /* the set owns the bytes from here */
    s->pixel = images.owned;
    images = (hn_data_bytes){0};
    s->label = hn_malloc((size_t)found.count * sizeof *s->label);
    if (s->label == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " labels", path, found.count);
        goto done;
    }
    HN_TRY_GOTO(st,
                hn_idx_parse_labels(labels.data, labels.n_bytes, f->labels, found.count, s->label),
                done);
    st = settle_classes(f, s);

done:
    hn_data_bytes_free(&images);
    hn_data_bytes_free(&labels);
    return st;
}
