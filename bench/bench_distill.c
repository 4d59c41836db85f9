#include "bench/bench.h"
#include "kernels/loss/distill.h"

/* Both logits read, the gradient written. */
static double bytes(const int64_t *s, hn_dtype t)
{
    return 3.0 * (double)hn_dtype_size(t) * (double)s[0] * (double)s[1];
}

typedef struct {
    hn_distill_args a;
    void *scratch;
} distill_set;

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t ld = (s[1] + 7) / 8 * 8;
    distill_set *set = args;
    set->a = (hn_distill_args){
        .student = hn_bench_array(b, s[0] * ld, t, HN_FILL_NORMAL),
        .teacher = hn_bench_array(b, s[0] * ld, t, HN_FILL_NORMAL),
        .loss_sum = hn_bench_array(b, 1, HN_F32, HN_FILL_NONE),
        .dstudent = hn_bench_array(b, s[0] * ld, t, HN_FILL_NONE),
        .rows = s[0],
        .classes = s[1],
        .teacher_classes = s[1],
        .ld_student = ld,
        .ld_teacher = ld,
        .ld_dstudent = ld,
        .temperature = 2.0f,
        .weight = 1.0f,
        .dtype = t,
    };
    set->scratch = hn_bench_scratch(b, hn_distill_cuda_scratch(&set->a));
    return hn_distill_check(&set->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const distill_set *set = args;
    return hn_distill_cuda(&set->a, set->scratch, stream);
}

/* CIFAR-100, ImageNet. */
static const int64_t shapes[][HN_BENCH_AXES] = {{512, 100}, {64, 1000}};

const hn_bench_def hn_bench_distill = {
    .name = "distill",
    .dtype = HN_BF16,
    .axes = {"rows", "classes"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(distill_set),
    .setup = setup,
    .run = run,
};
