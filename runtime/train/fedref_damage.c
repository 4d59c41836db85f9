/* Messages that something has happened to: tests and demonstrations of robustness. The checksum is
 * made good where a real client would have sent a good one. */
#include <string.h>
#include <zlib.h>

#include "runtime/base/rng.h"
#include "runtime/train/fedref_impl.h"

/* Places in a message: runtime/fed/message.h. */
enum { ROUND_AT = 24, LAYOUT_AT = 64, CHECKSUM_AT = 124 };

static void put_u32(uint8_t *to, uint32_t v)
{
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(v >> 8 * i);
}

static void mend_checksum(hn_fed_bytes *m)
{
    uLong crc = crc32(0, m->data, CHECKSUM_AT);
    crc = crc32_z(crc, m->data + HN_FED_HEADER_BYTES, m->n - HN_FED_HEADER_BYTES);
    put_u32(m->data + CHECKSUM_AT, (uint32_t)crc);
}

static void apply(hn_inject_kind kind, int64_t round, int64_t client, hn_fed_bytes *m)
{
    const hn_rng rng = hn_rng_make((uint64_t)round, (uint64_t)client, hn_hash_name("garbage"));
    switch (kind) {
    case HN_INJECT_NAN: /* in fp32 one, in bf16 two */
        put_u32(m->data + m->n - 4, 0x7fc07fc0);
        mend_checksum(m);
        break;
    case HN_INJECT_SHAPE:
        m->data[LAYOUT_AT] ^= 1;
        mend_checksum(m);
        break;
    case HN_INJECT_STALE:
        put_u32(m->data + ROUND_AT, (uint32_t)(round - 1));
        mend_checksum(m);
        break;
    case HN_INJECT_GARBAGE:
        for (size_t i = 0; i < m->n; i++) m->data[i] = (uint8_t)hn_rng_u32(rng, i, 0);
        break;
    case HN_INJECT_TRUNCATED: m->n /= 2; break;
    }
}

void hn_fedref_damage(const hn_fedref *r, int64_t round, int64_t client, hn_fed_bytes *message)
{
    for (int64_t i = 0; i < r->n_injections; i++)
        if (r->injection[i].round == round && r->injection[i].client == client)
            apply(r->injection[i].kind, round, client, message);
}
