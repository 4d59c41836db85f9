#include "runtime/data/row_order.h"

#include "runtime/base/rng.h"

hn_row_order hn_row_order_make(uint64_t seed, uint64_t stream, int64_t rows)
{
    hn_row_order o = {.seed = seed, .stream = stream, .rows = rows};
    while ((UINT64_C(1) << 2 * o.half_bits) < (uint64_t)rows) o.half_bits++;
    return o;
}

int64_t hn_row_order_at(const hn_row_order *o, int64_t epoch, int64_t i)
{
    const hn_rng rng = hn_rng_make(o->seed, (uint64_t)epoch, o->stream);
    const uint32_t mask = (uint32_t)((UINT64_C(1) << o->half_bits) - 1);
    uint64_t x = (uint64_t)i;
    do {
        uint32_t left = (uint32_t)(x >> o->half_bits), right = (uint32_t)x & mask;
        for (uint32_t round = 0; round < 6; round++) {
            const uint32_t kept = right;
            right = left ^ (hn_rng_u32(rng, right, 4 * round) & mask);
            left = kept;
        }
        x = (uint64_t)left << o->half_bits | right;
    } while (x >= (uint64_t)o->rows);
    return (int64_t)x;
}
