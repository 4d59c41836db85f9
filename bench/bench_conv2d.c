#include "bench/bench.h"
#include "kernels/conv/conv2d_cudnn.h"

enum { IMAGES, SIZE, IN, OUT, KERNEL, STRIDE };

/* Padded to keep the size, but for patches that lie side by side. */
static hn_conv2d_shape shape_of(const int64_t *s, bool depthwise)
{
    return (hn_conv2d_shape){
        .n = s[IMAGES],
        .h = s[SIZE],
        .w = s[SIZE],
        .in = s[IN],
        .out = s[OUT],
        .kh = s[KERNEL],
        .kw = s[KERNEL],
        .stride = s[STRIDE],
        .pad = s[KERNEL] == s[STRIDE] ? 0 : s[KERNEL] / 2,
        .dilation = 1,
        .groups = depthwise ? s[IN] : 1,
    };
}

static int64_t x_rows(const hn_conv2d_shape *c) { return c->n * c->h * c->w; }
static int64_t y_rows(const hn_conv2d_shape *c)
{
    return c->n * hn_conv2d_out_h(c) * hn_conv2d_out_w(c);
}

static double flops(const int64_t *s)
{
    const hn_conv2d_shape c = shape_of(s, false);
    return 2.0 * (double)y_rows(&c) * (double)c.out * (double)hn_conv2d_taps(&c);
}

/* Of a depthwise convolution: x and y once, or their gradients; weights are nothing. */
static double bytes(const int64_t *s, hn_dtype t)
{
    const hn_conv2d_shape c = shape_of(s, true);
    return (double)(x_rows(&c) + y_rows(&c)) * (double)c.in * (double)hn_dtype_size(t);
}

/* Elements from one pixel, or row of w, to the next. */
static int64_t pitch(int64_t cols, hn_dtype t)
{
    const int64_t in16 = 16 / (int64_t)hn_dtype_size(t);
    return (cols + in16 - 1) / in16 * in16;
}

static void *images(hn_bench *b, int64_t rows, int64_t channels, hn_bench_fill fill)
{
    const hn_dtype t = hn_bench_dtype(b);
    return hn_bench_array(b, rows * pitch(channels, t), t, fill);
}

static void *weights(hn_bench *b, const hn_conv2d_shape *c)
{
    const hn_dtype t = hn_bench_dtype(b);
    return hn_bench_array(b, c->out * pitch(hn_conv2d_taps(c), t), t, HN_FILL_WEIGHT);
}

static hn_status no_library(void) { return HN_FAIL(HN_ERR_UNSUPPORTED, "%s", hn_last_text()); }

/* ---- forward ---- */

typedef struct {
    hn_conv2d_args a;
    hn_gemm_cuda *gemm;
    hn_conv2d_cudnn *cudnn;
    void *scratch;
} fwd_set;

static hn_status fwd_fill(hn_bench *b, const int64_t *s, bool depthwise, fwd_set *set)
{
    const hn_dtype t = hn_bench_dtype(b);
    const hn_conv2d_shape c = shape_of(s, depthwise);
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_conv2d_args){
        .x = images(b, x_rows(&c), c.in, HN_FILL_NORMAL),
        .w = weights(b, &c),
        .y = images(b, y_rows(&c), c.out, HN_FILL_NONE),
        .shape = c,
        .ld_x = pitch(c.in, t),
        .ld_w = pitch(hn_conv2d_taps(&c), t),
        .ld_y = pitch(c.out, t),
        .dtype = t,
        .bias_dtype = t,
    };
    return hn_conv2d_check(&set->a);
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    fwd_set *set = args;
    HN_TRY(fwd_fill(b, s, false, set));
    set->scratch = hn_bench_scratch(b, hn_conv2d_fwd_cuda_scratch(&set->a));
    return HN_OK;
}

static hn_status depthwise_fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    return fwd_fill(b, s, true, args);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    const fwd_set *set = args;
    return hn_conv2d_fwd_cuda(&set->a, set->gemm, set->scratch, stream);
}

static hn_status fwd_cudnn_setup(hn_bench *b, const int64_t *s, void *args)
{
    fwd_set *set = args;
    size_t n = 0;
    HN_TRY(fwd_fill(b, s, false, set));
    set->cudnn = hn_bench_conv2d(b);
    if (set->cudnn == NULL) return no_library();
    HN_TRY(hn_conv2d_cudnn_plan_fwd(set->cudnn, &set->a, &n));
    set->scratch = hn_bench_scratch(b, n);
    return HN_OK;
}

static hn_status fwd_cudnn_run(const void *args, hn_stream stream)
{
    const fwd_set *set = args;
    return hn_conv2d_cudnn_fwd(set->cudnn, &set->a, set->scratch, stream);
}

/* ---- gradient of x ---- */

