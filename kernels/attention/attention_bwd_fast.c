/* A work item is one kv head of one sequence; it owns the rows of dk and dv of that head and of
 * dq of the query heads of its group. Keys go by in tiles, whose dk and dv stay in scratch; the
 * queries that see a tile follow in blocks, and add to dq: directly, or in fp32 scratch when dq
 * is bf16 or its width needs padding. Scores are computed again from q, k and lse. */
#include <math.h>
#include <omp.h>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_range.h"
#include "kernels/attention/attention_tile.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

enum { Q_BLOCK = 32 };

/* One thread's memory; widths rounded up to a multiple of 8. */
typedef struct {
    float *keys, *keys_t; /* [HN_TILE_, head_dim], [head_dim, HN_TILE_] */
    float *values_t;      /* [value_dim, HN_TILE_] */
    float *dk, *dv;       /* [HN_TILE_, head_dim], [HN_TILE_, value_dim] */
    float *q, *dout;      /* [Q_BLOCK, head_dim], [Q_BLOCK, value_dim] */
    float *o;             /* [value_dim] */
    float *p, *dt;        /* [Q_BLOCK, HN_TILE_] */
    float *delta;         /* [Q_BLOCK] sum_c dout o */
} work;

typedef struct {
    hn_attention_span_ span;
    int64_t g, group, d, dv;
    float *dq; /* sums of dq: of query i and head h at i * ld_dq + h * head_ld */
    int64_t ld_dq, head_ld;
} item;

static work work_of(const hn_attention_args *a, hn_scratch_ *s)
{
    const int64_t d = hn_round8_(a->head_dim);
    const int64_t dv = hn_round8_(a->value_dim ? a->value_dim : a->head_dim);
    return (work){.keys = hn_scratch_floats_(s, HN_TILE_ * d),
                  .keys_t = hn_scratch_floats_(s, d * HN_TILE_),
                  .values_t = hn_scratch_floats_(s, dv * HN_TILE_),
                  .dk = hn_scratch_floats_(s, HN_TILE_ * d),
                  .dv = hn_scratch_floats_(s, HN_TILE_ * dv),
                  .q = hn_scratch_floats_(s, Q_BLOCK * d),
                  .dout = hn_scratch_floats_(s, Q_BLOCK * dv),
                  .o = hn_scratch_floats_(s, dv),
                  .p = hn_scratch_floats_(s, Q_BLOCK * HN_TILE_),
                  .dt = hn_scratch_floats_(s, Q_BLOCK * HN_TILE_),
                  .delta = hn_scratch_floats_(s, Q_BLOCK)};
}

static bool sums_in_place(const hn_attention_args *a)
{
    return a->dtype == HN_F32 && a->head_dim % 8 == 0;
}

/* The part that all threads share: dq in fp32, [q_rows, heads, round8(head_dim)]. */
static float *shared_of(const hn_attention_args *a, hn_scratch_ *s)
{
    if (sums_in_place(a)) return NULL;
    return hn_scratch_floats_(s, a->q_rows * a->heads * hn_round8_(a->head_dim));
}

size_t hn_attention_bwd_fast_scratch(const hn_attention_args *a)
{
    hn_scratch_ shared = {0}, one = {0};
    shared_of(a, &shared);
    work_of(a, &one);
    return shared.used + one.used * (size_t)omp_get_max_threads();
}

/* Row of p (scores on entry) and dt (dp on entry), n columns, of which [lo, hi) are seen. */
HN_MULTIVERSION static void gradient_row(const hn_attention_args *a, float *restrict p,
                                         float *restrict dt, int64_t n, int64_t lo, int64_t hi,
                                         float lse, float delta)
{
    const float scale = a->scale, cap = a->softcap;
    if (cap > 0.0f) {
        for (int64_t j = lo; j < hi; j++) {
            const float u = tanhf(p[j] * scale / cap);
            p[j] = hn_expf(cap * u - lse);
            dt[j] = scale * p[j] * (dt[j] - delta) * (1.0f - u * u);
        }
    } else {
        for (int64_t j = 0; j < n; j++) {
            p[j] = hn_expf(p[j] * scale - lse);
            dt[j] = scale * p[j] * (dt[j] - delta);
        }
    }
    for (int64_t j = 0; j < lo; j++) p[j] = dt[j] = 0.0f;
    for (int64_t j = hi; j < n; j++) p[j] = dt[j] = 0.0f;
}

HN_MULTIVERSION static float dot(const float *restrict x, const float *restrict y, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) sum += x[c] * y[c];
    return sum;
}

