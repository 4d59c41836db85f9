/* y, s = swiglu(gate, up, a?); s is there with a and attr.swiglu.scale. The mathematics is in
 * kernels/activation/swiglu.h and kernels/lora/swiglu_s.h */
#include "kernels/lora/swiglu_s.h"
#include "runtime/graph/op_util.h"

enum { GATE, UP, A }; /* inputs */
enum { Y, S };        /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *gate = &n->in[GATE]->type;
    if (!hn_is_matrix(gate, gate) || !hn_type_same(gate, &n->in[UP]->type))
        return HN_FAIL(HN_ERR_SHAPE, "gate and up [rows, cols] of one dtype, f32 or bf16");
    out[Y] = hn_type_2d(gate->dtype, hn_type_rows(gate), hn_type_cols(gate));
    if (n->in[A] == NULL) return HN_OK;
    const hn_type *a = &n->in[A]->type;
    if (!hn_is_matrix(a, gate) || a->ndim != 2 || a->dim[1] != hn_type_cols(gate))
        return HN_FAIL(HN_ERR_SHAPE, "a [rank, cols] of the dtype of gate");
    if (n->attr.swiglu.scale == 0.0f) return HN_FAIL(HN_ERR_ARG, "the scale of s is 0");
    out[S] = hn_type_2d(gate->dtype, hn_type_rows(gate), a->dim[0]);
    return HN_OK;
}

/* s is not differentiated: a and s come in after backward (produce.c). */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *const in[] = {n->in[GATE], n->in[UP], dout[Y], NULL};
    hn_tensor *out[4]; /* dgate, dup, h, ds */
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

static hn_swiglu_s_args s_args_of(const hn_node *n)
{
    const hn_tensor *a = n->in[A], *s = n->out[S];
    return (hn_swiglu_s_args){
        .swiglu = args_of(n),
        .a = a->data,
        .s = s->data,
        .rank = hn_type_cols(&s->type),
        .ld_a = hn_type_ld(&a->type),
        .ld_s = hn_type_ld(&s->type),
        .tail = n->out[Y]->type.tail,
        .scale = n->attr.swiglu.scale,
    };
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    if (n->in[A] == NULL || device == HN_DEVICE_CUDA) return 0;
    const hn_swiglu_s_args a = s_args_of(n);
    return hn_swiglu_s_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    if (n->in[A] != NULL) {
        const hn_swiglu_s_args a = s_args_of(n);
        return x->twin ? hn_swiglu_s_cpu(&a) : hn_swiglu_s_fast(&a, x->scratch);
    }
    const hn_swiglu_args a = args_of(n);
    return x->twin ? hn_swiglu_fwd_cpu(&a) : hn_swiglu_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    if (n->in[A] != NULL) {
        const hn_swiglu_s_args a = s_args_of(n);
        return hn_swiglu_s_cuda(&a, x->gemm, x->stream);
    }
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
    .n_in = 3,
    .n_out = 2,
    .optional = HN_BIT(A),
    .reuse = HN_REUSE(Y, GATE) | HN_REUSE(Y, UP),
    .saved_out = HN_BIT(S),
    .infer = infer,
    .grad = grad,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
