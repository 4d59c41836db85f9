/* y = take_rows(x), attr.rows, y [rows of x / stride, cols]; the mathematics is in
 * kernels/embed/take_rows.h */
#include "kernels/embed/take_rows.h"
#include "runtime/graph/op_util.h"

enum { X }; /* inputs */
enum { Y }; /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    const int64_t stride = n->attr.rows.stride, offset = n->attr.rows.offset;
    if (!hn_is_matrix(x, x)) return HN_FAIL(HN_ERR_SHAPE, "x [..., cols], f32 or bf16");
    if (stride < 1 || offset < 0 || offset >= stride || hn_type_rows(x) % stride != 0)
        return HN_FAIL(HN_ERR_SHAPE, "groups of stride rows, offset below stride");
    out[Y] = hn_type_2d(x->dtype, hn_type_rows(x) / stride, hn_type_cols(x));
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const hn_type *x = &n->in[X]->type;
    hn_tensor *dx;
    if (din[X] == NULL) return HN_OK;
    HN_TRY(hn_emit(g, HN_OP_TAKE_ROWS_BWD, n->name, &dout[Y], &n->attr, &dx));
    din[X] = dx;
    return x->ndim == 2 ? HN_OK : hn_view_shape(g, dx, x->ndim, x->dim, &din[X]);
}

static hn_take_rows_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *y = n->out[Y];
    return (hn_take_rows_args){
        .x = x->data,
        .y = y->data,
        .rows = hn_type_rows(&y->type),
        .cols = hn_type_cols(&y->type),
        .stride = n->attr.rows.stride,
        .offset = n->attr.rows.offset,
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_type_ld(&y->type),
        .dtype = y->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_take_rows_args a = args_of(n);
    return x->twin ? hn_take_rows_fwd_cpu(&a) : hn_take_rows_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_take_rows_args a = args_of(n);
    return hn_take_rows_fwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 5}, 7}}, .attr = {.rows = {.stride = 3}}},
    {.in = {{HN_F32, 3, {2, 4, 5}}}, .attr = {.rows = {.stride = 4, .offset = 2}}},
    {.in = {{HN_BF16, 2, {10, 603}, 608}}, .attr = {.rows = {.stride = 5, .offset = 4}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_take_rows = {
    .name = "take_rows",
    .n_in = 1,
    .n_out = 1,
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
