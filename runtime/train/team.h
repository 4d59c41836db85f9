/* team.h - the ranks of a run, from the command line to their last word.
 *
 *   hn_team_start  before anything else of a run: which rank this process is; forks the ranks of
 *                  this host where no launcher has started any and there is more than one GPU, or
 *                  --ranks asks for them
 *   hn_team_join   all ranks meet (runtime/comm/hub.h)
 *   hn_team_devices  behind the device: sums over the ranks (runtime/comm/comm.h)
 *   hn_team_leave, hn_team_close  at the end
 *
 * Rank 0 leads: it writes all files and all lines; the others say nothing but errors and who died,
 * with their rank and host in front. Of one rank every call here does nothing. */
#ifndef HN_TEAM_H
#define HN_TEAM_H
#include "runtime/base/log.h"
#include "runtime/comm/comm.h"
#include "runtime/data/share.h"
#include "runtime/train/engine.h"
#include "runtime/train/team_options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the command line says; pointers outlive the team. */
typedef struct {
    const hn_team_options *options;
    const hn_options_store *given; /* NULL: nobody knows which of them were typed */
    const char *device;            /* --device */
    int64_t threads;               /* --threads */
} hn_team_request;

/* Zeros: this process is alone. It stays where it is from hn_team_start to hn_team_close. */
typedef struct {
    hn_team_request request;
    hn_ranks ranks;
    hn_hub *hub;
    hn_comm *comm;
    const hn_log *log; /* the program's */
    hn_log own_log;    /* of the hub */
    struct {
        char device[16]; /* "cuda:3"; "": that of the options */
        char host[64];
    } place;
    bool together; /* all has ended well: ranks wait for each other at the end */
} hn_team;

static inline bool hn_team_leads(const hn_team *t) { return t->ranks.rank == 0; }
static inline bool hn_team_alone(const hn_team *t) { return t->ranks.size <= 1; }
/* Ranks; at least 1. */
static inline int64_t hn_team_size(const hn_team *t)
{
    return t->ranks.size > 1 ? t->ranks.size : 1;
}
/* Which device this rank opens. */
static inline const char *hn_team_device(const hn_team *t, const char *option)
{
    return t->place.device[0] ? t->place.device : option;
}

/* t          zeros before
 * log        the program's, outlives t; silenced where this is not rank 0
 * go_on      whether this process is to train; else its ranks have, and it ends with *exit_code
 * Errors     HN_ERR_ARG: options that contradict each other or the launcher, fewer GPUs than asked
 *            for; those of hn_ranks_find, hn_launch, hn_launch_count_devices */
HN_NODISCARD hn_status hn_team_start(hn_team *t, const hn_team_request *q, hn_log *log, bool *go_on,
                                     int *exit_code);
/* Before anything else of a verb that trains nothing: how many ranks a run with these options
 * would have. Errors: HN_ERR_ARG, as above */
HN_NODISCARD hn_status hn_team_plan(const hn_team_request *q, int *out);
HN_NODISCARD hn_status hn_team_join(hn_team *t);
HN_NODISCARD hn_status hn_team_devices(hn_team *t, hn_device *d);
/* The same for ranks that add nothing up on their devices: who is where, and that each has its own
 * (hn_comm_check). */
HN_NODISCARD hn_status hn_team_places(hn_team *t, hn_device *d);
/* Before d is closed, where hn_team_close comes later. st: as for hn_team_leave, which it is. */
void hn_team_devices_close(hn_team *t, hn_status st);

/* st: how the work of this rank has ended. The others hear why. */
void hn_team_leave(hn_team *t, hn_status st);
/* The error of this rank as a line on standard error, unless it is that another rank died, which
 * has been said. */
void hn_team_say_error(const hn_team *t, hn_status st, const char *program, const char *verb);
/* Behind engines, before the device is closed. */
void hn_team_close(hn_team *t);

/* Where this rank is. */
void hn_team_at(const hn_team *t, hn_hub_phase phase, int64_t step);
HN_NODISCARD hn_status hn_team_wait(const hn_team *t); /* for all */
/* The first rank of every host first, then the others: what the first one has left on disk they
 * find. */
HN_NODISCARD hn_status hn_team_in_turn(const hn_team *t, hn_status (*work)(void *context),
                                       void *context);
/* Rank 0's text, or NULL, on all; the others' *text, of hn_free, is replaced. */
HN_NODISCARD hn_status hn_team_share_text(const hn_team *t, char **text);
/* Errors  HN_ERR_ARG on all ranks, naming those that have another value than rank 0 */
HN_NODISCARD hn_status hn_team_same(const hn_team *t, const char *what, const char *value);
/* Whether a run is to end behind this step, for a signal to any rank: the same answer on all. Those
 * that got one say so with hn_engine_want_stop in front of the step's end. */
bool hn_team_stops(const hn_team *t, const hn_step_report *r);
/* In front of every part of a long work whose parts all ranks begin together, a round each: whether
 * a signal has come to any rank, the same answer on all. One rank looks every time. Several agree,
 * a collective of the hub, about four times a second, and in front of every part that takes longer.
 * l  zeros before the first part */
typedef struct {
    int64_t every, waited; /* parts from one agreement to the next; those behind the last */
    int64_t last_ns;       /* when that was over */
} hn_team_looks;
HN_NODISCARD hn_status hn_team_asked(const hn_team *t, hn_team_looks *l, bool *asked);
/* Micro-batches of a step of per_step over all ranks that this rank has, and their numbers. */
hn_share hn_team_share(const hn_team *t, int64_t per_step);

#ifdef __cplusplus
}
#endif
#endif
