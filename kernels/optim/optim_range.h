/* optim_range.h - what the optimizers of this folder share. For the sources of this folder and
 * of kernels/sparse only. */
#ifndef HN_OPTIM_RANGE_H
#define HN_OPTIM_RANGE_H
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/optim/optim_many.h"
#include "runtime/base/check.h"
#include "runtime/base/step_block.h"

enum { HN_OPTIM_BLOCK_ = 4096 }; /* elements a thread updates at a time: fit the first cache */

/* Whether a replica's values change in this step. */
static inline bool hn_optim_updates_(const hn_step_block *s)
{
    return s->grad_scale != 0.0f && s->frozen == 0;
}

static inline hn_status hn_optim_check_range_(const char *op, int64_t n, int64_t n_zero,
                                              int64_t replicas, int64_t stride, int64_t grad_stride,
                                              int64_t step_stride)
{
    if (n < 1 || replicas < 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " elements, %" PRId64 " replicas", op, n,
                       replicas);
    if (n_zero != 0 && n_zero < n)
        return HN_FAIL(HN_ERR_SHAPE, "%s: n_zero %" PRId64 " must be 0 or at least %" PRId64, op,
                       n_zero, n);
    if (step_stride != 0 && step_stride != 1)
        return HN_FAIL(HN_ERR_ARG, "%s: step_stride %" PRId64 " must be 0 or 1", op, step_stride);
    HN_TRY(hn_check_stride(op, "the trained values", replicas, stride, n));
    return hn_check_stride(op, "grad", replicas, grad_stride, n_zero > n ? n_zero : n);
}

static inline hn_status hn_optim_check_adam_(const char *op, float beta1, float beta2, float eps)
{
    if (!(beta1 >= 0.0f && beta1 < 1.0f) || !(beta2 >= 0.0f && beta2 < 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: betas %g and %g must be in [0, 1)", op, (double)beta1,
                       (double)beta2);
    if (!(eps > 0.0f) || !isfinite(eps))
        return HN_FAIL(HN_ERR_ARG, "%s: eps %g must be positive", op, (double)eps);
    return HN_OK;
}

static inline hn_status hn_optim_check_many_(const char *op, int64_t n)
{
    if (n >= 1 && n <= HN_OPTIM_MANY) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " ranges, 1 to %d", op, n, HN_OPTIM_MANY);
}

static inline hn_status hn_optim_check_rates_(const char *op, float weight_decay, float lr_scale)
{
    if (!(weight_decay >= 0.0f) || !isfinite(weight_decay))
        return HN_FAIL(HN_ERR_ARG, "%s: weight_decay %g must be 0 or positive", op,
                       (double)weight_decay);
    if (!isfinite(lr_scale)) return HN_FAIL(HN_ERR_ARG, "%s: lr_scale %g", op, (double)lr_scale);
    return HN_OK;
}

#endif
