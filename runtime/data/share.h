/* share.h - which micro-batches of every optimizer step a rank has.
 *
 * A step has per_step of them, numbered on from the step before. Rank r of R has those with the
 * numbers r, r + R, r + 2 R, ... in the step, so that the numbers of all ranks together are those
 * of one rank alone; some ranks may have one more than others, or none. */
#ifndef HN_SHARE_H
#define HN_SHARE_H
#include <stdint.h>

typedef struct {
    int64_t rank, ranks, per_step; /* ranks 0 or 1: all of them */
} hn_share;

static inline int64_t hn_share_own(hn_share s) /* of a step */
{
    if (s.ranks <= 1) return s.per_step > 0 ? s.per_step : 1;
    return s.rank < s.per_step ? (s.per_step - s.rank + s.ranks - 1) / s.ranks : 0;
}

/* The number of this rank's k-th micro-batch behind `first`, with which a step begins. */
static inline int64_t hn_share_at(hn_share s, int64_t first, int64_t k)
{
    const int64_t own = hn_share_own(s);
    if (s.ranks <= 1 || own == 0) return first + k;
    return first + k / own * s.per_step + s.rank + k % own * s.ranks;
}
#endif
