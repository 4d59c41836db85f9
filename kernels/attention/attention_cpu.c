#include "kernels/attention/attention.h"

#include <inttypes.h>
#include <math.h>

#include "kernels/attention/attention_range.h"
#include "runtime/base/check.h"

static hn_status check_offsets(const char *name, const int32_t *offsets, int64_t sequences,
                               int64_t rows)
{
    for (int64_t s = 0; s <= sequences; s++) {
        const int32_t least = s > 0 ? offsets[s - 1] : 0;
        if (offsets[s] < least || offsets[s] > rows)
            return HN_FAIL(HN_ERR_ARG,
                           "attention: %s[%" PRId64 "] = %" PRId32 ", must be %" PRId32
                           " to %" PRId64,
                           name, s, offsets[s], least, rows);
    }
    return HN_OK;
}

hn_status hn_attention_check_offsets(const hn_attention_args *a)
{
    HN_TRY(check_offsets("q_offsets", a->q_offsets, a->sequences, a->q_rows));
    for (int64_t s = 0; s < a->sequences && a->longest > 0; s++)
        if (a->q_offsets[s + 1] - a->q_offsets[s] > a->longest)
            return HN_FAIL(HN_ERR_ARG,
                           "attention: sequence %" PRId64 " has %" PRId32
                           " rows, the longest was to have %" PRId64,
                           s, a->q_offsets[s + 1] - a->q_offsets[s], a->longest);
    if (a->kv_offsets == NULL)
        return check_offsets("q_offsets", a->q_offsets, a->sequences, a->kv_rows);
    return check_offsets("kv_offsets", a->kv_offsets, a->sequences, a->kv_rows);
}

hn_status hn_attention_check(const hn_attention_args *a, bool backward)
{
    static const char op[] = "attention";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_attention_check_heads_(op, a->heads, a->kv_heads, a->head_dim, a->value_dim));
    const int64_t value_dim = a->value_dim ? a->value_dim : a->head_dim;
    HN_TRY(hn_check_matrix(op, "q", a->q, a->q_rows, a->heads * a->head_dim, a->ld_q));
    HN_TRY(hn_check_matrix(op, "k", a->k, a->kv_rows, a->kv_heads * a->head_dim, a->ld_k));
    HN_TRY(hn_check_matrix(op, "v", a->v, a->kv_rows, a->kv_heads * value_dim, a->ld_v));
    HN_TRY(hn_check_matrix(op, "o", a->o, a->q_rows, a->heads * value_dim, a->ld_o));
    HN_TRY(hn_check_pointer(op, "lse", a->lse));
    HN_TRY(hn_check_pointer(op, "q_offsets", a->q_offsets));
    if (a->sequences < 1 || a->sequences >= INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "attention: %" PRId64 " sequences", a->sequences);
    HN_TRY(hn_attention_check_scores_(op, a->scale, a->softcap, a->window));
    if (!backward) return HN_OK;
    HN_TRY(hn_check_matrix(op, "dout", a->dout, a->q_rows, a->heads * value_dim, a->ld_dout));
    HN_TRY(hn_check_matrix(op, "dq", a->dq, a->q_rows, a->heads * a->head_dim, a->ld_dq));
    HN_TRY(hn_check_matrix(op, "dk", a->dk, a->kv_rows, a->kv_heads * a->head_dim, a->ld_dk));
    return hn_check_matrix(op, "dv", a->dv, a->kv_rows, a->kv_heads * value_dim, a->ld_dv);
}

static void clear(void *p, hn_dtype t, int64_t rows, int64_t cols, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) hn_set_f32(p, t, i * ld + j, 0.0f);
}

/* sum_c x[x0 + c] y[y0 + c] */
static double dot(const void *x, int64_t x0, const void *y, int64_t y0, int64_t n, hn_dtype t)
{
    double sum = 0.0;
    for (int64_t c = 0; c < n; c++)
        sum += (double)hn_get_f32(x, t, x0 + c) * (double)hn_get_f32(y, t, y0 + c);
    return sum;
}

