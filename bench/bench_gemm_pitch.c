/* Products of the linear layers by the distance between rows: which pitch should the plan choose?
 * nt: y = x w^T, nn: dx = dy w; in the steps of a bordered layer k takes in the rank as well. */
#include "bench/bench.h"

enum { M, N, K, LD_A, LD_B }; /* axes */

static double flops(const int64_t *s) { return 2.0 * (double)s[M] * (double)s[N] * (double)s[K]; }

#define UP64(x) (((x) + 63) / 64 * 64)
/* clang-format off */
#define NT_GAP(m, in, out, gap) {m, out, in, (in) + (gap), (in) + (gap)}
#define NN_GAP(m, in, out, gap) {m, in, out, (out) + (gap), (in) + (gap)}
#define GAPS(X, m, in, out) \
    X(m, in, out, 0), X(m, in, out, 16), X(m, in, out, 48), X(m, in, out, 64), X(m, in, out, 128)
#define NT(m, in, out, r) GAPS(NT_GAP, m, in, out), \
    {m, out, (in) + (r), (in) + (r), (in) + (r)}, \
    {m, out, (in) + (r), UP64((in) + (r)), UP64((in) + (r))}
#define NN(m, in, out, r) GAPS(NN_GAP, m, in, out), \
    {m, in, (out) + (r), (out) + (r), (in) + (r)}, \
    {m, in, (out) + (r), UP64((out) + (r)), UP64((in) + (r))}
/* q, k and v; o; gate and up; down: first 1B, then 8B, with the ranks that r = 16 comes to */
#define SHAPES(X) \
    X(16384, 2048, 3072, 48), X(16384, 2048, 2048, 16), X(16384, 2048, 16384, 32), \
    X(16384, 8192, 2048, 16), X(8192, 4096, 6144, 48), X(8192, 4096, 4096, 16), \
    X(8192, 4096, 28672, 32), X(8192, 14336, 4096, 16)
/* clang-format on */

static const int64_t nt_shapes[][HN_BENCH_AXES] = {SHAPES(NT)};
static const int64_t nn_shapes[][HN_BENCH_AXES] = {SHAPES(NN)};

typedef struct {
    hn_gemm_cuda_args a;
    hn_gemm_cuda *gemm;
} gemm_set;

static hn_status setup(hn_bench *b, const int64_t *s, gemm_set *set, bool trans_b)
{
    const hn_dtype t = hn_bench_dtype(b);
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_gemm_cuda_args){
        .a = hn_bench_array(b, s[M] * s[LD_A], t, HN_FILL_NORMAL),
        .b = hn_bench_array(b, (trans_b ? s[N] : s[K]) * s[LD_B], t, HN_FILL_WEIGHT),
        .c = hn_bench_array(b, s[M] * s[N], t, HN_FILL_NONE),
        .m = s[M],
        .n = s[N],
        .k = s[K],
        .ld_a = s[LD_A],
        .ld_b = s[LD_B],
        .ld_c = s[N],
        .trans_b = trans_b,
        .dtype = t,
        .c_dtype = t,
        .alpha = 1.0f,
    };
    return HN_OK;
}

static hn_status nt_setup(hn_bench *b, const int64_t *s, void *args)
{
    return setup(b, s, args, true);
}

static hn_status nn_setup(hn_bench *b, const int64_t *s, void *args)
{
    return setup(b, s, args, false);
}

static hn_status run(const void *args, hn_stream stream)
{
    const gemm_set *set = args;
    return hn_gemm_cuda_run(set->gemm, &set->a, stream);
}

const hn_bench_def hn_bench_gemm_pitch_nt = {
    .name = "gemm_pitch_nt",
    .dtype = HN_BF16,
    .axes = {"m", "n", "k", "ld_a", "ld_b"},
    HN_BENCH_SHAPES(nt_shapes),
    .flops = flops,
    .args_size = sizeof(gemm_set),
    .setup = nt_setup,
    .run = run,
};

const hn_bench_def hn_bench_gemm_pitch_nn = {
    .name = "gemm_pitch_nn",
    .dtype = HN_BF16,
    .axes = {"m", "n", "k", "ld_a", "ld_b"},
    HN_BENCH_SHAPES(nn_shapes),
    .flops = flops,
    .args_size = sizeof(gemm_set),
    .setup = nn_setup,
    .run = run,
};
