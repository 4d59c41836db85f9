/* sparse_order.h - selection and order of many floats in linear time, for sparse_select.c.
 *
 * Radix on 32-bit keys that are ordered as the floats are; 0 and -0 are equal; no NaN.
 *
 *   hn_mark_largest(score, n, k, 1, mark);    mark[i] = 1 for the k largest, ties: lower i
 *   hn_order_by_key(key, n, order)            ascending and stable
 */
#ifndef HN_SPARSE_ORDER_H
#define HN_SPARSE_ORDER_H
#include <stdint.h>
#include <string.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline uint32_t hn_float_key(float v)
{
    uint32_t u;
    v += 0.0f; /* -0 becomes 0 */
    memcpy(&u, &v, sizeof u);
    return u >> 31 ? ~u : u | 0x80000000u;
}

/* Sets mark[i] = value for the k largest of v[0..n); leaves the others. 0 <= k <= n. */
void hn_mark_largest(const float *v, int64_t n, int64_t k, uint8_t value, uint8_t *mark);

/* order out [n]: places of the keys in ascending order, equal ones in the order they have.
 * n < 2^31. Errors: HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_order_by_key(const uint32_t *key, int64_t n, int32_t *order);

#ifdef __cplusplus
}
#endif
#endif
