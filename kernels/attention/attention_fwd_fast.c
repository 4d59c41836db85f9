/* A work item is a block of packed query rows of one kv head; it owns its rows of o and lse.
 * Inside, keys go by in tiles that start at multiples of HN_TILE_ from the start of their
 * sequence; every row keeps its running maximum, sum and weighted values (online softmax).
 * Queries of one head go through a tile four at a time, cut to the keys that they see. A row's
 * arithmetic depends only on its place in its sequence: not on threads, blocks or neighbours. */
#include <math.h>
#include <omp.h>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_range.h"
#include "kernels/attention/attention_tile.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

enum { Q_BLOCK = 64, Q_STEP = 4 };
typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));

/* One thread's memory. */
typedef struct {
    float *keys;   /* [head_dim, HN_TILE_] transposed */
    float *values; /* [HN_TILE_, round8(value_dim)] */
    float *q;      /* [group, Q_BLOCK, round8(head_dim)] times scale */
    float *scores; /* [Q_STEP, HN_TILE_] */
    float *o;      /* [group, Q_BLOCK, round8(value_dim)] not yet divided by sum */
    float *most;   /* [group, Q_BLOCK] */
    float *sum;    /* [group, Q_BLOCK] */
} work;

/* One work item, cut to one sequence. */
typedef struct {
    hn_attention_span_ span;
    int64_t i0, n; /* queries i0 .. i0 + n of the sequence */
    int64_t g;     /* kv head */
    int64_t group, d, dv;
} item;

static work work_of(const hn_attention_args *a, hn_scratch_ *s)
{
    const int64_t group = a->heads / a->kv_heads, d = a->head_dim;
    const int64_t ld_o = hn_round8_(a->value_dim ? a->value_dim : d);
    return (work){.keys = hn_scratch_floats_(s, d * HN_TILE_),
                  .values = hn_scratch_floats_(s, HN_TILE_ * ld_o),
                  .q = hn_scratch_floats_(s, group * Q_BLOCK * hn_round8_(d)),
                  .scores = hn_scratch_floats_(s, Q_STEP * HN_TILE_),
                  .o = hn_scratch_floats_(s, group * Q_BLOCK * ld_o),
                  .most = hn_scratch_floats_(s, group * Q_BLOCK),
                  .sum = hn_scratch_floats_(s, group * Q_BLOCK)};
}

size_t hn_attention_fwd_fast_scratch(const hn_attention_args *a)
{
    hn_scratch_ s = {0};
    work_of(a, &s);
    return s.used * (size_t)omp_get_max_threads();
}

/* scores[0..n), n a multiple of 8, become exp(score - new maximum); keys outside [lo, hi) are
 * not seen. Updates most and sum; returns what earlier values have to be multiplied with. */
HN_MULTIVERSION static float softmax_step(float *restrict s, int64_t n, int64_t lo, int64_t hi,
                                          float softcap, float *most, float *sum)
{
    if (softcap > 0.0f)
        for (int64_t j = lo; j < hi; j++) s[j] = softcap * tanhf(s[j] / softcap);
    for (int64_t j = 0; j < lo; j++) s[j] = -INFINITY;
    for (int64_t j = hi; j < n; j++) s[j] = -INFINITY;
    float m = *most;
#pragma omp simd reduction(max : m)
    for (int64_t j = 0; j < n; j++) m = s[j] > m ? s[j] : m;
    if (m == -INFINITY) { /* nothing to see yet, or nothing but NaN and -inf */
        for (int64_t j = 0; j < n; j++) s[j] = 0.0f;
        if (hi > lo) *sum = NAN;
        return 1.0f;
    }
    for (int64_t j = 0; j < n; j++) s[j] = hn_expf(s[j] - m);
    vec lane = {0}; /* by type, so that the order of the sum is the same for every n */
    for (int64_t j = 0; j < n; j += 8) lane += *(const vec *)(s + j);
    const float add =
        ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    const float factor = *most == m ? 1.0f : hn_expf(*most - m);
    *most = m;
    *sum = *sum * factor + add;
    return factor;
}

