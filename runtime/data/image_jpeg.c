/* JPEG through libjpeg-turbo. The library reports by callbacks that may not return: they keep the
 * text and jump back to read_all; everything that lives on is in one struct outside of it. */
#include <setjmp.h>
#include <stdio.h> /* jpeglib.h needs it */
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>

#include "runtime/data/image_codec_impl.h"

typedef struct {
    struct jpeg_decompress_struct d;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    const hn_image_bytes *bytes;
    hn_image_info *info;
    uint8_t *pixel;
    int c;
    hn_status status;
} reader;

static void fail_with(reader *r, hn_status code, const char *text)
{
    r->status = HN_FAIL(code, "%s: damaged JPEG: %s", r->bytes->name, text);
    longjmp(r->back, 1);
}

static void on_error(j_common_ptr c)
{
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    const int code = c->err->msg_code;
    fail_with(c->client_data, code == JERR_OUT_OF_MEMORY ? HN_ERR_MEMORY : HN_ERR_FORMAT, text);
}

/* Level -1 are warnings: the library would make up the missing pixels. Two of them are about the
 * head only and harmless. */
static void on_message(j_common_ptr c, int level)
{
    const int code = c->err->msg_code;
    if (level < 0 && code != JWRN_ADOBE_XFORM && code != JWRN_JFIF_MAJOR) on_error(c);
}

/* Each scan of a progressive file goes over all pixels, however few bytes it has. */
static void on_progress(j_common_ptr c)
{
    const struct jpeg_decompress_struct *d = (const struct jpeg_decompress_struct *)c;
    if (d->input_scan_number > HN_JPEG_MAX_SCANS)
        fail_with(c->client_data, HN_ERR_FORMAT, "too many scans");
}

static void read_head(reader *r)
{
    enum { MARK = 6 };
    jpeg_read_header(&r->d, TRUE);
    const int n = r->d.num_components;
    if (r->d.jpeg_color_space == JCS_CMYK || r->d.jpeg_color_space == JCS_YCCK) {
        r->status = HN_FAIL(HN_ERR_UNSUPPORTED, "%s: CMYK JPEG: convert it to RGB", r->bytes->name);
        longjmp(r->back, 1);
    }
    if (n != 1 && n != 3) {
        r->status =
            HN_FAIL(HN_ERR_UNSUPPORTED, "%s: JPEG of %d channels: 1 or 3", r->bytes->name, n);
        longjmp(r->back, 1);
    }
    r->status = hn_image_check_size(r->bytes, r->d.image_height, r->d.image_width,
                                    r->pixel ? r->info : NULL);
    if (r->status != HN_OK) longjmp(r->back, 1);
    if (r->pixel != NULL) return;
    *r->info =
        (hn_image_info){.h = r->d.image_height, .w = r->d.image_width, .c = n, .orientation = 1};
    for (const struct jpeg_marker_struct *m = r->d.marker_list; m != NULL; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length >= MARK &&
            memcmp(m->data, "Exif\0", MARK) == 0) {
            r->info->orientation = hn_exif_orientation(m->data + MARK, m->data_length - MARK);
            break;
        }
}

static void read_pixels(reader *r)
{
    r->d.out_color_space = r->c == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&r->d);
    while (r->d.output_scanline < r->d.output_height) {
        JSAMPROW row = r->pixel + (size_t)r->d.output_scanline * r->d.output_width * (size_t)r->c;
        (void)jpeg_read_scanlines(&r->d, &row, 1);
    }
    (void)jpeg_finish_decompress(&r->d);
}

static void read_all(reader *r)
{
    if (setjmp(r->back) != 0) return;
    jpeg_create_decompress(&r->d);
    r->progress.progress_monitor = on_progress;
    r->d.progress = &r->progress;
    jpeg_save_markers(&r->d, JPEG_APP0 + 1, 0xffff);
    jpeg_mem_src(&r->d, r->bytes->data, r->bytes->n_bytes);
    read_head(r);
    if (r->pixel != NULL) read_pixels(r);
}

hn_status hn_jpeg_read(const hn_image_bytes *b, int c, hn_image_info *info, uint8_t *pixel)
{
    reader r = {.bytes = b, .info = info, .pixel = pixel, .c = c};
    r.d.err = jpeg_std_error(&r.errors);
    r.errors.error_exit = on_error;
    r.errors.emit_message = on_message;
    r.d.client_data = &r;
    read_all(&r);
    jpeg_destroy_decompress(&r.d);
    return r.status;
}
