/* engine_impl.h - the insides of hn_engine; for engine.c and engine_*.c only. */
#ifndef HN_ENGINE_IMPL_H
#define HN_ENGINE_IMPL_H
#include "runtime/train/engine.h"

/* Micro-batches on their way to a GPU: one is filled while the other is copied or waits for it. */
enum { HN_ENGINE_STAGES = 2 };

/* The host's side of a micro-batch. On the CPU there is one, and block and batch are the tensors'
 * own memory. Else a loss of 0, block and batch lie as they do on the device. */
typedef struct {
    char *memory;        /* where they begin */
    hn_step_block *step; /* one a replica */
    float *stop;
    hn_engine_input batch;
    hn_device_fence *sent; /* behind the copies to the device */
    bool used;             /* has been sent since it was given out */
} hn_engine_stage;

/* The host's side of an update. */
typedef struct {
    hn_step_block *step;   /* one a replica; on the CPU the tensors' own, as the next */
    float *stop;           /* behind it as on the device */
    char *back;            /* what comes back: loss to stop, as they lie on the device */
    hn_device_fence *done; /* behind the copy to the host */
} hn_engine_outcome;

/* What takes the place of `micro` in a step that gathers for a selection, and what follows the last
 * micro-batch. */
typedef struct {
    hn_graph *micro, *end;
} hn_engine_gathering;

struct hn_engine {
    hn_engine_options o;
    hn_program *program;
    hn_params *params;
    /* One behind the other in memory: a copy takes step block and fields of a micro-batch there,
     * and with the loss a step's; another takes loss, step block and stop back. */
    hn_tensor *loss, *step, *stop, *field[HN_JOB_FIELDS];
    hn_tensor *sums; /* all gradients and the count, of a rank among others; NULL: alone */
    bool want_stop;
    hn_job_sums eval_sums;
    hn_tensor *values;        /* the flat trained range; NULL without an anchor */
    hn_replica_step *replica; /* [replicas] */
    hn_tensor *ref, *fisher;  /* of the anchor, laid out as that; NULL: it has none */
    hn_graph *begin, *micro, *update, *square, *eval_begin, *eval, *probe;
    /* Of blocks (engine_sparse.c); NULL without. */
    hn_graph *discard;
    hn_engine_gathering scores[HN_SPARSE_GROUPS], window;
    hn_gather wanted, gather; /* of the next and of the running optimizer step */
    hn_device_graph *whole;   /* micro and update; NULL: not captured */
    bool counted;             /* rows have been counted since begin and update */
    int64_t recomputed;       /* layers */
    int64_t step_number;      /* of the running optimizer step, from 0 */
    hn_profile *profile;      /* NULL: not wanted */
    hn_engine_stage stage[HN_ENGINE_STAGES];
    int now; /* the stage in use */
    hn_engine_outcome outcome[HN_ENGINE_AHEAD];
    int64_t first, n_outcomes; /* those whose report nobody has taken: a ring */
    /* Host memory that a GPU copies to and from: what stages and outcomes hold, and sums of an
     * evaluation, one a replica each. */
    void *pinned;
    float *eval_loss, *eval_count, *eval_hits;
};

static inline hn_status hn_engine_record_zero(hn_graph *g, hn_tensor *t)
{
    return hn_emit(g, HN_OP_ZERO, t->name, &t, NULL, NULL);
}
hn_job_pass hn_engine_pass(const hn_engine *e);
HN_NODISCARD hn_status hn_engine_vector(hn_engine *e, hn_mem mem, const char *name, hn_dtype dtype,
                                        int64_t n, hn_tensor **out);
HN_NODISCARD hn_status hn_engine_run(hn_engine *e, const hn_graph *g, bool check);

/* The optimizer's node. in: master, gradient, and as many moments as it has; work: NULL, or the
 * working copies. */
HN_NODISCARD hn_status hn_engine_record_optimizer(hn_engine *e, const char *name,
                                                  hn_tensor *const in[4], hn_tensor *work,
                                                  double decay);
int hn_engine_moments(const hn_engine *e); /* of a trained value */

/* engine_anchor.c */

/* Tensors of the anchor, and the graph that gathers the Fisher. grad: all gradients. */
HN_NODISCARD hn_status hn_engine_record_anchor(hn_engine *e, hn_tensor *grad);
/* Into the update, in front of the norm. */
HN_NODISCARD hn_status hn_engine_record_penalty(hn_engine *e, hn_tensor *grad);

/* engine_split.c */

/* The update where ranks share optimizer state. */
HN_NODISCARD hn_status hn_engine_record_split_update(hn_engine *e);
/* A line of the plan about it; "" without. */
void hn_engine_split_text(const hn_engine *e, char *text, size_t size);

/* engine_ranks.c */

int64_t hn_engine_ranks(const hn_engine *e); /* at least 1 */
int64_t hn_engine_rank(const hn_engine *e);  /* from 0 */
/* Whether there are as many ranks as base and optimizer state have shares. Errors: HN_ERR_ARG */
HN_NODISCARD hn_status hn_engine_check_shares(const hn_engine *e);
/* In front of what reads gradients, count or loss: makes them sums over the ranks. */
HN_NODISCARD hn_status hn_engine_record_sums(hn_engine *e, hn_graph *g);
/* The same ahead of it, for what ends a step that gathers. Behind its last reader the sums stay on
 * rank 0 alone, the others have zeros: what ends the step adds them up once more.
 * all     gradients and count, else the count; the tensor that the next two want
 * beside  summed with it, and not taken back */
HN_NODISCARD hn_status hn_engine_sums(hn_engine *e, bool all, hn_tensor **out);
HN_NODISCARD hn_status hn_engine_record_shared(const hn_engine *e, hn_graph *g, hn_tensor *sums,
                                               hn_tensor *beside);
HN_NODISCARD hn_status hn_engine_record_unshared(const hn_engine *e, hn_graph *g, hn_tensor *sums);

/* engine_sparse.c */

/* Graphs of steps that gather for a selection, where the method selects while it trains. */
HN_NODISCARD hn_status hn_engine_record_gathering(hn_engine *e, const hn_job_sums *sums);
/* grad: all gradients. */
HN_NODISCARD hn_status hn_engine_record_discard(hn_engine *e, hn_tensor *grad);
/* A line of the plan about what selections take; "" where they take nothing. */
void hn_engine_selection_text(const hn_engine *e, char *text, size_t size);
/* What a micro-batch of the running step, which gathers, is to run.
 * Errors: HN_ERR_ARG for one too many */
HN_NODISCARD hn_status hn_engine_gathering_micro(const hn_engine *e, int64_t index,
                                                 const hn_graph **out);
/* What its last micro-batch is to be followed by; NULL: nothing. */
const hn_graph *hn_engine_gathering_end(const hn_engine *e);
void hn_engine_count_gathered(hn_engine *e); /* that step is done */
#endif
