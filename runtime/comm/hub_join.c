/* Bringing the ranks together: rank 0 hears who comes, the others look for it. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/version.h"
#include "runtime/comm/hub_impl.h"

enum {
    WARNINGS = 16, /* lines about strangers */
    HELLO_S = 10,  /* a newcomer's time for its hello */
    DIAL_S = 5,    /* a rank's time for each address, and for each message of the listener */
    START_S = 30   /* more patience with rank 0 than it has with others */
};

static const int64_t second = 1000000000;

static int64_t ns_of(double seconds) { return (int64_t)(seconds * 1e9); }

void hn_hub_missing(const bool *here, int size, char *out, size_t n)
{
    size_t at = 0;
    out[0] = '\0';
    for (int r = 0; r < size; r++) {
        if (here[r]) continue;
        int last = r;
        while (last + 1 < size && !here[last + 1]) last++;
        const char *comma = at > 0 ? ", " : "";
        int k = last > r ? snprintf(out + at, n - at, "%s%d-%d", comma, r, last)
                         : snprintf(out + at, n - at, "%s%d", comma, r);
        if (k < 0 || (size_t)k + sizeof " ..." > n - at) {
            snprintf(out + at, n - at, " ...");
            return;
        }
        at += (size_t)k;
        r = last;
    }
}

static void nap(int64_t ns)
{
    const struct timespec t = {.tv_sec = (time_t)(ns / second), .tv_nsec = (long)(ns % second)};
    nanosleep(&t, NULL);
}

static bool is_literal_loopback(const char *host)
{
    return hn_socket_is_loopback(host) && host[0] != 'l' && host[0] != 'L';
}

/* ---- rank 0 ---- */

typedef struct {
    int fd;
    char name[HN_SOCKET_NAME];
    uint8_t greeting[HN_HUB_GREETING], hello[HN_HUB_HELLO];
    size_t got;
    int64_t until;
} newcomer;

typedef struct {
    hn_hub *h;
    newcomer *come; /* [room], the first n are there; the oldest makes room */
    int n, room, warnings;
    struct pollfd *poll; /* the listener, newcomers, both sockets of each rank */
    bool *here;          /* [size] */
    int64_t began, until, report;
} lobby;

static hn_status listen_somewhere(hn_hub *h)
{
    hn_socket_target t = {.host = ""};
    const char *port = NULL;
    if (h->listener >= 0) return hn_socket_adopt(h->listener);
    if (h->address) {
        HN_TRY(hn_socket_target_read(h->address, &t));
        port = t.port;
    }
    if (!h->local) return hn_socket_listen(NULL, port, &h->listener);
    if (is_literal_loopback(t.host)) return hn_socket_listen(t.host, port, &h->listener);
    if (hn_socket_listen("127.0.0.1", port, &h->listener) == HN_OK) return HN_OK;
    return hn_socket_listen("::1", port, &h->listener);
}

static void warn_of(lobby *l, const char *name, const char *why)
{
    if (l->warnings < WARNINGS) hn_warn(l->h->log, "%s was turned away: %s", name, why);
    if (++l->warnings == WARNINGS) hn_warn(l->h->log, "more that are turned away are not named");
}

static void drop(lobby *l, int i)
{
    hn_socket_close(&l->come[i].fd);
    l->come[i] = l->come[--l->n];
}

/* Why a rank that belongs to the job does not fit; "" if it does. */
static void misfit(const hn_hub *h, const hn_hub_hello *o, char *why, size_t n)
{
    const hn_hub_peer *p = o->rank < h->size ? &h->peer[o->rank] : NULL;
    why[0] = '\0';
    if (strcmp(o->version, HN_VERSION) != 0)
        snprintf(why, n, "it is hone %s, rank 0 is %s", o->version, HN_VERSION);
    else if (o->size != h->size)
        snprintf(why, n, "it counts %d ranks, rank 0 %d", o->size, h->size);
    else if (p == NULL)
        snprintf(why, n, "there is no rank %d of %d", o->rank, h->size);
    else if (o->rank == 0 || (o->channel == HN_HUB_DATA ? p->data : p->watch) >= 0)
        snprintf(why, n, "rank %d is there already, from %s", o->rank, p->host);
    else if (o->channel == HN_HUB_WATCH && p->data < 0)
        snprintf(why, n, "rank %d begins with the wrong connection", o->rank);
}

