#include "bench/bench.h"
#include "kernels/loss/linear_ce.h"
#include "runtime/base/alloc.h"

enum { ROWS, DIM, VOCAB, PERCENT, CHUNK };

static int64_t trained(const int64_t *s) { return s[ROWS] * s[PERCENT] / 100; }

/* Loss and dx: w is frozen. */
static double flops(const int64_t *s)
{
    return 4.0 * (double)trained(s) * (double)s[DIM] * (double)s[VOCAB];
}

/* So many percent of the rows are trained, spread evenly. */
static const int32_t *labels(hn_bench *b, const int64_t *s)
{
    int32_t *host = hn_malloc((size_t)s[ROWS] * sizeof *host);
    if (host == NULL) return NULL;
    for (int64_t i = 0; i < s[ROWS]; i++) {
        const bool counts = (i + 1) * s[PERCENT] / 100 > i * s[PERCENT] / 100;
        host[i] = counts ? (int32_t)(i * 7919 % s[VOCAB]) : HN_LABEL_IGNORED;
    }
    const int32_t *p = hn_bench_upload(b, host, (size_t)s[ROWS] * sizeof *host);
    hn_free(host);
    return p;
}

typedef struct {
    hn_linear_ce_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} ce_set;

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[ROWS], dim = s[DIM], vocab = s[VOCAB];
    ce_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_linear_ce_args){
        .x = hn_bench_array(b, rows * dim, t, HN_FILL_NORMAL),
        .w = hn_bench_array(b, vocab * dim, t, HN_FILL_WEIGHT),
        .labels = labels(b, s),
        .loss_sum = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .count = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .dx = hn_bench_array(b, rows * dim, t, HN_FILL_NONE),
        .rows = rows,
        .dim = dim,
        .vocab = vocab,
        .ld_x = dim,
        .ld_w = dim,
        .ld_dx = dim,
        .chunk_rows = s[CHUNK],
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

/* 1B and 8B with every label, as in pretraining; 1B with a quarter of them, as in a chat; the
 * engine takes chunks of 4096 rows. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {16384, 2048, 128256, 100, 4096}, {16384, 2048, 128256, 100, 2048},
    {16384, 2048, 128256, 25, 4096},  {16384, 2048, 128256, 25, 2048},
    {8192, 4096, 128256, 100, 4096},
};

const hn_bench_def hn_bench_linear_ce = {
    .name = "linear_ce",
    .dtype = HN_BF16,
    .axes = {"rows", "dim", "vocab", "trained_percent", "chunk_rows"},
    HN_BENCH_SHAPES(shapes),
    .flops = flops,
    .args_size = sizeof(ce_set),
    .setup = setup,
    .run = run,
};
