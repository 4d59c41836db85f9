#include <math.h>

#include "bench/bench.h"
#include "kernels/attention/attention_decode.h"

enum { BATCH, CAPACITY, HEADS, KV_HEADS, HEAD_DIM };

/* The whole cache is read once. */
static double bytes(const int64_t *s, hn_dtype t)
{
    const double cache = (double)s[CAPACITY] * (double)s[KV_HEADS], query = (double)s[HEADS];
    return 2.0 * (double)s[BATCH] * (double)s[HEAD_DIM] * (cache + query) *
           (double)hn_dtype_size(t);
}

typedef struct {
    hn_attention_decode_args a;
    void *scratch;
} decode_set;

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t q = s[HEADS] * s[HEAD_DIM], kv = s[KV_HEADS] * s[HEAD_DIM];
    int32_t last[64];
    if (s[BATCH] > 64) return HN_FAIL(HN_ERR_ARG, "attention_decode: a batch of at most 64");
    for (int64_t i = 0; i < s[BATCH]; i++) last[i] = (int32_t)s[CAPACITY] - 1;
    decode_set *set = args;
    set->a = (hn_attention_decode_args){
        .q = hn_bench_array(b, s[BATCH] * q, t, HN_FILL_NORMAL),
        .k_cache = hn_bench_array(b, s[BATCH] * s[CAPACITY] * kv, t, HN_FILL_NORMAL),
        .v_cache = hn_bench_array(b, s[BATCH] * s[CAPACITY] * kv, t, HN_FILL_NORMAL),
        .positions = hn_bench_upload(b, last, (size_t)s[BATCH] * sizeof *last),
        .o = hn_bench_array(b, s[BATCH] * q, t, HN_FILL_NONE),
        .ld_q = q,
        .ld_k = kv,
        .ld_v = kv,
        .ld_o = q,
        .batch = s[BATCH],
        .tokens = 1,
        .capacity = s[CAPACITY],
        .heads = s[HEADS],
        .kv_heads = s[KV_HEADS],
        .head_dim = s[HEAD_DIM],
        .scale = 1.0f / sqrtf((float)s[HEAD_DIM]),
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_attention_decode_cuda_scratch(&set->a));
    return hn_attention_decode_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const decode_set *set = args;
    return hn_attention_decode_cuda(&set->a, set->scratch, stream);
}

static const int64_t shapes[][HN_BENCH_AXES] = {
    {1, 2048, 32, 8, 64}, {1, 2048, 32, 8, 128}, {1, 32768, 32, 8, 128}, {16, 2048, 32, 8, 128}};

const hn_bench_def hn_bench_attention_decode = {
    .name = "attention_decode",
    .dtype = HN_BF16,
    .axes = {"batch", "capacity", "heads", "kv_heads", "head_dim"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(decode_set),
    .setup = setup,
    .run = run,
};