/* A whole hello lies in newcomer i: answers, and takes the connection or drops it. */
static hn_status meet(lobby *l, int i)
{
    hn_hub *h = l->h;
    newcomer *c = &l->come[i];
    hn_hub_hello o = {.rank = -1};
    hn_hub_peer_kind kind = hn_hub_hello_read(&h->key, c->greeting, c->hello, &o);
    uint8_t answer[HN_HUB_ANSWER];
    char why[HN_HUB_ANSWER_TEXT] = "", text[HN_HUB_TEXT];
    if (kind == HN_HUB_PEER_OK) {
        misfit(h, &o, why, sizeof why);
        if (why[0] != '\0') kind = HN_HUB_PEER_REFUSED;
        snprintf(text, sizeof text, "rank %d on %s (%s)", o.rank, o.host, c->name);
    }
    switch (kind) {
    case HN_HUB_PEER_STRANGER: warn_of(l, c->name, "it is no rank"); break;
    case HN_HUB_PEER_JOB: warn_of(l, c->name, "it is a rank of another job"); break;
    case HN_HUB_PEER_SECRET: warn_of(l, c->name, "its secret differs"); break;
    case HN_HUB_PEER_REFUSED: warn_of(l, text, why); break;
    case HN_HUB_PEER_OK: break;
    }
    const char *said = kind == HN_HUB_PEER_OK ? h->peer[0].host : why;
    HN_TRY(hn_hub_answer_make(&h->key, c->hello, kind, said, answer));
    /* A fresh connection has room for an answer; who makes none gets none. */
    size_t n = 0;
    const bool sent = kind != HN_HUB_PEER_STRANGER &&
                      hn_socket_send_some(c->fd, answer, sizeof answer, &n) == HN_OK &&
                      n == sizeof answer;
    if (sent && kind == HN_HUB_PEER_OK) {
        hn_hub_peer *p = &h->peer[o.rank];
        *(o.channel == HN_HUB_DATA ? &p->data : &p->watch) = c->fd;
        memcpy(p->host, o.host, sizeof p->host);
        l->here[o.rank] = p->data >= 0 && p->watch >= 0;
        c->fd = -1;
    }
    drop(l, i);
    return HN_OK;
}

/* Reads on; *gone: it was dropped or taken. */
static hn_status hear(lobby *l, int i, bool *gone)
{
    newcomer *c = &l->come[i];
    size_t n = 0;
    *gone = true;
    if (hn_socket_receive_some(c->fd, c->hello + c->got, HN_HUB_HELLO - c->got, &n) != HN_OK) {
        warn_of(l, c->name, "it left without a word");
        drop(l, i);
        return HN_OK;
    }
    c->got += n;
    if (c->got >= 8 && !hn_hub_greeting_ok(c->hello)) { /* the same first bytes */
        warn_of(l, c->name, "it is no rank");
        drop(l, i);
        return HN_OK;
    }
    if (c->got == HN_HUB_HELLO) return meet(l, i);
    *gone = false;
    return HN_OK;
}

static hn_status let_in(lobby *l)
{
    for (int k = 0; k < l->room; k++) {
        newcomer c = {.fd = -1, .until = hn_clock_ns() + HELLO_S * second};
        size_t n = 0;
        HN_TRY(hn_socket_accept(l->h->listener, &c.fd, c.name));
        if (c.fd < 0) return HN_OK;
        const hn_status st = hn_hub_greeting_make(c.greeting);
        if (st != HN_OK || hn_socket_send_some(c.fd, c.greeting, sizeof c.greeting, &n) != HN_OK ||
            n != sizeof c.greeting) {
            hn_socket_close(&c.fd);
            HN_TRY(st);
            continue;
        }
        if (l->n == l->room) {
            int oldest = 0;
            for (int i = 1; i < l->n; i++)
                if (l->come[i].until < l->come[oldest].until) oldest = i;
            warn_of(l, l->come[oldest].name, "it said nothing and others wait");
            drop(l, oldest);
        }
        l->come[l->n++] = c;
    }
    return HN_OK;
}

