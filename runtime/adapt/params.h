/* params.h - named parameters of a model and how each one is adapted.
 *
 * A model declares its parameters and linear layers by name; the method's hook says for each what
 * happens to it; hn_params_create turns that into persistent tensors. Models never name a method,
 * methods never name a model.
 *
 *   hn_params_new        with the hook (hn_adapt)
 *   hn_params_layer      which layer those that follow belong to
 *   hn_params_declare    every parameter of the model, in file order
 *   hn_params_linear     every linear layer: the hook may attach a low-rank update
 *   hn_params_conv       the same for convolutions
 *   hn_params_buffer     values that are no parameters: running statistics
 *   hn_params_group      linear layers that read the same input: they may be stored as one
 *   hn_params_create     persistent tensors; trained ones in the order: decayed, then not decayed
 *   hn_params_linear_fwd records a layer in a graph, hn_params_conv_fwd a convolution,
 *   hn_params_group_fwd  the layers of a group
 *
 * How parameters are stored (storage.c) is nobody's business but this folder's: a value may be a
 * view of a larger tensor. Names, shapes, hn_param_set and hn_param_get do not change with it.
 */
#ifndef HN_PARAMS_H
#define HN_PARAMS_H
#include "kernels/sparse/sparse_pool.h"
#include "runtime/adapt/sparse.h"
#include "runtime/graph/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_ADAPT_FROZEN,
    HN_ADAPT_FULL,
    /* A vector, of a value a replica, that is not trained: graphs of the program write it (`store`
     * into hn_param.value, or into a view of it: a row a replica). Of the dtype that is computed
     * in. Declaring a matrix so fails with HN_ERR_UNSUPPORTED. */
    HN_ADAPT_GIVEN
} hn_adapt_kind;

typedef struct {
    int64_t rank;  /* 0: no low-rank update */
    float scale;   /* of B A x */
    float dropout; /* of x in front of A, 0 <= p < 1 */
    /* The layer runs on W + scale B A as one weight, made anew in every graph, instead of adding
     * products with A and B (kernels/lora/lowrank_weight.h). The same function, up to rounding; for
     * small networks, whose matrices are soon made. Always so for convolutions in groups. Not with
     * dropout; such a layer is not fused with others (storage.c). */
    bool materialise;
    /* DoRA: what the layer makes of its input, but for the bias, is given trained magnitudes:
     *   y = m / || W + scale B A || (W x + scale B A x') + bias, a norm and an m for each output
     * (kernels/lora/magnitude.h); m begins as || W ||, hn_params_measure. Of linear layers whose W
     * is frozen: declaring another one fails with HN_ERR_UNSUPPORTED, as with `materialise`. */
    bool magnitude;
} hn_lowrank;

/* What a method decides. Callbacks may be NULL: frozen, and no low-rank update. */
typedef struct {
    hn_adapt_kind (*parameter)(const void *context, const char *name);
    /* module: "model.layers.0.mlp.up_proj". Errors are passed on. Declaring a layer fails with
     * HN_ERR_UNSUPPORTED where dropout meets `materialise`. */
    hn_status (*linear)(const void *context, const char *module, int64_t in, int64_t out,
                        hn_lowrank *choice);
    /* Of which shape blocks of the layer's weight are trained (sparse.h): sets *choice, {0, 0} on
     * entry, or leaves it: none. With a low-rank update besides, both are. Declaring a layer fails
     * with HN_ERR_SHAPE where the shape does not divide [out, in], with HN_ERR_UNSUPPORTED where
     * the whole weight is trained or the low-rank update is materialised. */
    hn_status (*sparse)(const void *context, const char *module, int64_t in, int64_t out,
                        hn_block_shape *choice);
    /* Of the bias of a linear layer that is trained: n elements from *first on that stay as they
     * are, by a gradient of 0 (and no weight decay, which biases have none of): the key's part of
     * q | k | v, whose gradient is round-off. Sets both, 0 on entry, or leaves them: none.
     * Declaring the layer fails with HN_ERR_SHAPE where there are no such elements. */
    void (*still)(const void *context, const char *module, int64_t out, int64_t *first, int64_t *n);
    const void *context;
} hn_adapt;

