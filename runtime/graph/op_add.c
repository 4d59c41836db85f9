/* z = add(a, b); the mathematics is in kernels/activation/elementwise.h */
#include "kernels/activation/elementwise.h"
#include "runtime/graph/op.h"

enum { A, B }; /* inputs */
enum { Z };    /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *a = &n->in[A]->type;
    if (!hn_type_same(a, &n->in[B]->type))
        return HN_FAIL(HN_ERR_SHAPE, "a and b are of different types");
    out[Z] = hn_type_2d(a->dtype, hn_type_rows(a), hn_type_cols(a));
    if (a->ndim != 2) out[Z] = *a;
    return HN_OK;
}

/* dz is the gradient of both. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    (void)g;
    if (n->in[A]->needs_grad) din[A] = dout[Z];
    if (n->in[B]->needs_grad) din[B] = dout[Z];
    return HN_OK;
}

static hn_binary_args args_of(const hn_node *n)
{
    return (hn_binary_args){
        .a = n->in[A]->data,
        .b = n->in[B]->data,
        .y = n->out[Z]->data,
        .rows = hn_type_rows(&n->in[A]->type),
        .cols = hn_type_cols(&n->in[A]->type),
        .ld_a = hn_type_ld(&n->in[A]->type),
        .ld_b = hn_type_ld(&n->in[B]->type),
        .ld_y = hn_type_ld(&n->out[Z]->type),
        .dtype = n->in[A]->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_binary_args a = args_of(n);
    return x->twin ? hn_add_cpu(&a) : hn_add_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_binary_args a = args_of(n);
    return hn_add_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}}, {HN_F32, 2, {3, 5}, 7}}},
    {.in = {{HN_BF16, 2, {2, 9}}, {HN_BF16, 2, {2, 9}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_add = {
    .name = "add",
    .n_in = 2,
    .n_out = 1,
    .reuse = HN_REUSE(Z, A) | HN_REUSE(Z, B),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
