#include "kernels/optim/grad_norm.h"

#include <inttypes.h>
#include <math.h>

#include "kernels/reduce/sum_squares.h"
#include "runtime/base/check.h"

hn_status hn_grad_norm_check(const hn_grad_norm_args *a)
{
    static const char op[] = "grad_norm";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "grad", a->grad));
    HN_TRY(hn_check_pointer(op, "count", a->count));
    HN_TRY(hn_check_pointer(op, "step", a->step));
    if (a->n < 1 || a->replicas < 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " elements, %" PRId64 " replicas", op, a->n,
                       a->replicas);
    HN_TRY(hn_check_stride(op, "grad", a->replicas, a->grad_stride, a->n));
    return hn_check_stride(op, "count", a->replicas, a->count_stride, 1);
}

static void set_scale(hn_step_block *step, double sum_squares, double count)
{
    const double norm = sqrt(sum_squares) / count;
    step->count = (float)count;
    step->grad_scale = 0.0f;
    if (count == 0.0) {
        step->grad_norm = 0.0f;
        step->skipped = HN_STEP_EMPTY;
        return;
    }
    step->grad_norm = (float)norm;
    step->skipped = HN_STEP_NONFINITE;
    if (!isfinite(norm) || !isfinite(count) || count < 0.0) return;
    const double clip = step->max_norm > 0.0f ? (double)step->max_norm / (norm + 1e-6) : 1.0;
    step->grad_scale = (float)((clip < 1.0 ? clip : 1.0) / count);
    step->skipped = HN_STEP_DONE;
}

hn_status hn_grad_norm_cpu(const hn_grad_norm_args *a)
{
    HN_TRY(hn_grad_norm_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++)
        set_scale(a->step + r, hn_sum_squares_cpu(a->grad + r * a->grad_stride, a->n),
                  (double)a->count[r * a->count_stride]);
    return HN_OK;
}

size_t hn_grad_norm_fast_scratch(const hn_grad_norm_args *a)
{
    return (size_t)hn_sum_squares_blocks(a->n) * sizeof(double);
}

hn_status hn_grad_norm_fast(const hn_grad_norm_args *a, void *scratch)
{
    HN_TRY(hn_grad_norm_check(a));
    HN_TRY(hn_check_pointer("grad_norm", "scratch", scratch));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++)
        set_scale(a->step + r, hn_sum_squares_fast(a->grad + r * a->grad_stride, a->n, scratch),
                  (double)a->count[r * a->count_stride]);
    return HN_OK;
}

/* ---- in two parts ---- */

hn_status hn_grad_sums_check(const hn_grad_sums_args *a)
{
    static const char op[] = "grad_sums";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "grad", a->grad));
    HN_TRY(hn_check_pointer(op, "sum", a->sum));
    return a->n >= 1 ? HN_OK : HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " elements", op, a->n);
}

hn_status hn_grad_sums_cpu(const hn_grad_sums_args *a)
{
    HN_TRY(hn_grad_sums_check(a));
    for (int64_t b = 0; b < hn_sum_squares_blocks(a->n); b++) {
        const int64_t first = b * HN_SUM_BLOCK, left = a->n - first;
        a->sum[b] = hn_sum_squares_cpu(a->grad + first, left < HN_SUM_BLOCK ? left : HN_SUM_BLOCK);
    }
    return HN_OK;
}

hn_status hn_grad_sums_fast(const hn_grad_sums_args *a)
{
    HN_TRY(hn_grad_sums_check(a));
    hn_sum_squares_blockwise(a->grad, a->n, a->sum);
    return HN_OK;
}

hn_status hn_grad_scale_check(const hn_grad_scale_args *a)
{
    static const char op[] = "grad_scale";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "sum", a->sum));
    HN_TRY(hn_check_pointer(op, "count", a->count));
    HN_TRY(hn_check_pointer(op, "step", a->step));
    return a->blocks >= 1 ? HN_OK : HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " blocks", op, a->blocks);
}

hn_status hn_grad_scale_cpu(const hn_grad_scale_args *a)
{
    double sum = 0.0;
    HN_TRY(hn_grad_scale_check(a));
    for (int64_t b = 0; b < a->blocks; b++) sum += a->sum[b];
    set_scale(a->step, sum, (double)a->count[0]);
    return HN_OK;
}

hn_status hn_grad_scale_fast(const hn_grad_scale_args *a)
{
    HN_TRY(hn_grad_scale_check(a));
    set_scale(a->step, hn_sum_blocks(a->sum, a->blocks), (double)a->count[0]);
    return HN_OK;
}
