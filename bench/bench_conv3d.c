#include "bench/bench.h"
#include "kernels/conv/conv3d.h"

enum { D, H, W, IN, OUT, DILATION };

/* One volume; a kernel of 3 x 3 x 3 that keeps its size. */
static hn_conv3d_shape shape_of(const int64_t *s)
{
    return (hn_conv3d_shape){.n = 1,
                             .d = s[D],
                             .h = s[H],
                             .w = s[W],
                             .in = s[IN],
                             .out = s[OUT],
                             .kd = 3,
                             .kh = 3,
                             .kw = 3,
                             .stride = 1,
                             .pad = s[DILATION],
                             .dilation = s[DILATION]};
}

static double flops(const int64_t *s)
{
    const hn_conv3d_shape c = shape_of(s);
    return 2.0 * (double)hn_conv3d_voxels_out(&c) * (double)c.out * (double)hn_conv3d_taps(&c);
}

/* x and y once, or their gradients; weights are nothing. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return (double)(s[D] * s[H] * s[W]) * (double)(s[IN] + s[OUT]) * (double)hn_dtype_size(t);
}

/* Elements from one voxel to the next. */
static int64_t pitch(int64_t cols, hn_dtype t)
{
    const int64_t in16 = 16 / (int64_t)hn_dtype_size(t);
    return (cols + in16 - 1) / in16 * in16;
}

static void *volume(hn_bench *b, const int64_t *s, int64_t channels, hn_bench_fill fill)
{
    const hn_dtype t = hn_bench_dtype(b);
    return hn_bench_array(b, s[D] * s[H] * s[W] * pitch(channels, t), t, fill);
}

static void *weights(hn_bench *b, const hn_conv3d_shape *c)
{
    return hn_bench_array(b, c->out * hn_conv3d_taps(c), hn_bench_dtype(b), HN_FILL_WEIGHT);
}

typedef struct {
    hn_conv3d_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} fwd_set;

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const hn_conv3d_shape c = shape_of(s);
    fwd_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_conv3d_args){
        .x = volume(b, s, c.in, HN_FILL_NORMAL),
        .w = weights(b, &c),
        .y = volume(b, s, c.out, HN_FILL_NONE),
        .shape = c,
        .ld_x = pitch(c.in, t),
        .ld_w = hn_conv3d_taps(&c),
        .ld_y = pitch(c.out, t),
        .dtype = t,
        .bias_dtype = t,
    };
    HN_TRY(hn_conv3d_check(&set->a));
    set->scratch = hn_bench_scratch(b, hn_conv3d_fwd_cuda_scratch(&set->a));
    return HN_OK;
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    const fwd_set *set = args;
    return hn_conv3d_fwd_cuda(&set->a, set->gemm, set->scratch, stream);
}

typedef struct {
    hn_conv3d_dx_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} dx_set;

static hn_status dx_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const hn_conv3d_shape c = shape_of(s);
    dx_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_conv3d_dx_args){
        .dy = volume(b, s, c.out, HN_FILL_NORMAL),
        .w = weights(b, &c),
        .dx = volume(b, s, c.in, HN_FILL_NONE),
        .shape = c,
        .ld_dy = pitch(c.out, t),
        .ld_w = hn_conv3d_taps(&c),
        .ld_dx = pitch(c.in, t),
        .dtype = t,
    };
    HN_TRY(hn_conv3d_dx_check(&set->a));
    set->scratch = hn_bench_scratch(b, hn_conv3d_dx_cuda_scratch(&set->a));
    return HN_OK;
}

static hn_status dx_run(const void *args, hn_stream stream)
{
    const dx_set *set = args;
    return hn_conv3d_dx_cuda(&set->a, set->gemm, set->scratch, stream);
}

typedef struct {
    hn_conv3d_dw_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} dw_set;

static hn_status dw_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const hn_conv3d_shape c = shape_of(s);
    dw_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_conv3d_dw_args){
        .dy = volume(b, s, c.out, HN_FILL_NORMAL),
        .x = volume(b, s, c.in, HN_FILL_NORMAL),
        .dw = hn_bench_array(b, c.out * hn_conv3d_taps(&c), HN_F32, HN_FILL_NORMAL),
        .shape = c,
        .ld_dy = pitch(c.out, t),
        .ld_x = pitch(c.in, t),
        .ld_dw = hn_conv3d_taps(&c),
        .dtype = t,
    };
    HN_TRY(hn_conv3d_dw_check(&set->a));
    set->scratch = hn_bench_scratch(b, hn_conv3d_dw_cuda_scratch(&set->a));
    return HN_OK;
}

static hn_status dw_run(const void *args, hn_stream stream)
{
    const dw_set *set = args;
    return hn_conv3d_dw_cuda(&set->a, set->gemm, set->scratch, stream);
}

/* The U-Net of FeTS on a whole volume: its first convolution, the widest of its top level, one a
 * level below, and the lowest; MeshNets of 5 and 20 channels on a whole head; one by patches. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {155, 240, 240, 1, 2, 1},  {155, 240, 240, 12, 4, 1}, {155, 240, 240, 4, 4, 1},
    {77, 120, 120, 8, 8, 1},   {38, 60, 60, 48, 16, 1},   {19, 30, 30, 32, 32, 1},
    {256, 256, 256, 5, 5, 1},  {256, 256, 256, 5, 5, 16}, {256, 256, 256, 20, 20, 4},
    {32, 32, 32, 128, 128, 1},
};
static const int64_t f32_shapes[][HN_BENCH_AXES] = {{155, 240, 240, 4, 4, 1},
                                                    {256, 256, 256, 5, 5, 16}};

/* clang-format off */
#define CONV3D_BENCH(symbol, text, type, list, set, setup_, run_)  \
    const hn_bench_def hn_bench_conv3d_##symbol = {                \
        .name = "conv3d_" text,                                    \
        .axes = {"d", "h", "w", "in", "out", "dilation"},          \
        .dtype = type,                                             \
        HN_BENCH_SHAPES(list),                                     \
        .flops = flops,                                            \
        .bytes = bytes,                                            \
        .args_size = sizeof(set),                                  \
        .setup = setup_,                                           \
        .run = run_,                                               \
    }
CONV3D_BENCH(fwd, "fwd", HN_BF16, shapes, fwd_set, fwd_setup, fwd_run);
CONV3D_BENCH(dx, "dx", HN_BF16, shapes, dx_set, dx_setup, dx_run);
CONV3D_BENCH(dw, "dw", HN_BF16, shapes, dw_set, dw_setup, dw_run);
CONV3D_BENCH(fwd_f32, "fwd", HN_F32, f32_shapes, fwd_set, fwd_setup, fwd_run);
CONV3D_BENCH(dx_f32, "dx", HN_F32, f32_shapes, dx_set, dx_setup, dx_run);
CONV3D_BENCH(dw_f32, "dw", HN_F32, f32_shapes, dw_set, dw_setup, dw_run);
/* clang-format on */
