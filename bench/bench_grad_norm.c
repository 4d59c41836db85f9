#include "bench/bench.h"
#include "kernels/optim/grad_norm.h"

typedef struct {
    hn_grad_norm_args a;
    void *scratch;
} norm_set;

static double bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 4.0 * (double)s[0];
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_step_block step = {.seed = 1, .step = 1, .max_norm = 1.0f};
    const float count = 16384;
    norm_set *set = args;
    set->a = (hn_grad_norm_args){
        .grad = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .count = hn_bench_upload(b, &count, sizeof count),
        .step = hn_bench_upload(b, &step, sizeof step),
        .n = s[0],
    };
    set->scratch = hn_bench_scratch(b, hn_grad_norm_cuda_scratch(&set->a));
    return hn_grad_norm_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const norm_set *set = args;
    return hn_grad_norm_cuda(&set->a, set->scratch, stream);
}

/* The adapters (rank 16) of 1B and 8B, and a large part of a model. */
static const int64_t shapes[][HN_BENCH_AXES] = {{11272192}, {41943040}, {536870912}};

const hn_bench_def hn_bench_grad_norm = {
    .name = "grad_norm",
    .dtype = HN_F32,
    .axes = {"n"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(norm_set),
    .setup = setup,
    .run = run,
};
