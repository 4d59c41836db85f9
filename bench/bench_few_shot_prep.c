#include "bench/bench.h"
#include "kernels/vision/few_shot_prep.h"
#include "runtime/base/alloc.h"

enum { EPISODES, SUPPORT, SIZE, OUT }; /* square images, each made out x out x 4 twice */

enum { CHANNELS = 3, OUT_CHANNELS = 4, LD = 8 /* 16 bytes a pixel */ };

typedef struct {
    hn_few_shot_prep_args a;
    void *scratch;
} prep_set;

/* Random bytes. */
static const uint8_t *images(hn_bench *b, size_t n)
{
    uint8_t *const host = hn_malloc(n);
    if (host == NULL) return NULL;
    for (size_t i = 0; i < n; i++) host[i] = (uint8_t)(i * 2654435761u >> 11);
    const uint8_t *const p = hn_bench_upload(b, host, n);
    hn_free(host);
    return p;
}

/* One state for all episodes: their rows are the same, which costs the same. */
static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_rng_state state = {.seed = 1, .step = 1};
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[EPISODES] * s[SUPPORT];
    prep_set *const set = args;
    set->a = (hn_few_shot_prep_args){
        .images = images(b, (size_t)(n * s[SIZE] * s[SIZE] * CHANNELS)),
        .index = hn_bench_ids(b, n, n),
        .labels = hn_bench_ids(b, n, 5),
        .y = hn_bench_array(b, 2 * n * s[OUT] * s[OUT] * LD, t, HN_FILL_NONE),
        .y_labels = (int32_t *)hn_bench_array(b, 2 * n, HN_I32, HN_FILL_NONE),
        .state = hn_bench_upload(b, &state, sizeof state),
        .key = 1,
        .replicas = s[EPISODES],
        .support = s[SUPPORT],
        .count = n,
        .height = s[SIZE],
        .width = s[SIZE],
        .channels = CHANNELS,
        .ld_images = CHANNELS,
        .out_height = s[OUT],
        .out_width = s[OUT],
        .out_channels = OUT_CHANNELS,
        .ld_y = LD,
        .augment = 1.0f,
        .mean = {0.485f, 0.456f, 0.406f},
        .std = {0.229f, 0.224f, 0.225f},
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_few_shot_prep_cuda_scratch(&set->a));
    return hn_few_shot_prep_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const prep_set *const set = args;
    return hn_few_shot_prep_cuda(&set->a, set->scratch, stream);
}

/* The source in, two images out; what lies between the pixels of y is not written. */
static double bytes(const int64_t *s, hn_dtype t)
{
    const double image = (double)(s[SIZE] * s[SIZE] * CHANNELS);
    const double out = (double)(s[OUT] * s[OUT] * OUT_CHANNELS) * (double)hn_dtype_size(t);
    return (double)(s[EPISODES] * s[SUPPORT]) * (image + 2.0 * out);
}

/* CIFAR's images as a ViT at 224 sees them, 5-way 5-shot; Omniglot's size. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {64, 25, 32, 224}, {16, 25, 32, 224}, {64, 25, 105, 224}, {64, 25, 32, 32}};

const hn_bench_def hn_bench_few_shot_prep = {
    .name = "few_shot_prep",
    .dtype = HN_BF16,
    .axes = {"episodes", "support", "size", "out"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(prep_set),
    .setup = setup,
    .run = run,
};
