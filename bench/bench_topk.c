#include "bench/bench.h"
#include "kernels/reduce/topk.h"

typedef struct {
    hn_topk_args a;
    void *scratch;
} topk_set;

/* The floor: one read of the scores, and the result. */
static double bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 4.0 * (double)s[0] + 8.0 * (double)s[1];
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    topk_set *set = args;
    set->a = (hn_topk_args){
        .x = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .index = hn_bench_array(b, s[1], HN_I32, HN_FILL_NONE),
        .value = hn_bench_array(b, s[1], HN_F32, HN_FILL_NONE),
        .n = s[0],
        .k = s[1],
    };
    set->scratch = hn_bench_scratch(b, hn_topk_cuda_scratch(&set->a));
    return hn_topk_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const topk_set *set = args;
    return hn_topk_cuda(&set->a, set->scratch, stream);
}

/* 0.1, 1 and 5 % of the scores; the last two: one matrix's blocks of 1 x 1 and of 16 x 16. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {100000000, 100000},    {100000000, 1000000},   {100000000, 5000000}, {1000000000, 1000000},
    {1000000000, 10000000}, {1000000000, 50000000}, {16777216, 400000},   {65536, 2000},
};

const hn_bench_def hn_bench_topk = {
    .name = "topk",
    .dtype = HN_F32,
    .axes = {"n", "k"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(topk_set),
    .setup = setup,
    .run = run,
};
