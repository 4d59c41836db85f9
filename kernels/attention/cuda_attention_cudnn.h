/* cuda_attention_cudnn.h - the inside of hn_attention_cudnn: the library's functions, and a plan a
 * shape (for .cu files only). */
#ifndef HN_CUDA_ATTENTION_CUDNN_H
#define HN_CUDA_ATTENTION_CUDNN_H
#ifdef HONE_CUDNN /* cuDNN's headers are there */
#include <cudnn.h>

#include "kernels/attention/attention_cudnn.h"
#include "runtime/base/cuda_check.h"

/* clang-format off */
#define HN_CUDNN_FUNCTIONS(X)                                                              \
    X(Create) X(Destroy) X(GetVersion) X(GetErrorString) X(GetLastErrorString) X(SetStream) \
    X(BackendCreateDescriptor) X(BackendDestroyDescriptor) X(BackendSetAttribute)          \
    X(BackendGetAttribute) X(BackendFinalize) X(BackendExecute)

/* What a plan depends on. longest: rows of the longest sequence; window, causal: 0 or 1; even: as
 * in hn_attention_args; the leading dimensions of backward operands are 0 in a forward plan. */
#define HN_CUDNN_KEY(X)                                                                    \
    X(pass) X(sequences) X(longest) X(even) X(heads) X(kv_heads) X(head_dim)               \
    X(causal) X(window)                                                                    \
    X(ld_q) X(ld_k) X(ld_v) X(ld_o) X(ld_dout) X(ld_dq) X(ld_dk) X(ld_dv)
/* clang-format on */

struct hn_cudnn {
    void *library;
#define X(name) decltype(&cudnn##name) name;
    HN_CUDNN_FUNCTIONS(X)
#undef X
};

struct hn_cudnn_key {
#define X(name) int64_t name;
    HN_CUDNN_KEY(X)
#undef X
};

/* Ids of the tensors of a graph that a call supplies. */
enum hn_cudnn_id {
    HN_ID_Q = 1,
    HN_ID_K,
    HN_ID_V,
    HN_ID_O,
    HN_ID_LSE,
    HN_ID_DOUT,
    HN_ID_DQ,
    HN_ID_DK,
    HN_ID_DV,
    HN_ID_DOT,     /* sum of dout * o over a head, [q_rows, heads] */
    HN_ID_DQ_SUM,  /* fp32, like dq */
    HN_ID_DK_HEAD, /* dk and dv of each query head */
    HN_ID_DV_HEAD,
    HN_ID_SCALE, /* host scalars */
    HN_ID_ONE,
    HN_ID_MINUS_INF,
    HN_ID_WINDOW,
    HN_ID_LENGTH_Q, /* i32 [sequences] */
    HN_ID_LENGTH_K,
    HN_ID_FIRST_OFFSETS, /* i32 [sequences + 1] each, one a leading dimension */
    HN_ID_END_OFFSETS = HN_ID_FIRST_OFFSETS + 9,
    HN_ID_FIRST_VIRTUAL = 100
};

struct hn_cudnn_plan {
    hn_cudnn_key key;
    cudnnBackendDescriptor_t plan;
    int64_t workspace; /* bytes */
    int n;             /* tensors that a call supplies */
    int64_t id[32];
    int n_offsets; /* arrays of element offsets: first row of a sequence times offset_ld */
    int64_t offset_ld[9];
};

struct hn_attention_cudnn {
    hn_cudnn lib;
    cudnnHandle_t handle;
    hn_stream stream; /* of the handle */
    char version[32];
    hn_cudnn_plan *plans;
    int64_t n_plans, cap_plans;
};

/* Describes the arithmetic of p->key and has it compiled; the rest of *p is filled in.
 * Errors: HN_ERR_UNSUPPORTED, HN_ERR_MEMORY with cuDNN's words; nothing to free then */
hn_status hn_cudnn_make_plan(const hn_attention_cudnn *c, hn_cudnn_plan *p);

/* A graph under construction. The first error stays, what comes after it does nothing. */
struct hn_cudnn_graph {
    const hn_attention_cudnn *c;
    cudnnBackendDescriptor_t made[256]; /* destroyed once the plan exists */
    cudnnBackendDescriptor_t op[64];    /* in graph order */
    int n_made, n_ops;
    int64_t next_id; /* of virtual tensors */
    hn_status st;
    char why[320];
};

typedef cudnnBackendDescriptor_t hn_cudnn_desc;
struct hn_dims {
    int64_t at[4];
};
enum hn_cudnn_kind { HN_CUDNN_REAL, HN_CUDNN_VIRTUAL, HN_CUDNN_HOST };

hn_cudnn_desc hn_cudnn_tensor(hn_cudnn_graph *g, int64_t id, cudnnDataType_t type, hn_dims dim,
                              hn_dims stride, hn_cudnn_kind kind, hn_cudnn_desc offsets);
/* y = mode(x, b, t); b and t may be NULL. axis: of GEN_INDEX only. Returns y. */
hn_cudnn_desc hn_cudnn_pointwise(hn_cudnn_graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t math,
                                 int64_t axis, hn_cudnn_desc x, hn_cudnn_desc b, hn_cudnn_desc t,
                                 hn_cudnn_desc y);
/* y = a b over the last two axes; m, n, k: lengths a sequence that limit the extents, or NULL */
hn_cudnn_desc hn_cudnn_matmul(hn_cudnn_graph *g, hn_cudnn_desc a, hn_cudnn_desc b, hn_cudnn_desc y,
                              hn_cudnn_desc m, hn_cudnn_desc n, hn_cudnn_desc k);
/* y = x reduced over every axis where y is smaller */
hn_cudnn_desc hn_cudnn_reduce(hn_cudnn_graph *g, cudnnReduceTensorOp_t kind, hn_cudnn_desc x,
                              hn_cudnn_desc y);
hn_cudnn_desc hn_cudnn_reshape(hn_cudnn_graph *g, hn_cudnn_desc x, hn_cudnn_desc y);

/* The first plan that cuDNN offers for the graph; destroys what the graph was made of, in any
 * case. */
hn_status hn_cudnn_compile(hn_cudnn_graph *g, cudnnBackendDescriptor_t *plan, int64_t *workspace);
#endif
#endif
