/* team.h - the ranks of a training run, from the command line to their last word.
 *
 *   hn_team_start  before anything else of a run: which rank this process is; forks the ranks of
 *                  this host where no launcher has started any and there is more than one GPU, or
 *                  --ranks asks for them
 *   hn_team_join   all ranks meet (runtime/comm/hub.h)
 *   hn_team_devices  behind the device: sums over the ranks (runtime/comm/comm.h)
 *   hn_team_leave  with the session
 *
 * Rank 0 leads: it writes all files and all lines; the others say nothing but errors and who died,
 * with their rank and host in front. Of one rank every call here does nothing. */
#ifndef HN_TEAM_H
#define HN_TEAM_H
#include "runtime/train/session.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline bool hn_team_leads(const hn_session *s) { return s->ranks.rank == 0; }
static inline bool hn_team_alone(const hn_session *s) { return s->ranks.size <= 1; }
/* Ranks; at least 1. */
static inline int64_t hn_team_size(const hn_session *s)
{
    return hn_team_alone(s) ? 1 : s->ranks.size;
}

/* go_on      whether this process is to train; else its ranks have, and it ends with *exit_code
 * Errors     HN_ERR_ARG: options that contradict each other or the launcher, fewer GPUs than asked
 *            for; those of hn_ranks_find, hn_launch, hn_launch_count_devices */
HN_NODISCARD hn_status hn_team_start(hn_session *s, bool *go_on, int *exit_code);
/* Before anything else of a verb that trains nothing: the step of a run with these options, which
 * may have more GPUs than there are here (hn_session_per_step).
 * out      how many ranks it has
 * Errors   HN_ERR_ARG: as above */
HN_NODISCARD hn_status hn_team_plan(hn_session *s, int *out);
HN_NODISCARD hn_status hn_team_join(hn_session *s);
HN_NODISCARD hn_status hn_team_devices(hn_session *s);

/* st: how the work of this rank has ended. The others hear why. */
void hn_team_leave(hn_session *s, hn_status st);
/* The error of this rank as a line on standard error, unless it is that another rank died, which
 * has been said. */
void hn_team_say_error(const hn_session *s, hn_status st, const char *program, const char *verb);

/* Where this rank is. */
void hn_team_at(const hn_session *s, hn_hub_phase phase, int64_t step);
HN_NODISCARD hn_status hn_team_wait(const hn_session *s); /* for all */
/* The first rank of every host first, then the others: what the first one has left on disk they
 * find. */
HN_NODISCARD hn_status hn_team_in_turn(hn_session *s, hn_status (*work)(hn_session *s));
/* Rank 0's text, or NULL, on all; the others' *text, of hn_free, is replaced. */
HN_NODISCARD hn_status hn_team_share_text(const hn_session *s, char **text);
/* Errors  HN_ERR_ARG on all ranks, naming those that have another value than rank 0 */
HN_NODISCARD hn_status hn_team_same(const hn_session *s, const char *what, const char *value);
/* Whether a run is to end behind this step, for a signal to any rank: the same answer on all. Those
 * that got one say so with hn_engine_want_stop in front of the step's end. */
bool hn_team_stops(const hn_session *s, const hn_step_report *r);
/* Micro-batches of a step that this rank has, and the number of its k-th one in the step. */
hn_share hn_team_share(const hn_session *s);

#ifdef __cplusplus
}
#endif
#endif