/* q, dout and delta of the queries i0 .. i0 + rows of head h. */
static void load_queries(const hn_attention_args *a, const item *it, const work *w, int64_t h,
                         int64_t i0, int64_t rows)
{
    const int64_t row = it->span.q_start + i0, ld_dout = hn_round8_(it->dv);
    hn_tile_pack_(a->q, a->dtype, row * a->ld_q + h * it->d, a->ld_q, rows, it->d, w->q);
    hn_tile_pack_(a->dout, a->dtype, row * a->ld_dout + h * it->dv, a->ld_dout, rows, it->dv,
                  w->dout);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = (row + r) * a->ld_o + h * it->dv;
        const float *o = hn_load_f32(a->o, a->dtype, at, it->dv, w->o);
        w->delta[r] = dot(w->dout + r * ld_dout, o, it->dv);
    }
}

/* Queries i0 .. i0 + rows of head h against the tile of keys [t0, t1): adds to dk, dv and dq. */
static void step(const hn_attention_args *a, const item *it, const work *w, int64_t h, int64_t i0,
                 int64_t rows, int64_t t0, int64_t t1)
{
    const int64_t last = hn_attention_last_(&it->span, i0 + rows - 1);
    const int64_t seen = (last < t1 ? last : t1) - t0, n = hn_round8_(seen);
    const int64_t d8 = hn_round8_(it->d), dv8 = hn_round8_(it->dv);
    load_queries(a, it, w, h, i0, rows);
    hn_tile_product_args_ x = {.a = w->q, .rs = d8, .ks = 1, .b = w->keys_t, .ld_b = HN_TILE_};
    x.c = w->p, x.ld_c = HN_TILE_, x.m = rows, x.n = n, x.k = it->d;
    hn_tile_product_(&x); /* q k^T */
    x.a = w->dout, x.rs = dv8, x.b = w->values_t, x.c = w->dt, x.k = it->dv;
    hn_tile_product_(&x); /* dout v^T */
    for (int64_t r = 0; r < rows; r++) {
        int64_t lo = hn_attention_first_(&it->span, i0 + r) - t0;
        int64_t hi = hn_attention_last_(&it->span, i0 + r) - t0;
        lo = lo < 0 ? 0 : lo > n ? n : lo;
        hi = hi > seen ? seen : hi < lo ? lo : hi;
        const float lse = a->lse[(it->span.q_start + i0 + r) * a->heads + h];
        gradient_row(a, w->p + r * HN_TILE_, w->dt + r * HN_TILE_, n, lo, hi, lse, w->delta[r]);
    }
    x = (hn_tile_product_args_){.rs = 1, .ks = HN_TILE_, .m = seen, .k = rows, .add = true};
    x.a = w->p, x.b = w->dout, x.c = w->dv, x.ld_b = x.ld_c = x.n = dv8;
    hn_tile_product_(&x); /* p^T dout */
    x.a = w->dt, x.b = w->q, x.c = w->dk, x.ld_b = x.ld_c = x.n = d8;
    hn_tile_product_(&x); /* dt^T q */
    x = (hn_tile_product_args_){.rs = HN_TILE_, .ks = 1, .m = rows, .k = seen, .add = true};
    x.a = w->dt, x.b = w->keys, x.ld_b = x.n = d8, x.ld_c = it->ld_dq;
    x.c = it->dq + (it->span.q_start + i0) * it->ld_dq + h * it->head_ld;
    hn_tile_product_(&x); /* dt k */
}

static void fill_zero(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = 0.0f;
}

static void store_tile(const hn_attention_args *a, const item *it, const work *w, int64_t row,
                       int64_t rows)
{
    const int64_t d8 = hn_round8_(it->d), dv8 = hn_round8_(it->dv);
    for (int64_t r = 0; r < rows; r++) {
        hn_from_f32(w->dk + r * d8, it->d, a->dk, a->dtype, (row + r) * a->ld_dk + it->g * it->d);
        hn_from_f32(w->dv + r * dv8, it->dv, a->dv, a->dtype,
                    (row + r) * a->ld_dv + it->g * it->dv);
    }
}

