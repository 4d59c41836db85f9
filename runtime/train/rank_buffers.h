/* rank_buffers.h - what every rank has for itself: running values of batch norms.
 *
 * Where a run takes their mean (hn_engine_average_buffers) all ranks go on with that, and the
 * parameters in a checkpoint say it all. A checkpoint of any other step has the values of every
 * rank at that step beside them (hn_run_state.buffers), as the mean would be other bits than those
 * that the run goes on with. */
#ifndef HN_RANK_BUFFERS_H
#define HN_RANK_BUFFERS_H
#include "runtime/train/state.h"
#include "runtime/train/team.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For the next save: those of all ranks, which all call it. None where this process is alone or
 * the model has no such values. */
HN_NODISCARD hn_status hn_rank_buffers_gather(hn_run_state *s, const hn_params *p,
                                              const hn_team *team);
/* Behind hn_state_load, into p: of as many ranks each has its own again; else all have the mean,
 * which is that of hn_engine_average_buffers. *s has none afterwards; where it had none, p stays.
 * per_step  micro-batches of a step over all ranks, as when they were gathered */
HN_NODISCARD hn_status hn_rank_buffers_put(hn_run_state *s, const hn_params *p, const hn_team *team,
                                           int64_t per_step);
/* *s has none: the parameters are everybody's. */
void hn_rank_buffers_drop(hn_run_state *s);

#ifdef __cplusplus
}
#endif
#endif
