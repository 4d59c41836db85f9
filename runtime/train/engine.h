/* engine.h - the program of a run: parameters, batch, step variants, plan. What is computed is the
 * job's business (job.h).
 *
 * Graphs, all over the same persistent tensors:
 *   begin    clears the sums of an optimizer step
 *   micro    forward and backward of one micro-batch; gradients and loss are added up
 *   update   gradient norm, clipping, optimizer; clears the gradients
 *   score    micro, and the scores of blocks; window: and the gradients of watched blocks
 *   discard  gradient norm; clears the gradients: a step without an update
 *   square   squares of the gradients into the anchor's Fisher; clears the gradients
 *   eval     forward only; loss and count of held-out batches are added up
 *   logits   the job's probe: forward only (verification)
 *
 * One optimizer step:
 *   hn_engine_begin; for each micro-batch: hn_engine_batch, fill it, hn_engine_micro;
 *   hn_engine_update
 * or, of one micro-batch: hn_engine_batch, fill it, hn_engine_step
 * On a GPU the host may run ahead: it waits in hn_engine_batch until the micro-batch before the
 * last has been copied (there is staging memory for two), and for a step's report where it asks to.
 *
 * Replicas: with `replicas` = G > 1 there are G copies of every trained parameter, its gradient and
 * its moments, which one graph trains at once: clients, say. The rows of a micro-batch are G equal
 * groups in order, group g is replica g's. Loss, rows that count, gradient norm, clipping, learning
 * rate and random numbers are those of a replica; every one of them does what an engine without
 * replicas does on its rows, on the CPU in f32 with the same bits where products add in the same
 * order. Frozen values and the anchor's reference are shared. What has no replica axis (batch norm
 * by the batch, dropout, blocks of weights, a Fisher, low-rank updates that are added to the
 * weight) is refused by name when the engine is made. Reports and sums are arrays of G.
 *
 * Ranks: where the device has collectives (runtime/device/collective.h), gradients, the count
 * behind them and the loss are sums over all ranks' micro-batches from the begin of update, discard
 * or square on; the penalty of an anchor, norm, clipping and optimizer come behind, on the same
 * numbers everywhere, so that trained values stay the same on all ranks, bit for bit. Every rank
 * makes the same calls in the same order, but for its micro-batches, of which a rank may have more
 * than others or none (hn_engine_begin and hn_engine_update then); each has its number in the whole
 * step. Reports are those of the whole step, sums of evaluations a rank's own. Buffers (running
 * values of batch norms) are a rank's own, too, until hn_engine_average_buffers. Selections of
 * blocks gather sums over all ranks, so that every rank makes the same choice; scores want
 * hn_sparse_options.select_memory then, and are refused by name without.
 *
 * A base that ranks share (hn_engine_options.base_shares): forward and backward gather it, so all
 * ranks run as many micro-batches, evaluations and probes as each other. Who has none calls the
 * hn_engine_idle_... of it.
 *
 * Optimizer state that ranks share (hn_engine_options.zero_ranks): every rank keeps one of equal
 * shares of the moments and, in bf16 runs, of the fp32 masters (runtime/adapt/params.h, hn_split).
 * The update adds gradients up share by share (reduce_scatter), computes its own share and gathers
 * what graphs read. The norm adds squares in the order of a run without shares: on the CPU all bits
 * are the same.
 *
 * Allocation: hn_engine_new takes none for tensors, hn_engine_allocate all of it, steps and
 * evaluations none. Same seed, same batches: same bits.
 */
#ifndef HN_ENGINE_H
#define HN_ENGINE_H
#include "runtime/comm/hn_comm.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"
#include "runtime/train/job.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_OPTIMIZER_ADAMW, HN_OPTIMIZER_SGD } hn_optimizer_kind;

typedef struct {
    hn_optimizer_kind kind;
    double beta1, beta2, eps; /* adamw */
    double momentum;          /* sgd */
    bool nesterov;
    double weight_decay;
    double max_grad_norm; /* 0: no clipping */
} hn_optimizer;

