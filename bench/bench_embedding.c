#include "bench/bench.h"
#include "kernels/embed/embedding.h"

/* 1B, 8B. */
static const int64_t shapes[][HN_BENCH_AXES] = {{16384, 2048, 128256}, {8192, 4096, 128256}};

/* ---- forward ---- */

static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return 2.0 * (double)hn_dtype_size(t) * (double)s[0] * (double)s[1] + 4.0 * (double)s[0];
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_embedding_args *a = args;
    *a = (hn_embedding_args){
        .id = hn_bench_ids(b, s[0], s[2]),
        .w = hn_bench_array(b, s[2] * s[1], t, HN_FILL_WEIGHT),
        .y = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NONE),
        .rows = s[0],
        .vocab = s[2],
        .dim = s[1],
        .ld_w = s[1],
        .ld_y = s[1],
        .dtype = t,
    };
    return hn_embedding_check_shapes(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_embedding_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_embedding_fwd = {
    .name = "embedding_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "dim", "vocab"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_embedding_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- gradient of the table ---- */

typedef struct {
    hn_embedding_dw_args a;
    void *scratch;
} dw_set;

/* Random ids seldom meet: a row of dw is read and written for each. */
static double dw_bytes(const int64_t *s, hn_dtype t)
{
    return (8.0 + (double)hn_dtype_size(t)) * (double)s[0] * (double)s[1];
}

static hn_status dw_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    dw_set *set = args;
    set->a = (hn_embedding_dw_args){
        .id = hn_bench_ids(b, s[0], s[2]),
        .dy = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .dw = hn_bench_array(b, s[2] * s[1], HN_F32, HN_FILL_NORMAL),
        .rows = s[0],
        .vocab = s[2],
        .dim = s[1],
        .ld_dy = s[1],
        .ld_dw = s[1],
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_embedding_dw_cuda_scratch(&set->a));
    return hn_embedding_dw_check_shapes(&set->a);
}

static hn_status dw_run(const void *args, hn_stream stream)
{
    const dw_set *set = args;
    return hn_embedding_dw_cuda(&set->a, set->scratch, stream);
}

const hn_bench_def hn_bench_embedding_dw = {
    .name = "embedding_dw",
    .dtype = HN_BF16,
    .axes = {"rows", "dim", "vocab"},
    HN_BENCH_SHAPES(shapes),
    .bytes = dw_bytes,
    .args_size = sizeof(dw_set),
    .setup = dw_setup,
    .run = dw_run,
};
