#include "bench/bench.h"
#include "kernels/optim/anchor.h"
#include "kernels/optim/square_accumulate.h"

/* ViT-Tiny, ResNet-18. */
static const int64_t shapes[][HN_BENCH_AXES] = {{5717416}, {11173962}};

/* ---- penalty ---- */

typedef struct {
    hn_anchor_args a;
    void *scratch;
} anchor_set;

static double anchor_bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 20.0 * (double)s[0];
}

static hn_status anchor_setup(hn_bench *b, const int64_t *s, void *args)
{
    const float count = 512;
    anchor_set *set = args;
    set->a = (hn_anchor_args){
        .p = hn_bench_array(b, s[0], HN_F32, HN_FILL_WEIGHT),
        .ref = hn_bench_array(b, s[0], HN_F32, HN_FILL_WEIGHT),
        .fisher = hn_bench_array(b, s[0], HN_F32, HN_FILL_POSITIVE),
        .count = hn_bench_upload(b, &count, sizeof count),
        .grad = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .loss = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .n = s[0],
        .weight = 1e-6f,
    };
    set->scratch = hn_bench_scratch(b, hn_anchor_cuda_scratch(&set->a));
    return hn_anchor_check(&set->a);
}

static hn_status anchor_run(const void *args, hn_stream stream)
{
    const anchor_set *set = args;
    return hn_anchor_cuda(&set->a, set->scratch, stream);
}

const hn_bench_def hn_bench_anchor = {
    .name = "anchor",
    .dtype = HN_F32,
    .axes = {"n"},
    HN_BENCH_SHAPES(shapes),
    .bytes = anchor_bytes,
    .args_size = sizeof(anchor_set),
    .setup = anchor_setup,
    .run = anchor_run,
};

/* ---- squares ---- */

static double square_bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 12.0 * (double)s[0];
}

static hn_status square_setup(hn_bench *b, const int64_t *s, void *args)
{
    hn_square_accumulate_args *a = args;
    *a = (hn_square_accumulate_args){
        .f = hn_bench_array(b, s[0], HN_F32, HN_FILL_POSITIVE),
        .grad = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .n = s[0],
        .keep = 0.5f,
        .scale = 0.1f,
    };
    return hn_square_accumulate_check(a);
}

static hn_status square_run(const void *args, hn_stream stream)
{
    return hn_square_accumulate_cuda(args, stream);
}

const hn_bench_def hn_bench_square_accumulate = {
    .name = "square_accumulate",
    .dtype = HN_F32,
    .axes = {"n"},
    HN_BENCH_SHAPES(shapes),
    .bytes = square_bytes,
    .args_size = sizeof(hn_square_accumulate_args),
    .setup = square_setup,
    .run = square_run,
};
