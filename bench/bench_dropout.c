#include "bench/bench.h"
#include "kernels/random/dropout.h"

static double bytes(const int64_t *s, hn_dtype t)
{
    return 2.0 * (double)hn_dtype_size(t) * (double)s[0] * (double)s[1];
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const hn_rng_state state = {.seed = 1, .step = 1};
    hn_dropout_args *a = args;
    *a = (hn_dropout_args){
        .x = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .y = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_x = s[1],
        .ld_y = s[1],
        .dtype = t,
        .key = {.state = hn_bench_upload(b, &state, sizeof state),
                .op_hash = hn_hash_name("bench"),
                .p = 0.1},
    };
    return hn_dropout_check(a);
}

static hn_status run(const void *args, hn_stream stream) { return hn_dropout_cuda(args, stream); }

static const int64_t shapes[][HN_BENCH_AXES] = {{16384, 2048}, {8192, 14336}};

const hn_bench_def hn_bench_dropout = {
    .name = "dropout",
    .dtype = HN_BF16,
    .axes = {"rows", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_dropout_args),
    .setup = setup,
    .run = run,
};