typedef enum {
    HN_INIT_NORMAL,  /* normal, standard deviation `init` */
    HN_INIT_ONE,     /* norm gains */
    HN_INIT_ZERO,    /* biases, low-rank B */
    HN_INIT_UNIFORM, /* uniform in +-init */
} hn_init;

typedef struct hn_group hn_group;
typedef struct hn_split hn_split;

/* How a file orders the values of a parameter. Storage is [rows, cols]. */
typedef enum {
    HN_ORDER_SAME,
    HN_ORDER_TAPS,      /* convolution: the file has [out, in, kh, kw], storage [out, kh kw in];
                         * of volumes with kd before kh */
    HN_ORDER_TRANSPOSED /* the file has [cols, rows] (GPT-2's Conv1D) */
} hn_order;

enum { HN_PARAM_DIMS = 5 };

typedef struct {
    const char *name; /* as in the file: "model.layers.0.mlp.up_proj.weight" */
    int ndim;
    int64_t dim[2];
    int file_ndim; /* shape in files */
    int64_t file_dim[HN_PARAM_DIMS];
    hn_order order;
    int64_t taps;           /* of HN_ORDER_TAPS: kh kw, or kd kh kw */
    bool trained, decay;    /* decay: weight decay applies (matrices, not norms and biases) */
    bool given;             /* HN_ADAPT_GIVEN */
    int64_t still, n_still; /* elements of a trained bias that stay as they are */
    bool adapter;           /* belongs to the method (low-rank A or B), not to the base model */
    int64_t layer;          /* 1 + that of hn_params_layer; 0: none */
    bool buffer;            /* running statistics: fp32, written by operations, never trained */
    bool wide;              /* graphs read the fp32 master in bf16 runs, too */
    hn_init init;
    double init_scale;
    uint64_t key;      /* random stream of the initialiser */
    hn_tensor *value;  /* what graphs read: frozen weight, master (f32 runs) or working copy */
    hn_group *stack;   /* A of a fused group: its tensors are rows of the group's; else NULL */
    hn_tensor *master; /* fp32, NULL when frozen */
    hn_tensor *grad, *moment1, *moment2; /* NULL when frozen */
    hn_tensor *average;                  /* fp32; NULL: none is kept */
    const hn_split *split; /* ranks share moments, and masters in bf16 runs: those are NULL here */
    int64_t at;            /* then: its first element in the flat range */
} hn_param;

typedef struct {
    const char *module;
    int64_t in, out;
    hn_lowrank lowrank;
    hn_block_shape sparse;           /* {0, 0}: no blocks of the weight are trained */
    hn_param *weight, *bias, *a, *b; /* bias, a, b: NULL when absent */
    hn_param *m;                     /* trained magnitudes [out]; NULL: none */
    hn_tensor *squares;              /* with m: || W ||^2 of each row, f32 [out] */
    hn_tensor *norm;                 /* the norms, made by hn_params_settle; NULL: by each graph */
    uint64_t key;                    /* random stream of the dropout */
    int64_t kh, kw, groups;          /* of a convolution: in = kh kw channels / groups; else 0 */
    int64_t kd;                      /* of one of volumes: in = kd kh kw channels; else 0 */
} hn_linear_layer;

typedef struct hn_params hn_params;

HN_NODISCARD hn_status hn_params_new(const hn_adapt *adapt, hn_params **out);
void hn_params_free(hn_params *p); /* accepts NULL; tensors belong to the program */

/* What is declared from here on belongs to layer n, from 0 on, of a stack that graphs run in this
 * order; -1, as at first: to none. The frozen values of a layer may be shared by ranks. */
void hn_params_layer(hn_params *p, int64_t n);
HN_NODISCARD hn_status hn_params_declare(hn_params *p, const char *name, int64_t rows, int64_t cols,
                                         hn_init init, double init_scale);
