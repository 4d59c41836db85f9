/* graph.h - programs: persistent tensors and the graphs (step variants) that run over them.
 *
 * Life of a program, in this order:
 *   hn_program_new       empty
 *   hn_program_tensor    persistent tensors, named, placed at once in their memory class
 *   hn_graph_new         one graph per step variant (micro, last, eval, prefill, decode...);
 *                        builders record operations with hn_emit
 *   hn_graph_backward    appends the gradient nodes to a training graph
 *   hn_plan_build        passes and placement (plan.h): every byte known, none taken yet
 *   hn_plan_allocate     takes the memory, zeroed; from here on nobody allocates
 *   hn_graph_run         runs one variant (run.h)
 *   hn_program_free      everything
 *
 * A tensor is dense row-major except for the pitch of its rows, or a view of such a tensor: of
 * columns, or, persistent ones, of a block of rows and columns.
 * A graph is a list of nodes in the order in which they run. A node writes fresh tensors, or adds
 * in place to one of its inputs where the operation says so (hn_op_def.alias): gradients of trained
 * tensors, losses, caches.
 */
#ifndef HN_GRAPH_H
#define HN_GRAPH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/arena.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_MAX_DIM = 6, HN_MAX_IN = 8, HN_MAX_OUT = 8 };

typedef struct {
    hn_dtype dtype;
    int ndim; /* 0: no tensor */
    int64_t dim[HN_MAX_DIM];
    int64_t pitch;    /* elements from one row (last axis) to the next; 0: rows without gaps */
    int64_t tail;     /* of the pitch: elements right behind each row that operations which read the
                       * tensor may write as scratch (plan.h); 0: none */
    int64_t replicas; /* leading replica axis G of trained tensors; 0 or 1: none. Not in dim */
} hn_type;

int64_t hn_type_rows(const hn_type *t);                /* product of all axes but the last */
int64_t hn_type_cols(const hn_type *t);                /* last axis */
int64_t hn_type_ld(const hn_type *t);                  /* leading dimension in elements */
int64_t hn_type_elements(const hn_type *t);            /* without padding and replicas */
size_t hn_type_bytes(const hn_type *t);                /* of one replica, padding included */
bool hn_type_same(const hn_type *a, const hn_type *b); /* dtype, axes and replicas; any pitch */
/* "bf16[2048, 128]" into a caller's buffer; returns it. */
const char *hn_type_text(const hn_type *t, char *buffer, size_t size);
/* [rows, cols] with the pitch rounded up to 16 bytes. */
hn_type hn_type_2d(hn_dtype dtype, int64_t rows, int64_t cols);
hn_type hn_type_1d(hn_dtype dtype, int64_t n);

/* Memory classes. From TRAINED to AVERAGE they have the same layout in elements, so one flat pass
 * serves clipping, the update and all-reduce. */
/* clang-format off */
#define HN_MEM_LIST(X)                                                       \
    X(TRANSIENT, "activations")      /* placed by the plan, shared in time */\
    X(WEIGHT,    "frozen weights")                                           \
    X(GATHERED,  "gathered weights") /* of layers, in turn: shards.h */      \
    X(TRAINED,   "trained values")   /* fp32 masters */                      \
    X(WORK,      "working copies")   /* of trained values, in bf16 runs */   \
    X(GRAD,      "gradients")        /* fp32 sums, then the token count */   \
    X(MOMENT1,   "first moments")                                            \
    X(MOMENT2,   "second moments")                                           \
    X(AVERAGE,   "averages")         /* of trained values over steps */      \
    X(INPUT,     "batch")                                                    \
    X(CACHE,     "key/value cache")                                          \
    X(STATE,     "tables and step state")

typedef enum {
#define X(name, text) HN_MEM_##name,
    HN_MEM_LIST(X)
#undef X
    HN_MEM_COUNT
} hn_mem;
/* clang-format on */

const char *hn_mem_name(hn_mem m);

typedef enum {
#define HN_OP(id, def) HN_OP_##id,
#include "runtime/graph/ops.def"
#undef HN_OP
    HN_OP_COUNT
} hn_op_id;

