/* launch.h - starts the ranks of a job on this host and stands by until all have gone.
 *
 * hn_launch forks, and returns once in every rank and once, at the end, in the process that called
 * it. A rank goes on in the same program; what it is stands in its environment (HONE_RANK,
 * HONE_RANKS, HONE_LOCAL_RANK, HONE_LOCAL_RANKS, HONE_JOB, HONE_RENDEZVOUS,
 * HONE_RENDEZVOUS_SECRET, in rank 0 HONE_LISTEN_FD), where hn_ranks_find (ranks.h) finds it. The
 * socket that rank 0 listens on is open before the first fork: no port can be lost to others. The
 * secret is 128 random bits.
 *
 * To be called before the program has started a thread, run an OpenMP region or called CUDA; a
 * process that has may not fork. How many GPUs there are is therefore asked in a process of its own
 * (hn_launch_count_devices).
 *
 * The caller's process then only waits.
 *   - SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP and SIGCONT that it receives go
 * to every rank, once each: the ranks are process groups of their own, which a terminal's Ctrl-C
 *     does not reach. Ignored ones (nohup) stay ignored.
 *   - A rank that a signal ended is named in a warning.
 *   - After the first rank that failed (a signal, an exit code other than 0) the others get
 *     `leave_s` to leave by themselves, then SIGTERM, and `kill_s` after the failure SIGKILL.
 *   - A rank that ends with 0 is done; the others go on.
 *   - If it dies itself, even by SIGKILL, so do the ranks (on Linux).
 */
#ifndef HN_LAUNCH_H
#define HN_LAUNCH_H
#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int n;             /* ranks, 1 to HN_RANKS_MAX */
    double leave_s;    /* 0: 10 */
    double kill_s;     /* 0: 25; at least leave_s */
    const hn_log *log; /* NULL: silence */
} hn_launch_options;

typedef struct {
    bool is_rank;  /* this process is one of the ranks: go on; else all have gone: exit */
    int rank;      /* of a rank */
    int exit_code; /* for the caller's process: 0 if all ranks ended with 0; 2 if one ended with 2,
                    * and none died by itself of a signal; 128 + n if ranks were ended by signal n
                    * and it was the caller's process that got it; else 1 */
} hn_launched;

/* out     changed only on success; ranks get here on success only
 * Errors  HN_ERR_ARG: options; HN_ERR_UNSUPPORTED: this process has several threads already;
 *         HN_ERR_COMM: no socket on the loopback interface; HN_ERR_IO: no random bits;
 *         HN_ERR_THREAD: a rank could not be forked (those that were have been ended);
 *         HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_launch(const hn_launch_options *o, hn_launched *out);

/* GPUs that a program would see, found by a process that ends with the question
 * (hn_device_count in runtime/device/device.h).
 * n       out, 0 where there are none
 * why     out, one line if n is 0; NULL: not wanted
 * Errors  those of hn_device_count; HN_ERR_CUDA: the process died; HN_ERR_THREAD: no process */
HN_NODISCARD hn_status hn_launch_count_devices(int *n, char *why, size_t size);

#ifdef __cplusplus
}
#endif
#endif
