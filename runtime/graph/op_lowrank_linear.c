/* y, s = lowrank_linear(x, w, bias?, a, b, add?); the mathematics is in
 * kernels/lora/lowrank_linear.h */
#include "kernels/lora/lowrank_linear.h"
#include "runtime/graph/op_util.h"

enum { X, W, BIAS, A, B, ADD }; /* inputs */
enum { Y, S };                  /* outputs */

static hn_lowrank_linear_args args_of(const hn_node *n, const hn_rng_state *state)
{
    const hn_tensor *x = n->in[X], *w = n->in[W], *bias = n->in[BIAS], *a = n->in[A], *b = n->in[B];
    const hn_tensor *add = n->in[ADD], *y = n->out[Y], *s = n->out[S];
    return (hn_lowrank_linear_args){
        .x = x->data,
        .w = w->data,
        .bias = bias ? bias->data : NULL,
        .a = a->data,
        .b = b->data,
        .add = add ? add->data : NULL,
        .y = y->data,
        .s = s->data,
        .rows = hn_type_rows(&x->type),
        .in = hn_type_cols(&x->type),
        .out = hn_type_cols(&y->type),
        .rank = hn_type_cols(&s->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_w = hn_type_ld(&w->type),
        .ld_a = hn_type_ld(&a->type),
        .ld_b = hn_type_ld(&b->type),
        .ld_add = add ? hn_type_ld(&add->type) : 0,
        .ld_y = hn_type_ld(&y->type),
        .ld_s = hn_type_ld(&s->type),
        .x_tail = x->type.tail,
        .replicas = hn_replicas_of(a),
        .w_stride = hn_replica_stride(w),
        .bias_stride = bias ? hn_replica_stride(bias) : 0,
        .a_stride = hn_replica_stride(a),
        .b_stride = hn_replica_stride(b),
        .dtype = x->type.dtype,
        .bias_dtype = bias ? bias->type.dtype : x->type.dtype,
        .scale = n->attr.linear.alpha,
        .drop = {state, n->attr.linear.key, (double)n->attr.linear.dropout},
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *w = &n->in[W]->type;
    const hn_type *a = &n->in[A]->type, *b = &n->in[B]->type;
    if (!hn_is_matrix(x, x) || !hn_is_matrix(w, x) || !hn_is_matrix(a, x) || !hn_is_matrix(b, x) ||
        w->ndim != 2 || a->ndim != 2 || b->ndim != 2 || w->dim[1] != hn_type_cols(x) ||
        a->dim[1] != w->dim[1] || b->dim[0] != w->dim[0] || b->dim[1] != a->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "x [rows, in], w [out, in], a [rank, in] and b [out, rank] of "
                                     "one dtype, f32 or bf16");
    if (n->in[BIAS] &&
        (!hn_is_real(&n->in[BIAS]->type) || hn_type_elements(&n->in[BIAS]->type) != w->dim[0]))
        return HN_FAIL(HN_ERR_SHAPE, "bias [out], f32 or bf16");
    if (n->attr.linear.alpha == 0.0f) return HN_FAIL(HN_ERR_ARG, "the scale (alpha) is 0");
    if (n->attr.linear.dropout > 0) HN_TRY(hn_check_random_rows(n->in[X]));
    out[Y] = hn_type_2d(x->dtype, hn_type_rows(x), w->dim[0]);
    out[S] = hn_type_2d(x->dtype, hn_type_rows(x), a->dim[0]);
    if (n->in[ADD] && !hn_type_same(&n->in[ADD]->type, &out[Y]))
        return HN_FAIL(HN_ERR_SHAPE, "what is added is not shaped like y");
    return HN_OK;
}

/* ds, and dx with it where x needs a gradient. */
static hn_status emit_dx(hn_graph *g, const hn_node *n, hn_tensor *dy, hn_tensor **ds,
                         hn_tensor **dx)
{
    if (*dx == NULL) {
        hn_tensor *const in[] = {dy, n->in[B], NULL};
        const hn_attr attr = {.linear = {.alpha = n->attr.linear.alpha}};
        return hn_emit(g, HN_OP_LINEAR_DX, n->name, in, &attr, ds);
    }
    hn_tensor *const in[] = {dy, n->in[W], n->in[A], n->in[B], hn_gathered(*dx)};
    hn_tensor *out[2];
    HN_TRY(hn_emit(g, HN_OP_LOWRANK_DX, n->name, in, &n->attr, out));
    *ds = out[0];
    *dx = out[1];
    return HN_OK;
}

/* dB += dy^T s: of one matrix, or of blocks of a matrix that is zero outside them. */
static hn_status emit_db(hn_graph *g, const hn_node *n, hn_tensor *dy, hn_tensor *db)
{
    if (db != HN_GRAD_OF_VIEWS) {
        hn_tensor *const in[] = {dy, n->out[S], db};
        return hn_emit(g, HN_OP_LINEAR_DW, n->name, in, NULL, NULL);
    }
    const int64_t ld = hn_type_ld(&n->in[B]->type);
    for (const hn_tensor *v = n->in[B]->views; v != NULL; v = v->next) {
        const int64_t at = (int64_t)(v->offset / hn_dtype_size(v->type.dtype));
        hn_tensor *in[] = {NULL, NULL, v->grad};
        if (v->grad == NULL) continue;
        HN_TRY(hn_view_columns(g, dy, at / ld, v->type.dim[0], &in[0]));
        HN_TRY(hn_view_columns(g, n->out[S], at % ld, v->type.dim[1], &in[1]));
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DW, n->name, in, NULL, NULL));
    }
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *ds = NULL;
    const hn_attr plain = {.linear = {.alpha = 1.0f}};
    const hn_attr dropped = {
        .linear = {.dropout = n->attr.linear.dropout, .key = n->attr.linear.key}};
    if (din[X] || din[A]) HN_TRY(emit_dx(g, n, dout[Y], &ds, &din[X]));
    if (din[A]) {
        hn_tensor *const in[] = {ds, n->in[X], din[A]};
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DW, n->name, in, &dropped, NULL));
    }
    if (din[B]) HN_TRY(emit_db(g, n, dout[Y], din[B]));
    if (din[W] == HN_GRAD_OF_BLOCKS) {
        HN_TRY(hn_grad_blocks(g, n->name, n->in[W], HN_OP_LINEAR_DW, &plain, dout[Y], n->in[X]));
    } else if (din[W]) {
        hn_tensor *const in[] = {dout[Y], n->in[X], din[W]};
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DW, n->name, in, NULL, NULL));
    }
    if (din[BIAS]) {
        hn_tensor *const in[] = {dout[Y], din[BIAS]};
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DB, n->name, in, NULL, NULL));
    }
    if (din[ADD]) din[ADD] = dout[Y];
    return HN_OK;
}

