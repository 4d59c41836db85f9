#include "bench/bench.h"
#include "kernels/loss/proto_ce.h"
#include "runtime/base/alloc.h"

enum { EPISODES, SUPPORT, QUERIES, WAYS, WIDTH };

static double rows(const int64_t *s) { return (double)(s[EPISODES] * (s[SUPPORT] + s[QUERIES])); }

/* Features read and their gradient written. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return 2.0 * (double)hn_dtype_size(t) * rows(s) * (double)s[WIDTH];
}

typedef struct {
    hn_proto_ce_args a;
    void *scratch;
} ce_set;

/* Class after class, in support and queries. */
static const int32_t *labels(hn_bench *b, const int64_t *s)
{
    int32_t *const host = hn_malloc((size_t)rows(s) * sizeof *host);
    if (host == NULL) return NULL;
    for (int64_t i = 0; i < (int64_t)rows(s); i++) {
        const int64_t j = i % (s[SUPPORT] + s[QUERIES]);
        host[i] = (int32_t)((j < s[SUPPORT] ? j : j - s[SUPPORT]) % s[WAYS]);
    }
    const int32_t *const p = hn_bench_upload(b, host, (size_t)rows(s) * sizeof *host);
    hn_free(host);
    return p;
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t n = (int64_t)rows(s);
    ce_set *set = args;
    set->a = (hn_proto_ce_args){
        .features = hn_bench_array(b, n * s[WIDTH], t, HN_FILL_NORMAL),
        .labels = labels(b, s),
        .loss_sum = hn_bench_array(b, s[EPISODES], HN_F32, HN_FILL_NONE),
        .count = hn_bench_array(b, s[EPISODES], HN_F32, HN_FILL_NONE),
        .hits = hn_bench_array(b, s[EPISODES], HN_F32, HN_FILL_NONE),
        .dfeatures = hn_bench_array(b, n * s[WIDTH], t, HN_FILL_NONE),
        .replicas = s[EPISODES],
        .support = s[SUPPORT],
        .queries = s[QUERIES],
        .width = s[WIDTH],
        .ways = s[WAYS],
        .ld_features = s[WIDTH],
        .ld_dfeatures = s[WIDTH],
        .count_stride = 1,
        .scale = 10.0f,
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_proto_ce_cuda_scratch(&set->a));
    return hn_proto_ce_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const ce_set *set = args;
    return hn_proto_ce_cuda(&set->a, set->scratch, stream);
}

/* A step of tuning 5-way 5-shot, its evaluation with 15 queries a class, for ViT-Tiny; ViT-Small;
 * many ways, whose sums do not fit into shared memory. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    {64, 25, 25, 5, 192}, {64, 25, 75, 5, 192}, {256, 25, 25, 5, 384}, {8, 250, 250, 50, 384}};

const hn_bench_def hn_bench_proto_ce = {
    .name = "proto_ce",
    .dtype = HN_BF16,
    .axes = {"episodes", "support", "queries", "ways", "width"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(ce_set),
    .setup = setup,
    .run = run,
};
