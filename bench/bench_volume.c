/* What a U-Net on whole volumes does between its convolutions: maxima over cubes, upsampling beside
 * a skip connection, the loss. Shapes of the U-Net of FeTS. */
#include "bench/bench.h"
#include "kernels/conv/pool3d.h"
#include "kernels/loss/seg_loss.h"
#include "kernels/vision/upsample.h"

enum { D, H, W, C, SKIP };

static int64_t voxels(const int64_t *s) { return s[D] * s[H] * s[W]; }
static int64_t small_voxels(const int64_t *s) { return s[D] / 2 * (s[H] / 2) * (s[W] / 2); }

/* Elements from one voxel to the next. */
static int64_t pitch(int64_t cols, hn_dtype t)
{
    const int64_t in16 = 16 / (int64_t)hn_dtype_size(t);
    return (cols + in16 - 1) / in16 * in16;
}

static void *volume(hn_bench *b, int64_t rows, int64_t channels, hn_bench_fill fill)
{
    const hn_dtype t = hn_bench_dtype(b);
    return hn_bench_array(b, rows * pitch(channels, t), t, fill);
}

/* ---- maxima: x, y and a byte of index ---- */

static double pool_bytes(const int64_t *s, hn_dtype t)
{
    const double size = (double)hn_dtype_size(t);
    return (double)s[C] * (size * (double)voxels(s) + (size + 1.0) * (double)small_voxels(s));
}

static hn_status pool_fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_pool3d_args *a = args;
    *a = (hn_pool3d_args){
        .s = {1, s[D], s[H], s[W], s[C], 2},
        .x = volume(b, voxels(s), s[C], HN_FILL_NORMAL),
        .y = volume(b, small_voxels(s), s[C], HN_FILL_NONE),
        .index = hn_bench_array(b, small_voxels(s) * s[C], HN_U8, HN_FILL_NONE),
        .ld_x = pitch(s[C], t),
        .ld_y = pitch(s[C], t),
        .ld_index = s[C],
        .dtype = t,
    };
    return hn_pool3d_check(a);
}

static hn_status pool_fwd_run(const void *args, hn_stream stream)
{
    return hn_pool3d_fwd_cuda(args, stream);
}

/* The index is the one that forward has made. */
static hn_status pool_bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_pool3d_args fwd;
    hn_pool3d_bwd_args *a = args;
    HN_TRY(pool_fwd_setup(b, s, &fwd));
    HN_TRY(hn_pool3d_fwd_cuda(&fwd, hn_bench_stream(b)));
    *a = (hn_pool3d_bwd_args){
        .s = fwd.s,
        .dy = volume(b, small_voxels(s), s[C], HN_FILL_NORMAL),
        .index = fwd.index,
        .dx = volume(b, voxels(s), s[C], HN_FILL_NONE),
        .ld_dy = pitch(s[C], t),
        .ld_index = s[C],
        .ld_dx = pitch(s[C], t),
        .dtype = t,
    };
    return hn_pool3d_bwd_check(a);
}

static hn_status pool_bwd_run(const void *args, hn_stream stream)
{
    return hn_pool3d_bwd_cuda(args, stream);
}

/* ---- upsampling by 2: x, skip, y; backward dy and dx ---- */

static hn_upsample_shape up_shape(const int64_t *s)
{
    return (hn_upsample_shape){1, s[D] / 2, s[H] / 2, s[W] / 2, s[C], s[D], s[H], s[W]};
}

static double up_bytes(const int64_t *s, hn_dtype t)
{
    const double channels = (double)voxels(s) * (double)(2 * s[SKIP] + s[C]);
    return (double)hn_dtype_size(t) * (channels + (double)small_voxels(s) * (double)s[C]);
}

static double up_bwd_bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * (double)s[C] * (double)(voxels(s) + small_voxels(s));
}

static hn_status up_fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_upsample_args *a = args;
    *a = (hn_upsample_args){
        .s = up_shape(s),
        .x = volume(b, small_voxels(s), s[C], HN_FILL_NORMAL),
        .skip = volume(b, voxels(s), s[SKIP], HN_FILL_NORMAL),
        .y = volume(b, voxels(s), s[SKIP] + s[C], HN_FILL_NONE),
        .c_skip = s[SKIP],
        .ld_x = pitch(s[C], t),
        .ld_skip = pitch(s[SKIP], t),
        .ld_y = pitch(s[SKIP] + s[C], t),
        .dtype = t,
    };
    return hn_upsample_check(a);
}

