/* image_codec_impl.h - private to image_decode.c and the two codecs.
 *
 * Sizes here are those of the file, before the picture is turned. */
#ifndef HN_IMAGE_CODEC_IMPL_H
#define HN_IMAGE_CODEC_IMPL_H
#include "runtime/data/image_decode.h"

typedef struct {
    const uint8_t *data;
    size_t n_bytes;
    const char *name;
    int64_t max_pixels;
} hn_image_bytes;

/* pixel    NULL: the head only; else [h, w, c] of what *info says, which must still be true */
hn_status hn_jpeg_read(const hn_image_bytes *b, int c, hn_image_info *info, uint8_t *pixel);
hn_status hn_png_read(const hn_image_bytes *b, int c, hn_image_info *info, uint8_t *pixel);

/* Sizes at least 1 and within the limits; in the second pass those of the first. */
hn_status hn_image_check_size(const hn_image_bytes *b, int64_t h, int64_t w,
                              const hn_image_info *promised);

#endif
