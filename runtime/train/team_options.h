/* team_options.h - the options that say how many ranks a run has, and where.
 *
 * A program's config holds an hn_team_options; its table the rows. They say nothing about what is
 * computed, so that records leave them out. */
#ifndef HN_TEAM_OPTIONS_H
#define HN_TEAM_OPTIONS_H
#include "runtime/base/options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *gpus, *rank, *size, *local_rank, *local_size, *rendezvous;
    int64_t ranks;
    double stall_timeout; /* seconds */
} hn_team_options;

/* Rows of a table whose config, a `type`, has the hn_team_options `field`. */
/* clang-format off */
#define HN_TEAM_COUNT_ROWS(type, field) \
    HN_OPT_TITLE("Several GPUs and hosts"), \
    {"gpus",          HN_OPT(type, field.gpus),          "all", 0, 0, NULL, "of this host, one process each: all that are visible, or the first N"}, \
    {"ranks",         HN_OPT(type, field.ranks),         "1",   1, 4096, NULL, "with --device cpu: processes on this host"}

#define HN_TEAM_PLACE_ROWS(type, field) \
    {"job-rank",      HN_OPT(type, field.rank),          "",    0, 0, NULL, "of this process, where no launcher says it: 0 to --job-size - 1; torchrun, srun and mpirun do"}, \
    {"job-size",      HN_OPT(type, field.size),          "",    0, 0, NULL, "ranks of the job"}, \
    {"local-rank",    HN_OPT(type, field.local_rank),    "",    0, 0, NULL, "of this process on its host: the number of its GPU"}, \
    {"local-size",    HN_OPT(type, field.local_size),    "",    0, 0, NULL, "ranks on this host"}, \
    {"rendezvous",    HN_OPT(type, field.rendezvous),    "",    0, 0, NULL, "where rank 0 listens: tcp:HOST:PORT, or file:PATH on a file system that all see; default: as the launcher says"}, \
    {"stall-timeout", HN_OPT(type, field.stall_timeout), "600", 0, 1e7, NULL, "seconds without progress after which a rank is given up; 0: never"}
/* clang-format on */

#ifdef __cplusplus
}
#endif
#endif