/* rows 0: a vector of cols. Declares <module>.weight [out, in], <module>.bias [out] when asked, and
 * the low-rank pair <module>.lora_A.weight [r, in], <module>.lora_B.weight [out, r] when the hook
 * says so (A uniform in +-1/sqrt(in), B zero: conventions of PEFT), with magnitudes
 * <module>.lora_magnitude_vector [out], too, to which weight decay applies as to the pair. The
 * random stream of a parameter is the hash of its name, that of A of "<module>.lora_A". */
HN_NODISCARD hn_status hn_params_linear(hn_params *p, const char *module, int64_t in, int64_t out,
                                        bool bias, double init_scale);

typedef struct {
    int64_t in, out, kh, kw, groups; /* channels; groups divides both */
    bool bias;
    double init_scale;
    int64_t kd; /* of volumes, groups 1; 0: images */
} hn_conv_shape;

/* A convolution, as the matrix [out, kh kw in / groups] of conv2d.h; in files <module>.weight is
 * [out, in / groups, kh, kw]. The hook sees that matrix as it sees a linear layer's; A is
 * [r, in / groups, kh, kw] in files, B [out, r, 1, 1] (PEFT).
 * With kd it reads volumes, by the matrix [out, kd kh kw in] of conv3d.h, [out, in, kd, kh, kw] in
 * files: trained as a whole or not at all. HN_ERR_UNSUPPORTED where the hook wants anything else.
 */
HN_NODISCARD hn_status hn_params_conv(hn_params *p, const char *module, const hn_conv_shape *s);

/* n fp32 values, one or zero at first. */
HN_NODISCARD hn_status hn_params_buffer(hn_params *p, const char *name, int64_t n, hn_init init);

/* The shape of a declared parameter in files, where it is another than [rows, cols] of the same
 * values in the same order: [1, 1, cols]. Errors: HN_ERR_SHAPE */
HN_NODISCARD hn_status hn_params_file_shape(hn_params *p, const char *name, int ndim,
                                            const int64_t *dim);
/* Files have the matrix transposed. */
HN_NODISCARD hn_status hn_params_file_transposed(hn_params *p, const char *name);
/* A linear layer that reads images laid out as rows, `taps` pixels with their channels: in files
 * its columns, and those of A, are ordered by channel and then by pixel, as PyTorch flattens
 * images. Errors: HN_ERR_ARG, HN_ERR_SHAPE */
HN_NODISCARD hn_status hn_params_file_flattened(hn_params *p, const char *module, int64_t taps);

/* Linear layers of the same width `in` that will read the same input; up to four, each in one
 * group. Errors: HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_params_group(hn_params *p, int n, const char *const *modules);

/* Whether layers that read the same input are stored as one (storage.c). In f32 they stay apart:
 * one wide product may add in another order than narrow ones, and f32 keeps its bits. */
typedef enum {
    HN_FUSE_NEVER,
    HN_FUSE_WIDE,  /* where the zeros that this multiplies by cost little: on the CPU */
    HN_FUSE_ALWAYS /* fewer operations are worth some zeros: on a GPU */
} hn_fuse_rule;

hn_fuse_rule hn_fuse_rule_of(hn_dtype dtype, bool gpu);

typedef struct {
    hn_dtype dtype; /* of frozen weights and activations: f32 or bf16 */
    int moments;    /* optimizer moments per trained value: 0, 1 or 2 */
    bool average;   /* room for an average of every trained value over steps; no fused group */
    bool gradients; /* false: nothing is trained in this program (evaluation, generation) */
    hn_fuse_rule fuse;
    bool border;  /* store low-rank pairs around their weights where shapes allow (storage.c) */
    bool settled; /* values do not change from graph to graph: what follows from weights alone, the
                   * norms of layers with magnitudes, is made once, by hn_params_settle */
    hn_sparse_options sparse; /* read where the hook wants blocks and `gradients` is set */
    /* Ranks that share masters and moments (hn_split), and which this is. 0 or 1: none. Refused
     * (HN_ERR_UNSUPPORTED) where anything but whole parameters of the model is trained, with
     * averages, replicas and without gradients. */
    int split_ranks, split_rank;
    /* Every rank of `ranks` keeps a share of the frozen values of each layer (graph/shards.h): not
     * with blocks that are trained, replicas or a prefix. HN_ERR_UNSUPPORTED where no layer has
     * any. 0 or 1: each has all. */
    int ranks, rank;
    const char *prefix; /* in front of tensors' names, where a program holds parameters already:
                         * only where nothing is trained, fused or bordered. NULL: none */
} hn_params_options;

