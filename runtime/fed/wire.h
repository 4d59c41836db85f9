/* wire.h - what the messages of this folder share; for it only. */
#ifndef HN_FED_WIRE_H
#define HN_FED_WIRE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/save.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "a message is written as it lies in memory, little-endian"
#endif

enum { HN_FED_DIGEST = 32 };

/* CRC-32 of n bytes without the four at `at`, where it stands itself. */
uint32_t hn_fed_checksum(const uint8_t *bytes, size_t n, size_t at);
/* 64 hexadecimal digits as bytes. */
void hn_fed_raw_digest(const char hex[HN_SHA256_HEX], uint8_t digest[HN_FED_DIGEST]);

#endif
