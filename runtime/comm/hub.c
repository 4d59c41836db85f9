#define _DEFAULT_SOURCE /* gethostname */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/comm/hub_impl.h"

enum {
    CHUNK_MOST = 256 << 10, /* bytes summed at a time: stays in a core's cache */
    CHUNK_LEAST = 4 << 10,
    STAGE_MOST = 64 << 20 /* what rank 0 spends on chunks of others, as far as CHUNK_LEAST allows */
};

static double or_default(double value, double initial) { return value != 0 ? value : initial; }

static hn_status settle(const hn_hub_options *o, hn_hub *h)
{
    const double most = 1e8; /* seconds; as nanoseconds far from overflow */
    const struct {
        const char *name;
        double given, initial;
    } time[] = {{"timeout_s", o->timeout_s, 300}, {"report_s", o->report_s, 30},
                {"beat_s", o->beat_s, 1},         {"silent_s", o->silent_s, 15},
                {"stall_s", o->stall_s, 600},     {"grace_s", o->grace_s, 5}};
    double s[6];
    for (int i = 0; i < 6; i++) {
        s[i] = or_default(time[i].given, time[i].initial);
        if (i == 4 && s[i] < 0) s[i] = 0; /* never */
        if (!(s[i] >= 0.001 && s[i] <= most) && !(i == 4 && s[i] == 0))
            return HN_FAIL(HN_ERR_ARG, "%s %g: 0.001 to %g seconds", time[i].name, s[i], most);
    }
    if (s[3] < 3 * s[2])
        return HN_FAIL(HN_ERR_ARG, "silent_s %g: at least 3 beats of %g s", s[3], s[2]);
    h->timeout_s = s[0];
    h->report_s = s[1];
    h->beat_ns = (int64_t)(s[2] * 1e9);
    h->silent_ns = (int64_t)(s[3] * 1e9);
    h->stall_ns = (int64_t)(s[4] * 1e9);
    h->grace_ns = (int64_t)(s[5] * 1e9);
    return HN_OK;
}

static bool given(const char *text) { return text != NULL && *text != '\0'; }

static hn_status check(const hn_hub_options *o)
{
    const bool address = given(o->address), file = given(o->file);
    hn_socket_target t;
    if (o->size < 1 || o->size > HN_HUB_MAX_RANKS || o->rank < 0 || o->rank >= o->size)
        return HN_FAIL(HN_ERR_ARG, "rank %d of %d: 0 <= rank < size <= %d", o->rank, o->size,
                       HN_HUB_MAX_RANKS);
    if (address && file)
        return HN_FAIL(HN_ERR_ARG, "ranks meet at an address (%s) or through a file (%s), not both",
                       o->address, o->file);
    if (address) HN_TRY(hn_socket_target_read(o->address, &t));
    if (o->listen_fd != 0 && o->rank != 0)
        return HN_FAIL(HN_ERR_ARG, "rank %d has a socket to listen on; only rank 0 listens",
                       o->rank);
    if (o->size > 1 && !address && !file && o->listen_fd == 0)
        return HN_FAIL(HN_ERR_ARG, "%d ranks, but no address and no file where they meet", o->size);
    return HN_OK;
}

static hn_status name_host(const hn_hub_options *o, hn_hub *h)
{
    char *host = h->peer[h->rank].host;
    if (given(o->host))
        snprintf(host, HN_HUB_HOST_TEXT, "%s", o->host);
    else if (gethostname(host, HN_HUB_HOST_TEXT - 1) != 0 || host[0] == '\0')
        snprintf(host, HN_HUB_HOST_TEXT, "an unnamed host");
    hn_hub_one_line(host);
    return HN_OK;
}

/* Rank 0 holds two descriptors for each other rank, and those of newcomers for a while: two a rank
 * and some strangers, fewer where the limit is low. The soft limit goes up as far as that takes and
 * the hard one lets it. */
static hn_status take_descriptors(hn_hub *h)
{
    enum { STRANGERS = 64, OWN = 64 };
    struct rlimit l;
    const rlim_t ranks = 2 * (rlim_t)h->size, most = 2 * ranks + STRANGERS + OWN,
                 least = ranks + STRANGERS + OWN;
    h->newcomers = (int)(ranks + STRANGERS);
    if (h->rank != 0 || getrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur == RLIM_INFINITY ||
        l.rlim_cur >= most)
        return HN_OK;
    l.rlim_cur = l.rlim_max == RLIM_INFINITY || l.rlim_max > most ? most : l.rlim_max;
    if (l.rlim_cur < least || setrlimit(RLIMIT_NOFILE, &l) != 0)
        return HN_FAIL(HN_ERR_COMM,
                       "rank 0 needs %lu file descriptors, the limit is %lu (ulimit -Hn)",
                       (unsigned long)least, (unsigned long)l.rlim_max);
    h->newcomers = (int)(l.rlim_cur - ranks - OWN);
    return HN_OK;
}

