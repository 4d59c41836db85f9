#include "kernels/sparse/sparse_adamw.h"

#include "kernels/optim/adamw_values.h"
#include "kernels/optim/optim_range.h"
#include "runtime/base/multiversion.h"

static const char op[] = "sparse_adamw";

void hn_sparse_corrections(double beta1, double beta2, float *corrections)
{
    for (int t = 0; t < HN_SPARSE_AGES; t++) {
        corrections[2 * t] = (float)(1.0 - pow(beta1, (double)t));
        corrections[2 * t + 1] = (float)(1.0 - pow(beta2, (double)t));
    }
}

hn_status hn_sparse_adamw_check(const hn_sparse_adamw_args *a)
{
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "delta", a->delta));
    HN_TRY(hn_check_pointer(op, "grad", a->grad));
    HN_TRY(hn_check_pointer(op, "m", a->m));
    HN_TRY(hn_check_pointer(op, "v", a->v));
    HN_TRY(hn_check_pointer(op, "age", a->age));
    HN_TRY(hn_check_pointer(op, "spans", a->spans));
    HN_TRY(hn_check_pointer(op, "corrections", a->corrections));
    HN_TRY(hn_check_pointer(op, "step", a->step));
    if (a->values < 1 || a->values > INT32_MAX || a->blocks < 1 || a->blocks > INT32_MAX ||
        a->matrices < 1 || a->matrices > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " values in %" PRId64 " blocks of %" PRId64
                       " matrices, each must be 1 to 2^31 - 1",
                       op, a->values, a->blocks, a->matrices);
    if (a->block_values < 0 || a->block_values > INT32_MAX ||
        (a->block_values == 0) != (a->sizes != NULL))
        return HN_FAIL(HN_ERR_ARG,
                       "%s: either sizes, or block_values (%" PRId64 ") below 2^31 for all", op,
                       a->block_values);
    HN_TRY(hn_optim_check_adam_(op, a->beta1, a->beta2, a->eps));
    return hn_optim_check_rates_(op, a->weight_decay, a->lr_scale);
}

static int64_t size_of(const hn_sparse_adamw_args *a, int64_t matrix)
{
    return a->sizes ? a->sizes[matrix] : a->block_values;
}

/* *used: values up to the end of the last span; *used_blocks likewise. */
static hn_status check_spans(const hn_sparse_adamw_args *a, int64_t *used, int64_t *used_blocks)
{
    *used = *used_blocks = 0;
    for (int64_t i = 0; i < a->matrices; i++) {
        const hn_sparse_span s = a->spans[i];
        if (s.first_value != *used || s.first_block != *used_blocks || s.count < 0 ||
            size_of(a, i) < 1)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: span %" PRId64 " begins at value %" PRId64 " and block %" PRId32
                           ", has %" PRId32 " blocks; value %" PRId64 " and block %" PRId64
                           " come next",
                           op, i, s.first_value, s.first_block, s.count, *used, *used_blocks);
        *used += s.count * size_of(a, i);
        *used_blocks += s.count;
        if (*used > a->values || *used_blocks > a->blocks)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: span %" PRId64 " ends at value %" PRId64 " and block %" PRId64
                           " of a pool of %" PRId64 " and %" PRId64,
                           op, i, *used, *used_blocks, a->values, a->blocks);
    }
    return HN_OK;
}

static uint16_t next_age(uint16_t age) { return age < HN_SPARSE_AGES - 1 ? age + 1 : age; }

static void grow_older(const hn_sparse_adamw_args *a, int64_t used_blocks)
{
    for (int64_t b = 0; b < used_blocks; b++) a->age[b] = next_age(a->age[b]);
}

/* ---- twin ---- */

static void update_twin(const hn_sparse_adamw_args *a, int64_t i, uint16_t age)
{
    const hn_step_block *s = a->step;
    const double lr = (double)s->lr * (a->lr_scale != 0.0f ? (double)a->lr_scale : 1.0);
    const double c1 = (double)a->corrections[2 * age];
    const double c2 = sqrt((double)a->corrections[2 * age + 1]);
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2;
    const double g = (double)a->grad[i] * (double)s->grad_scale;
    const double m = (double)a->m[i] + (1.0 - beta1) * (g - (double)a->m[i]);
    const double v = beta2 * (double)a->v[i] + (1.0 - beta2) * g * g;
    const double delta = (double)a->delta[i] * (1.0 - lr * (double)a->weight_decay) -
                         lr / c1 * m / (sqrt(v) / c2 + (double)a->eps);
    a->m[i] = (float)m;
    a->v[i] = (float)v;
    a->delta[i] = (float)delta;
}

hn_status hn_sparse_adamw_cpu(const hn_sparse_adamw_args *a)
{
    int64_t used, used_blocks;
    HN_TRY(hn_sparse_adamw_check(a));
    HN_TRY(check_spans(a, &used, &used_blocks));
    if (hn_optim_updates_(a->step)) {
        grow_older(a, used_blocks);
        for (int64_t i = 0, at = 0; i < a->matrices; i++)
            for (int64_t b = 0; b < a->spans[i].count; b++)
                for (int64_t k = 0; k < size_of(a, i); k++)
                    update_twin(a, at++, a->age[a->spans[i].first_block + b]);
    }
    for (int64_t i = 0; i < used; i++) a->grad[i] = 0.0f;
    return HN_OK;
}

/* ---- fast ---- */

/* Values first .. last - 1 of the pool: blocks of one age that follow each other in one go. */
static void update_range(const hn_sparse_adamw_args *a, const hn_adamw_args *rates, int64_t first,
                         int64_t last)
{
    hn_adamw_factors_ f = {0};
    int64_t i = first, matrix = 0;
    int age = -1;
    while (i < last) {
        const hn_sparse_span s = a->spans[matrix];
        const int64_t size = size_of(a, matrix), behind = s.first_value + s.count * size;
        if (i >= behind) {
            matrix++;
            continue;
        }
        int64_t b = (i - s.first_value) / size, end = s.first_value + (b + 1) * size;
        const uint16_t *const ages = a->age + s.first_block;
        while (end < last && end < behind && ages[b + 1] == ages[b]) b++, end += size;
        if (end > last) end = last;
        if (ages[b] != age) {
            age = ages[b];
            f = hn_adamw_factors_of_(rates, a->step, a->corrections[2 * age],
                                     a->corrections[2 * age + 1]);
        }
        hn_adamw_values_(a->delta + i, a->grad + i, a->m + i, a->v + i, end - i, f);
        i = end;
    }
}

hn_status hn_sparse_adamw_fast(const hn_sparse_adamw_args *a)
{
    int64_t used, used_blocks;
    HN_TRY(hn_sparse_adamw_check(a));
    HN_TRY(check_spans(a, &used, &used_blocks));
    if (hn_optim_updates_(a->step)) {
        const hn_adamw_args rates = {.beta1 = a->beta1,
                                     .beta2 = a->beta2,
                                     .eps = a->eps,
                                     .weight_decay = a->weight_decay,
                                     .lr_scale = a->lr_scale};
        grow_older(a, used_blocks);
#pragma omp parallel for schedule(static) if (used > HN_OMP_MIN)
        for (int64_t i = 0; i < used; i += HN_OPTIM_BLOCK_)
            update_range(a, &rates, i, used - i < HN_OPTIM_BLOCK_ ? used : i + HN_OPTIM_BLOCK_);
    }
    memset(a->grad, 0, (size_t)used * sizeof(float));
    return HN_OK;
}
