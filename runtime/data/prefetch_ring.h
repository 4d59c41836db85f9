/* prefetch_ring.h - a thread that fills the slots of a ring ahead of its reader.
 *
 * The thread fills slot (n_filled % n), the reader gets slot (n_given % n). The slot that was given
 * out last stays untouched, so the thread stops one short of it. */
#ifndef HN_PREFETCH_RING_H
#define HN_PREFETCH_RING_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Item `number`, counted from the first that was asked for, into a slot; runs on the thread. */
typedef hn_status (*hn_ring_fill)(void *context, int64_t number, int slot);

typedef struct hn_ring hn_ring;

/* n        slots, at least 2
 * n_total  items to give out; -1: no end
 * Errors   HN_ERR_ARG, HN_ERR_MEMORY, HN_ERR_THREAD */
HN_NODISCARD hn_status hn_ring_start(hn_ring_fill fill, void *context, int n, int64_t n_total,
                                     hn_ring **out);
/* The next item's slot, valid until the next call; -1 behind the last. Allocates nothing.
 * Errors   what `fill` met, with its words */
HN_NODISCARD hn_status hn_ring_next(hn_ring *r, int *slot);
void hn_ring_stop(hn_ring *r); /* accepts NULL; waits for the thread, frees r */

#ifdef __cplusplus
}
#endif
#endif
