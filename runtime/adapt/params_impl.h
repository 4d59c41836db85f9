/* params_impl.h - the insides of hn_params; for runtime/adapt only. */
#ifndef HN_PARAMS_IMPL_H
#define HN_PARAMS_IMPL_H
#include "runtime/adapt/params.h"
#include "runtime/graph/shards.h"

enum { HN_MAX_PARTS = 4 };

/* Linear layers that read the same input; or one layer, when storage is decided. */
struct hn_group {
    hn_linear_layer *part[HN_MAX_PARTS];
    int n;
    const char *name;      /* "model.layers.0.mlp.gate_proj+up_proj" */
    int64_t in, out, rank; /* out and rank: sums over the parts */
    bool fused, bordered;  /* storage.c decides */
    /* What the one node of a fused group reads; NULL without. */
    hn_tensor *w;        /* [out, in], rows: the parts' weights one below the other */
    hn_tensor *bias;     /* [out] */
    hn_tensor *a;        /* [rank, in], rows: the parts' A */
    hn_tensor *b;        /* [out, rank]: the parts' B on the diagonal, zero elsewhere */
    hn_tensor *a_master; /* as a, in the class of masters */
};

struct hn_params {
    hn_arena arena;
    hn_adapt adapt;
    hn_param **param;
    int64_t n, cap;
    hn_linear_layer **linear;
    int64_t n_linear, cap_linear;
    hn_group **group; /* declared ones */
    int64_t n_group, cap_group;
    int64_t layer; /* of what is declared now, as hn_param.layer */
    hn_flat flat;
    hn_sparse *sparse; /* NULL: none */
    hn_shard **shard;  /* [n_shards] of layers; NULL: ranks share nothing */
    int64_t n_shards;
    hn_split split; /* ranks 0: none */
};

/* Whether the layer's update is added to its weight, which hn_layer_weight makes then. */
static inline bool hn_layer_materialised(const hn_linear_layer *l)
{
    return l->a != NULL && l->lowrank.materialise;
}
/* What the product of a layer reads: its weight, or in a materialised layer a new one. */
HN_NODISCARD hn_status hn_layer_weight(const hn_linear_layer *l, hn_graph *g, hn_tensor **w);

/* shared.c: a frozen tensor of a layer (hn_param.layer), where ranks share those: of its range. */
HN_NODISCARD hn_status hn_shared_tensor(hn_params *p, hn_program *program, int64_t layer,
                                        const char *name, const hn_type *type, hn_tensor **out);
/* Ranges for all layers; refuses what does not go with them. */
HN_NODISCARD hn_status hn_shared_open(hn_params *p, hn_program *program,
                                      const hn_params_options *o);
/* Behind all tensors: trained values that lie in the ranges. */
HN_NODISCARD hn_status hn_shared_close(hn_params *p);

/* split.c: refuses what does not go with masters and moments that ranks share. */
HN_NODISCARD hn_status hn_split_open(hn_params *p, const hn_program *program,
                                     const hn_params_options *o);
/* Behind all trained tensors: what fills the last share, and this rank's masters and moments. */
HN_NODISCARD hn_status hn_split_close(hn_params *p, hn_program *program,
                                      const hn_params_options *o);

/* Whether this rank has the whole master of p, or the frozen value. Errors: HN_ERR_UNSUPPORTED */
HN_NODISCARD hn_status hn_split_check_whole(const hn_param *p);

/* params.c: a parameter of its own, *what with another name; out may be NULL. */
HN_NODISCARD hn_status hn_param_add(hn_params *p, const hn_param *what, const char *name,
                                    hn_param **out);

/* params_magnitude.c: the magnitudes of a layer, or why it cannot have any; what it needs besides
 * its parameters; *y = z scaled to them, with the bias. */
HN_NODISCARD hn_status hn_magnitude_declare(hn_params *p, hn_linear_layer *l);
HN_NODISCARD hn_status hn_magnitude_create(hn_params *p, hn_program *program,
                                           const hn_params_options *o);
HN_NODISCARD hn_status hn_magnitude_record(const hn_linear_layer *l, hn_graph *g, hn_tensor *z,
                                           hn_tensor **y);

/* storage.c: decides how linear layers are stored and places what is not stored parameter by
 * parameter: sets hn_param.value there, and makes the views. */
HN_NODISCARD hn_status hn_storage_place(hn_params *p, hn_program *program,
                                        const hn_params_options *o);
/* Tensors of the parts' A, [rank, in] in one class, and views[k] of part k (NULL without an A). */
HN_NODISCARD hn_status hn_storage_stack(const hn_group *g, hn_program *program, hn_mem mem,
                                        const char *prefix, hn_dtype dtype, hn_tensor **stack,
                                        hn_tensor **views);
#endif
