#define _GNU_SOURCE /* accept4, SOCK_CLOEXEC */
#include "runtime/comm/hub_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/clock.h"

enum { BACKLOG = 512 };

/* ---- names ---- */

static hn_status port_of(const char *text, const char *port)
{
    int value = 0, n = 0;
    for (; port[n] >= '0' && port[n] <= '9' && n < 5; n++) value = 10 * value + (port[n] - '0');
    if (n == 0 || port[n] != '\0' || value < 1 || value > 65535)
        return HN_FAIL(HN_ERR_ARG, "address '%s': '%s' is no port from 1 to 65535", text, port);
    return HN_OK;
}

hn_status hn_socket_target_read(const char *text, hn_socket_target *out)
{
    hn_socket_target t = {.host = ""};
    const char *host = text, *end = strrchr(text, ':');
    if (end == NULL) return HN_FAIL(HN_ERR_ARG, "address '%s': host:port is wanted", text);
    const char *const port = end + 1;
    if (text[0] == '[') {
        host++;
        end--;
        if (end < host || *end != ']')
            return HN_FAIL(HN_ERR_ARG, "address '%s': [ipv6]:port is wanted", text);
    } else if (memchr(text, ':', (size_t)(end - text)) != NULL) {
        return HN_FAIL(HN_ERR_ARG, "address '%s': an IPv6 address stands in brackets", text);
    }
    const size_t n = (size_t)(end - host);
    if (n == 0 || n >= sizeof t.host)
        return HN_FAIL(HN_ERR_ARG, "address '%s': a host of 1 to %zu bytes is wanted", text,
                       sizeof t.host - 1);
    HN_TRY(port_of(text, port));
    memcpy(t.host, host, n);
    snprintf(t.port, sizeof t.port, "%s", port);
    *out = t;
    return HN_OK;
}

bool hn_socket_is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcasecmp(host, "localhost") == 0;
}

static void name_of(const struct sockaddr *a, socklen_t n, char out[HN_SOCKET_NAME])
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    snprintf(out, HN_SOCKET_NAME, "an unknown address");
    if (getnameinfo(a, n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) ==
        0)
        snprintf(out, HN_SOCKET_NAME, strchr(host, ':') ? "[%.60s]:%.8s" : "%.60s:%.8s", host,
                 port);
}

/* ---- making ---- */

void hn_socket_close(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

int hn_poll_ms(int64_t until, int most_ms)
{
    const int64_t left = until - hn_clock_ns();
    if (left <= 0) return 0;
    const int64_t ms = (left + 999999) / 1000000;
    return ms < most_ms ? (int)ms : most_ms;
}

static void set(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value); /* wishes, not conditions */
}

/* Small messages leave at once; a connection that is idle for hours is kept open by firewalls. */
static void tune(int fd)
{
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 6);
#endif
}

static int listen_at(const struct addrinfo *a)
{
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (a->ai_family == AF_INET6) set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0); /* IPv4 as well */
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
    const int why = errno;
    close(fd);
    errno = why;
    return -1;
}

hn_status hn_socket_listen(const char *host, const char *port, int *fd)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV | AI_NUMERICHOST};
    struct addrinfo *list = NULL;
    const int rc = getaddrinfo(host, port ? port : "0", &hints, &list);
    if (rc != 0)
        return HN_FAIL(HN_ERR_COMM, "listen at %s: %s", host ? host : "all interfaces",
                       gai_strerror(rc));
    int got = -1, why = 0;
    /* IPv6 first: where it exists, its socket hears IPv4, too. */
    for (int v6 = 1; v6 >= 0 && got < 0; v6--)
        for (const struct addrinfo *a = list; a != NULL && got < 0; a = a->ai_next)
            if ((a->ai_family == AF_INET6) == v6) {
                got = listen_at(a);
                if (got < 0) {
                    why = errno;
                    if (why == EADDRINUSE) goto done; /* nobody else shall hear our IPv4 half */
                }
            }
done:
    freeaddrinfo(list);
    if (got < 0)
        return HN_FAIL(HN_ERR_COMM, "listen at %s, port %s: %s", host ? host : "all interfaces",
                       port ? port : "any", strerror(why));
    *fd = got;
    return HN_OK;
}

hn_status hn_socket_adopt(int fd)
{
    int listens = 0;
    socklen_t n = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) != 0 || listens == 0)
        return HN_FAIL(HN_ERR_ARG, "descriptor %d is no socket that listens", fd);
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return HN_FAIL(HN_ERR_COMM, "descriptor %d: %s", fd, strerror(errno));
    return HN_OK;
}

hn_status hn_socket_port(int fd, int *port)
{
    struct sockaddr_storage a = {.ss_family = AF_UNSPEC};
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        return HN_FAIL(HN_ERR_COMM, "port of a socket: %s", strerror(errno));
    if (a.ss_family == AF_INET)
        *port = ntohs(((const struct sockaddr_in *)&a)->sin_port);
    else if (a.ss_family == AF_INET6)
        *port = ntohs(((const struct sockaddr_in6 *)&a)->sin6_port);
    else
        return HN_FAIL(HN_ERR_ARG, "a socket that is not TCP");
    return HN_OK;
}

