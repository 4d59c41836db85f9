#include "bench/bench.h"
#include "kernels/hyperflow/curve_point.h"

enum { TRAJECTORIES = 4096, TOKENS = 24 };

/* The knots of each row, z, and dz in fp32. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return (double)(s[0] * TOKENS * s[2]) * (2.0 * (double)s[1] + (double)hn_dtype_size(t) + 4.0);
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    static const hn_rng_state state = {1, 2, 0};
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t numbers = TOKENS * s[2], n = s[0] * numbers;
    hn_curve_point_args *a = args;
    *a = (hn_curve_point_args){
        .knot = hn_bench_array(b, TRAJECTORIES * s[1] * numbers, HN_F16, HN_FILL_NONE),
        .unit = hn_bench_array(b, TRAJECTORIES, HN_F32, HN_FILL_POSITIVE),
        .index = hn_bench_ids(b, s[0], TRAJECTORIES),
        .weights = hn_bench_array(b, s[0] * 2 * s[1], HN_F32, HN_FILL_NORMAL),
        .inv_sigma = hn_bench_array(b, TOKENS, HN_F32, HN_FILL_POSITIVE),
        .state = hn_bench_upload(b, &state, sizeof state),
        .z = hn_bench_array(b, n, t, HN_FILL_NONE),
        .dz = hn_bench_array(b, n, HN_F32, HN_FILL_NONE),
        .n = TRAJECTORIES,
        .knots = s[1],
        .tokens = TOKENS,
        .width = s[2],
        .rows = s[0],
        .ld_knots = numbers,
        .ld_weights = 2 * s[1],
        .ld_z = s[2],
        .ld_dz = s[2],
        .noise = 0.05f,
        .dtype = t,
    };
    return hn_curve_point_check(a);
}

static hn_status run(const void *args, hn_stream stream)
{
    return hn_curve_point_cuda(args, stream);
}

/* 64 trajectories at 4 times, 11 knots; ViT-Tiny and ViT-Small. */
static const int64_t shapes[][HN_BENCH_AXES] = {{256, 11, 192}, {256, 11, 384}};

const hn_bench_def hn_bench_curve_point = {
    .name = "curve_point",
    .dtype = HN_BF16,
    .axes = {"points", "knots", "width"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_curve_point_args),
    .setup = setup,
    .run = run,
};
