/* dw += embedding_dw(dy, id), in place; the mathematics is in kernels/embed/embedding.h */
#include "kernels/embed/embedding.h"
#include "runtime/graph/op_util.h"

enum { DY, ID, DW }; /* inputs; the only output is DW */

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *dy = &n->in[DY]->type, *id = &n->in[ID]->type, *dw = &n->in[DW]->type;
    if (!hn_is_matrix(dy, dy) || id->dtype != HN_I32 || id->ndim != 1 || dw->dtype != HN_F32 ||
        dw->ndim != 2 || hn_type_rows(dy) != id->dim[0] || hn_type_cols(dy) != dw->dim[1])
        return HN_FAIL(HN_ERR_SHAPE, "dy [rows, dim], id i32 [rows] and dw f32 [vocab, dim]");
    return HN_OK;
}

static hn_embedding_dw_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *dw = n->in[DW];
    return (hn_embedding_dw_args){
        .id = n->in[ID]->data,
        .dy = dy->data,
        .dw = dw->data,
        .rows = hn_type_rows(&dy->type),
        .vocab = hn_type_rows(&dw->type),
        .dim = hn_type_cols(&dw->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_dw = hn_type_ld(&dw->type),
        .replicas = hn_replicas_of(dw),
        .dw_stride = hn_replica_stride(dw),
        .dtype = dy->type.dtype,
    };
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_embedding_dw_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_embedding_dw_cuda_scratch(&a) : 0;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_embedding_dw_args a = args_of(n);
    return x->twin ? hn_embedding_dw_cpu(&a) : hn_embedding_dw_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_embedding_dw_args a = args_of(n);
    return hn_embedding_dw_cuda(&a, x->scratch, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != ID) return false;
    const int64_t vocab = hn_type_rows(&n->in[DW]->type);
    for (int64_t i = 0; i < n->in[ID]->type.dim[0]; i++)
        ((int32_t *)data)[i] = (int32_t)(i % 3 == 0 ? vocab - 1 : i % vocab);
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {9, 7}}, {HN_I32, 1, {9}}, {HN_F32, 2, {5, 7}, 8}}},
    {.in = {{HN_BF16, 2, {40, 70}}, {HN_I32, 1, {40}}, {HN_F32, 2, {3, 70}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_embedding_dw = {
    .name = "embedding_dw",
    .n_in = 3,
    .n_out = 1,
    .alias = {1 + DW},
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
