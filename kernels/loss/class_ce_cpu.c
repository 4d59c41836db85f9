#include "kernels/loss/class_ce.h"

#include <math.h>
#include <stdbool.h>

#include "kernels/loss/class_ce_sums.h"
#include "kernels/loss/class_rows.h"
#include "runtime/base/check.h"

hn_status hn_class_ce_check(const hn_class_ce_args *a)
{
    static const char op[] = "class_ce";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_matrix(op, "logits", a->logits, a->rows, a->classes, a->ld_logits));
    HN_TRY(hn_check_pointer(op, "labels", a->labels));
    if (a->dlogits)
        HN_TRY(hn_check_matrix(op, "dlogits", a->dlogits, a->rows, a->classes, a->ld_dlogits));
    HN_TRY(hn_class_check_range_(op, "logits", a->classes, a->first_class, a->n_classes));
    if (a->replicas < 0 || a->rows % hn_replica_count(a->replicas) != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " rows of %" PRId64 " replicas", op, a->rows,
                       a->replicas);
    if (a->count) HN_TRY(hn_check_stride(op, "count", a->replicas, a->count_stride, 1));
    if (!(a->smoothing >= 0.0f && a->smoothing <= 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: smoothing %g is not in [0, 1]", op, (double)a->smoothing);
    return HN_OK;
}

hn_status hn_class_ce_check_labels(const hn_class_ce_args *a)
{
    const int64_t end = a->first_class + hn_class_count_(a->classes, a->first_class, a->n_classes);
    for (int64_t i = 0; i < a->rows; i++) {
        const int32_t label = a->labels[i];
        if (label != HN_LABEL_IGNORED && (label < a->first_class || label >= end))
            return HN_FAIL(HN_ERR_ARG,
                           "class_ce: label %" PRId32 " of row %" PRId64 " is neither %" PRId64
                           " to %" PRId64 " nor %d",
                           label, i, a->first_class, end - 1, HN_LABEL_IGNORED);
    }
    return HN_OK;
}

/* The range of one row. */
typedef struct {
    int64_t n, best;       /* columns; where the largest is */
    double most, lse, sum; /* largest, log sum exp, sum of the logits */
} row_facts;

static double logit(const hn_class_ce_args *a, int64_t row, int64_t c)
{
    return (double)hn_get_f32(a->logits, a->dtype, row * a->ld_logits + a->first_class + c);
}

static row_facts facts_of(const hn_class_ce_args *a, int64_t row)
{
    row_facts f = {.n = hn_class_count_(a->classes, a->first_class, a->n_classes)};
    f.most = logit(a, row, 0);
    for (int64_t c = 0; c < f.n; c++) {
        const double z = logit(a, row, c);
        f.sum += z;
        if (z > f.most || (isnan(z) && !isnan(f.most))) {
            f.most = z;
            f.best = c;
        }
    }
    double sum = 0.0;
    for (int64_t c = 0; c < f.n; c++) sum += exp(logit(a, row, c) - f.most);
    f.lse = f.most + log(sum);
    return f;
}

/* dlogits of a row; label < 0: it is ignored. */
static void set_gradient(const hn_class_ce_args *a, int64_t row, const row_facts *f, int64_t label)
{
    const double eps = (double)a->smoothing;
    for (int64_t k = 0; k < a->classes; k++) {
        const int64_t c = k - a->first_class;
        double d = 0.0;
        if (label >= 0 && c >= 0 && c < f->n)
            d = exp(logit(a, row, c) - f->lse) - (c == label ? 1.0 - eps : 0.0) -
                eps / (double)f->n;
        hn_set_f32(a->dlogits, a->dtype, row * a->ld_dlogits + k, (float)d);
    }
}

hn_status hn_class_ce_cpu(const hn_class_ce_args *a)
{
    HN_TRY(hn_class_ce_check(a));
    HN_TRY(hn_class_ce_check_labels(a));
    const double eps = (double)a->smoothing;
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    hn_class_sums sums = {0};
    for (int64_t i = 0; i < a->rows; i++) {
        const bool counts = a->labels[i] != HN_LABEL_IGNORED;
        const int64_t label = counts ? a->labels[i] - a->first_class : -1;
        const row_facts f = facts_of(a, i);
        double loss = 0.0;
        if (counts) {
            loss = f.lse - (1.0 - eps) * logit(a, i, label);
            if (eps > 0.0) loss -= eps * f.sum / (double)f.n;
            sums.trained++;
            sums.hits += f.best == label;
        }
        if (a->dlogits) set_gradient(a, i, &f, label);
        if (a->row_loss) a->row_loss[i] = (float)loss;
        if (a->prediction) a->prediction[i] = (int32_t)(a->first_class + f.best);
        sums.loss += loss;
        if ((i + 1) % group == 0) hn_class_add_sums_(a, i / group, &sums);
    }
    return HN_OK;
}
