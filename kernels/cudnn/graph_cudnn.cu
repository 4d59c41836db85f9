/* cuDNN's backend descriptors: a graph of operations is described piece by piece, a heuristic names
 * engines for it, and the first one that compiles is the plan. (Measured on an H200: the first one
 * is the fastest, others take 1.5 to 2.4 times as long.) */
#ifdef HONE_CUDNN
#include <stdio.h>
#include <string.h>

#include "kernels/cudnn/cuda_cudnn.h"

static void fail(hn_cudnn_graph *g, cudnnStatus_t s, const char *what, int which)
{
    char why[224] = "";
    if (g->st != HN_OK) return;
    g->st = s == CUDNN_STATUS_ALLOC_FAILED ? HN_ERR_MEMORY : HN_ERR_UNSUPPORTED;
    g->lib->GetLastErrorString(why, sizeof why); /* names the check; the status alone does not */
    snprintf(g->why, sizeof g->why, "%s %d: %s: %s", what, which, g->lib->GetErrorString(s), why);
}

static hn_cudnn_desc make(hn_cudnn_graph *g, cudnnBackendDescriptorType_t type)
{
    hn_cudnn_desc d = nullptr;
    if (g->st != HN_OK) return nullptr;
    if (g->n_made == (int)(sizeof g->made / sizeof *g->made)) {
        fail(g, CUDNN_STATUS_INTERNAL_ERROR, "too many descriptors:", g->n_made);
        return nullptr;
    }
    const cudnnStatus_t s = g->lib->BackendCreateDescriptor(type, &d);
    if (s != CUDNN_STATUS_SUCCESS) {
        fail(g, s, "descriptor", (int)type);
        return nullptr;
    }
    return g->made[g->n_made++] = d;
}

static void set(hn_cudnn_graph *g, hn_cudnn_desc d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    if (g->st != HN_OK) return;
    const cudnnStatus_t s = g->lib->BackendSetAttribute(d, name, type, count, value);
    if (s != CUDNN_STATUS_SUCCESS) fail(g, s, "attribute", (int)name);
}

static void set_desc(hn_cudnn_graph *g, hn_cudnn_desc d, cudnnBackendAttributeName_t name,
                     hn_cudnn_desc value)
{
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finish(hn_cudnn_graph *g, hn_cudnn_desc d, const char *what)
{
    if (g->st != HN_OK) return;
    const cudnnStatus_t s = g->lib->BackendFinalize(d);
    if (s != CUDNN_STATUS_SUCCESS) fail(g, s, what, g->n_ops);
}

static void add_op(hn_cudnn_graph *g, hn_cudnn_desc op, const char *what)
{
    finish(g, op, what);
    if (g->st != HN_OK) return;
    if (g->n_ops == (int)(sizeof g->op / sizeof *g->op))
        fail(g, CUDNN_STATUS_INTERNAL_ERROR, "too many operations:", g->n_ops);
    else
        g->op[g->n_ops++] = op;
}

hn_cudnn_desc hn_cudnn_tensor(hn_cudnn_graph *g, int64_t id, cudnnDataType_t type, hn_dims dim,
                              hn_dims stride, hn_cudnn_kind kind, hn_cudnn_desc offsets)
{
    const hn_cudnn_desc d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const int64_t align = 16;
    const bool yes = true;
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim.at);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride.at);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    if (kind == HN_CUDNN_VIRTUAL)
        set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (kind == HN_CUDNN_HOST)
        set(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (offsets != nullptr) set_desc(g, d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets);
    finish(g, d, "tensor before operation");
    return d;
}

hn_cudnn_desc hn_cudnn_pointwise(hn_cudnn_graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t math,
                                 int64_t axis, hn_cudnn_desc x, hn_cudnn_desc b, hn_cudnn_desc t,
                                 hn_cudnn_desc y)
{
    const hn_cudnn_desc p = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &math);
    if (mode == CUDNN_POINTWISE_GEN_INDEX)
        set(g, p, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finish(g, p, "pointwise mode of operation");
    const hn_cudnn_desc op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b != nullptr) set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    if (t != nullptr) set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add_op(g, op, "pointwise operation");
    return y;
}

hn_cudnn_desc hn_cudnn_matmul(hn_cudnn_graph *g, hn_cudnn_desc a, hn_cudnn_desc b, hn_cudnn_desc y,
                              hn_cudnn_desc m, hn_cudnn_desc n, hn_cudnn_desc k)
{
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;
    const hn_cudnn_desc p = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(g, p, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    finish(g, p, "matmul type of operation");
    const hn_cudnn_desc op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, p);
    if (m != nullptr) set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m);
    if (n != nullptr) set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n);
    if (k != nullptr) set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k);
    add_op(g, op, "matmul operation");
    return y;
}