/* s[i,j] of head h. */
static double score(const hn_attention_args *a, int64_t i, int64_t h, int64_t j)
{
    const int64_t d = a->head_dim, g = h / (a->heads / a->kv_heads);
    const double t =
        (double)a->scale * dot(a->q, i * a->ld_q + h * d, a->k, j * a->ld_k + g * d, d, a->dtype);
    const double cap = (double)a->softcap;
    return cap > 0.0 ? cap * tanh(t / cap) : t;
}

/* sum[c] += w x[x0 + c]; nothing when n <= 0 */
static void add_row(double *sum, double w, const void *x, hn_dtype t, int64_t x0, int64_t n)
{
    for (int64_t c = 0; c < n; c++) sum[c] += w * (double)hn_get_f32(x, t, x0 + c);
}

static void set_row(const double *sum, void *y, hn_dtype t, int64_t y0, int64_t n)
{
    for (int64_t c = 0; c < n; c++) hn_set_f32(y, t, y0 + c, (float)sum[c]);
}

enum { COLS = 64 }; /* columns summed in one walk over the rows */

/* Query row i of head h against the keys [first, last): walks over the keys for the maximum,
 * the sum and the weighted values, so that no row of scores is kept. */
static void forward_row(const hn_attention_args *a, int64_t i, int64_t h, int64_t first,
                        int64_t last)
{
    const int64_t d = a->head_dim, dv = a->value_dim ? a->value_dim : d;
    const int64_t g = h / (a->heads / a->kv_heads);
    double most = -INFINITY, sum = 0.0;
    for (int64_t j = first; j < last; j++) {
        const double s = score(a, i, h, j);
        if (!(s <= most)) most = s; /* a NaN stays */
    }
    for (int64_t j = first; j < last; j++) sum += exp(score(a, i, h, j) - most);
    const double lse = last > first ? most + log(sum) : 0.0;
    a->lse[i * a->heads + h] = (float)lse;
    for (int64_t c0 = 0; c0 < dv; c0 += COLS) {
        const int64_t n = dv - c0 < COLS ? dv - c0 : COLS;
        double o[COLS] = {0};
        for (int64_t j = first; j < last; j++) {
            const double p = exp(score(a, i, h, j) - lse);
            add_row(o, p, a->v, a->dtype, j * a->ld_v + g * dv + c0, n);
        }
        set_row(o, a->o, a->dtype, i * a->ld_o + h * dv + c0, n);
    }
}

hn_status hn_attention_fwd_cpu(const hn_attention_args *a)
{
    HN_TRY(hn_attention_check(a, false));
    HN_TRY(hn_attention_check_offsets(a));
    clear(a->o, a->dtype, a->q_rows, a->heads * (a->value_dim ? a->value_dim : a->head_dim),
          a->ld_o);
    for (int64_t i = 0; i < a->q_rows * a->heads; i++) a->lse[i] = 0.0f;
    for (int64_t s = 0; s < a->sequences; s++) {
        const hn_attention_span_ span = hn_attention_span_of_(a, s);
        for (int64_t i = 0; i < span.n_q; i++)
            for (int64_t h = 0; h < a->heads; h++)
                forward_row(a, span.q_start + i, h, span.kv_start + hn_attention_first_(&span, i),
                            span.kv_start + hn_attention_last_(&span, i));
    }
    return HN_OK;
}

/* p and scale * dt of one pair (query row i of head h, key row j). */
static void backward_pair(const hn_attention_args *a, int64_t i, int64_t h, int64_t j, double *p,
                          double *dt)
{
    const int64_t dv = a->value_dim ? a->value_dim : a->head_dim;
    const int64_t g = h / (a->heads / a->kv_heads), do0 = i * a->ld_dout + h * dv;
    const double s = score(a, i, h, j), cap = (double)a->softcap;
    *p = exp(s - (double)a->lse[i * a->heads + h]);
    const double delta = dot(a->dout, do0, a->v, j * a->ld_v + g * dv, dv, a->dtype) -
                         dot(a->dout, do0, a->o, i * a->ld_o + h * dv, dv, a->dtype);
    *dt = (double)a->scale * *p * delta * (cap > 0.0 ? 1.0 - s / cap * (s / cap) : 1.0);
}

