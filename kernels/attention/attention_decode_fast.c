/* A work item is one token of one batch row and one kv head. Its scores stay in scratch, one row
 * for each query head of the group; keys and values are read from the cache as they lie. */
#include <math.h>
#include <omp.h>

#include "kernels/attention/attention_decode.h"
#include "kernels/attention/attention_tile.h"
#include "kernels/attention/kv_append.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

/* Starting threads costs more than this many multiply-adds on one. */
enum { PARALLEL_MIN = 1 << 19 };

typedef struct {
    float *q;      /* [group, head_dim] */
    float *row;    /* [max(head_dim, value_dim)] a cache row that had to be converted */
    float *o;      /* [group, value_dim] */
    float *scores; /* [group, capacity] */
} work;

static work work_of(const hn_attention_decode_args *a, hn_scratch_ *s)
{
    const int64_t group = a->heads / a->kv_heads, d = a->head_dim;
    const int64_t dv = a->value_dim ? a->value_dim : d;
    return (work){.q = hn_scratch_floats_(s, group * d),
                  .row = hn_scratch_floats_(s, d > dv ? d : dv),
                  .o = hn_scratch_floats_(s, group * dv),
                  .scores = hn_scratch_floats_(s, group * a->capacity)};
}

size_t hn_attention_decode_fast_scratch(const hn_attention_decode_args *a)
{
    hn_scratch_ s = {0};
    work_of(a, &s);
    return s.used * (size_t)omp_get_max_threads();
}

HN_MULTIVERSION static float dot(const float *restrict x, const float *restrict y, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) sum += x[c] * y[c];
    return sum;
}

HN_MULTIVERSION static void add_row(float *restrict o, float p, const float *restrict v, int64_t n)
{
    for (int64_t c = 0; c < n; c++) o[c] += p * v[c];
}

/* s becomes exp(s - max); returns the sum. */
HN_MULTIVERSION static float exponentials(float *restrict s, int64_t n, float softcap)
{
    if (softcap > 0.0f)
        for (int64_t j = 0; j < n; j++) s[j] = softcap * tanhf(s[j] / softcap);
    float most = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < n; j++) most = s[j] > most ? s[j] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        s[j] = hn_expf(s[j] - most);
        sum += s[j];
    }
    return sum;
}

/* Query row `row` against rows [first, last) of the caches, for kv head g. */
static void run_item(const hn_attention_decode_args *a, int64_t row, int64_t g, int64_t first,
                     int64_t last, const work *w)
{
    const int64_t group = a->heads / a->kv_heads, d = a->head_dim, n = last - first;
    const int64_t dv = a->value_dim ? a->value_dim : d;
    hn_to_f32(a->q, a->dtype, row * a->ld_q + g * group * d, group * d, w->q);
    for (int64_t j = 0; j < n; j++) {
        const float *k =
            hn_load_f32(a->k_cache, a->dtype, (first + j) * a->ld_k + g * d, d, w->row);
        for (int64_t h = 0; h < group; h++)
            w->scores[h * a->capacity + j] = a->scale * dot(w->q + h * d, k, d);
    }
    for (int64_t h = 0; h < group; h++) {
        float *s = w->scores + h * a->capacity;
        const float scale = 1.0f / exponentials(s, n, a->softcap);
        for (int64_t j = 0; j < n; j++) s[j] *= scale;
    }
    for (int64_t c = 0; c < group * dv; c++) w->o[c] = 0.0f;
    for (int64_t j = 0; j < n; j++) {
        const float *v =
            hn_load_f32(a->v_cache, a->dtype, (first + j) * a->ld_v + g * dv, dv, w->row);
        for (int64_t h = 0; h < group; h++)
            add_row(w->o + h * dv, w->scores[h * a->capacity + j], v, dv);
    }
    hn_from_f32(w->o, group * dv, a->o, a->dtype, row * a->ld_o + g * group * dv);
}

hn_status hn_attention_decode_fast(const hn_attention_decode_args *a, void *scratch)
{
    HN_TRY(hn_attention_decode_check(a));
    HN_TRY(
        hn_kv_check_positions("attention_decode", a->positions, a->batch, a->tokens, a->capacity));
    HN_TRY(hn_check_pointer("attention_decode", "scratch", scratch));
    hn_scratch_ one = {0};
    work_of(a, &one);
    const int64_t items = a->batch * a->tokens * a->kv_heads;
#pragma omp parallel for schedule(static) if (items * a->capacity * a->head_dim > PARALLEL_MIN)
    for (int64_t i = 0; i < items; i++) {
        hn_scratch_ mine = {.base = (char *)scratch + (size_t)omp_get_thread_num() * one.used};
        const work w = work_of(a, &mine);
        const int64_t row = i / a->kv_heads, b = row / a->tokens;
        const int64_t last = a->positions[b] + row % a->tokens + 1;
        const int64_t first = a->window > 0 && last > a->window ? last - a->window : 0;
        run_item(a, row, i % a->kv_heads, b * a->capacity + first, b * a->capacity + last, &w);
    }
    return HN_OK;
}
