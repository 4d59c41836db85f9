/* y = scale(a); the mathematics is in kernels/activation/elementwise.h */
#include "kernels/activation/elementwise.h"
#include "runtime/graph/op_util.h"

enum { A }; /* inputs */
enum { Y }; /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *a = &n->in[A]->type;
    if (!hn_is_real(a)) return HN_FAIL(HN_ERR_UNSUPPORTED, "a must be f32 or bf16");
    out[Y] = a->ndim == 2 ? hn_type_2d(a->dtype, a->dim[0], a->dim[1]) : *a;
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    if (din[A] == NULL) return HN_OK;
    return hn_emit(g, HN_OP_SCALE, n->name, &dout[Y], &n->attr, &din[A]);
}

static hn_scale_args args_of(const hn_node *n)
{
    return (hn_scale_args){
        .a = n->in[A]->data,
        .y = n->out[Y]->data,
        .rows = hn_type_rows(&n->in[A]->type),
        .cols = hn_type_cols(&n->in[A]->type),
        .ld_a = hn_type_ld(&n->in[A]->type),
        .ld_y = hn_type_ld(&n->out[Y]->type),
        .dtype = n->in[A]->type.dtype,
        .factor = n->attr.scale.factor,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_scale_args a = args_of(n);
    return x->twin ? hn_scale_cpu(&a) : hn_scale_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_scale_args a = args_of(n);
    return hn_scale_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}, 7}}, .attr = {.scale = {.factor = -1.5f}}},
    {.in = {{HN_BF16, 2, {2, 9}}}, .attr = {.scale = {.factor = 0.3f}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_scale = {
    .name = "scale",
    .n_in = 1,
    .n_out = 1,
    .reuse = HN_REUSE(Y, A),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