hn_status hn_socket_accept(int listener, int *fd, char name[HN_SOCKET_NAME])
{
    struct sockaddr_storage a = {.ss_family = AF_UNSPEC};
    socklen_t n = sizeof a;
    *fd = accept4(listener, (struct sockaddr *)&a, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (*fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            return HN_FAIL(HN_ERR_COMM, "accept a connection: %s (ulimit -n)", strerror(errno));
        return HN_OK; /* the rest is the caller's network: gone again, interrupted, refused */
    }
    tune(*fd);
    name_of((const struct sockaddr *)&a, n, name);
    return HN_OK;
}

/* ---- connecting ---- */

/* A connection to a free port of the own host can meet itself. */
static bool is_self(int fd)
{
    struct sockaddr_storage a, b;
    socklen_t n_a = sizeof a, n_b = sizeof b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    return getsockname(fd, (struct sockaddr *)&a, &n_a) == 0 &&
           getpeername(fd, (struct sockaddr *)&b, &n_b) == 0 && n_a == n_b &&
           memcmp(&a, &b, n_a) == 0;
}

static int wait_connected(int fd, int64_t until)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    for (;;) {
        const int ms = hn_poll_ms(until, 60000);
        const int n = poll(&p, 1, ms);
        if (n > 0) break;
        if (n < 0 && errno != EINTR) return errno;
        if (n == 0 && ms == 0) return ETIMEDOUT;
    }
    int why = 0;
    socklen_t n = sizeof why;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &n) != 0) return errno;
    return why == 0 && is_self(fd) ? ECONNREFUSED : why;
}

static int connect_to(const struct addrinfo *a, int64_t until, int *out)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return errno;
    int why = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (why == 0 || why == EINPROGRESS || why == EINTR) why = wait_connected(fd, until);
    if (why != 0) {
        hn_socket_close(&fd);
        return why;
    }
    tune(fd);
    *out = fd;
    return 0;
}

hn_status hn_socket_connect(const char *host, const char *port, int64_t until, int64_t each_ns,
                            int *fd)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    const int rc = getaddrinfo(host, port, &hints, &list);
    if (rc != 0) return HN_FAIL(HN_ERR_COMM, "%s: %s", host, gai_strerror(rc));
    int why = ETIMEDOUT;
    char name[HN_SOCKET_NAME] = "";
    for (const struct addrinfo *a = list; a != NULL && why != 0; a = a->ai_next) {
        const int64_t now = hn_clock_ns(), end = until - now < each_ns ? until : now + each_ns;
        name_of(a->ai_addr, a->ai_addrlen, name);
        why = connect_to(a, end, fd);
    }
    freeaddrinfo(list);
    return why == 0 ? HN_OK : HN_FAIL(HN_ERR_COMM, "%s: %s", name, strerror(why));
}

/* ---- bytes ---- */

static bool later(int why) { return why == EAGAIN || why == EWOULDBLOCK || why == EINTR; }

hn_status hn_socket_send_some(int fd, const void *data, size_t room, size_t *n)
{
    *n = 0;
    const ssize_t got = send(fd, data, room, MSG_NOSIGNAL);
    if (got < 0 && !later(errno)) return HN_FAIL(HN_ERR_COMM, "send: %s", strerror(errno));
    if (got > 0) *n = (size_t)got;
    return HN_OK;
}

hn_status hn_socket_receive_some(int fd, void *data, size_t room, size_t *n)
{
    *n = 0;
    const ssize_t got = recv(fd, data, room, 0);
    /* A process that is killed resets a connection on which it left bytes unread. */
    if (got == 0 || (got < 0 && errno == ECONNRESET))
        return HN_FAIL(HN_ERR_COMM, "connection closed");
    if (got < 0 && !later(errno)) return HN_FAIL(HN_ERR_COMM, "%s", strerror(errno));
    if (got > 0) *n = (size_t)got;
    return HN_OK;
}

static hn_status wait_for(int fd, short events, int64_t until)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        const int ms = hn_poll_ms(until, 60000);
        const int n = poll(&p, 1, ms);
        if (n > 0) return HN_OK;
        if (n < 0 && errno != EINTR) return HN_FAIL(HN_ERR_COMM, "poll: %s", strerror(errno));
        if (n == 0 && ms == 0) return HN_FAIL(HN_ERR_COMM, "no answer in time");
    }
}

hn_status hn_socket_send(int fd, const void *data, size_t n, int64_t until)
{
    for (size_t at = 0, k = 0; at < n; at += k) {
        HN_TRY(hn_socket_send_some(fd, (const char *)data + at, n - at, &k));
        if (k == 0) HN_TRY(wait_for(fd, POLLOUT, until));
    }
    return HN_OK;
}

hn_status hn_socket_receive(int fd, void *data, size_t n, int64_t until)
{
    for (size_t at = 0, k = 0; at < n; at += k) {
        HN_TRY(hn_socket_receive_some(fd, (char *)data + at, n - at, &k));
        if (k == 0) HN_TRY(wait_for(fd, POLLIN, until));
    }
    return HN_OK;
}