typedef struct {
    hn_conv2d_dx_args a;
    hn_gemm_cuda *gemm;
    hn_conv2d_cudnn *cudnn;
    void *scratch;
} dx_set;

static hn_status dx_fill(hn_bench *b, const int64_t *s, bool depthwise, dx_set *set)
{
    const hn_dtype t = hn_bench_dtype(b);
    const hn_conv2d_shape c = shape_of(s, depthwise);
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_conv2d_dx_args){
        .dy = images(b, y_rows(&c), c.out, HN_FILL_NORMAL),
        .w = weights(b, &c),
        .dx = images(b, x_rows(&c), c.in, HN_FILL_NONE),
        .shape = c,
        .ld_dy = pitch(c.out, t),
        .ld_w = pitch(hn_conv2d_taps(&c), t),
        .ld_dx = pitch(c.in, t),
        .dtype = t,
    };
    return hn_conv2d_dx_check(&set->a);
}

static hn_status dx_setup(hn_bench *b, const int64_t *s, void *args)
{
    dx_set *set = args;
    HN_TRY(dx_fill(b, s, false, set));
    set->scratch = hn_bench_scratch(b, hn_conv2d_dx_cuda_scratch(&set->a));
    return HN_OK;
}

static hn_status depthwise_dx_setup(hn_bench *b, const int64_t *s, void *args)
{
    return dx_fill(b, s, true, args);
}

static hn_status dx_run(const void *args, hn_stream stream)
{
    const dx_set *set = args;
    return hn_conv2d_dx_cuda(&set->a, set->gemm, set->scratch, stream);
}

static hn_status dx_cudnn_setup(hn_bench *b, const int64_t *s, void *args)
{
    dx_set *set = args;
    size_t n = 0;
    HN_TRY(dx_fill(b, s, false, set));
    set->cudnn = hn_bench_conv2d(b);
    if (set->cudnn == NULL) return no_library();
    HN_TRY(hn_conv2d_cudnn_plan_dx(set->cudnn, &set->a, &n));
    set->scratch = hn_bench_scratch(b, n);
    return HN_OK;
}

static hn_status dx_cudnn_run(const void *args, hn_stream stream)
{
    const dx_set *set = args;
    return hn_conv2d_cudnn_dx(set->cudnn, &set->a, set->scratch, stream);
}

/* ---- gradient of w ---- */

typedef struct {
    hn_conv2d_dw_args a;
    hn_gemm_cuda *gemm;
    hn_conv2d_cudnn *cudnn;
    void *scratch;
} dw_set;

static hn_status dw_fill(hn_bench *b, const int64_t *s, bool depthwise, dw_set *set)
{
    const hn_dtype t = hn_bench_dtype(b);
    const hn_conv2d_shape c = shape_of(s, depthwise);
    const int64_t ld_dw = pitch(hn_conv2d_taps(&c), HN_F32);
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_conv2d_dw_args){
        .dy = images(b, y_rows(&c), c.out, HN_FILL_NORMAL),
        .x = images(b, x_rows(&c), c.in, HN_FILL_NORMAL),
        .dw = hn_bench_array(b, c.out * ld_dw, HN_F32, HN_FILL_NORMAL),
        .shape = c,
        .ld_dy = pitch(c.out, t),
        .ld_x = pitch(c.in, t),
        .ld_dw = ld_dw,
        .dtype = t,
    };
    return hn_conv2d_dw_check(&set->a);
}

static hn_status dw_with_scratch(hn_bench *b, dw_set *set)
{
    set->scratch = hn_bench_scratch(b, hn_conv2d_dw_cuda_scratch(&set->a));
    return HN_OK;
}

static hn_status dw_setup(hn_bench *b, const int64_t *s, void *args)
{
    HN_TRY(dw_fill(b, s, false, args));
    return dw_with_scratch(b, args);
}

static hn_status depthwise_dw_setup(hn_bench *b, const int64_t *s, void *args)
{
    HN_TRY(dw_fill(b, s, true, args));
    return dw_with_scratch(b, args);
}

static hn_status dw_run(const void *args, hn_stream stream)
{
    const dw_set *set = args;
    return hn_conv2d_dw_cuda(&set->a, set->gemm, set->scratch, stream);
}

static hn_status dw_cudnn_setup(hn_bench *b, const int64_t *s, void *args)
{
    dw_set *set = args;
    size_t n = 0;
    HN_TRY(dw_fill(b, s, false, set));
    set->cudnn = hn_bench_conv2d(b);
    if (set->cudnn == NULL) return no_library();
    HN_TRY(hn_conv2d_cudnn_plan_dw(set->cudnn, &set->a, &n));
    set->scratch = hn_bench_scratch(b, n);
    return HN_OK;
}

static hn_status dw_cudnn_run(const void *args, hn_stream stream)
{
    const dw_set *set = args;
    return hn_conv2d_cudnn_dw(set->cudnn, &set->a, set->scratch, stream);
}

