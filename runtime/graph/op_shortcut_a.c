/* y = shortcut_a(x), attr.shortcut; the mathematics is in kernels/conv/shortcut_a.h */
#include "kernels/conv/shortcut_a.h"
#include "runtime/graph/op_util.h"

enum { X }; /* inputs */
enum { Y }; /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    const int64_t stride = n->attr.shortcut.stride, co = n->attr.shortcut.channels;
    if (!hn_is_image(x)) return HN_FAIL(HN_ERR_SHAPE, "x [n, h, w, c], f32 or bf16");
    if (stride < 1 || co < x->dim[3] || (co - x->dim[3]) % 2 != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "stride at least 1, and as many new channels before as behind");
    out[Y] = hn_type_image(x->dtype, x->dim[0], hn_shortcut_a_out(x->dim[1], stride),
                           hn_shortcut_a_out(x->dim[2], stride), co);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const hn_type *x = &n->in[X]->type;
    hn_attr attr = n->attr;
    if (din[X] == NULL) return HN_OK;
    attr.shortcut.channels = x->dim[3];
    attr.shortcut.h = x->dim[1];
    attr.shortcut.w = x->dim[2];
    return hn_emit(g, HN_OP_SHORTCUT_A_BWD, n->name, &dout[Y], &attr, &din[X]);
}

static hn_shortcut_a_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *y = n->out[Y];
    return (hn_shortcut_a_args){
        .s = {.n = x->type.dim[0],
              .h = x->type.dim[1],
              .w = x->type.dim[2],
              .ci = x->type.dim[3],
              .co = y->type.dim[3],
              .stride = n->attr.shortcut.stride,
              .dtype = x->type.dtype},
        .x = x->data,
        .y = y->data,
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_type_ld(&y->type),
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_shortcut_a_args a = args_of(n);
    return x->twin ? hn_shortcut_a_fwd_cpu(&a) : hn_shortcut_a_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_shortcut_a_args a = args_of(n);
    return hn_shortcut_a_fwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 4, {2, 3, 4, 3}}}, .attr = {.shortcut = {.stride = 2, .channels = 7}}},
    {.in = {{HN_F32, 4, {1, 3, 2, 3}, 5}}, .attr = {.shortcut = {.stride = 1, .channels = 3}}},
    {.in = {{HN_BF16, 4, {2, 4, 5, 16}}}, .attr = {.shortcut = {.stride = 2, .channels = 32}}},
    {.in = {{HN_BF16, 4, {2, 7, 5, 12}, 16}}, .attr = {.shortcut = {.stride = 3, .channels = 24}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_shortcut_a = {
    .name = "shortcut_a",
    .n_in = 1,
    .n_out = 1,
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
