/* hostlist.h - lists of hosts and of tasks as SLURM writes them.
 *
 *   hosts   gnode[10,20,25-27],login,a[001-003]b[1-2]-ib: items with commas between them, each a
 *           text with groups of numbers and ranges. The width of a range's first number is kept
 *           (a001, a002); of two groups the last one runs fastest. At most 253 bytes a name,
 *           HN_HOSTLIST_MAX names.
 *   counts  4(x2),3: tasks of each host, here 4, 4 and 3
 *
 * Nothing is expanded: a name is found by counting, so that a hostile list costs no memory.
 */
#ifndef HN_HOSTLIST_H
#define HN_HOSTLIST_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_HOSTLIST_MAX = 1 << 20, /* hosts of a list, and tasks of one */
    HN_HOSTLIST_NAME = 254     /* bytes of a name with the final zero */
};

/* n       out, hosts of the list, >= 1
 * Errors  HN_ERR_ARG: the list, the place in it (bytes from 0) and what is wrong there */
HN_NODISCARD hn_status hn_hostlist_count(const char *list, int64_t *n);

/* name    out, host `index` from 0
 * Errors  those of hn_hostlist_count; HN_ERR_ARG: there are fewer hosts */
HN_NODISCARD hn_status hn_hostlist_name(const char *list, int64_t index,
                                        char name[HN_HOSTLIST_NAME]);

/* Takes a list of counts apart.
 * index   a host from 0; its tasks go to *here
 * hosts, total  out, hosts of the list and tasks of all; each may be NULL
 * Errors  HN_ERR_ARG: as for hosts */
HN_NODISCARD hn_status hn_hostlist_tasks(const char *counts, int64_t index, int64_t *here,
                                         int64_t *hosts, int64_t *total);

#ifdef __cplusplus
}
#endif
#endif
