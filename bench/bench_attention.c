#include <math.h>

#include "bench/bench.h"
#include "kernels/attention/attention.h"

enum { BATCH, LENGTH, HEADS, KV_HEADS, HEAD_DIM, EVEN };

/* Causal: half of the square, as published figures count it. */
static double fwd_flops(const int64_t *s)
{
    const double pairs = 0.5 * (double)s[BATCH] * (double)s[LENGTH] * (double)s[LENGTH];
    return 4.0 * pairs * (double)s[HEADS] * (double)s[HEAD_DIM];
}

static double bwd_flops(const int64_t *s) { return 2.5 * fwd_flops(s); }

/* Every token sees every one: images. */
static double full_fwd_flops(const int64_t *s) { return 2.0 * fwd_flops(s); }

static double full_bwd_flops(const int64_t *s) { return 2.0 * bwd_flops(s); }

typedef struct {
    hn_attention_args a;
    void *scratch;
    hn_attention_cudnn *cudnn; /* of the entries that run on cuDNN */
} attention_set;

static void common(hn_bench *b, const int64_t *s, bool causal, attention_set *set)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t rows = s[BATCH] * s[LENGTH];
    const int64_t q = s[HEADS] * s[HEAD_DIM], kv = s[KV_HEADS] * s[HEAD_DIM];
    set->a = (hn_attention_args){
        .q = hn_bench_array(b, rows * q, t, HN_FILL_NORMAL),
        .k = hn_bench_array(b, rows * kv, t, HN_FILL_NORMAL),
        .v = hn_bench_array(b, rows * kv, t, HN_FILL_NORMAL),
        .q_offsets = hn_bench_offsets(b, s[BATCH], s[LENGTH]),
        .o = hn_bench_array(b, rows * q, t, HN_FILL_NONE),
        .lse = hn_bench_array(b, rows * s[HEADS], HN_F32, HN_FILL_NONE),
        .ld_q = q,
        .ld_k = kv,
        .ld_v = kv,
        .ld_o = q,
        .q_rows = rows,
        .kv_rows = rows,
        .sequences = s[BATCH],
        .heads = s[HEADS],
        .kv_heads = s[KV_HEADS],
        .head_dim = s[HEAD_DIM],
        .longest = s[LENGTH],
        .even = s[EVEN] != 0,
        .scale = 1.0f / sqrtf((float)s[HEAD_DIM]),
        .causal = causal,
        .dtype = t,
    };
}

static hn_status fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    attention_set *set = args;
    common(b, s, true, set);
    return hn_attention_check(&set->a, false);
}

static hn_status full_fwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    attention_set *set = args;
    common(b, s, false, set);
    return hn_attention_check(&set->a, false);
}

static hn_status fwd_run(const void *args, hn_stream stream)
{
    const attention_set *set = args;
    return hn_attention_fwd_cuda(&set->a, stream);
}

/* Scratch of a pass through cuDNN; its plan is made. */
static hn_status plan_cudnn(hn_bench *b, attention_set *set, hn_cudnn_pass pass, void **scratch)
{
    size_t bytes = 0;
    set->cudnn = hn_bench_attention(b);
    if (set->cudnn == NULL) return HN_FAIL(HN_ERR_UNSUPPORTED, "%s", hn_last_text());
    HN_TRY(hn_attention_cudnn_plan(set->cudnn, &set->a, pass, SIZE_MAX, &bytes));
    *scratch = hn_bench_scratch(b, bytes);
    return HN_OK;
}

static hn_status fwd_cudnn_setup(hn_bench *b, const int64_t *s, void *args)
{
    attention_set *set = args;
    common(b, s, true, set);
    return plan_cudnn(b, set, HN_CUDNN_FWD, &set->scratch);
}

static hn_status full_fwd_cudnn_setup(hn_bench *b, const int64_t *s, void *args)
{
    attention_set *set = args;
    common(b, s, false, set);
    return plan_cudnn(b, set, HN_CUDNN_FWD, &set->scratch);
}

