/* A handle holds the condition: a kernel on the caller's stream sets it, the conditional node that
 * follows reads it. The node's body is captured from a stream of its own, and the caller's stream
 * goes on behind the node. */
#include "runtime/base/cuda_branch.h"

#include <cuda_runtime.h>

#include "runtime/base/cuda_check.h"

/* The same calls under the names that CUDA 12 gave to the versions with edge data. */
#if CUDART_VERSION >= 13000
#define GET_CAPTURE_INFO    cudaStreamGetCaptureInfo
#define ADD_NODE            cudaGraphAddNode
#define UPDATE_DEPENDENCIES cudaStreamUpdateCaptureDependencies
#else
#define GET_CAPTURE_INFO    cudaStreamGetCaptureInfo_v3
#define ADD_NODE            cudaGraphAddNode_v2
#define UPDATE_DEPENDENCIES cudaStreamUpdateCaptureDependencies_v2
#endif

namespace {

constexpr int kFirstDriver = 12040; /* with bodies that hold copies, fills and branches */

__global__ void cuda_branch_kernel(cudaGraphConditionalHandle handle, const int32_t *value,
                                   int32_t above)
{
    cudaGraphSetConditional(handle, *value > above);
}

/* Streams are made and kernels looked up while another stream is captured: allowed in this mode. */
struct Relaxed {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    Relaxed() { (void)cudaThreadExchangeStreamCaptureMode(&mode); }
    ~Relaxed() { (void)cudaThreadExchangeStreamCaptureMode(&mode); }
};

/* The driver supplies cudaGraphSetConditional itself, when the kernel is loaded. */
bool supported()
{
    const Relaxed relaxed;
    int driver = 0;
    cudaFuncAttributes attributes;
    const bool yes = cudaDriverGetVersion(&driver) == cudaSuccess && driver >= kFirstDriver &&
                     cudaFuncGetAttributes(&attributes, cuda_branch_kernel) == cudaSuccess;
    if (!yes) (void)cudaGetLastError();
    return yes;
}

struct Capture {
    cudaStreamCaptureStatus status;
    cudaGraph_t graph;
    const cudaGraphNode_t *nodes; /* that the next one depends on, with the kind of each edge */
    const cudaGraphEdgeData *edges;
    size_t n;
};

hn_status get_capture(hn_stream stream, Capture *c)
{
    *c = {};
    return HN_CUDA(
        GET_CAPTURE_INFO(stream, &c->status, nullptr, &c->graph, &c->nodes, &c->edges, &c->n));
}

/* Appends the node to what is captured on `stream`. */
hn_status add_node(hn_stream stream, cudaGraphConditionalHandle handle, cudaGraph_t *body)
{
    Capture c;
    cudaGraphNode_t node = nullptr;
    cudaGraphNodeParams p = {};
    p.type = cudaGraphNodeTypeConditional;
    p.conditional.handle = handle;
    p.conditional.type = cudaGraphCondTypeIf;
    p.conditional.size = 1;
    HN_TRY(get_capture(stream, &c));
    HN_TRY(HN_CUDA(ADD_NODE(&node, c.graph, c.nodes, c.edges, c.n, &p)));
    *body = p.conditional.phGraph_out[0];
    return HN_CUDA(
        UPDATE_DEPENDENCIES(stream, &node, nullptr, 1, cudaStreamSetCaptureDependencies));
}

hn_status open_body(hn_cuda_branch *b, cudaGraph_t body)
{
    const Relaxed relaxed;
    cudaStream_t own = nullptr;
    HN_TRY(HN_CUDA(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking)));
    const hn_status st = HN_CUDA(cudaStreamBeginCaptureToGraph(own, body, nullptr, nullptr, 0,
                                                               cudaStreamCaptureModeThreadLocal));
    if (st != HN_OK)
        (void)cudaStreamDestroy(own);
    else
        b->body = b->own = own;
    return st;
}

} // namespace

hn_status hn_cuda_branch_begin(hn_cuda_branch *b, const int32_t *value, int32_t above,
                               hn_stream stream)
{
    Capture c;
    cudaGraphConditionalHandle handle = 0;
    cudaGraph_t body = nullptr;
    *b = {stream, nullptr};
    HN_TRY(get_capture(stream, &c));
    if (c.status != cudaStreamCaptureStatusActive || !supported()) return HN_OK;
    const cudaError_t e = cudaGraphConditionalHandleCreate(&handle, c.graph, 0, 0);
    if (e == cudaErrorNotSupported) {
        (void)cudaGetLastError();
        return HN_OK;
    }
    HN_TRY(HN_CUDA(e));
    cuda_branch_kernel<<<1, 1, 0, stream>>>(handle, value, above);
    HN_TRY(HN_CUDA_LAUNCHED("cuda_branch"));
    HN_TRY(add_node(stream, handle, &body));
    return open_body(b, body);
}

hn_status hn_cuda_branch_end(hn_cuda_branch *b, hn_status work)
{
    if (b->own == nullptr) return work;
    cudaGraph_t body = nullptr; /* owned by its node */
    const cudaError_t e = cudaStreamEndCapture(b->own, &body);
    const Relaxed relaxed;
    (void)cudaStreamDestroy(b->own);
    *b = {};
    if (work == HN_OK) return HN_CUDA(e);
    (void)cudaGetLastError(); /* what went wrong has been said already */
    return work;
}
