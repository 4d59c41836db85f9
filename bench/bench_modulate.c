#include "bench/bench.h"
#include "kernels/hyperflow/modulate.h"

/* Of the drift network: 256 and 1 episodes of 24 tokens (ViT-Tiny's biases of q and v), its width
 * here and that of ViT-Small; with the residual and the normalisation. */
static const int64_t shapes[][HN_BENCH_AXES] = {{256, 24, 256}, {1, 24, 256}, {256, 24, 384}};

static double elements(const int64_t *s) { return (double)(s[0] * s[1] * s[2]); }

/* x, res, sum, y; scale and shift once a group; statistics. */
static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * (4.0 * elements(s) + 2.0 * (double)(s[0] * s[2])) +
           8.0 * (double)(s[0] * s[1]);
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0] * s[1], cols = s[2], n = rows * cols;
    char *const both = hn_bench_array(b, 2 * s[0] * cols, t, HN_FILL_NORMAL);
    hn_modulate_args *a = args;
    *a = (hn_modulate_args){
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .res = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .scale = both,
        .shift = both + (size_t)cols * hn_dtype_size(t),
        .sum = hn_bench_array(b, n, t, HN_FILL_NONE),
        .y = hn_bench_array(b, n, t, HN_FILL_NONE),
        .mean = hn_bench_array(b, rows, HN_F32, HN_FILL_NONE),
        .rstd = hn_bench_array(b, rows, HN_F32, HN_FILL_NONE),
        .rows = rows,
        .cols = cols,
        .groups = s[0],
        .ld_x = cols,
        .ld_res = cols,
        .ld_scale = 2 * cols,
        .ld_shift = 2 * cols,
        .ld_sum = cols,
        .ld_y = cols,
        .dtype = t,
        .eps = 1e-6f,
    };
    return hn_modulate_check(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_modulate_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_modulate_fwd = {
    .name = "modulate_fwd",
    .dtype = HN_BF16,
    .axes = {"episodes", "tokens", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_modulate_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* sum, dy, dsum, dx; scale, dscale and dshift once a group; statistics. */
static double bwd_bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * (4.0 * elements(s) + 3.0 * (double)(s[0] * s[2])) +
           8.0 * (double)(s[0] * s[1]);
}

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0] * s[1], cols = s[2], n = rows * cols;
    hn_modulate_bwd_args *a = args;
    *a = (hn_modulate_bwd_args){
        .sum = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .scale = hn_bench_array(b, s[0] * cols, t, HN_FILL_NORMAL),
        .mean = hn_bench_array(b, rows, HN_F32, HN_FILL_NORMAL),
        .rstd = hn_bench_array(b, rows, HN_F32, HN_FILL_POSITIVE),
        .dy = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dsum = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, n, t, HN_FILL_NONE),
        .dscale = hn_bench_array(b, s[0] * cols, t, HN_FILL_NONE),
        .dshift = hn_bench_array(b, s[0] * cols, t, HN_FILL_NONE),
        .rows = rows,
        .cols = cols,
        .groups = s[0],
        .ld_sum = cols,
        .ld_scale = cols,
        .ld_dy = cols,
        .ld_dsum = cols,
        .ld_dx = cols,
        .ld_dscale = cols,
        .ld_dshift = cols,
        .dtype = t,
    };
    return hn_modulate_bwd_check(a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    return hn_modulate_bwd_cuda(args, stream);
}

const hn_bench_def hn_bench_modulate_bwd = {
    .name = "modulate_bwd",
    .dtype = HN_BF16,
    .axes = {"episodes", "tokens", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(hn_modulate_bwd_args),
    .setup = bwd_setup,
    .run = bwd_run,
};
