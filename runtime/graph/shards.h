/* shards.h - frozen values of which every rank of a job holds a share.
 *
 * A range is the frozen values of one layer: tensors of HN_MEM_GATHERED, one behind the other. Of
 * its bytes every rank keeps one of `ranks` equal shares for good (HN_MEM_WEIGHT). The whole is
 * gathered where a graph needs it, into one of two places that the ranges take in turn, and lies
 * there until the next one of the place:
 *
 *   share of rank r   | 0 | 1 | 2 | 3 | ...
 *   forward           place 0: | 0        | 2        | 4 ...
 *                     place 1:      | 1        | 3        | ...
 *
 * Nobody records that: hn_plan_build finds out which range a node of a graph needs and puts the
 * gather (all_gather) in front of it, where the place does not hold it already. So what forward has
 * gathered last is there when backward begins, and layers that run again are gathered as others
 * are. On the side (streams.c) a gather begins as soon as its place is free: while the layer before
 * it runs.
 *
 * A graph that gathers is one that all ranks run together: who has nothing for it runs its gathers
 * alone (hn_run_options.idle).
 */
#ifndef HN_SHARDS_H
#define HN_SHARDS_H
#include "runtime/graph/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_shard hn_shard; /* belongs to its program */

/* Before the first range. ranks >= 2, 0 <= rank < ranks. Errors: HN_ERR_ARG */
HN_NODISCARD hn_status hn_program_share(hn_program *p, int ranks, int rank);

/* A new range, behind those before it in the order of layers. Errors: HN_ERR_ARG, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_shard_new(hn_program *p, const char *name, hn_shard **out);
/* A tensor in it, placed behind the last one on a multiple of 64 elements; no replicas.
 * Errors: those of hn_program_tensor */
HN_NODISCARD hn_status hn_shard_tensor(hn_shard *s, const char *name, const hn_type *type,
                                       hn_tensor **out);
/* Behind every gather of the range, to = cast(from): a trained value that lies among frozen ones.
 * to  a tensor of the range, or a view of one. Errors: HN_ERR_ARG, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_shard_store(hn_shard *s, hn_tensor *from, hn_tensor *to);

/* The range that t lies in; NULL: in none. */
hn_shard *hn_shard_of(const hn_tensor *t);
int hn_program_share_ranks(const hn_program *p); /* 1: nothing is shared */

/* After hn_plan_build: which rows of t this rank has a part of; of other tensors, all. */
void hn_tensor_own_rows(const hn_tensor *t, int64_t *first, int64_t *rows);
/* How often graph g gathers. */
int64_t hn_graph_gathers(const hn_graph *g);
/* What all graphs gather, in their order: ranks with another number would not meet. */
uint64_t hn_program_gathers_digest(const hn_program *p);

#ifdef __cplusplus
}
#endif
#endif