static hn_status up_fwd_run(const void *args, hn_stream stream)
{
    return hn_upsample_fwd_cuda(args, stream);
}

static hn_status up_bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t ld = pitch(s[SKIP] + s[C], t);
    hn_upsample_bwd_args *a = args;
    const char *const dy = volume(b, voxels(s), s[SKIP] + s[C], HN_FILL_NORMAL);
    *a = (hn_upsample_bwd_args){
        .s = up_shape(s),
        .dy = dy ? dy + (size_t)s[SKIP] * hn_dtype_size(t) : NULL,
        .dx = volume(b, small_voxels(s), s[C], HN_FILL_NONE),
        .ld_dy = ld,
        .ld_dx = pitch(s[C], t),
        .dtype = t,
    };
    return hn_upsample_bwd_check(a);
}

static hn_status up_bwd_run(const void *args, hn_stream stream)
{
    return hn_upsample_bwd_cuda(args, stream);
}

/* ---- loss: logits twice, labels twice, dlogits ---- */

typedef struct {
    hn_seg_loss_args a;
    void *scratch;
} loss_set;

static double loss_bytes(const int64_t *s, hn_dtype t)
{
    return (double)voxels(s) * (3.0 * (double)s[C] * (double)hn_dtype_size(t) + 8.0);
}

static hn_status loss_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    loss_set *set = args;
    float *const sums = hn_bench_array(b, 3, HN_F32, HN_FILL_NORMAL);
    set->a = (hn_seg_loss_args){
        .logits = volume(b, voxels(s), s[C], HN_FILL_NORMAL),
        .labels = hn_bench_ids(b, voxels(s), s[C]),
        .loss_sum = sums,
        .count = sums ? sums + 1 : NULL,
        .hits = sums ? sums + 2 : NULL,
        .dlogits = volume(b, voxels(s), s[C], HN_FILL_NONE),
        .images = 1,
        .voxels = voxels(s),
        .classes = s[C],
        .ld_logits = pitch(s[C], t),
        .ld_dlogits = pitch(s[C], t),
        .terms = {1, 1, 0, 1e-5f, 0.1f, 4.5f},
        .dtype = t,
    };
    HN_TRY(hn_seg_loss_check(&set->a));
    set->scratch = hn_bench_scratch(b, hn_seg_loss_cuda_scratch(&set->a));
    return HN_OK;
}

static hn_status loss_run(const void *args, hn_stream stream)
{
    const loss_set *set = args;
    return hn_seg_loss_cuda(&set->a, set->scratch, stream);
}

static const int64_t pool_shapes[][HN_BENCH_AXES] = {{155, 240, 240, 4}, {77, 120, 120, 8}};
static const int64_t up_shapes[][HN_BENCH_AXES] = {{155, 240, 240, 8, 4}, {77, 120, 120, 16, 8}};
static const int64_t loss_shapes[][HN_BENCH_AXES] = {{155, 240, 240, 4}};

/* clang-format off */
#define VOLUME_BENCH(symbol, list, bytes_, type, setup_, run_, ...) \
    const hn_bench_def hn_bench_##symbol = {                        \
        .name = #symbol,                                            \
        .axes = {"d", "h", "w", __VA_ARGS__},                       \
        .dtype = HN_BF16,                                           \
        HN_BENCH_SHAPES(list),                                      \
        .bytes = bytes_,                                            \
        .args_size = sizeof(type),                                  \
        .setup = setup_,                                            \
        .run = run_,                                                \
    }
VOLUME_BENCH(pool3d_fwd, pool_shapes, pool_bytes, hn_pool3d_args,
             pool_fwd_setup, pool_fwd_run, "channels");
VOLUME_BENCH(pool3d_bwd, pool_shapes, pool_bytes, hn_pool3d_bwd_args,
             pool_bwd_setup, pool_bwd_run, "channels");
VOLUME_BENCH(upsample_fwd, up_shapes, up_bytes, hn_upsample_args,
             up_fwd_setup, up_fwd_run, "channels", "skip");
VOLUME_BENCH(upsample_bwd, up_shapes, up_bwd_bytes, hn_upsample_bwd_args,
             up_bwd_setup, up_bwd_run, "channels", "skip");
VOLUME_BENCH(seg_loss, loss_shapes, loss_bytes, loss_set,
             loss_setup, loss_run, "classes");
/* clang-format on */
