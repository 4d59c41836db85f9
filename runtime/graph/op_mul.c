/* y = mul(a, b); the mathematics is in kernels/activation/elementwise.h */
#include "kernels/activation/elementwise.h"
#include "runtime/graph/op_util.h"

enum { A, B }; /* inputs */
enum { Y };    /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *a = &n->in[A]->type;
    if (!hn_is_real(a) || !hn_type_same(a, &n->in[B]->type))
        return HN_FAIL(HN_ERR_SHAPE, "a and b of one type, f32 or bf16");
    out[Y] = a->ndim == 2 ? hn_type_2d(a->dtype, a->dim[0], a->dim[1]) : *a;
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    for (int k = A; k <= B; k++) {
        if (din[k] == NULL) continue;
        hn_tensor *const in[] = {dout[Y], n->in[k == A ? B : A]};
        HN_TRY(hn_emit(g, HN_OP_MUL, n->name, in, NULL, &din[k]));
    }
    return HN_OK;
}

static hn_binary_args args_of(const hn_node *n)
{
    return (hn_binary_args){
        .a = n->in[A]->data,
        .b = n->in[B]->data,
        .y = n->out[Y]->data,
        .rows = hn_type_rows(&n->in[A]->type),
        .cols = hn_type_cols(&n->in[A]->type),
        .ld_a = hn_type_ld(&n->in[A]->type),
        .ld_b = hn_type_ld(&n->in[B]->type),
        .ld_y = hn_type_ld(&n->out[Y]->type),
        .dtype = n->in[A]->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_binary_args a = args_of(n);
    return x->twin ? hn_mul_cpu(&a) : hn_mul_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_binary_args a = args_of(n);
    return hn_mul_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}}, {HN_F32, 2, {3, 5}, 7}}},
    {.in = {{HN_BF16, 2, {2, 9}}, {HN_BF16, 2, {2, 9}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_mul = {
    .name = "mul",
    .n_in = 2,
    .n_out = 1,
    .reuse = HN_REUSE(Y, A) | HN_REUSE(Y, B),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
