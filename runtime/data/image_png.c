/* PNG through libpng. The library reports errors by a callback that may not return: it keeps the
 * text and jumps back to read_all; everything that lives on is in one struct outside of it. */
#include <setjmp.h>
#include <string.h>

#include <png.h>

#include "runtime/data/image_codec_impl.h"

typedef struct {
    png_structp png;
    png_infop head;
    jmp_buf back;
    const hn_image_bytes *bytes;
    size_t at;
    hn_image_info *info;
    uint8_t *pixel;
    int c;
    hn_status status;
} reader;

static void on_error(png_structp png, png_const_charp text)
{
    reader *r = png_get_error_ptr(png);
    r->status = HN_FAIL(strcmp(text, "Out of memory") == 0 ? HN_ERR_MEMORY : HN_ERR_FORMAT,
                        "%s: damaged PNG: %s", r->bytes->name, text);
    longjmp(r->back, 1);
}

/* About parts that are not used (profiles, texts); what touches pixels is an error. */
static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep to, size_t n)
{
    reader *r = png_get_io_ptr(png);
    if (n > r->bytes->n_bytes - r->at) png_error(png, "the file is cut off");
    memcpy(to, r->bytes->data + r->at, n);
    r->at += n;
}

static int orientation_of(reader *r)
{
    png_uint_32 n = 0;
    png_bytep data = NULL;
    if (png_get_eXIf_1(r->png, r->head, &n, &data) == 0 || data == NULL) return 1;
    return hn_exif_orientation(data, n);
}

static void read_head(reader *r)
{
    png_read_info(r->png, r->head);
    const png_byte type = png_get_color_type(r->png, r->head);
    const int64_t h = png_get_image_height(r->png, r->head);
    const int64_t w = png_get_image_width(r->png, r->head);
    r->status = hn_image_check_size(r->bytes, h, w, r->pixel ? r->info : NULL);
    if (r->status != HN_OK) longjmp(r->back, 1);
    if (r->pixel != NULL) return;
    *r->info = (hn_image_info){.h = h,
                               .w = w,
                               .c = type & PNG_COLOR_MASK_COLOR ? 3 : 1,
                               .orientation = orientation_of(r),
                               .alpha = (type & PNG_COLOR_MASK_ALPHA) ||
                                        png_get_valid(r->png, r->head, PNG_INFO_tRNS),
                               .deep = png_get_bit_depth(r->png, r->head) == 16};
}

static void read_pixels(reader *r)
{
    const png_byte type = png_get_color_type(r->png, r->head);
    const png_uint_32 h = png_get_image_height(r->png, r->head);
    png_set_strip_16(r->png);
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(r->png);
    if (type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(r->png);
    png_set_strip_alpha(r->png); /* a palette's transparent colour became alpha above */
    if (!(type & PNG_COLOR_MASK_COLOR) && r->c == 3) png_set_gray_to_rgb(r->png);
    const int passes = png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->head);
    const size_t row = (size_t)png_get_image_width(r->png, r->head) * (size_t)r->c;
    if (png_get_rowbytes(r->png, r->head) != row) png_error(r->png, "unexpected size of a row");
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < h; y++) png_read_row(r->png, r->pixel + y * row, NULL);
    png_read_end(r->png, NULL);
}

/* Texts and colour profiles are skipped unread: nothing in them can become a bomb or an error. */
static void skip_unused(png_structp png)
{
    static const png_byte unused[] = "tEXt\0zTXt\0iTXt\0iCCP\0sPLT\0hIST\0pCAL\0sCAL\0tIME";
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, unused, sizeof unused / 5);
}

static void read_all(reader *r)
{
    if (setjmp(r->back) != 0) return;
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, r, on_error, on_warning);
    if (r->png != NULL) r->head = png_create_info_struct(r->png);
    if (r->head == NULL) {
        r->status = HN_FAIL(HN_ERR_MEMORY, "%s: no memory to read a PNG", r->bytes->name);
        return;
    }
    png_set_read_fn(r->png, r, on_read);
    png_set_user_limits(r->png, HN_IMAGE_MAX_SIDE, HN_IMAGE_MAX_SIDE);
    png_set_crc_action(r->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    skip_unused(r->png);
    read_head(r);
    if (r->pixel != NULL) read_pixels(r);
}

hn_status hn_png_read(const hn_image_bytes *b, int c, hn_image_info *info, uint8_t *pixel)
{
    reader r = {.bytes = b, .info = info, .pixel = pixel, .c = c};
    read_all(&r);
    png_destroy_read_struct(&r.png, &r.head, NULL);
    return r.status;
}