static void backward_query(const hn_attention_args *a, int64_t i, int64_t h, int64_t first,
                           int64_t last)
{
    const int64_t d = a->head_dim, g = h / (a->heads / a->kv_heads);
    for (int64_t c0 = 0; c0 < d; c0 += COLS) {
        const int64_t n = d - c0 < COLS ? d - c0 : COLS;
        double dq[COLS] = {0}, p, dt;
        for (int64_t j = first; j < last; j++) {
            backward_pair(a, i, h, j, &p, &dt);
            add_row(dq, dt, a->k, a->dtype, j * a->ld_k + g * d + c0, n);
        }
        set_row(dq, a->dq, a->dtype, i * a->ld_dq + h * d + c0, n);
    }
}

/* Columns c0 .. c0 + COLS of key j's row in dk and dv: all queries of all heads of the group. */
static void backward_key(const hn_attention_args *a, const hn_attention_span_ *span, int64_t j,
                         int64_t g, int64_t c0)
{
    const int64_t d = a->head_dim, dv = a->value_dim ? a->value_dim : d;
    const int64_t n = d - c0 < COLS ? d - c0 : COLS, nv = dv - c0 < COLS ? dv - c0 : COLS;
    const int64_t group = a->heads / a->kv_heads, row = span->kv_start + j;
    double dk[COLS] = {0}, dvalue[COLS] = {0}, p, dt;
    for (int64_t h = g * group; h < (g + 1) * group; h++)
        for (int64_t i = 0; i < span->n_q; i++) {
            if (j < hn_attention_first_(span, i) || j >= hn_attention_last_(span, i)) continue;
            const int64_t qi = span->q_start + i;
            backward_pair(a, qi, h, row, &p, &dt);
            add_row(dk, dt, a->q, a->dtype, qi * a->ld_q + h * d + c0, n);
            add_row(dvalue, p, a->dout, a->dtype, qi * a->ld_dout + h * dv + c0, nv);
        }
    set_row(dk, a->dk, a->dtype, row * a->ld_dk + g * d + c0, n);
    set_row(dvalue, a->dv, a->dtype, row * a->ld_dv + g * dv + c0, nv);
}

hn_status hn_attention_bwd_cpu(const hn_attention_args *a)
{
    HN_TRY(hn_attention_check(a, true));
    HN_TRY(hn_attention_check_offsets(a));
    const int64_t d = a->head_dim, dv = a->value_dim ? a->value_dim : d;
    clear(a->dq, a->dtype, a->q_rows, a->heads * d, a->ld_dq);
    clear(a->dk, a->dtype, a->kv_rows, a->kv_heads * d, a->ld_dk);
    clear(a->dv, a->dtype, a->kv_rows, a->kv_heads * dv, a->ld_dv);
    for (int64_t s = 0; s < a->sequences; s++) {
        const hn_attention_span_ span = hn_attention_span_of_(a, s);
        for (int64_t i = 0; i < span.n_q; i++)
            for (int64_t h = 0; h < a->heads; h++)
                backward_query(a, span.q_start + i, h,
                               span.kv_start + hn_attention_first_(&span, i),
                               span.kv_start + hn_attention_last_(&span, i));
        for (int64_t j = 0; j < span.n_kv; j++)
            for (int64_t g = 0; g < a->kv_heads; g++)
                for (int64_t c0 = 0; c0 < (d > dv ? d : dv); c0 += COLS)
                    backward_key(a, &span, j, g, c0);
    }
    return HN_OK;
}
