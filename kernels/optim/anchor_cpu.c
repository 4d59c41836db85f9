#include "kernels/optim/anchor.h"

#include <inttypes.h>
#include <math.h>

#include "kernels/optim/anchor_sum.h"
#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

hn_status hn_anchor_check(const hn_anchor_args *a)
{
    static const char op[] = "anchor";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "p", a->p));
    HN_TRY(hn_check_pointer(op, "ref", a->ref));
    HN_TRY(hn_check_pointer(op, "grad", a->grad));
    if (a->n < 1 || a->replicas < 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " elements, %" PRId64 " replicas", op, a->n,
                       a->replicas);
    HN_TRY(hn_check_stride(op, "p", a->replicas, a->stride, a->n));
    HN_TRY(hn_check_stride(op, "grad", a->replicas, a->grad_stride, a->n));
    HN_TRY(hn_check_read_stride(op, "ref", a->replicas, a->ref_stride, a->n));
    if (a->fisher) HN_TRY(hn_check_read_stride(op, "fisher", a->replicas, a->fisher_stride, a->n));
    if (a->count) HN_TRY(hn_check_read_stride(op, "count", a->replicas, a->count_stride, 1));
    if (a->loss) HN_TRY(hn_check_stride(op, "loss", a->replicas, a->loss_stride, 1));
    if (!isfinite(a->weight))
        return HN_FAIL(HN_ERR_ARG, "%s: weight %g must be finite", op, (double)a->weight);
    return HN_OK;
}

static double weight_of(const hn_anchor_args *a, int64_t r)
{
    return (double)a->weight * (a->count ? (double)a->count[r * a->count_stride] : 1.0);
}

hn_status hn_anchor_cpu(const hn_anchor_args *a)
{
    HN_TRY(hn_anchor_check(a));
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        const float *const p = a->p + r * a->stride, *const ref = a->ref + r * a->ref_stride;
        const float *const fisher = a->fisher ? a->fisher + r * a->fisher_stride : NULL;
        float *const grad = a->grad + r * a->grad_stride;
        const double weight = weight_of(a, r);
        double sum = 0.0;
        for (int64_t i = 0; i < a->n; i++) {
            const double d = (double)p[i] - (double)ref[i];
            const double pull = (fisher ? (double)fisher[i] : 1.0) * d;
            grad[i] = (float)((double)grad[i] + weight * pull);
            sum += pull * d;
        }
        if (a->loss) {
            float *const loss = a->loss + r * a->loss_stride;
            *loss = (float)((double)*loss + 0.5 * weight * sum);
        }
    }
    return HN_OK;
}

/* A block of one replica; its sum, eight side by side so that the order is written down. */
HN_MULTIVERSION static double block_fast(const float *restrict p, const float *restrict ref,
                                         const float *restrict fisher, float *restrict grad,
                                         int64_t n, float weight)
{
    double lane[8] = {0};
    for (int64_t i = 0; i < n; i += 8) {
        float pull[8] = {0}, d[8] = {0};
        const int64_t len = n - i < 8 ? n - i : 8;
        for (int64_t k = 0; k < len; k++) {
            d[k] = p[i + k] - ref[i + k];
            pull[k] = fisher ? fisher[i + k] * d[k] : d[k];
            grad[i + k] += weight * pull[k];
        }
        for (int k = 0; k < 8; k++) lane[k] += (double)pull[k] * (double)d[k];
    }
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
           ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

size_t hn_anchor_fast_scratch(const hn_anchor_args *a)
{
    if (a->loss == NULL && a->loss_stride <= 0) return 0;
    return (size_t)hn_anchor_blocks_(a->n) * sizeof(double);
}

hn_status hn_anchor_fast(const hn_anchor_args *a, void *scratch)
{
    HN_TRY(hn_anchor_check(a));
    if (a->loss) HN_TRY(hn_check_pointer("anchor", "scratch", scratch));
    double *const partial = scratch;
    const int64_t blocks = hn_anchor_blocks_(a->n);
    for (int64_t r = 0; r < hn_replica_count(a->replicas); r++) {
        const double weight = weight_of(a, r);
#pragma omp parallel for schedule(static) if (a->n > HN_OMP_MIN)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t i = b * HN_ANCHOR_BLOCK_, left = a->n - i;
            const double sum =
                block_fast(a->p + r * a->stride + i, a->ref + r * a->ref_stride + i,
                           a->fisher ? a->fisher + r * a->fisher_stride + i : NULL,
                           a->grad + r * a->grad_stride + i,
                           left < HN_ANCHOR_BLOCK_ ? left : HN_ANCHOR_BLOCK_, (float)weight);
            if (a->loss) partial[b] = sum;
        }
        if (a->loss == NULL) continue;
        double sum = 0.0;
        for (int64_t b = 0; b < blocks; b++) sum += partial[b];
        float *const loss = a->loss + r * a->loss_stride;
        *loss = (float)((double)*loss + 0.5 * weight * sum);
    }
    return HN_OK;
}
