/* image_decode.h - one JPEG or PNG file in memory as 8-bit pixels.
 *
 * What it is      its first bytes decide, not its name.
 * Grey, colour    a palette counts as colour; grey fits into colour (three equal channels), colour
 *                 does not fit into grey.
 * Alpha           dropped, transparent pixels show the colour stored in them (as PIL's
 *                 convert("RGB")).
 * 16 bits         the upper 8 are kept; 1, 2 and 4 bits are spread over 0..255.
 * EXIF            orientation 2..8 is applied: sizes are those of the picture as it is shown (as
 *                 PIL's ImageOps.exif_transpose). Unreadable EXIF data count as upright.
 * JPEG            baseline, progressive, arithmetic coding where the library has it; slow integer
 *                 DCT and smooth upsampling, the defaults of libjpeg-turbo and PIL. CMYK and YCCK
 *                 are HN_ERR_UNSUPPORTED.
 * Colour profiles, gamma and animation are not looked at.
 *
 * Damage is an error also where the library would warn and go on: data that are cut off or do not
 * fit together, a wrong checksum, more than HN_JPEG_MAX_SCANS scans. Bytes behind the picture's end
 * are not looked at. Every text begins with `name`.
 */
#ifndef HN_IMAGE_DECODE_H
#define HN_IMAGE_DECODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_IMAGE_MAX_SIDE = 65535,
    HN_IMAGE_MAX_PIXELS = 1 << 26, /* of one image, where the caller has no other limit */
    HN_JPEG_MAX_SCANS = 200        /* a progressive file of usual make has 10 */
};

typedef struct {
    int64_t h, w;    /* as it is shown */
    int c;           /* 1 grey, 3 colour */
    int orientation; /* EXIF's 1..8 */
    bool alpha;      /* it has an alpha channel or a transparent colour: dropped */
    bool deep;       /* 16 bits a channel */
} hn_image_info;

/* Reads the head. max_pixels 0: HN_IMAGE_MAX_PIXELS.
 * Errors  HN_ERR_FORMAT: no JPEG or PNG, damaged, above the limit; HN_ERR_UNSUPPORTED;
 *         HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_image_probe(const void *file, size_t n_bytes, const char *name,
                                      int64_t max_pixels, hn_image_info *out);
/* info     what hn_image_probe said of these bytes
 * c        channels wanted, 1 or 3
 * pixel    out [h, w, c], unspecified after an error
 * Errors   those of hn_image_probe; HN_ERR_SHAPE: a colour image as grey */
HN_NODISCARD hn_status hn_image_decode(const void *file, size_t n_bytes, const char *name,
                                       const hn_image_info *info, int c, uint8_t *pixel);

/* Orientation out of EXIF data that begin with the TIFF header; 1 when there is none to be read. */
int hn_exif_orientation(const uint8_t *data, size_t n_bytes);

/* As torchvision's Resize(side), CenterCrop(size) do on a PIL image: the shorter side becomes
 * `side` >= size (the longer one is rounded down) by PIL's bilinear filter, whose support grows
 * with the reduction (antialiasing; the same bits: its fixed point arithmetic, columns before
 * rows), then the centre, an odd rest being split as Python rounds. (Pillow 13 takes the rows of
 * tall images before their columns: pixels may differ by 1 there.) src      [h, w, c], c <= 4 dst
 * out [size, size, c] Errors   HN_ERR_SHAPE, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_image_resize_crop(const uint8_t *src, int64_t h, int64_t w, int c,
                                            int64_t side, int64_t size, uint8_t *dst);

#ifdef __cplusplus
}
#endif
#endif