/* A rank that is there speaks or leaves before its turn. */
static hn_status left(lobby *l, int rank)
{
    hn_hub_peer *p = &l->h->peer[rank];
    if (!l->here[rank]) { /* between its two connections: it may come again */
        hn_socket_close(&p->data);
        hn_socket_close(&p->watch);
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_COMM, "rank %d on %s died in phase 'open' (connection closed)", rank,
                   p->host);
}

static hn_status look(lobby *l, int ms)
{
    hn_hub *h = l->h;
    const int n = l->n; /* newcomers that are polled */
    int at = 0;
    l->poll[at++] = (struct pollfd){.fd = h->listener, .events = POLLIN};
    for (int i = 0; i < n; i++)
        l->poll[at++] = (struct pollfd){.fd = l->come[i].fd, .events = POLLIN};
    for (int r = 1; r < h->size; r++) { /* poll() passes over descriptors of -1 */
        l->poll[at++] = (struct pollfd){.fd = h->peer[r].data, .events = POLLIN};
        l->poll[at++] = (struct pollfd){.fd = h->peer[r].watch, .events = POLLIN};
    }
    const int ready = poll(l->poll, (nfds_t)at, ms);
    if (ready < 0 && errno != EINTR)
        return HN_FAIL(HN_ERR_COMM, "poll %d sockets: %s", at, strerror(errno));
    if (ready <= 0) return HN_OK;
    for (int r = 1; r < h->size; r++)
        if (l->poll[1 + n + 2 * (r - 1)].revents || l->poll[2 + n + 2 * (r - 1)].revents)
            HN_TRY(left(l, r));
    for (int i = n - 1; i >= 0; i--) { /* dropping moves the last, which was seen already */
        bool gone = false;
        if (l->poll[1 + i].revents) HN_TRY(hear(l, i, &gone));
    }
    return l->poll[0].revents ? let_in(l) : HN_OK;
}

static void name_missing(const lobby *l, char out[HN_HUB_TEXT / 2])
{
    hn_hub_missing(l->here, l->h->size, out, HN_HUB_TEXT / 2);
}

static hn_status wait_for_all(lobby *l)
{
    hn_hub *h = l->h;
    char missing[HN_HUB_TEXT / 2];
    for (;;) {
        int64_t now = hn_clock_ns();
        bool all = true;
        for (int r = 0; r < h->size; r++) all = all && l->here[r];
        if (all) return HN_OK;
        name_missing(l, missing);
        if (now >= l->until)
            return HN_FAIL(HN_ERR_COMM, "of %d ranks these did not come within %g s: %s", h->size,
                           h->timeout_s, missing);
        if (now >= l->report) {
            hn_info(h->log, "waiting for rank%s %s of %d (%.0f s)",
                    strpbrk(missing, ",-") ? "s" : "", missing, h->size,
                    (double)(now - l->began) / 1e9);
            l->report += ns_of(h->report_s);
        }
        for (int i = l->n - 1; i >= 0; i--)
            if (now >= l->come[i].until) {
                warn_of(l, l->come[i].name, "it said nothing");
                drop(l, i);
            }
        HN_TRY(look(l, hn_poll_ms(l->report < l->until ? l->report : l->until, 1000)));
    }
}

/* A frame and its text to all ranks that are there. */
static hn_status tell_all(hn_hub *h, hn_hub_frame_kind kind, const char *text, size_t n_text)
{
    uint8_t head[HN_HUB_FRAME];
    const hn_hub_frame f = {.kind = kind, .n_text = (uint32_t)n_text, .at = {.step = -1}};
    hn_status st = HN_OK;
    hn_hub_frame_write(&f, head);
    for (int r = 1; r < h->size; r++) {
        const int64_t until = hn_clock_ns() + DIAL_S * second;
        if (h->peer[r].watch < 0) continue;
        if (hn_socket_send(h->peer[r].watch, head, sizeof head, until) != HN_OK ||
            hn_socket_send(h->peer[r].watch, text, n_text, until) != HN_OK)
            st = HN_FAIL(HN_ERR_COMM, "rank %d on %s died in phase 'open' (%s)", r, h->peer[r].host,
                         hn_last_text());
    }
    return st;
}

