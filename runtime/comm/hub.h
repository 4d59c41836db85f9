/* hub.h - the ranks of a job know each other: small exchanges over TCP, and a watchdog.
 *
 * Rank 0 listens, every other rank opens two connections to it. One is for data: the calling
 * thread's collectives (share, gather, barrier, sums). The other is the watchdog's: a thread on
 * each rank sends a beat with its phase and step, rank 0 hears them all and tells the others who
 * died.
 *
 * Who may join: a rank proves with HMAC-SHA256 over a fresh number of the listener that it has the
 * job's identity and secret; the listener proves the same to it. Neither goes over the network.
 * What follows is not encrypted. Version of hone, number of ranks and rank have to fit. Strangers
 * are dropped and named in a warning; the job goes on. Once all ranks are there nobody listens.
 *
 * A rank is dead when
 *   - its connection is closed without a goodbye (killed),
 *   - nothing was heard of it for `silent_s` (its host or network is gone, the process is stopped),
 *   - it said so itself (hn_hub_fail, or `check` of hn_hub_watch),
 *   - it stalls: it is in HN_HUB_AT_STEP, HN_HUB_AT_EVALUATE, HN_HUB_AT_CLIENTS or
 *     HN_HUB_AT_MEASURE, no hn_hub_at or collective came for `stall_s`, and it is not waiting for
 *     others in a collective of the hub.
 * While any rank is in another phase and not waiting itself, nobody stalls: others wait for it
 * lawfully. Of several the one with the lowest step is named.
 *   - it says goodbye (hn_hub_close) while others wait for it in a collective.
 * Then every other rank gives one line to its log, such as
 *   rank 3 on gnode7 died in phase 'step' at step 120 (connection closed)
 * calls `abort` of hn_hub_watch, and collectives return HN_ERR_COMM with the same text. A process
 * that is still there `grace_s` later is ended by the watchdog with _exit(1), whatever its main
 * thread hangs in. A program whose call failed while hn_hub_dead() is not NULL has had its line: it
 * prints nothing more and leaves with 1. With the defaults all ranks are gone within 30 s. Of
 * several that die together the first one found is named; if rank 0 dies, the others name rank 0.
 *
 * Calls come from one thread, but for hn_hub_at, hn_hub_fail, hn_hub_dead and hn_hub_host, which
 * any thread may call. Every rank makes the same collective calls in the same order with the same
 * sizes; a call that does not fit is an error on all ranks, which names both. Open before or after
 * other threads start; a process with an open hub must not fork. The calling thread's collectives
 * allocate nothing after hn_hub_open. One rank: no sockets, no thread, every collective returns at
 * once.
 */
#ifndef HN_HUB_H
#define HN_HUB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a rank does; the text is what messages say. A step of CLIENTS, MEASURE and SERVER is a
 * round. */
/* clang-format off */
#define HN_HUB_PHASE_LIST(X)      \
    X(OPEN,     "open")       \
    X(LOAD,     "load")       \
    X(CHOOSE,   "choose")     \
    X(STEP,     "step")       \
    X(EVALUATE, "evaluate")   \
    X(SAVE,     "save")       \
    X(CLIENTS,  "clients")    \
    X(MEASURE,  "measure")    \
    X(SERVER,   "server")     \
    X(END,      "end")

typedef enum {
#define X(name, text) HN_HUB_AT_##name,
    HN_HUB_PHASE_LIST(X)
#undef X
    HN_HUB_PHASES
} hn_hub_phase;
/* clang-format on */

enum {
    HN_HUB_MAX_RANKS = 4096,  /* at most */
    HN_HUB_HOST_TEXT = 64,    /* bytes of a host's name with the final zero; longer ones are cut */
    HN_HUB_SECRET_TEXT = 256, /* bytes of secret and of job with the final zero, each */
    HN_HUB_TEXT = 512         /* bytes of a line about a dead rank with the final zero */
};

typedef struct hn_hub hn_hub;

/* Texts: "" is the same as NULL. */
typedef struct {
    int rank, size;     /* 0 <= rank < size <= HN_HUB_MAX_RANKS */
    const char *host;   /* of this rank, for messages; NULL: gethostname */
    const char *job;    /* identity of the job: the same on all ranks, not NULL with size > 1 */
    const char *secret; /* NULL: none, who knows `job` may join */

    /* Where the ranks meet: one of `address` and `file`, the same on all ranks. Rank 0 may have
     * `listen_fd` besides, a socket that listens already (0: none); the hub owns it from the call
     * on, also when it fails.
     * address  "HOST:PORT", "[IPV6]:PORT": rank 0 listens on PORT, the others connect
     * file     path on a file system that all ranks see: rank 0 takes a free port and writes its
     *          addresses there. A file of another job is no answer; rank 0 removes its own when all
     *          ranks are there.
     * local    all ranks are on this host: rank 0 listens on the loopback interface only. Otherwise
     *          on all interfaces. */
    const char *address, *file;
    int listen_fd;
    bool local;

    /* Seconds; 0: the default. */
    double timeout_s; /* until all ranks have come, 300 */
    double report_s;  /* between lines that say who is missing, 30 */
    double beat_s;    /* between two beats, 1 */
    double silent_s;  /* without a beat until a rank is dead, 15; at least 3 beats */
    double stall_s;   /* without progress until a rank is dead, 600; negative: never */
    double grace_s;   /* from the line about a dead rank to _exit(1), 5 */

    /* Who is missing and which strangers came, while hn_hub_open waits, from the calling thread;
     * later the line about a rank that died, once, as a warning from the watchdog's thread.
     * Outlives the hub; NULL: silence. */
    const hn_log *log;
} hn_hub_options;

