/* comm.h - collectives over the memory of devices, for the ranks that a hub (hub.h) joins.
 *
 * On GPUs they are NCCL's, one GPU a rank; the environment's NCCL_* variables are left as they are.
 * On the CPU they are sums of the hub, in rank order. Gradients, the loss and what else an engine
 * sums (runtime/train/engine.h) go through the device's hn_collectives; few host values go through
 * the hub itself.
 *
 * A rank that dies: the hub's watchdog aborts NCCL's kernels, so that a host that waits for them
 * goes on, and calls of a collective return HN_ERR_COMM with the hub's line. What NCCL finds out by
 * itself (a network that fails) the watchdog takes for a failure of this rank.
 */
#ifndef HN_COMM_H
#define HN_COMM_H
#include "runtime/comm/hub.h"
#include "runtime/comm/ranks.h"
#include "runtime/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the hub of these ranks meets: options for hn_hub_open, of which waiting times and who is
 * told are still the caller's. Texts are those of r, which must outlive the call. */
void hn_comm_hub_options(const hn_ranks *r, hn_hub_options *out);

typedef struct hn_comm hn_comm;

/* All ranks call it, each with its device; those of other kinds than rank 0's, and two ranks on one
 * GPU, are refused by name. From then on the device's collectives are the comm's, and the watch of
 * the hub (hn_hub_watch). On GPUs it has added up vectors of several sizes when it returns: memory
 * that NCCL takes for sums is taken and counts as taken before plans, and its kernels are loaded,
 * as captures want it. A hub of one rank: nothing happens on the device, which stays alone.
 * hub, d   must outlive c
 * Errors   HN_ERR_UNSUPPORTED: several ranks on GPUs and a build or a machine without NCCL, or with
 *          another version of it than rank 0's; HN_ERR_ARG: the refusals; HN_ERR_COMM, HN_ERR_CUDA,
 *          HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_comm_open(hn_hub *hub, hn_device *d, hn_comm **out);

/* Accepts NULL. Behind engines that use it, before its device and hub are closed.
 * together  true: all ranks end well and call this; they wait for each other. false: this rank
 *           leaves at once, as one must after an error */
void hn_comm_close(hn_comm *c, bool together);

/* For ranks that add nothing up on their devices: the refusals alone, without NCCL.
 * Errors   HN_ERR_ARG, HN_ERR_COMM */
HN_NODISCARD hn_status hn_comm_check(hn_hub *hub, hn_device *d);

const hn_collectives *hn_comm_collectives(const hn_comm *c); /* ranks 1: its calls are no-ops */

#ifdef __cplusplus
}
#endif
#endif
