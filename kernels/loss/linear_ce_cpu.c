#include "kernels/loss/linear_ce.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/check.h"

hn_status hn_linear_ce_check(const hn_linear_ce_args *a)
{
    static const char op[] = "linear_ce";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(op, "x", a->x, a->rows, a->dim, a->ld_x));
    HN_TRY(hn_check_matrix(op, "w", a->w, a->vocab, a->dim, a->ld_w));
    HN_TRY(hn_check_pointer(op, "labels", a->labels));
    if (a->dx) HN_TRY(hn_check_matrix(op, "dx", a->dx, a->rows, a->dim, a->ld_dx));
    if (a->dw) HN_TRY(hn_check_matrix(op, "dw", a->dw, a->vocab, a->dim, a->ld_dw));
    if (a->chunk_rows < 0)
        return HN_FAIL(HN_ERR_ARG, "%s: chunk_rows %" PRId64 " is negative", op, a->chunk_rows);
    if (!(a->softcap >= 0.0f) || !isfinite(a->softcap))
        return HN_FAIL(HN_ERR_ARG, "%s: softcap %g must be 0 or positive", op, (double)a->softcap);
    return HN_OK;
}

hn_status hn_linear_ce_check_labels(const hn_linear_ce_args *a)
{
    for (int64_t i = 0; i < a->rows; i++) {
        const int32_t label = a->labels[i];
        if (label != HN_LABEL_IGNORED && (label < 0 || label >= a->vocab))
            return HN_FAIL(HN_ERR_ARG,
                           "linear_ce: label %" PRId32 " of row %" PRId64
                           " is neither 0 to %" PRId64 " nor %d",
                           label, i, a->vocab - 1, HN_LABEL_IGNORED);
    }
    return HN_OK;
}

/* z[row, n] */
static double logit(const hn_linear_ce_args *a, int64_t row, int64_t n)
{
    double t = 0.0;
    for (int64_t k = 0; k < a->dim; k++)
        t += (double)hn_get_f32(a->x, a->dtype, row * a->ld_x + k) *
             (double)hn_get_f32(a->w, a->dtype, n * a->ld_w + k);
    const double cap = (double)a->softcap;
    return cap > 0.0 ? cap * tanh(t / cap) : t;
}

static double log_sum_exp(const hn_linear_ce_args *a, int64_t row)
{
    double most = -INFINITY, sum = 0.0;
    for (int64_t n = 0; n < a->vocab; n++) {
        const double z = logit(a, row, n);
        if (!(z <= most)) most = z; /* a NaN stays */
    }
    for (int64_t n = 0; n < a->vocab; n++) sum += exp(logit(a, row, n) - most);
    return most + log(sum);
}

/* dt[row, n] */
static double dlogit(const hn_linear_ce_args *a, int64_t row, int64_t n, double lse)
{
    const double z = logit(a, row, n), cap = (double)a->softcap;
    const double dz = exp(z - lse) - (n == a->labels[row] ? 1.0 : 0.0);
    return cap > 0.0 ? dz * (1.0 - z / cap * (z / cap)) : dz;
}

enum { COLS = 64 }; /* columns of dx summed in one walk over the vocabulary */

static void add_dw(const hn_linear_ce_args *a, int64_t row, double lse)
{
    for (int64_t n = 0; n < a->vocab; n++) {
        const double dt = dlogit(a, row, n, lse);
        for (int64_t k = 0; k < a->dim; k++)
            a->dw[n * a->ld_dw + k] +=
                (float)(dt * (double)hn_get_f32(a->x, a->dtype, row * a->ld_x + k));
    }
}

static void set_dx(const hn_linear_ce_args *a, int64_t row, double lse)
{
    for (int64_t k0 = 0; k0 < a->dim; k0 += COLS) {
        const int64_t cols = a->dim - k0 < COLS ? a->dim - k0 : COLS;
        double sum[COLS] = {0};
        for (int64_t n = 0; n < a->vocab; n++) {
            const double dt = dlogit(a, row, n, lse);
            for (int64_t k = 0; k < cols; k++)
                sum[k] += dt * (double)hn_get_f32(a->w, a->dtype, n * a->ld_w + k0 + k);
        }
        for (int64_t k = 0; k < cols; k++)
            hn_set_f32(a->dx, a->dtype, row * a->ld_dx + k0 + k, (float)sum[k]);
    }
}

hn_status hn_linear_ce_cpu(const hn_linear_ce_args *a)
{
    HN_TRY(hn_linear_ce_check(a));
    HN_TRY(hn_linear_ce_check_labels(a));
    double loss_sum = 0.0;
    int64_t trained = 0;
    for (int64_t i = 0; i < a->rows; i++) {
        double loss = 0.0;
        if (a->labels[i] != HN_LABEL_IGNORED) {
            const double lse = log_sum_exp(a, i);
            loss = lse - logit(a, i, a->labels[i]);
            if (a->dw) add_dw(a, i, lse);
            if (a->dx) set_dx(a, i, lse);
            trained++;
        } else if (a->dx) {
            for (int64_t k = 0; k < a->dim; k++) hn_set_f32(a->dx, a->dtype, i * a->ld_dx + k, 0);
        }
        loss_sum += loss;
        if (a->row_loss) a->row_loss[i] = (float)loss;
    }
    if (a->loss_sum) *a->loss_sum = (float)((double)*a->loss_sum + loss_sum);
    if (a->count) *a->count += (float)trained;
    return HN_OK;
}
