#include "runtime/train/sparse_order.h"

#include <inttypes.h>

#include "runtime/base/alloc.h"

enum { DIGIT = 11, BINS = 1 << DIGIT, PASSES = 3 };

static uint32_t digit_of(uint32_t key, int pass)
{
    return key >> (DIGIT * pass) & (uint32_t)(BINS - 1);
}

/* The key of the k-th largest (k >= 1), digit by digit from the top; *above: how many of the
 * larger ones there are. */
static uint32_t threshold(const float *v, int64_t n, int64_t k, int64_t *above)
{
    uint32_t prefix = 0, fixed = 0; /* the bits of the key that are known */
    int64_t count[BINS];
    *above = 0;
    for (int pass = PASSES - 1; pass >= 0; pass--) {
        memset(count, 0, sizeof count);
        for (int64_t i = 0; i < n; i++) {
            const uint32_t key = hn_float_key(v[i]);
            if ((key & fixed) == prefix) count[digit_of(key, pass)]++;
        }
        uint32_t bin = BINS - 1;
        while (*above + count[bin] < k) *above += count[bin--];
        prefix |= bin << (DIGIT * pass);
        fixed |= (uint32_t)(BINS - 1) << (DIGIT * pass);
    }
    return prefix;
}

void hn_mark_largest(const float *v, int64_t n, int64_t k, uint8_t value, uint8_t *mark)
{
    int64_t above;
    if (k <= 0) return;
    if (k >= n) {
        for (int64_t i = 0; i < n; i++) mark[i] = value;
        return;
    }
    const uint32_t limit = threshold(v, n, k, &above);
    int64_t ties = k - above;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t key = hn_float_key(v[i]);
        if (key > limit || (key == limit && ties-- > 0)) mark[i] = value;
    }
}

hn_status hn_order_by_key(const uint32_t *key, int64_t n, int32_t *order)
{
    int32_t *other = hn_malloc((size_t)n * sizeof *other), *from = order, *to = other;
    int64_t first[BINS + 1];
    if (other == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to order %" PRId64 " blocks", n);
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
    for (int pass = 0; pass < PASSES; pass++) {
        memset(first, 0, sizeof first);
        for (int64_t i = 0; i < n; i++) first[digit_of(key[i], pass) + 1]++;
        for (int b = 0; b < BINS; b++) first[b + 1] += first[b];
        for (int64_t i = 0; i < n; i++) to[first[digit_of(key[from[i]], pass)]++] = from[i];
        int32_t *swap = from;
        from = to;
        to = swap;
    }
    memcpy(order, from, (size_t)n * sizeof *order); /* an odd number of passes */
    hn_free(other);
    return HN_OK;
}
