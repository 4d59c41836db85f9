/* y = swiglu(gate, up); the mathematics is in kernels/activation/swiglu.h */
#include "kernels/activation/swiglu.h"
#include "runtime/graph/op_util.h"

enum { GATE, UP }; /* inputs */
enum { Y };        /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *gate = &n->in[GATE]->type;
    if (!hn_is_matrix(gate, gate) || !hn_type_same(gate, &n->in[UP]->type))
        return HN_FAIL(HN_ERR_SHAPE, "gate and up [rows, cols] of one dtype, f32 or bf16");
    out[Y] = hn_type_2d(gate->dtype, hn_type_rows(gate), hn_type_cols(gate));
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *const in[] = {n->in[GATE], n->in[UP], dout[Y]};
    hn_tensor *out[3]; /* dgate, dup, h */
    HN_TRY(hn_emit(g, HN_OP_SWIGLU_BWD, n->name, in, NULL, out));
    if (din[GATE]) din[GATE] = out[0];
    if (din[UP]) din[UP] = out[1];
    return HN_OK;
}

static hn_swiglu_args args_of(const hn_node *n)
{
    const hn_tensor *gate = n->in[GATE], *up = n->in[UP], *y = n->out[Y];
    return (hn_swiglu_args){
        .gate = gate->data,
        .up = up->data,
        .y = y->data,
        .rows = hn_type_rows(&y->type),
        .cols = hn_type_cols(&y->type),
        .ld_gate = hn_type_ld(&gate->type),
        .ld_up = hn_type_ld(&up->type),
        .ld_y = hn_type_ld(&y->type),
        .dtype = y->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_swiglu_args a = args_of(n);
    return x->twin ? hn_swiglu_fwd_cpu(&a) : hn_swiglu_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_swiglu_args a = args_of(n);
    return hn_swiglu_fwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}}, {HN_F32, 2, {3, 5}, 7}}},
    {.in = {{HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_swiglu = {
    .name = "swiglu",
    .n_in = 2,
    .n_out = 1,
    .reuse = HN_REUSE(Y, GATE) | HN_REUSE(Y, UP),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
