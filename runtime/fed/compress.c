#include "runtime/fed/compress.h"

#include <string.h>

#include "runtime/base/bf16.h"

void hn_fed_meant(const hn_fed_layout *l, const float *theta, const float *base,
                  const float *residual, float *meant)
{
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        if (t->role != HN_FED_VALUE) continue;
        const float *now = theta + t->first, *then = base + t->first;
        float *out = meant + t->value;
        for (int64_t j = 0; j < t->n; j++) out[j] = now[j] - then[j];
        if (residual == NULL) continue;
        for (int64_t j = 0; j < t->n; j++) out[j] += residual[t->value + j];
    }
}

/* Finite magnitudes are ordered as their bits are. */
static uint32_t magnitude(float x) { return hn_bits_from_f32_(x) & 0x7fffffffu; }

/* The k-th largest magnitude, found by its bits from the top, 11, 10 and 10 at a time: each pass
 * counts the values whose upper bits are those found so far. *equal: how many of the k have it. */
static uint32_t kth_magnitude(const float *x, int64_t n, int64_t k, int64_t *equal)
{
    static const int shift[] = {20, 10, 0};
    enum { BINS = 2048 };
    uint32_t found = 0, known = 0; /* bits, and which of them are known */
    for (int pass = 0; pass < 3; pass++) {
        const uint32_t bins = pass == 0 ? BINS : BINS / 2;
        int64_t count[BINS] = {0};
        for (int64_t i = 0; i < n; i++) {
            const uint32_t m = magnitude(x[i]);
            if ((m & known) == found) count[m >> shift[pass] & (bins - 1)]++;
        }
        uint32_t bin = bins - 1;
        for (; count[bin] < k; bin--) k -= count[bin];
        found |= bin << shift[pass];
        known |= (bins - 1) << shift[pass];
    }
    *equal = k;
    return found;
}

void hn_fed_topk(const float *x, int64_t n, int64_t k, int32_t *id, float *value)
{
    int64_t equal = 0, at = 0;
    const uint32_t least = kth_magnitude(x, n, k, &equal);
    for (int64_t i = 0; i < n && at < k; i++) {
        const uint32_t m = magnitude(x[i]);
        if (m < least || (m == least && equal-- <= 0)) continue;
        id[at] = (int32_t)i;
        value[at++] = x[i];
    }
}

void hn_fed_topk_residual(float *x, const int32_t *id, int64_t k)
{
    for (int64_t i = 0; i < k; i++) x[id[i]] = 0;
}

void hn_fed_round_bf16(const float *x, int64_t n, uint16_t *bits, float *residual)
{
    for (int64_t i = 0; i < n; i++) {
        const hn_bf16 b = hn_bf16_from_f32(x[i]);
        bits[i] = b.bits;
        if (residual != NULL) residual[i] = x[i] - hn_bf16_to_f32(b);
    }
}
