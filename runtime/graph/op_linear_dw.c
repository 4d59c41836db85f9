/* dw += linear_dw(dy, x), in place; the mathematics is in kernels/linear/linear_dw.h */
#include "kernels/linear/linear_dw.h"
#include "runtime/graph/op_util.h"

enum { DY, X, DW }; /* inputs; the only output is DW */

static hn_linear_dw_args args_of(const hn_node *n, const hn_rng_state *state)
{
    const hn_tensor *dy = n->in[DY], *x = n->in[X], *dw = n->in[DW];
    return (hn_linear_dw_args){
        .dy = dy->data,
        .x = x->data,
        .dw = dw->data,
        .rows = hn_type_rows(&dy->type),
        .in = hn_type_cols(&x->type),
        .out = hn_type_cols(&dy->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_dw = hn_type_ld(&dw->type),
        .replicas = hn_replicas_of(dw),
        .dw_stride = hn_replica_stride(dw),
        .dtype = dy->type.dtype,
        .alpha = n->attr.linear.alpha,
        .drop = {state, n->attr.linear.key, (double)n->attr.linear.dropout},
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *dy = &n->in[DY]->type, *x = &n->in[X]->type, *dw = &n->in[DW]->type;
    if (!hn_is_matrix(dy, dy) || !hn_is_matrix(x, dy) || hn_type_rows(dy) != hn_type_rows(x))
        return HN_FAIL(HN_ERR_SHAPE, "dy [rows, out] and x [rows, in] of one dtype, f32 or bf16");
    if (dw->dtype != HN_F32 || dw->ndim != 2 || dw->dim[0] != hn_type_cols(dy) ||
        dw->dim[1] != hn_type_cols(x))
        return HN_FAIL(HN_ERR_SHAPE, "dw f32 [out, in]");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_linear_dw_args a = args_of(n, NULL);
    return device == HN_DEVICE_CUDA ? hn_linear_dw_cuda_scratch(&a) : hn_linear_dw_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_linear_dw_args a = args_of(n, hn_rng_state_of(x, &state));
    return x->twin ? hn_linear_dw_cpu(&a) : hn_linear_dw_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_linear_dw_args a = args_of(n, hn_rng_state_of(x, &state));
    return hn_linear_dw_cuda(&a, x->gemm, x->scratch, x->stream);
}

/* Operations a byte, below which memory bounds the product: on an H200 bf16 balances at 160, f32 at
 * 12. Adapters of rank 16 to 64 do 8 to 62 and 4 to 31. */
enum { BOUND_BF16 = 100, BOUND_F32 = 10 };
/* Wider ones are made in pieces all over the GPU (kernels/linear/linear_cuda.cu). */
enum { NARROW = 64 };

static bool beside(const hn_node *n)
{
    const hn_type *dy = &n->in[DY]->type, *x = &n->in[X]->type;
    const double out = (double)hn_type_cols(dy), in = (double)hn_type_cols(x);
    const double bytes = (out + in) * (double)hn_dtype_size(dy->dtype); /* a row; dw is small */
    return (out <= NARROW || in <= NARROW) &&
           2 * out * in < bytes * (dy->dtype == HN_BF16 ? BOUND_BF16 : BOUND_F32);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 3}, 4}, {HN_F32, 2, {5, 7}}, {HN_F32, 2, {3, 7}, 8}}},
    {.in = {{HN_F32, 2, {40, 4}}, {HN_F32, 2, {40, 9}}, {HN_F32, 2, {4, 9}}},
     .attr = {.linear = {.alpha = 0.5f, .dropout = 0.3f, .key = 5}}},
    {.in = {{HN_BF16, 2, {9, 17}}, {HN_BF16, 2, {9, 33}}, {HN_F32, 2, {17, 33}}},
     .attr = {.linear = {.dropout = 0.1f, .key = 6}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_linear_dw = {
    .name = "linear_dw",
    .n_in = 3,
    .n_out = 1,
    .alias = {1 + DW},
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .beside = beside,
    .samples = samples,
};
