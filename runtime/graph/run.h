/* run.h - executors: they run a planned graph.
 *
 *   cpu         node by node, the fast CPU functions
 *   cuda        node by node on the GPU's stream; side nodes (streams.c) on its side stream
 *   cuda-graph  the same, captured once (hn_graph_capture) and enqueued as one CUDA graph
 *   cuda-check  node by node on one stream; after each one the host compares with the CPU twin
 *
 * cuda and cuda-graph run the same launches and give the same bits.
 */
#ifndef HN_RUN_H
#define HN_RUN_H
#include "runtime/graph/op.h"
#include "runtime/graph/profile.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_EXECUTOR_AUTO, /* cpu, or cuda-graph on a GPU */
    HN_EXECUTOR_CPU,
    HN_EXECUTOR_NODES, /* cuda */
    HN_EXECUTOR_GRAPH, /* cuda-graph */
    HN_EXECUTOR_CHECK, /* cuda-check: very slow */
    HN_EXECUTOR_COUNT
} hn_executor;

const char *hn_executor_name(hn_executor x); /* "auto", "cpu", "cuda", "cuda-graph", "cuda-check" */
hn_executor hn_executor_of(const char *name); /* HN_EXECUTOR_AUTO for any other name */
/* What auto comes to on the device (NULL: the CPU). Errors: HN_ERR_ARG: not for this device */
HN_NODISCARD hn_status hn_executor_choose(hn_executor asked, const hn_device *d, hn_executor *out);

typedef struct {
    hn_step_block *step; /* in the device's memory */
    bool twin;           /* CPU: plain twins instead of the fast functions */
    bool check;   /* after each node: wait, scan its float outputs for NaN and infinity, and look
                   * at the red zones of a guarded plan; before it: poison fresh outputs */
    bool compare; /* GPU: run each node's CPU twin on copies of the same inputs; float outputs agree
                   * to 1e-4 (f32; 6e-3 where bf16 lies between) or 2e-2 (bf16) of their norm;
                   * sums over ranks are scanned only */
    bool idle; /* only what other ranks wait for: its gathers, of a graph that this rank has nothing
                * for (shards.h); nothing else of the options counts */
    int (*stop)(void); /* CPU, no twin of a check: asked in front of every node; what is not 0 ends
                        * the run there with HN_ERR_STOPPED. NULL: nobody asks */
    hn_profile *profile; /* adds the time of every node, and waits; one stream; not with check or
                          * compare. Of nodes that run as one, the first has their time */
} hn_run_options;

/* Runs every node. On a GPU it returns before the work is done, unless check or compare is on.
 * Allocates nothing (check and compare on a GPU: host memory).
 * Errors   those of the operations, with the node's name; with check or compare HN_ERR_NUMERIC
 *          naming node, operation and element or error, HN_ERR_ARG when a red zone was written;
 *          HN_ERR_ARG for a twin on a GPU and a comparison on the CPU */
HN_NODISCARD hn_status hn_graph_run(const hn_graph *g, const hn_run_options *o);

/* GPU: captures what hn_graph_run would enqueue; from then on runs without check and compare launch
 * that, with this step block. The graph must have run once before (kernels are loaded then). */
HN_NODISCARD hn_status hn_graph_capture(hn_graph *g, hn_step_block *step);
/* GPU: the runs of n graphs, one behind the other, as one; *out is the caller's to launch and to
 * free, and stays as it is when a graph is released. Each must have run once before. */
HN_NODISCARD hn_status hn_graphs_capture(hn_graph *const *g, int n, hn_step_block *step,
                                         hn_device_graph **out);
/* Forgets the capture: node by node again. */
void hn_graph_release(hn_graph *g);

#ifdef __cplusplus
}
#endif
#endif
