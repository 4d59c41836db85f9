/* What the other results are set beside: a large copy, and large products through cuBLASLt. */
#include <cuda_runtime_api.h>

#include "bench/bench.h"
#include "kernels/linear/linear.h"
#include "runtime/base/cuda_check.h"

typedef struct {
    const void *from;
    void *to;
    size_t bytes;
} copy_set;

static double copy_bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 2.0 * (double)s[0] * 1048576.0;
}

static hn_status copy_setup(hn_bench *b, const int64_t *s, void *args)
{
    copy_set *c = args;
    c->bytes = (size_t)s[0] << 20;
    c->from = hn_bench_array(b, (int64_t)c->bytes / 4, HN_F32, HN_FILL_NORMAL);
    c->to = hn_bench_array(b, (int64_t)c->bytes / 4, HN_F32, HN_FILL_NONE);
    return HN_OK;
}

static hn_status copy_run(const void *args, hn_stream stream)
{
    const copy_set *c = args;
    return HN_CUDA(cudaMemcpyAsync(c->to, c->from, c->bytes, cudaMemcpyDeviceToDevice, stream));
}

static const int64_t copy_shapes[][HN_BENCH_AXES] = {{1024}};

const hn_bench_def hn_bench_copy = {
    .name = "copy",
    .dtype = HN_U8,
    .axes = {"mib"},
    HN_BENCH_SHAPES(copy_shapes),
    .bytes = copy_bytes,
    .uncaptured = true,
    .args_size = sizeof(copy_set),
    .setup = copy_setup,
    .run = copy_run,
};

typedef struct {
    hn_linear_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} gemm_set;

static double gemm_flops(const int64_t *s)
{
    return 2.0 * (double)s[0] * (double)s[0] * (double)s[0];
}

static hn_status gemm_setup(hn_bench *b, const int64_t *s, void *args)
{
    const int64_t n = s[0];
    const hn_dtype t = hn_bench_dtype(b);
    gemm_set *set = args;
    set->gemm = hn_bench_gemm(b);
    set->a = (hn_linear_args){
        .x = hn_bench_array(b, n * n, t, HN_FILL_NORMAL),
        .w = hn_bench_array(b, n * n, t, HN_FILL_WEIGHT),
        .y = hn_bench_array(b, n * n, t, HN_FILL_NONE),
        .rows = n,
        .in = n,
        .out = n,
        .ld_x = n,
        .ld_w = n,
        .ld_y = n,
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_linear_fwd_cuda_scratch(&set->a));
    return hn_linear_check(&set->a);
}

static hn_status gemm_run(const void *args, hn_stream stream)
{
    const gemm_set *set = args;
    return hn_linear_fwd_cuda(&set->a, set->gemm, set->scratch, stream);
}

static const int64_t bf16_shapes[][HN_BENCH_AXES] = {{8192}};
static const int64_t f32_shapes[][HN_BENCH_AXES] = {{4096}};

const hn_bench_def hn_bench_gemm_bf16 = {
    .name = "gemm",
    .dtype = HN_BF16,
    .axes = {"n"},
    HN_BENCH_SHAPES(bf16_shapes),
    .flops = gemm_flops,
    .args_size = sizeof(gemm_set),
    .setup = gemm_setup,
    .run = gemm_run,
};

const hn_bench_def hn_bench_gemm_f32 = {
    .name = "gemm",
    .dtype = HN_F32,
    .axes = {"n"},
    HN_BENCH_SHAPES(f32_shapes),
    .flops = gemm_flops,
    .args_size = sizeof(gemm_set),
    .setup = gemm_setup,
    .run = gemm_run,
};
