#include "bench/bench.h"
#include "kernels/activation/swiglu.h"

/* gate and up are the halves of one buffer, as the fused product leaves them: 1B, 8B. tail:
 * elements behind the rows of what the next product reads, where it has low-rank factors as a
 * border. with_h: backward writes the forward's result again. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {16384, 8192}, {16384, 8192, 64}, {16384, 2048}, {8192, 14336}};
static const int64_t bwd_shapes[][HN_BENCH_AXES] = {
    {16384, 8192}, {16384, 8192, 64}, {16384, 8192, 64, 1}, {16384, 2048}, {8192, 14336}};

static double elements(const int64_t *s) { return (double)s[0] * (double)s[1]; }

/* ---- forward ---- */

static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return 3.0 * (double)hn_dtype_size(t) * elements(s);
}

static void *half(void *both, int64_t cols, hn_dtype t)
{
    return both ? (char *)both + (size_t)cols * hn_dtype_size(t) : NULL;
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1];
    void *both = hn_bench_array(b, 2 * n, t, HN_FILL_NORMAL);
    hn_swiglu_args *a = args;
    *a = (hn_swiglu_args){
        .gate = both,
        .up = half(both, s[1], t),
        .y = hn_bench_array(b, n + s[0] * s[2], t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_gate = 2 * s[1],
        .ld_up = 2 * s[1],
        .ld_y = s[1] + s[2],
        .dtype = t,
    };
    return hn_swiglu_check(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_swiglu_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_swiglu_fwd = {
    .name = "swiglu_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "tail"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_swiglu_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- backward ---- */

static double bwd_bytes(const int64_t *s, hn_dtype t)
{
    return (s[3] ? 6.0 : 5.0) * (double)hn_dtype_size(t) * elements(s);
}

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1];
    void *both = hn_bench_array(b, 2 * n, t, HN_FILL_NORMAL);
    void *dboth = hn_bench_array(b, 2 * n + s[0] * s[2], t, HN_FILL_NONE);
    hn_swiglu_bwd_args *a = args;
    *a = (hn_swiglu_bwd_args){
        .gate = both,
        .up = half(both, s[1], t),
        .dy = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dgate = dboth,
        .dup = half(dboth, s[1], t),
        .rows = s[0],
        .cols = s[1],
        .ld_gate = 2 * s[1],
        .ld_up = 2 * s[1],
        .ld_dy = s[1],
        .ld_dgate = 2 * s[1] + s[2],
        .ld_dup = 2 * s[1] + s[2],
        .dtype = t,
        .ld_h = s[1],
    };
    if (s[3]) a->h = hn_bench_array(b, n, t, HN_FILL_NONE);
    return hn_swiglu_bwd_check(a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    return hn_swiglu_bwd_cuda(args, stream);
}

const hn_bench_def hn_bench_swiglu_bwd = {
    .name = "swiglu_bwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "tail", "with_h"},
    HN_BENCH_SHAPES(bwd_shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(hn_swiglu_bwd_args),
    .setup = bwd_setup,
    .run = bwd_run,
};
