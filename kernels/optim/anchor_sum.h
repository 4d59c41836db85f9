/* anchor_sum.h - the pieces in which the penalty of anchor.h is summed. For its sources only. */
#ifndef HN_ANCHOR_SUM_H
#define HN_ANCHOR_SUM_H
#include <stdint.h>

enum { HN_ANCHOR_BLOCK_ = 4096 }; /* elements; they fit the first cache */

static inline int64_t hn_anchor_blocks_(int64_t n)
{
    return n > 0 ? (n + HN_ANCHOR_BLOCK_ - 1) / HN_ANCHOR_BLOCK_ : 1;
}
#endif