typedef struct hn_tensor hn_tensor;
typedef struct hn_node hn_node;
typedef struct hn_graph hn_graph;
typedef struct hn_program hn_program;

typedef struct hn_block_rule hn_block_rule;
struct hn_shard;

struct hn_tensor {
    const char *name; /* stable: keys random numbers, checkpoints and error texts */
    hn_program *program;
    hn_type type;
    hn_mem mem;
    hn_tensor *base;             /* this is a view of base; NULL: it owns its memory */
    size_t offset;               /* bytes behind the start of base, or of the memory class */
    hn_tensor *views;            /* hn_program_view's views of this one, ... */
    hn_tensor *next;             /* ... and the next of the same base */
    hn_tensor *grad;             /* trained parameter: its fp32 gradient buffer; else NULL */
    const hn_block_rule *blocks; /* of a matrix that is trained in blocks; else NULL */
    struct hn_shard *shard;      /* of HN_MEM_GATHERED, where base is NULL: its range; else NULL */
    int64_t still, n_still; /* of the gradient of a bias: n elements that nothing is added to */
    bool needs_grad;        /* a gradient must reach this tensor */
    bool has_columns;       /* hn_view_columns or hn_view_shape has made views of it */
    bool flat;              /* a view whose last axis is not a part of that of base, ... */
    bool fixed_pitch;       /* ... and that base: its rows must stay without gaps */
    bool keep;              /* hn_graph_keep: stays untouched to the end of its graph */
    int64_t index;          /* number in its graph (transient) or program */
    void *data;             /* first element (of replica 0), NULL before hn_plan_allocate */
};

/* Whose kernels attention runs on. */
typedef enum {
    HN_ATTENTION_OWN,
    HN_ATTENTION_AUTO,       /* cuDNN where it serves, else our own; settled by the plan */
    HN_ATTENTION_CUDNN,      /* deterministic */
    HN_ATTENTION_CUDNN_FAST, /* dq is added up in an order left to chance */
} hn_attention_impl;

/* Whose kernels a convolution runs on, on a GPU. */
typedef enum {
    HN_CONV2D_AUTO, /* cuDNN where it serves, else our own; settled by the plan */
    HN_CONV2D_OWN,
    HN_CONV2D_CUDNN,
} hn_conv2d_impl;