hn_cudnn_desc hn_cudnn_reduce(hn_cudnn_graph *g, cudnnReduceTensorOp_t kind, hn_cudnn_desc x,
                              hn_cudnn_desc y)
{
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;
    const hn_cudnn_desc p = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(g, p, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    set(g, p, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &kind);
    finish(g, p, "reduction type of operation");
    const hn_cudnn_desc op = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, p);
    add_op(g, op, "reduction operation");
    return y;
}

hn_cudnn_desc hn_cudnn_reshape(hn_cudnn_graph *g, hn_cudnn_desc x, hn_cudnn_desc y)
{
    const hn_cudnn_desc op = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add_op(g, op, "reshape operation");
    return y;
}

static hn_cudnn_desc window_of(hn_cudnn_graph *g, const hn_cudnn_window &w)
{
    const hn_cudnn_desc d = make(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t axes = 2, stride[] = {w.stride, w.stride}, pad[] = {w.pad, w.pad},
                  dilation[] = {w.dilation, w.dilation};
    set(g, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    set(g, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(g, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &axes);
    set(g, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, axes, stride);
    set(g, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, axes, pad);
    set(g, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, axes, pad);
    set(g, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, axes, dilation);
    finish(g, d, "window of operation");
    return d;
}

/* What the three convolutions call the same things. */
struct ConvNames {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t window, x, w, y, alpha, beta;
};

/* clang-format off */
#define CONV_NAMES(KIND, X, W, Y)                                                        \
    CUDNN_ATTR_OPERATION_CONVOLUTION_##KIND##_CONV_DESC,                                 \
    CUDNN_ATTR_OPERATION_CONVOLUTION_##KIND##_##X, CUDNN_ATTR_OPERATION_CONVOLUTION_##KIND##_##W, \
    CUDNN_ATTR_OPERATION_CONVOLUTION_##KIND##_##Y,                                       \
    CUDNN_ATTR_OPERATION_CONVOLUTION_##KIND##_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_##KIND##_BETA

static const ConvNames conv_names[] = { /* in the order of hn_cudnn_conv */
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CONV_NAMES(FORWARD, X, W, Y)},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CONV_NAMES(BWD_DATA, DX, W, DY)},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CONV_NAMES(BWD_FILTER, X, DW, DY)},
};
#undef CONV_NAMES
/* clang-format on */

hn_cudnn_desc hn_cudnn_convolution(hn_cudnn_graph *g, hn_cudnn_conv kind,
                                   const hn_cudnn_window &window, hn_cudnn_desc x, hn_cudnn_desc w,
                                   hn_cudnn_desc y)
{
    const ConvNames *const name = &conv_names[kind];
    const float one = 1.0f, zero = 0.0f;
    const hn_cudnn_desc how = window_of(g, window), op = make(g, name->type);
    set_desc(g, op, name->window, how);
    set_desc(g, op, name->x, x);
    set_desc(g, op, name->w, w);
    set_desc(g, op, name->y, y);
    set(g, op, name->alpha, CUDNN_TYPE_FLOAT, 1, &one);
    set(g, op, name->beta, CUDNN_TYPE_FLOAT, 1, &zero);
    add_op(g, op, "convolution");
    return kind == HN_CUDNN_CONV_FWD ? y : kind == HN_CUDNN_CONV_DX ? x : w;
}

/* ---- from graph to plan ---- */

constexpr int64_t kMostConfigs = 96; /* where rules pass over many */

/* What did not work, unless something works after all. */
static void note(hn_cudnn_graph *g, const char *what, cudnnStatus_t s)
{
    char why[224] = "";
    g->lib->GetLastErrorString(why, sizeof why);
    snprintf(g->why, sizeof g->why, "%s: %s: %s", what, g->lib->GetErrorString(s), why);
}

