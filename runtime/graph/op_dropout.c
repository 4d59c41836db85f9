/* y = dropout(x); the mathematics is in kernels/random/dropout.h */
#include "kernels/random/dropout.h"
#include "runtime/graph/op_util.h"

enum { X }; /* inputs */
enum { Y }; /* outputs */

static hn_dropout_args args_of(const hn_node *n, const hn_rng_state *state)
{
    const hn_tensor *x = n->in[X], *y = n->out[Y];
    return (hn_dropout_args){
        .x = x->data,
        .y = y->data,
        .rows = hn_type_rows(&x->type),
        .cols = hn_type_cols(&x->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_type_ld(&y->type),
        .dtype = x->type.dtype,
        .key = {state, n->attr.dropout.key, (double)n->attr.dropout.p},
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    if (!hn_is_matrix(x, x)) return HN_FAIL(HN_ERR_SHAPE, "x [rows, cols], f32 or bf16");
    if (n->attr.dropout.p > 0) HN_TRY(hn_check_random_rows(n->in[X]));
    out[Y] = hn_type_2d(x->dtype, hn_type_rows(x), hn_type_cols(x));
    return HN_OK;
}

/* The same mask on dy. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    if (din[X] == NULL) return HN_OK;
    return hn_emit(g, HN_OP_DROPOUT, n->name, &dout[Y], &n->attr, &din[X]);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_dropout_args a = args_of(n, hn_rng_state_of(x, &state));
    return x->twin ? hn_dropout_cpu(&a) : hn_dropout_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_dropout_args a = args_of(n, hn_rng_state_of(x, &state));
    return hn_dropout_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 45}, 48}}, .attr = {.dropout = {.p = 0.3f, .key = 77}}},
    {.in = {{HN_F32, 2, {2, 3}}}},
    {.in = {{HN_BF16, 2, {2, 600}}}, .attr = {.dropout = {.p = 0.5f, .key = 78}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_dropout = {
    .name = "dropout",
    .n_in = 1,
    .n_out = 1,
    .reuse = HN_REUSE(Y, X),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
