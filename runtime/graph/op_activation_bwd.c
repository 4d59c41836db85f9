/* dx, y = activation_bwd(x, dy); of RELU x may be forward's y. y, forward's output, is there with
 * attr.act.want_y. The mathematics is in kernels/activation/activation.h */
#include "kernels/activation/activation.h"
#include "runtime/graph/op_util.h"

enum { X, DY }; /* inputs */
enum { DX, Y }; /* outputs */
enum { FWD_Y }; /* of activation */

static void ask_again(hn_attr *attr) { attr->act.want_y = true; }

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    if (!hn_is_matrix(x, x) || !hn_type_same(x, &n->in[DY]->type))
        return HN_FAIL(HN_ERR_SHAPE, "x and dy [..., cols] of one dtype, f32 or bf16");
    out[DX] = hn_type_fresh(x);
    if (n->attr.act.want_y) out[Y] = out[DX];
    return HN_OK;
}

static hn_activation_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *dy = n->in[DY], *dx = n->out[DX], *y = n->out[Y];
    return (hn_activation_bwd_args){
        .x = x->data,
        .dy = dy->data,
        .dx = dx->data,
        .rows = hn_type_rows(&x->type),
        .cols = hn_type_cols(&x->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_dx = hn_type_ld(&dx->type),
        .dtype = x->type.dtype,
        .kind = n->attr.act.kind,
        .y = y ? y->data : NULL,
        .ld_y = y ? hn_type_ld(&y->type) : 0,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_activation_bwd_args a = args_of(n);
    return x->twin ? hn_activation_bwd_cpu(&a) : hn_activation_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_activation_bwd_args a = args_of(n);
    return hn_activation_bwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}}, {HN_F32, 2, {3, 5}, 7}},
     .attr = {.act = {.kind = HN_ACT_RELU, .want_y = true}}},
    {.in = {{HN_F32, 4, {2, 3, 2, 5}, 7}, {HN_F32, 4, {2, 3, 2, 5}}},
     .attr = {.act = {.kind = HN_ACT_GELU, .want_y = true}}},
    {.in = {{HN_F32, 2, {3, 5}, 7}, {HN_F32, 2, {3, 5}}},
     .attr = {.act = {.kind = HN_ACT_GELU_TANH}}},
    {.in = {{HN_F32, 2, {3, 8}}, {HN_F32, 2, {3, 8}}}, .attr = {.act = {.kind = HN_ACT_SILU}}},
    {.in = {{HN_F32, 2, {3, 8}}, {HN_F32, 2, {3, 8}}},
     .attr = {.act = {.kind = HN_ACT_ELU, .want_y = true}}},
    {.in = {{HN_F32, 2, {3, 8}}, {HN_F32, 2, {3, 8}}},
     .attr = {.act = {.kind = HN_ACT_QUICK_GELU}}},
    {.in = {{HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}},
     .attr = {.act = {.kind = HN_ACT_RELU}}},
    {.in = {{HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}},
     .attr = {.act = {.kind = HN_ACT_GELU, .want_y = true}}},
    {.in = {{HN_BF16, 2, {2, 601}, 608}, {HN_BF16, 2, {2, 601}, 608}},
     .attr = {.act = {.kind = HN_ACT_GELU_TANH, .want_y = true}}},
    {.in = {{HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}},
     .attr = {.act = {.kind = HN_ACT_SILU}}},
    {.in = {{HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}},
     .attr = {.act = {.kind = HN_ACT_QUICK_GELU}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_activation_bwd = {
    .name = "activation_bwd",
    .n_in = 2,
    .n_out = 2,
    .reuse = HN_REUSE(DX, X) | HN_REUSE(DX, DY) | HN_REUSE(Y, X) | HN_REUSE(Y, DY),
    .again = {0, 1 + FWD_Y},
    .ask_again = ask_again,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
