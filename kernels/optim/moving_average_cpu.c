#include "kernels/optim/moving_average.h"

#include <inttypes.h>

#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

enum { BLOCK = 4096 }; /* elements a thread takes at a time */

hn_status hn_moving_average_check(const hn_moving_average_args *a)
{
    static const char op[] = "moving_average";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "a", a->a));
    HN_TRY(hn_check_pointer(op, "p", a->p));
    HN_TRY(hn_check_pointer(op, "step", a->step));
    if (a->n < 1 || a->replicas < 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " elements, %" PRId64 " replicas", op, a->n,
                       a->replicas);
    HN_TRY(hn_check_stride(op, "a", a->replicas, a->stride, a->n));
    if (!(a->decay >= 0 && a->decay < 1))
        return HN_FAIL(HN_ERR_ARG, "%s: decay %g, must be in [0, 1)", op, (double)a->decay);
    return HN_OK;
}

/* 1 - d; 0 where nothing was updated. */
static double share_of(const hn_moving_average_args *a, int64_t r)
{
    const hn_step_block *const s = a->step + r * a->step_stride;
    const double n = (double)s->step, early = n > 1 ? (n - 1) / (n + 8) : 0;
    if (s->skipped != HN_STEP_DONE || s->frozen != 0) return 0;
    return 1 - (early < (double)a->decay ? early : (double)a->decay);
}

hn_status hn_moving_average_cpu(const hn_moving_average_args *a)
{
    HN_TRY(hn_moving_average_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        float *const avg = a->a + r * a->stride;
        const float *const p = a->p + r * a->stride;
        const double share = share_of(a, r);
        for (int64_t i = 0; share != 0 && i < a->n; i++)
            avg[i] = (float)((double)avg[i] + share * ((double)p[i] - (double)avg[i]));
    }
    return HN_OK;
}

HN_MULTIVERSION static void block_fast(float *restrict a, const float *restrict p, int64_t n,
                                       float share)
{
    for (int64_t i = 0; i < n; i++) a[i] += share * (p[i] - a[i]);
}

hn_status hn_moving_average_fast(const hn_moving_average_args *a)
{
    HN_TRY(hn_moving_average_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        const float share = (float)share_of(a, r);
        if (share == 0) continue;
#pragma omp parallel for schedule(static) if (a->n > HN_OMP_MIN)
        for (int64_t i = 0; i < a->n; i += BLOCK)
            block_fast(a->a + r * a->stride + i, a->p + r * a->stride + i,
                       a->n - i < BLOCK ? a->n - i : BLOCK, share);
    }
    return HN_OK;
}
