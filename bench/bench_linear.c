#include "bench/bench.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_dw.h"

static double flops(const int64_t *s) { return 2.0 * (double)s[0] * (double)s[1] * (double)s[2]; }

/* Rows are the tokens of a step; q and o, k and v, gate and up, down: first 1B, then 8B. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {16384, 2048, 2048}, {16384, 2048, 512}, {16384, 2048, 8192}, {16384, 8192, 2048},
    {8192, 4096, 4096},  {8192, 4096, 1024}, {8192, 4096, 14336}, {8192, 14336, 4096},
};
static const int64_t f32_shapes[][HN_BENCH_AXES] = {{16384, 2048, 2048}, {8192, 4096, 14336}};

/* ---- forward ---- */

typedef struct {
    hn_linear_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} fwd_set;

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    fwd_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_linear_args){
        .x = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .w = hn_bench_array(b, s[2] * s[1], t, HN_FILL_WEIGHT),
        .y = hn_bench_array(b, s[0] * s[2], t, HN_FILL_NONE),
        .rows = s[0],
        .in = s[1],
        .out = s[2],
        .ld_x = s[1],
        .ld_w = s[1],
        .ld_y = s[2],
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_linear_fwd_cuda_scratch(&set->a));
    return hn_linear_check(&set->a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    const fwd_set *set = args;
    return hn_linear_fwd_cuda(&set->a, set->gemm, set->scratch, stream);
}

const hn_bench_def hn_bench_linear_fwd = {
    .name = "linear_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out"},
    HN_BENCH_SHAPES(shapes),
    .flops = flops,
    .args_size = sizeof(fwd_set),
    .setup = fwd_setup,
    .run = fwd_run,
};

const hn_bench_def hn_bench_linear_fwd_f32 = {
    .name = "linear_fwd",
    .dtype = HN_F32,
    .axes = {"rows", "in", "out"},
    HN_BENCH_SHAPES(f32_shapes),
    .flops = flops,
    .args_size = sizeof(fwd_set),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- input gradient ---- */

typedef struct {
    hn_linear_dx_args a;
    hn_gemm_cuda *gemm;
} dx_set;

static hn_status dx_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    dx_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_linear_dx_args){
        .dy = hn_bench_array(b, s[0] * s[2], t, HN_FILL_NORMAL),
        .w = hn_bench_array(b, s[2] * s[1], t, HN_FILL_WEIGHT),
        .dx = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NONE),
        .rows = s[0],
        .in = s[1],
        .out = s[2],
        .ld_dy = s[2],
        .ld_w = s[1],
        .ld_dx = s[1],
        .dtype = t,
    };
    return hn_linear_dx_check(&set->a);
}

static hn_status dx_run(const void *args, hn_stream stream)
{
    const dx_set *set = args;
    return hn_linear_dx_cuda(&set->a, set->gemm, stream);
}

const hn_bench_def hn_bench_linear_dx = {
    .name = "linear_dx",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out"},
    HN_BENCH_SHAPES(shapes),
    .flops = flops,
    .args_size = sizeof(dx_set),
    .setup = dx_setup,
    .run = dx_run,
};

const hn_bench_def hn_bench_linear_dx_f32 = {
    .name = "linear_dx",
    .dtype = HN_F32,
    .axes = {"rows", "in", "out"},
    HN_BENCH_SHAPES(f32_shapes),
    .flops = flops,
    .args_size = sizeof(dx_set),
    .setup = dx_setup,
    .run = dx_run,
};

/* ---- weight gradient ---- */

typedef struct {
    hn_linear_dw_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} dw_set;

static hn_status dw_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    dw_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_linear_dw_args){
        .dy = hn_bench_array(b, s[0] * s[2], t, HN_FILL_NORMAL),
        .x = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .dw = hn_bench_array(b, s[2] * s[1], HN_F32, HN_FILL_NORMAL),
        .rows = s[0],
        .in = s[1],
        .out = s[2],
        .ld_dy = s[2],
        .ld_x = s[1],
        .ld_dw = s[1],
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_linear_dw_cuda_scratch(&set->a));
    return hn_linear_dw_check(&set->a);
}

static hn_status dw_run(const void *args, hn_stream stream)
{
    const dw_set *set = args;
    return hn_linear_dw_cuda(&set->a, set->gemm, set->scratch, stream);
}

/* Full matrices as above, the low-rank factors (in or out 16) of LoRA, and ViT-Tiny on 224 pixels,
 * batch 64: o, qkv and both of the MLP. */
static const int64_t dw_shapes[][HN_BENCH_AXES] = {
    {16384, 2048, 2048}, {16384, 2048, 8192}, {16384, 2048, 16}, {16384, 16, 8192},
    {8192, 4096, 4096},  {8192, 4096, 14336}, {8192, 4096, 16},  {8192, 16, 14336},
    {12608, 192, 192},   {12608, 192, 576},   {12608, 192, 768}, {12608, 768, 192},
};

const hn_bench_def hn_bench_linear_dw = {
    .name = "linear_dw",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out"},
    HN_BENCH_SHAPES(dw_shapes),
    .flops = flops,
    .args_size = sizeof(dw_set),
    .setup = dw_setup,
    .run = dw_run,
};

const hn_bench_def hn_bench_linear_dw_f32 = {
    .name = "linear_dw",
    .dtype = HN_F32,
    .axes = {"rows", "in", "out"},
    HN_BENCH_SHAPES(f32_shapes),
    .flops = flops,
    .args_size = sizeof(dw_set),
    .setup = dw_setup,
    .run = dw_run,
};

/* ---- bias gradient ---- */

typedef struct {
    hn_linear_db_args a;
    void *scratch;
} db_set;

static double db_bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * (double)s[0] * (double)s[1];
}

static hn_status db_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    db_set *set = args;
    set->a = (hn_linear_db_args){
        .dy = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .db = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL),
        .rows = s[0],
        .out = s[1],
        .ld_dy = s[1],
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_linear_db_cuda_scratch(&set->a));
    return hn_linear_db_check(&set->a);
}

static hn_status db_run(const void *args, hn_stream stream)
{
    const db_set *set = args;
    return hn_linear_db_cuda(&set->a, set->scratch, stream);
}

/* ViT-Tiny on 224 pixels, batch 64; a layer of 1B. */
static const int64_t db_shapes[][HN_BENCH_AXES] = {
    {12608, 192}, {12608, 576}, {12608, 768}, {16384, 2048}};

const hn_bench_def hn_bench_linear_db = {
    .name = "linear_db",
    .dtype = HN_BF16,
    .axes = {"rows", "out"},
    HN_BENCH_SHAPES(db_shapes),
    .bytes = db_bytes,
    .args_size = sizeof(db_set),
    .setup = db_setup,
    .run = db_run,
};
