/* run.h - executors: they run a planned graph node by node. */
#ifndef HN_RUN_H
#define HN_RUN_H
#include "runtime/graph/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_step_block *step; /* in the device's memory */
    bool twin;           /* plain twins instead of the fast CPU functions */
    bool check; /* after each node: scan its float outputs for NaN and infinity, and look at
                 * the red zones of a guarded plan; before it: poison fresh outputs */
} hn_run_options;

/* Runs every node. Allocates nothing.
 * Errors   those of the operations, with the node's name; with `check` HN_ERR_NUMERIC naming node,
 *          operation and element, HN_ERR_ARG when a red zone was written */
HN_NODISCARD hn_status hn_graph_run(const hn_graph *g, const hn_run_options *o);

#ifdef __cplusplus
}
#endif
#endif
