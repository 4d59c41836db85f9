/* fed_ranks.h - the simulation `ranks`: the tasks of a round, shared by the ranks of a team, and
 * what measures the model that came of it.
 *
 * Every rank has a simulation of its own (one, replicas, block, volumes), made from the same
 * options and data. Rank 0 runs the rounds: it sends the global values and tasks, trains the first
 * of them itself, and takes the others' results meanwhile; they call hn_fed_ranks_serve and train
 * what is theirs until rank 0 says that it is over.
 *
 * shares   neighbouring tasks, in the order of ranks, so many that all have about the same work:
 *          the same steps, or with by_count as many tasks. Groups of `unit` tasks stay together.
 * results  those of the simulations on the ranks: with `one`, `block` and volumes the bits of one
 *          rank; with replicas those of the same groups on one rank (unit), else the same up to the
 *          rounding of fp32
 * memory   ranks of rank 0's host write results into memory that both see, HN_FED_RANKS_WINDOW
 *          bytes of them a rank at most; a rank whose part is full waits for rank 0. Its tasks and
 *          the global values come to it the same way. The others' go through the hub.
 * order    take gets them in the order of tasks; prepare as they come, on all threads. Without a
 *          prepare rank 0 takes no result of others before its own tasks are done.
 * stalls   ranks are in HN_HUB_AT_CLIENTS, or HN_HUB_AT_EVALUATE; a launch of blocks, a step and a
 *          part of a measurement have to end within the hub's stall_s
 */
#ifndef HN_FED_RANKS_H
#define HN_FED_RANKS_H
#include "runtime/train/fed_sim.h"
#include "runtime/train/team.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_FED_RANKS_WINDOW = 1 << 29 };

/* How tasks are shared; zeros: any, by steps. */
typedef struct {
    int64_t unit;  /* tasks that stay together: first .. first + unit - 1 from multiples of it on */
    bool by_count; /* a group takes as long as its longest task */
} hn_fed_shares;

/* A measurement in parts, whose records are the same whoever makes them; zeros: there is none. The
 * ranks have neighbouring parts, as many as each other or one more. */
typedef struct {
    int64_t parts;
    size_t part_bytes; /* of a record */
    /* value [n_values]: what is measured; then each of the rank's parts */
    hn_status (*set)(void *context, const float *value);
    hn_status (*part)(void *context, int64_t part, void *record);
    void *context;
} hn_fed_measurement;

typedef struct {
    hn_hub *hub;       /* of at least 2 ranks; outlives the simulation, as the others */
    const hn_log *log; /* NULL: silence */
    hn_fed_sim *sim;   /* of this rank */
    hn_fed_shares shares;
    hn_fed_measurement measurement;
    int64_t most;   /* tasks of a round, at most */
    int64_t images; /* of them all together, at most */
    bool fisher;    /* results have one */
    bool streams;   /* all results through the hub */
    int64_t window; /* results of a rank that wait for rank 0, at most; 0: as many as
                     * HN_FED_RANKS_WINDOW bytes hold */
} hn_fed_ranks_options;

/* All ranks call it.
 * Errors   HN_ERR_ARG; HN_ERR_SHAPE: ranks whose clients have other values than rank 0's, or whose
 *          measurement has other parts; HN_ERR_MEMORY; HN_ERR_COMM */
HN_NODISCARD hn_status hn_fed_ranks_new(const hn_fed_ranks_options *o, hn_fed_sim **out);

/* Ranks but 0: rounds until the end. stop: asked behind each round, the number of a signal that
 * this rank has got, 0: none. Errors: those of its simulation; HN_ERR_COMM */
HN_NODISCARD hn_status hn_fed_ranks_serve(hn_fed_sim *s, int (*stop)(void));
/* Rank 0, between rounds: the measurement of these values by all ranks. number: of the round that
 * they are behind. record [parts]: out. Errors: those of set and part, HN_ERR_ARG, HN_ERR_COMM */
HN_NODISCARD hn_status hn_fed_ranks_measure(hn_fed_sim *s, int64_t number, const float *value,
                                            void *record);
/* Rank 0: the end. */
HN_NODISCARD hn_status hn_fed_ranks_end(hn_fed_sim *s);
/* Rank 0, behind a round: the number of a signal that another rank has got; 0: none has. */
int hn_fed_ranks_signal(const hn_fed_sim *s);

/* Rank r of `size` has the tasks first[r] .. first[r + 1) of n. first: [size + 1], out */
void hn_fed_ranks_split(const hn_fed_shares *how, int size, const hn_fed_task *task, int64_t n,
                        int64_t *first);

#ifdef __cplusplus
}
#endif
#endif
