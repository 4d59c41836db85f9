#include "kernels/sparse/window_add.h"

#include <inttypes.h>

#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

enum { BLOCK = 4096 }; /* elements a thread takes at a time */

hn_status hn_window_add_check(const hn_window_add_args *a)
{
    HN_TRY(hn_check_pointer("window_add", "args", a));
    HN_TRY(hn_check_pointer("window_add", "g", a->g));
    HN_TRY(hn_check_pointer("window_add", "step", a->step));
    HN_TRY(hn_check_pointer("window_add", "sum", a->sum));
    if (a->n < 1) return HN_FAIL(HN_ERR_SHAPE, "window_add: %" PRId64 " elements", a->n);
    return HN_OK;
}

hn_status hn_window_add_cpu(const hn_window_add_args *a)
{
    HN_TRY(hn_window_add_check(a));
    const double scale = (double)a->step->grad_scale;
    for (int64_t i = 0; scale != 0 && i < a->n; i++) {
        const double s = (double)a->g[i] * scale;
        a->sum[i] = (float)((double)a->sum[i] + s);
        if (a->square) a->square[i] = (float)((double)a->square[i] + s * s);
    }
    for (int64_t i = 0; a->zero && i < a->n; i++) a->g[i] = 0.0f;
    return HN_OK;
}

HN_MULTIVERSION static void add(float *restrict sum, const float *restrict g, int64_t n,
                                float scale)
{
    for (int64_t i = 0; i < n; i++) sum[i] += g[i] * scale;
}

HN_MULTIVERSION static void add_squares(float *restrict square, const float *restrict g, int64_t n,
                                        float scale)
{
    for (int64_t i = 0; i < n; i++) square[i] += (g[i] * scale) * (g[i] * scale);
}

hn_status hn_window_add_fast(const hn_window_add_args *a)
{
    HN_TRY(hn_window_add_check(a));
    const float scale = a->step->grad_scale;
#pragma omp parallel for schedule(static) if (a->n > HN_OMP_MIN)
    for (int64_t i = 0; i < a->n; i += BLOCK) {
        const int64_t n = a->n - i < BLOCK ? a->n - i : BLOCK;
        if (scale != 0) add(a->sum + i, a->g + i, n, scale);
        if (scale != 0 && a->square) add_squares(a->square + i, a->g + i, n, scale);
        for (int64_t k = 0; a->zero && k < n; k++) a->g[i + k] = 0.0f;
    }
    return HN_OK;
}
