#include "bench/bench.h"
#include "kernels/conv/shortcut_a.h"

/* The two of ResNet-20/CIFAR at batch 512: twice the channels, every second pixel. */
static const int64_t shapes[][HN_BENCH_AXES] = {{512, 32, 16}, {512, 16, 32}};

static hn_shortcut_a_shape shape_of(const int64_t *s, hn_dtype t)
{
    return (hn_shortcut_a_shape){
        .n = s[0], .h = s[1], .w = s[1], .ci = s[2], .co = 2 * s[2], .stride = 2, .dtype = t};
}

static int64_t in_elements(const int64_t *s) { return s[0] * s[1] * s[1] * s[2]; }
static int64_t out_elements(const int64_t *s) { return in_elements(s) / 2; }

/* A quarter of x is read, all of y is written. */
static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * (0.25 * (double)in_elements(s) + (double)out_elements(s));
}

/* Half of dy is read, all of dx is written. */
static double bwd_bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * ((double)in_elements(s) + 0.5 * (double)out_elements(s));
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_shortcut_a_args *a = args;
    *a = (hn_shortcut_a_args){
        .s = shape_of(s, t),
        .x = hn_bench_array(b, in_elements(s), t, HN_FILL_NORMAL),
        .y = hn_bench_array(b, out_elements(s), t, HN_FILL_NONE),
        .ld_x = s[2],
        .ld_y = 2 * s[2],
    };
    return hn_shortcut_a_check(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_shortcut_a_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_shortcut_a_fwd = {
    .name = "shortcut_a_fwd",
    .dtype = HN_BF16,
    .axes = {"images", "side", "channels"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_shortcut_a_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_shortcut_a_bwd_args *a = args;
    *a = (hn_shortcut_a_bwd_args){
        .s = shape_of(s, t),
        .dy = hn_bench_array(b, out_elements(s), t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, in_elements(s), t, HN_FILL_NONE),
        .ld_dy = 2 * s[2],
        .ld_dx = s[2],
    };
    return hn_shortcut_a_bwd_check(a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    return hn_shortcut_a_bwd_cuda(args, stream);
}

const hn_bench_def hn_bench_shortcut_a_bwd = {
    .name = "shortcut_a_bwd",
    .dtype = HN_BF16,
    .axes = {"images", "side", "channels"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(hn_shortcut_a_bwd_args),
    .setup = bwd_setup,
    .run = bwd_run,
};