/* Returns when all ranks are there. Blocks for up to timeout_s and says every report_s which ranks
 * are missing (rank 0) or what it waits for (others). It takes no notice of signals: handlers that
 * only set a flag are better installed later.
 * Errors   HN_ERR_ARG: options; a number of ranks, version or rank that rank 0 refuses
 *          HN_ERR_COMM: ranks that did not come, or died meanwhile, by number; no network
 *          HN_ERR_MEMORY, HN_ERR_THREAD; HN_ERR_IO, HN_ERR_WRITE: `file` */
HN_NODISCARD hn_status hn_hub_open(const hn_hub_options *o, hn_hub **out);

/* Says goodbye, ends the watchdog, frees h; accepts NULL. Waits for nobody's work; at most 2 s for
 * the network. After a failure of this rank call hn_hub_fail first, else the others think that all
 * is well with it. */
void hn_hub_close(hn_hub *h);

int hn_hub_rank(const hn_hub *h);
int hn_hub_size(const hn_hub *h);
const char *hn_hub_host(const hn_hub *h, int rank); /* its name for messages; lives as long as h */

/* ---- collectives: all ranks call them ---- */

/* data  in on rank `root`, out on the others; n_bytes the same on all. */
HN_NODISCARD hn_status hn_hub_share(hn_hub *h, void *data, size_t n_bytes, int root);
/* mine  in, n_bytes, the same number on all
 * all   out, [size][n_bytes] in rank order; mine may be its own place in it, else no overlap */
HN_NODISCARD hn_status hn_hub_gather(hn_hub *h, const void *mine, size_t n_bytes, void *all);
HN_NODISCARD hn_status hn_hub_barrier(hn_hub *h);
/* x[i] = ((x_0[i] + x_1[i]) + x_2[i]) + ..., in rank order and in the type's own precision: the
 * same bits on all ranks and in every run. x in/out, n values. */
HN_NODISCARD hn_status hn_hub_sum_f32(hn_hub *h, float *x, int64_t n);
HN_NODISCARD hn_status hn_hub_sum_f64(hn_hub *h, double *x, int64_t n);

/* ---- from one rank to rank 0 ---- */

/* It calls hn_hub_pass, rank 0 hn_hub_fetch with its number and the same n_bytes; what one rank
 * passes comes in order, and before the next collective. As with collectives, a call that does not
 * fit is an error on both, nothing is allocated, and who waits is not to blame for a stall. Rank 0
 * may leave a rank waiting in hn_hub_pass as long as it has something else to do. */
HN_NODISCARD hn_status hn_hub_pass(hn_hub *h, const void *data, size_t n_bytes);
HN_NODISCARD hn_status hn_hub_fetch(hn_hub *h, int rank, void *data, size_t n_bytes);
/* Rank 0: whether hn_hub_fetch of that rank has something to begin with, or to complain about. */
bool hn_hub_comes(const hn_hub *h, int rank);

/* ---- the watchdog ---- */

/* Where this rank is; a call is a sign of progress (one a micro-batch, one a batch of an
 * evaluation, is the way). step: negative, none yet. */
void hn_hub_at(hn_hub *h, hn_hub_phase phase, int64_t step);

/* This rank cannot go on: the others name it with `text` (one line) and leave. Returns when rank 0
 * has it, at most 2 s later; the caller prints its own error, closes and exits with its own code,
 * within grace_s. The first call counts. h may be NULL. */
void hn_hub_fail(hn_hub *h, const char *text);

/* The line about the rank that died, NULL while nobody has. Lives as long as h. h may be NULL. */
const char *hn_hub_dead(const hn_hub *h);

/* What else the watchdog's thread does.
 * check  called with every beat; a text (valid until the next call) is a failure of this rank that
 * its main thread may not notice. Whoever died first makes others fail, too: the text counts only
 *        if nobody else is found dead within silent_s.
 * abort  called once when a rank is dead, to free a main thread that waits in a library; never
 *        called after hn_hub_watch took it away
 * Fields may be NULL; w NULL takes the last away. Returns when no call of the last is under way. */
typedef struct {
    const char *(*check)(void *context);
    void (*abort)(void *context);
    void *context;
} hn_hub_callbacks;
void hn_hub_watch(hn_hub *h, const hn_hub_callbacks *w);

#ifdef __cplusplus
}
#endif
#endif