static hn_status fwd_cudnn_run(const void *args, hn_stream stream)
{
    const attention_set *set = args;
    return hn_attention_cudnn_fwd(set->cudnn, &set->a, set->scratch, stream);
}

/* o and lse are what forward gives for these inputs, so that probabilities are probabilities. */
static hn_status set_up_backward(hn_bench *b, const int64_t *s, bool causal, attention_set *set)
{
    common(b, s, causal, set);
    hn_attention_args *a = &set->a;
    a->dout = hn_bench_array(b, a->q_rows * a->ld_o, a->dtype, HN_FILL_NORMAL);
    a->dq = hn_bench_array(b, a->q_rows * a->ld_q, a->dtype, HN_FILL_NONE);
    a->dk = hn_bench_array(b, a->kv_rows * a->ld_k, a->dtype, HN_FILL_NONE);
    a->dv = hn_bench_array(b, a->kv_rows * a->ld_v, a->dtype, HN_FILL_NONE);
    a->ld_dout = a->ld_o;
    a->ld_dq = a->ld_q;
    a->ld_dk = a->ld_k;
    a->ld_dv = a->ld_v;
    set->scratch = hn_bench_scratch(b, hn_attention_bwd_cuda_scratch(a));
    HN_TRY(hn_attention_check(a, true));
    return hn_attention_fwd_cuda(a, hn_bench_stream(b));
}

static hn_status bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    return set_up_backward(b, s, true, args);
}

static hn_status full_bwd_setup(hn_bench *b, const int64_t *s, void *args)
{
    return set_up_backward(b, s, false, args);
}

/* Through cuDNN: o and lse are those of our own forward. */
static hn_status bwd_deterministic_setup(hn_bench *b, const int64_t *s, void *args)
{
    attention_set *set = args;
    HN_TRY(bwd_setup(b, s, args));
    return plan_cudnn(b, set, HN_CUDNN_BWD, &set->scratch);
}

static hn_status full_bwd_deterministic_setup(hn_bench *b, const int64_t *s, void *args)
{
    attention_set *set = args;
    HN_TRY(full_bwd_setup(b, s, args));
    return plan_cudnn(b, set, HN_CUDNN_BWD, &set->scratch);
}

static hn_status bwd_deterministic_run(const void *args, hn_stream stream)
{
    const attention_set *set = args;
    return hn_attention_cudnn_bwd(set->cudnn, &set->a, HN_CUDNN_BWD, set->scratch, stream);
}

static hn_status bwd_fast_setup(hn_bench *b, const int64_t *s, void *args)
{
    attention_set *set = args;
    HN_TRY(bwd_setup(b, s, args));
    return plan_cudnn(b, set, HN_CUDNN_BWD_FAST, &set->scratch);
}

static hn_status bwd_fast_run(const void *args, hn_stream stream)
{
    const attention_set *set = args;
    return hn_attention_cudnn_bwd(set->cudnn, &set->a, HN_CUDNN_BWD_FAST, set->scratch, stream);
}

static hn_status bwd_run(const void *args, hn_stream stream)
{
    const attention_set *set = args;
    return hn_attention_bwd_cuda(&set->a, set->scratch, stream);
}

/* A step of 1B and one of 8B. */
static const int64_t shapes[][HN_BENCH_AXES] = {{8, 2048, 32, 8, 64}, {4, 2048, 32, 8, 128}};
static const int64_t cudnn_shapes[][HN_BENCH_AXES] = {{8, 2048, 32, 8, 64, 1},
                                                      {8, 2048, 32, 8, 64, 0},
                                                      {4, 2048, 32, 8, 128, 1},
                                                      {4, 2048, 32, 8, 128, 0}};
/* A layer of ViT-Tiny/16 on images of 224 x 224. */
static const int64_t full_shapes[][HN_BENCH_AXES] = {{64, 197, 3, 3, 64, 1}};
static const int64_t f32_shapes[][HN_BENCH_AXES] = {{1, 2048, 32, 8, 64}};

