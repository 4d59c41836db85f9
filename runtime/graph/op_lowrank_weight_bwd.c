/* da, db += lowrank_weight_bwd(dy, a, b, da?, db?), in place; the mathematics is in
 * kernels/lora/lowrank_weight.h */
#include "kernels/lora/lowrank_weight.h"
#include "runtime/graph/op_util.h"

enum { DY, A, B, DA, DB }; /* inputs; outputs are the last two */

static bool is_f32(const hn_tensor *t, int64_t rows, int64_t cols)
{
    return t == NULL || (t->type.dtype == HN_F32 && t->type.ndim == 2 && t->type.dim[0] == rows &&
                         t->type.dim[1] == cols);
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *dy = &n->in[DY]->type, *a = &n->in[A]->type, *b = &n->in[B]->type;
    if (!hn_is_matrix(a, a) || !hn_is_matrix(b, a) || a->ndim != 2 || b->ndim != 2 ||
        b->dim[1] != a->dim[0] || !is_f32(n->in[DY], b->dim[0], a->dim[1]) || dy->ndim != 2)
        return HN_FAIL(HN_ERR_SHAPE, "dy f32 [out, in], a [rank, in], b [out, rank] of one dtype");
    if (!is_f32(n->in[DA], a->dim[0], a->dim[1]) || !is_f32(n->in[DB], b->dim[0], b->dim[1]))
        return HN_FAIL(HN_ERR_SHAPE, "da and db f32, shaped like a and b");
    return HN_OK;
}

static hn_lowrank_weight_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *a = n->in[A], *b = n->in[B], *da = n->in[DA];
    const hn_tensor *db = n->in[DB];
    return (hn_lowrank_weight_bwd_args){
        .dy = dy->data,
        .a = a->data,
        .b = b->data,
        .da = da ? da->data : NULL,
        .db = db ? db->data : NULL,
        .out = b->type.dim[0],
        .in = a->type.dim[1],
        .rank = a->type.dim[0],
        .ld_dy = hn_type_ld(&dy->type),
        .ld_a = hn_type_ld(&a->type),
        .ld_b = hn_type_ld(&b->type),
        .ld_da = da ? hn_type_ld(&da->type) : 0,
        .ld_db = db ? hn_type_ld(&db->type) : 0,
        .dtype = a->type.dtype,
        .scale = n->attr.linear.alpha,
    };
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_lowrank_weight_bwd_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_lowrank_weight_bwd_cuda_scratch(&a)
                                    : hn_lowrank_weight_bwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_lowrank_weight_bwd_args a = args_of(n);
    return x->twin ? hn_lowrank_weight_bwd_cpu(&a) : hn_lowrank_weight_bwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_lowrank_weight_bwd_args a = args_of(n);
    return hn_lowrank_weight_bwd_cuda(&a, x->gemm, x->scratch, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 7}, 8},
            {HN_F32, 2, {2, 7}},
            {HN_F32, 2, {5, 2}, 4},
            {HN_F32, 2, {2, 7}, 8},
            {HN_F32, 2, {5, 2}}},
     .attr = {.linear = {.alpha = 2.0f}}},
    {.in = {{HN_F32, 2, {18, 33}},
            {HN_BF16, 2, {3, 33}},
            {HN_BF16, 2, {18, 3}},
            {HN_F32, 2, {3, 33}}},
     .attr = {.linear = {.alpha = 0.5f}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_lowrank_weight_bwd = {
    .name = "lowrank_weight_bwd",
    .n_in = 5,
    .n_out = 2,
    .optional = HN_BIT(DA) | HN_BIT(DB),
    .alias = {1 + DA, 1 + DB},
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
