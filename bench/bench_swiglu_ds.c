#include "bench/bench.h"
#include "kernels/lora/swiglu_ds.h"

/* Gate and up of 1B and 8B as one layer, ranks of two adapters of 16, h made again. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {16384, 8192, 32}, {8192, 14336, 32}, {16384, 8192, 64}, {2048, 8192, 32}, {512, 8192, 32},
};

static double bytes(const int64_t *s, hn_dtype t)
{
    const double rows = (double)s[0], cols = (double)s[1], rank = (double)s[2];
    return (double)hn_dtype_size(t) * (6 * rows * cols + 2 * rows * rank + 2 * cols * rank);
}

static int64_t pitch_of(int64_t cols) { return (cols + 63) / 64 * 64; }

typedef struct {
    hn_swiglu_ds_args a;
    hn_gemm_cuda *gemm;
} ds_set;

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0], cols = s[1], rank = s[2], ld = pitch_of(2 * cols + rank);
    char *in = hn_bench_array(b, rows * ld, t, HN_FILL_NORMAL);
    char *out = hn_bench_array(b, rows * ld, t, HN_FILL_NONE);
    const size_t half = (size_t)cols * hn_dtype_size(t);
    ds_set *set = args;
    if (in == NULL || out == NULL) return HN_OK; /* the harness has the reason */
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_swiglu_ds_args){
        .swiglu = {.gate = in,
                   .up = in + half,
                   .dy = hn_bench_array(b, rows * cols, t, HN_FILL_NORMAL),
                   .dgate = out,
                   .dup = out + half,
                   .rows = rows,
                   .cols = cols,
                   .ld_gate = ld,
                   .ld_up = ld,
                   .ld_dy = cols,
                   .ld_dgate = ld,
                   .ld_dup = ld,
                   .dtype = t,
                   .h = hn_bench_array(b, rows * cols, t, HN_FILL_NONE),
                   .ld_h = cols},
        .b = hn_bench_array(b, 2 * cols * rank, t, HN_FILL_WEIGHT),
        .ds = hn_bench_array(b, rows * rank, t, HN_FILL_NONE),
        .rank = rank,
        .ld_b = rank,
        .ld_ds = rank,
        .tail = rank,
        .scale = 2.0f,
    };
    return hn_swiglu_ds_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const ds_set *set = args;
    return hn_swiglu_ds_cuda(&set->a, set->gemm, stream);
}

const hn_bench_def hn_bench_swiglu_ds = {
    .name = "swiglu_ds",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "rank"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(ds_set),
    .setup = setup,
    .run = run,
};
