/* profile.h - where the time of a graph goes: one line for each operation and shape.
 *
 *   hn_profile *p = NULL;
 *   hn_profile_new(&p);
 *   hn_graph_run(g, &(hn_run_options){.step = block, .profile = p});      `runs` times
 *   char *text = hn_profile_text(p, runs);
 *   hn_profile_free(p);
 *
 * A profiled run enqueues node by node, whatever was captured, with a mark of the device's clock
 * between two nodes, and waits at the end. A node that is over before the host has enqueued the
 * next one is charged with the gap: tiny operations look slower here than in a captured graph.
 */
#ifndef HN_PROFILE_H
#define HN_PROFILE_H
#include "runtime/graph/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_profile hn_profile;

HN_NODISCARD hn_status hn_profile_new(hn_profile **out);
void hn_profile_free(hn_profile *p); /* accepts NULL */

/* Adds the times of a graph's nodes: ms[i] those of node i. Errors: HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_profile_add(hn_profile *p, const hn_graph *g, const double *ms);

/* A Markdown table, most expensive line first, of times a run: `runs` divides what was added.
 * runs at least 1. Belongs to the caller (hn_free); NULL without memory. */
char *hn_profile_text(const hn_profile *p, int64_t runs);

#ifdef __cplusplus
}
#endif
#endif
