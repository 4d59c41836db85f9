#include "bench/bench.h"
#include "kernels/norm/group_norm.h"

/* ResNet-18 on CIFAR, batch 512; the first and last width of a ResNet-50 on 224 pixels, batch 64.
 */
static const int64_t shapes[][HN_BENCH_AXES] = {{512, 1024, 64, 32},
                                                {512, 64, 256, 32},
                                                {512, 16, 512, 32},
                                                {64, 3136, 256, 32},
                                                {64, 49, 2048, 32}};

static double elements(const int64_t *s) { return (double)s[0] * (double)s[1] * (double)s[2]; }

/* ---- forward ---- */

/* x is read for the statistics and once more for y. */
static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return 3.0 * (double)hn_dtype_size(t) * elements(s);
}

typedef struct {
    hn_group_norm_args a;
    void *scratch;
} fwd_set;

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1] * s[2];
    fwd_set *set = args;
    set->a = (hn_group_norm_args){
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .gain = hn_bench_array(b, s[2], HN_F32, HN_FILL_POSITIVE),
        .bias = hn_bench_array(b, s[2], HN_F32, HN_FILL_NORMAL),
        .y = hn_bench_array(b, n, t, HN_FILL_NONE),
        .mean = hn_bench_array(b, s[0] * s[3], HN_F32, HN_FILL_NONE),
        .rstd = hn_bench_array(b, s[0] * s[3], HN_F32, HN_FILL_NONE),
        .images = s[0],
        .pixels = s[1],
        .cols = s[2],
        .groups = s[3],
        .ld_x = s[2],
        .ld_y = s[2],
        .dtype = t,
        .eps = 1e-5f,
    };
    set->scratch = hn_bench_scratch(b, hn_group_norm_fwd_cuda_scratch(&set->a));
    return hn_group_norm_check(&set->a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    const fwd_set *set = args;
    return hn_group_norm_fwd_cuda(&set->a, set->scratch, stream);
}

const hn_bench_def hn_bench_group_norm_fwd = {
    .name = "group_norm_fwd",
    .dtype = HN_BF16,
    .axes = {"images", "pixels", "cols", "groups"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(fwd_set),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- backward ---- */

/* x and dy for the sums, then dx from them. */
static double bwd_bytes(const int64_t *s, hn_dtype t)
{
    return 5.0 * (double)hn_dtype_size(t) * elements(s);
}

typedef struct {
    hn_group_norm_bwd_args a;
    void *scratch;
} bwd_set;

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1] * s[2];
    bwd_set *set = args;
    set->a = (hn_group_norm_bwd_args){
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .gain = hn_bench_array(b, s[2], HN_F32, HN_FILL_POSITIVE),
        .mean = hn_bench_array(b, s[0] * s[3], HN_F32, HN_FILL_NORMAL),
        .rstd = hn_bench_array(b, s[0] * s[3], HN_F32, HN_FILL_POSITIVE),
        .dy = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, n, t, HN_FILL_NONE),
        .dgain = hn_bench_array(b, s[2], HN_F32, HN_FILL_NORMAL),
        .dbias = hn_bench_array(b, s[2], HN_F32, HN_FILL_NORMAL),
        .images = s[0],
        .pixels = s[1],
        .cols = s[2],
        .groups = s[3],
        .ld_x = s[2],
        .ld_dy = s[2],
        .ld_dx = s[2],
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_group_norm_bwd_cuda_scratch(&set->a));
    return hn_group_norm_bwd_check(&set->a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    const bwd_set *set = args;
    return hn_group_norm_bwd_cuda(&set->a, set->scratch, stream);
}

const hn_bench_def hn_bench_group_norm_bwd = {
    .name = "group_norm_bwd",
    .dtype = HN_BF16,
    .axes = {"images", "pixels", "cols", "groups"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(bwd_set),
    .setup = bwd_setup,
    .run = bwd_run,
};
