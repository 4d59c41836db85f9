#include "bench/bench.h"
#include "kernels/loss/linear_ce.h"

/* Loss and dx: w is frozen. */
static double flops(const int64_t *s) { return 4.0 * (double)s[0] * (double)s[1] * (double)s[2]; }

typedef struct {
    hn_linear_ce_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} ce_set;

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0], dim = s[1], vocab = s[2];
    ce_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_linear_ce_args){
        .x = hn_bench_array(b, rows * dim, t, HN_FILL_NORMAL),
        .w = hn_bench_array(b, vocab * dim, t, HN_FILL_WEIGHT),
        .labels = hn_bench_ids(b, rows, vocab),
        .loss_sum = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .count = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .dx = hn_bench_array(b, rows * dim, t, HN_FILL_NONE),
        .rows = rows,
        .dim = dim,
        .vocab = vocab,
        .ld_x = dim,
        .ld_w = dim,
        .ld_dx = dim,
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_linear_ce_cuda_scratch(&set->a));
    return hn_linear_ce_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const ce_set *set = args;
    return hn_linear_ce_cuda(&set->a, set->gemm, set->scratch, stream);
}

static const int64_t shapes[][HN_BENCH_AXES] = {{16384, 2048, 128256}, {8192, 4096, 128256}};

const hn_bench_def hn_bench_linear_ce = {
    .name = "linear_ce",
    .dtype = HN_BF16,
    .axes = {"rows", "dim", "vocab"},
    HN_BENCH_SHAPES(shapes),
    .flops = flops,
    .args_size = sizeof(ce_set),
    .setup = setup,
    .run = run,
};