HN_MULTIVERSION static void scale_row(float *restrict x, int64_t n, float factor)
{
    for (int64_t c = 0; c < n; c++) x[c] *= factor;
}

/* Queries b .. b + rows of the item, of head `head` of the group, against the tile of keys
 * [t0, t1). */
static void step(const hn_attention_args *a, const item *it, const work *w, int64_t head, int64_t b,
                 int64_t rows, int64_t t0, int64_t t1)
{
    const int64_t first = hn_attention_first_(&it->span, it->i0 + b);
    const int64_t last = hn_attention_last_(&it->span, it->i0 + b + rows - 1);
    const int64_t lo = first > t0 ? (first - t0) / 8 * 8 : 0, hi = (last < t1 ? last : t1) - t0;
    if (hi <= lo) return;
    const int64_t n = hn_round8_(hi - lo), ld_o = hn_round8_(it->dv), ld_q = hn_round8_(it->d);
    const int64_t row = head * Q_BLOCK + b;
    const hn_tile_product_args_ scores = {.a = w->q + row * ld_q,
                                          .rs = ld_q,
                                          .ks = 1,
                                          .b = w->keys + lo,
                                          .ld_b = HN_TILE_,
                                          .c = w->scores,
                                          .ld_c = HN_TILE_,
                                          .m = rows,
                                          .n = n,
                                          .k = it->d};
    hn_tile_product_(&scores);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t i = it->i0 + b + r;
        int64_t row_lo = hn_attention_first_(&it->span, i) - t0 - lo;
        int64_t row_hi = hn_attention_last_(&it->span, i) - t0 - lo;
        row_lo = row_lo < 0 ? 0 : row_lo > n ? n : row_lo;
        row_hi = row_hi > hi - lo ? hi - lo : row_hi < row_lo ? row_lo : row_hi;
        const float factor = softmax_step(w->scores + r * HN_TILE_, n, row_lo, row_hi, a->softcap,
                                          w->most + row + r, w->sum + row + r);
        if (factor != 1.0f) scale_row(w->o + (row + r) * ld_o, ld_o, factor);
    }
    const hn_tile_product_args_ values = {.a = w->scores,
                                          .rs = HN_TILE_,
                                          .ks = 1,
                                          .b = w->values + lo * ld_o,
                                          .ld_b = ld_o,
                                          .c = w->o + row * ld_o,
                                          .ld_c = ld_o,
                                          .m = rows,
                                          .n = ld_o,
                                          .k = hi - lo,
                                          .add = true};
    hn_tile_product_(&values);
}

static void store(const hn_attention_args *a, const item *it, const work *w)
{
    const int64_t ld_o = hn_round8_(it->dv);
    for (int64_t head = 0; head < it->group; head++)
        for (int64_t b = 0; b < it->n; b++) {
            const int64_t row = head * Q_BLOCK + b, i = it->span.q_start + it->i0 + b;
            const int64_t h = it->g * it->group + head;
            const float sum = w->sum[row];
            scale_row(w->o + row * ld_o, it->dv, sum != 0.0f ? 1.0f / sum : 1.0f);
            a->lse[i * a->heads + h] = sum != 0.0f ? w->most[row] + logf(sum) : 0.0f;
            hn_from_f32(w->o + row * ld_o, it->dv, a->o, a->dtype, i * a->ld_o + h * it->dv);
        }
}

