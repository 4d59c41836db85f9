/* Says on one line what hn_ranks_find makes of its environment; arguments are ignored.
 * test_ranks_mpi runs it under mpirun. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/comm/ranks.h"

/* The folder of the file where ranks meet takes new files. */
static int is_usable(const char *file)
{
    char folder[HN_RANKS_FILE_TEXT];
    snprintf(folder, sizeof folder, "%s", file);
    char *slash = strrchr(folder, '/');
    if (slash == NULL) return 0;
    *slash = '\0';
    return access(folder, W_OK | X_OK) == 0;
}

int main(void)
{
    hn_ranks r;
    char line[4096];
    const hn_status st = hn_ranks_find(NULL, NULL, NULL, &r);
    if (st != HN_OK) {
        fprintf(stderr, "%s\n", hn_last_error());
        return hn_status_exit_code(st);
    }
    const int n = snprintf(line, sizeof line,
                           "rank=%d size=%d local=%d/%d launcher=%d job=%s address=%s file=%s "
                           "usable=%d\n",
                           r.rank, r.size, r.local_rank, r.local_size, (int)r.launcher, r.job,
                           r.address, r.file, is_usable(r.file));
    return write(STDOUT_FILENO, line, (size_t)n) == n ? 0 : 1; /* at once: ranks share a pipe */
}
