#include "bench/bench.h"
#include "kernels/activation/elementwise.h"

static const int64_t shapes[][HN_BENCH_AXES] = {{16384, 2048}, {8192, 4096}};

/* ---- add ---- */

static double add_bytes(const int64_t *s, hn_dtype t)
{
    return 3.0 * (double)hn_dtype_size(t) * (double)s[0] * (double)s[1];
}

static hn_status add_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1];
    hn_binary_args *a = args;
    *a = (hn_binary_args){
        .a = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .b = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .y = hn_bench_array(b, n, t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_a = s[1],
        .ld_b = s[1],
        .ld_y = s[1],
        .dtype = t,
    };
    return hn_binary_check(a);
}

static hn_status add_run(const void *args, hn_stream stream) { return hn_add_cuda(args, stream); }

const hn_bench_def hn_bench_add = {
    .name = "add",
    .dtype = HN_BF16,
    .axes = {"rows", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = add_bytes,
    .args_size = sizeof(hn_binary_args),
    .setup = add_setup,
    .run = add_run,
};

/* ---- cast: f32 to bf16 ---- */

static double cast_bytes(const int64_t *s, hn_dtype t)
{
    return (2.0 + (double)hn_dtype_size(t)) * (double)s[0] * (double)s[1];
}

static hn_status cast_setup(hn_bench *b, const int64_t *s, void *args)
{
    const int64_t n = s[0] * s[1];
    hn_cast_args *a = args;
    *a = (hn_cast_args){
        .a = hn_bench_array(b, n, HN_F32, HN_FILL_NORMAL),
        .y = hn_bench_array(b, n, HN_BF16, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_a = s[1],
        .ld_y = s[1],
        .dtype = HN_F32,
        .y_dtype = HN_BF16,
    };
    return hn_cast_check(a);
}

static hn_status cast_run(const void *args, hn_stream stream) { return hn_cast_cuda(args, stream); }

const hn_bench_def hn_bench_cast = {
    .name = "cast_to_bf16",
    .dtype = HN_F32,
    .axes = {"rows", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = cast_bytes,
    .args_size = sizeof(hn_cast_args),
    .setup = cast_setup,
    .run = cast_run,
};
