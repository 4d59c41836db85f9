/* plan.h - where every byte of a program lives, known before the first one is taken.
 *
 * Each memory class is one block; persistent tensors lie in it in order of creation. The block of
 * transient tensors is the maximum over the graphs. Inside a graph the largest tensor is placed
 * first, at the lowest address that is free over its life:
 *
 *   address
 *     ^   +---------+   +-------+
 *     |   |  gate   |   |  dup  |          a piece lives from the first node that touches it to the
 *     |   +-----+---+---+---+---+----+     last; an output may take over an input's piece where the
 *     |   |  x  |      y    | dx     |     operation allows it and nobody reads the input later
 *     +---+-----+-----------+--------+-> node
 *
 * Side nodes (streams.c) run beside others; what they use lives until they are joined. That must
 * not cost much memory: else they are joined earlier, or run in their place.
 *
 * Tails: an operation may ask for room behind each row of an input (hn_op_def.tail). Transient
 * matrices that are nobody's view get it, and with them all others of their width: their pitch
 * grows, and what lies there is scratch of the operations that read them, one after the other.
 */
#ifndef HN_PLAN_H
#define HN_PLAN_H
#include "runtime/graph/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether nodes that memory bounds run on the device's side stream (streams.c). They write the same
 * bits there; products have others with multiprocessors set aside. */
typedef enum {
    HN_SIDE_AUTO, /* on a GPU, with HN_SIDE_SMS */
    HN_SIDE_OFF,
    HN_SIDE_ON /* also on the CPU, where they run in order all the same */
} hn_side;

/* Multiprocessors that bf16 products of backward leave to side nodes; 0: none, side nodes get what
 * is free. On an H200 (132 of them) four cost products of 1024 tiles no wave more. */
enum { HN_SIDE_SMS = 4 };

typedef struct {
    hn_device *device;  /* must outlive the program; NULL: one for the CPU is made */
    size_t guard_bytes; /* red zone behind every transient piece, for tests; 0: none */
    size_t memory;      /* bytes that may be taken; 0: what is free when they are */
    hn_side side;
    int side_sms;     /* with HN_SIDE_ON: set aside, like HN_SIDE_SMS */
    size_t workspace; /* bytes of a GPU that products may work in, a stream; 0, and at most:
                       * HN_GEMM_WORKSPACE. With less the library has fewer algorithms */
} hn_plan_options;

typedef struct {
    size_t class_bytes[HN_MEM_COUNT]; /* all replicas */
    size_t workspace_bytes;           /* what products work in, of all streams that are used */
    size_t total_bytes;
    const char *widest_graph; /* the one that sets the transient block, ... */
    const char *widest_node;  /* ... and its node with most in use; NULL: none */
    int64_t n_nodes, n_side;  /* over all graphs */
    int shares;               /* of frozen values, one a rank (shards.h); 1: all are here */
} hn_plan_sizes;

/* Runs the passes on every graph and places everything. Takes no tensor memory.
 * Errors: HN_ERR_UNSUPPORTED names an operation without a function for the device; HN_ERR_MEMORY.
 * After an error the program is good for hn_program_free only. */
HN_NODISCARD hn_status hn_plan_build(hn_program *p, const hn_plan_options *o);
void hn_plan_sizes_of(const hn_program *p, hn_plan_sizes *out); /* after hn_plan_build */

/* What the nodes' operations had to say (whose kernels, which mode), every note once, with `end`
 * behind it; cut off at `size`. Part of hn_plan_text, a line each. */
void hn_plan_notes(const hn_program *p, char end, char *text, size_t size);

/* The table that is printed before the first allocation; hn_free the text. NULL: out of memory. */
char *hn_plan_text(const hn_program *p);

/* Whether the plan fits hn_plan_options.memory, and what is free on the device.
 * margin  of the free memory that is to be left
 * room    NULL, or receives the bytes there are; 0: nobody knows (the CPU without a limit) */
HN_NODISCARD hn_status hn_plan_fits(const hn_program *p, size_t margin, bool *fits, size_t *room);

/* Takes the memory, zeroed, and sets every tensor's data.
 * Errors: HN_ERR_MEMORY says what is needed and what there is, before anything is taken */
HN_NODISCARD hn_status hn_plan_allocate(hn_program *p);

hn_device *hn_program_device(const hn_program *p); /* NULL before hn_plan_build */

#ifdef __cplusplus
}
#endif
#endif
