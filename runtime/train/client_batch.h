/* client_batch.h - the simulation `replicas`: tasks in groups, each client a replica of one engine
 * (engine.h). For small networks, of which one alone leaves a GPU idle.
 *
 * A group has at_once tasks; the global values are sent once and spread on the device, a step of
 * all of them is one captured graph, and results come back, a few at a time, while those before are
 * taken. In a round of several groups all that happens while the next group trains; the last one's
 * results come behind its training. Clients that have no more steps are frozen and their rows
 * padding, so a group takes as long as its longest task: tasks of like lengths next to each other
 * save time. The results are those of `one` up to the rounding of fp32, and of the same bits for
 * the same options and tasks.
 *
 * memory   the engine's plan (hn_fed_replicas_engine). From the first round of several groups on
 *          hn_fed_replicas_stage bytes of the device besides, for the results of the group before:
 *          where they are not there the round fails with HN_ERR_MEMORY, which says so
 * seconds  a task's share of the time from the beginning of its group's training to its end. Where
 *          the device is the CPU the handing over of the group before is in it
 */
#ifndef HN_CLIENT_BATCH_H
#define HN_CLIENT_BATCH_H
#include "runtime/train/fed_sim.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Errors  HN_ERR_ARG: at_once below 2, no images, no model for images; HN_ERR_UNSUPPORTED: what a
 *         replica cannot have (engine.h); those of hn_engine_new and hn_model_load */
HN_NODISCARD hn_status hn_fed_replicas_new(const hn_fed_sim_options *o, hn_fed_sim **out);
/* The engine behind it: its plan and memory; not to be stepped. */
hn_engine *hn_fed_replicas_engine(const hn_fed_sim *s);
/* Bytes on the device that rounds of several groups take besides: those of a group's results. */
size_t hn_fed_replicas_stage(const hn_fed_sim *s);

#ifdef __cplusplus
}
#endif
#endif
