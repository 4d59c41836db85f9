/* y = lowrank_weight(w, a, b), a weight for one layer; the mathematics is in
 * kernels/lora/lowrank_weight.h */
#include "kernels/lora/lowrank_weight.h"
#include "runtime/graph/op_util.h"

enum { W, A, B }; /* inputs */
enum { Y };       /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *w = &n->in[W]->type, *a = &n->in[A]->type, *b = &n->in[B]->type;
    for (int k = 0; k < 3; k++)
        if (!hn_is_matrix(&n->in[k]->type, w) || n->in[k]->type.ndim != 2)
            return HN_FAIL(HN_ERR_SHAPE, "w, a and b matrices of one dtype, f32 or bf16");
    if (a->dim[1] != w->dim[1] || b->dim[0] != w->dim[0] || b->dim[1] != a->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "w [out, in], a [rank, in] and b [out, rank]");
    if (hn_replicas_of(n->in[W]) || hn_replicas_of(n->in[A]) || hn_replicas_of(n->in[B]))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "no replica axis");
    if (n->attr.linear.alpha == 0.0f) return HN_FAIL(HN_ERR_ARG, "the scale (alpha) is 0");
    out[Y] = hn_type_2d(w->dtype, w->dim[0], w->dim[1]);
    return HN_OK;
}

/* Whoever uses y as a weight adds into an fp32 buffer: that is then the gradient of y. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const hn_attr to_f32 = {.cast = {.to = HN_F32}};
    hn_tensor *dy = dout[Y];
    if (dy->type.dtype != HN_F32) HN_TRY(hn_emit(g, HN_OP_CAST, n->name, &dy, &to_f32, &dy));
    hn_tensor *const both[] = {din[W], dy};
    hn_tensor *const in[] = {dy, n->in[A], n->in[B], din[A], din[B]};
    if (din[W] != NULL) HN_TRY(hn_emit(g, HN_OP_ACCUMULATE, n->name, both, NULL, NULL));
    if (din[A] == NULL && din[B] == NULL) return HN_OK;
    return hn_emit(g, HN_OP_LOWRANK_WEIGHT_BWD, n->name, in, &n->attr, NULL);
}

static hn_lowrank_weight_args args_of(const hn_node *n)
{
    const hn_tensor *w = n->in[W], *a = n->in[A], *b = n->in[B], *y = n->out[Y];
    return (hn_lowrank_weight_args){
        .w = w->data,
        .a = a->data,
        .b = b->data,
        .y = y->data,
        .out = w->type.dim[0],
        .in = w->type.dim[1],
        .rank = a->type.dim[0],
        .ld_w = hn_type_ld(&w->type),
        .ld_a = hn_type_ld(&a->type),
        .ld_b = hn_type_ld(&b->type),
        .ld_y = hn_type_ld(&y->type),
        .dtype = w->type.dtype,
        .scale = n->attr.linear.alpha,
    };
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_lowrank_weight_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? 0 : hn_lowrank_weight_fwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_lowrank_weight_args a = args_of(n);
    return x->twin ? hn_lowrank_weight_fwd_cpu(&a) : hn_lowrank_weight_fwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_lowrank_weight_args a = args_of(n);
    return hn_lowrank_weight_fwd_cuda(&a, x->gemm, x->stream);
}

/* The larger one in bf16: finite differences, of f32 alone, run it once for each value and shift.
 */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 7}, 8}, {HN_F32, 2, {2, 7}}, {HN_F32, 2, {5, 2}, 4}},
     .attr = {.linear = {.alpha = 2.0f}}},
    {.in = {{HN_F32, 2, {9, 18}}, {HN_F32, 2, {10, 18}}, {HN_F32, 2, {9, 10}}},
     .attr = {.linear = {.alpha = 0.25f}}},
    {.in = {{HN_BF16, 2, {18, 33}}, {HN_BF16, 2, {3, 33}}, {HN_BF16, 2, {18, 3}}},
     .attr = {.linear = {.alpha = 0.5f}}},
    {.in = {{HN_BF16, 2, {70, 300}}, {HN_BF16, 2, {33, 300}}, {HN_BF16, 2, {70, 33}}},
     .attr = {.linear = {.alpha = 0.25f}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_lowrank_weight = {
    .name = "lowrank_weight",
    .n_in = 3,
    .n_out = 1,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(W) | HN_BIT(A) | HN_BIT(B),
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
