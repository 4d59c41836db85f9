#include "runtime/data/image_decode.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/image_codec_impl.h"

typedef enum { KIND_OTHER, KIND_JPEG, KIND_PNG } kind;

static kind kind_of(const uint8_t *p, size_t n)
{
    static const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (n >= sizeof png && memcmp(p, png, sizeof png) == 0) return KIND_PNG;
    if (n >= 3 && p[0] == 0xff && p[1] == 0xd8 && p[2] == 0xff) return KIND_JPEG;
    return KIND_OTHER;
}

hn_status hn_image_check_size(const hn_image_bytes *b, int64_t h, int64_t w,
                              const hn_image_info *promised)
{
    if (h < 1 || w < 1 || h > HN_IMAGE_MAX_SIDE || w > HN_IMAGE_MAX_SIDE || h * w > b->max_pixels)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: image of %" PRId64 " x %" PRId64 " pixels: sides must be 1..%d and the "
                       "image at most %" PRId64 " pixels",
                       b->name, w, h, HN_IMAGE_MAX_SIDE, b->max_pixels);
    if (promised != NULL && (h != promised->h || w != promised->w))
        return HN_FAIL(HN_ERR_FORMAT, "%s: the file changed while it was read", b->name);
    return HN_OK;
}

/* ---- EXIF ---- */

static uint32_t number(const uint8_t *p, int n, bool big)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++) v = v << 8 | p[big ? i : n - 1 - i];
    return v;
}

int hn_exif_orientation(const uint8_t *data, size_t n_bytes)
{
    enum { HEAD = 8, ENTRY = 12, TAG = 0x0112, SHORT = 3 };
    if (n_bytes < HEAD) return 1;
    const bool big = memcmp(data, "MM\0*", 4) == 0;
    if (!big && memcmp(data, "II*\0", 4) != 0) return 1;
    const size_t at = number(data + 4, 4, big);
    if (at > n_bytes || n_bytes - at < 2) return 1;
    const size_t n = number(data + at, 2, big), room = (n_bytes - at - 2) / ENTRY;
    for (size_t i = 0; i < n && i < room; i++) {
        const uint8_t *e = data + at + 2 + i * ENTRY;
        if (number(e, 2, big) != TAG) continue;
        const uint32_t v = number(e + 8, 2, big);
        return number(e + 2, 2, big) == SHORT && v >= 1 && v <= 8 ? (int)v : 1;
    }
    return 1;
}

/* Pixel (y, x) of the picture as it is shown lies at *v, *u of the file, which is h x w. */
static void turned(int orientation, int64_t h, int64_t w, int64_t y, int64_t x, int64_t *v,
                   int64_t *u)
{
    const int64_t down = h - 1, right = w - 1;
    switch (orientation) {
    case 2: *v = y, *u = right - x; break;        /* mirrored */
    case 3: *v = down - y, *u = right - x; break; /* half a turn */
    case 4: *v = down - y, *u = x; break;         /* upside down, mirrored */
    case 5: *v = x, *u = y; break;                /* transposed */
    case 6: *v = down - x, *u = y; break;         /* a quarter to the right */
    case 7: *v = down - x, *u = right - y; break; /* transposed the other way */
    case 8: *v = x, *u = right - y; break;        /* a quarter to the left */
    default: *v = y, *u = x; break;
    }
}

/* ---- both passes ---- */

static hn_status read_file(const hn_image_bytes *b, int c, hn_image_info *info, uint8_t *pixel)
{
    switch (kind_of(b->data, b->n_bytes)) {
    case KIND_JPEG: return hn_jpeg_read(b, c, info, pixel);
    case KIND_PNG: return hn_png_read(b, c, info, pixel);
    default:
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s", b->name,
                       b->n_bytes ? "neither JPEG nor PNG" : "the file is empty");
    }
}

static hn_image_info swapped(hn_image_info i)
{
    if (i.orientation >= 5) {
        const int64_t h = i.h;
        i.h = i.w;
        i.w = h;
    }
    return i;
}

hn_status hn_image_probe(const void *file, size_t n_bytes, const char *name, int64_t max_pixels,
                         hn_image_info *out)
{
    const hn_image_bytes b = {file, n_bytes, name, max_pixels ? max_pixels : HN_IMAGE_MAX_PIXELS};
    hn_image_info info = {0};
    HN_TRY(read_file(&b, 0, &info, NULL));
    *out = swapped(info);
    return HN_OK;
}

hn_status hn_image_decode(const void *file, size_t n_bytes, const char *name,
                          const hn_image_info *info, int c, uint8_t *pixel)
{
    const hn_image_bytes b = {file, n_bytes, name, info->h * info->w};
    hn_image_info stored = swapped(*info); /* as in the file */
    if (c != 1 && c != 3) return HN_FAIL(HN_ERR_SHAPE, "%s: %d channels: 1 or 3", name, c);
    if (c < info->c)
        return HN_FAIL(HN_ERR_SHAPE, "%s: a colour image (3 channels) among grey ones (1 channel)",
                       name);
    if (info->orientation <= 1) return read_file(&b, c, &stored, pixel);

    uint8_t *raw = hn_malloc((size_t)(info->h * info->w * c));
    if (raw == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " x %" PRId64 " pixels", name,
                       info->w, info->h);
    const hn_status st = read_file(&b, c, &stored, raw);
    for (int64_t y = 0; st == HN_OK && y < info->h; y++)
        for (int64_t x = 0; x < info->w; x++) {
            int64_t v, u;
            turned(info->orientation, stored.h, stored.w, y, x, &v, &u);
            memcpy(pixel + (y * info->w + x) * c, raw + (v * stored.w + u) * c, (size_t)c);
        }
    hn_free(raw);
    return st;
}
