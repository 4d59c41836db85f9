#define _GNU_SOURCE /* memfd_create, F_ADD_SEALS */
#include "runtime/comm/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/rand.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

/* A page in front of the data has the ticket's nonce. */
static size_t page(void)
{
    const long n = sysconf(_SC_PAGESIZE);
    return n > 0 ? (size_t)n : 4096;
}

static hn_status first_line(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "re");
    const bool read = f != NULL && fgets(text, (int)size, f) != NULL;
    if (f != NULL) fclose(f);
    if (!read) return HN_FAIL(HN_ERR_UNSUPPORTED, "%s cannot be read", path);
    text[strcspn(text, "\n")] = '\0';
    return HN_OK;
}

hn_status hn_shared_host(char text[HN_SHARED_HOST])
{
    char boot[64], space[48];
    HN_TRY(first_line("/proc/sys/kernel/random/boot_id", boot, sizeof boot));
    const ssize_t n = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    if (n < 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "/proc/self/ns/pid cannot be read: %s", strerror(errno));
    space[n] = '\0';
    memset(text, 0, HN_SHARED_HOST);
    snprintf(text, HN_SHARED_HOST, "%s %s", boot, space);
    return HN_OK;
}

static hn_status map(hn_shared_memory *m, int fd, size_t n_bytes)
{
    m->map_bytes = n_bytes + page();
    m->map = mmap(NULL, m->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m->map == MAP_FAILED) {
        m->map = NULL;
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes of shared memory: %s", m->map_bytes,
                       strerror(errno));
    }
    m->data = (char *)m->map + page();
    m->n_bytes = n_bytes;
    return HN_OK;
}

static hn_status make(hn_shared_memory *m, size_t n_bytes, hn_shared_ticket *ticket)
{
    if (n_bytes == 0 || n_bytes > INT64_MAX - page())
        return HN_FAIL(HN_ERR_ARG, "%zu bytes of shared memory", n_bytes);
    m->fd = memfd_create("hone", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (m->fd < 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "no shared memory: memfd_create: %s", strerror(errno));
    const int why = posix_fallocate(m->fd, 0, (off_t)(n_bytes + page())); /* no SIGBUS later */
    if (why != 0)
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes of shared memory: %s", n_bytes, strerror(why));
    if (fcntl(m->fd, F_ADD_SEALS, SEALS) != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "shared memory cannot be sealed: %s", strerror(errno));
    HN_TRY(map(m, m->fd, n_bytes));
    *ticket = (hn_shared_ticket){.n_bytes = n_bytes, .pid = getpid(), .fd = m->fd};
    if (RAND_bytes(ticket->nonce, HN_SHARED_NONCE) != 1)
        return HN_FAIL(HN_ERR_IO, "no random bytes for shared memory");
    memcpy(m->map, ticket->nonce, HN_SHARED_NONCE);
    return HN_OK;
}

hn_status hn_shared_memory_new(size_t n_bytes, hn_shared_memory *out, hn_shared_ticket *ticket)
{
    hn_shared_memory m = {.fd = -1};
    const hn_status st = make(&m, n_bytes, ticket);
    if (st == HN_OK)
        *out = m;
    else
        hn_shared_memory_free(&m);
    return st;
}

/* The number of a descriptor may be anything by now. */
static hn_status check(int fd, const hn_shared_ticket *t, size_t n_bytes)
{
    struct stat s;
    const int seals = fcntl(fd, F_GET_SEALS);
    if (t->n_bytes != n_bytes)
        return HN_FAIL(HN_ERR_FORMAT, "shared memory of %" PRIu64 " bytes, not %zu", t->n_bytes,
                       n_bytes);
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || s.st_size < 0 ||
        (uint64_t)s.st_size != (uint64_t)n_bytes + page() || seals < 0 || (seals & SEALS) != SEALS)
        return HN_FAIL(HN_ERR_FORMAT, "descriptor %d of process %" PRId64 " is other memory", t->fd,
                       t->pid);
    return HN_OK;
}

static hn_status join(const hn_shared_ticket *t, int fd, size_t n_bytes, hn_shared_memory *m)
{
    HN_TRY(check(fd, t, n_bytes));
    HN_TRY(map(m, fd, n_bytes));
    if (memcmp(m->map, t->nonce, HN_SHARED_NONCE) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "descriptor %d of process %" PRId64 " is other memory", t->fd,
                   t->pid);
}

hn_status hn_shared_memory_join(const hn_shared_ticket *ticket, size_t n_bytes,
                                hn_shared_memory *out)
{
    char path[64];
    hn_shared_memory m = {.fd = -1};
    if (ticket->pid <= 0 || ticket->fd < 0)
        return HN_FAIL(HN_ERR_FORMAT, "no ticket of shared memory");
    snprintf(path, sizeof path, "/proc/%" PRId64 "/fd/%d", ticket->pid, ticket->fd);
    /* what is no file, a pipe for instance, must not keep us */
    const int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return HN_FAIL(HN_ERR_IO, "open %s: %s", path, strerror(errno));
    const hn_status st = join(ticket, fd, n_bytes, &m);
    close(fd); /* the mapping stays */
    if (st == HN_OK)
        *out = m;
    else
        hn_shared_memory_free(&m);
    return st;
}

void hn_shared_memory_free(hn_shared_memory *m)
{
    if (m->map != NULL) munmap(m->map, m->map_bytes);
    if (m->fd > 0) close(m->fd);
    *m = (hn_shared_memory){0};
}
