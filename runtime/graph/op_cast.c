/* y = cast(a); the mathematics is in kernels/activation/elementwise.h */
#include "kernels/activation/elementwise.h"
#include "runtime/graph/op_util.h"

enum { A }; /* inputs */
enum { Y }; /* outputs */

static bool castable(hn_dtype t) { return t == HN_F32 || t == HN_BF16 || t == HN_F16; }

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *a = &n->in[A]->type;
    const hn_dtype to = n->attr.cast.to;
    if (!castable(a->dtype) || !castable(to))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "from %s to %s: only f32, bf16 and f16",
                       hn_dtype_name(a->dtype), hn_dtype_name(to));
    if (a->ndim == 2) {
        out[Y] = hn_type_2d(to, a->dim[0], a->dim[1]);
        return HN_OK;
    }
    out[Y] = *a;
    out[Y].dtype = to;
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    if (din[A] == NULL) return HN_OK;
    const hn_attr back = {.cast = {.to = n->in[A]->type.dtype}};
    return hn_emit(g, HN_OP_CAST, n->name, &dout[Y], &back, &din[A]);
}

static hn_cast_args args_of(const hn_node *n)
{
    return (hn_cast_args){
        .a = n->in[A]->data,
        .y = n->out[Y]->data,
        .rows = hn_type_rows(&n->in[A]->type),
        .cols = hn_type_cols(&n->in[A]->type),
        .ld_a = hn_type_ld(&n->in[A]->type),
        .ld_y = hn_type_ld(&n->out[Y]->type),
        .dtype = n->in[A]->type.dtype,
        .y_dtype = n->out[Y]->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_cast_args a = args_of(n);
    return x->twin ? hn_cast_cpu(&a) : hn_cast_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_cast_args a = args_of(n);
    return hn_cast_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}, 7}}, .attr = {.cast = {.to = HN_F32}}},
    {.in = {{HN_BF16, 2, {2, 9}}}, .attr = {.cast = {.to = HN_F16}}},
    {.in = {{HN_F16, 2, {2, 600}}}, .attr = {.cast = {.to = HN_BF16}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_cast = {
    .name = "cast",
    .n_in = 1,
    .n_out = 1,
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
