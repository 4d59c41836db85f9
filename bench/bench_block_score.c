#include "bench/bench.h"
#include "kernels/sparse/block_score.h"

static hn_block_shape shape_of(const int64_t *s) { return (hn_block_shape){s[2], s[3]}; }

static double bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 4.0 * ((double)(s[0] * s[1]) + (double)hn_block_total(shape_of(s), s[0], s[1]));
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const float count = 16384;
    hn_block_score_args *a = args;
    *a = (hn_block_score_args){
        .dw = hn_bench_array(b, s[0] * s[1], HN_F32, HN_FILL_NORMAL),
        .count = hn_bench_upload(b, &count, sizeof count),
        .f = hn_bench_array(b, hn_block_total(shape_of(s), s[0], s[1]), HN_F32, HN_FILL_NONE),
        .out = s[0],
        .in = s[1],
        .ld_dw = s[1],
        .shape = shape_of(s),
    };
    return hn_block_score_check(a);
}

static hn_status run(const void *args, hn_stream stream)
{
    return hn_block_score_cuda(args, stream);
}

/* A matrix of the 1B model's MLP, and a small one of its attention. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {8192, 2048, 1, 1},    {8192, 2048, 4, 4},     {8192, 2048, 16, 16},   {8192, 2048, 32, 32},
    {8192, 2048, 64, 64},  {8192, 2048, 128, 128}, {8192, 2048, 256, 256}, {8192, 2048, 1, 2048},
    {8192, 2048, 8192, 1}, {2048, 2048, 16, 16},   {2048, 2048, 256, 256},
};

const hn_bench_def hn_bench_block_score = {
    .name = "block_score",
    .dtype = HN_F32,
    .axes = {"out", "in", "br", "bc"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_block_score_args),
    .setup = setup,
    .run = run,
};
