/* y = activation(x), attr.act.kind; the mathematics is in kernels/activation/activation.h */
#include "kernels/activation/activation.h"
#include "runtime/graph/op_util.h"

enum { X }; /* inputs */
enum { Y }; /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    if (!hn_is_matrix(x, x)) return HN_FAIL(HN_ERR_SHAPE, "x [..., cols], f32 or bf16");
    if (n->attr.act.kind < 0 || n->attr.act.kind >= HN_ACT_COUNT)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "there is no activation %d", n->attr.act.kind);
    out[Y] = hn_type_fresh(x);
    return HN_OK;
}

/* The gradient of RELU goes by the sign of y, so that x need not be kept. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *const in[] = {n->attr.act.kind == HN_ACT_RELU ? n->out[Y] : n->in[X], dout[Y]};
    hn_tensor *out[2]; /* dx, y */
    if (din[X] == NULL) return HN_OK;
    HN_TRY(hn_emit(g, HN_OP_ACTIVATION_BWD, n->name, in, &n->attr, out));
    din[X] = out[0];
    return HN_OK;
}

static hn_activation_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *y = n->out[Y];
    return (hn_activation_args){
        .x = x->data,
        .y = y->data,
        .rows = hn_type_rows(&x->type),
        .cols = hn_type_cols(&x->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_type_ld(&y->type),
        .dtype = x->type.dtype,
        .kind = n->attr.act.kind,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_activation_args a = args_of(n);
    return x->twin ? hn_activation_fwd_cpu(&a) : hn_activation_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_activation_args a = args_of(n);
    return hn_activation_fwd_cuda(&a, x->stream);
}

/* RELU has a kink at 0, from which finite differences must stay away. */
static bool fill(const hn_node *n, int k, void *data)
{
    const hn_type *t = &n->in[k]->type;
    if (n->attr.act.kind != HN_ACT_RELU) return false;
    for (int64_t i = 0; i < hn_type_rows(t); i++)
        for (int64_t j = 0; j < hn_type_cols(t); j++) {
            const float v = 0.1f + 0.05f * (float)((7 * i + 3 * j) % 23);
            hn_set_f32(data, t->dtype, i * hn_type_ld(t) + j, (i + j) % 2 ? -v : v);
        }
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}}}, .attr = {.act = {.kind = HN_ACT_RELU}}},
    {.in = {{HN_F32, 4, {2, 3, 2, 5}, 7}}, .attr = {.act = {.kind = HN_ACT_GELU}}},
    {.in = {{HN_F32, 2, {3, 5}, 7}}, .attr = {.act = {.kind = HN_ACT_GELU_TANH}}},
    {.in = {{HN_F32, 3, {2, 2, 9}}}, .attr = {.act = {.kind = HN_ACT_SILU}}},
    {.in = {{HN_F32, 2, {3, 8}}}, .attr = {.act = {.kind = HN_ACT_QUICK_GELU}}},
    {.in = {{HN_F32, 5, {1, 2, 1, 2, 5}, 8}}, .attr = {.act = {.kind = HN_ACT_ELU}}},
    {.in = {{HN_BF16, 2, {2, 600}}}, .attr = {.act = {.kind = HN_ACT_ELU}}},
    {.in = {{HN_BF16, 4, {1, 2, 3, 600}}}, .attr = {.act = {.kind = HN_ACT_RELU}}},
    {.in = {{HN_BF16, 2, {2, 600}}}, .attr = {.act = {.kind = HN_ACT_GELU}}},
    {.in = {{HN_BF16, 2, {2, 601}, 608}}, .attr = {.act = {.kind = HN_ACT_GELU_TANH}}},
    {.in = {{HN_BF16, 2, {2, 600}}}, .attr = {.act = {.kind = HN_ACT_SILU}}},
    {.in = {{HN_BF16, 2, {2, 600}}}, .attr = {.act = {.kind = HN_ACT_QUICK_GELU}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_activation = {
    .name = "activation",
    .n_in = 1,
    .n_out = 1,
    .reuse = HN_REUSE(Y, X),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
