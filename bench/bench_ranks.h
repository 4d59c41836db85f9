/* bench_ranks.h - several GPUs for the programs that time training steps: --gpus N.
 *
 * Every rank does the same number of steps, so --seconds does not count then, --steps does. Rank 0
 * prints. */
#ifndef HN_BENCH_RANKS_H
#define HN_BENCH_RANKS_H
#include "runtime/comm/hn_comm.h"
#include "runtime/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int rank, size; /* size 1: nothing else is set */
    hn_hub *hub;
    hn_comm *comm;
    hn_device *device; /* NULL: the caller's to open */
} hn_bench_ranks;

/* --gpus: "all" that are visible, or so many. Errors: HN_ERR_ARG, HN_ERR_UNSUPPORTED: none is */
HN_NODISCARD hn_status hn_bench_gpus(const char *gpus, int *n);
/* The GPU of a rank. */
HN_NODISCARD hn_status hn_bench_rank_device(const hn_ranks *r, hn_device **out);

/* Forks the ranks where gpus is not "1" ("all", or a number) and no launcher has started any, and
 * opens each one's device and their sums. A process that has only waited for its ranks exits here.
 * Before anything that starts threads. */
HN_NODISCARD hn_status hn_bench_ranks_open(const char *gpus, const hn_log *log,
                                           hn_bench_ranks *out);
/* st: how this rank's work has ended. Behind the engine; the device is closed, too. */
void hn_bench_ranks_close(hn_bench_ranks *r, hn_status st);

#ifdef __cplusplus
}
#endif
#endif