/* A quadratic penalty that holds trained values near a reference (kernels/optim/anchor.h), added
 * to the gradient once a step, before norm and clipping: elastic weight consolidation (Kirkpatrick
 * et al., 2017) with a Fisher, FedProx (Li et al., 2020) without. Reference and Fisher are zeros at
 * first: a penalty without effect with a Fisher, a pull to 0 without. They are no part of a
 * checkpoint, and what a step reports as loss is without the penalty. */
typedef struct {
    float weight; /* lambda, mu; 0: no penalty */
    bool fisher;  /* there is one, for the penalty and for hn_engine_square */
} hn_anchor;

/* Whether layers run again in backward instead of keeping what they made: less memory, more time,
 * the same bits. AUTO: as few as make the plan fit, if any have to. */
typedef enum { HN_RECOMPUTE_OFF, HN_RECOMPUTE_ON, HN_RECOMPUTE_AUTO } hn_recompute;

/* What options call them: auto, on, off; OFF for NULL, as of a verb that has no such option. */
hn_recompute hn_recompute_of(const char *name);
typedef struct {
    hn_device *device; /* must outlive the engine; NULL: the CPU */
    hn_executor executor;
    hn_job *job;           /* must outlive the engine */
    const hn_adapt *adapt; /* NULL: everything frozen */
    hn_dtype dtype;
    bool train, eval;
    bool alone;       /* of a rank among several, by itself: nothing is added up over the ranks */
    int64_t replicas; /* G; 0: 1. It divides the job's rows */
    hn_recompute recompute;
    size_t memory;    /* bytes that may be taken on the device; 0: what is free there */
    size_t workspace; /* as in hn_plan_options */
    /* Ranks that share the frozen values of each layer, and gather a layer where a graph needs it
     * (runtime/graph/shards.h): the same bits as with all of them everywhere. 0 or 1: none. Other
     * than the device's ranks: a plan for so many, whose memory cannot be taken. */
    int base_shares;
    /* Ranks that share moments and masters (ZeRO stage 1); as base_shares. Refused by name beside
     * adapters, blocks, replicas, an anchor, an average and a base that is shared. */
    int zero_ranks;
    hn_optimizer optimizer;
    hn_anchor anchor;         /* zeros: none */
    double average;           /* decay of a moving average of all trained values (kernels/optim/
                               * moving_average.h), hn_param.average; 0: none */
    hn_sparse_options sparse; /* of a hook that wants blocks trained (runtime/adapt/sparse.h) */
    uint64_t seed;
    hn_side side; /* the next two: as in hn_plan_options */
    int side_sms;
    /* On the CPU asked in front of every operation; what is not 0 ends the call with
     * HN_ERR_STOPPED, in the middle of a step: values, gradients and moments are then no longer
     * those of any step. NULL: nobody asks. */
    int (*stop)(void);
} hn_engine_options;

/* Host memory of a micro-batch: the job's fields. Every one is the caller's to fill, wholly, before
 * a call. */
typedef struct {
    void *field[HN_JOB_FIELDS];
} hn_engine_input;

typedef struct {
    double loss; /* mean over trained tokens; NaN when there are none */
    double loss_sum;
    int64_t tokens;   /* trained tokens */
    double grad_norm; /* before clipping */
    int skipped;      /* HN_STEP_...: why nothing was updated */
    int stop;         /* ranks that wanted the run to end when they ended this step */
} hn_step_report;

/* Of held-out micro-batches. */
typedef struct {
    double loss;        /* sum */
    int64_t rows, hits; /* that took part; that came out right, where the job counts them, else 0 */
} hn_eval_sums;

/* What a replica does in the optimizer steps that come. */
typedef struct {
    uint64_t seed;   /* of its random numbers */
    double lr_scale; /* times the step's learning rate */
    bool frozen;     /* its parameters and moments stay as they are, bit for bit */
} hn_replica_step;

enum { HN_ENGINE_AHEAD = 8 }; /* steps whose reports may be outstanding */

typedef struct hn_engine hn_engine;
struct json_t; /* Jansson's json_t */

