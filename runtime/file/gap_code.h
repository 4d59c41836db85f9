/* gap_code.h - ascending ids as gaps in Golomb-Rice code.
 *
 * The gap of an id is the number of ids left out before it. A gap is written as gap >> k ones, a
 * zero, and the k low bits of the gap, lowest first; bits fill bytes from the lowest on, the last
 * byte ends with zeros. With k = floor(log2(0.69 / density)) (0 from 34.5 % on) an id takes about
 * 8.1 bits at 1 %, 11.4 at 0.1 %, and one bit where every id is there: never more than a bitmap.
 *
 * Use   k = hn_gap_k(n, range);  hn_gap_encode(id, n, k, &bytes, &n_bytes);  hn_free(bytes);
 *       hn_gap_decode(bytes, n_bytes, n, range, k, where, id);
 * Source  Golomb, 1966; Rice and Plaunt, 1971; spec/delta.md part 4.
 */
#ifndef HN_GAP_CODE_H
#define HN_GAP_CODE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_GAP_MAX_K = 30 };

int hn_gap_k(int64_t n, int64_t range); /* of n ids in [0, range) */

/* id      in [n] ascending, each once, not negative
 * *bytes  new, hn_free it
 * Errors  HN_ERR_ARG naming the first id out of order; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_gap_encode(const int32_t *id, int64_t n, int k, uint8_t **bytes,
                                     int64_t *n_bytes);

/* The bytes are hostile: they must be exactly what encode makes of n ids in [0, range).
 * id      out [n]; the caller has checked n <= 8 n_bytes, or allocates for nothing
 * where   names them in errors
 * Errors  HN_ERR_FORMAT: an id at or above range, bytes that end early or are left over */
HN_NODISCARD hn_status hn_gap_decode(const uint8_t *bytes, int64_t n_bytes, int64_t n,
                                     int64_t range, int k, const char *where, int32_t *id);

#ifdef __cplusplus
}
#endif
#endif
