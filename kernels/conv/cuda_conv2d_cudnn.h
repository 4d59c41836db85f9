/* cuda_conv2d_cudnn.h - the inside of hn_conv2d_cudnn: a plan a shape (for .cu files only). */
#ifndef HN_CUDA_CONV2D_CUDNN_H
#define HN_CUDA_CONV2D_CUDNN_H
#ifdef HONE_CUDNN /* cuDNN's headers are there */
#include "kernels/conv/conv2d_cudnn.h"
#include "kernels/cudnn/cuda_cudnn.h"

/* clang-format off */
/* What a plan depends on. n: images of one replica; ld_*: of the tensors or their gradients; adds: 1
 * where dx goes into the scratch first. */
#define HN_CONV2D_CUDNN_KEY(X)                                                             \
    X(pass) X(n) X(h) X(w) X(in) X(out) X(kh) X(kw) X(stride) X(pad) X(dilation) X(groups) \
    X(dtype) X(ld_x) X(ld_y) X(ld_w) X(adds)
/* clang-format on */

struct hn_conv2d_cudnn_key {
#define X(name) int64_t name;
    HN_CONV2D_CUDNN_KEY(X)
#undef X
};

/* Ids of the tensors of a graph that a call supplies. */
enum hn_conv2d_cudnn_id {
    HN_CONV2D_X = 1, /* or dx */
    HN_CONV2D_W,     /* or dw */
    HN_CONV2D_Y,     /* or dy */
    HN_CONV2D_FIRST_VIRTUAL = 100
};

struct hn_conv2d_cudnn_entry {
    hn_conv2d_cudnn_key key;
    cudnnBackendDescriptor_t plan;
    int64_t workspace; /* bytes */
};

struct hn_conv2d_cudnn {
    hn_cudnn *lib;
    hn_conv2d_cudnn_entry *plans;
    int64_t n_plans, cap_plans;
};

/* Has the convolution of e->key compiled; the rest of *e is filled in.
 * Errors: HN_ERR_UNSUPPORTED, HN_ERR_MEMORY with cuDNN's words; nothing to free then */
hn_status hn_conv2d_cudnn_make(const hn_conv2d_cudnn *c, hn_conv2d_cudnn_entry *e);
#endif
#endif
