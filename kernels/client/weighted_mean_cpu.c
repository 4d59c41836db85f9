/* Built without fused multiply-adds (CMakeLists.txt): products and sums are rounded one by one. */
#include "kernels/client/weighted_mean.h"

#include <inttypes.h>

#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

enum { BLOCK = 512 }; /* values of a thread at a time: their sums fit the first cache */

static const char op[] = "weighted_mean";

hn_status hn_weighted_mean_check(const hn_weighted_mean_args *a)
{
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "x", a->x));
    HN_TRY(hn_check_pointer(op, "weight", a->weight));
    HN_TRY(hn_check_pointer(op, "out", a->out));
    if (a->clients < 1 || a->n < 1)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " clients with %" PRId64 " values", op,
                       a->clients, a->n);
    return hn_check_stride(op, "x", a->clients, a->stride, a->n);
}

hn_status hn_weighted_mean_cpu(const hn_weighted_mean_args *a)
{
    HN_TRY(hn_weighted_mean_check(a));
    for (int64_t i = 0; i < a->n; i++) {
        const double base = a->base ? (double)a->base[i] : 0.0;
        double sum = 0.0;
        for (int64_t g = 0; g < a->clients; g++)
            sum += a->weight[g] * ((double)a->x[g * a->stride + i] - base);
        a->out[i] = (float)(base + sum);
    }
    return HN_OK;
}

HN_MULTIVERSION static void mean_block(const hn_weighted_mean_args *a, int64_t first, int64_t n)
{
    double base[BLOCK] = {0}, sum[BLOCK] = {0};
    for (int64_t i = 0; i < n && a->base; i++) base[i] = (double)a->base[first + i];
    for (int64_t g = 0; g < a->clients; g++) {
        const float *const x = a->x + g * a->stride + first;
        const double weight = a->weight[g];
        for (int64_t i = 0; i < n; i++) sum[i] += weight * ((double)x[i] - base[i]);
    }
    for (int64_t i = 0; i < n; i++) a->out[first + i] = (float)(base[i] + sum[i]);
}

hn_status hn_weighted_mean_fast(const hn_weighted_mean_args *a)
{
    HN_TRY(hn_weighted_mean_check(a));
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < a->n; b += BLOCK) mean_block(a, b, a->n - b < BLOCK ? a->n - b : BLOCK);
    return HN_OK;
}
