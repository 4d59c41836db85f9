#include "bench/bench.h"
#include "kernels/norm/batch_norm.h"

/* The four widths of ResNet-18 on CIFAR, batch 512; with relu, at the end of a block with residual.
 * frozen: evaluation. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {524288, 64, 0, 0}, {524288, 64, 1, 0}, {131072, 128, 1, 0}, {32768, 256, 1, 0},
    {8192, 512, 0, 0},  {8192, 512, 1, 0},  {524288, 64, 1, 1}};

static double elements(const int64_t *s) { return (double)s[0] * (double)s[1]; }

/* ---- forward ---- */

/* x is read for the statistics and once more for y. */
static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return (3.0 + (double)s[2] - (double)s[3]) * (double)hn_dtype_size(t) * elements(s);
}

typedef struct {
    hn_batch_norm_args a;
    void *scratch;
} fwd_set;

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1];
    fwd_set *set = args;
    set->a = (hn_batch_norm_args){
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .res = s[2] ? hn_bench_array(b, n, t, HN_FILL_NORMAL) : NULL,
        .gain = hn_bench_array(b, s[1], HN_F32, HN_FILL_POSITIVE),
        .bias = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .y = hn_bench_array(b, n, t, HN_FILL_NONE),
        .mean = hn_bench_array(b, s[1], HN_F32, HN_FILL_NONE),
        .rstd = hn_bench_array(b, s[1], HN_F32, HN_FILL_NONE),
        .running_mean = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .running_var = hn_bench_array(b, s[1], HN_F32, HN_FILL_POSITIVE),
        .rows = s[0],
        .cols = s[1],
        .ld_x = s[1],
        .ld_res = s[1],
        .ld_y = s[1],
        .dtype = t,
        .eps = 1e-5f,
        .momentum = 0.1f,
        .frozen = s[3] != 0,
        .relu = true,
    };
    set->scratch = hn_bench_scratch(b, hn_batch_norm_fwd_cuda_scratch(&set->a));
    return hn_batch_norm_check(&set->a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    const fwd_set *set = args;
    return hn_batch_norm_fwd_cuda(&set->a, set->scratch, stream);
}

const hn_bench_def hn_bench_batch_norm_fwd = {
    .name = "batch_norm_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "res", "frozen"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(fwd_set),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- backward ---- */

/* relu goes by x and bias, behind a residual by y: x and dy (and y) for the sums, then dx from x
 * and dy, or from x and the dres that is there. frozen: dx from y and dy. */
static double bwd_bytes(const int64_t *s, hn_dtype t)
{
    return (s[3] ? 3.0 + (double)s[2] : s[2] ? 7.0 : 5.0) * (double)hn_dtype_size(t) * elements(s);
}

typedef struct {
    hn_batch_norm_bwd_args a;
    void *scratch;
} bwd_set;

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1];
    const bool by_bias = !s[2] && !s[3];
    bwd_set *set = args;
    set->a = (hn_batch_norm_bwd_args){
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .y = by_bias ? NULL : hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .bias = by_bias ? hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL) : NULL,
        .gain = hn_bench_array(b, s[1], HN_F32, HN_FILL_POSITIVE),
        .mean = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .rstd = hn_bench_array(b, s[1], HN_F32, HN_FILL_POSITIVE),
        .dy = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, n, t, HN_FILL_NONE),
        .dres = s[2] ? hn_bench_array(b, n, t, HN_FILL_NONE) : NULL,
        .dgain = s[3] ? NULL : hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .dbias = s[3] ? NULL : hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .rows = s[0],
        .cols = s[1],
        .ld_x = s[1],
        .ld_y = s[1],
        .ld_dy = s[1],
        .ld_dx = s[1],
        .ld_dres = s[1],
        .dtype = t,
        .frozen = s[3] != 0,
    };
    set->scratch = hn_bench_scratch(b, hn_batch_norm_bwd_cuda_scratch(&set->a));
    return hn_batch_norm_bwd_check(&set->a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    const bwd_set *set = args;
    return hn_batch_norm_bwd_cuda(&set->a, set->scratch, stream);
}

const hn_bench_def hn_bench_batch_norm_bwd = {
    .name = "batch_norm_bwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "res", "frozen"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(bwd_set),
    .setup = bwd_setup,
    .run = bwd_run,
};
