#include "bench/bench.h"
#include "kernels/conv/pool2d.h"

/* Square images. Maxima: the stem of ResNet/224 at batch 64 (3 x 3, stride 2, pad 1), 2 x 2 of a
 * small network at batch 512. Means over the image: ResNet-18/CIFAR at batch 512, ResNet-50/224 and
 * a separable network at batch 64. */
static const int64_t max_shapes[][HN_BENCH_AXES] = {{64, 112, 64, 3}, {512, 32, 64, 2}};
static const int64_t image_shapes[][HN_BENCH_AXES] = {
    {512, 4, 512, 0}, {64, 7, 2048, 0}, {64, 7, 1024, 0}};

static hn_pool2d_shape shape_of(const int64_t *s, hn_dtype t)
{
    hn_pool2d_shape p = {.n = s[0], .h = s[1], .w = s[1], .c = s[2], .out_h = 1, .out_w = 1};
    p.kind = s[3] > 0 ? HN_POOL_MAX : HN_POOL_AVG;
    p.size = s[3];
    p.stride = 2;
    p.pad = s[3] == 3;
    p.dtype = t;
    if (s[3] > 0) p.out_h = p.out_w = hn_pool2d_out(s[1], p.size, p.stride, p.pad);
    return p;
}

static double in_elements(const int64_t *s)
{
    return (double)s[0] * (double)s[1] * (double)s[1] * (double)s[2];
}

static double out_elements(const int64_t *s)
{
    const hn_pool2d_shape p = shape_of(s, HN_BF16);
    return (double)p.n * (double)p.out_h * (double)p.out_w * (double)p.c;
}

/* Forward and backward alike: an index is a byte. */
static double bytes(const int64_t *s, hn_dtype t)
{
    const double size = (double)hn_dtype_size(t);
    return size * in_elements(s) + (size + (s[3] > 0 ? 1.0 : 0.0)) * out_elements(s);
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = (int64_t)in_elements(s), m = (int64_t)out_elements(s);
    hn_pool2d_args *a = args;
    *a = (hn_pool2d_args){
        .s = shape_of(s, t),
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .y = hn_bench_array(b, m, t, HN_FILL_NONE),
        .index = s[3] > 0 ? hn_bench_array(b, m, HN_U8, HN_FILL_NONE) : NULL,
        .ld_x = s[2],
        .ld_y = s[2],
        .ld_index = s[2],
    };
    return hn_pool2d_check(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_pool2d_fwd_cuda(args, stream);
}

/* Indices are those of random values. */
static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_pool2d_args fwd;
    hn_pool2d_bwd_args *a = args;
    HN_TRY(fwd_setup(b, s, &fwd));
    HN_TRY(hn_pool2d_fwd_cuda(&fwd, hn_bench_stream(b)));
    *a = (hn_pool2d_bwd_args){
        .s = fwd.s,
        .dy = hn_bench_array(b, (int64_t)out_elements(s), t, HN_FILL_NORMAL),
        .index = fwd.index,
        .dx = hn_bench_array(b, (int64_t)in_elements(s), t, HN_FILL_NONE),
        .ld_dy = s[2],
        .ld_index = s[2],
        .ld_dx = s[2],
    };
    return hn_pool2d_bwd_check(a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    return hn_pool2d_bwd_cuda(args, stream);
}

const hn_bench_def hn_bench_pool2d_max_fwd = {
    .name = "pool2d_max_fwd",
    .dtype = HN_BF16,
    .axes = {"images", "side", "channels", "size"},
    HN_BENCH_SHAPES(max_shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_pool2d_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

const hn_bench_def hn_bench_pool2d_max_bwd = {
    .name = "pool2d_max_bwd",
    .dtype = HN_BF16,
    .axes = {"images", "side", "channels", "size"},
    HN_BENCH_SHAPES(max_shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_pool2d_bwd_args),
    .setup = bwd_setup,
    .run = bwd_run,
};

const hn_bench_def hn_bench_pool2d_image_fwd = {
    .name = "pool2d_image_fwd",
    .dtype = HN_BF16,
    .axes = {"images", "side", "channels", "size"},
    HN_BENCH_SHAPES(image_shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_pool2d_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

const hn_bench_def hn_bench_pool2d_image_bwd = {
    .name = "pool2d_image_bwd",
    .dtype = HN_BF16,
    .axes = {"images", "side", "channels", "size"},
    HN_BENCH_SHAPES(image_shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_pool2d_bwd_args),
    .setup = bwd_setup,
    .run = bwd_run,
};
