/* Radix selection by 11, 11 and 10 bits of the keys: a histogram of what agrees with the bits found
 * so far, then the bin that the k-th score is in. Then every part of x counts what it has to give,
 * and copies it to where the parts before it end. Integer counts: the same for any split. */
#include "kernels/reduce/topk.h"

#include <string.h>

#include "kernels/reduce/topk_key.h"
#include "runtime/base/multiversion.h"

enum { BINS = 2048, PARTS = 64 };

typedef struct {
    uint32_t prefix; /* of the key of the k-th score, bits below `shift` 0 */
    int shift;
    int64_t want; /* scores to be taken of those that agree with prefix */
} search;

static uint32_t key_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return hn_topk_key_(bits);
}

static int64_t part_begin(const hn_topk_args *a, int64_t part) { return a->n * part / PARTS; }

static void histogram(const hn_topk_args *a, const search *s, int shift, int64_t *total)
{
    const int above = s->shift; /* bits from here on must agree */
    memset(total, 0, BINS * sizeof *total);
#pragma omp parallel if (a->n > HN_OMP_MIN)
    {
        int64_t count[BINS] = {0};
#pragma omp for schedule(static) nowait
        for (int64_t part = 0; part < PARTS; part++)
            for (int64_t i = part_begin(a, part); i < part_begin(a, part + 1); i++) {
                const uint32_t key = key_of(a->x[i]);
                if ((uint64_t)(key ^ s->prefix) >> above == 0) count[key >> shift & (BINS - 1)]++;
            }
#pragma omp critical
        for (int b = 0; b < BINS; b++) total[b] += count[b];
    }
}

/* Narrows the search by the bits from `shift` up to those it has. */
static void narrow(const hn_topk_args *a, search *s, int shift)
{
    int64_t total[BINS];
    histogram(a, s, shift, total);
    int bin = BINS - 1;
    for (; total[bin] < s->want; bin--) s->want -= total[bin];
    s->prefix |= (uint32_t)bin << shift;
    s->shift = shift;
}

static void count_part(const hn_topk_args *a, int64_t part, uint32_t least, int64_t *greater,
                       int64_t *equal)
{
    *greater = *equal = 0;
    for (int64_t i = part_begin(a, part); i < part_begin(a, part + 1); i++) {
        const uint32_t key = key_of(a->x[i]);
        *greater += key > least;
        *equal += key == least;
    }
}

static void copy_part(const hn_topk_args *a, int64_t part, uint32_t least, int64_t to, int64_t ties)
{
    for (int64_t i = part_begin(a, part); i < part_begin(a, part + 1); i++) {
        const uint32_t key = key_of(a->x[i]);
        if (key < least || (key == least && ties-- <= 0)) continue;
        a->index[to] = (int32_t)i;
        if (a->value) a->value[to] = a->x[i];
        to++;
    }
}

hn_status hn_topk_fast(const hn_topk_args *a)
{
    int64_t greater[PARTS], equal[PARTS], to[PARTS], ties[PARTS];
    HN_TRY(hn_topk_check(a));
    if (a->k == 0) return HN_OK;
    search s = {.shift = 32, .want = a->k};
    narrow(a, &s, 21);
    narrow(a, &s, 10);
    narrow(a, &s, 0);
#pragma omp parallel for schedule(static) if (a->n > HN_OMP_MIN)
    for (int64_t p = 0; p < PARTS; p++) count_part(a, p, s.prefix, &greater[p], &equal[p]);
    for (int64_t p = 0, next = 0, left = s.want; p < PARTS; p++) {
        const int64_t take = equal[p] < left ? equal[p] : left;
        to[p] = next;
        ties[p] = take;
        next += greater[p] + take;
        left -= take;
    }
#pragma omp parallel for schedule(static) if (a->n > HN_OMP_MIN)
    for (int64_t p = 0; p < PARTS; p++) copy_part(a, p, s.prefix, to[p], ties[p]);
    return HN_OK;
}
