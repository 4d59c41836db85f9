#include "bench/bench.h"
#include "kernels/hyperflow/support_context.h"

/* Features read, the wider context written. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * (double)(s[0] * s[1]) *
           (double)(s[2] + hn_support_context_cols(s[2]));
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0] * s[1], cols = hn_support_context_cols(s[2]);
    hn_support_context_args *a = args;
    *a = (hn_support_context_args){
        .f = hn_bench_array(b, rows * s[2], t, HN_FILL_NORMAL),
        .labels = hn_bench_ids(b, rows, 5),
        .u = hn_bench_array(b, rows * cols, t, HN_FILL_NONE),
        .rows = rows,
        .features = s[2],
        .episodes = s[0],
        .ld_f = s[2],
        .ld_u = cols,
        .f_dtype = t,
        .u_dtype = t,
    };
    return hn_support_context_check(a);
}

static hn_status run(const void *args, hn_stream stream)
{
    return hn_support_context_cuda(args, stream);
}

/* 5-way 5-shot, many episodes and one; 5-way 50-shot; features of ResNet-18. */
static const int64_t shapes[][HN_BENCH_AXES] = {{256, 25, 512}, {1, 25, 512}, {64, 250, 512}};

const hn_bench_def hn_bench_support_context = {
    .name = "support_context",
    .dtype = HN_BF16,
    .axes = {"episodes", "support", "features"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_support_context_args),
    .setup = setup,
    .run = run,
};