static void run_tile(const hn_attention_args *a, const item *it, const work *w, int64_t t0,
                     int64_t t1)
{
    const hn_attention_span_ *s = &it->span;
    const int64_t row = s->kv_start + t0, shift = s->n_kv - s->n_q;
    hn_tile_pack_(a->k, a->dtype, row * a->ld_k + it->g * it->d, a->ld_k, t1 - t0, it->d, w->keys);
    hn_tile_pack_transposed_(a->k, a->dtype, row * a->ld_k + it->g * it->d, a->ld_k, t1 - t0, it->d,
                             w->keys_t);
    hn_tile_pack_transposed_(a->v, a->dtype, row * a->ld_v + it->g * it->dv, a->ld_v, t1 - t0,
                             it->dv, w->values_t);
    fill_zero(w->dk, HN_TILE_ * hn_round8_(it->d));
    fill_zero(w->dv, HN_TILE_ * hn_round8_(it->dv));
    /* Queries that may see the tile: pos(i) >= t0 if causal, pos(i) - window < t1 - 1. */
    int64_t begin = s->causal ? t0 - shift : 0, end = s->n_q;
    if (begin < 0) begin = 0;
    if (s->window > 0 && t1 - 1 + s->window - shift < end) end = t1 - 1 + s->window - shift;
    for (int64_t h = it->g * it->group; h < (it->g + 1) * it->group; h++)
        for (int64_t i = begin; i < end; i += Q_BLOCK)
            step(a, it, w, h, i, end - i < Q_BLOCK ? end - i : Q_BLOCK, t0, t1);
    store_tile(a, it, w, row, t1 - t0);
}

static void run_item(const hn_attention_args *a, const item *it, const work *w)
{
    const hn_attention_span_ *s = &it->span;
    const int64_t d8 = hn_round8_(it->d);
    for (int64_t i = s->q_start; i < s->q_start + s->n_q; i++)
        for (int64_t h = it->g * it->group; h < (it->g + 1) * it->group; h++)
            fill_zero(it->dq + i * it->ld_dq + h * it->head_ld, d8);
    for (int64_t t0 = 0; t0 < s->n_kv; t0 += HN_TILE_)
        run_tile(a, it, w, t0, t0 + HN_TILE_ < s->n_kv ? t0 + HN_TILE_ : s->n_kv);
    if (sums_in_place(a)) return;
    for (int64_t i = s->q_start; i < s->q_start + s->n_q; i++)
        for (int64_t h = it->g * it->group; h < (it->g + 1) * it->group; h++)
            hn_from_f32(it->dq + i * it->ld_dq + h * it->head_ld, it->d, a->dq, a->dtype,
                        i * a->ld_dq + h * it->d);
}

static void clear_rows(void *p, hn_dtype t, int64_t begin, int64_t end, int64_t cols, int64_t ld)
{
    for (int64_t i = begin; i < end; i++)
        for (int64_t j = 0; j < cols; j++) hn_set_f32(p, t, i * ld + j, 0.0f);
}

/* Rows that no sequence covers: before the first and behind the last. */
static void clear_uncovered(const hn_attention_args *a)
{
    const int32_t *q = a->q_offsets, *kv = a->kv_offsets ? a->kv_offsets : q;
    const int64_t n = a->sequences, d = a->head_dim, dv = a->value_dim ? a->value_dim : d;
    clear_rows(a->dq, a->dtype, 0, q[0], a->heads * d, a->ld_dq);
    clear_rows(a->dq, a->dtype, q[n], a->q_rows, a->heads * d, a->ld_dq);
    clear_rows(a->dk, a->dtype, 0, kv[0], a->kv_heads * d, a->ld_dk);
    clear_rows(a->dk, a->dtype, kv[n], a->kv_rows, a->kv_heads * d, a->ld_dk);
    clear_rows(a->dv, a->dtype, 0, kv[0], a->kv_heads * dv, a->ld_dv);
    clear_rows(a->dv, a->dtype, kv[n], a->kv_rows, a->kv_heads * dv, a->ld_dv);
}

hn_status hn_attention_bwd_fast(const hn_attention_args *a, void *scratch)
{
    HN_TRY(hn_attention_check(a, true));
    HN_TRY(hn_attention_check_offsets(a));
    HN_TRY(hn_check_pointer("attention", "scratch", scratch));
    hn_scratch_ shared = {.base = scratch}, one = {0};
    float *sums = shared_of(a, &shared);
    work_of(a, &one);
    clear_uncovered(a);
#pragma omp parallel for schedule(dynamic, 1) if (a->q_rows * a->heads > 64)
    for (int64_t n = 0; n < a->sequences * a->kv_heads; n++) {
        hn_scratch_ mine = {.base = (char *)scratch + shared.used +
                                    (size_t)omp_get_thread_num() * one.used};
        const work w = work_of(a, &mine);
        item it = {.span = hn_attention_span_of_(a, n / a->kv_heads),
                   .g = n % a->kv_heads,
                   .group = a->heads / a->kv_heads,
                   .d = a->head_dim,
                   .dv = a->value_dim ? a->value_dim : a->head_dim,
                   .dq = a->dq,
                   .ld_dq = a->ld_dq,
                   .head_ld = a->head_dim};
        if (sums != NULL) {
            it.dq = sums;
            it.head_ld = hn_round8_(it.d);
            it.ld_dq = a->heads * it.head_ld;
        }
        run_item(a, &it, &w);
    }
    return HN_OK;
}
