/* hub_socket.h - TCP for the hub: every socket is non-blocking, closes on exec and never raises
 * SIGPIPE; every wait has an end. For this folder only. Times are hn_clock_ns. */
#ifndef HN_HUB_SOCKET_H
#define HN_HUB_SOCKET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_SOCKET_NAME = 80,   /* bytes of "[address]:port" with the final zero */
    HN_SOCKET_TARGET = 300 /* bytes of "host:port" with the final zero */
};

/* "host:port", "[ipv6]:port" in two; port 1 to 65535.
 * Errors  HN_ERR_ARG */
typedef struct {
    char host[256];
    char port[8];
} hn_socket_target;
HN_NODISCARD hn_status hn_socket_target_read(const char *text, hn_socket_target *out);
/* 127.x.x.x, ::1 or localhost: never leaves the host. */
bool hn_socket_is_loopback(const char *host);

/* A listening socket.
 * host   numeric address of the interface; NULL: all interfaces, IPv6 and IPv4
 * port   NULL: a free one
 * Errors HN_ERR_COMM: names address and port */
HN_NODISCARD hn_status hn_socket_listen(const char *host, const char *port, int *fd);
/* A socket that somebody else made: checks that it listens, makes it non-blocking. */
HN_NODISCARD hn_status hn_socket_adopt(int fd);
HN_NODISCARD hn_status hn_socket_port(int fd, int *port);

/* Next connection, tuned; -1 and HN_OK when there is none. */
HN_NODISCARD hn_status hn_socket_accept(int listener, int *fd, char name[HN_SOCKET_NAME]);

/* Connects to one of the addresses of host.
 * until  clock at which it gives up; each address has at most `each_ns`
 * Errors HN_ERR_COMM: the last address and why */
HN_NODISCARD hn_status hn_socket_connect(const char *host, const char *port, int64_t until,
                                         int64_t each_ns, int *fd);

/* All n bytes before the clock says `until`.
 * Errors  HN_ERR_COMM: closed, late, or what the system says */
HN_NODISCARD hn_status hn_socket_send(int fd, const void *data, size_t n, int64_t until);
HN_NODISCARD hn_status hn_socket_receive(int fd, void *data, size_t n, int64_t until);

/* One try; *n is what went, 0 if nothing could. Closed by the other side: HN_ERR_COMM. */
HN_NODISCARD hn_status hn_socket_send_some(int fd, const void *data, size_t room, size_t *n);
HN_NODISCARD hn_status hn_socket_receive_some(int fd, void *data, size_t room, size_t *n);

void hn_socket_close(int *fd); /* accepts -1, leaves -1 */

/* Milliseconds for poll() until a clock, at most `most_ms`, rounded up. */
int hn_poll_ms(int64_t until, int most_ms);

#ifdef __cplusplus
}
#endif
#endif