static void run_item(const hn_attention_args *a, const item *it, const work *w)
{
    const hn_attention_span_ *span = &it->span;
    const int64_t ld_o = hn_round8_(it->dv), ld_q = hn_round8_(it->d);
    for (int64_t head = 0; head < it->group; head++) {
        const int64_t h = it->g * it->group + head, row = head * Q_BLOCK;
        hn_tile_pack_(a->q, a->dtype, (span->q_start + it->i0) * a->ld_q + h * it->d, a->ld_q,
                      it->n, it->d, w->q + row * ld_q);
        scale_row(w->q + row * ld_q, it->n * ld_q, a->scale);
        for (int64_t b = row; b < row + it->n; b++) {
            w->most[b] = -INFINITY;
            w->sum[b] = 0.0f;
        }
        for (int64_t c = row * ld_o; c < (row + it->n) * ld_o; c++) w->o[c] = 0.0f;
    }
    const int64_t first = hn_attention_first_(span, it->i0);
    const int64_t last = hn_attention_last_(span, it->i0 + it->n - 1);
    for (int64_t t0 = first / HN_TILE_ * HN_TILE_; t0 < last && t0 < span->n_kv; t0 += HN_TILE_) {
        const int64_t t1 = t0 + HN_TILE_ < span->n_kv ? t0 + HN_TILE_ : span->n_kv;
        hn_tile_pack_transposed_(a->k, a->dtype, (span->kv_start + t0) * a->ld_k + it->g * it->d,
                                 a->ld_k, t1 - t0, it->d, w->keys);
        hn_tile_pack_(a->v, a->dtype, (span->kv_start + t0) * a->ld_v + it->g * it->dv, a->ld_v,
                      t1 - t0, it->dv, w->values);
        for (int64_t head = 0; head < it->group; head++)
            for (int64_t b = 0; b < it->n; b += Q_STEP)
                step(a, it, w, head, b, it->n - b < Q_STEP ? it->n - b : Q_STEP, t0, t1);
    }
    store(a, it, w);
}

/* Rows that no sequence covers. */
static void clear_row(const hn_attention_args *a, int64_t i, const item *it)
{
    for (int64_t h = it->g * it->group; h < (it->g + 1) * it->group; h++) {
        a->lse[i * a->heads + h] = 0.0f;
        for (int64_t c = 0; c < it->dv; c++)
            hn_set_f32(a->o, a->dtype, i * a->ld_o + h * it->dv + c, 0.0f);
    }
}

/* The last sequence that starts at or before `row`; -1 when there is none. */
static int64_t sequence_at(const hn_attention_args *a, int64_t row)
{
    int64_t lo = -1, hi = a->sequences;
    while (hi - lo > 1) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (a->q_offsets[mid] <= row)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static void run_rows(const hn_attention_args *a, int64_t row, int64_t end, int64_t g, const work *w)
{
    item it = {.g = g,
               .group = a->heads / a->kv_heads,
               .d = a->head_dim,
               .dv = a->value_dim ? a->value_dim : a->head_dim};
    int64_t s = sequence_at(a, row);
    while (row < end) {
        while (s + 1 < a->sequences && a->q_offsets[s + 1] <= row) s++;
        if (s < 0 || row >= a->q_offsets[s + 1]) { /* before the first, behind the last */
            clear_row(a, row++, &it);
            continue;
        }
        it.span = hn_attention_span_of_(a, s);
        it.i0 = row - it.span.q_start;
        it.n = (end < a->q_offsets[s + 1] ? end : a->q_offsets[s + 1]) - row;
        run_item(a, &it, w);
        row += it.n;
    }
}

hn_status hn_attention_fwd_fast(const hn_attention_args *a, void *scratch)
{
    HN_TRY(hn_attention_check(a, false));
    HN_TRY(hn_attention_check_offsets(a));
    HN_TRY(hn_check_pointer("attention", "scratch", scratch));
    const int64_t blocks = (a->q_rows + Q_BLOCK - 1) / Q_BLOCK;
    hn_scratch_ one = {0};
    work_of(a, &one);
#pragma omp parallel for schedule(dynamic, 1) if (a->q_rows * a->heads > 64)
    for (int64_t n = 0; n < blocks * a->kv_heads; n++) {
        hn_scratch_ mine = {.base = (char *)scratch + (size_t)omp_get_thread_num() * one.used};
        const work w = work_of(a, &mine);
        const int64_t row = (blocks - 1 - n / a->kv_heads) * Q_BLOCK; /* long rows come first */
        const int64_t end = row + Q_BLOCK < a->q_rows ? row + Q_BLOCK : a->q_rows;
        run_rows(a, row, end, n % a->kv_heads, &w);
    }
    return HN_OK;
}
