/* attention_range.h - which keys a query sees, and checks shared by the attention operations.
 * For the sources of this folder only. */
#ifndef HN_ATTENTION_RANGE_H
#define HN_ATTENTION_RANGE_H
#include <inttypes.h>
#include <math.h>

#include "kernels/attention/attention.h"

/* One sequence: rows of its queries and keys. */
typedef struct {
    int64_t q_start, n_q, kv_start, n_kv;
    int64_t window;
    bool causal;
} hn_attention_span_;

static inline hn_attention_span_ hn_attention_span_of_(const hn_attention_args *a, int64_t s)
{
    const int32_t *q = a->q_offsets, *kv = a->kv_offsets ? a->kv_offsets : q;
    return (hn_attention_span_){.q_start = q[s],
                                .n_q = q[s + 1] - q[s],
                                .kv_start = kv[s],
                                .n_kv = kv[s + 1] - kv[s],
                                .window = a->window,
                                .causal = a->causal};
}

/* Query i sees the keys first <= j < last of its sequence; none when last <= first. */
static inline int64_t hn_attention_first_(const hn_attention_span_ *s, int64_t i)
{
    const int64_t first = s->window > 0 ? i + s->n_kv - s->n_q - s->window + 1 : 0;
    return first > 0 ? first : 0;
}

static inline int64_t hn_attention_last_(const hn_attention_span_ *s, int64_t i)
{
    const int64_t last = s->causal ? i + s->n_kv - s->n_q + 1 : s->n_kv;
    return last > 0 ? last : 0;
}

static inline hn_status hn_attention_check_heads_(const char *op, int64_t heads, int64_t kv_heads,
                                                  int64_t head_dim, int64_t value_dim)
{
    if (heads < 1 || kv_heads < 1 || heads > INT32_MAX || heads % kv_heads != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " heads must be a positive multiple of %" PRId64 " kv heads",
                       op, heads, kv_heads);
    if (head_dim < 1 || head_dim > INT32_MAX || value_dim < 0 || value_dim > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "%s: head_dim %" PRId64 ", value_dim %" PRId64, op, head_dim,
                       value_dim);
    return HN_OK;
}

static inline hn_status hn_attention_check_scores_(const char *op, float scale, float softcap,
                                                   int64_t window)
{
    if (!isfinite(scale)) return HN_FAIL(HN_ERR_ARG, "%s: scale %g", op, (double)scale);
    if (!(softcap >= 0.0f) || !isfinite(softcap))
        return HN_FAIL(HN_ERR_ARG, "%s: softcap %g must be 0 or positive", op, (double)softcap);
    if (window < 0) return HN_FAIL(HN_ERR_ARG, "%s: window %" PRId64 " is negative", op, window);
    return HN_OK;
}

#endif
