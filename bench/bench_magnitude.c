#include "bench/bench.h"
#include "kernels/lora/lowrank_norm.h"
#include "kernels/lora/magnitude.h"

/* Rows and columns of the outputs of 1B and 8B, and a group of both: q, k and v of 1B. */
static const int64_t shapes[][HN_BENCH_AXES] = {{16384, 2048}, {16384, 3072}, {16384, 8192},
                                                {8192, 4096},  {8192, 14336}, {512, 2048}};

static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return 2.0 * (double)hn_dtype_size(t) * (double)s[0] * (double)s[1];
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_magnitude_args *a = args;
    *a = (hn_magnitude_args){
        .z = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .m = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .norm = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .y = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_z = s[1],
        .ld_y = s[1],
        .dtype = t,
        .bias_dtype = t,
    };
    return hn_magnitude_check(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_magnitude_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_magnitude_fwd = {
    .name = "magnitude_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_magnitude_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- gradients ---- */

typedef struct {
    hn_magnitude_bwd_args a;
    void *scratch;
} bwd_set;

static double bwd_bytes(const int64_t *s, hn_dtype t) { return 1.5 * fwd_bytes(s, t); }

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    bwd_set *set = args;
    set->a = (hn_magnitude_bwd_args){
        .dy = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .z = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .m = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .norm = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .dz = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NONE),
        .dm = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .rows = s[0],
        .cols = s[1],
        .ld_dy = s[1],
        .ld_z = s[1],
        .ld_dz = s[1],
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_magnitude_bwd_cuda_scratch(&set->a));
    return hn_magnitude_bwd_check(&set->a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    const bwd_set *set = args;
    return hn_magnitude_bwd_cuda(&set->a, set->scratch, stream);
}

const hn_bench_def hn_bench_magnitude_bwd = {
    .name = "magnitude_bwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(bwd_set),
    .setup = bwd_setup,
    .run = bwd_run,
};

/* ---- norms ---- */

static const int64_t norm_shapes[][HN_BENCH_AXES] = {
    {2048, 2048, 16}, {8192, 2048, 16}, {2048, 8192, 16}, {14336, 4096, 16}, {14336, 4096, 64}};

typedef struct {
    hn_lowrank_norm_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} norm_set;

static double norm_bytes(const int64_t *s, hn_dtype t) /* w is read */
{
    return (double)hn_dtype_size(t) * (double)s[0] * (double)s[1];
}

static hn_status norm_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    norm_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_lowrank_norm_args){
        .w = hn_bench_array(b, s[0] * s[1], t, HN_FILL_WEIGHT),
        .a = hn_bench_array(b, s[2] * s[1], t, HN_FILL_WEIGHT),
        .b = hn_bench_array(b, s[0] * s[2], t, HN_FILL_WEIGHT),
        .squares = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .norm = hn_bench_array(b, s[0], HN_F32, HN_FILL_NONE),
        .out = s[0],
        .in = s[1],
        .rank = s[2],
        .ld_w = s[1],
        .ld_a = s[1],
        .ld_b = s[2],
        .dtype = t,
        .scale = 2.0f,
    };
    set->scratch = hn_bench_scratch(b, hn_lowrank_norm_cuda_scratch(&set->a));
    return hn_lowrank_norm_check(&set->a);
}

static hn_status norm_run(const void *args, hn_stream stream)
{
    const norm_set *set = args;
    return hn_lowrank_norm_cuda(&set->a, set->gemm, set->scratch, stream);
}

const hn_bench_def hn_bench_lowrank_norm = {
    .name = "lowrank_norm",
    .dtype = HN_BF16,
    .axes = {"out", "in", "rank"},
    HN_BENCH_SHAPES(norm_shapes),
    .bytes = norm_bytes,
    .args_size = sizeof(norm_set),
    .setup = norm_setup,
    .run = norm_run,
};