/* What an operation needs to know besides its inputs. Zero means "not used". */
typedef union {
    struct {
        float alpha;   /* factor of the product */
        float dropout; /* of x, probability */
        uint64_t key;  /* random stream of that dropout */
    } linear;          /* linear, linear_dx, linear_dw, low-rank family */
    struct {
        float eps, gain_offset; /* y = norm(x) * (gain_offset + gain) */
        int64_t heads; /* norm over each of `heads` equal column groups; 0 or 1: whole row */
        bool want_y;   /* of add_rmsnorm_bwd: forward's y once more */
    } norm;
    struct {
        bool want_h; /* of swiglu_bwd: forward's y once more */
    } swiglu;
    struct {
        int64_t heads, head_dim, rotary_dim;
        bool inverse, interleaved;
    } rope;
    struct {
        int64_t heads, kv_heads, head_dim, window;
        int64_t longest; /* no sequence has more rows; 0: not known */
        bool even;       /* every sequence may be taken to have so many */
        float scale, softcap;
        bool causal;
        hn_attention_impl impl;
        size_t library_scratch; /* bytes, set by the plan */
    } attention;
    struct {
        int64_t chunk_rows; /* rows of logits alive at a time */
        float softcap;
        bool want_dx, want_row_loss;
    } ce;
    struct {
        float p;
        uint64_t key;
    } dropout;
    struct {
        float beta1, beta2, eps, weight_decay, lr_scale;
    } adamw;
    struct {
        float momentum, weight_decay, lr_scale;
        bool nesterov;
    } sgd;
    struct {
        float factor;
    } scale;
    struct {
        hn_dtype to;
    } cast;
    struct {
        float eps, momentum; /* momentum: of the running values */
        int64_t groups;      /* of group_norm */
        bool frozen, relu;   /* of batch_norm */
        bool want_dres;      /* of batch_norm_bwd */
        bool by_bias;        /* of batch_norm_bwd: bias in place of y */
    } channel_norm;          /* batch_norm, group_norm and their backward */
    struct {
        float smoothing;
        int64_t first_class, n_classes; /* columns that take part; n 0: from the first on */
        bool want_dlogits, want_row_loss, want_prediction;
    } class_ce;
    struct {
        float temperature, weight;      /* temperature 0: 1 */
        int64_t first_class, n_classes; /* as class_ce */
        bool want_dstudent, want_row_loss;
    } distill;
    struct {
        float weight;
    } anchor;
    struct {
        float keep, scale; /* f = keep * f + scale * grad^2 */
    } square_accumulate;
    struct {
        bool resized;                    /* a random box, bilinear; else a random crop */
        int64_t height, width, channels; /* of the output */
        hn_dtype to;                     /* f32 or bf16 */
        int64_t pad;                     /* crop: black pixels round the image */
        bool train;                      /* random crop and flip; else the centre, not flipped */
        float flip;                      /* probability */
        float scale[2], ratio[2];        /* resized, train: share of the area, width / height */
        float centre;                    /* resized, else: share of the sides; 0: 1 */
        float mean[4], std[4];           /* of the channels; std 0: 1 */
        uint64_t key;                    /* random stream */
    } prep;
    struct {
        int64_t kh, kw, stride, pad, dilation, groups; /* stride, dilation, groups: 0 means 1 */
        int64_t h, w;                                  /* of conv2d_dx: height and width of dx */
        hn_conv2d_impl impl;
        size_t library_scratch; /* bytes, set by the plan */
    } conv;                     /* conv2d, conv2d_dx, conv2d_dw */
    struct {
        int kind;    /* hn_activation_kind of kernels/activation/activation.h */
        bool want_y; /* of activation_bwd: forward's y once more */
    } act;
    struct {
        int kind;                  /* hn_pool_kind of kernels/conv/pool2d.h */
        int64_t size, stride, pad; /* size 0: the whole image; stride 0: size */
        bool count_include_pad;
        bool relu;    /* behind maxima */
        int64_t h, w; /* of the input; of pool2d_bwd, set by the gradient rule */
    } pool;
    struct {
        int64_t stride, channels; /* of y */
        int64_t h, w;             /* of the input; of shortcut_a_bwd, set by the gradient rule */
    } shortcut;
    struct {
        int64_t patches; /* of an image; of class_token_bwd, as what follows: the gradient rule's */
        bool has_cls, want_dx;
    } token;
    struct {
        int64_t stride, offset; /* y[i] = x[i * stride + offset] */
    } rows;
    struct {
        int64_t index;    /* of the matrix's span */
        int64_t br, bc;   /* rows and columns of a block */
        int64_t capacity; /* blocks that the span may have */
        float alpha;      /* factor of the gradient; 0: 1 */
    } sparse;             /* block_dw, block_gather, block_store (kernels/sparse/sparse_pool.h) */
    struct {
        float beta1, beta2, eps, weight_decay, lr_scale;
        int64_t block_values; /* of every block; 0: by the input `sizes` */
    } sparse_adamw;
    struct {
        int64_t br, bc;  /* rows and columns of a block */
        int kind;        /* hn_score_kind of kernels/sparse/block_score.h */
        bool accumulate; /* add to what f holds */
    } block_score;
    struct {
        bool zero; /* g = 0 afterwards */
    } window_add;
    struct {
        int64_t kd, kh, kw, stride, pad, dilation; /* stride, dilation: 0 means 1 */
        int64_t d, h, w;                           /* of conv3d_dx: sides of dx */
    } conv3d;                                      /* conv3d, conv3d_dx, conv3d_dw */
    struct {
        int64_t size;    /* of a cube */
        int64_t d, h, w; /* of the input; of pool3d_bwd, set by the gradient rule */
    } pool3d;
    struct {
        int64_t d, h, w; /* of y, where there is no skip; of upsample_bwd: of x */
    } upsample;
    struct {
        float w_dice, w_focal, w_cross, smooth, alpha, gamma; /* hn_seg_terms */
        bool want_dlogits, want_prediction;
    } seg_loss;
    struct {
        int64_t support, ways; /* support rows of a replica; the most classes of an episode */
        float scale, offset;   /* logits = scale (cosine + offset) */
        bool want_dfeatures, want_prediction, want_logits;
    } proto_ce;
    struct {
        int64_t height, width, channels; /* of the output */
        hn_dtype to;                     /* f32 or bf16 */
        float augment;                   /* probability */
        float mean[4], std[4];           /* of the channels; std 0: 1 */
        uint64_t key;                    /* random stream */
    } few_shot;                          /* few_shot_prep */
    struct {
        float decay;
    } moving_average;
    struct {
        float eps; /* of the normalisation; 0: none */
    } modulate;
    struct {
        int64_t group_rows; /* of y, under one label; 0: 1 */
        bool want_dy, want_group_loss;
    } regression;
    struct {
        float noise; /* standard deviation on z */
        hn_dtype to; /* of z: f32 or bf16 */
        uint64_t key;
        bool want_dz;
    } curve_point;
    struct {
        int64_t episodes; /* equal runs of the rows; 0: 1 */
        hn_dtype to;      /* of u: f32 or bf16 */
    } support_context;
    struct {
        float alpha;
        bool want_rounded;
    } add_scaled;
} hn_attr;

