/* The rendezvous file: a line that names the format, the job's tag, the addresses of rank 0.
 *   hone-hub 1
 *   <64 hexadecimal digits>
 *   10.1.2.3:40123
 *   [fd00::3]:40123
 *   gnode7:40123 */
#define _DEFAULT_SOURCE /* getifaddrs, gethostname */
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/save.h"
#include "runtime/comm/hub_impl.h"

static const char title[] = "hone-hub 1\n";
enum { FILE_MAX = HN_HUB_PLACES * HN_SOCKET_TARGET + 128 };

typedef struct {
    char text[FILE_MAX];
    size_t n;
    int places;
} writer;

static void add_place(writer *w, const char *host, int port)
{
    char line[HN_SOCKET_TARGET];
    const int n =
        snprintf(line, sizeof line, strchr(host, ':') ? "[%s]:%d\n" : "%s:%d\n", host, port);
    if (w->places == HN_HUB_PLACES || n < 0 || (size_t)n >= sizeof line ||
        w->n + (size_t)n >= sizeof w->text)
        return;
    memcpy(w->text + w->n, line, (size_t)n + 1);
    w->n += (size_t)n;
    w->places++;
}

/* Addresses of the interfaces that are up, but for loopback and those that need a scope. */
static hn_status add_interfaces(writer *w, int port)
{
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0)
        return HN_FAIL(HN_ERR_COMM, "addresses of this host: %s", strerror(errno));
    for (const struct ifaddrs *i = list; i != NULL; i = i->ifa_next) {
        char host[NI_MAXHOST];
        if (i->ifa_addr == NULL || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK))
            continue;
        const int family = i->ifa_addr->sa_family;
        if (family != AF_INET && family != AF_INET6) continue;
        if (family == AF_INET6 &&
            IN6_IS_ADDR_LINKLOCAL(
                &((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr))
            continue;
        const socklen_t n =
            family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        if (getnameinfo(i->ifa_addr, n, host, sizeof host, NULL, 0, NI_NUMERICHOST) == 0)
            add_place(w, host, port);
    }
    freeifaddrs(list);
    return HN_OK;
}

hn_status hn_hub_file_write(const char *path, const hn_hub_key *key, bool local, int port)
{
    writer w = {.n = sizeof title - 1};
    memcpy(w.text, title, sizeof title);
    HN_TRY(hn_hub_key_tag(key, w.text + w.n));
    w.n += 64;
    w.text[w.n++] = '\n';
    if (local) {
        add_place(&w, "127.0.0.1", port);
        add_place(&w, "::1", port);
    } else {
        char host[256] = "";
        HN_TRY(add_interfaces(&w, port));
        if (gethostname(host, sizeof host - 1) == 0 && host[0] != '\0' &&
            !hn_socket_is_loopback(host))
            add_place(&w, host, port);
    }
    if (w.places == 0)
        return HN_FAIL(HN_ERR_COMM, "this host has no address that others could connect to");
    return hn_save_file(path, w.text, w.n);
}

hn_status hn_hub_file_read(const char *path, const hn_hub_key *key, hn_hub_places *out)
{
    char text[FILE_MAX + 1], tag[65];
    hn_hub_places p = {0};
    FILE *f = fopen(path, "re");
    if (f == NULL) return HN_FAIL(HN_ERR_IO, "%s: %s", path, strerror(errno));
    const size_t n = fread(text, 1, sizeof text, f);
    const bool bad = ferror(f) != 0;
    fclose(f);
    if (bad) return HN_FAIL(HN_ERR_IO, "%s: %s", path, strerror(errno));
    if (n > FILE_MAX || n < sizeof title + 64 || memcmp(text, title, sizeof title - 1) != 0 ||
        memchr(text, '\0', n) != NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: no rendezvous file", path);
    text[n] = '\0';
    HN_TRY(hn_hub_key_tag(key, tag));
    char *line = text + sizeof title - 1;
    if (memcmp(line, tag, 64) != 0 || line[64] != '\n')
        return HN_FAIL(HN_ERR_FORMAT, "%s: of another job, or its secret differs", path);
    line += 65;
    while (*line != '\0' && p.n < HN_HUB_PLACES) {
        char *const end = strchr(line, '\n');
        if (end == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: cut off", path);
        *end = '\0';
        if (hn_socket_target_read(line, &p.place[p.n]) != HN_OK)
            return HN_FAIL(HN_ERR_FORMAT, "%s: line %d: %s", path, p.n + 3, hn_last_text());
        p.n++;
        line = end + 1;
    }
    if (p.n == 0) return HN_FAIL(HN_ERR_FORMAT, "%s: no address", path);
    *out = p;
    return HN_OK;
}
