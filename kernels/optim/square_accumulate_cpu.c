#include "kernels/optim/square_accumulate.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

enum { BLOCK = 4096 }; /* elements a thread takes at a time */

hn_status hn_square_accumulate_check(const hn_square_accumulate_args *a)
{
    static const char op[] = "square_accumulate";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "f", a->f));
    HN_TRY(hn_check_pointer(op, "grad", a->grad));
    if (a->n < 1 || a->replicas < 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " elements, %" PRId64 " replicas", op, a->n,
                       a->replicas);
    HN_TRY(hn_check_stride(op, "f", a->replicas, a->stride, a->n));
    HN_TRY(hn_check_stride(op, "grad", a->replicas, a->grad_stride, a->n));
    if (a->count) HN_TRY(hn_check_read_stride(op, "count", a->replicas, a->count_stride, 1));
    if (!isfinite(a->keep) || !isfinite(a->scale))
        return HN_FAIL(HN_ERR_ARG, "%s: keep %g and scale %g must be finite", op, (double)a->keep,
                       (double)a->scale);
    return HN_OK;
}

static double scale_of(const hn_square_accumulate_args *a, int64_t r)
{
    const double count = a->count ? (double)a->count[r * a->count_stride] : 1.0;
    return count != 0.0 ? (double)a->scale / count : 0.0;
}

hn_status hn_square_accumulate_cpu(const hn_square_accumulate_args *a)
{
    HN_TRY(hn_square_accumulate_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        float *const f = a->f + r * a->stride;
        const float *const grad = a->grad + r * a->grad_stride;
        const double scale = scale_of(a, r);
        for (int64_t i = 0; i < a->n; i++) {
            const double g = (double)grad[i];
            f[i] = (float)((double)a->keep * (double)f[i] + scale * g * g);
        }
    }
    return HN_OK;
}

HN_MULTIVERSION static void block_fast(float *restrict f, const float *restrict grad, int64_t n,
                                       float keep, float scale)
{
    for (int64_t i = 0; i < n; i++) f[i] = keep * f[i] + scale * grad[i] * grad[i];
}

hn_status hn_square_accumulate_fast(const hn_square_accumulate_args *a)
{
    HN_TRY(hn_square_accumulate_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        const float scale = (float)scale_of(a, r);
#pragma omp parallel for schedule(static) if (a->n > HN_OMP_MIN)
        for (int64_t i = 0; i < a->n; i += BLOCK)
            block_fast(a->f + r * a->stride + i, a->grad + r * a->grad_stride + i,
                       a->n - i < BLOCK ? a->n - i : BLOCK, a->keep, scale);
    }
    return HN_OK;
}
