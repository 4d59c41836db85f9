#include "kernels/attention/attention_decode.h"

#include <inttypes.h>
#include <math.h>

#include "kernels/attention/attention_range.h"
#include "kernels/attention/kv_append.h"
#include "runtime/base/check.h"

hn_status hn_attention_decode_check(const hn_attention_decode_args *a)
{
    static const char op[] = "attention_decode";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_pointer(op, "positions", a->positions));
    HN_TRY(hn_attention_check_heads_(op, a->heads, a->kv_heads, a->head_dim, a->value_dim));
    if (a->batch < 1 || a->tokens < 1 || a->capacity < a->tokens || a->batch > INT32_MAX ||
        a->capacity > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: batch %" PRId64 ", %" PRId64 " new tokens, capacity %" PRId64, op,
                       a->batch, a->tokens, a->capacity);
    const int64_t dv = a->value_dim ? a->value_dim : a->head_dim;
    const int64_t rows = a->batch * a->tokens, keys = a->batch * a->capacity;
    HN_TRY(hn_check_matrix(op, "q", a->q, rows, a->heads * a->head_dim, a->ld_q));
    HN_TRY(hn_check_matrix(op, "k_cache", a->k_cache, keys, a->kv_heads * a->head_dim, a->ld_k));
    HN_TRY(hn_check_matrix(op, "v_cache", a->v_cache, keys, a->kv_heads * dv, a->ld_v));
    HN_TRY(hn_check_matrix(op, "o", a->o, rows, a->heads * dv, a->ld_o));
    return hn_attention_check_scores_(op, a->scale, a->softcap, a->window);
}

static double score(const hn_attention_decode_args *a, int64_t row, int64_t h, int64_t key)
{
    const int64_t d = a->head_dim, g = h / (a->heads / a->kv_heads);
    double t = 0.0;
    for (int64_t c = 0; c < d; c++)
        t += (double)hn_get_f32(a->q, a->dtype, row * a->ld_q + h * d + c) *
             (double)hn_get_f32(a->k_cache, a->dtype, key * a->ld_k + g * d + c);
    t *= (double)a->scale;
    const double cap = (double)a->softcap;
    return cap > 0.0 ? cap * tanh(t / cap) : t;
}

/* One query row and head against cache rows [first, last). */
static void decode_row(const hn_attention_decode_args *a, int64_t row, int64_t h, int64_t first,
                       int64_t last)
{
    const int64_t dv = a->value_dim ? a->value_dim : a->head_dim;
    const int64_t g = h / (a->heads / a->kv_heads);
    double most = -INFINITY, sum = 0.0;
    for (int64_t j = first; j < last; j++) {
        const double s = score(a, row, h, j);
        if (!(s <= most)) most = s;
    }
    for (int64_t j = first; j < last; j++) sum += exp(score(a, row, h, j) - most);
    for (int64_t c = 0; c < dv; c++) {
        double o = 0.0;
        for (int64_t j = first; j < last; j++)
            o += exp(score(a, row, h, j) - most) / sum *
                 (double)hn_get_f32(a->v_cache, a->dtype, j * a->ld_v + g * dv + c);
        hn_set_f32(a->o, a->dtype, row * a->ld_o + h * dv + c, (float)o);
    }
}

hn_status hn_attention_decode_cpu(const hn_attention_decode_args *a)
{
    HN_TRY(hn_attention_decode_check(a));
    HN_TRY(
        hn_kv_check_positions("attention_decode", a->positions, a->batch, a->tokens, a->capacity));
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t t = 0; t < a->tokens; t++) {
            const int64_t last = a->positions[b] + t + 1;
            const int64_t first = a->window > 0 && last > a->window ? last - a->window : 0;
            for (int64_t h = 0; h < a->heads; h++)
                decode_row(a, b * a->tokens + t, h, b * a->capacity + first,
                           b * a->capacity + last);
        }
    return HN_OK;
}
