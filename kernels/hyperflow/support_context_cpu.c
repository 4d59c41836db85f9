#include "kernels/hyperflow/support_context.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/check.h"

hn_status hn_support_context_check(const hn_support_context_args *a)
{
    static const char op[] = "support_context";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "f_dtype", a->f_dtype));
    HN_TRY(hn_check_float(op, "u_dtype", a->u_dtype));
    HN_TRY(hn_check_matrix(op, "f", a->f, a->rows, a->features, a->ld_f));
    HN_TRY(hn_check_matrix(op, "u", a->u, a->rows, hn_support_context_cols(a->features), a->ld_u));
    HN_TRY(hn_check_pointer(op, "labels", a->labels));
    if (a->episodes < 1 || a->rows % a->episodes != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " rows are no %" PRId64 " equal episodes", op,
                       a->rows, a->episodes);
    if (a->rows / a->episodes > HN_SUPPORT_ROWS)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %" PRId64 " rows of an episode, at most %d", op,
                       a->rows / a->episodes, HN_SUPPORT_ROWS);
    return HN_OK;
}

/* Row j of the episode whose rows begin at `first`. */
static void set_row(const hn_support_context_args *a, int64_t first, int64_t j)
{
    const int64_t cols = hn_support_context_cols(a->features), end = first + a->rows / a->episodes;
    const int32_t label = a->labels[j];
    for (int64_t c = 0; c < cols; c++) hn_set_f32(a->u, a->u_dtype, j * a->ld_u + c, 0.0f);
    if (label == HN_LABEL_IGNORED) return;
    int64_t n = 0;
    for (int64_t i = first; i < end; i++) n += a->labels[i] == label;
    for (int64_t c = 0; c < a->features; c++) {
        double sum = 0.0;
        for (int64_t i = first; i < end; i++)
            if (a->labels[i] == label) sum += (double)hn_get_f32(a->f, a->f_dtype, i * a->ld_f + c);
        hn_set_f32(a->u, a->u_dtype, j * a->ld_u + c,
                   hn_get_f32(a->f, a->f_dtype, j * a->ld_f + c));
        hn_set_f32(a->u, a->u_dtype, j * a->ld_u + a->features + c, (float)(sum / (double)n));
    }
    hn_set_f32(a->u, a->u_dtype, j * a->ld_u + 2 * a->features, (float)log((double)n));
}

hn_status hn_support_context_cpu(const hn_support_context_args *a)
{
    HN_TRY(hn_support_context_check(a));
    const int64_t group = a->rows / a->episodes;
    for (int64_t j = 0; j < a->rows; j++) set_row(a, j / group * group, j);
    return HN_OK;
}