HN_NODISCARD hn_status hn_params_create(hn_params *p, hn_program *program,
                                        const hn_params_options *o);

int64_t hn_params_count(const hn_params *p);
hn_param *hn_params_at(const hn_params *p, int64_t i);
hn_param *hn_params_find(const hn_params *p, const char *name); /* NULL when absent */
int64_t hn_params_linears(const hn_params *p);
const hn_linear_layer *hn_params_linear_at(const hn_params *p, int64_t i);
/* Trained values, without padding: of parameters, and of all blocks once they are created. */
int64_t hn_params_trained(const hn_params *p);
bool hn_params_in_blocks(const hn_params *p);    /* whether the hook wants blocks of any layer */
hn_sparse *hn_params_sparse(const hn_params *p); /* NULL: nothing is trained in blocks here */
int64_t hn_params_total(const hn_params *p);     /* values of the base model */

/* What this rank keeps of moments, and of masters where graphs read working copies, when ranks
 * share them (ZeRO stage 1; Rajbhandari et al., 2020): one of `ranks` equal shares of the flat
 * range, elements first .. first + n - 1. n is a multiple of HN_SUM_BLOCK
 * (kernels/reduce/sum_squares.h); zeros lie behind the last value. */
struct hn_split {
    int ranks, rank;
    int64_t first, n;
    hn_tensor *master;    /* f32 [n]; NULL: masters are what graphs read, whole on every rank */
    hn_tensor *moment[2]; /* f32 [n]; NULL: the optimizer has none */
};
const hn_split *hn_params_split(const hn_params *p); /* NULL: every rank has all */

typedef enum { HN_KEPT_MASTER, HN_KEPT_MOMENT1, HN_KEPT_MOMENT2, HN_KEPT_COUNT } hn_kept;

/* Of a trained parameter of such a run: values first .. first + n - 1, in the order of storage
 * without padding, are this rank's. n 0: none. */
void hn_param_kept(const hn_param *q, int64_t *first, int64_t *n);
/* Out: values first .. first + n - 1, which are kept here. In: those of them that are.
 * Errors: HN_ERR_ARG, those of runtime/graph/tensor.h, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_param_get_kept(const hn_param *q, hn_kept what, int64_t first, int64_t n,
                                         float *dense);
HN_NODISCARD hn_status hn_param_set_kept(const hn_param *q, hn_kept what, int64_t first, int64_t n,
                                         const float *dense);

/* Flat views for clipping and the update: g[n] and behind it the trained-token count. Where ranks
 * share masters and moments, n is all their shares. */
typedef struct {
    int64_t n, n_decay; /* elements; the first n_decay take weight decay */
    int64_t n_dense;    /* those behind are the pool of blocks */
    hn_tensor *count;   /* [1], behind the gradients */
    bool work;          /* there is a flat range of working copies, which the update writes */
} hn_flat;
const hn_flat *hn_params_flat(const hn_params *p);

/* Records the copies of masters into values that lie outside the flat range: behind the update. */
HN_NODISCARD hn_status hn_params_refresh(const hn_params *p, hn_graph *g);

/* Whether some layer has magnitudes. */
bool hn_params_have_magnitudes(const hn_params *p);
/* Of all layers with magnitudes: squares from the weights as they are stored, sums in double, and m
 * as their roots, so that the layers are what they are without an update. Whoever loads weights
 * calls it behind that, and before it loads magnitudes. Errors: those of runtime/graph/tensor.h. */
HN_NODISCARD hn_status hn_params_measure(const hn_params *p);
/* Records what a program with `settled` makes once, behind every change of values; nothing without
 * magnitudes. */
