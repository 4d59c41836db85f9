#include "bench/bench.h"
#include "kernels/optim/adamw.h"

/* p, m, v read and written, grad read, work written. The gradient is kept (n_zero 0): zeroed, the
 * calls after the first would run on zeros. */
static double bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 30.0 * (double)s[0];
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_step_block step = {.seed = 1,
                                .step = 1,
                                .lr = 1e-4f,
                                .bias_correction1 = 0.1f,
                                .bias_correction2 = 0.001f,
                                .grad_scale = 1e-4f};
    hn_adamw_args *a = args;
    *a = (hn_adamw_args){
        .p = hn_bench_array(b, s[0], HN_F32, HN_FILL_WEIGHT),
        .grad = hn_bench_array(b, s[0], HN_F32, HN_FILL_NORMAL),
        .m = hn_bench_array(b, s[0], HN_F32, HN_FILL_WEIGHT),
        .v = hn_bench_array(b, s[0], HN_F32, HN_FILL_POSITIVE),
        .work = hn_bench_array(b, s[0], HN_BF16, HN_FILL_NONE),
        .step = hn_bench_upload(b, &step, sizeof step),
        .n = s[0],
        .beta1 = 0.9f,
        .beta2 = 0.999f,
        .eps = 1e-8f,
    };
    return hn_adamw_check(a);
}

static hn_status run(const void *args, hn_stream stream) { return hn_adamw_cuda(args, stream); }

/* The adapters (rank 16) of 1B and 8B, and a large part of a model. */
static const int64_t shapes[][HN_BENCH_AXES] = {{11272192}, {41943040}, {536870912}};

const hn_bench_def hn_bench_adamw = {
    .name = "adamw",
    .dtype = HN_F32,
    .axes = {"n"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(hn_adamw_args),
    .setup = setup,
    .run = run,
};
