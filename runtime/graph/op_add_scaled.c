/* y, rounded = add_scaled(a, b, s?); the mathematics is in kernels/hyperflow/add_scaled.h. The rows
 * of y lie without gaps, so that y can be seen under other axes. */
#include "kernels/hyperflow/add_scaled.h"
#include "runtime/graph/op_util.h"

enum { A, B, S };    /* inputs */
enum { Y, ROUNDED }; /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *a = &n->in[A]->type, *b = &n->in[B]->type;
    if (a->dtype != HN_F32 || a->ndim != 2 || !hn_is_matrix(b, b) || b->ndim != 2)
        return HN_FAIL(HN_ERR_SHAPE, "a f32 [period, cols], b [rows, cols], f32 or bf16");
    if (a->dim[1] != b->dim[1] || b->dim[0] % a->dim[0] != 0)
        return HN_FAIL(HN_ERR_SHAPE, "rows of b are a multiple of those of a, both as wide");
    if (n->in[S] && (n->in[S]->type.dtype != HN_F32 || n->in[S]->type.ndim != 1 ||
                     n->in[S]->type.dim[0] != a->dim[0]))
        return HN_FAIL(HN_ERR_SHAPE, "s is f32 [period], one a row of a");
    out[Y] = (hn_type){.dtype = HN_F32, .ndim = 2, .dim = {b->dim[0], b->dim[1]}};
    if (n->attr.add_scaled.want_rounded) out[ROUNDED] = hn_type_2d(HN_BF16, b->dim[0], b->dim[1]);
    return HN_OK;
}

static hn_add_scaled_args args_of(const hn_node *n)
{
    const hn_tensor *a = n->in[A], *b = n->in[B], *y = n->out[Y], *rounded = n->out[ROUNDED];
    return (hn_add_scaled_args){
        .a = a->data,
        .b = b->data,
        .s = n->in[S] ? n->in[S]->data : NULL,
        .y = y->data,
        .rounded = rounded ? rounded->data : NULL,
        .rows = b->type.dim[0],
        .cols = b->type.dim[1],
        .period = a->type.dim[0],
        .ld_a = hn_type_ld(&a->type),
        .ld_b = hn_type_ld(&b->type),
        .ld_y = hn_type_ld(&y->type),
        .ld_rounded = rounded ? hn_type_ld(&rounded->type) : 0,
        .b_dtype = b->type.dtype,
        .alpha = n->attr.add_scaled.alpha,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_add_scaled_args a = args_of(n);
    return x->twin ? hn_add_scaled_cpu(&a) : hn_add_scaled_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_add_scaled_args a = args_of(n);
    return hn_add_scaled_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 5}, 7}, {HN_F32, 2, {6, 5}, 8}}, .attr.add_scaled = {.alpha = -0.3f}},
    {.in = {{HN_F32, 2, {3, 16}}, {HN_BF16, 2, {9, 16}}, {HN_F32, 1, {3}}},
     .attr.add_scaled = {.alpha = 0.7f, .want_rounded = true}},
    {.in = {{HN_F32, 2, {1, 9}}, {HN_BF16, 2, {4, 9}}, {HN_F32, 1, {1}}},
     .attr.add_scaled = {.alpha = 1, .want_rounded = true}},
    {.in = {{0}}},
};

const hn_op_def hn_op_add_scaled = {
    .name = "add_scaled",
    .n_in = 3,
    .n_out = 2,
    .optional = HN_BIT(S),
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