HN_NODISCARD hn_status hn_params_settle(const hn_params *p, hn_graph *g);

/* Fills one parameter from its initialiser; the same values on every machine. */
HN_NODISCARD hn_status hn_param_init(const hn_param *p, uint64_t seed);
int64_t hn_param_values(const hn_param *p);           /* how many */
int64_t hn_param_place(const hn_param *p, int64_t i); /* in a file, of value i of storage */
/* Copies dense fp32 values in the order of files in (master and working copy when trained) or out
 * of a parameter (master when trained, else value; of replica 0).
 * Of a frozen value that ranks share, set keeps this rank's share, and get is HN_ERR_UNSUPPORTED.
 * Errors: those of runtime/graph/tensor.h, HN_ERR_MEMORY. Getting a value of which this rank has
 * not the whole master (hn_split) is HN_ERR_UNSUPPORTED; setting it keeps what is this rank's. */
HN_NODISCARD hn_status hn_param_set(const hn_param *p, const float *dense);
/* Of a parameter in HN_ORDER_SAME: rows first .. first+rows-1 of it (a vector is one row). */
HN_NODISCARD hn_status hn_param_set_rows(const hn_param *p, int64_t first, int64_t rows,
                                         const float *dense);
/* Rows of which this rank keeps something: others need not be set. */
void hn_param_own_rows(const hn_param *p, int64_t *first, int64_t *rows);
HN_NODISCARD hn_status hn_param_get(const hn_param *p, float *dense);
/* Of replica g alone; without replicas g is 0. hn_param_init and hn_param_set write all of them. */
HN_NODISCARD hn_status hn_param_get_replica(const hn_param *p, int64_t g, float *dense);
/* The same for a tensor that is laid out as the parameter is: a moment. */
HN_NODISCARD hn_status hn_param_write(const hn_param *p, hn_tensor *t, const float *dense);
HN_NODISCARD hn_status hn_param_read(const hn_param *p, const hn_tensor *t, float *dense);

/* All values in the order of storage, without padding, from that of files, and back. No overlap. */
void hn_param_to_storage(const hn_param *p, const float *filed, float *stored);
void hn_param_to_file(const hn_param *p, const float *stored, float *filed);
/* hn_param_set with values in the order of storage. */
HN_NODISCARD hn_status hn_param_set_stored(const hn_param *p, const float *stored);

/* All buffers, for whoever runs graphs that are not to count: a copy that hn_params_put_buffers
 * writes back. *out is new, hn_free it; NULL where there are none.
 * Errors: those of runtime/graph/tensor.h, HN_ERR_MEMORY. */
HN_NODISCARD hn_status hn_params_get_buffers(const hn_params *p, float **out);
HN_NODISCARD hn_status hn_params_put_buffers(const hn_params *p, const float *copy);
int64_t hn_params_buffer_values(const hn_params *p); /* in such a copy */

/* y = layer(x), with the low-rank update if there is one. */
HN_NODISCARD hn_status hn_params_linear_fwd(const hn_params *p, hn_graph *g, const char *module,
                                            hn_tensor *x, hn_tensor **y);
/* The same for a convolution of images x [n, h, w, channels] (params_conv.c). */
HN_NODISCARD hn_status hn_params_conv_fwd(const hn_params *p, hn_graph *g, const char *module,
                                          int64_t stride, int64_t pad, hn_tensor *x, hn_tensor **y);
/* Of volumes x [n, d, h, w, channels]. */
HN_NODISCARD hn_status hn_params_conv3d_fwd(const hn_params *p, hn_graph *g, const char *module,
                                            int64_t stride, int64_t pad, int64_t dilation,
                                            hn_tensor *x, hn_tensor **y);
/* y[k] = layer(x) of each layer of the group that begins with `module`: columns of one product
 * where the group is stored as one. */
HN_NODISCARD hn_status hn_params_group_fwd(const hn_params *p, hn_graph *g, const char *module,
                                           hn_tensor *x, hn_tensor **y);

#ifdef __cplusplus
}
#endif
#endif