static hn_status start_all(hn_hub *h)
{
    const size_t n = (size_t)h->size * HN_HUB_HOST_TEXT;
    char *hosts = hn_calloc(1, n);
    if (hosts == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for names of hosts", n);
    for (int r = 0; r < h->size; r++)
        memcpy(hosts + (size_t)r * HN_HUB_HOST_TEXT, h->peer[r].host, HN_HUB_HOST_TEXT);
    const hn_status st = tell_all(h, HN_HUB_START, hosts, n);
    hn_free(hosts);
    return st;
}

static hn_status join_as_first(hn_hub *h)
{
    hn_status st = HN_OK;
    bool published = false;
    const int64_t now = hn_clock_ns();
    const size_t sockets = 2 * (size_t)h->size, room = (size_t)h->newcomers;
    lobby l = {.h = h,
               .room = (int)room,
               .began = now,
               .until = now + ns_of(h->timeout_s),
               .report = now + ns_of(h->report_s),
               .come = hn_calloc(room, sizeof *l.come),
               .here = hn_calloc((size_t)h->size, sizeof *l.here),
               .poll = hn_calloc(1 + room + sockets, sizeof *l.poll)};
    if (l.come == NULL || l.here == NULL || l.poll == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "tables for %d ranks", h->size);
        goto done;
    }
    l.here[0] = true;
    HN_TRY_GOTO(st, listen_somewhere(h), done);
    if (h->file) {
        int port = 0;
        HN_TRY_GOTO(st, hn_socket_port(h->listener, &port), done);
        HN_TRY_GOTO(st, hn_hub_file_write(h->file, &h->key, h->local, port), done);
        published = true;
    }
    HN_TRY_GOTO(st, wait_for_all(&l), done);
    HN_TRY_GOTO(st, start_all(h), done);

done:
    if (st != HN_OK && h->listener >= 0) {
        char text[HN_HUB_TEXT];
        snprintf(text, sizeof text, "%s", hn_last_text());
        (void)tell_all(h, HN_HUB_DEAD, text, strlen(text));
        st = HN_FAIL(st, "%s", text);
    }
    while (l.come && l.n > 0) drop(&l, 0);
    hn_socket_close(&h->listener);
    if (published) (void)unlink(h->file);
    hn_free(l.come);
    hn_free(l.here);
    hn_free(l.poll);
    return st;
}

/* ---- the others ---- */

/* Greeting, hello, answer. HN_ERR_ARG: rank 0 of this job refuses this rank. */
static hn_status introduce(hn_hub *h, hn_hub_channel channel, int fd)
{
    uint8_t greeting[HN_HUB_GREETING], hello[HN_HUB_HELLO], answer[HN_HUB_ANSWER];
    char text[HN_HUB_ANSWER_TEXT];
    hn_hub_hello me = {.channel = channel, .rank = h->rank, .size = h->size, .version = HN_VERSION};
    const int64_t until = hn_clock_ns() + DIAL_S * second;
    memcpy(me.host, h->peer[h->rank].host, sizeof me.host);
    HN_TRY(hn_socket_receive(fd, greeting, sizeof greeting, until));
    if (!hn_hub_greeting_ok(greeting))
        return HN_FAIL(HN_ERR_COMM, "what listens there is no rank 0 of hone");
    HN_TRY(hn_hub_hello_make(&h->key, greeting, &me, hello));
    HN_TRY(hn_socket_send(fd, hello, sizeof hello, until));
    HN_TRY(hn_socket_receive(fd, answer, sizeof answer, until));
    switch (hn_hub_answer_read(&h->key, hello, answer, text)) {
    case HN_HUB_PEER_OK: memcpy(h->peer[0].host, text, HN_HUB_HOST_TEXT - 1); return HN_OK;
    case HN_HUB_PEER_REFUSED:
        return HN_FAIL(HN_ERR_ARG, "rank 0 refuses rank %d: %s", h->rank, text);
    case HN_HUB_PEER_JOB: return HN_FAIL(HN_ERR_COMM, "rank 0 of another job listens there");
    case HN_HUB_PEER_SECRET: return HN_FAIL(HN_ERR_COMM, "the secret of who listens there differs");
    case HN_HUB_PEER_STRANGER: break;
    }
    return HN_FAIL(HN_ERR_COMM, "what listens there is no rank 0 of hone");
}

