#include "kernels/sparse/score_merge.h"

#include <inttypes.h>

#include "kernels/reduce/topk.h"
#include "runtime/base/check.h"

hn_status hn_score_merge_check(const hn_score_merge_args *a)
{
    HN_TRY(hn_check_pointer("score_merge", "args", a));
    HN_TRY(hn_check_pointer("score_merge", "f", a->f));
    HN_TRY(hn_check_pointer("score_merge", "ids", a->ids));
    HN_TRY(hn_check_pointer("score_merge", "acc", a->acc));
    if (a->cap < 1 || a->cap > a->blocks || a->blocks > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "score_merge: %" PRId64 " candidates of %" PRId64
                       " blocks, must be 1 to all of fewer than 2^31",
                       a->cap, a->blocks);
    return HN_OK;
}

static hn_status join(const hn_score_merge_args *a)
{
    HN_TRY(hn_score_merge_check(a));
    for (int64_t i = 0; i < a->cap; i++)
        if (a->ids[i] >= a->blocks)
            return HN_FAIL(HN_ERR_ARG,
                           "score_merge: candidate %" PRId64 " is block %" PRId32 " of %" PRId64, i,
                           a->ids[i], a->blocks);
    for (int64_t i = 0; i < a->cap; i++)
        if (a->ids[i] >= 0) a->f[a->ids[i]] += a->acc[i];
    return HN_OK;
}

static hn_topk_args best_of(const hn_score_merge_args *a)
{
    return (hn_topk_args){.x = a->f, .index = a->ids, .value = a->acc, .n = a->blocks, .k = a->cap};
}

hn_status hn_score_merge_cpu(const hn_score_merge_args *a)
{
    HN_TRY(join(a));
    const hn_topk_args best = best_of(a);
    return hn_topk_cpu(&best);
}

hn_status hn_score_merge_fast(const hn_score_merge_args *a)
{
    HN_TRY(join(a));
    const hn_topk_args best = best_of(a);
    return hn_topk_fast(&best);
}
