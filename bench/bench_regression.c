#include "bench/bench.h"
#include "kernels/hyperflow/regression.h"

/* y and its gradient, and the fp32 target. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return (2.0 * (double)hn_dtype_size(t) + 4.0) * (double)(s[0] * s[1] * s[2]);
}

typedef struct {
    hn_regression_args a;
    void *scratch;
} regression_set;

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1] * s[2];
    regression_set *set = args;
    set->a = (hn_regression_args){
        .y = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .target = hn_bench_array(b, n, HN_F32, HN_FILL_NORMAL),
        .labels = hn_bench_ids(b, s[0], 5),
        .loss_sum = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .count = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .dy = hn_bench_array(b, n, t, HN_FILL_NONE),
        .rows = s[0] * s[1],
        .cols = s[2],
        .groups = s[0],
        .ld_y = s[2],
        .ld_target = s[2],
        .ld_dy = s[2],
        .dtype = t,
        .target_dtype = HN_F32,
    };
    set->scratch = hn_bench_scratch(b, hn_regression_scratch(&set->a));
    return hn_regression_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const regression_set *set = args;
    return hn_regression_cuda(&set->a, set->scratch, stream);
}

/* 64 trajectories at 4 times, 24 tokens of ViT-Tiny and of ViT-Small. */
static const int64_t shapes[][HN_BENCH_AXES] = {{256, 24, 192}, {256, 24, 384}};

const hn_bench_def hn_bench_regression = {
    .name = "regression",
    .dtype = HN_BF16,
    .axes = {"points", "tokens", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(regression_set),
    .setup = setup,
    .run = run,
};
