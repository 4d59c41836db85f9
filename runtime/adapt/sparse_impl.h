/* sparse_impl.h - the insides of hn_sparse; for runtime/adapt only. */
#ifndef HN_SPARSE_IMPL_H
#define HN_SPARSE_IMPL_H
#include "runtime/adapt/sparse.h"

/* Blocks of all matrices in one range; trained ones, or watched ones. */
typedef struct {
    int64_t blocks, values; /* that there is room for */
    hn_tensor *spans;       /* u8 [16 matrices] */
    hn_tensor *block;       /* i32 [blocks] */
    hn_tensor **tile_first; /* [matrices] i32 [tiles + 1]; NULL: a shape without tiles */
    hn_tensor *part[HN_SPARSE_PART_COUNT]; /* f32 [values], frozen in W's dtype; NULL: not here */
    hn_tensor *grad;
    /* What the device has, as the host wrote it. */
    hn_sparse_span *span; /* [matrices] */
    int32_t *id;          /* [blocks], lists one behind the other */
    int32_t *order; /* [blocks]: block k of a span on the device is id[order[k]] of its list */
} hn_block_pool;

typedef struct {
    hn_block_rule rule; /* first: what w->blocks points to */
    hn_sparse *sparse;
    hn_sparse_matrix m;
    int64_t index, group;
    hn_tensor *ids, *acc; /* scores: i32 and f32 [kept]; NULL: no candidates */
    hn_tensor *dense;     /* f32 [out in], of its group's buffer; NULL: no buffers */
    struct {
        int32_t *id;
        float *base; /* what W had there at first */
        int64_t n;
    } kept;
    const hn_graph *recorded; /* the graph in which a gradient was recorded last */
} hn_sparse_entry;

struct hn_sparse {
    hn_program *program;
    hn_sparse_options o;
    hn_sparse_entry *entry;
    int64_t n, n_groups; /* groups: of scores; 0: none */
    hn_tensor *dense;    /* f32, of the groups, which take turns in it; NULL: no buffers */
    hn_block_pool pool[HN_BLOCKS_COUNT];
    hn_tensor *age;         /* u16 as u8 [2 blocks] */
    hn_tensor *sizes;       /* i32 [n]: values of a block; NULL: all alike */
    hn_tensor *corrections; /* f32 [HN_SPARSE_AGES, 2] */
    /* While graphs are recorded. */
    hn_gather gather;
    int64_t group;
    hn_tensor *count;
    hn_sparse_progress progress;
};

/* sparse_lists.c: HN_ERR_ARG unless ids ascend below the matrix's blocks, at most `most`. */
HN_NODISCARD hn_status hn_sparse_check_list(const hn_sparse_matrix *m, const int32_t *id, int64_t n,
                                            int64_t most);

/* sparse_kept.c */

/* Adds those of n blocks that are not kept yet, with `base` [n][block values], what W has there
 * without their change; ids ascend. */
HN_NODISCARD hn_status hn_sparse_keep(hn_sparse *s, int64_t i, const int32_t *id, int64_t n,
                                      const float *base);
HN_NODISCARD hn_status hn_sparse_forget_kept(hn_sparse *s); /* W there is what it was at first */
#endif
