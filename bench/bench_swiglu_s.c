#include "bench/bench.h"
#include "kernels/lora/swiglu_s.h"

/* Gate and up of 1B and 8B beside each other, an adapter of 16, or 64. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {16384, 8192, 16}, {8192, 14336, 16}, {16384, 8192, 64}, {2048, 8192, 16}, {512, 8192, 16},
};

static double bytes(const int64_t *s, hn_dtype t)
{
    const double rows = (double)s[0], cols = (double)s[1], rank = (double)s[2];
    return (double)hn_dtype_size(t) * (3 * rows * cols + 2 * rows * rank + cols * rank);
}

static int64_t pitch_of(int64_t cols) { return (cols + 63) / 64 * 64; }

typedef struct {
    hn_swiglu_s_args a;
    hn_gemm_cuda *gemm;
} s_set;

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0], cols = s[1], rank = s[2], ld = pitch_of(2 * cols + rank);
    char *in = hn_bench_array(b, rows * ld, t, HN_FILL_NORMAL);
    s_set *set = args;
    if (in == NULL) return HN_OK; /* the harness has the reason */
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_swiglu_s_args){
        .swiglu = {.gate = in,
                   .up = in + (size_t)cols * hn_dtype_size(t),
                   .y = hn_bench_array(b, rows * pitch_of(cols + rank), t, HN_FILL_NONE),
                   .rows = rows,
                   .cols = cols,
                   .ld_gate = ld,
                   .ld_up = ld,
                   .ld_y = pitch_of(cols + rank),
                   .dtype = t},
        .a = hn_bench_array(b, cols * rank, t, HN_FILL_WEIGHT),
        .s = hn_bench_array(b, rows * rank, t, HN_FILL_NONE),
        .rank = rank,
        .ld_a = cols,
        .ld_s = rank,
        .tail = rank,
        .scale = 2.0f,
    };
    return hn_swiglu_s_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const s_set *set = args;
    return hn_swiglu_s_cuda(&set->a, set->gemm, stream);
}

const hn_bench_def hn_bench_swiglu_s = {
    .name = "swiglu_s",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "rank"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(s_set),
    .setup = setup,
    .run = run,
};