/* Records everything and builds the plan. Errors: those of builder and planner. */
HN_NODISCARD hn_status hn_engine_new(const hn_engine_options *o, hn_engine **out);
void hn_engine_free(hn_engine *e); /* accepts NULL */
hn_program *hn_engine_program(const hn_engine *e);
int64_t hn_engine_recomputed(const hn_engine *e); /* layers that run again in backward */
/* hn_plan_text, and a line about those layers; hn_free the text. NULL: out of memory. */
char *hn_engine_plan_text(const hn_engine *e);
hn_params *hn_engine_params(const hn_engine *e);

/* What `executor` came to: not HN_EXECUTOR_AUTO. */
hn_executor hn_engine_executor(const hn_engine *e);

/* From now on every graph runs node by node and adds its times to p; NULL: as before. */
void hn_engine_profile(hn_engine *e, hn_profile *p);

/* Takes the memory and fills the tables; parameters are zero until they are loaded. On a GPU
 * hn_engine_run_empty follows, so that all kernels are loaded, then every graph is captured and the
 * captures run so. */
HN_NODISCARD hn_status hn_engine_allocate(hn_engine *e);
/* Runs every graph once on an empty batch, in which nothing counts: parameters and moments stay as
 * they are and gradients zero through all of them, the update included; buffers, which a batch norm
 * would move, are put back. */
HN_NODISCARD hn_status hn_engine_run_empty(hn_engine *e);

/* The plans of the matrix products in use, for a checkpoint: *out is new, NULL on the CPU. */
HN_NODISCARD hn_status hn_engine_gemm_plans(const hn_engine *e, struct json_t **out);
/* Goes on with exactly these (of hn_engine_gemm_plans, or NULL); parameters stay as they are.
 * where    names them in errors
 * Errors   HN_ERR_UNSUPPORTED: another GPU, another version of the library, or the CPU on one side;
 *          HN_ERR_FORMAT */
HN_NODISCARD hn_status hn_engine_use_gemm_plans(hn_engine *e, const struct json_t *plans,
                                                const char *where);

/* All ranks call the next two, with the hub that joins them; with one rank they do nothing.
 * Buffers become their mean over the ranks, added up in rank order in fp64. A rank counts by its
 * micro_batches in a step (hn_share_own): one that has none has old values.
 * Errors   HN_ERR_ARG: no rank has any */
HN_NODISCARD hn_status hn_engine_average_buffers(hn_engine *e, hn_hub *hub, int64_t micro_batches);
/* Compares digests of all trained values.
 * Errors  HN_ERR_NUMERIC on all ranks, naming those whose values are not rank 0's, bit for bit */
HN_NODISCARD hn_status hn_engine_compare_ranks(hn_engine *e, hn_hub *hub);

/* After hn_gemm_cuda_tune: graphs that were captured are captured anew; parameters stay. */
HN_NODISCARD hn_status hn_engine_capture_anew(hn_engine *e);

/* Where the next micro-batch is to be written: the same place until it has been run. */
HN_NODISCARD hn_status hn_engine_batch(hn_engine *e, hn_engine_input *out);

int64_t hn_engine_replicas(const hn_engine *e); /* G, at least 1 */
/* From the next hn_engine_begin or hn_engine_step on: r [G]. Until then all have the seed of the
 * options and lr_scale 1. Rows of a frozen replica are padding. */
void hn_engine_set_replicas(hn_engine *e, const hn_replica_step *r);

/* This rank wants the run to end, or not any more: reports of all ranks say so
 * (hn_step_report.stop) from the next hn_engine_update, hn_engine_step or hn_engine_discard on. */
void hn_engine_want_stop(hn_engine *e, bool stop);

/* step: number of the optimizer step, from 0. */
HN_NODISCARD hn_status hn_engine_begin(hn_engine *e, int64_t step);
/* index: number of the micro-batch inside the optimizer step, over all ranks. */
HN_NODISCARD hn_status hn_engine_micro(hn_engine *e, int64_t index);
/* report  [G], waits for it; those of earlier steps that nobody has taken are dropped. NULL: it is
 *         for hn_engine_report
 * Errors  HN_ERR_ARG: HN_ENGINE_AHEAD reports are outstanding already */
