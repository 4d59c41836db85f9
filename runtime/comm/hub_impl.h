/* hub_impl.h - a hub from inside; for this folder only.
 *
 * hub.c opens and closes, hub_join.c brings the ranks together, hub_file.c publishes where,
 * hub_watch.c is the watchdog's thread, hub_collect.c the collectives of the calling thread.
 *
 * Who touches what: data sockets and `flow` belong to the calling thread (the watchdog shuts the
 * sockets down, but never closes them); watch sockets and the rest of a peer belong to the
 * watchdog's thread while it runs; what stands under `mutex` belongs to both. */
#ifndef HN_HUB_IMPL_H
#define HN_HUB_IMPL_H
#include <pthread.h>

#include "runtime/comm/hub.h"
#include "runtime/comm/hub_socket.h"
#include "runtime/comm/hub_wire.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_HUB_FLUSH_MS = 2000, /* most time for last words */
    HN_HUB_FRAME_MAX = (int)HN_HUB_FRAME + (int)HN_HUB_TEXT,
    HN_HUB_LINGER_MS = 2000 /* from a data connection that breaks to a verdict of its own */
};

/* Another rank; on ranks other than 0 only peer 0 has sockets. */
typedef struct {
    int data, watch; /* sockets; -1: none */
    char host[HN_HUB_HOST_TEXT];
    /* the watchdog's */
    bool bye;           /* it said goodbye */
    hn_hub_place at;    /* as it said last */
    int64_t heard_ns;   /* when that was */
    size_t n_in, n_out; /* bytes in the buffers */
    uint8_t in[HN_HUB_FRAME_MAX], out[2 * HN_HUB_FRAME_MAX];
} hn_hub_peer;

/* Bytes on their way to and from one peer during a collective. Positions count from its beginning;
 * position p of `in` lies at in[p % ring]. */
typedef struct {
    int fd, rank;
    const char *out;
    char *in;
    size_t out_at, out_ready, out_n; /* sent, allowed now, all */
    size_t in_at, in_ready, in_n;    /* received, allowed now, all */
    size_t ring;
} hn_hub_flow;

struct hn_hub {
    int rank, size, n_peers; /* n_peers: how many have sockets */
    hn_hub_key key;
    char *address, *file; /* copies; NULL: not given */
    int listener;         /* -1: none */
    int newcomers;        /* rank 0: connections that may wait for their turn at once */
    bool local;
    double timeout_s, report_s;
    int64_t beat_ns, silent_ns, stall_ns, grace_ns; /* stall_ns 0: never */
    const hn_log *log;
    hn_hub_peer *peer; /* [size] */

    /* collectives */
    uint64_t number;
    size_t chunk;      /* bytes that are summed at a time */
    char *stage;       /* rank 0: [size - 1][2 * chunk] */
    hn_hub_flow *flow; /* [size] */
    struct pollfd *data_poll, *watch_poll;

    /* shared */
    pthread_t thread;
    bool has_thread;
    int wake[2]; /* a pipe: wakes the watchdog */
    pthread_mutex_t mutex;
    pthread_cond_t changed;  /* said, dead */
    pthread_mutex_t calling; /* held while callbacks run */
    hn_hub_callbacks callbacks;
    /* under mutex */
    int64_t moved_ns; /* last sign of progress of this rank */
    hn_hub_phase phase;
    int64_t step;
    bool waiting;          /* in a collective */
    bool closing;          /* hn_hub_close was called */
    bool failed;           /* hn_hub_fail was called */
    bool said;             /* and rank 0 knows */
    char why[HN_HUB_TEXT]; /* what it said */
    bool suspects;         /* a data connection broke */
    int suspect;           /* that of this rank */
    int64_t suspect_ns;
    char suspect_why[HN_HUB_TEXT / 2];
    bool dead;
    char line[HN_HUB_TEXT]; /* about the rank that died; never changes once `dead` is set */
};

/* ---- hub_join.c ---- */

/* All connections and names. Errors: as hn_hub_open. */
HN_NODISCARD hn_status hn_hub_join(hn_hub *h);

/* ---- hub_file.c ---- */

enum { HN_HUB_PLACES = 16 }; /* addresses in a rendezvous file */
typedef struct {
    int n;
    hn_socket_target place[HN_HUB_PLACES];
} hn_hub_places;

/* Errors  HN_ERR_IO, HN_ERR_WRITE; HN_ERR_COMM: no address of this host */
HN_NODISCARD hn_status hn_hub_file_write(const char *path, const hn_hub_key *key, bool local,
                                         int port);
/* Errors  HN_ERR_IO: no file yet; HN_ERR_FORMAT: no rendezvous of this job */
HN_NODISCARD hn_status hn_hub_file_read(const char *path, const hn_hub_key *key,
                                        hn_hub_places *out);

/* ---- hub_watch.c ---- */

HN_NODISCARD hn_status hn_hub_watch_start(hn_hub *h);
void hn_hub_watch_stop(hn_hub *h); /* says goodbye, waits for the thread; accepts none */
void hn_hub_wake(hn_hub *h);
/* A data connection to `rank` broke: waits until the watchdog knows who died. Returns HN_ERR_COMM.
 */
HN_NODISCARD hn_status hn_hub_suspect(hn_hub *h, int rank, const char *why);
/* HN_OK, or HN_ERR_COMM with the line about who died. */
HN_NODISCARD hn_status hn_hub_alive(hn_hub *h);

/* The calling thread has got on. */
void hn_hub_moved(hn_hub *h);

/* "2, 5-7": ranks whose flag is not set; " ..." where n bytes (at least 5) hold no more. */
void hn_hub_missing(const bool *here, int size, char *out, size_t n);

#ifdef __cplusplus
}
#endif
#endif
