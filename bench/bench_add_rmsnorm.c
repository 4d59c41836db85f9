#include "bench/bench.h"
#include "kernels/norm/add_rmsnorm.h"

/* Tokens of a step by model width: 1B, 8B, a short batch; the query norm of qwen3. tail: elements
 * behind the rows of the result where the product behind it has low-rank factors as a border. */
static const int64_t shapes[][HN_BENCH_AXES] = {{16384, 1, 2048}, {16384, 1, 2048, 64},
                                                {16384, 1, 8192}, {8192, 1, 4096},
                                                {512, 1, 8192},   {8192, 32, 128}};
static const int64_t f32_shapes[][HN_BENCH_AXES] = {{16384, 1, 2048}};

static double elements(const int64_t *s) { return (double)s[0] * (double)s[1] * (double)s[2]; }

/* ---- forward ---- */

static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return 4.0 * (double)hn_dtype_size(t) * elements(s) + 4.0 * (double)s[0] * (double)s[1];
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t row = s[1] * s[2], n = s[0] * row;
    hn_add_rmsnorm_args *a = args;
    *a = (hn_add_rmsnorm_args){
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .res = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .gain = hn_bench_array(b, s[2], t, HN_FILL_POSITIVE),
        .sum = hn_bench_array(b, n, t, HN_FILL_NONE),
        .y = hn_bench_array(b, n + s[0] * s[3], t, HN_FILL_NONE),
        .rstd = hn_bench_array(b, s[0] * s[1], HN_F32, HN_FILL_NONE),
        .rows = s[0],
        .heads = s[1],
        .cols = s[2],
        .ld_x = row,
        .ld_res = row,
        .ld_sum = row,
        .ld_y = row + s[3],
        .dtype = t,
        .gain_dtype = t,
        .eps = 1e-5f,
    };
    return hn_add_rmsnorm_check(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_add_rmsnorm_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_add_rmsnorm_fwd = {
    .name = "add_rmsnorm_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "heads", "cols", "tail"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_add_rmsnorm_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

const hn_bench_def hn_bench_add_rmsnorm_fwd_f32 = {
    .name = "add_rmsnorm_fwd",
    .dtype = HN_F32,
    .axes = {"rows", "heads", "cols", "tail"},
    HN_BENCH_SHAPES(f32_shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_add_rmsnorm_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- backward ---- */

typedef struct {
    hn_add_rmsnorm_bwd_args a;
    void *scratch;
} bwd_set;

static double bwd_bytes(const int64_t *s, hn_dtype t)
{
    const double arrays = s[5] ? 5.0 : 4.0;
    return arrays * (double)hn_dtype_size(t) * elements(s) + 4.0 * (double)s[0] * (double)s[1];
}

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t row = s[1] * s[2], n = s[0] * row;
    bwd_set *set = args;
    set->a = (hn_add_rmsnorm_bwd_args){
        .sum = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .gain = hn_bench_array(b, s[2], t, HN_FILL_POSITIVE),
        .rstd = hn_bench_array(b, s[0] * s[1], HN_F32, HN_FILL_POSITIVE),
        .dy = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dsum = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, n + s[0] * s[4], t, HN_FILL_NONE),
        .rows = s[0],
        .heads = s[1],
        .cols = s[2],
        .ld_sum = row,
        .ld_dy = row,
        .ld_dsum = row,
        .ld_dx = row + s[4],
        .dtype = t,
        .gain_dtype = t,
    };
    if (s[5]) {
        set->a.y = hn_bench_array(b, n + s[0] * s[4], t, HN_FILL_NONE);
        set->a.ld_y = row + s[4];
    }
    if (s[3]) set->a.dgain = hn_bench_array(b, s[2], HN_F32, HN_FILL_NORMAL);
    set->scratch = hn_bench_scratch(b, hn_add_rmsnorm_bwd_cuda_scratch(&set->a));
    return hn_add_rmsnorm_bwd_check(&set->a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    const bwd_set *set = args;
    return hn_add_rmsnorm_bwd_cuda(&set->a, set->scratch, stream);
}

static const int64_t bwd_shapes[][HN_BENCH_AXES] = {
    {16384, 1, 2048, 0}, {16384, 1, 2048, 0, 64}, {16384, 1, 2048, 0, 64, 1},
    {16384, 1, 8192, 0}, {8192, 1, 4096, 0},      {8192, 1, 4096, 1},
    {16384, 1, 2048, 1}, {16384, 1, 8192, 1},     {8192, 32, 128, 1}};

const hn_bench_def hn_bench_add_rmsnorm_bwd = {
    .name = "add_rmsnorm_bwd",
    .dtype = HN_BF16,
    .axes = {"rows", "heads", "cols", "gain_trained", "tail", "with_y"},
    HN_BENCH_SHAPES(bwd_shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(bwd_set),
    .setup = bwd_setup,
    .run = bwd_run,
};