HN_NODISCARD hn_status hn_engine_update(hn_engine *e, double lr, hn_step_report *report);
/* hn_engine_begin, hn_engine_micro of index 0 (among ranks: of the rank's number) and
 * hn_engine_update, with the same results; captured, they are one launch. */
HN_NODISCARD hn_status hn_engine_step(hn_engine *e, int64_t step, double lr,
                                      hn_step_report *report);
/* The oldest report that nobody has taken, [G]. wait false: only when its step is done already.
 * *there: whether there was one. */
HN_NODISCARD hn_status hn_engine_report(hn_engine *e, bool wait, bool *there, hn_step_report *out);
/* What optimizer steps gather besides from the next hn_engine_begin on, for a selection of blocks
 * (runtime/adapt/sparse.h): steps with their update, or without one by hn_engine_discard.
 * Errors  HN_ERR_ARG: hn_sparse_options asks for no such stage, or nothing is trained in blocks */
HN_NODISCARD hn_status hn_engine_gather(hn_engine *e, hn_gather what);
/* In place of an update, where blocks are trained: parameters and moments stay as they are (running
 * values of batch norms have moved), and nothing is clipped of what is gathered. The report is that
 * of a step. */
HN_NODISCARD hn_status hn_engine_discard(hn_engine *e, hn_step_report *report);
/* Instead of an update: adds count times the square of the mean gradient over the micro-batches
 * since the last one, of all ranks (count images or tokens of them) to the Fisher, and clears
 * gradients and count. With batches of one image on one rank, over a data set, that is the diagonal
 * of its empirical Fisher times the number of images. Batch norm by the batch would read
 * neighbours, and move: such a model wants a job with frozen running values for it.
 * Errors  HN_ERR_ARG: no anchor with a Fisher, or no training */
HN_NODISCARD hn_status hn_engine_square(hn_engine *e);
/* Reference and Fisher of a trained parameter of this engine, in the order of files, as
 * hn_param_get gives its value. Either may be NULL: not wanted, as it is.
 * Errors  HN_ERR_ARG: no such tensor in this engine, or q is not trained; those of hn_param_read */
HN_NODISCARD hn_status hn_engine_anchor_get(const hn_engine *e, const hn_param *q, float *ref,
                                            float *fisher);
HN_NODISCARD hn_status hn_engine_anchor_set(const hn_engine *e, const hn_param *q, const float *ref,
                                            const float *fisher);
/* Many short runs on one engine: the moments become zero, the anchor's reference the values as they
 * are now, and what is random follows `seed`. Of replicas the values are those of replica 0, which
 * the others get; hn_engine_set_replicas comes behind. Optimizer steps count from 0 again: the
 * caller gives their numbers. Reports that nobody has taken are dropped.
 * Errors HN_ERR_UNSUPPORTED: selections of blocks gather */
HN_NODISCARD hn_status hn_engine_restart(hn_engine *e, uint64_t seed);
/* Runs a micro-batch again, looking at every node, without touching parameters: the error names
 * the first operation that wrote NaN or infinity; HN_OK when none did. Sums are spoilt after it:
 * hn_engine_begin comes next. */
HN_NODISCARD hn_status hn_engine_find_nonfinite(hn_engine *e, int64_t index);

HN_NODISCARD hn_status hn_engine_eval_begin(hn_engine *e);
HN_NODISCARD hn_status hn_engine_eval_batch(hn_engine *e);
HN_NODISCARD hn_status hn_engine_eval_sums(hn_engine *e, hn_eval_sums *out); /* [G] */

/* Where ranks share the base: other ranks have a micro-batch (hn_engine_micro,
 * hn_engine_find_nonfinite), an hn_engine_eval_batch or an hn_engine_probe that this one has not.
 * Else nothing. */
HN_NODISCARD hn_status hn_engine_idle_micro(hn_engine *e);
HN_NODISCARD hn_status hn_engine_idle_eval_batch(hn_engine *e);
HN_NODISCARD hn_status hn_engine_idle_probe(hn_engine *e);

/* Runs the job's probe on what its inputs hold. */
HN_NODISCARD hn_status hn_engine_probe(hn_engine *e);

#ifdef __cplusplus
}
#endif
#endif
