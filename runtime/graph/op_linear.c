/* y = linear(x, w, bias?, add?); the mathematics is in kernels/linear/linear.h */
#include "kernels/linear/linear.h"
#include "runtime/graph/op_util.h"

enum { X, W, BIAS, ADD }; /* inputs */
enum { Y };               /* outputs */

static hn_linear_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *w = n->in[W], *bias = n->in[BIAS];
    const hn_tensor *add = n->in[ADD], *y = n->out[Y];
    const int64_t replicas = hn_replicas_of(w);
    return (hn_linear_args){
        .x = x->data,
        .w = w->data,
        .bias = bias ? bias->data : NULL,
        .add = add ? add->data : NULL,
        .y = y->data,
        .rows = hn_type_rows(&x->type),
        .in = hn_type_cols(&x->type),
        .out = hn_type_cols(&y->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_w = hn_type_ld(&w->type),
        .ld_add = add ? hn_type_ld(&add->type) : 0,
        .ld_y = hn_type_ld(&y->type),
        .replicas = replicas ? replicas : hn_replicas_of(bias),
        .w_stride = hn_replica_stride(w),
        .bias_stride = bias ? hn_replica_stride(bias) : 0,
        .dtype = x->type.dtype,
        .bias_dtype = bias ? bias->type.dtype : x->type.dtype,
        .alpha = n->attr.linear.alpha,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *w = &n->in[W]->type;
    if (!hn_is_matrix(x, x) || !hn_is_matrix(w, x) || w->ndim != 2 || hn_type_cols(x) != w->dim[1])
        return HN_FAIL(HN_ERR_SHAPE, "x [rows, in] and w [out, in] of one dtype, f32 or bf16");
    if (n->in[BIAS] &&
        (!hn_is_real(&n->in[BIAS]->type) || hn_type_elements(&n->in[BIAS]->type) != w->dim[0]))
        return HN_FAIL(HN_ERR_SHAPE, "bias [out], f32 or bf16");
    out[Y] = hn_type_2d(x->dtype, hn_type_rows(x), w->dim[0]);
    if (n->in[ADD] && !hn_type_same(&n->in[ADD]->type, &out[Y]))
        return HN_FAIL(HN_ERR_SHAPE, "what is added is not shaped like y");
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    if (din[X]) {
        hn_tensor *const in[] = {dout[Y], n->in[W], hn_gathered(din[X])};
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DX, n->name, in, &n->attr, &din[X]));
    }
    if (din[W] == HN_GRAD_OF_BLOCKS) {
        HN_TRY(hn_grad_blocks(g, n->name, n->in[W], HN_OP_LINEAR_DW, &n->attr, dout[Y], n->in[X]));
    } else if (din[W]) {
        hn_tensor *const in[] = {dout[Y], n->in[X], din[W]};
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DW, n->name, in, &n->attr, NULL));
    }
    if (din[BIAS]) {
        hn_tensor *const in[] = {dout[Y], din[BIAS]};
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DB, n->name, in, NULL, NULL));
    }
    if (din[ADD]) din[ADD] = dout[Y];
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_linear_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_linear_fwd_cuda_scratch(&a)
                                    : hn_linear_fwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_linear_args a = args_of(n);
    return x->twin ? hn_linear_fwd_cpu(&a) : hn_linear_fwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_linear_args a = args_of(n);
    return hn_linear_fwd_cuda(&a, x->gemm, x->scratch, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 7}, 8}, {HN_F32, 2, {3, 7}, 9}, {HN_F32, 1, {3}}}},
    {.in = {{HN_F32, 2, {1, 6}}, {HN_F32, 2, {4, 6}}}, .attr = {.linear = {.alpha = 0.5f}}},
    {.in = {{HN_F32, 2, {3, 6}}, {HN_F32, 2, {4, 6}}, {HN_F32, 1, {4}}, {HN_F32, 2, {3, 4}, 8}}},
    {.in = {{HN_BF16, 2, {40, 24}}, {HN_BF16, 2, {16, 24}}, {.ndim = 0}, {HN_BF16, 2, {40, 16}}}},
    {.in = {{HN_BF16, 2, {9, 33}}, {HN_BF16, 2, {17, 33}}, {HN_BF16, 1, {17}}}},
    {.in = {{HN_BF16, 2, {70, 20}}, {HN_BF16, 2, {130, 20}}, {HN_F32, 1, {130}}}},
    {.in = {{0}}},
};

/* y does not take over the memory of `add`: cuBLASLt rounds a sum in place otherwise, and whether a
 * plan allows it would show in the bits. */
const hn_op_def hn_op_linear = {
    .name = "linear",
    .n_in = 4,
    .n_out = 1,
    .optional = HN_BIT(BIAS) | HN_BIT(ADD),
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(W) | HN_BIT(BIAS),
    .adds = HN_BIT(X),
    .by_blocks = HN_BIT(W),
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