/* Engine configurations for the graph, best first; their number. */
static int64_t find_configs(hn_cudnn_graph *g, hn_cudnn_desc operations,
                            cudnnBackendHeurMode_t mode, hn_cudnn_desc config[kMostConfigs])
{
    const hn_cudnn_desc heuristic = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    int64_t n = 0;
    set_desc(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operations);
    set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    for (int64_t i = 0; i < kMostConfigs; i++)
        config[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (g->st != HN_OK) return 0;
    cudnnStatus_t s = g->lib->BackendFinalize(heuristic);
    if (s == CUDNN_STATUS_SUCCESS)
        s = g->lib->BackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, kMostConfigs, &n, config);
    if (s != CUDNN_STATUS_SUCCESS) {
        note(g, "heuristic", s); /* "not supported" here: no engine knows the graph */
        return 0;
    }
    return n < kMostConfigs ? n : kMostConfigs;
}

/* The notes of a configuration's engine; their number, or -1. */
static int64_t find_notes(hn_cudnn_graph *g, hn_cudnn_desc config,
                          cudnnBackendNumericalNote_t note_of[CUDNN_NUMERICAL_NOTE_TYPE_COUNT])
{
    constexpr int64_t most = CUDNN_NUMERICAL_NOTE_TYPE_COUNT;
    const hn_cudnn *const lib = g->lib;
    hn_cudnn_desc engine = nullptr;
    int64_t n = 0, one = 0;
    cudnnStatus_t s = lib->BackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine);
    if (s == CUDNN_STATUS_SUCCESS)
        s = lib->BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &one, &engine);
    if (s == CUDNN_STATUS_SUCCESS)
        s = lib->BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                     CUDNN_TYPE_NUMERICAL_NOTE, most, &n, note_of);
    if (s != CUDNN_STATUS_SUCCESS) note(g, "notes of an engine", s);
    if (engine != nullptr) (void)lib->BackendDestroyDescriptor(engine);
    return s != CUDNN_STATUS_SUCCESS ? -1 : n < most ? n : most;
}

static bool is_allowed(hn_cudnn_graph *g, hn_cudnn_desc config, const hn_cudnn_rules *rules)
{
    cudnnBackendNumericalNote_t note_of[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    bool tensor_cores = false, refused = false;
    if (rules == nullptr) return true;
    const int64_t n = find_notes(g, config, note_of);
    if (n < 0) return false;
    for (int64_t i = 0; i < n; i++) {
        if (note_of[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE) tensor_cores = true;
        for (int r = 0; r < rules->n_refused; r++)
            if (note_of[i] == rules->refused[r]) refused = true;
    }
    if (!refused && (tensor_cores || !rules->tensor_cores)) return true;
    snprintf(g->why, sizeof g->why, "no engine of those it offers keeps to the rules");
    return false;
}

/* Compiles: the slow step. */
static bool try_config(hn_cudnn_graph *g, hn_cudnn_desc config, hn_cudnn_desc *plan,
                       int64_t *workspace)
{
    const hn_cudnn *lib = g->lib;
    hn_cudnn_desc p = nullptr;
    cudnnStatus_t s = lib->BackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &p);
    if (s == CUDNN_STATUS_SUCCESS)
        s = lib->BackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                     &g->lib->handle);
    if (s == CUDNN_STATUS_SUCCESS)
        s = lib->BackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
    if (s == CUDNN_STATUS_SUCCESS) s = lib->BackendFinalize(p);
    if (s == CUDNN_STATUS_SUCCESS)
        s = lib->BackendGetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                     1, nullptr, workspace);
    if (s == CUDNN_STATUS_SUCCESS) {
        *plan = p;
        return true;
    }
    note(g, "plan", s);
    if (p != nullptr) (void)lib->BackendDestroyDescriptor(p);
    return false;
}

hn_status hn_cudnn_compile(hn_cudnn_graph *g, const hn_cudnn_rules *rules,
                           cudnnBackendDescriptor_t *plan, int64_t *workspace)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    const hn_cudnn_desc operations = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    bool found = false;
    set(g, operations, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->lib->handle);
    set(g, operations, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops,
        g->op);
    finish(g, operations, "graph of operations:");
    if (g->st == HN_OK) snprintf(g->why, sizeof g->why, "no engine knows this graph");
    for (const cudnnBackendHeurMode_t mode : modes) {
        hn_cudnn_desc config[kMostConfigs];
        const int64_t n = found ? 0 : find_configs(g, operations, mode, config);
        for (int64_t i = 0; i < n && !found; i++)
            found = is_allowed(g, config[i], rules) && try_config(g, config[i], plan, workspace);
    }
    while (g->n_made > 0) (void)g->lib->BackendDestroyDescriptor(g->made[--g->n_made]);
    if (found) return HN_OK;
    return HN_FAIL(g->st == HN_OK ? HN_ERR_UNSUPPORTED : g->st, "%s", g->why);
}
#endif
