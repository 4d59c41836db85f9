/* dgate, dup, h = swiglu_bwd(gate, up, dy); h, forward's output, is there with attr.swiglu.want_h.
 * The mathematics is in kernels/activation/swiglu.h */
#include "kernels/activation/swiglu.h"
#include "runtime/graph/op_util.h"

enum { GATE, UP, DY };  /* inputs */
enum { DGATE, DUP, H }; /* outputs */
enum { Y };             /* of swiglu */

static void ask_again(hn_attr *attr) { attr->swiglu.want_h = true; }

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *gate = &n->in[GATE]->type;
    if (!hn_is_matrix(gate, gate) || !hn_type_same(gate, &n->in[UP]->type) ||
        !hn_type_same(gate, &n->in[DY]->type))
        return HN_FAIL(HN_ERR_SHAPE, "gate, up and dy [rows, cols] of one dtype, f32 or bf16");
    out[DGATE] = out[DUP] = hn_type_2d(gate->dtype, hn_type_rows(gate), hn_type_cols(gate));
    if (n->attr.swiglu.want_h) out[H] = out[DGATE];
    return HN_OK;
}

static hn_swiglu_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *gate = n->in[GATE], *up = n->in[UP], *dy = n->in[DY];
    const hn_tensor *dgate = n->out[DGATE], *dup = n->out[DUP], *h = n->out[H];
    return (hn_swiglu_bwd_args){
        .gate = gate->data,
        .up = up->data,
        .dy = dy->data,
        .dgate = dgate->data,
        .dup = dup->data,
        .rows = hn_type_rows(&gate->type),
        .cols = hn_type_cols(&gate->type),
        .ld_gate = hn_type_ld(&gate->type),
        .ld_up = hn_type_ld(&up->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_dgate = hn_type_ld(&dgate->type),
        .ld_dup = hn_type_ld(&dup->type),
        .dtype = gate->type.dtype,
        .h = h ? h->data : NULL,
        .ld_h = h ? hn_type_ld(&h->type) : 0,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_swiglu_bwd_args a = args_of(n);
    return x->twin ? hn_swiglu_bwd_cpu(&a) : hn_swiglu_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_swiglu_bwd_args a = args_of(n);
    return hn_swiglu_bwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}}, {HN_F32, 2, {3, 5}, 7}, {HN_F32, 2, {3, 5}}}},
    {.in = {{HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}}},
    {.in = {{HN_F32, 2, {3, 5}}, {HN_F32, 2, {3, 5}, 7}, {HN_F32, 2, {3, 5}}},
     .attr = {.swiglu = {.want_h = true}}},
    {.in = {{HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}, {HN_BF16, 2, {2, 600}}},
     .attr = {.swiglu = {.want_h = true}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_swiglu_bwd = {
    .name = "swiglu_bwd",
    .n_in = 3,
    .n_out = 3,
    .reuse = HN_REUSE(DGATE, GATE) | HN_REUSE(DGATE, DY) | HN_REUSE(DUP, UP) | HN_REUSE(H, DY),
    .again = {0, 0, 1 + Y},
    .ask_again = ask_again,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
