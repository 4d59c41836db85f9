#include "bench/bench.h"
#include "kernels/norm/layer_norm.h"

/* ViT-Tiny and ViT-Base on 224 pixels, batch 64; GPT-2 medium and a wide model, 16 Ki tokens; few
 * long rows. */
static const int64_t shapes[][HN_BENCH_AXES] = {{12608, 192},  {12608, 768},  {16384, 1024},
                                                {16384, 2048}, {16384, 8192}, {2048, 4096}};
static const int64_t f32_shapes[][HN_BENCH_AXES] = {{12608, 192}, {8192, 768}, {2048, 4096}};

static double elements(const int64_t *s) { return (double)s[0] * (double)s[1]; }

/* ---- forward ---- */

static double fwd_bytes(const int64_t *s, hn_dtype t)
{
    return 4.0 * (double)hn_dtype_size(t) * elements(s) + 8.0 * (double)s[0];
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1];
    hn_layer_norm_args *a = args;
    *a = (hn_layer_norm_args){
        .x = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .res = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .gain = hn_bench_array(b, s[1], t, HN_FILL_POSITIVE),
        .bias = hn_bench_array(b, s[1], t, HN_FILL_NORMAL),
        .sum = hn_bench_array(b, n, t, HN_FILL_NONE),
        .y = hn_bench_array(b, n, t, HN_FILL_NONE),
        .mean = hn_bench_array(b, s[0], HN_F32, HN_FILL_NONE),
        .rstd = hn_bench_array(b, s[0], HN_F32, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_x = s[1],
        .ld_res = s[1],
        .ld_sum = s[1],
        .ld_y = s[1],
        .dtype = t,
        .gain_dtype = t,
        .bias_dtype = t,
        .eps = 1e-5f,
    };
    return hn_layer_norm_check(a);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    return hn_layer_norm_fwd_cuda(args, stream);
}

const hn_bench_def hn_bench_layer_norm_fwd = {
    .name = "layer_norm_fwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols"},
    HN_BENCH_SHAPES(shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_layer_norm_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

const hn_bench_def hn_bench_layer_norm_fwd_f32 = {
    .name = "layer_norm_fwd",
    .dtype = HN_F32,
    .axes = {"rows", "cols"},
    HN_BENCH_SHAPES(f32_shapes),
    .bytes = fwd_bytes,
    .args_size = sizeof(hn_layer_norm_args),
    .setup = fwd_setup,
    .run = fwd_run,
};

/* ---- backward ---- */

typedef struct {
    hn_layer_norm_bwd_args a;
    void *scratch;
} bwd_set;

static double bwd_bytes(const int64_t *s, hn_dtype t)
{
    return 4.0 * (double)hn_dtype_size(t) * elements(s) + 8.0 * (double)s[0];
}

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = s[0] * s[1];
    bwd_set *set = args;
    set->a = (hn_layer_norm_bwd_args){
        .sum = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .gain = hn_bench_array(b, s[1], t, HN_FILL_POSITIVE),
        .mean = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .rstd = hn_bench_array(b, s[0], HN_F32, HN_FILL_POSITIVE),
        .dy = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dsum = hn_bench_array(b, n, t, HN_FILL_NORMAL),
        .dx = hn_bench_array(b, n, t, HN_FILL_NONE),
        .rows = s[0],
        .cols = s[1],
        .ld_sum = s[1],
        .ld_dy = s[1],
        .ld_dsum = s[1],
        .ld_dx = s[1],
        .dtype = t,
        .gain_dtype = t,
    };
    if (s[2]) {
        set->a.dgain = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL);
        set->a.dbias = hn_bench_array(b, s[1], HN_F32, HN_FILL_NORMAL);
    }
    set->scratch = hn_bench_scratch(b, hn_layer_norm_bwd_cuda_scratch(&set->a));
    return hn_layer_norm_bwd_check(&set->a);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    const bwd_set *set = args;
    return hn_layer_norm_bwd_cuda(&set->a, set->scratch, stream);
}

static const int64_t bwd_shapes[][HN_BENCH_AXES] = {
    {12608, 192, 0},  {12608, 192, 1},  {12608, 768, 0},  {12608, 768, 1}, {16384, 1024, 1},
    {16384, 2048, 0}, {16384, 2048, 1}, {16384, 8192, 1}, {2048, 4096, 1}};
static const int64_t bwd_f32_shapes[][HN_BENCH_AXES] = {
    {12608, 192, 0}, {12608, 192, 1}, {8192, 768, 0}, {8192, 768, 1}, {2048, 4096, 1}};

const hn_bench_def hn_bench_layer_norm_bwd = {
    .name = "layer_norm_bwd",
    .dtype = HN_BF16,
    .axes = {"rows", "cols", "params_trained"},
    HN_BENCH_SHAPES(bwd_shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(bwd_set),
    .setup = bwd_setup,
    .run = bwd_run,
};

const hn_bench_def hn_bench_layer_norm_bwd_f32 = {
    .name = "layer_norm_bwd",
    .dtype = HN_F32,
    .axes = {"rows", "cols", "params_trained"},
    HN_BENCH_SHAPES(bwd_f32_shapes),
    .bytes = bwd_bytes,
    .args_size = sizeof(bwd_set),
    .setup = bwd_setup,
    .run = bwd_run,
};
