/* fed_ranks_box.h - how tasks and values come to the ranks of a simulation, and results back to
 * rank 0; for fed_ranks.c only.
 *
 * A rank of rank 0's host has a box: memory that both see (runtime/comm/shared_memory.h).
 *
 *   head     made, taken: results that the rank has put there, and that rank 0 is done with, since
 *            the beginning
 *   records  [window] of results: result k is number k mod window
 *   values   [n_values] the global ones
 *   tasks    what rank 0 wants of it in this round, as fed_ranks.c writes it
 *   results  [window][n_values], and their fisher behind each
 *
 * One writes `made`, the other `taken`; each believes only what can be. Ranks without a box send
 * their results through the hub, and rank 0 has one of a rank's at a time. */
#ifndef HN_FED_RANKS_BOX_H
#define HN_FED_RANKS_BOX_H
#include "runtime/comm/hub.h"
#include "runtime/train/fed_sim.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_fed_boxes hn_fed_boxes;

typedef struct {
    hn_hub *hub;
    const hn_log *log;
    int64_t n_values, most, window; /* as in hn_fed_ranks_options */
    size_t tasks;                   /* bytes that a rank's tasks take at most */
    bool fisher, streams;
} hn_fed_boxes_options;

/* All ranks call it. */
HN_NODISCARD hn_status hn_fed_boxes_new(const hn_fed_boxes_options *o, hn_fed_boxes **out);
void hn_fed_boxes_free(hn_fed_boxes *b); /* accepts NULL */

bool hn_fed_boxes_streams(const hn_fed_boxes *b, int rank); /* it has no box */
bool hn_fed_boxes_some_stream(const hn_fed_boxes *b);       /* some rank has none */

/* Room for the tasks of a rank with a box: rank 0 writes it while that one reads nothing. */
void *hn_fed_boxes_tasks(const hn_fed_boxes *b, int rank);

/* A moment's pause, for whoever waits for the other side in that round. Errors: HN_ERR_COMM: a rank
 * died */
HN_NODISCARD hn_status hn_fed_boxes_nap(const hn_fed_boxes *b, int64_t round);

/* ---- rank 0 ---- */

/* Into all boxes; nobody reads them meanwhile. */
void hn_fed_boxes_put_values(hn_fed_boxes *b, const float *global);
/* How many results of a rank are there, of those it may still send.
 * Errors  HN_ERR_COMM: what stands there makes no sense */
HN_NODISCARD hn_status hn_fed_boxes_ready(hn_fed_boxes *b, int rank, int64_t left, int64_t *n);
/* The k-th of these, which is that of `task`; its values stay until it is released. */
HN_NODISCARD hn_status hn_fed_boxes_look(hn_fed_boxes *b, int rank, int64_t k, int64_t task,
                                         hn_fed_trained *out);
void hn_fed_boxes_release(hn_fed_boxes *b, int rank); /* the oldest */

/* ---- the others ---- */

const float *hn_fed_boxes_values(const hn_fed_boxes *b); /* of a rank with a box */
/* Ahead of it and on any thread: copies the values of the k-th result from the next one on, where
 * there is room for it by now; hn_fed_boxes_give need not then. */
void hn_fed_boxes_place(hn_fed_boxes *b, int64_t k, const hn_fed_trained *t);
/* The next result. Waits for room. */
HN_NODISCARD hn_status hn_fed_boxes_give(hn_fed_boxes *b, int64_t round, int64_t task,
                                         const hn_fed_trained *t);

#ifdef __cplusplus
}
#endif
#endif
