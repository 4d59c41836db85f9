/* y = rope(x, position, cos, sin); the mathematics is in kernels/embed/rope.h */
#include "kernels/embed/rope.h"
#include "runtime/graph/op_util.h"

enum { X, POSITION, COS, SIN }; /* inputs */
enum { Y };                     /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *position = &n->in[POSITION]->type;
    const hn_type *cos = &n->in[COS]->type;
    const int64_t head_dim = n->attr.rope.head_dim;
    const int64_t rotary = n->attr.rope.rotary_dim ? n->attr.rope.rotary_dim : head_dim;
    if (!hn_is_matrix(x, x) || hn_type_cols(x) != n->attr.rope.heads * head_dim)
        return HN_FAIL(HN_ERR_SHAPE, "x [rows, heads * head_dim], f32 or bf16");
    if (position->dtype != HN_I32 || position->ndim != 1 || position->dim[0] != hn_type_rows(x))
        return HN_FAIL(HN_ERR_SHAPE, "positions i32 [rows]");
    if (cos->dtype != HN_F32 || cos->ndim != 2 || 2 * cos->dim[1] != rotary ||
        !hn_type_same(cos, &n->in[SIN]->type) || hn_type_ld(cos) != hn_type_ld(&n->in[SIN]->type))
        return HN_FAIL(HN_ERR_SHAPE, "cos and sin f32 [positions, rotary_dim / 2]");
    out[Y] = hn_type_2d(x->dtype, hn_type_rows(x), hn_type_cols(x));
    return HN_OK;
}

/* Turning dy back by the same angles. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    if (din[X] == NULL) return HN_OK;
    hn_tensor *const in[] = {dout[Y], n->in[POSITION], n->in[COS], n->in[SIN]};
    hn_attr attr = n->attr;
    attr.rope.inverse = !attr.rope.inverse;
    return hn_emit(g, HN_OP_ROPE, n->name, in, &attr, &din[X]);
}

static hn_rope_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *y = n->out[Y];
    return (hn_rope_args){
        .x = x->data,
        .y = y->data,
        .position = n->in[POSITION]->data,
        .cos = n->in[COS]->data,
        .sin = n->in[SIN]->data,
        .rows = hn_type_rows(&x->type),
        .heads = n->attr.rope.heads,
        .head_dim = n->attr.rope.head_dim,
        .rotary_dim = n->attr.rope.rotary_dim,
        .n_positions = n->in[COS]->type.dim[0],
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_type_ld(&y->type),
        .ld_table = hn_type_ld(&n->in[COS]->type),
        .dtype = x->type.dtype,
        .interleaved = n->attr.rope.interleaved,
        .inverse = n->attr.rope.inverse,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_rope_args a = args_of(n);
    return x->twin ? hn_rope_cpu(&a) : hn_rope_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_rope_args a = args_of(n);
    return hn_rope_cuda(&a, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != POSITION) return false;
    const int64_t positions = n->in[COS]->type.dim[0];
    for (int64_t i = 0; i < n->in[POSITION]->type.dim[0]; i++)
        ((int32_t *)data)[i] = (int32_t)((5 * i + 2) % positions);
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 12}, 16},
            {HN_I32, 1, {5}},
            {HN_F32, 2, {9, 3}, 4},
            {HN_F32, 2, {9, 3}, 4}},
     .attr = {.rope = {.heads = 2, .head_dim = 6}}},
    {.in = {{HN_F32, 2, {3, 10}}, {HN_I32, 1, {3}}, {HN_F32, 2, {9, 2}}, {HN_F32, 2, {9, 2}}},
     .attr = {.rope = {.heads = 2, .head_dim = 5, .rotary_dim = 4, .interleaved = true}}},
    {.in = {{HN_BF16, 2, {7, 32}}, {HN_I32, 1, {7}}, {HN_F32, 2, {9, 4}}, {HN_F32, 2, {9, 4}}},
     .attr = {.rope = {.heads = 4, .head_dim = 8, .inverse = true}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_rope = {
    .name = "rope",
    .n_in = 4,
    .n_out = 1,
    .reuse = HN_REUSE(Y, X),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
    .kinks = HN_BIT(COS) | HN_BIT(SIN), /* tables are constants: no gradient is made */
};
