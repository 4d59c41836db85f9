/* cuda_cudnn.h - the inside of hn_cudnn: the library's functions, and how a graph of operations is
 * described, compiled and run (for .cu files only). */
#ifndef HN_CUDA_CUDNN_H
#define HN_CUDA_CUDNN_H
#ifdef HONE_CUDNN /* cuDNN's headers are there */
#include <cudnn.h>

#include "kernels/cudnn/cudnn_library.h"
#include "runtime/base/cuda_check.h"

/* clang-format off */
#define HN_CUDNN_FUNCTIONS(X)                                                              \
    X(Create) X(Destroy) X(GetVersion) X(GetErrorString) X(GetLastErrorString) X(SetStream) \
    X(BackendCreateDescriptor) X(BackendDestroyDescriptor) X(BackendSetAttribute)          \
    X(BackendGetAttribute) X(BackendFinalize) X(BackendExecute)
/* clang-format on */

struct hn_cudnn {
    void *library;
#define X(name) decltype(&cudnn##name) name;
    HN_CUDNN_FUNCTIONS(X)
#undef X
    cudnnHandle_t handle;
    hn_stream stream; /* of the handle */
    char version[32];
};

/* Work of the handle that comes goes to this stream. */
hn_status hn_cudnn_use_stream(hn_cudnn *c, hn_stream stream);

/* Enqueues a plan. id, pointer: of the n tensors that a call supplies. */
hn_status hn_cudnn_execute(const hn_cudnn *c, cudnnBackendDescriptor_t plan, int n,
                           const int64_t *id, void *const *pointer, void *workspace);

/* A graph under construction; zero but for lib and next_id. The first error stays, what comes after
 * it does nothing. */
struct hn_cudnn_graph {
    const hn_cudnn *lib;
    cudnnBackendDescriptor_t made[512]; /* destroyed once the plan exists */
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

/* A convolution of two axes, or one of its gradients. x, dx [n, c, h, w]; w, dw [k, c / groups, r,
 * s]; y, dy [n, k, p, q]; groups follow from the extents. */
enum hn_cudnn_conv { HN_CUDNN_CONV_FWD, HN_CUDNN_CONV_DX, HN_CUDNN_CONV_DW };
struct hn_cudnn_window {
    int64_t stride, pad, dilation; /* of both axes */
};
/* Returns the output: y, x or w */
hn_cudnn_desc hn_cudnn_convolution(hn_cudnn_graph *g, hn_cudnn_conv kind,
                                   const hn_cudnn_window &window, hn_cudnn_desc x, hn_cudnn_desc w,
                                   hn_cudnn_desc y);

/* Engines that carry one of these notes are passed over, and those that do not run on tensor cores
 * where they are wanted. */
struct hn_cudnn_rules {
    const cudnnBackendNumericalNote_t *refused;
    int n_refused;
    bool tensor_cores;
};

/* The first plan that cuDNN offers for the graph and the rules (NULL: none) allow; destroys what
 * the graph was made of, in any case.
 * Errors: HN_ERR_UNSUPPORTED, HN_ERR_MEMORY with cuDNN's words; nothing to free then */
hn_status hn_cudnn_compile(hn_cudnn_graph *g, const hn_cudnn_rules *rules,
                           cudnnBackendDescriptor_t *plan, int64_t *workspace);
#endif
#endif
