/* dx = take_rows_bwd(dy), attr.rows, dx [rows of dy * stride, cols]; the mathematics is in
 * kernels/embed/take_rows.h */
#include "kernels/embed/take_rows.h"
#include "runtime/graph/op_util.h"

enum { DY }; /* inputs */
enum { DX }; /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type;
    const int64_t stride = n->attr.rows.stride, offset = n->attr.rows.offset;
    if (!hn_is_matrix(dy, dy)) return HN_FAIL(HN_ERR_SHAPE, "dy [rows, cols], f32 or bf16");
    if (stride < 1 || offset < 0 || offset >= stride)
        return HN_FAIL(HN_ERR_SHAPE, "groups of stride rows, offset below stride");
    out[DX] = hn_type_2d(dy->dtype, hn_type_rows(dy) * stride, hn_type_cols(dy));
    return HN_OK;
}

static hn_take_rows_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *dx = n->out[DX];
    return (hn_take_rows_bwd_args){
        .dy = dy->data,
        .dx = dx->data,
        .rows = hn_type_rows(&dy->type),
        .cols = hn_type_cols(&dy->type),
        .stride = n->attr.rows.stride,
        .offset = n->attr.rows.offset,
        .ld_dy = hn_type_ld(&dy->type),
        .ld_dx = hn_type_ld(&dx->type),
        .dtype = dy->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_take_rows_bwd_args a = args_of(n);
    return x->twin ? hn_take_rows_bwd_cpu(&a) : hn_take_rows_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_take_rows_bwd_args a = args_of(n);
    return hn_take_rows_bwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {2, 5}, 7}}, .attr = {.rows = {.stride = 3}}},
    {.in = {{HN_BF16, 2, {2, 603}, 608}}, .attr = {.rows = {.stride = 5, .offset = 4}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_take_rows_bwd = {
    .name = "take_rows_bwd",
    .n_in = 1,
    .n_out = 1,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
