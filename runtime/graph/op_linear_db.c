/* db += column sums of dy, in place; the mathematics is in kernels/linear/linear_dw.h */
#include "kernels/linear/linear_dw.h"
#include "runtime/graph/op_util.h"

enum { DY, DB }; /* inputs; the only output is DB */

static hn_linear_db_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *db = n->in[DB];
    return (hn_linear_db_args){
        .dy = dy->data,
        .db = db->data,
        .rows = hn_type_rows(&dy->type),
        .out = hn_type_cols(&dy->type),
        .ld_dy = hn_type_ld(&dy->type),
        .replicas = hn_replicas_of(db),
        .db_stride = hn_replica_stride(db),
        .dtype = dy->type.dtype,
        .alpha = n->attr.linear.alpha,
        .still = db->still,
        .n_still = db->n_still,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *dy = &n->in[DY]->type, *db = &n->in[DB]->type;
    if (!hn_is_matrix(dy, dy) || db->dtype != HN_F32 || hn_type_elements(db) != hn_type_cols(dy))
        return HN_FAIL(HN_ERR_SHAPE, "dy [rows, out], f32 or bf16, and db f32 [out]");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_linear_db_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_linear_db_cuda_scratch(&a) : 0;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_linear_db_args a = args_of(n);
    return x->twin ? hn_linear_db_cpu(&a) : hn_linear_db_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_linear_db_args a = args_of(n);
    return hn_linear_db_cuda(&a, x->scratch, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {130, 70}, 72}, {HN_F32, 1, {70}}}},
    {.in = {{HN_BF16, 2, {9, 17}}, {HN_F32, 1, {17}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_linear_db = {
    .name = "linear_db",
    .n_in = 2,
    .n_out = 1,
    .alias = {1 + DB},
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
