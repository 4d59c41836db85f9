#include "bench/bench.h"
#include "kernels/embed/rope.h"

enum { ROWS, HEADS, HEAD_DIM, LENGTH, REST };

/* The tables are small beside the rows, and stay in the cache. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return 2.0 * (double)hn_dtype_size(t) * (double)s[ROWS] * (double)s[HEADS] *
           (double)s[HEAD_DIM];
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t row = s[HEADS] * s[HEAD_DIM] + s[REST], table = s[HEAD_DIM] / 2;
    void *const x = hn_bench_array(b, s[ROWS] * row, t, HN_FILL_NORMAL);
    hn_rope_args *a = args;
    *a = (hn_rope_args){
        .x = x,
        .y = s[REST] ? x : hn_bench_array(b, s[ROWS] * row, t, HN_FILL_NONE),
        .position = hn_bench_positions(b, s[ROWS], s[LENGTH]),
        .cos = hn_bench_array(b, s[LENGTH] * table, HN_F32, HN_FILL_NORMAL),
        .sin = hn_bench_array(b, s[LENGTH] * table, HN_F32, HN_FILL_NORMAL),
        .rows = s[ROWS],
        .heads = s[HEADS],
        .head_dim = s[HEAD_DIM],
        .n_positions = s[LENGTH],
        .ld_x = row,
        .ld_y = row,
        .ld_table = table,
        .dtype = t,
    };
    return hn_rope_check_shapes(a);
}

static hn_status run(const void *args, hn_stream stream) { return hn_rope_cuda(args, stream); }

/* Queries and keys of 1B, queries of 8B; both at once, in place in the rows of q, k, v (and their
 * low-rank border), as the models do it: 1B, 8B. 128 heads are 8192 columns. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {16384, 32, 64, 2048},  {16384, 8, 64, 2048},       {8192, 32, 128, 2048},
    {16384, 128, 64, 2048}, {16384, 40, 64, 2048, 576}, {8192, 40, 128, 2048, 1088}};

const hn_bench_def hn_bench_rope = {
    .name = "rope",
    .dtype = HN_BF16,
    .axes = {"rows", "heads", "head_dim", "length", "rest"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_rope_args),
    .setup = setup,
    .run = run,
};
