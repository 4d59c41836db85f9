#include "runtime/fed/wire.h"

#include <stdio.h>
#include <zlib.h>

uint32_t hn_fed_checksum(const uint8_t *bytes, size_t n, size_t at)
{
    const size_t behind = at + sizeof(uint32_t);
    uLong crc = crc32_z(0, bytes, at);
    crc = crc32_z(crc, bytes + behind, n - behind);
    return (uint32_t)crc;
}

void hn_fed_raw_digest(const char hex[HN_SHA256_HEX], uint8_t digest[HN_FED_DIGEST])
{
    for (int i = 0; i < HN_FED_DIGEST; i++) {
        unsigned byte = 0;
        sscanf(hex + (ptrdiff_t)2 * i, "%2x", &byte);
        digest[i] = (uint8_t)byte;
    }
}
