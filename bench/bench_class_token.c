#include "bench/bench.h"
#include "kernels/embed/class_token.h"
#include "kernels/embed/take_rows.h"

/* ViT-Tiny and ViT-Base at 224 pixels, batch 64. Backward with all three gradients. */
static const int64_t shapes[][HN_BENCH_AXES] = {{64, 196, 192}, {64, 196, 768}};

/* ---- class tokens and positions ---- */

static double token_bytes(const int64_t *s, hn_dtype t)
{
    const double size = (double)hn_dtype_size(t), dim = (double)s[2];
    return size * (double)s[0] * (double)(2 * s[1] + 1) * dim + 4.0 * (double)(s[1] + 2) * dim;
}

static hn_status token_fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_class_token_args *a = args;
    *a = (hn_class_token_args){
        .x = hn_bench_array(b, s[0] * s[1] * s[2], t, HN_FILL_NORMAL),
        .cls = hn_bench_array(b, s[2], t, HN_FILL_WEIGHT),
        .pos = hn_bench_array(b, (s[1] + 1) * s[2], t, HN_FILL_WEIGHT),
        .y = hn_bench_array(b, s[0] * (s[1] + 1) * s[2], t, HN_FILL_NONE),
        .images = s[0],
        .patches = s[1],
        .dim = s[2],
        .ld_x = s[2],
        .ld_pos = s[2],
        .ld_y = s[2],
        .dtype = t,
        .param_dtype = t,
    };
    return hn_class_token_check(a);
}

static hn_status token_fwd_run(const void *args, hn_stream stream)
{
    return hn_class_token_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_class_token_fwd = {
    .name = "class_token_fwd",
    .dtype = HN_BF16,
    .axes = {"images", "patches", "dim"},
    HN_BENCH_SHAPES(shapes),
    .bytes = token_bytes,
    .args_size = sizeof(hn_class_token_args),
    .setup = token_fwd_setup,
    .run = token_fwd_run,
};

static hn_status token_bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_class_token_bwd_args *a = args;
    *a = (hn_class_token_bwd_args){
        .dy = hn_bench_array(b, s[0] * (s[1] + 1) * s[2], t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, s[0] * s[1] * s[2], t, HN_FILL_NONE),
        .dcls = hn_bench_array(b, s[2], HN_F32, HN_FILL_NORMAL),
        .dpos = hn_bench_array(b, (s[1] + 1) * s[2], HN_F32, HN_FILL_NORMAL),
        .images = s[0],
        .patches = s[1],
        .dim = s[2],
        .ld_dy = s[2],
        .ld_dx = s[2],
        .ld_dpos = s[2],
        .dtype = t,
        .has_cls = true,
    };
    return hn_class_token_bwd_check(a);
}

static hn_status token_bwd_run(const void *args, hn_stream stream)
{
    return hn_class_token_bwd_cuda(args, stream);
}

const hn_bench_def hn_bench_class_token_bwd = {
    .name = "class_token_bwd",
    .dtype = HN_BF16,
    .axes = {"images", "patches", "dim"},
    HN_BENCH_SHAPES(shapes),
    .bytes = token_bytes,
    .args_size = sizeof(hn_class_token_bwd_args),
    .setup = token_bwd_setup,
    .run = token_bwd_run,
};

/* ---- the class tokens in front of the head ---- */

static const int64_t rows_shapes[][HN_BENCH_AXES] = {{64, 197, 192}, {64, 197, 768}};

static double rows_fwd_bytes(const int64_t *s, hn_dtype t)
{
    return 2.0 * (double)hn_dtype_size(t) * (double)s[0] * (double)s[2];
}

static double rows_bwd_bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * (double)s[0] * (double)(s[1] + 1) * (double)s[2];
}

static hn_status rows_fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_take_rows_args *a = args;
    *a = (hn_take_rows_args){
        .x = hn_bench_array(b, s[0] * s[1] * s[2], t, HN_FILL_NORMAL),
        .y = hn_bench_array(b, s[0] * s[2], t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[2],
        .stride = s[1],
        .ld_x = s[2],
        .ld_y = s[2],
        .dtype = t,
    };
    return hn_take_rows_check(a);
}

static hn_status rows_fwd_run(const void *args, hn_stream stream)
{
    return hn_take_rows_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_take_rows_fwd = {
    .name = "take_rows_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "stride", "cols"},
    HN_BENCH_SHAPES(rows_shapes),
    .bytes = rows_fwd_bytes,
    .args_size = sizeof(hn_take_rows_args),
    .setup = rows_fwd_setup,
    .run = rows_fwd_run,
};

static hn_status rows_bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_take_rows_bwd_args *a = args;
    *a = (hn_take_rows_bwd_args){
        .dy = hn_bench_array(b, s[0] * s[2], t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, s[0] * s[1] * s[2], t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[2],
        .stride = s[1],
        .ld_dy = s[2],
        .ld_dx = s[2],
        .dtype = t,
    };
    return hn_take_rows_bwd_check(a);
}

static hn_status rows_bwd_run(const void *args, hn_stream stream)
{
    return hn_take_rows_bwd_cuda(args, stream);
}

const hn_bench_def hn_bench_take_rows_bwd = {
    .name = "take_rows_bwd",
    .dtype = HN_BF16,
    .axes = {"rows", "stride", "cols"},
    HN_BENCH_SHAPES(rows_shapes),
    .bytes = rows_bwd_bytes,
    .args_size = sizeof(hn_take_rows_bwd_args),
    .setup = rows_bwd_setup,
    .run = rows_bwd_run,
};