/* B right of w: s behind the rows of x makes one product of two. */
static int64_t tail(const hn_node *n, int k)
{
    const hn_tensor *w = n->in[W], *b = n->in[B];
    return k == X && hn_lies_behind(w, b, w->type.dim[1]) ? b->type.dim[1] : 0;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_lowrank_linear_args a = args_of(n, NULL);
    return device == HN_DEVICE_CUDA ? hn_lowrank_linear_fwd_cuda_scratch(&a)
                                    : hn_lowrank_linear_fwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_lowrank_linear_args a = args_of(n, hn_rng_state_of(x, &state));
    return x->twin ? hn_lowrank_linear_fwd_cpu(&a) : hn_lowrank_linear_fwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_lowrank_linear_args a = args_of(n, hn_rng_state_of(x, &state));
    return hn_lowrank_linear_fwd_cuda(&a, x->gemm, x->scratch, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 7}, 8},
            {HN_F32, 2, {3, 7}},
            {HN_F32, 1, {3}},
            {HN_F32, 2, {2, 7}, 8},
            {HN_F32, 2, {3, 2}}},
     .attr = {.linear = {.alpha = 2.0f}}},
    {.in = {{HN_F32, 2, {6, 9}},
            {HN_F32, 2, {4, 9}},
            {.ndim = 0},
            {HN_F32, 2, {3, 9}},
            {HN_F32, 2, {4, 3}, 4}},
     .attr = {.linear = {.alpha = 0.5f, .dropout = 0.25f, .key = 9}}},
    {.in = {{HN_BF16, 2, {33, 20}},
            {HN_BF16, 2, {18, 20}},
            {HN_BF16, 1, {18}},
            {HN_BF16, 2, {4, 20}},
            {HN_BF16, 2, {18, 4}}},
     .attr = {.linear = {.alpha = 0.5f, .dropout = 0.1f, .key = 10}}},
    {.in = {{HN_F32, 2, {4, 5}},
            {HN_F32, 2, {6, 5}},
            {HN_F32, 1, {6}},
            {HN_F32, 2, {2, 5}},
            {HN_F32, 2, {6, 2}},
            {HN_F32, 2, {4, 6}, 9}},
     .attr = {.linear = {.alpha = 2.0f}}},
    {.in = {{HN_BF16, 2, {33, 24}},
            {HN_BF16, 2, {16, 24}},
            {.ndim = 0},
            {HN_BF16, 2, {8, 24}},
            {HN_BF16, 2, {16, 8}},
            {HN_BF16, 2, {33, 16}}},
     .attr = {.linear = {.alpha = 0.5f}}},
    {.in = {{0}}},
};

/* y does not take over the memory of `add`: cuBLASLt rounds a sum in place otherwise, and whether a
 * plan allows it would show in the bits. */
const hn_op_def hn_op_lowrank_linear = {
    .name = "lowrank_linear",
    .n_in = 6,
    .n_out = 2,
    .optional = HN_BIT(BIAS) | HN_BIT(ADD),
    .saved_out = HN_BIT(S),
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(W) | HN_BIT(BIAS) | HN_BIT(A) | HN_BIT(B),
    .adds = HN_BIT(X),
    .by_blocks = HN_BIT(W),
    .by_views = HN_BIT(B),
    .tail = tail,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