struct hn_node {
    hn_op_id op;
    const char *name; /* of the layer that emitted it, "model.layers.3.mlp.up_proj" */
    hn_graph *graph;
    hn_tensor *in[HN_MAX_IN], *out[HN_MAX_OUT]; /* NULL: optional operand that is absent */
    hn_attr attr;
    bool backward;     /* appended by hn_graph_backward */
    const hn_node *of; /* backward: the node whose gradient rule has emitted this one, or NULL */
    int segment;       /* recompute segment of a forward node; 0: none */
    size_t scratch;    /* bytes, from the operation's scratch function */
    size_t scratch_at; /* where in the transient arena */
    const char *note;  /* a line of the plan's text, from the operation's prepare; NULL: none */
    bool brings;       /* shards.c: gathers a layer's weights, or completes them */
    /* streams.c; the streams are the device's */
    bool side;            /* runs on the side stream, ... */
    int64_t join;         /* ... is done before that node, by number; n_nodes: at the graph's end */
    int64_t mark;         /* ... and gets this mark for those who wait for it; -1: nobody does */
    bool leaves_room;     /* main stream: its products leave multiprocessors to side nodes */
    const hn_node *after; /* main stream: the side node that has to be done first; NULL: none new */
    bool ahead;           /* of those that bring: runs on the stream ahead, ... */
    int64_t ahead_mark;   /* ... and gets this mark where it is the last one of a layer; else -1 */
    const hn_node *needs; /* main stream: the same of that stream */
    int64_t at_once;      /* so many nodes from here on may run as one; 0: it belongs to others */
};

/* A matrix of which blocks are trained (runtime/adapt/sparse.h) has no gradient buffer. Whoever
 * chose the blocks records what is wanted of its gradient dw, where a gradient rule would have
 * added dw into the buffer: it emits what reads dy and x. */
struct hn_block_rule {
    /* op, attr  the operation that makes dw, HN_OP_LINEAR_DW or HN_OP_CONV2D_DW, of dy, x and a
     *           buffer, and its attributes
     * name      of the layer */
    hn_status (*grad)(const hn_block_rule *r, hn_graph *g, const char *name, hn_op_id op,
                      const hn_attr *attr, hn_tensor *dy, hn_tensor *x);
};

HN_NODISCARD hn_status hn_program_new(int64_t replicas, hn_program **out);
void hn_program_free(hn_program *p); /* accepts NULL */

/* A persistent tensor, placed behind the last one of its class on a multiple of 64 elements.
 * In the five trained classes the type's replica count becomes the program's.
 * Errors: HN_ERR_SHAPE (empty or overflowing), HN_ERR_ARG (name taken), HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_program_tensor(hn_program *p, hn_mem mem, const char *name,
                                         const hn_type *type, hn_tensor **out);
hn_tensor *hn_program_find(const hn_program *p, const char *name); /* NULL when absent */

/* Elements of one replica of a class so far, padding included: the stride between replicas. */
int64_t hn_program_class_elements(const hn_program *p, hn_mem mem, hn_dtype dtype);

