/* client_schedule.h - which clients are asked in a round, and what becomes of them.
 *
 * Clients   `per_round` of `clients`, uniformly without replacement, in ascending order.
 * Fate      each asked client drops out (sends nothing) with probability `dropout`; one that does
 *           not is late with probability `late` and then does only a share of its local steps,
 *           uniform in [late_least, 1).
 * A round is a function of (options, round) alone: every method and every run with the same
 * seed sees the same clients, and resuming replays nothing.
 * Errors    HN_ERR_ARG naming the option and its range; HN_ERR_MEMORY
 */
#ifndef HN_CLIENT_SCHEDULE_H
#define HN_CLIENT_SCHEDULE_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t clients, per_round; /* 1 <= per_round <= clients */
    uint64_t seed;
    double dropout, late; /* probabilities in [0, 1) */
    double late_least;    /* in (0, 1] */
} hn_fed_schedule;

typedef enum { HN_FED_WORKS, HN_FED_DROPS, HN_FED_LATE } hn_fed_fate;

typedef struct {
    int64_t client; /* in [0, clients) */
    hn_fed_fate fate;
    double share; /* of its local steps: 1, 0 (drops out), or that of a late one */
} hn_fed_call;

/* round    at least 0
 * out      [per_round] */
HN_NODISCARD hn_status hn_fed_schedule_round(const hn_fed_schedule *s, int64_t round,
                                             hn_fed_call *out);

#ifdef __cplusplus
}
#endif
#endif
