/* graph_impl.h - the insides of programs and graphs; for runtime/graph only. */
#ifndef HN_GRAPH_IMPL_H
#define HN_GRAPH_IMPL_H
#include "runtime/graph/op.h"
#include "runtime/graph/shards.h"

typedef struct {
    hn_tensor **item;
    int64_t n, cap;
} hn_tensor_list;

/* shards.c */
struct hn_shard {
    hn_program *program;
    const char *name;
    int64_t number;          /* in the order of layers */
    size_t bytes;            /* of its tensors */
    hn_tensor_list from, to; /* what is stored behind a gather */
    /* the plan */
    size_t share;           /* bytes that a rank has */
    hn_tensor *own, *whole; /* u8 [share] and [ranks share] */
};

struct hn_program {
    hn_arena arena; /* tensors, nodes, names */
    int64_t replicas;
    hn_tensor_list class_list[HN_MEM_COUNT]; /* persistent owners and views by class */
    size_t class_bytes[HN_MEM_COUNT];        /* of one replica, placed so far */
    hn_tensor **by_name;                     /* open addressing, n_slots a power of two */
    int64_t n_slots, n_named;
    hn_graph **graph;
    int64_t n_graphs, cap_graphs;
    hn_shard **shard;
    int64_t n_shards, cap_shards;
    int share_ranks, share_rank; /* 0: nothing is shared */
    /* the plan */
    bool planned;
    int side_sms;                                    /* set aside for side nodes */
    size_t workspace;                                /* of a stream */
    size_t transient_bytes, guard_bytes, most_bytes; /* most: that may be taken, 0: what is free */
    unsigned char *memory[HN_MEM_COUNT];
    hn_device *device, *own_device; /* own_device: the one made here, or NULL */
};

struct hn_graph {
    hn_program *program;
    const char *name;
    bool training, in_backward;
    const hn_node *differentiated; /* whose gradient rule runs now */
    hn_node **node;
    int64_t n_nodes, cap_nodes;
    hn_tensor_list tensors; /* transient ones, views included; tensor->index is the place here */
    hn_tensor **grad;       /* by index of the n_grads forward tensors, after hn_graph_backward */
    int64_t n_grads;
    hn_tensor_list leaves;     /* persistent tensors without a buffer that got a gradient, ... */
    hn_tensor_list leaf_grads; /* ... and those gradients */
    int segment, n_segments;
    size_t transient_bytes;
    const hn_node *side_end;   /* the last side node, when nobody waits for it; else NULL */
    int64_t n_marks;           /* of side nodes; those of the stream ahead come behind */
    const hn_node *fullest;    /* where most of them are in use; NULL: no node */
    hn_device_graph *captured; /* NULL: run node by node */
};

/* The tensor whose memory t lives in. */
static inline hn_tensor *hn_root(hn_tensor *t)
{
    while (t->base != NULL) t = t->base;
    return t;
}

hn_status hn_list_add(hn_tensor_list *l, hn_tensor *t);

/* graph.c: hn_program_tensor behind the first *bytes of its class, which grow by it. */
HN_NODISCARD hn_status hn_program_tensor_at(hn_program *p, hn_mem mem, const char *name,
                                            const hn_type *type, size_t *bytes, hn_tensor **out);

/* tensor.c: hn_tensor_host in the midst of a graph, where a gathered value is whole. */
HN_NODISCARD hn_status hn_tensor_now(const hn_tensor *t, const void **data, void **copy);

/* shards.c */
void hn_shards_free(hn_program *p);
/* Places of all ranges: the first thing of a plan. */
HN_NODISCARD hn_status hn_shards_place(hn_program *p);
/* Gathers, in front of what needs them; behind the passes that change what nodes read. */
HN_NODISCARD hn_status hn_pass_shards(hn_graph *g);
/* Bytes from the begin of the range to t, and what of bytes *first .. *end-1 is this rank's. */
size_t hn_shard_offset(const hn_shard *s, const hn_tensor *t);
void hn_shard_clip(const hn_shard *s, size_t *first, size_t *end);

/* graph.c: the place and type of `view` in another base with the type of its own. */
HN_NODISCARD hn_status hn_view_again(hn_graph *g, const hn_tensor *view, hn_tensor *base,
                                     hn_tensor **out);
/* Whether the elements of t may be seen with a last axis of `cols`. */
bool hn_can_view(const hn_graph *g, const hn_tensor *t, int64_t cols);

/* passes.c: in this order, after hn_graph_backward */
HN_NODISCARD hn_status hn_pass_recompute(hn_graph *g);
void hn_pass_dead_nodes(hn_graph *g);
/* fuse.c: between these two, which go by the nodes as they are then */
void hn_pass_fuse(hn_graph *g);
/* remake.c, in_place.c, tails.c: after those */
HN_NODISCARD hn_status hn_pass_remake(hn_graph *g);
HN_NODISCARD hn_status hn_pass_in_place(hn_graph *g);
void hn_pass_tails(hn_program *p); /* of all graphs */

/* streams.c: moves what brings weights to where it may begin. */
void hn_pass_ahead(hn_graph *g);
/* Ahead of place.c, when scratch is known. hn_pass_side_nodes chooses side nodes and
 * changes the order of nodes; false: there are none. hn_pass_joins finds out how long each may run,
 * beside `window` nodes at most; hn_pass_one_stream takes it back. */
bool hn_pass_side_nodes(hn_graph *g);
HN_NODISCARD hn_status hn_pass_joins(hn_graph *g, int window);
void hn_pass_one_stream(hn_graph *g);
/* After those: finds nodes that may run as one. */
void hn_pass_batches(hn_graph *g);

/* compare.c: runs the node's CPU twin on copies of its inputs, made by hn_twin_before; then its
 * outputs, which the device has written, must agree. */
typedef struct {
    void *in[HN_MAX_IN]; /* host copies; an aliased output is computed in its input's */
    void *out[HN_MAX_OUT];
} hn_twin_copies;
HN_NODISCARD hn_status hn_twin_before(const hn_node *n, hn_twin_copies *c);
HN_NODISCARD hn_status hn_twin_after(const hn_node *n, hn_step_block *step, hn_twin_copies *c);
void hn_twin_free(hn_twin_copies *c);

/* place.c: offsets of transient tensors and scratch; sets g->transient_bytes */
HN_NODISCARD hn_status hn_place(hn_graph *g, size_t guard_bytes);
#endif
