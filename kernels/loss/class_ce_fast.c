/* Row by row in fp32, three walks over blocks of the row; what rows give is summed in order. */
#include <math.h>
#include <stdbool.h>

#include "kernels/loss/class_ce.h"
#include "kernels/loss/class_ce_sums.h"
#include "kernels/loss/class_rows.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

/* The range of one row so far: largest logit and its place, sum of the logits, of exp(z - most). */
typedef struct {
    float most;
    int64_t best;
    double sum, powers;
} row_facts;

HN_MULTIVERSION static void look(const float *restrict z, int64_t at, int64_t n, row_facts *f)
{
    float sum = 0.0f;
    for (int64_t c = 0; c < n; c++) {
        if (z[c] > f->most || (isnan(z[c]) && !isnan(f->most))) {
            f->most = z[c];
            f->best = at + c;
        }
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) sum += z[c];
    f->sum += (double)sum;
}

HN_MULTIVERSION static float powers(const float *restrict z, int64_t n, float most)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) sum += hn_expf(z[c] - most);
    return sum;
}

HN_MULTIVERSION static void gradient(const float *restrict z, int64_t n, float most, float scale,
                                     float spread, float *restrict d)
{
    for (int64_t c = 0; c < n; c++) d[c] = hn_expf(z[c] - most) * scale - spread;
}

/* Columns k .. k + n of a row of dlogits become 0. */
static void clear(const hn_class_ce_args *a, int64_t row, int64_t k, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        hn_set_f32(a->dlogits, a->dtype, row * a->ld_dlogits + k + c, 0);
}

static void set_gradient(const hn_class_ce_args *a, int64_t row, int64_t n, const row_facts *f,
                         int64_t label)
{
    const float scale = (float)(1.0 / f->powers), spread = a->smoothing / (float)n;
    clear(a, row, 0, a->first_class);
    clear(a, row, a->first_class + n, a->classes - a->first_class - n);
    for (int64_t c = 0; c < n; c += HN_BLOCK) {
        float in[HN_BLOCK], out[HN_BLOCK];
        const int64_t len = hn_block_len(c, n);
        const int64_t from = row * a->ld_logits + a->first_class + c;
        const int64_t to = row * a->ld_dlogits + a->first_class + c;
        const float *const z = hn_load_f32(a->logits, a->dtype, from, len, in);
        float *const d = hn_target_f32(a->dlogits, a->dtype, to, out);
        gradient(z, len, f->most, scale, spread, d);
        if (label >= c && label < c + len) d[label - c] -= 1.0f - a->smoothing;
        hn_store_f32(d, len, a->dlogits, a->dtype, to);
    }
}

static row_facts facts_of(const hn_class_ce_args *a, int64_t row, int64_t n)
{
    const int64_t from = row * a->ld_logits + a->first_class;
    float in[HN_BLOCK];
    row_facts f = {.most = hn_get_f32(a->logits, a->dtype, from)};
    for (int64_t c = 0; c < n; c += HN_BLOCK) {
        const int64_t len = hn_block_len(c, n);
        look(hn_load_f32(a->logits, a->dtype, from + c, len, in), c, len, &f);
    }
    for (int64_t c = 0; c < n; c += HN_BLOCK) {
        const int64_t len = hn_block_len(c, n);
        f.powers +=
            (double)powers(hn_load_f32(a->logits, a->dtype, from + c, len, in), len, f.most);
    }
    return f;
}

static void run_row(const hn_class_ce_args *a, const hn_class_rows *w, int64_t row)
{
    const int64_t n = hn_class_count_(a->classes, a->first_class, a->n_classes);
    const bool counts = a->labels[row] != HN_LABEL_IGNORED;
    double loss = 0.0;
    w->say[row] = 0;
    if (!counts && a->dlogits) clear(a, row, 0, a->classes);
    if (counts || a->prediction) {
        const row_facts f = facts_of(a, row, n);
        if (counts) {
            const int64_t label = a->labels[row] - a->first_class;
            const double z =
                (double)hn_get_f32(a->logits, a->dtype, row * a->ld_logits + a->labels[row]);
            const double eps = (double)a->smoothing;
            loss = (double)f.most + log(f.powers) - (1.0 - eps) * z;
            if (eps > 0.0) loss -= eps * f.sum / (double)n;
            w->say[row] = HN_ROW_TRAINED + (f.best == label ? HN_ROW_HIT : 0);
            if (a->dlogits) set_gradient(a, row, n, &f, label);
        }
        if (a->prediction) a->prediction[row] = (int32_t)(a->first_class + f.best);
    }
    w->loss[row] = loss;
    if (a->row_loss) a->row_loss[row] = (float)loss;
}

size_t hn_class_ce_fast_scratch(const hn_class_ce_args *a)
{
    return hn_class_rows_of_(a->rows, NULL).n_bytes;
}

hn_status hn_class_ce_fast(const hn_class_ce_args *a, void *scratch)
{
    HN_TRY(hn_class_ce_check(a));
    HN_TRY(hn_class_ce_check_labels(a));
    HN_TRY(hn_check_pointer("class_ce", "scratch", scratch));
    const hn_class_rows w = hn_class_rows_of_(a->rows, scratch);
#pragma omp parallel for schedule(static) if (a->rows * a->classes > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) run_row(a, &w, i);
    const int64_t group = a->rows / hn_replica_count(a->replicas);
    hn_class_sums sums = {0};
    for (int64_t i = 0; i < a->rows; i++) {
        sums.loss += w.loss[i];
        sums.trained += w.say[i] != 0;
        sums.hits += (w.say[i] & HN_ROW_HIT) != 0;
        if ((i + 1) % group == 0) hn_class_add_sums_(a, i / group, &sums);
    }
    return HN_OK;
}
