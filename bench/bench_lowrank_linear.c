#include "bench/bench.h"
#include "kernels/lora/lowrank_linear.h"

static double flops(const int64_t *s)
{
    const double rows = (double)s[0], in = (double)s[1], out = (double)s[2], rank = (double)s[3];
    return 2.0 * rows * (in * out + rank * (in + out));
}

/* The linears of 1B and 8B as in bench_linear.c, rank 16; the widest also with dropout (percent)
 * and with rank 64. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {16384, 2048, 2048, 16, 0}, {16384, 2048, 512, 16, 0},  {16384, 2048, 8192, 16, 0},
    {16384, 8192, 2048, 16, 0}, {8192, 4096, 4096, 16, 0},  {8192, 4096, 1024, 16, 0},
    {8192, 4096, 14336, 16, 0}, {8192, 14336, 4096, 16, 0}, {8192, 4096, 14336, 16, 10},
    {8192, 4096, 14336, 64, 0},
};

static hn_dropout_key key_of(hn_bench *b, const int64_t *s)
{
    const hn_rng_state state = {.seed = 1, .step = 1};
    return (hn_dropout_key){.state = hn_bench_upload(b, &state, sizeof state),
                            .op_hash = hn_hash_name("bench"),
                            .p = (double)s[4] / 100};
}

/* ---- forward ---- */

typedef struct {
    hn_lowrank_linear_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} fwd_set;

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0], in = s[1], out = s[2], rank = s[3];
    fwd_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_lowrank_linear_args){
        .x = hn_bench_array(b, rows * in, t, HN_FILL_NORMAL),
        .w = hn_bench_array(b, out * in, t, HN_FILL_WEIGHT),
        .a = hn_bench_array(b, rank * in, t, HN_FILL_WEIGHT),
        .b = hn_bench_array(b, out * rank, t, HN_FILL_WEIGHT),
        .y = hn_bench_array(b, rows * out, t, HN_FILL_NONE),
        .s = hn_bench_array(b, rows * rank, t, HN_FILL_NONE),
        .rows = rows,
        .in = in,
        .out = out,
        .rank = rank,
        .ld_x = in,
        .ld_w = in,
        .ld_a = in,
        .ld_b = rank,
        .ld_y = out,
        .ld_s = rank,
        .dtype = t,
        .scale = 2.0f,
        .drop = key_of(b, s),
    };
    set->scratch = hn_bench_scratch(b, hn_lowrank_linear_fwd_cuda_scratch(&set->a));
    return hn_lowrank_linear_check(&set->a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    const fwd_set *set = args;
    return hn_lowrank_linear_fwd_cuda(&set->a, set->gemm, set->scratch, stream);
}

const hn_bench_def hn_bench_lowrank_linear_fwd = {
    .name = "lowrank_linear_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out", "rank", "drop_percent"},
    HN_BENCH_SHAPES(shapes),
    .flops = flops,
    .args_size = sizeof(fwd_set),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- input gradient ---- */

typedef struct {
    hn_lowrank_linear_dx_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} dx_set;

static hn_status dx_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0], in = s[1], out = s[2], rank = s[3];
    dx_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_lowrank_linear_dx_args){
        .dy = hn_bench_array(b, rows * out, t, HN_FILL_NORMAL),
        .w = hn_bench_array(b, out * in, t, HN_FILL_WEIGHT),
        .a = hn_bench_array(b, rank * in, t, HN_FILL_WEIGHT),
        .b = hn_bench_array(b, out * rank, t, HN_FILL_WEIGHT),
        .ds = hn_bench_array(b, rows * rank, t, HN_FILL_NONE),
        .dx = hn_bench_array(b, rows * in, t, HN_FILL_NONE),
        .rows = rows,
        .in = in,
        .out = out,
        .rank = rank,
        .ld_dy = out,
        .ld_w = in,
        .ld_a = in,
        .ld_b = rank,
        .ld_ds = rank,
        .ld_dx = in,
        .dtype = t,
        .scale = 2.0f,
        .drop = key_of(b, s),
    };
    set->scratch = hn_bench_scratch(b, hn_lowrank_linear_dx_cuda_scratch(&set->a));
    return hn_lowrank_linear_dx_check(&set->a);
}

static hn_status dx_run(const void *args, hn_stream stream)
{
    const dx_set *set = args;
    return hn_lowrank_linear_dx_cuda(&set->a, set->gemm, set->scratch, stream);
}