const hn_bench_def hn_bench_attention_fwd = {
    .name = "attention_fwd",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim"},
    HN_BENCH_SHAPES(shapes),
    .flops = fwd_flops,
    .args_size = sizeof(attention_set),
    .setup = fwd_setup,
    .run = fwd_run,
};

const hn_bench_def hn_bench_attention_fwd_f32 = {
    .name = "attention_fwd",
    .dtype = HN_F32,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim"},
    HN_BENCH_SHAPES(f32_shapes),
    .flops = fwd_flops,
    .args_size = sizeof(attention_set),
    .setup = fwd_setup,
    .run = fwd_run,
};

const hn_bench_def hn_bench_attention_bwd = {
    .name = "attention_bwd",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim"},
    HN_BENCH_SHAPES(shapes),
    .flops = bwd_flops,
    .args_size = sizeof(attention_set),
    .setup = bwd_setup,
    .run = bwd_run,
};

const hn_bench_def hn_bench_attention_bwd_f32 = {
    .name = "attention_bwd",
    .dtype = HN_F32,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim"},
    HN_BENCH_SHAPES(f32_shapes),
    .flops = bwd_flops,
    .args_size = sizeof(attention_set),
    .setup = bwd_setup,
    .run = bwd_run,
};

const hn_bench_def hn_bench_attention_fwd_cudnn = {
    .name = "attention_fwd_cudnn",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim", "even"},
    HN_BENCH_SHAPES(cudnn_shapes),
    .flops = fwd_flops,
    .args_size = sizeof(attention_set),
    .setup = fwd_cudnn_setup,
    .run = fwd_cudnn_run,
};

const hn_bench_def hn_bench_attention_bwd_cudnn = {
    .name = "attention_bwd_cudnn",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim", "even"},
    HN_BENCH_SHAPES(cudnn_shapes),
    .flops = bwd_flops,
    .args_size = sizeof(attention_set),
    .setup = bwd_deterministic_setup,
    .run = bwd_deterministic_run,
};

const hn_bench_def hn_bench_attention_bwd_cudnn_fast = {
    .name = "attention_bwd_cudnn_fast",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim", "even"},
    HN_BENCH_SHAPES(cudnn_shapes),
    .flops = bwd_flops,
    .args_size = sizeof(attention_set),
    .setup = bwd_fast_setup,
    .run = bwd_fast_run,
};

const hn_bench_def hn_bench_attention_fwd_full = {
    .name = "attention_fwd_full",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim", "even"},
    HN_BENCH_SHAPES(full_shapes),
    .flops = full_fwd_flops,
    .args_size = sizeof(attention_set),
    .setup = full_fwd_setup,
    .run = fwd_run,
};

const hn_bench_def hn_bench_attention_fwd_full_cudnn = {
    .name = "attention_fwd_full_cudnn",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim", "even"},
    HN_BENCH_SHAPES(full_shapes),
    .flops = full_fwd_flops,
    .args_size = sizeof(attention_set),
    .setup = full_fwd_cudnn_setup,
    .run = fwd_cudnn_run,
};

const hn_bench_def hn_bench_attention_bwd_full = {
    .name = "attention_bwd_full",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim", "even"},
    HN_BENCH_SHAPES(full_shapes),
    .flops = full_bwd_flops,
    .args_size = sizeof(attention_set),
    .setup = full_bwd_setup,
    .run = bwd_run,
};

const hn_bench_def hn_bench_attention_bwd_full_cudnn = {
    .name = "attention_bwd_full_cudnn",
    .dtype = HN_BF16,
    .axes = {"batch", "length", "heads", "kv_heads", "head_dim", "even"},
    HN_BENCH_SHAPES(full_shapes),
    .flops = full_bwd_flops,
    .args_size = sizeof(attention_set),
    .setup = full_bwd_deterministic_setup,
    .run = bwd_deterministic_run,
};
