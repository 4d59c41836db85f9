#include "bench/bench.h"
#include "kernels/activation/activation.h"

/* kind: hn_activation_kind. ViT-Tiny/224 at batch 64 (GELU, exact and by tanh), ViT-Base, a stage
 * of ResNet-18/CIFAR at batch 512 (RELU). with_y: backward writes the forward's result again. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {12608, 768, 1}, {12608, 768, 2}, {12608, 3072, 1}, {12608, 3072, 3}, {524288, 64, 0}};
static const int64_t bwd_shapes[][HN_BENCH_AXES] = {{12608, 768, 1},  {12608, 768, 2},
                                                    {12608, 3072, 1}, {12608, 3072, 1, 1},
                                                    {12608, 3072, 3}, {524288, 64, 0}};

static double elements(const int64_t *s) { return (double)s[0] * (double)s[1]; }

/* ---- forward ---- */

static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return 2.0 * (double)hn_dtype_size(t) * elements(s);
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    hn_activation_args *a = args;
    *a = (hn_activation_args){
        .x = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NORMAL),
        .y = hn_bench_array(b, s[0] * s[1], t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_x = s[1],
        .ld_y = s[1],
        .dtype = t,
        .kind = (int)s[2],
    };
    return hn_activation_check(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_activation_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_activation_fwd = {
    .name = "activation_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "kind"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_activation_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- backward ---- */

static double bwd_bytes(const int64_t *s, hn_dtype t)
{
    return (s[3] ? 4.0 : 3.0) * (double)hn_dtype_size(t) * elements(s);
}

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1];
    hn_activation_bwd_args *a = args;
    *a = (hn_activation_bwd_args){
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dy = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, n, t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_x = s[1],
        .ld_dy = s[1],
        .ld_dx = s[1],
        .dtype = t,
        .kind = (int)s[2],
        .ld_y = s[1],
    };
    if (s[3]) a->y = hn_bench_array(b, n, t, HN_FILL_NONE);
    return hn_activation_bwd_check(a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    return hn_activation_bwd_cuda(args, stream);
}

const hn_bench_def hn_bench_activation_bwd = {
    .name = "activation_bwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "kind", "with_y"},
    HN_BENCH_SHAPES(bwd_shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(hn_activation_bwd_args),
    .setup = bwd_setup,
    .run = bwd_run,
};