const hn_bench_def hn_bench_lowrank_linear_dx = {
    .name = "lowrank_linear_dx",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out", "rank", "drop_percent"},
    HN_BENCH_SHAPES(shapes),
    .flops = flops,
    .args_size = sizeof(dx_set),
    .setup = dx_setup,
    .run = dx_run,
};

/* ---- bordered storage: q, k and v, and gate and up, as one layer with three and two ranks ---- */

static const int64_t bordered_shapes[][HN_BENCH_AXES] = {
    {16384, 2048, 3072, 48, 0}, {16384, 2048, 2048, 16, 0}, {16384, 2048, 16384, 32, 0},
    {16384, 8192, 2048, 16, 0}, {8192, 4096, 6144, 48, 0},  {8192, 4096, 4096, 16, 0},
    {8192, 4096, 28672, 32, 0}, {8192, 14336, 4096, 16, 0}, {8192, 4096, 4096, 16, 10},
};

/* Rows as graph/tails.c and adapt/storage.c lay them out. */
static int64_t pitch_of(int64_t cols) { return (cols + 63) / 64 * 64; }

/* The matrix with w in the corner, B right of it and A below. */
static const char *border_of(hn_bench *b, const int64_t *s)
{
    return hn_bench_array(b, (s[2] + s[3]) * pitch_of(s[1] + s[3]), hn_bench_dtype(b),
                          HN_FILL_WEIGHT);
}

static hn_status bordered_fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0], in = s[1], out = s[2], rank = s[3], ld = pitch_of(in + rank);
    const int64_t size = (int64_t)hn_dtype_size(t);
    const char *w = border_of(b, s);
    fwd_set *set = args;
    if (w == NULL) return HN_OK; /* the harness has the reason */
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_lowrank_linear_args){
        .x = hn_bench_array(b, rows * ld, t, HN_FILL_NORMAL),
        .w = w,
        .a = w + out * ld * size,
        .b = w + in * size,
        .y = hn_bench_array(b, rows * out, t, HN_FILL_NONE),
        .s = hn_bench_array(b, rows * rank, t, HN_FILL_NONE),
        .rows = rows,
        .in = in,
        .out = out,
        .rank = rank,
        .ld_x = ld,
        .ld_w = ld,
        .ld_a = ld,
        .ld_b = ld,
        .ld_y = out,
        .ld_s = rank,
        .x_tail = rank,
        .dtype = t,
        .scale = 2.0f,
        .drop = key_of(b, s),
    };
    set->scratch = hn_bench_scratch(b, hn_lowrank_linear_fwd_cuda_scratch(&set->a));
    return hn_lowrank_linear_check(&set->a);
}

const hn_bench_def hn_bench_lowrank_bordered_fwd = {
    .name = "lowrank_bordered_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out", "rank", "drop_percent"},
    HN_BENCH_SHAPES(bordered_shapes),
    .flops = flops,
    .args_size = sizeof(fwd_set),
    .setup = bordered_fwd_setup,
    .run = fwd_run,
};

static hn_status bordered_dx_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[0], in = s[1], out = s[2], rank = s[3], ld = pitch_of(in + rank);
    const int64_t size = (int64_t)hn_dtype_size(t);
    const char *w = border_of(b, s);
    dx_set *set = args;
    if (w == NULL) return HN_OK; /* the harness has the reason */
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_lowrank_linear_dx_args){
        .dy = hn_bench_array(b, rows * pitch_of(out + rank), t, HN_FILL_NORMAL),
        .w = w,
        .a = w + out * ld * size,
        .b = w + in * size,
        .ds = hn_bench_array(b, rows * rank, t, HN_FILL_NONE),
        .dx = hn_bench_array(b, rows * in, t, HN_FILL_NONE),
        .rows = rows,
        .in = in,
        .out = out,
        .rank = rank,
        .ld_dy = pitch_of(out + rank),
        .ld_w = ld,
        .ld_a = ld,
        .ld_b = ld,
        .ld_ds = rank,
        .ld_dx = in,
        .dy_tail = rank,
        .dtype = t,
        .scale = 2.0f,
        .drop = key_of(b, s),
    };
    set->scratch = hn_bench_scratch(b, hn_lowrank_linear_dx_cuda_scratch(&set->a));
    return hn_lowrank_linear_dx_check(&set->a);
}

const hn_bench_def hn_bench_lowrank_bordered_dx = {
    .name = "lowrank_bordered_dx",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out", "rank", "drop_percent"},
    HN_BENCH_SHAPES(bordered_shapes),
    .flops = flops,
    .args_size = sizeof(dx_set),
    .setup = bordered_dx_setup,
    .run = dx_run,
};
