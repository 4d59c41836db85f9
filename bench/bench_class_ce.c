#include "bench/bench.h"
#include "kernels/loss/class_ce.h"

/* Logits read and their gradient written. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return 2.0 * (double)hn_dtype_size(t) * (double)s[0] * (double)s[1];
}

typedef struct {
    hn_class_ce_args a;
    void *scratch;
} ce_set;

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t ld = (s[1] + 7) / 8 * 8;
    ce_set *set = args;
    set->a = (hn_class_ce_args){
        .logits = hn_bench_array(b, s[0] * ld, t, HN_FILL_NORMAL),
        .labels = hn_bench_ids(b, s[0], s[1]),
        .loss_sum = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .count = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .hits = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .dlogits = hn_bench_array(b, s[0] * ld, t, HN_FILL_NONE),
        .rows = s[0],
        .classes = s[1],
        .ld_logits = ld,
        .ld_dlogits = ld,
        .smoothing = 0.1f,
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_class_ce_cuda_scratch(&set->a));
    return hn_class_ce_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const ce_set *set = args;
    return hn_class_ce_cuda(&set->a, set->scratch, stream);
}

/* MNIST, CIFAR-10 and CIFAR-100, ImageNet: one block, a warp a row, a block a row. */
static const int64_t shapes[][HN_BENCH_AXES] = {{64, 10}, {512, 10}, {512, 100}, {64, 1000}};

const hn_bench_def hn_bench_class_ce = {
    .name = "class_ce",
    .dtype = HN_BF16,
    .axes = {"rows", "classes"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(ce_set),
    .setup = setup,
    .run = run,
};