/* ---- what is timed ---- */

/* ResNet-18 on images of CIFAR's size, batch 512: its four kinds of block, a step down, a shortcut.
 * Then one of ResNet-50 on images of 224. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {512, 32, 64, 64, 3, 1},  {512, 16, 128, 128, 3, 1}, {512, 8, 256, 256, 3, 1},
    {512, 4, 512, 512, 3, 1}, {512, 32, 64, 128, 3, 2},  {512, 32, 64, 128, 1, 2},
    {64, 56, 64, 64, 3, 1},
};
static const int64_t f32_shapes[][HN_BENCH_AXES] = {{512, 32, 64, 64, 3, 1},
                                                    {512, 8, 256, 256, 3, 1}};
/* Few channels: the first layers of ResNet-18 and ViT-Tiny/224; and a product of ResNet-50. */
static const int64_t own_shapes[][HN_BENCH_AXES] = {
    {512, 32, 3, 64, 3, 1},  {64, 224, 3, 192, 16, 16}, {64, 56, 64, 256, 1, 1},
    {512, 32, 64, 64, 3, 1}, {512, 8, 256, 256, 3, 1},  {512, 32, 64, 128, 1, 2},
};
static const int64_t own_dx_shapes[][HN_BENCH_AXES] = {
    {64, 56, 64, 256, 1, 1}, {512, 32, 64, 64, 3, 1}, {512, 8, 256, 256, 3, 1}};
static const int64_t depthwise_shapes[][HN_BENCH_AXES] = {
    {64, 112, 32, 32, 3, 1}, {64, 14, 480, 480, 3, 1}, {64, 56, 96, 96, 7, 1}};

/* clang-format off */
#define CONV2D_BENCH(symbol, text, type, list, ceiling_, set, setup_, run_)       \
    const hn_bench_def hn_bench_conv2d_##symbol = {                               \
        .name = "conv2d_" text,                                                   \
        .axes = {"images", "size", "in", "out", "kernel", "stride"},              \
        .dtype = type,                                                            \
        HN_BENCH_SHAPES(list),                                                    \
        .ceiling_ = ceiling_,                                                     \
        .args_size = sizeof(set),                                                 \
        .setup = setup_,                                                          \
        .run = run_,                                                              \
    }
CONV2D_BENCH(fwd_cudnn, "fwd_cudnn", HN_BF16, shapes, flops,
             fwd_set, fwd_cudnn_setup, fwd_cudnn_run);
CONV2D_BENCH(dx_cudnn, "dx_cudnn", HN_BF16, shapes, flops,
             dx_set, dx_cudnn_setup, dx_cudnn_run);
CONV2D_BENCH(dw_cudnn, "dw_cudnn", HN_BF16, shapes, flops,
             dw_set, dw_cudnn_setup, dw_cudnn_run);
CONV2D_BENCH(fwd_cudnn_f32, "fwd_cudnn", HN_F32, f32_shapes, flops,
             fwd_set, fwd_cudnn_setup, fwd_cudnn_run);
CONV2D_BENCH(dx_cudnn_f32, "dx_cudnn", HN_F32, f32_shapes, flops,
             dx_set, dx_cudnn_setup, dx_cudnn_run);
CONV2D_BENCH(dw_cudnn_f32, "dw_cudnn", HN_F32, f32_shapes, flops,
             dw_set, dw_cudnn_setup, dw_cudnn_run);
CONV2D_BENCH(fwd, "fwd", HN_BF16, own_shapes, flops,
             fwd_set, fwd_setup, fwd_run);
CONV2D_BENCH(dx, "dx", HN_BF16, own_dx_shapes, flops,
             dx_set, dx_setup, dx_run);
CONV2D_BENCH(dw, "dw", HN_BF16, own_shapes, flops,
             dw_set, dw_setup, dw_run);
CONV2D_BENCH(fwd_f32, "fwd", HN_F32, f32_shapes, flops,
             fwd_set, fwd_setup, fwd_run);
CONV2D_BENCH(dx_f32, "dx", HN_F32, f32_shapes, flops,
             dx_set, dx_setup, dx_run);
CONV2D_BENCH(dw_f32, "dw", HN_F32, f32_shapes, flops,
             dw_set, dw_setup, dw_run);
CONV2D_BENCH(depthwise_fwd, "depthwise_fwd", HN_BF16, depthwise_shapes, bytes,
             fwd_set, depthwise_fwd_setup, fwd_run);
CONV2D_BENCH(depthwise_dx, "depthwise_dx", HN_BF16, depthwise_shapes, bytes,
             dx_set, depthwise_dx_setup, dx_run);
CONV2D_BENCH(depthwise_dw, "depthwise_dw", HN_BF16, depthwise_shapes, bytes,
             dw_set, depthwise_dw_setup, dw_run);
/* clang-format on */
