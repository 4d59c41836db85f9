#include "runtime/file/gap_code.h"

#include <inttypes.h>
#include <stdbool.h>

#include "runtime/base/alloc.h"

int hn_gap_k(int64_t n, int64_t range)
{
    int k = 0; /* the largest with 2^k density <= 0.69 */
    while (k < HN_GAP_MAX_K && (double)n * (double)((int64_t)2 << k) <= 0.69 * (double)range) k++;
    return k;
}

static void put_bit(uint8_t *bytes, int64_t at) { bytes[at / 8] |= (uint8_t)(1u << at % 8); }

hn_status hn_gap_encode(const int32_t *id, int64_t n, int k, uint8_t **bytes, int64_t *n_bytes)
{
    int64_t bits = 0, next = 0; /* the lowest id that may come */
    for (int64_t i = 0; i < n; i++) {
        if (id[i] < next)
            return HN_FAIL(HN_ERR_ARG, "id %d at place %" PRId64 " is not above the one before",
                           (int)id[i], i);
        bits += ((id[i] - next) >> k) + 1 + k;
        next = (int64_t)id[i] + 1;
    }
    const int64_t size = (bits + 7) / 8;
    uint8_t *out = hn_calloc((size_t)size, 1);
    if (out == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " ids", n);
    int64_t at = 0;
    next = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t gap = id[i] - next;
        for (int64_t ones = gap >> k; ones > 0; ones--) put_bit(out, at++);
        at++;
        for (int b = 0; b < k; b++, at++)
            if (gap >> b & 1) put_bit(out, at);
        next = (int64_t)id[i] + 1;
    }
    *bytes = out;
    *n_bytes = size;
    return HN_OK;
}

static int bit_at(const uint8_t *bytes, int64_t at) { return bytes[at / 8] >> at % 8 & 1; }

static hn_status ends_early(const char *where, int64_t i, int64_t n)
{
    return HN_FAIL(HN_ERR_FORMAT, "%s: the code ends inside id %" PRId64 " of %" PRId64, where, i,
                   n);
}

hn_status hn_gap_decode(const uint8_t *bytes, int64_t n_bytes, int64_t n, int64_t range, int k,
                        const char *where, int32_t *id)
{
    const int64_t bits = 8 * n_bytes;
    int64_t at = 0, next = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t gap = 0, low = 0;
        /* at most range ones: no overflow, and a long run of them is noticed soon */
        while (at < bits && bit_at(bytes, at) && gap << k < range) gap++, at++;
        if (gap << k >= range)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: id %" PRId64 " of %" PRId64 " is at or above %" PRId64, where, i, n,
                           range);
        if (bits - at < 1 + k) return ends_early(where, i, n);
        at++;
        for (int b = 0; b < k; b++, at++) low |= (int64_t)bit_at(bytes, at) << b;
        next += (gap << k) + low;
        if (next >= range)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: id %" PRId64 " of %" PRId64 " is at or above %" PRId64, where, i, n,
                           range);
        id[i] = (int32_t)next++;
    }
    bool clean = (at + 7) / 8 == n_bytes;
    for (; clean && at < bits; at++) clean = !bit_at(bytes, at);
    if (!clean)
        return HN_FAIL(HN_ERR_FORMAT, "%s: bytes are left over behind %" PRId64 " ids", where, n);
    return HN_OK;
}
