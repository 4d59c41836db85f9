#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "kernels/reduce/sample.h"
#include "runtime/base/check.h"
#include "runtime/base/rng.h"

typedef struct {
    float z;
    int32_t token;
} candidate;

hn_status hn_sample_check(const hn_sample_args *a)
{
    static const char op[] = "sample";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_matrix(op, "logits", a->logits, a->rows, a->vocab, a->ld));
    HN_TRY(hn_check_pointer(op, "tokens", a->tokens));
    if (!(a->temperature >= 0.0f) || !isfinite(a->temperature))
        return HN_FAIL(HN_ERR_ARG, "%s: temperature %g must be 0 or positive", op,
                       (double)a->temperature);
    if (a->temperature == 0.0f) return HN_OK;
    if (a->top_k < 0) return HN_FAIL(HN_ERR_ARG, "%s: top_k %" PRId64 " is negative", op, a->top_k);
    if (!(a->top_p > 0.0f && a->top_p <= 1.0f))
        return HN_FAIL(HN_ERR_ARG, "%s: top_p %g must be in (0, 1]", op, (double)a->top_p);
    return hn_check_pointer(op, "positions", a->positions);
}

size_t hn_sample_scratch(const hn_sample_args *a)
{
    return a->temperature == 0.0f ? 0 : (size_t)a->vocab * sizeof(candidate);
}

/* The largest logit, first among equals; NaN and +Inf are refused. */
static hn_status largest(const hn_sample_args *a, int64_t row, int32_t *token)
{
    const float *z = a->logits + row * a->ld;
    int32_t best = -1;
    float most = -INFINITY;
    for (int64_t n = 0; n < a->vocab; n++) {
        if (!(z[n] < INFINITY))
            return HN_FAIL(HN_ERR_NUMERIC, "sample: logit %" PRId64 " of row %" PRId64 " is %g", n,
                           row, (double)z[n]);
        if (z[n] > most) {
            most = z[n];
            best = (int32_t)n;
        }
    }
    if (best < 0)
        return HN_FAIL(HN_ERR_NUMERIC, "sample: all logits of row %" PRId64 " are -inf", row);
    *token = best;
    return HN_OK;
}

/* Falling logits; at equal values rising tokens. */
static bool before(const candidate *x, const candidate *y)
{
    return x->z > y->z || (x->z == y->z && x->token < y->token);
}

static int by_rank(const void *x, const void *y) { return before(x, y) ? -1 : before(y, x); }

/* Restores the heap below i: a parent comes behind its children, so that the root is the worst. */
static void sift_down(candidate *heap, int64_t n, int64_t i)
{
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child], &heap[child + 1])) child++;
        if (!before(&heap[i], &heap[child])) return;
        const candidate c = heap[i];
        heap[i] = heap[child];
        heap[child] = c;
    }
}

/* Moves the k best of n candidates to the front, in order. */
static void select_best(candidate *c, int64_t n, int64_t k)
{
    if (k < n) {
        for (int64_t i = k / 2; i-- > 0;) sift_down(c, k, i);
        for (int64_t i = k; i < n; i++) {
            if (!before(&c[i], &c[0])) continue;
            c[0] = c[i];
            sift_down(c, k, 0);
        }
    }
    qsort(c, (size_t)k, sizeof *c, by_rank);
}

static hn_status sample_row(const hn_sample_args *a, int64_t row, candidate *c, int32_t *token)
{
    int32_t best = 0;
    HN_TRY(largest(a, row, &best));
    const float *z = a->logits + row * a->ld;
    const double most = (double)z[best] / (double)a->temperature;
    int64_t n = a->vocab;
    for (int64_t i = 0; i < n; i++) c[i] = (candidate){z[i], (int32_t)i};
    if (a->top_k > 0 && a->top_k < n) {
        select_best(c, n, a->top_k);
        n = a->top_k;
    } else if (a->top_p < 1.0f) {
        select_best(c, n, n);
    }
    double sum = 0.0, kept = 0.0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)c[i].z / (double)a->temperature - most);
    if (a->top_p < 1.0f) {
        int64_t fewest = 0;
        while (fewest < n && kept < (double)a->top_p * sum)
            kept += exp((double)c[fewest++].z / (double)a->temperature - most);
        n = fewest;
        sum = kept;
    }
    const hn_rng rng = hn_rng_make(a->seed, 0, hn_hash_name("sample"));
    const uint32_t word = hn_rng_u32(rng, (uint64_t)a->positions[row], (uint32_t)row);
    double left = (double)word * 0x1p-32 * sum;
    int64_t chosen = 0;
    for (int64_t i = 0; i < n; i++) {
        const double p = exp((double)c[i].z / (double)a->temperature - most);
        if (p > 0.0) chosen = i; /* rounding may leave `left` above 0 at the end */
        if (left < p) break;
        left -= p;
    }
    *token = c[chosen].token;
    return HN_OK;
}

hn_status hn_sample(const hn_sample_args *a, void *scratch)
{
    HN_TRY(hn_sample_check(a));
    if (a->temperature != 0.0f) HN_TRY(hn_check_pointer("sample", "scratch", scratch));
    for (int64_t row = 0; row < a->rows; row++) {
        int32_t token = 0;
        HN_TRY(a->temperature == 0.0f ? largest(a, row, &token)
                                      : sample_row(a, row, scratch, &token));
        a->tokens[row] = token;
    }
    return HN_OK;
}