/* One-dimensional view [n] of elements first .. first+n-1 of a class (of one replica). */
HN_NODISCARD hn_status hn_program_range(hn_program *p, hn_mem mem, const char *name, hn_dtype dtype,
                                        int64_t first, int64_t n, hn_tensor **out);

/* Rows row .. row+rows-1 and columns col .. col+cols-1 of a persistent tensor of one or two axes,
 * as a named tensor that shares its memory (one axis: give row 0, rows 1). Errors: HN_ERR_SHAPE
 * (not there), HN_ERR_ARG (name taken), HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_program_view(hn_program *p, const char *name, hn_tensor *base,
                                       int64_t row, int64_t rows, int64_t col, int64_t cols,
                                       hn_tensor **out);
int64_t hn_program_replicas(const hn_program *p);

/* training: gradients will be wanted; tensors made from needs_grad inputs need them, too. */
HN_NODISCARD hn_status hn_graph_new(hn_program *p, const char *name, bool training, hn_graph **out);
hn_graph *hn_program_graph(const hn_program *p, const char *name); /* NULL when absent */
bool hn_graph_training(const hn_graph *g);
int64_t hn_graph_nodes(const hn_graph *g);
hn_node *hn_graph_node(const hn_graph *g, int64_t i);

/* Appends a node.
 * in     n_in operands of the operation; NULL where an optional one is absent
 * out    on success the outputs (NULL: absent); the caller may give NULL for the whole array
 * Errors HN_ERR_SHAPE, HN_ERR_UNSUPPORTED, HN_ERR_ARG with the node's name; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_emit(hn_graph *g, hn_op_id op, const char *name, hn_tensor *const *in,
                               const hn_attr *attr, hn_tensor **out);

/* Columns first .. first+cols-1 of t, of two axes or more, as a tensor that shares its memory. In
 * backward, gradients of disjoint views are written straight into the gradient of t where they can
 * be. */
HN_NODISCARD hn_status hn_view_columns(hn_graph *g, hn_tensor *t, int64_t first, int64_t cols,
                                       hn_tensor **out);

/* The same elements in the same order under other axes, as a tensor that shares t's memory: where
 * the last axis stays as long as it is ([n, h, w, c] as [n h w, c]), of any t; where it does not
 * ([n, h, w, c] as [n, h w c]), of a t whose rows lie without gaps. The view of a trained parameter
 * has the same view of its gradient buffer; else gradients of views are joined into that of t in
 * backward, without a copy where there is one view with a gradient whose last axis is that of t.
 * Errors: HN_ERR_SHAPE (other elements, gaps), HN_ERR_UNSUPPORTED (t is trained view by view) */
HN_NODISCARD hn_status hn_view_shape(hn_graph *g, hn_tensor *t, int ndim, const int64_t *dim,
                                     hn_tensor **out);

/* A transient tensor outside any node's outputs; the first node that has it as output defines it.
 */
HN_NODISCARD hn_status hn_graph_tensor(hn_graph *g, const char *name, const hn_type *type,
                                       hn_tensor **out);

/* Pins a tensor to the end of the graph, for readers outside (logits, tests). */
void hn_graph_keep(hn_tensor *t);

/* Forward nodes between begin and end are run again in backward instead of keeping their results.
 */
void hn_segment_begin(hn_graph *g);
void hn_segment_end(hn_graph *g);

/* Appends gradient nodes for everything that needs a gradient.
 * y, dy    n seeds: the gradient of y[i] is the tensor dy[i]. Loss operations are roots by
 *          themselves (their gradient is 1), so training graphs pass n = 0
 * Errors   HN_ERR_UNSUPPORTED names an operation on the path that cannot be differentiated */
HN_NODISCARD hn_status hn_graph_backward(hn_graph *g, int n, hn_tensor *const *y,
                                         hn_tensor *const *dy);
/* The gradient tensor of t after hn_graph_backward: its buffer for a trained parameter, NULL when
 * none arrived. */
hn_tensor *hn_graph_grad(const hn_graph *g, const hn_tensor *t);

#ifdef __cplusplus
}
#endif
#endif
