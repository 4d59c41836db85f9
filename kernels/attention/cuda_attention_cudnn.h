/* cuda_attention_cudnn.h - the inside of hn_attention_cudnn: a plan a shape (for .cu files only).
 */
#ifndef HN_CUDA_ATTENTION_CUDNN_H
#define HN_CUDA_ATTENTION_CUDNN_H
#ifdef HONE_CUDNN /* cuDNN's headers are there */
#include <cudnn.h>

#include "kernels/attention/attention_cudnn.h"
#include "kernels/cudnn/cuda_cudnn.h"

/* clang-format off */
/* What a plan depends on. longest: rows of the longest sequence; window, causal: 0 or 1; even: as
 * in hn_attention_args; the leading dimensions of backward operands are 0 in a forward plan. */
#define HN_ATTENTION_CUDNN_KEY(X)                                                                    \
    X(pass) X(sequences) X(longest) X(even) X(heads) X(kv_heads) X(head_dim)               \
    X(causal) X(window)                                                                    \
    X(ld_q) X(ld_k) X(ld_v) X(ld_o) X(ld_dout) X(ld_dq) X(ld_dk) X(ld_dv)
/* clang-format on */

struct hn_attention_cudnn_key {
#define X(name) int64_t name;
    HN_ATTENTION_CUDNN_KEY(X)
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

struct hn_attention_cudnn_entry {
    hn_attention_cudnn_key key;
    cudnnBackendDescriptor_t plan;
    int64_t workspace; /* bytes */
    int n;             /* tensors that a call supplies */
    int64_t id[32];
    int n_offsets; /* arrays of element offsets: first row of a sequence times offset_ld */
    int64_t offset_ld[9];
};

struct hn_attention_cudnn {
    hn_cudnn *lib;
    hn_attention_cudnn_entry *plans;
    int64_t n_plans, cap_plans;
};

/* Describes the arithmetic of p->key and has it compiled; the rest of *p is filled in.
 * Errors: HN_ERR_UNSUPPORTED, HN_ERR_MEMORY with cuDNN's words; nothing to free then */
hn_status hn_attention_cudnn_make(const hn_attention_cudnn *c, hn_attention_cudnn_entry *p);
#endif
#endif