static hn_status dial(hn_hub *h, const hn_socket_target *t, int64_t until)
{
    hn_hub_peer *p = &h->peer[0];
    for (int channel = HN_HUB_DATA; channel <= HN_HUB_WATCH; channel++) {
        int *fd = channel == HN_HUB_DATA ? &p->data : &p->watch;
        hn_status st = hn_socket_connect(t->host, t->port, until, DIAL_S * second, fd);
        if (st == HN_OK) st = introduce(h, (hn_hub_channel)channel, *fd);
        if (st != HN_OK) {
            hn_socket_close(&p->data);
            hn_socket_close(&p->watch);
            return st;
        }
    }
    return HN_OK;
}

static hn_status places_of(const hn_hub *h, hn_hub_places *out)
{
    hn_hub_places p = {.n = 1};
    if (h->file) return hn_hub_file_read(h->file, &h->key, out);
    HN_TRY(hn_socket_target_read(h->address, &p.place[0]));
    if (h->local && !is_literal_loopback(p.place[0].host)) {
        p.n = 2;
        p.place[1] = p.place[0];
        snprintf(p.place[0].host, sizeof p.place[0].host, "127.0.0.1");
        snprintf(p.place[1].host, sizeof p.place[1].host, "::1");
    }
    *out = p;
    return HN_OK;
}

static hn_status find_first(hn_hub *h)
{
    const int64_t began = hn_clock_ns(), until = began + ns_of(h->timeout_s);
    int64_t report = began + ns_of(h->report_s), pause = second / 50;
    char why[HN_HUB_TEXT] = "";
    const char *where = h->file ? h->file : h->address;
    for (;;) {
        hn_hub_places p = {0};
        hn_status st = places_of(h, &p);
        if (st == HN_ERR_ARG) return st;
        for (int i = 0; i < p.n; i++) {
            st = dial(h, &p.place[i], until);
            if (st == HN_OK || st == HN_ERR_ARG || st == HN_ERR_MEMORY) return st;
        }
        snprintf(why, sizeof why, "%s", hn_last_text());
        const int64_t now = hn_clock_ns();
        if (now >= until)
            return HN_FAIL(HN_ERR_COMM, "rank %d did not reach rank 0 (%s) within %g s: %s",
                           h->rank, where, h->timeout_s, why);
        if (now >= report) {
            hn_info(h->log, "rank %d looks for rank 0 (%s, %.0f s): %s", h->rank, where,
                    (double)(now - began) / 1e9, why);
            report += ns_of(h->report_s);
        }
        nap(pause < until - now ? pause : until - now);
        if (pause < second) pause *= 2;
    }
}

/* Until rank 0 says that all are there. */
static hn_status wait_for_start(hn_hub *h)
{
    const int64_t until = hn_clock_ns() + ns_of(h->timeout_s) + START_S * second;
    const int fd = h->peer[0].watch;
    uint8_t bytes[HN_HUB_FRAME];
    hn_hub_frame f = {.n_text = 0};
    hn_status st = hn_socket_receive(fd, bytes, sizeof bytes, until);
    if (st != HN_OK)
        return HN_FAIL(st, "rank 0 on %s died in phase 'open' (%s)", h->peer[0].host,
                       hn_last_text());
    const size_t names = (size_t)h->size * HN_HUB_HOST_TEXT;
    if (!hn_hub_frame_read(bytes, &f) ||
        !(f.kind == HN_HUB_DEAD || (f.kind == HN_HUB_START && f.n_text == names)))
        return HN_FAIL(HN_ERR_COMM, "rank 0 on %s says what nobody understands", h->peer[0].host);
    char *text = hn_calloc(1, (size_t)f.n_text + 1);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "%u bytes from rank 0", (unsigned)f.n_text);
    st = hn_socket_receive(fd, text, f.n_text, until);
    if (st == HN_OK && f.kind == HN_HUB_DEAD) st = HN_FAIL(HN_ERR_COMM, "%s", text);
    for (int r = 0; st == HN_OK && r < h->size; r++) {
        memcpy(h->peer[r].host, text + (size_t)r * HN_HUB_HOST_TEXT, HN_HUB_HOST_TEXT - 1);
        hn_hub_one_line(h->peer[r].host);
    }
    hn_free(text);
    return st;
}

hn_status hn_hub_join(hn_hub *h)
{
    if (h->rank == 0) return join_as_first(h);
    HN_TRY(find_first(h));
    return wait_for_start(h);
}