static hn_status make_tables(hn_hub *h)
{
    const size_t others = (size_t)h->size - 1;
    h->chunk = STAGE_MOST / (2 * (others ? others : 1)) & ~(size_t)63;
    if (h->chunk > CHUNK_MOST) h->chunk = CHUNK_MOST;
    if (h->chunk < CHUNK_LEAST) h->chunk = CHUNK_LEAST;
    const size_t stage = h->rank == 0 ? others * 2 * h->chunk : 0;
    h->flow = hn_calloc((size_t)h->size, sizeof *h->flow);
    h->data_poll = hn_calloc((size_t)h->size, sizeof *h->data_poll);
    h->watch_poll = hn_calloc((size_t)h->size + 1, sizeof *h->watch_poll);
    h->stage = stage ? hn_malloc(stage) : NULL;
    if (!h->flow || !h->data_poll || !h->watch_poll || (stage && !h->stage))
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for sums over %d ranks", stage, h->size);
    return HN_OK;
}

static hn_status make(const hn_hub_options *o, hn_hub **out)
{
    pthread_condattr_t monotonic;
    hn_hub *h = hn_calloc(1, sizeof *h);
    if (h == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a hub", sizeof *h);
    h->rank = o->rank;
    h->size = o->size;
    h->local = o->local;
    h->log = o->log;
    h->listener = h->wake[0] = h->wake[1] = -1;
    h->step = -1;
    h->phase = HN_HUB_AT_OPEN;
    h->moved_ns = hn_clock_ns();
    pthread_mutex_init(&h->mutex, NULL);
    pthread_mutex_init(&h->calling, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = h;
    h->peer = hn_calloc((size_t)h->size, sizeof *h->peer);
    if (h->peer == NULL) return HN_FAIL(HN_ERR_MEMORY, "a hub of %d ranks", h->size);
    for (int r = 0; r < h->size; r++)
        h->peer[r] = (hn_hub_peer){.data = -1, .watch = -1, .at = {.step = -1}};
    h->address = given(o->address) ? hn_strdup(o->address) : NULL;
    h->file = given(o->file) ? hn_strdup(o->file) : NULL;
    if ((given(o->address) && !h->address) || (given(o->file) && !h->file))
        return HN_FAIL(HN_ERR_MEMORY, "where the ranks meet");
    HN_TRY(settle(o, h));
    HN_TRY(name_host(o, h));
    if (h->size == 1) return HN_OK;
    HN_TRY(take_descriptors(h));
    HN_TRY(make_tables(h));
    return hn_hub_key_make(o->job, o->secret, &h->key);
}

hn_status hn_hub_open(const hn_hub_options *o, hn_hub **out)
{
    hn_hub *h = NULL;
    int listener = o->listen_fd != 0 ? o->listen_fd : -1;
    hn_status st = check(o);
    if (st == HN_OK) st = make(o, &h);
    if (st != HN_OK) goto done;
    if (h->size > 1) {
        h->listener = listener;
        listener = -1;
        HN_TRY_GOTO(st, hn_hub_join(h), done);
        HN_TRY_GOTO(st, hn_hub_watch_start(h), done);
    }
    *out = h;
    h = NULL;

done:
    hn_socket_close(&listener);
    hn_hub_close(h);
    return st;
}

void hn_hub_close(hn_hub *h)
{
    if (h == NULL) return;
    hn_hub_watch_stop(h);
    for (int r = 0; h->peer != NULL && r < h->size; r++) {
        hn_socket_close(&h->peer[r].data);
        hn_socket_close(&h->peer[r].watch);
    }
    hn_socket_close(&h->listener);
    hn_socket_close(&h->wake[0]);
    hn_socket_close(&h->wake[1]);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mutex);
    pthread_mutex_destroy(&h->calling);
    hn_free(h->peer);
    hn_free(h->address);
    hn_free(h->file);
    hn_free(h->stage);
    hn_free(h->flow);
    hn_free(h->data_poll);
    hn_free(h->watch_poll);
    memset(&h->key, 0, sizeof h->key);
    hn_free(h);
}

int hn_hub_rank(const hn_hub *h) { return h->rank; }
int hn_hub_size(const hn_hub *h) { return h->size; }

const char *hn_hub_host(const hn_hub *h, int rank)
{
    return rank >= 0 && rank < h->size ? h->peer[rank].host : "?";
}
