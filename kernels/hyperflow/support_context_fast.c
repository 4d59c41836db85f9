/* The first row of a class walks the class once and writes the mean to all of its rows. */
#include <math.h>
#include <stdbool.h>

#include "kernels/hyperflow/support_context.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

HN_MULTIVERSION static void add_span(const float *x, float *sum, int64_t n)
{
#pragma omp simd
    for (int64_t c = 0; c < n; c++) sum[c] += x[c];
}

/* The first of `end` rows from j on with that label. */
static int64_t next_of(const hn_support_context_args *a, int64_t j, int64_t end, int32_t label)
{
    while (j < end && a->labels[j] != label) j++;
    return j;
}

/* The class whose first row is j; `end` is that of its episode. */
static void run_class(const hn_support_context_args *a, int64_t j, int64_t end)
{
    const int32_t label = a->labels[j];
    int64_t count = 0;
    for (int64_t i = j; i < end; i = next_of(a, i + 1, end, label)) count++;
    for (int64_t c = 0; c < a->features; c += HN_BLOCK) {
        const int64_t n = hn_block_len(c, a->features);
        float sum[HN_BLOCK] = {0}, b[HN_BLOCK];
        for (int64_t i = j; i < end; i = next_of(a, i + 1, end, label))
            add_span(hn_load_f32(a->f, a->f_dtype, i * a->ld_f + c, n, b), sum, n);
        for (int64_t k = 0; k < n; k++) sum[k] /= (float)count;
        for (int64_t i = j; i < end; i = next_of(a, i + 1, end, label)) {
            const float *const own = hn_load_f32(a->f, a->f_dtype, i * a->ld_f + c, n, b);
            hn_from_f32(own, n, a->u, a->u_dtype, i * a->ld_u + c);
            hn_from_f32(sum, n, a->u, a->u_dtype, i * a->ld_u + a->features + c);
        }
    }
    const float size = logf((float)count);
    for (int64_t i = j; i < end; i = next_of(a, i + 1, end, label))
        hn_set_f32(a->u, a->u_dtype, i * a->ld_u + 2 * a->features, size);
}

static void run_row(const hn_support_context_args *a, int64_t j)
{
    const int64_t cols = hn_support_context_cols(a->features), group = a->rows / a->episodes;
    const int64_t first = j / group * group;
    const bool padding = a->labels[j] == HN_LABEL_IGNORED;
    for (int64_t c = padding ? 0 : 2 * a->features + 1; c < cols; c++)
        hn_set_f32(a->u, a->u_dtype, j * a->ld_u + c, 0.0f);
    if (!padding && next_of(a, first, j, a->labels[j]) == j) run_class(a, j, first + group);
}

hn_status hn_support_context_fast(const hn_support_context_args *a)
{
    HN_TRY(hn_support_context_check(a));
#pragma omp parallel for schedule(static) if (a->rows * a->features > HN_OMP_MIN)
    for (int64_t j = 0; j < a->rows; j++) run_row(a, j);
    return HN_OK;
}
