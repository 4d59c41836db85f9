/* op.h - what the engine knows about an operation.
 *
 * One operation is one constant `hn_op_<name>` in runtime/graph/op_<name>.c plus one line in
 * ops.def. Gradients, passes, planner, executors and the generic tests (tests/test_registry.cc)
 * read only this table.
 */
#ifndef HN_OP_H
#define HN_OP_H
#include "runtime/base/step_block.h"
#include "runtime/base/stream.h"
#include "runtime/device/device.h"
#include "runtime/graph/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a node finds when it runs. */
typedef struct {
    hn_device_kind device;
    hn_stream stream;              /* CUDA only */
    hn_gemm_cuda *gemm;            /* CUDA only */
    hn_attention_cudnn *attention; /* CUDA only; NULL: no node of the device has asked for it */
    hn_conv2d_cudnn *conv2d;       /* the same */
    void *scratch; /* the node's scratch bytes, 64-byte aligned; NULL when it asked for none */
    hn_step_block *step; /* in the device's memory: numbers that change from step to step */
    const hn_collectives *collectives; /* NULL: one rank */
    bool twin;                         /* run the plain twin instead of the fast CPU function */
} hn_exec;

/* Output `out` may take over the memory of input `in` when nobody reads that input later. */
#define HN_REUSE(out, in) ((uint64_t)1 << (HN_MAX_IN * (out) + (in)))
#define HN_BIT(k)         (1u << (k))

/* Inputs and attributes on which the generic tests run an operation. A list ends with
 * in[0].ndim 0. */
typedef struct {
    hn_type in[HN_MAX_IN];
    hn_attr attr;
} hn_op_sample;

typedef struct {
    const char *name;
    int n_in, n_out;

    uint32_t optional;         /* HN_BIT of the inputs that may be NULL */
    uint8_t alias[HN_MAX_OUT]; /* 1 + j: this output is input j, changed in place; 0: fresh */
    uint64_t reuse;            /* HN_REUSE bits */
    uint32_t rounded_inside;   /* HN_BIT: f32 outputs made from values in the inputs' dtype */
    uint32_t saved_out;        /* HN_BIT of outputs kept for backward only: no gradient arrives */
    bool replicas;             /* inputs may have a replica axis; else hn_emit refuses them */
    bool over_ranks;           /* what it writes depends on other ranks: no twin knows it */
    bool loss;                 /* root of backward: its gradient rule runs with dout all NULL */

    /* Types of all outputs from inputs and attributes; ndim 0 marks an output that is absent.
     * Aliased outputs are filled in by hn_emit. HN_ERR_SHAPE or HN_ERR_UNSUPPORTED with a reason:
     * hn_emit puts the node's name before it. */
    hn_status (*infer)(const hn_node *n, hn_type *out);

    /* Emits the nodes that compute the gradients of the inputs.
     * dout[k]  gradient of out[k]; NULL where none arrives (at least one is there, or `loss`)
     * din[k]   on entry NULL when in[k] needs no gradient: leave it NULL.
     *          k in `accumulates`: an fp32 buffer shaped like in[k]; the rule ADDS into it through
     *            a node whose output is aliased to it (trained weights), and leaves din[k] alone.
     *            k in `by_views`, too: it may be HN_GRAD_OF_VIEWS. The rule then adds into the
     *            buffers of those views (hn_tensor.views) of in[k] that have one; the rest of
     *            in[k] is constant.
     *            k in `by_blocks`, too: it may be HN_GRAD_OF_BLOCKS. The rule then calls
     *            hn_grad_blocks in place of the operation that adds.
     *          k in `adds`: HN_NO_GRAD_YET or the gradient gathered so far; the rule sets din[k] to
     *            the new total (it may write in place of the old one).
     *          else: HN_NO_GRAD_YET; the rule sets din[k] to its contribution, or NULL for zero.
     * A NULL function marks an operation that cannot be differentiated. */
    hn_status (*grad)(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din);
    uint32_t accumulates, adds, by_views, by_blocks;

    /* Of an operation that gradient rules emit: output k, absent unless `ask_again` has set the
     * attributes for it, is output again[k] - 1 of the node whose gradient this is, once more with
     * the same bits, made in passing (remake.c). 0: it is not. */
    uint8_t again[HN_MAX_OUT];
    void (*ask_again)(hn_attr *attr);

    /* Elements behind each row of input k that the operation would like to write in (plan.h gives
     * them, or not: hn_type.tail); NULL: none. */
    int64_t (*tail)(const hn_node *n, int k);

    /* While the plan is built, ahead of scratch: settles what depends on the device (in n->attr,
     * for good) and makes the library plans of the node, which is slow. NULL: nothing to settle. */
    hn_status (*prepare)(hn_node *n, hn_device *device);
    /* Bytes while running; NULL: none. */
    size_t (*scratch)(const hn_node *n, hn_device_kind device);

    hn_status (*run_cpu)(const hn_node *n, hn_exec *x);
    hn_status (*run_cuda)(const hn_node *n, hn_exec *x); /* NULL: refused by name in a CUDA plan */
    /* The same for `count` nodes with this operation, none of which needs another; NULL: one by
     * one. They have no scratch. */
    hn_status (*run_many_cuda)(hn_node *const *n, int64_t count, hn_exec *x);
    /* Whether the node is worth running beside others on a GPU (streams.c): nobody waits for what
     * it makes, and it leaves others room, as memory and not arithmetic bounds it; NULL: never. */
    bool (*beside)(const hn_node *n);

    /* For the generic tests. fill writes sensible values for input k (ids, offsets, labels,
     * states); it returns false for "standard normal values, or zeros for integers".
     * kinks: HN_BIT of inputs without finite-difference check. */
    const hn_op_sample *samples;
    bool (*fill)(const hn_node *n, int k, void *data);
    uint32_t kinks;
} hn_op_def;

#define HN_NO_GRAD_YET    ((hn_tensor *)-1)
#define HN_GRAD_OF_VIEWS  ((hn_tensor *)-2)
#define HN_GRAD_OF_BLOCKS ((hn_tensor *)-3)
/* For a gradient rule whose matrix w, or views of it that are rows of w, are trained in blocks:
 * records what hn_tensor.blocks wants of dw = op(dy, x). */
HN_NODISCARD hn_status hn_grad_blocks(hn_graph *g, const char *name, const hn_tensor *w,
                                      hn_op_id op, const hn_attr *attr, hn_tensor *dy,
                                      hn_tensor *x);
/* din[k] of an `adds` input as an optional operand: NULL when there is none yet. */
static inline hn_tensor *hn_gathered(hn_tensor *din) { return din == HN_NO_GRAD_YET ? NULL : din; }

const hn_op_def *hn_op(hn_op_id id);

/* Elements between two replicas of a tensor (0 when it has one). */
int64_t hn_replica_stride(const hn_tensor *t);

#ifdef __cplusplus
}
#endif
#endif
