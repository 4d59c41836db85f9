#include "bench/bench.h"
#include "kernels/vision/image_prep.h"
#include "runtime/base/alloc.h"

enum { ROWS, SIZE, OUT }; /* a row is read from square images and becomes out x out x 4 */

enum { CHANNELS = 3, OUT_CHANNELS = 4, LD = 8 /* 16 bytes a pixel */ };

/* Random bytes. */
static const uint8_t *images(hn_bench *b, size_t n)
{
    uint8_t *host = hn_malloc(n);
    if (host == NULL) return NULL;
    for (size_t i = 0; i < n; i++) host[i] = (uint8_t)(i * 2654435761u >> 11);
    const uint8_t *p = hn_bench_upload(b, host, n);
    hn_free(host);
    return p;
}

static hn_status setup(hn_bench *b, const int64_t *s, bool resized, hn_image_prep_args *a)
{
    const hn_rng_state state = {.seed = 1, .step = 1};
    const int64_t count = 2 * s[ROWS];
    *a = (hn_image_prep_args){
        .images = images(b, (size_t)(count * s[SIZE] * s[SIZE] * CHANNELS)),
        .labels = hn_bench_ids(b, count, 100),
        .index = hn_bench_ids(b, s[ROWS], count),
        .y = hn_bench_array(b, s[ROWS] * s[OUT] * s[OUT] * LD, hn_bench_dtype(b), HN_FILL_NONE),
        .y_labels = (int32_t *)hn_bench_array(b, s[ROWS], HN_I32, HN_FILL_NONE),
        .state = hn_bench_upload(b, &state, sizeof state),
        .key = 1,
        .count = count,
        .height = s[SIZE],
        .width = s[SIZE],
        .channels = CHANNELS,
        .ld_images = CHANNELS,
        .n = s[ROWS],
        .out_height = s[OUT],
        .out_width = s[OUT],
        .out_channels = OUT_CHANNELS,
        .ld_y = LD,
        .pad = resized ? 0 : 4,
        .resized = resized,
        .train = true,
        .flip = 0.5f,
        .mean = {0.485f, 0.456f, 0.406f},
        .std = {0.229f, 0.224f, 0.225f},
        .dtype = hn_bench_dtype(b),
    };
    return hn_image_prep_check(a);
}

static hn_status run(const void *args, hn_stream stream)
{
    return hn_image_prep_cuda(args, stream);
}

/* A byte in, a bf16 out; what lies between the pixels of y is not written. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return (double)(s[ROWS] * s[OUT] * s[OUT]) *
           (CHANNELS + OUT_CHANNELS * (double)hn_dtype_size(t));
}

/* ---- crop ---- */

static hn_status crop_setup(hn_bench *b, const int64_t *s, void *args)
{
    return setup(b, s, false, args);
}

/* CIFAR. */
static const int64_t crop_shapes[][HN_BENCH_AXES] = {{512, 32, 32}, {32, 32, 32}};

const hn_bench_def hn_bench_image_prep_crop = {
    .name = "image_prep_crop",
    .dtype = HN_BF16,
    .axes = {"rows", "size", "out"},
    HN_BENCH_SHAPES(crop_shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_image_prep_args),
    .setup = crop_setup,
    .run = run,
};

/* ---- resized ---- */

static hn_status resized_setup(hn_bench *b, const int64_t *s, void *args)
{
    return setup(b, s, true, args);
}

/* ImageNet. */
static const int64_t resized_shapes[][HN_BENCH_AXES] = {{64, 256, 224}};

const hn_bench_def hn_bench_image_prep_resized = {
    .name = "image_prep_resized",
    .dtype = HN_BF16,
    .axes = {"rows", "size", "out"},
    HN_BENCH_SHAPES(resized_shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_image_prep_args),
    .setup = resized_setup,
    .run = run,
};
