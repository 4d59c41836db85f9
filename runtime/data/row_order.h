/* row_order.h - the order in which an epoch visits its rows.
 *
 * A keyed permutation of 0 .. rows-1: row i of an epoch is a function of (seed, epoch, stream) and
 * of nothing else, so an epoch needs neither memory nor set-up, and resuming replays nothing.
 * Six Feistel rounds permute the next power of four; numbers at or above `rows` are permuted again.
 */
#ifndef HN_ROW_ORDER_H
#define HN_ROW_ORDER_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t seed, stream; /* stream: hn_hash_name of what is ordered */
    int64_t rows;
    int half_bits; /* the permutation works on 2 * half_bits bits */
} hn_row_order;

/* rows at least 1, below 2^62 */
hn_row_order hn_row_order_make(uint64_t seed, uint64_t stream, int64_t rows);
/* i in [0, rows) */
int64_t hn_row_order_at(const hn_row_order *o, int64_t epoch, int64_t i);

#ifdef __cplusplus
}
#endif
#endif
