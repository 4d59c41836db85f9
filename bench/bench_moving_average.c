#include "bench/bench.h"
#include "kernels/optim/moving_average.h"

/* Drift networks of width 256 and 384. */
static const int64_t shapes[][HN_BENCH_AXES] = {{6654656}, {15000000}};

static double bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 12.0 * (double)s[0];
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_step_block step = {.step = 5000};
    hn_moving_average_args *a = args;
    *a = (hn_moving_average_args){
        .a = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .p = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .step = hn_bench_upload(b, &step, sizeof step),
        .n = s[0],
        .decay = 0.999f,
    };
    return hn_moving_average_check(a);
}

static hn_status run(const void *args, hn_stream stream)
{
    return hn_moving_average_cuda(args, stream);
}

const hn_bench_def hn_bench_moving_average = {
    .name = "moving_average",
    .dtype = HN_F32,
    .axes = {"values"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_moving_average_args),
    .setup = setup,
    .run = run,
};
