#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/images_impl.h"

/* Whole numbers: the same on any number of threads. 2^47 images of one pixel fit. */
void hn_image_set_stats(const hn_image_set *s, const int32_t *index, int64_t n, hn_image_stats *out)
{
    const hn_images *v = &s->v;
    const int64_t pixels = v->h * v->w, count = index ? n : v->count;
    *out = (hn_image_stats){0};
    for (int c = 0; c < v->c; c++) {
        uint64_t sum = 0, squares = 0;
#pragma omp parallel for reduction(+ : sum, squares)
        for (int64_t i = 0; i < count; i++) {
            const uint8_t *p = v->pixel + (index ? index[i] : i) * pixels * v->c + c;
            for (int64_t k = 0; k < pixels; k++) {
                const uint64_t x = p[k * v->c];
                sum += x;
                squares += x * x;
            }
        }
        const double total = (double)count * (double)pixels;
        if (total == 0) continue;
        const double mean = (double)sum / total;
        const double variance = (double)squares / total - mean * mean;
        out->mean[c] = mean;
        out->sd[c] = variance > 0 ? sqrt(variance) : 0;
    }
}

void hn_image_set_histogram(const hn_image_set *s, int64_t *count)
{
    memset(count, 0, (size_t)s->v.n_classes * sizeof *count);
    for (int64_t i = 0; i < s->v.count; i++) count[s->label[i]]++;
}

/* "cat 500, dog 500, ... and 90 more" */
static void report_classes(const hn_image_set *s, const int64_t *count, const hn_log *log)
{
    enum { SHOWN = 10 };
    char list[512] = "";
    size_t n = 0;
    int64_t least = INT64_MAX, most = 0;
    int32_t empty = 0, first_empty = -1, shown = 0;
    for (int32_t i = 0; i < s->v.n_classes; i++) {
        if (count[i] < least) least = count[i];
        if (count[i] > most) most = count[i];
        if (count[i] == 0 && empty++ == 0) first_empty = i;
        if (i != shown || i >= SHOWN) continue;
        const int m = snprintf(list + n, sizeof list - n, "%s%s %" PRId64, i ? ", " : "",
                               s->class_name[i], count[i]);
        if (m < 0 || (size_t)m >= sizeof list - n) {
            list[n] = '\0'; /* a long name: up to the one before */
            continue;
        }
        n += (size_t)m;
        shown++;
    }
    if (shown == s->v.n_classes)
        hn_info(log, "  %d classes: %s", (int)s->v.n_classes, list);
    else
        hn_info(log, "  %d classes of %" PRId64 "..%" PRId64 " images: %s%sand %d more",
                (int)s->v.n_classes, least, most, list, shown ? ", " : "",
                (int)(s->v.n_classes - shown));
    if (empty > 0)
        hn_warn(log, "  %d class(es) have no image, the first is '%s'", (int)empty,
                s->class_name[first_empty]);
}

static void report_channels(const hn_image_set *s, const hn_log *log)
{
    char list[256] = "";
    size_t n = 0;
    hn_image_stats t;
    hn_image_set_stats(s, NULL, 0, &t);
    for (int c = 0; c < s->v.c; c++) {
        const int m =
            snprintf(list + n, sizeof list - n, "%s%.4f (%.4f)", c ? ", " : "", t.mean[c], t.sd[c]);
        if (m < 0 || (size_t)m >= sizeof list - n) break;
        n += (size_t)m;
    }
    hn_info(log, "  mean and deviation of a channel, of 255: %s", list);
}

void hn_image_set_report(const hn_image_set *s, const hn_log *log)
{
    const hn_images *v = &s->v;
    int64_t *count = hn_malloc((size_t)v->n_classes * sizeof *count);
    hn_info(log, "%s: %s", s->name, s->kind);
    hn_info(log,
            "  %" PRId64 " images of %" PRId64 " x %" PRId64 " pixels, %d channel(s), %.1f MiB",
            v->count, v->w, v->h, v->c, (double)hn_image_set_bytes(s) / (1 << 20));
    if (count != NULL) {
        hn_image_set_histogram(s, count);
        report_classes(s, count, log);
        hn_free(count);
    }
    report_channels(s, log);
    if (s->n_skipped > 0)
        hn_warn(log, "  %" PRId64 " file(s) are no images and were skipped, the first is %s",
                s->n_skipped, s->first_skipped ? s->first_skipped : "?");
    if (s->n_left_out > 0)
        hn_info(log, "  %" PRId64 " image(s) behind the first ones of their classes were left out",
                s->n_left_out);
    if (s->n_alpha > 0)
        hn_warn(log, "  %" PRId64 " image(s) have an alpha channel; it was dropped", s->n_alpha);
    if (s->n_deep > 0)
        hn_warn(log, "  %" PRId64 " image(s) have 16 bits a channel; the upper 8 were kept",
                s->n_deep);
    if (s->n_turned > 0)
        hn_info(log, "  %" PRId64 " image(s) were turned as their EXIF data say", s->n_turned);
    if (s->n_grey > 0)
        hn_info(log, "  %" PRId64 " image(s) are grey: three equal channels", s->n_grey);
    if (s->n_resized > 0)
        hn_info(log, "  %" PRId64 " image(s) were resized and cropped to %" PRId64 " x %" PRId64,
                s->n_resized, v->w, v->h);
}
