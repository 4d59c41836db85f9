/* shared_memory.h - memory that several processes of one host see, without a name in any file
 * system: it is gone with the last of them, however they end.
 *
 * One makes it and gives its ticket to another, by whatever connects them (hub.h); that one joins.
 * Its size is sealed: nobody can take back pages that others read (no SIGBUS). All of it is backed
 * by memory when it is made. A ticket of another host, of a container with processes of its own, or
 * of memory that has gone is an error and opens nothing else. What others write there is to be
 * judged as what comes from a network. */
#ifndef HN_SHARED_MEMORY_H
#define HN_SHARED_MEMORY_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_SHARED_NONCE = 16, HN_SHARED_HOST = 128 };

/* Zeros: none. */
typedef struct {
    void *data; /* [n_bytes], of a page's alignment; zeros at first */
    size_t n_bytes;
    int fd; /* of the one who made it */
    void *map;
    size_t map_bytes;
} hn_shared_memory;

/* As bytes the same everywhere it can be used. */
typedef struct {
    uint64_t n_bytes;
    int64_t pid;
    int32_t fd, reserved;
    uint8_t nonce[HN_SHARED_NONCE];
} hn_shared_ticket;

/* Whether two processes can share: they have the same text. Errors: HN_ERR_UNSUPPORTED: this
 * system does not say */
HN_NODISCARD hn_status hn_shared_host(char text[HN_SHARED_HOST]);

/* Errors  HN_ERR_MEMORY: there is not so much; HN_ERR_UNSUPPORTED */
HN_NODISCARD hn_status hn_shared_memory_new(size_t n_bytes, hn_shared_memory *out,
                                            hn_shared_ticket *ticket);
/* Errors  HN_ERR_IO: it cannot be opened; HN_ERR_FORMAT: it is not what the ticket says */
HN_NODISCARD hn_status hn_shared_memory_join(const hn_shared_ticket *ticket, size_t n_bytes,
                                             hn_shared_memory *out);
void hn_shared_memory_free(hn_shared_memory *m); /* this process's part; accepts zeros */

#ifdef __cplusplus
}
#endif
#endif
