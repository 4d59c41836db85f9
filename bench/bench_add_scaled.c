#include "bench/bench.h"
#include "kernels/hyperflow/add_scaled.h"

/* A step of an integration: 256 and 1 episodes of 24 tokens of 192 numbers (ViT-Tiny's biases of q
 * and v), tokens of ViT-Small. */
static const int64_t shapes[][HN_BENCH_AXES] = {{256, 24, 192}, {1, 24, 192}, {256, 24, 384}};

/* z and its successor in f32, the slope and the rounded successor in bf16. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return (double)(s[0] * s[1] * s[2]) * (8.0 + 2.0 * (double)hn_dtype_size(t));
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const int64_t rows = s[0] * s[1], cols = s[2], n = rows * cols;
    hn_add_scaled_args *a = args;
    *a = (hn_add_scaled_args){
        .a = hn_bench_array(b, n, HN_F32, HN_FILL_NORMAL),
        .b = hn_bench_array(b, n, HN_BF16, HN_FILL_NORMAL),
        .s = hn_bench_array(b, rows, HN_F32, HN_FILL_POSITIVE),
        .y = hn_bench_array(b, n, HN_F32, HN_FILL_NONE),
        .rounded = hn_bench_array(b, n, HN_BF16, HN_FILL_NONE),
        .rows = rows,
        .cols = cols,
        .period = rows,
        .ld_a = cols,
        .ld_b = cols,
        .ld_y = cols,
        .ld_rounded = cols,
        .b_dtype = HN_BF16,
        .alpha = 0.1f,
    };
    return hn_add_scaled_check(a);
}

static hn_status run(const void *args, hn_stream stream)
{
    return hn_add_scaled_cuda(args, stream);
}

const hn_bench_def hn_bench_add_scaled = {
    .name = "add_scaled",
    .dtype = HN_BF16,
    .axes = {"episodes", "tokens", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_add_scaled_args),
    .setup = setup,
    .run = run,
};
